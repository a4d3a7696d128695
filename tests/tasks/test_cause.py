"""An exception comes down to one message and one exit code."""

import asyncio
import errno
import os
import sqlite3

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from r2.errors import ConfigError, EndpointError, LakeError, RunLockedError
from tasks.cause import cause, exit_code, is_transient, message


def full_disk(path: str | None = None) -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


def test_out_of_groups_of_groups_comes_the_error_of_ours():
    ours = LakeError("part-7: torn")
    beside = BaseExceptionGroup("workers", [asyncio.CancelledError(), ValueError("a follower")])
    group = BaseExceptionGroup("shards", [beside, ExceptionGroup("workers", [ours])])
    assert cause(group) is ours
    assert message(group) == "part-7: torn"
    assert exit_code(group) == 1


def test_where_none_is_of_ours_the_first_that_is_no_cancellation_counts():
    real = full_disk("lake")
    assert cause(BaseExceptionGroup("x", [asyncio.CancelledError(), real, ValueError("later")])) is real
    alone = BaseExceptionGroup("x", [asyncio.CancelledError()])
    assert isinstance(cause(alone), asyncio.CancelledError)


def test_what_a_package_wrapped_is_unwrapped():
    try:
        try:
            raise full_disk("a/b")
        except OSError as error:
            raise RuntimeError("the task failed") from error
    except RuntimeError as wrapped:
        assert message(wrapped).startswith("a/b: no space left on device. Make room on the disk.")
        assert exit_code(wrapped) == 1


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.ENOSPC, "lake: no space left on device. Make room on the disk. Nothing is lost"),
        (errno.EROFS, "lake: read-only file system. Name a place that can be written"),
        (errno.EACCES, "lake: permission denied. Give this user the right to it"),
        (errno.ENOENT, "lake: no such file or directory. It was moved or deleted while this command needed it."),
        (errno.EMFILE, "lake: too many open files. Raise the limit (`ulimit -n`)"),
    ],
)
def test_an_error_of_the_system_says_the_place_and_the_next_move(number: int, says: str):
    assert message(OSError(number, os.strerror(number), "lake")).startswith(says)


def test_what_pyarrow_says_of_a_file_is_said_once():
    with pytest.raises(OSError) as caught:
        pq.write_table(pa.table({"a": [1]}), "/nowhere/at/all.parquet")
    assert message(caught.value).startswith(
        "Failed to open local file '/nowhere/at/all.parquet': no such file or directory."
    )


def test_an_error_that_nobody_foresaw_is_called_a_bug_with_its_type():
    said = message(KeyError("n_answered"))
    assert said.startswith("KeyError: 'n_answered'. This is a bug")
    assert "--debug" in said
    assert exit_code(KeyError("x")) == 1
    assert message(sqlite3.OperationalError("database or disk is full")).startswith(
        "OperationalError: database or disk is full. Nothing is lost"
    )


def test_a_wrong_flag_is_2_and_only_what_the_tree_says_is_transient():
    assert exit_code(ExceptionGroup("x", [ConfigError("--b: not a number")])) == 2
    assert is_transient(ExceptionGroup("x", [EndpointError("no answer")]))
    assert is_transient(RunLockedError("held"))
    assert not is_transient(LakeError("torn"))
    assert not is_transient(full_disk())
    assert not is_transient(TimeoutError())
    assert not is_transient(None)
