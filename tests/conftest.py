"""Prefect's home of the whole test session: set before anything imports Prefect, and never the user's."""

import os
import tempfile

os.environ["PREFECT_HOME"] = tempfile.mkdtemp(prefix="r2-prefect-")
os.environ.pop("PREFECT_API_URL", None)
