"""A plan: subtasks as a directed acyclic graph, and the total parser that reads one out of any text.

Paper: 3-8 ordered subtasks, one per line. Ours: a subtask names the earlier subtasks whose results it needs, so a chain
is the special case; and "answer directly" (no subtasks) is a plan. Left out: nothing is repaired here, a text without a
plan is `PlanParseError`, and the caller decides what to do about it.
"""

import re
from dataclasses import dataclass

from r2.errors import PlanParseError

MAX_SUBTASKS = 12
"""A longer list is a model that will not stop; ours, half again the paper's 8."""

_NUMBERED = re.compile(
    r"^\s*(?:[-*>]\s*)?(?:\*\*)?(?:step|subtask)?\s*(\d{1,3})\s*[.):]\s*(?:\*\*)?\s*(.+?)\s*$", re.IGNORECASE
)
_NEEDS = re.compile(
    r"[\s(\[]*\bneeds?\s*:\s*\[?\s*((?:#?\d{1,3}|none|step|and|[\s,&])*)\]?\s*[\])]?\s*\.?\s*$", re.IGNORECASE
)
_STEP_REFERENCE = re.compile(r"\bsteps?\s*#?(\d{1,3})(?:\s*(?:,|and|&)\s*#?(\d{1,3})\b)*|#(\d{1,3})\b", re.IGNORECASE)
_IMPLIED = re.compile(
    r"\b(?:the|this|that|previous|initial)\s+(?:\w+\s+)?(?:result|total|sum|product|difference|answer)s?\b"
    r"(?!\s+(?:of|number|amount)\b)"
    r"|\bboth sides\b",
    re.IGNORECASE,
)
_DIRECT = re.compile(r"^\W*(?:answer\s+)?direct(?:ly)?\W*$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Subtask:
    """One step. `needs` holds 0-based indices of earlier subtasks, ascending, without repeats."""

    text: str
    needs: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """Subtasks in an order in which every need comes earlier. No subtasks: answer directly with one call."""

    subtasks: tuple[Subtask, ...] = ()

    @property
    def is_direct(self) -> bool:
        return not self.subtasks

    def waves(self) -> list[list[int]]:
        """Indices grouped by depth: all of a wave's needs are answered by earlier waves. [] for a direct plan."""
        depth: list[int] = []
        for subtask in self.subtasks:
            depth.append(1 + max((depth[i] for i in subtask.needs), default=-1))
        return [[i for i, d in enumerate(depth) if d == level] for level in range(max(depth, default=-1) + 1)]


DIRECT = Plan()


def parse_plan(text: str) -> Plan:
    """Reads a plan from a decomposer's text; any text is either a plan or `PlanParseError`, never another exception.

    A line is a subtask if it is numbered ("1. ...", "Step 2: ...", "- 3) ..."); other lines are chatter. Needs come
    from "(needs: 1, 2)", else from mentions of "step 1" or "#1"; else "the result", "the total" and the like mean the
    step before. A need that is not an earlier subtask is dropped. A lone DIRECT line is the direct plan, and so is a
    list of a single subtask: with nothing to combine, decomposing only costs.
    """
    numbered: list[tuple[int, str]] = []
    for line in text.splitlines():
        if _DIRECT.match(line) and not numbered:
            return DIRECT
        if match := _NUMBERED.match(line):
            numbered.append((int(match[1]), match[2]))
    if not numbered:
        raise PlanParseError(f"no numbered step and no DIRECT in the decomposer's text {text[:80]!r}")
    if len(numbered) > MAX_SUBTASKS:
        raise PlanParseError(f"{len(numbered)} steps; a plan has at most {MAX_SUBTASKS}")
    if len(numbered) == 1:
        return DIRECT
    index_of: dict[int, int] = {}
    subtasks: list[Subtask] = []
    for number, body in numbered:
        body, mentioned = _split_needs(body)
        if not body:
            continue
        needs = (
            {index_of[n] for n in mentioned if n in index_of}
            if mentioned is not None
            else _implied_needs(body, len(subtasks))
        )
        index_of[number] = len(subtasks)
        subtasks.append(Subtask(body, tuple(sorted(needs))))
    if len(subtasks) < 2:
        return DIRECT
    return Plan(tuple(subtasks))


def format_plan(plan: Plan) -> str:
    """The canonical text of a plan: what a decomposer is trained to write. `parse_plan(format_plan(p)) == p`."""
    if plan.is_direct:
        return "DIRECT"
    lines = []
    for number, subtask in enumerate(plan.subtasks, start=1):
        needs = f" (needs: {', '.join(str(i + 1) for i in subtask.needs)})" if subtask.needs else ""
        if not needs and (_STEP_REFERENCE.search(subtask.text) or _implied_needs(subtask.text, number - 1)):
            needs = " (needs: none)"
        lines.append(f"{number}. {subtask.text}{needs}")
    return "\n".join(lines)


def _implied_needs(body: str, index: int) -> set[int]:
    """The step before, for a text that speaks of "the result" without saying whose."""
    return {index - 1} if index > 0 and _IMPLIED.search(body) else set()


def _split_needs(body: str) -> tuple[str, list[int] | None]:
    """Body without its needs clause, and the step numbers it refers to; None where it names none at all."""
    if match := _NEEDS.search(body):
        return body[: match.start()].strip(), [int(n) for n in re.findall(r"\d+", match[1])]
    mentioned = [int(n) for match in _STEP_REFERENCE.finditer(body) for n in re.findall(r"\d+", match[0])]
    return body, mentioned or None
