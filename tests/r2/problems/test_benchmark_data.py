"""Every check against the gold of real benchmark files, where R2_DATA_DIR names a folder of them (one folder per
benchmark)."""

import os
from pathlib import Path

import pytest

from r2.problem import Problem
from r2.problems import musique, scan
from r2.problems.benchmark import judge
from r2.problems.source import parse_source
from storage.sources.problem_files import problems_of, read_rows

DATA = Path(os.environ.get("R2_DATA_DIR") or "no-such-folder")


def files(benchmark: str) -> list[Path]:
    found = sorted((DATA / benchmark).glob("*.jsonl"))
    if not found:
        pytest.skip(f"no files of {benchmark} in R2_DATA_DIR")
    return found


def problems(benchmark: str) -> list[Problem]:
    return [p for path in files(benchmark) for p in problems_of(parse_source(f"{benchmark}:{path}"), None, 0)]


@pytest.mark.parametrize("benchmark", ["scan", "gsm8k", "csqa", "strategyqa", "musique", "champ", "math"])
def test_gold_is_right_by_the_benchmarks_own_check(benchmark: str):
    asked = problems(benchmark)
    assert [p.problem_id for p in asked if not judge(p, p.target or "")] == []


@pytest.mark.parametrize("benchmark", ["scan", "gsm8k", "csqa", "musique"])
def test_another_problems_gold_is_mostly_wrong(benchmark: str):
    asked = problems(benchmark)
    others = [*asked[1:], asked[0]]
    n_wrong = sum(not judge(p, other.target or "") for p, other in zip(asked, others, strict=True))
    n_differ = sum(p.target != other.target for p, other in zip(asked, others, strict=True))
    assert n_wrong >= 0.98 * n_differ


def test_musique_gold_has_an_f1_of_one():
    assert {musique.f1(p, p.target or "") for p in problems("musique")} == {1.0}


def test_the_grammar_gives_every_published_scan_line():
    assert all(scan.interpret(p.question).split() == (p.target or "").split() for p in problems("scan"))


def test_every_reference_solution_that_is_known_to_pass_solves_its_puzzle():
    pytest.importorskip("pyseccomp", exc_type=(ImportError, RuntimeError))
    known = {row["id"]: bool(row.get("reference_ok")) for path in files("p3") for _, row in read_rows(path)}
    asked = [p for p in problems("p3") if known[p.problem_id]]
    assert len(asked) > 0
    assert [p.problem_id for p in asked if not judge(p, p.target or "")] == []
