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
# The cores are shared by the processes of pytest-xdist: threads of one that wait for another's take its time.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")
sys.dont_write_bytecode = False


@pytest.fixture(scope="module")
def sockets_collected() -> Iterator[None]:
    """Collects what Prefect's client left after the tests of flows of a file (tests/support/prefect_sockets.py), not in
    another file's test."""
    yield
    gc.unfreeze()
    gc.collect()


LONGEST = (
    "test_label_flow.py",
    "test_refresh.py",
    "test_flow.py",
    "test_kill.py",
    "test_outage.py",
    "test_one_message.py",
    "test_terminal.py",
    "test_hostile_files.py",
    "test_old_runs.py",
    "test_retry_failed.py",
    "test_own_check_runs.py",
    "test_client.py",
    "test_evaluate.py",
    "test_sql_command.py",
    "test_opponents_run.py",
    "test_vllm_servers.py",
    "test_recorded_benchmarks.py",
    "test_plugins.py",
)
"""Files that take more than 40 seconds, the longest first: begun first, so that no process is left with one of them
alone at the end. A file is one process's, for its tests share what is dear to make."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, the others in their order."""
    place = {name: at for at, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(LONGEST)))


@pytest.fixture(scope="session")
def postgres() -> Iterator[Any]:
    """A PostgreSQL of this test session (tests/support/postgres.py), which a test may restart."""
    from tests.support.postgres import server  # only the tests that need one pay for it

    with server() as running:
        yield running
