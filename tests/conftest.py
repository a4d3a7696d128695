"""Prefect's home of the whole test session: set before anything imports Prefect, and never the user's."""

import gc
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest

os.environ["PREFECT_HOME"] = tempfile.mkdtemp(prefix="r2-prefect-")
os.environ.pop("PREFECT_API_URL", None)
# The processes of pytest-xdist have it from their parent, and so share what is made there once.
os.environ.setdefault("R2_TEST_DATABASE", tempfile.mkdtemp(prefix="r2-prefect-"))
# Some containers forbid Python to keep what it compiled: then each of the hundreds of commands that tests start would
# compile every module again, and each process of pytest every test file.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


@pytest.fixture(scope="module")
def sockets_collected() -> Iterator[None]:
    """Collects what Prefect's client left after the tests of flows of a file (tests/support/prefect_sockets.py), not in
    another file's test."""
    yield
    gc.unfreeze()
    gc.collect()


LONGEST = ("test_learning.py", "test_kill.py")
"""Files whose tests take minutes: begun first, so that no process is left with one of them alone at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest tests at the start and in the middle: each process begins with a part of its own, from its first."""
    first = [item for item in items if item.path.name == LONGEST[0]]
    second = [item for item in items if item.path.name in LONGEST[1:]]
    others = [item for item in items if item.path.name not in LONGEST]
    middle = len(others) // 2
    items[:] = [*first, *others[:middle], *second, *others[middle:]]


@pytest.fixture(scope="session")
def postgres() -> Iterator[Any]:
    """A PostgreSQL of this test session (tests/support/postgres.py), which a test may restart."""
    from tests.support.postgres import server  # only the tests that need one pay for it

    with server() as running:
        yield running
