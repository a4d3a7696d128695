"""One unit of work while it is routed by the rule: who was asked, which results came, and what may still be tried.

A unit is the question itself, or one step of a plan. No I/O; r2/answering/sequential.py drives it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from r2.answering.attempts import Attempt, Attempts
from r2.answering.beliefs import Arm, ProfileBeliefs
from r2.answering.lookahead import Waits
from r2.answering.protocol import Step
from r2.answering.same_result import is_same
from r2.answering.wanted import Again
from r2.call import Completion
from r2.problem import Problem
from r2.roster import ModelCard

if TYPE_CHECKING:
    from r2.answering.scored import ScoredBeliefs


@dataclass(slots=True)
class Tried:
    """One entry, asked once. `step` holds what it brought, form checks passed or not; `number` the result's, among the
    different ones; None where it is no result."""

    arm: str
    step: Step
    number: int | None = None
    confidence: float | None = None
    output_tokens: int | None = None


@dataclass(slots=True)
class Unit:
    """`step` is filled when the unit is settled. `cards`: who can be asked, by the arm's name. `decompose`: what
    decomposing is worth, in units of `v_usd`; None where it cannot be done."""

    problem: Problem
    step: Step
    beliefs: "ProfileBeliefs | ScoredBeliefs"
    cards: Mapping[str, ModelCard]
    v_usd: float
    subtask_index: int | None
    is_answer: bool
    decompose: float | None = None
    waits: Waits = ()
    """What waiting for an arm costs, in units of `v_usd`."""
    wants_plan: bool = False
    p_plan: float = 0.0
    """P(the decomposer's plan is right)."""
    q: float = 0.0
    """P(the accepted result is right), once it is settled."""
    n_asked: int = 0
    """Entries asked so far."""
    tried: list[Tried] = field(default_factory=list)
    again: Again = field(default_factory=Again)
    closed: set[str] = field(default_factory=set)
    """Entries that are not asked although they could be."""
    refused: set[int] = field(default_factory=set)
    """Numbers of results that the user's verifier refused."""
    unsure: set[int] = field(default_factory=set)
    """Numbers of results below the floor of confidence, said already."""
    last_check: str = "empty"
    last_completion: Completion | None = None

    def plan_is(self, arm: Arm) -> None:
        """What decomposing is worth: one more arm, or with a trained scorer, which knows of none, the end."""
        if isinstance(self.beliefs, ProfileBeliefs):
            self.beliefs = self.beliefs.with_arm(arm)
        else:
            self.decompose = round(arm.p_right - arm.cost_usd, 3)

    def attempts(self) -> Attempts:
        """What the rule sees: refused results are none, and confidences those that beliefs tell apart."""
        shown = self._shown()
        return tuple(
            Attempt(
                one.arm,
                None if one.number is None or one.number in self.refused else shown[one.number],
                self.beliefs.told(one.arm, one.confidence),
                self.beliefs.told_length(one.output_tokens),
            )
            for one in self.tried
        )

    def _shown(self) -> dict[int, int]:
        """Number of a result -> the rule's number of it: in the order of appearance, refused ones left out."""
        numbers = dict.fromkeys(one.number for one in self.tried if one.number is not None)
        return {number: i for i, number in enumerate(n for n in numbers if n not in self.refused)}

    def number_of(self, shown: int) -> int:
        """The number of the result that the rule knows by `shown`."""
        return next(number for number, its in self._shown().items() if its == shown)

    def keep(
        self,
        arm: str,
        answering: str,
        step: Step,
        *,
        is_result: bool,
        confidence: float | None,
        output_tokens: int | None = None,
    ) -> None:
        """Notes what asking `arm` brought; `answering` is the entry that did answer. An entry that has answered before
        brings no further evidence."""
        if answering != arm:
            self.tried.append(Tried(arm, step))
        before = next((one for one in self.tried if one.arm == answering), None)
        if before is not None:
            if before.number is not None:
                return
            self.tried.remove(before)
        number = self._number(step) if is_result else None
        self.tried.append(Tried(answering, step, number, confidence, output_tokens))

    def _number(self, step: Step) -> int:
        known: dict[int, str] = {}
        for one in self.tried:
            if one.number is not None:
                known.setdefault(one.number, one.step.text or "")
        if self.beliefs.has_equality:
            for number, text in known.items():
                if is_same(self.problem, text, step.text or "", is_answer=self.is_answer):
                    return number
        return len(known)

    def supporters(self, number: int) -> list[Tried]:
        return [one for one in self.tried if one.number == number]

    def settle(self, chosen: Step) -> None:
        """The step gets what `chosen` holds."""
        self.step.model, self.step.text, self.step.value = chosen.model, chosen.text, chosen.value
        self.step.is_cut, self.step.misfit, self.step.error_type = chosen.is_cut, chosen.misfit, None

    @property
    def doubtful(self) -> Step | None:
        """The last text that failed a check, or that was refused: better than none."""
        return next((one.step for one in reversed(self.tried) if one.step.text), None)
