"""What a method on recorded answers is: a fit on checked rows, which gives a policy, which plays questions.

A new method is one `TableMethod` in the list of `r2/training/recorded_methods.py`; cross-fitting, operating points and
the table of figures are the same for all (r2/evaluation/recorded/crossfit.py).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from r2.evaluation.recorded.table import OutcomeTable, Question

Needs = Literal["", "results", "confidences"]
VALUES = (0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 13.0, 16.0, 20.0, 26.0, 34.0, 50.0, 75.0, 100.0, 200.0)
"""Prices of a right answer that methods with this knob are tried at, in multiples of `cost_ref`."""
EQUAL = 0.01
"""Accuracy by which the constant that gives `cost_ref` may be below the best one."""


class TablePolicy(Protocol):
    """A fitted method. It may only know what it was fitted on, and what a `Question` shows it."""

    @property
    def settings(self) -> Sequence[str]:
        """Names of the values of its knob, at least one."""

    def play(self, question: Question, setting: int) -> str:
        """Asks models of the question, at least one, and returns the one whose answer is given. All settings of one
        question are played one after the other, each on a fresh `Question`."""


@dataclass(frozen=True, slots=True)
class TableMethod:
    """A row of the table.

    `name` is unique. `kind` groups rows ("constant", "cascade"). `inner_folds`: the setting is chosen on rows of the
    training side that the policy had not seen, by cross-fitting in so many folds; its settings must then be the same
    at every fit. 0: on the rows it was fitted on, which is how rules and cascades are searched. `needs` says what the
    table must hold. `start`: the name of the method that it is before its own training, and is held against. `family`:
    what its rows of all seeds have in common; "" where it has none.
    """

    name: str
    kind: str
    fit: Callable[[OutcomeTable], TablePolicy]
    inner_folds: int = 0
    needs: Needs = ""
    start: str = ""
    family: str = ""

    def missing_in(self, table: OutcomeTable) -> str:
        """Why the method cannot be played on this table; "" where it can."""
        if self.needs == "results" and table.replies is None:
            return "the table has no replies, so that nobody knows which results agree"
        if self.needs == "confidences" and table.confidence_MP is None:
            return "the table has no confidences"
        return ""


def cost_ref_of(table: OutcomeTable) -> float:
    """The reference cost, USD per question: the mean cost of the cheapest constant that is at most `EQUAL` less
    accurate than the best one (ours: a table does not say which model is the largest, and of two that are as good as
    equal a question's price is that of the cheaper)."""
    accuracy, cost = table.is_correct_MP.mean(axis=1), table.cost_usd_MP.mean(axis=1)
    return float(cost[accuracy >= accuracy.max() - EQUAL - 1e-12].min())
