"""How near a plan is to a gold plan of the same question: number of steps, what it covers, and in which order (ours).
Pure."""

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from r2.plan import Plan

SAME_STEP = 0.3
"""Token F1 from which a step counts as a gold step when order is compared."""
_STEP_REFERENCE = re.compile(r"(?:the )?results? of steps? \d+|#\d+|\bsteps? \d+")
_WORD = re.compile(r"[a-z0-9]+")


@dataclass(frozen=True, slots=True)
class PlanMatch:
    """`step_error` is steps minus gold steps. `coverage` is the mean over gold steps of the best token F1 with a step
    of the plan, 0..1. `order` is the share of pairs of found gold steps that stand in the same order, None where fewer
    than two were found.
    """

    step_error: int
    coverage: float
    order: float | None


def match_plan(question: str, plan: Plan, gold: Plan) -> PlanMatch:
    """Compares the two; a direct plan counts as one step, the question itself."""
    steps = [_words(subtask.text) for subtask in plan.subtasks] or [_words(question)]
    gold_steps = [_words(subtask.text) for subtask in gold.subtasks] or [_words(question)]
    scores = [[_f1(step, wanted) for step in steps] for wanted in gold_steps]
    places = _places(scores)
    pairs = list(itertools.combinations(places, 2))
    order = sum(a < b for a, b in pairs) / len(pairs) if pairs else None
    return PlanMatch(len(steps) - len(gold_steps), sum(map(max, scores)) / len(scores), order)


def _places(scores: Sequence[Sequence[float]]) -> list[int]:
    """Where the gold steps are found in the plan, in gold order: the best pairs first, each step once, near places
    before far ones."""
    pairs = [
        (-score, abs(i - j), i, j) for i, row in enumerate(scores) for j, score in enumerate(row) if score >= SAME_STEP
    ]
    found: dict[int, int] = {}
    for _, _, i, j in sorted(pairs):
        if i not in found and j not in found.values():
            found[i] = j
    return [found[i] for i in sorted(found)]


def _words(text: str) -> Counter[str]:
    """Words of a step; references to results are no content."""
    return Counter(_WORD.findall(_STEP_REFERENCE.sub(" ", text.lower())))


def _f1(a: Counter[str], b: Counter[str]) -> float:
    total = a.total() + b.total()
    return 2 * (a & b).total() / total if total else 1.0
