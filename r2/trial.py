"""A trial of labelling: one candidate plan, or one allocation of the chosen plan, with how it went. Stored right or wrong."""

from dataclasses import dataclass
from typing import Literal

TrialKind = Literal["plan", "allocation"]


@dataclass(slots=True)
class Trial:
    """What was tried for one problem.

    A plan that was not executed (no plan in the teacher's text, or the same as an earlier candidate's) has `error_type` set
    and no scores. `models` names the pool entry of each subtask; `cost_usd` is what its execution costs by itself, also
    where its calls had been made by an earlier trial and were not paid again.
    """

    kind: TrialKind
    index: int
    plan: str
    n_subtasks: int = 0
    models: tuple[str, ...] = ()
    confidences: tuple[float, ...] = ()
    confidence_source: str | None = None
    conciseness: float | None = None
    practicality: float | None = None
    coherence: float | None = None
    score: float | None = None
    judge: str | None = None
    output_tokens: int = 0
    answer: str | None = None
    is_correct: bool | None = None
    cost_usd: float = 0.0
    is_target: bool = False
    error_type: str | None = None
