"""The recipes of CONTRIBUTING.md, tried as they stand there."""

import re
import textwrap
from dataclasses import dataclass, fields
from typing import Any

from r2.problem import Problem
from r2.problems.source import parse_source
from r2.records.tables import col
from tests.support.paths import ROOT
from tests.support.scripted import replay, router

PAGE = (ROOT / "CONTRIBUTING.md").read_text("utf-8")


def module(heading: str) -> dict[str, Any]:
    """The names that the module of a recipe defines, after it was run."""
    recipe = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    block = re.search(r'^       """.*?(?=^\d\. )', recipe, re.MULTILINE | re.DOTALL)
    assert block is not None
    names: dict[str, Any] = {"__name__": "recipe"}
    exec(textwrap.dedent(block[0]), names)
    return names


def test_the_method_of_the_recipe_asks_the_middle_model():
    method = module("Add a method")["METHOD"]
    [[call]], outcome = replay(method.run(Problem("p", "What is 6 * 7?"), router()), ["42"])
    assert (call.model, outcome.answer) == ("middle", "42")
    [expected] = method.expects(router())
    assert (expected.model, expected.per_question) == ("middle", 1)
    assert f"`{method.name}.METHOD`" in PAGE


def test_the_benchmark_of_the_recipe_knows_its_answers():
    benchmark = module("Add a benchmark")["BENCHMARK"]
    problems = list(benchmark.generate(parse_source("parity"), 20, 3))
    assert [p.problem_id for p in problems[:2]] == ["parity-3-0", "parity-3-1"]
    assert {p.target for p in problems} == {"even", "odd"}
    for problem in problems:
        number = int(re.findall(r"\d+", problem.question)[0])
        assert problem.target == ("odd" if number % 2 else "even")
        assert benchmark.is_correct(problem, f" {problem.target.title()}. ")
        assert not benchmark.is_correct(problem, "even" if number % 2 else "odd")


def test_the_column_of_the_recipe_may_be_null():
    [declared] = re.findall(r"^ +(n_waves: .*)$", PAGE, re.MULTILINE)
    names: dict[str, Any] = {"col": col, "dataclass": dataclass}
    exec(f"@dataclass(frozen=True)\nclass Row:\n    {declared}\n", names)
    [column] = fields(names["Row"])
    assert names["Row"]().n_waves is None
    assert (column.name, column.metadata["doc"]) == ("n_waves", "waves of calls, one after the other")
