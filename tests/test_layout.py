"""Which way imports point, how many rooms there are, and what importing the core must not load."""

import ast
import graphlib
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.support.layout import (
    FLOORS,
    LAYERS,
    Import,
    Picture,
    forbidden,
    package_edges,
    package_names,
    read_picture,
    two_way_pairs,
)
from tests.support.paths import ROOT

ONLY_IN = {
    "prefect": {"tasks", "flows"},
    "pyarrow": {"storage"},
    "duckdb": {"storage"},
    "typer": {"flows"},
    "rich": {"flows"},
}
HEAVY = {"torch", "vllm", "transformers", "trl", "peft"}
NOT_A_JOB = {"util", "utils", "helper", "helpers", "common", "misc", "shared", "stuff", "tools"}
"""Names that say nothing of what a module does."""
AT_MOST = {"r2": 10, "storage": 12, "tasks": 12, "flows": 12}
"""Modules that lie directly in a layer."""


@cache
def picture() -> Picture:
    """Read by the first test that needs it, not when the tests are collected, which every process does."""
    return read_picture(ROOT)


def between_packages() -> list[Import]:
    found = picture()
    return [one for one in sorted(found.imports) if found.package_of(one[0]) != found.package_of(one[1])]


def outside_names(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("path", sorted(p for name in LAYERS for p in (ROOT / name).rglob("*.py")), ids=str)
def test_a_package_of_others_is_imported_only_where_it_belongs(path: Path):
    folder = path.relative_to(ROOT).parts[0]
    names = outside_names(path)
    for package, folders in ONLY_IN.items():
        if folder not in folders and not (folder == "r2" and "training" in path.parts):
            assert package not in names, f"{package} belongs in {sorted(folders)}"
    if "training" not in path.parts:
        assert not names & HEAVY


def test_every_import_points_to_a_lower_floor():
    assert forbidden(picture(), picture().imports) == []


def test_no_two_packages_import_each_other():
    assert two_way_pairs(picture(), picture().imports) == []


def test_modules_import_each_other_in_no_circle():
    sorter: graphlib.TopologicalSorter[str] = graphlib.TopologicalSorter()
    for importer, imported in picture().imports:
        sorter.add(importer, imported)
    sorter.prepare()  # CycleError names the circle


@pytest.mark.parametrize("package", package_names(ROOT))
def test_every_package_has_a_floor(package: str):
    placed = {name for floors in FLOORS.values() for floor in floors for name in floor}
    assert package in placed, "give it a floor in tests/support/layout.py"


def test_every_floor_is_a_package():
    placed = {name for floors in FLOORS.values() for floor in floors for name in floor}
    assert placed <= picture().packages


def test_the_picture_is_of_this_checkout():
    """A reader that sees nothing would find nothing wrong."""
    assert len(between_packages()) > 500
    assert Import("r2.methods.cot", "r2.answering.protocol") in picture().imports
    assert Import("flows.cli.demo", "flows.answer_questions") in picture().imports, "imports inside functions count"
    assert ("storage.runs", "storage.lake") in package_edges(picture(), picture().imports)


def test_any_one_import_turned_round_is_refused():
    """Mutation: each import between packages, one at a time, points the other way. The picture's other imports are
    held against it with every fortieth: each import is judged by itself, and that they are right is a test above."""
    turned = {one: Import(one.imported, one.importer) for one in between_packages()}
    assert [one for one in between_packages() if forbidden(picture(), [turned[one]]) == []] == []
    for one in between_packages()[::40]:
        assert forbidden(picture(), (picture().imports - {one}) | {turned[one]}) == forbidden(picture(), [turned[one]])


def test_both_ways_between_any_two_packages_is_refused():
    """Mutation: beside each edge between packages its reverse."""
    for one in {
        picture().package_of(i.importer) + " " + picture().package_of(i.imported): i for i in between_packages()
    }.values():
        more = picture().imports | {Import(one.imported, one.importer)}
        pair = sorted((picture().package_of(one.importer), picture().package_of(one.imported)))
        assert two_way_pairs(picture(), more) == [tuple(pair)]


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("r2/plan.py", "from r2.problems.split import is_test"),
        ("r2/problems/split.py", "def late() -> None:\n    import r2.answering.route"),
        ("r2/pool/limits/gate.py", "from ..client import client"),
        ("r2/records/rows.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from r2 import labelling"),
        ("storage/lake/lake.py", "from storage.runs import plan"),
        ("tasks/retry.py", "import tasks.answering.session as s"),
        ("storage/sql/query.py", "from tasks import retry"),
        ("flows/train_sft.py", "from flows.cli.app import main"),
    ],
)
def test_an_import_written_into_a_copy_is_refused(tmp_path: Path, file: str, line: str):
    for layer in LAYERS:
        shutil.copytree(
            ROOT / layer, tmp_path / layer, ignore=lambda _, names: [n for n in names if n == "__pycache__"]
        )
    with (tmp_path / file).open("a", encoding="utf-8") as changed:
        changed.write(f"\n{line}\n")
    changed_picture = read_picture(tmp_path)
    [wrong] = forbidden(changed_picture, changed_picture.imports)
    assert wrong.startswith(file.removesuffix(".py").replace("/", "."))


@pytest.mark.parametrize("name", LAYERS)
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


def test_a_module_is_named_for_what_it_does():
    folders = [*LAYERS, "tests", "benchmarks"]
    named = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in ("", ".py")]
    assert len(named) > 200
    assert [path for path in named if path.stem in NOT_A_JOB] == []


@pytest.mark.parametrize(("layer", "most"), AT_MOST.items())
def test_few_modules_lie_directly_in_a_layer(layer: str, most: int):
    loose = sorted(path.name for path in (ROOT / layer).glob("*.py") if path.name != "__init__.py")
    assert len(loose) <= most, f"{', '.join(loose)}: put what belongs together into a package"
