"""`--require`: only entries that say where data is processed and how long it is kept, and say enough, are asked."""

from pathlib import Path

import pytest

from r2.errors import ConfigError, PoolFileError
from r2.methods.router import make_router
from r2.pool.file.config import load_pool
from r2.pool.file.data_policy import days_of, left_out, pool_of
from r2.pool.file.identity import answering_digest
from r2.settings import AnswerSettings, Reasoning, Required, load_settings, required_of
from tests.support.loopback import write_pool

SAYS = {
    "silent": "",
    "eu": 'regions = ["eu"]\nretention = "none"',
    "both": 'regions = ["eu", "us"]\nretention = "30d"',
    "us": 'regions = ["us"]\nretention = "none"',
    "kept": 'regions = ["eu"]\nretention = "31d"',
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Decomposer and allocator are the first entry, `eu`."""
    names = sorted(SAYS, key=lambda name: name != "eu")
    return write_pool(tmp_path, {name: f'tier = "small"\n{SAYS[name]}' for name in names}).path


def settings(path: Path, require: str, **reasoning: str) -> AnswerSettings:
    return AnswerSettings(input="q", pool=str(path), require=require, reasoning=Reasoning(**reasoning))


@pytest.mark.parametrize(
    ("require", "asked"),
    [
        ("", ["eu", "silent", "both", "us", "kept"]),
        ("region=eu", ["eu", "kept"]),
        ("region=eu,region=us", ["eu", "both", "us", "kept"]),
        ("retention=none", ["eu", "us"]),
        ("retention=30d", ["eu", "both", "us"]),
        ("region=eu, retention=30d", ["eu"]),
    ],
)
def test_entries_that_do_not_say_enough_are_not_asked(require: str, asked: list[str], path: Path):
    pool = pool_of(settings(path, require))
    assert set(pool.models) == set(asked)
    assert set(left_out(load_pool(path), pool)) == set(SAYS) - set(asked)
    assert set(make_router(pool, settings(path, require)).roster.by_name) == set(asked)


def test_a_pool_with_fewer_entries_is_another_run_and_saying_more_is_not(path: Path):
    whole = load_pool(path)
    assert pool_of(settings(path, "region=eu,region=us,retention=31d")).digest != whole.digest, "one entry is silent"
    digest = answering_digest(whole, "eu")
    path.write_text(path.read_text("utf-8").replace('retention = "31d"', 'retention = "none"'))
    assert load_pool(path).digest == whole.digest
    path.write_text(path.read_text("utf-8").replace('regions = ["eu"]\nretention = "none"\n', ""))
    assert load_pool(path).digest == whole.digest
    assert answering_digest(load_pool(path), "eu") == digest


def test_where_nobody_is_left_each_entry_is_named_with_what_it_says(path: Path):
    with pytest.raises(ConfigError) as refused:
        pool_of(settings(path, "region=ch,retention=none"))
    said = str(refused.value)
    assert said.startswith(f"{path}: --require region=ch,retention=none: no entry is left that answers (")
    assert "eu: says regions eu" in said
    assert "silent: says no regions and says no retention" in said
    assert "both: says regions eu, us and says retention 30d" in said


def test_a_part_of_the_router_that_may_not_be_asked_is_refused_unless_another_is_named(path: Path):
    with pytest.raises(ConfigError, match=r"eu, the decomposer, may not be asked: it says regions eu\. Name another"):
        pool_of(settings(path, "region=us"))
    pool = pool_of(settings(path, "region=us", decomposer="us", allocator="us"))
    assert list(pool.models) == ["us"]


def test_a_recording_asks_nobody_and_fits_always(path: Path):
    text = path.read_text("utf-8")
    lines = [line for line in text.splitlines() if not line.startswith(("regions", "retention"))]
    replayed = ['endpoint = "recording:calls.jsonl"' if line.startswith("endpoint") else line for line in lines]
    path.write_text("\n".join(replayed) + "\n")
    assert len(pool_of(settings(path, "region=ch")).models) == len(SAYS)


@pytest.mark.parametrize("require", ["eu", "region=", "region=EU", "retention=1", "retention=none,retention=1d", ","])
def test_other_words_are_refused_with_what_is_expected(require: str):
    with pytest.raises(ConfigError, match=r"--require .*: expected region=NAME"):
        load_settings(None, {"input": "q", "require": require})


def test_what_is_required_is_read_from_its_words():
    assert required_of("region=eu,retention=none,region=ch") == Required(frozenset({"eu", "ch"}), 0)
    assert required_of("retention=30d") == Required(frozenset(), 30)
    assert [days_of(word) for word in ("none", "1d", "400d")] == [0, 1, 400]


@pytest.mark.parametrize(("field", "value"), [("regions", '["EU West"]'), ("retention", '"0d"'), ("retention", '"1y"')])
def test_a_pool_file_that_says_it_in_other_words_is_refused_with_the_line(field: str, value: str, tmp_path: Path):
    with pytest.raises(PoolFileError, match=rf"models\.a\.{field}"):
        write_pool(tmp_path, {"a": f'tier = "small"\n{field} = {value}'})
