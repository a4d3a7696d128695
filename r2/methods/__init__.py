"""Ways to answer a problem, all of one signature: `METHODS[name](problem, router)` is a generator of waves (r2/solve.py)."""

from collections.abc import Callable

from r2.label import label
from r2.methods.cot import chain_of_thought
from r2.problem import Problem
from r2.solve import Router, Solving, solve


def _cot(problem: Problem, router: Router) -> Solving:
    return chain_of_thought(problem, router, router.settings.model or router.roster.strongest)


METHODS: dict[str, Callable[[Problem, Router], Solving]] = {"r2": solve, "cot": _cot, "label": label}
