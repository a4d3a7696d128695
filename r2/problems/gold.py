"""Gold decompositions of published rows as plans: MuSiQue, GSM8K socratic, StrategyQA; SCAN's follow from its grammar.

A step refers to an earlier one as "#1" (MuSiQue, StrategyQA), names it in `depends_on`, or computes with its value
(GSM8K).
"""

import re
from typing import Any

from r2.plan import Plan, Subtask
from r2.problems.row import FieldError, Row, list_of, text_of

_REFERENCE = re.compile(r"#(\d{1,2})")
_SOCRATIC = re.compile(r"^(?P<question>.+?)\s*\*\*\s*(?P<answer>.+)$", re.MULTILINE)
_EQUATION = re.compile(r"<<([^<>=]*)=")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


def gold_plan(row: Row) -> Plan | None:
    """The row's decomposition; None where it has none. A single step is a direct plan. FieldError for one that cannot
    be read."""
    steps = _steps(row)
    if not steps:
        return None
    if len(steps) == 1:
        return Plan()
    values: dict[str, int] = {}
    subtasks = []
    for index, step in enumerate(steps):
        text, answer = text_of(step, "question"), str(step.get("answer", ""))
        named = [int(n) for n in _REFERENCE.findall(text)] + [int(n) for n in list_of(step, "depends_on")]
        needs = {n - 1 for n in named if 0 < n <= index}
        for equation in _EQUATION.findall(answer):
            needs |= {values[number] for number in _NUMBER.findall(equation) if number in values}
        if "value" in step or _EQUATION.search(answer):
            value = str(step.get("value") or (_NUMBER.findall(answer) or [""])[-1])
            values.setdefault(value, index)
        subtasks.append(Subtask(_REFERENCE.sub(r"the result of step \1", text), tuple(sorted(needs))))
    return Plan(tuple(subtasks))


def _steps(row: Row) -> list[dict[str, Any]]:
    for field in ("decomposition", "question_decomposition"):
        found = list_of(row, field)
        if found:
            steps = [{"question": step} if isinstance(step, str) else step for step in found]
            if not all(isinstance(step, dict) for step in steps):
                raise FieldError(field, "a list of texts or of objects with a question", found)
            return steps
    answer = row.get("answer")
    return [match.groupdict() for match in _SOCRATIC.finditer(answer)] if isinstance(answer, str) else []
