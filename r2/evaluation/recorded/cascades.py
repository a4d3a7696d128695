"""Cascades on recorded answers: the search of r2/evaluation/cascades.py as methods of the table.

The cascades of the search's frontier are the settings, cheapest first, so that which one is played is chosen on the
rows it was searched on.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from r2.evaluation.cascades import Cascade, agreement_cascades, confidence_cascades
from r2.evaluation.recorded.method import TableMethod, TablePolicy
from r2.evaluation.recorded.table import OutcomeTable, Question, Replies

AGREEMENT, CONFIDENCE = "agreement_cascade", "confidence_cascade"


@dataclass(frozen=True, slots=True)
class _Cascades:
    settings: Sequence[str]
    models: tuple[str, ...]
    cascades: Sequence[Cascade]

    def play(self, question: Question, setting: int) -> str:
        """The answer is that of the last model asked that gave a result; of the first one where none did."""
        cascade = self.cascades[setting]
        answers = self.models[cascade.order[0]]
        seen: set[int] = set()
        for place in cascade.order:
            attempt = question.ask(self.models[place])
            if attempt.result is None:
                continue
            answers = attempt.arm
            if cascade.threshold is None:
                if attempt.result in seen:
                    break
            elif attempt.confidence is not None and attempt.confidence >= cascade.threshold:
                break
            seen.add(attempt.result)
        return answers


def agreement_cascade() -> TableMethod:
    """Asks in a fixed order and stops at the first two that agree; order and length (up to four) from the fitting
    rows."""
    return TableMethod(AGREEMENT, "cascade", _fit_agreement, needs="results")


def confidence_cascade() -> TableMethod:
    """Asks in a fixed order and stops at the first model that is sure enough."""
    return TableMethod(CONFIDENCE, "cascade", _fit_confidence, needs="confidences")


def _fit_agreement(table: OutcomeTable) -> TablePolicy:
    replies = table.replies
    assert replies is not None, "the method is left out where there are none"
    return _policy(table, agreement_cascades(table.is_correct_MP, table.cost_usd_MP, replies.results))


def _fit_confidence(table: OutcomeTable) -> TablePolicy:
    confidence = table.confidence_MP
    assert confidence is not None, "the method is left out where there are none"
    replies = table.replies or Replies(np.zeros(table.is_correct_MP.shape, np.int64))
    found = confidence_cascades(table.is_correct_MP, table.cost_usd_MP, replies.results, confidence)
    return _policy(table, found)


def _policy(table: OutcomeTable, found: Sequence[Cascade]) -> TablePolicy:
    names = [
        ", ".join(table.models[place] for place in one.order)
        + ("" if one.threshold is None else f" at {one.threshold:g}")
        for one in found
    ]
    return _Cascades(tuple(names), table.models, tuple(found))
