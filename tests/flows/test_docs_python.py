"""The scripts of docs/python.md, run as they stand there, on the simulated pool."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.support.paths import ROOT

PAGE = (ROOT / "docs" / "python.md").read_text("utf-8")
SCRIPTS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
PRINTED = re.findall(r"It prints\n\n((?:    .*\n)+)", PAGE)


def ran(script: str, folder: Path) -> str:
    """What it printed. The environment is the test's: no server, a state and a Prefect home of its own."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "R2_STATE_DIR": str(folder / "state")}
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


def test_the_scripts_of_the_page_run_and_print_what_it_says(tmp_path: Path):
    (tmp_path / "pools").symlink_to(ROOT / "pools")
    assert (len(SCRIPTS), len(PRINTED)) == (3, 2)
    for script, printed in zip(SCRIPTS, PRINTED, strict=False):
        assert ran(script, tmp_path) == "".join(line.removeprefix("    ") for line in printed.splitlines(keepends=True))
    assert "sim-" in ran(SCRIPTS[2], tmp_path)


def test_a_list_of_rows_becomes_a_table_in_ten_lines():
    assert len(SCRIPTS[0].splitlines()) <= 10
    assert "answer_rows(rows" in SCRIPTS[0]
