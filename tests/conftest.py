"""Prefect's home of the whole test session: set before anything imports Prefect, and never the user's."""

import gc
import os
import tempfile
from collections.abc import Iterator

import pytest

os.environ["PREFECT_HOME"] = tempfile.mkdtemp(prefix="r2-prefect-")
os.environ.pop("PREFECT_API_URL", None)


@pytest.fixture
def sockets_collected() -> Iterator[None]:
    """Collects what Prefect's client left after a test of a flow (tests/support/prefect_sockets.py), not in another
    file's test."""
    yield
    gc.unfreeze()
    gc.collect()
