"""The snippets of docs/read_without_r2.md, each run as it stands, beside a lake that was written elsewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from storage.lake.lake import Lake
from storage.sql.query import write_database
from tests.support.lake_rows import worked_lake
from tests.support.paths import ROOT

SNIPPETS = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/read_without_r2.md").read_text("utf-8"), re.M | re.S)
SAID = [
    ["13 calls, 0.0048 USD", "large    0.0040", "small    0.0008"],
    ["3 problems of run-a, 2 answered"],
    ["│ large         ┆ 4   ┆ 0.004", "│ small         ┆ 9   ┆ 0.0008"],
    ["8 subtasks", "b'unit': b'USD'"],
    ["│ large         │     4 │", "│ small         │     9 │"],
    ["│ run-a   │          3 │      0.5 │", "│ run-b   │          1 │      1.0 │"],
    ["│     5 │"],
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It holds a compacted `lake`."""
    written = worked_lake(tmp_path_factory.mktemp("written") / "lake")
    for run_id in Lake(written).manifest.run_ids():
        Lake(written).compact(run_id)
    write_database(written)
    here = tmp_path_factory.mktemp("here")
    written.rename(here / "lake")
    return here


@pytest.mark.parametrize("n", range(len(SAID)))
def test_a_snippet_reads_the_lake_as_it_lies(n: int, folder: Path):
    assert len(SNIPPETS) == len(SAID)
    ran = subprocess.run([sys.executable, "-c", SNIPPETS[n]], cwd=folder, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    for said in SAID[n]:
        assert said in ran.stdout
