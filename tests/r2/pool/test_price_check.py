"""What of a pool file is out of date: models that ended, prices that ended, prices that are others by now."""

import tomllib
from datetime import date
from pathlib import Path

import pytest

from r2.errors import PoolFileError
from r2.pool.file import catalogue, published_prices
from r2.pool.file.config import PoolConfig, load_pool
from r2.pool.file.dated import ended, ending
from r2.pool.file.price_check import check_prices, dated_warnings, newer_prices, take_prices
from r2.pool.file.starter import starter_pool

DAY = date(2026, 11, 26)
HEAD = '[router]\ndecomposer = "{0}"\nallocator = "{0}"\n\n'
MODEL = """[models."{name}"]
endpoint = "{endpoint}"
dialect = "{dialect}"
served_model = "{served}"
tier = "small"
{lines}
price_usd_per_mtok = {{input = 1.0, output = 2.0, {until}date = "2026-11-01", source = "by hand"}}
"""


def pool_of(folder: Path, text: str) -> PoolConfig:
    path = folder / "pool.toml"
    path.write_text(text, "utf-8")
    return load_pool(path)


def one_model(folder: Path, *, retires: str = "", until: str = "", endpoint: str = "https://x.org/v1") -> PoolConfig:
    lines = f'retires = "{retires}"' if retires else ""
    until = f'until = "{until}", ' if until else ""
    filled = MODEL.format(name="m", endpoint=endpoint, dialect="openai", served="o3", lines=lines, until=until)
    return pool_of(folder, HEAD.format("m") + filled)


def test_a_model_past_its_end_stops_a_run_with_its_successor_named(tmp_path: Path):
    pool = one_model(tmp_path, retires="2026-11-26")
    with pytest.raises(PoolFileError, match=r"pool.toml: m: the provider ended this model on 2026-11-26.*gpt-5.6-sol"):
        pool.check_keys({}, DAY)
    pool.check_keys({}, date(2026, 11, 25))


def test_the_last_day_of_a_price_is_a_day_of_it(tmp_path: Path):
    pool = one_model(tmp_path, until="2026-11-26")
    pool.check_keys({}, DAY)
    with pytest.raises(PoolFileError, match=r"m: its price ended on 2026-11-26, and today is 2026-11-27\. .*--write"):
        pool.check_keys({}, date(2026, 11, 27))


def test_what_ends_within_a_month_is_said_and_what_ends_later_is_not(tmp_path: Path):
    pool = one_model(tmp_path, retires="2026-12-26")
    assert ending(pool.models, DAY) == [
        "m: the provider ends this model on 2026-12-26. Its successor is openai/gpt-5.6-sol: `r2 pool add` it, and "
        "take m out."
    ]
    assert ending(pool.models, date(2026, 11, 25)) == []
    assert ending(pool.models, date(2026, 12, 26)) == [], "then it is over"
    assert dated_warnings(pool, DAY) == ending(pool.models, DAY)


def test_a_replayed_entry_asks_nobody_and_is_never_over(tmp_path: Path):
    pool = one_model(tmp_path, retires="2020-01-01", until="2020-01-01", endpoint="recording:r.jsonl")
    assert ended(pool.models, DAY) == ending(pool.models, DAY) == []


def test_a_day_that_is_none_is_named_with_its_line(tmp_path: Path):
    with pytest.raises(PoolFileError, match=r"pool.toml:10: models.m.retires: "):
        one_model(tmp_path, retires="2026-02-30")


@pytest.fixture
def dearer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A later release of the price list, in which output of one model costs more, and its batches too."""
    real = catalogue.priced

    def priced(name: catalogue.Name, today: date) -> tuple[dict[str, object], int | None]:
        table, context = real(name, today)
        if name.model == "gpt-6-luna":
            table = {**table, "output": 0.6, "batch": {"input": 0.05, "output": 0.3}}
        return {**table, "date": "2027-01-02", "source": f"genai-prices 0.3.0, {name.whole}"}, context

    monkeypatch.setattr(catalogue, "priced", priced)


def test_prices_of_today_are_the_same(tmp_path: Path):
    pool = pool_of(tmp_path, starter_pool({"OPENAI_API_KEY": "k"}, DAY))
    assert [check.changes for check in check_prices(pool, DAY)] == [(), (), ()]
    assert newer_prices(pool, DAY) == []


def test_a_newer_price_warns_and_is_taken_only_when_asked(tmp_path: Path, request: pytest.FixtureRequest):
    text = starter_pool({"OPENAI_API_KEY": "k"}, DAY).replace("[budget]", "# mine\n[budget]")
    pool = pool_of(tmp_path, text)
    request.getfixturevalue("dearer")
    luna, terra, sol = check_prices(pool, DAY)
    assert luna.changes == (
        "output was 0.5 (2026-10-14), is 0.6 (2027-01-02)",
        "the price of batches was another (2026-10-14) than it is (2027-01-02)",
    )
    assert terra.changes == sol.changes == ()
    [warning] = newer_prices(pool, DAY)
    assert warning.startswith("openai/gpt-6-luna@none: output was 0.5") and "billed at the file's price" in warning
    assert pool.price("openai/gpt-6-luna@none").output == 0.5
    assert take_prices(pool.path, [luna, terra, sol]) == 1
    after = load_pool(pool.path)
    assert after.price("openai/gpt-6-luna@none").output == 0.6
    assert after.models["openai/gpt-6-luna@none"].price_usd_per_mtok.long == luna.price.long
    assert after.digest != pool.digest
    assert "# mine" in pool.path.read_text("utf-8")
    assert newer_prices(after, DAY) == []


def test_a_price_whose_end_has_passed_is_replaced_by_the_next(tmp_path: Path):
    pool = pool_of(tmp_path, starter_pool({"GEMINI_API_KEY": "k"}, DAY))
    later = date(2027, 1, 2)
    assert any("gemini-3.8-flash" in line for line in ended(pool.models, later))
    take_prices(pool.path, check_prices(pool, later))
    after = load_pool(pool.path)
    assert ended(after.models, later) == []
    assert after.price("gemini/gemini-3.8-flash@low").input == 1.5
    assert "until" not in tomllib.loads(pool.path.read_text("utf-8"))["models"]["gemini/gemini-3.8-flash@low"]


def test_prices_by_hand_are_not_compared_and_need_no_price_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pool = one_model(tmp_path)

    def no_list() -> str:
        raise AssertionError("nothing to look up")

    monkeypatch.setattr(published_prices, "release", no_list)
    [check] = check_prices(pool, DAY)
    assert (check.changes, check.why) == (None, "by hand, or measured")
    assert newer_prices(pool, DAY) == []
