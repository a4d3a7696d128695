"""The scripts of docs/python.md, run as they stand there, on the simulated pool."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL

from tests.support.paths import ROOT
from tests.support.prefect_api import shared_api

PAGE = (ROOT / "docs" / "python.md").read_text("utf-8")
SCRIPTS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
PRINTED = re.findall(r"It prints\n\n((?:    .*\n)+)", PAGE)


@pytest.fixture(scope="module")
def api() -> Iterator[str]:
    with shared_api():
        yield str(PREFECT_API_URL.value())


def ran(script: str, folder: Path, api: str) -> str:
    """What it printed. The environment is the test's, with a state of its own."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "R2_STATE_DIR": str(folder / "state"), "PREFECT_API_URL": api}
    done = subprocess.run(
        [sys.executable, "-c", script],
        check=False,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_scripts_of_the_page_run_and_print_what_it_says(tmp_path: Path, api: str):
    (tmp_path / "pools").symlink_to(ROOT / "pools")
    assert (len(SCRIPTS), len(PRINTED)) == (3, 2)
    for script, printed in zip(SCRIPTS, PRINTED, strict=False):
        assert ran(script, tmp_path, api) == "".join(
            line.removeprefix("    ") for line in printed.splitlines(keepends=True)
        )
    assert "sim-" in ran(SCRIPTS[2], tmp_path, api)


def test_a_list_of_rows_becomes_a_table_in_ten_lines():
    assert len(SCRIPTS[0].splitlines()) <= 10
    assert "answer_rows(rows" in SCRIPTS[0]
