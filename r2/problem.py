"""A problem: one question to be answered, as read from the user's file."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Problem:
    """One row of the input.

    `problem_id` is unique in a run. `input_index` is its 0-based place in the input, which the output keeps. `target`
    is the gold answer where the user has one. `benchmark` names the check and the task wording (`r2/problems/`); ""
    means "free text, exact match". `aliases` are other answers, as right as the target. `extra` holds the user's other
    columns, carried to the output untouched.
    """

    problem_id: str
    question: str
    input_index: int = 0
    target: str | None = None
    benchmark: str = ""
    choices: tuple[str, ...] = ()
    context: str = ""
    aliases: tuple[str, ...] = ()
    extra: Mapping[str, object] = field(default_factory=dict)
