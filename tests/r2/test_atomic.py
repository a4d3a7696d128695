"""Files are written whole: by their owner alone until they are finished, never through a link, never half."""

import errno
import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from r2.atomic import create_atomically, create_exclusively, replacing, replacing_folder, write_atomically


def rights(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_old_file_stands_until_the_new_one_is_whole(tmp_path: Path):
    path = tmp_path / "a"
    path.write_text("old")
    with replacing(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_text() == "old"
    assert (path.read_text(), names(tmp_path)) == ("new", ["a"])


def test_a_writer_that_raises_leaves_the_old_file_and_nothing_else(tmp_path: Path):
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(ValueError, match="half"), replacing(path) as file:
        file.write(b"ne")
        raise ValueError("half")
    assert (path.read_text(), names(tmp_path)) == ("old", ["a"])


def test_nobody_else_can_read_a_file_before_it_is_finished_and_then_it_has_the_rights_of_the_old_one(tmp_path: Path):
    path = tmp_path / "a"
    path.write_text("old")
    path.chmod(0o640)
    with replacing(path) as file:
        assert rights(Path(file.name)) == 0o600
    assert rights(path) == 0o640


def test_a_new_file_has_the_rights_that_the_umask_leaves(tmp_path: Path):
    plain = tmp_path / "plain"
    plain.write_text("")
    write_atomically(tmp_path / "a", b"")
    assert create_atomically(tmp_path / "b", b"")
    assert rights(tmp_path / "a") == rights(tmp_path / "b") == rights(plain)


def test_a_link_in_the_place_of_the_target_is_replaced_and_what_it_names_is_left_alone(tmp_path: Path):
    other = tmp_path / "other"
    other.write_text("precious")
    (tmp_path / "a").symlink_to(other)
    write_atomically(tmp_path / "a", b"new")
    assert other.read_text() == "precious"
    assert not (tmp_path / "a").is_symlink()
    assert (tmp_path / "a").read_text() == "new"


def test_a_link_in_the_place_of_a_new_file_is_refused(tmp_path: Path):
    other = tmp_path / "other"
    (tmp_path / "a").symlink_to(other)
    with pytest.raises(FileExistsError):
        create_exclusively(tmp_path / "a")
    assert not other.exists()


def test_temporary_names_cannot_be_guessed_and_fit_where_the_name_does(tmp_path: Path):
    path = tmp_path / ("é" * 120)
    with replacing(path) as first, replacing(path) as second:
        assert first.name != second.name
        assert str(os.getpid()) not in Path(first.name).name.split(".")
        assert Path(first.name).name.startswith(".")
        second.write(b"2")
    assert names(tmp_path) == [path.name]


def test_a_file_that_is_there_is_not_created_again(tmp_path: Path):
    assert create_atomically(tmp_path / "a", b"first")
    assert not create_atomically(tmp_path / "a", b"second")
    assert ((tmp_path / "a").read_bytes(), names(tmp_path)) == (b"first", ["a"])


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path):
    with pytest.raises(ValueError, match="half"), replacing_folder(tmp_path / "a") as folder:
        (folder / "x").write_text("1")
        raise ValueError("half")
    assert names(tmp_path) == []
    with replacing_folder(tmp_path / "a") as folder:
        (folder / "x").write_text("1")
        assert not (tmp_path / "a").exists()
    assert (tmp_path / "a" / "x").read_text() == "1"
    with pytest.raises(OSError, match="not empty"), replacing_folder(tmp_path / "a"):
        pass
    assert names(tmp_path) == ["a"]


def refused(number: int) -> Callable[..., None]:
    def refuse(*names: object) -> None:
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.mark.parametrize("way", ["link", "rename", "lock"])
def test_of_many_that_create_a_file_one_does_also_where_hard_links_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
):
    if way != "link":
        monkeypatch.setattr("r2.atomic.os.link", refused(errno.EPERM))
    if way == "lock":
        monkeypatch.setattr("r2.atomic._rename_to_free_name", refused(errno.EINVAL))
    for round_ in range(20):
        path = tmp_path / f"{round_}.json"
        with ThreadPoolExecutor(8) as threads:
            won = list(threads.map(lambda i: (create_atomically(path, b"%d" % i), i), range(8)))  # noqa: B023
        [winner] = [i for has_won, i in won if has_won]
        assert path.read_bytes() == b"%d" % winner
    left = {entry.name for entry in tmp_path.iterdir()} - {f"{round_}.json" for round_ in range(20)}
    assert left == ({".names.lock"} if way == "lock" else set())


def test_another_refusal_than_that_of_links_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("r2.atomic.os.link", refused(errno.ENOSPC))
    with pytest.raises(OSError, match="No space left"):
        create_atomically(tmp_path / "a", b"x")
    assert list(tmp_path.iterdir()) == []
