"""The cheap check of a plan (ours): slips that show without asking anybody, so that another model can plan again before
a step is paid.

A step's result is checked by its form (r2/problems/benchmark.py `failed_check`); a plan is checked against its
question. Small decomposers copy: a digit that went wrong on the way is a number that the question does not have, and
one it has that no step uses. A plan that stops short leaves results that no later step reads. None of this proves a
plan wrong (100 is a fair number where the question says per cent), so a failed check asks for a second plan and refuses
nothing.
"""

import re
from collections import Counter

from r2.plan import Plan
from r2.problem import Problem

_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
_REFERENCE = re.compile(r"\bsteps?\s*#?\d{1,3}(?:\s*(?:,|and|&)\s*#?\d{1,3}\b)*|#\d{1,3}\b", re.IGNORECASE)
_QUOTED = re.compile(r"(?<!\w)'([^'\n]+)'(?!\w)|\"([^\"\n]+)\"")


def plan_defect(problem: Problem, plan: Plan, *, is_last_step_answer: bool) -> str | None:
    """None if the plan may stand, else the first that shows of

    - `plan_invents`: a step has a number of two digits or more, or a quoted phrase, that neither question, context nor
      choices have;
    - `plan_forgets`: a number of the question is in no step, or in fewer places than in the question;
    - `plan_wastes`: a result but the last is needed by no later step, where the last step's result is the answer.

    Numbers of one digit may be invented: "twice" and "half of" are written in words. A direct plan has nothing to
    check.
    """
    if plan.is_direct:
        return None
    given = "\n".join([problem.question, problem.context or "", *(problem.choices or ())])
    steps = [_REFERENCE.sub(" ", subtask.text) for subtask in plan.subtasks]
    named = Counter(number for step in steps for number in _numbers(step))
    known = set(_numbers(given))
    if any(number not in known for number in named if len(number) > 1):
        return "plan_invents"
    shown = _folded(given)
    if any(_folded(a or b) not in shown for step in steps for a, b in _QUOTED.findall(step)):
        return "plan_invents"
    if Counter(_numbers(problem.question)) - named:
        return "plan_forgets"
    needed = {need for subtask in plan.subtasks for need in subtask.needs}
    if is_last_step_answer and any(index not in needed for index in range(len(plan.subtasks) - 1)):
        return "plan_wastes"
    return None


def _numbers(text: str) -> list[str]:
    """Unsigned numbers, without thousands' commas and leading zeros."""
    return [number.replace(",", "").lstrip("0") or "0" for number in _NUMBER.findall(text)]


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())
