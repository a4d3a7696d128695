"""The whole test session: Prefect's home, set before anything imports Prefect and never the user's, and a quiet end."""

import os
import sys
import tempfile

os.environ["PREFECT_HOME"] = tempfile.mkdtemp(prefix="r2-prefect-")
os.environ.pop("PREFECT_API_URL", None)


def pytest_unconfigure() -> None:
    """Hypothesis holds every module it has seen to the very end, and DuckDB's binding then reports itself as leaked, at length."""
    if (providers := sys.modules.get("hypothesis.internal.conjecture.providers")) is not None:
        getattr(providers, "_seen_modules", set()).clear()
