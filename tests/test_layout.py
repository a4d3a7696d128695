"""Which way imports point, and what importing the core must not load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

MAY_IMPORT = {"r2": set(), "storage": {"r2"}, "tasks": {"r2", "storage"}, "flows": {"r2", "storage", "tasks"}}
ONLY_IN = {
    "prefect": {"tasks", "flows"},
    "pyarrow": {"storage"},
    "duckdb": {"storage"},
    "typer": {"flows"},
    "rich": {"flows"},
}
HEAVY = {"torch", "vllm", "transformers", "trl", "peft"}


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("path", sorted(p for name in MAY_IMPORT for p in (ROOT / name).rglob("*.py")), ids=str)
def test_imports_point_one_way(path: Path):
    folder = path.relative_to(ROOT).parts[0]
    names = imported(path)
    assert names & set(MAY_IMPORT) <= MAY_IMPORT[folder] | {folder}
    for package, folders in ONLY_IN.items():
        if folder not in folders and not (folder == "r2" and "training" in path.parts):
            assert package not in names, f"{package} belongs in {sorted(folders)}"
    if "training" not in path.parts:
        assert not names & HEAVY


@pytest.mark.parametrize("name", sorted(MAY_IMPORT))
def test_each_package_resolves_inside_this_checkout(name: str):
    module = __import__(name)
    assert Path(module.__file__ or "").parent == ROOT / name
    assert module.__doc__


def test_importing_the_core_loads_nothing_heavy_and_needs_no_key():
    code = (
        "import sys, r2.answering.route, r2.records.rows, r2.methods; "
        "print(*sorted({'torch','vllm','transformers','trl','prefect','duckdb','pyarrow'} & set(sys.modules)))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PATH": ""}, cwd=ROOT
    )
    assert out.stdout.strip() == ""


def test_no_module_is_called_utils():
    assert not [
        p for name in MAY_IMPORT for p in (ROOT / name).rglob("*.py") if p.stem in ("utils", "helpers", "common")
    ]
