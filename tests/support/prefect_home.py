"""A home of Prefect whose database has its tables: to make them in an empty one takes seconds, of every command that a
test gives a home of its own. They are made once for all processes of a test session. `test_embedded_api.py` and
`test_install.py` begin with an empty home, as a user does."""

import fcntl
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

_MAKE = """
import asyncio
from prefect.server.database import provide_database_interface
asyncio.run(provide_database_interface().create_db())
"""


def new_home(folder: Path) -> str:
    """Makes the folder, where it is missing, a home of Prefect."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "prefect.db").exists():
        shutil.copy(_database(), folder / "prefect.db")
    return str(folder)


@cache
def _database() -> Path:
    """Made by the first process that asks; the others wait for it."""
    folder = Path(os.environ["R2_TEST_DATABASE"])
    made, draft = folder / "made.db", folder / "prefect.db"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            draft.unlink(missing_ok=True)
            env = os.environ | {"PREFECT_HOME": str(folder)}
            subprocess.run([sys.executable, "-c", _MAKE], env=env, check=True, capture_output=True)
            draft.replace(made)
    return made
