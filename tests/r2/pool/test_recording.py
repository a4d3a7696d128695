"""Recordings: what was recorded is found by its request, and a file that is no recording says where it breaks."""

import gzip
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r2.call import Attempt, Completion, TokenLogprob
from r2.errors import PoolFileError
from r2.ledger import Usage
from r2.pool.file.config import load_pool
from r2.pool.file.recording import Recording, recorded_pool, write_recording

POOL = """
[router]
decomposer = "a"
allocator = "a"
[budget]
max_usd_per_day = 0.01
[models.a]
endpoint = "https://example.invalid/v1"
api_key_env = "A_KEY_THAT_IS_NOT_SET"
tier = "small"
price_usd_per_mtok = {input = 1.0, output = 2.0, date = "2026-11-01", source = "made up for tests"}
"""


def answered(text: str) -> Completion:
    attempt = Attempt(
        "a", 0, 200, 1000.0, 0.5, 0.1, Usage(10, 2, 5), 0.001, "v", "served", "id-1", "stop", raw_body=b"{}"
    )
    return Completion(text, "a", (attempt,), "stop", (TokenLogprob("x", -0.5, (("x", -0.5), ("y", -1.0))),))


@settings(deadline=None, max_examples=30)
@given(
    st.dictionaries(st.text(min_size=1, max_size=8), st.text(st.characters(exclude_categories=("Cs",))), max_size=5),
    st.booleans(),
)
def test_every_recorded_completion_is_found_and_marked_as_replayed(
    tmp_path_factory: pytest.TempPathFactory, texts: dict[str, str], is_gzipped: bool
) -> None:
    path = tmp_path_factory.mktemp("recording") / ("r.jsonl.gz" if is_gzipped else "r.jsonl")
    assert write_recording(path, [(sha, answered(text)) for sha, text in texts.items()], POOL) == len(texts)
    recording = Recording.open(path)
    assert len(recording) == len(texts)
    for sha, text in texts.items():
        found = recording.find(sha)
        assert found is not None and found.is_replayed
        assert (found.text, found.attempts, found.token_logprobs) == (
            text,
            answered(text).attempts,
            answered(text).token_logprobs,
        )
    assert recording.find("never asked, and longer than any key") is None
    assert recorded_pool(path) == POOL


def test_of_two_answers_to_one_request_the_first_counts(tmp_path: Path) -> None:
    write_recording(tmp_path / "r.jsonl", [("k", answered("first")), ("k", answered("second"))])
    found = Recording.open(tmp_path / "r.jsonl").find("k")
    assert found is not None and found.text == "first"


@pytest.mark.parametrize(
    "damage", [b"not json\n", b'{"request_sha": "x"}\n', b"[]\n", b'{"request_sha": "x", "completion": {"text": 1}}\n']
)
def test_a_damaged_line_is_named(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "r.jsonl"
    write_recording(path, [("k", answered("first"))], POOL)
    path.write_bytes(path.read_bytes() + damage)
    with pytest.raises(PoolFileError, match=r"r\.jsonl:3: expected"):
        Recording.open(path)


def test_a_recording_cut_short_is_an_error_not_a_shorter_recording(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl.gz"
    write_recording(path, [(f"k{n}", answered(str(n))) for n in range(50)], POOL)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(PoolFileError, match="expected"):
        Recording.open(path)


def test_the_recorded_pool_needs_no_key_no_endpoint_and_no_budget(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    write_recording(path, [("k", answered("first"))], POOL)
    pool = load_pool(f"recording:{path}")
    pool.check_keys({})
    assert pool.models["a"].endpoint == f"recording:{path}"
    assert pool.tables.budget.max_usd_per_day is None
    assert pool.price("a").output == 2.0


def test_a_recording_without_its_pool_file_says_how_to_get_one(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl.gz"
    with gzip.open(path, "wb") as file:
        file.write(orjson.dumps({"request_sha": "k"}) + b"\n")
    with pytest.raises(PoolFileError, match="r2 lake record"):
        load_pool(f"recording:{path}")
    with pytest.raises(PoolFileError, match="cannot be read"):
        load_pool(f"recording:{tmp_path / 'absent'}")


def test_a_damaged_recording_is_one_message(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl.gz"
    write_recording(path, [(f"k{i}", answered(f"answer {i * i}")) for i in range(50)], POOL)
    whole = path.read_bytes()
    for harmed in (whole[: len(whole) // 2], whole[:200] + b"\xff" * 40 + whole[240:]):
        path.write_bytes(harmed)
        with pytest.raises(PoolFileError, match=f"{path}"):
            Recording.open(path)
