"""Rejection-sampling fine-tuning, the plain alternative to GRPO, to compare it with: learn to write the best of your
own texts.

Ours, as an ablation (docs/method.md, section 5): per problem G texts are sampled and executed; the best-rewarded right
one becomes a supervised row.
"""

from collections.abc import Mapping, Sequence

from r2.problems.own_check import RIGHT_FROM
from r2.training.data import ChatMessage, ChatRow
from r2.training.grpo.batch import Rollout
from r2.training.grpo.reward import weighted


def best_rows(rolled: Sequence[Rollout], weights: Mapping[str, float]) -> list[ChatRow]:
    """One row per problem that was answered right at least once: its right text with the highest reward, the earlier of
    equal ones."""
    best: dict[int, tuple[float, ChatRow]] = {}
    for one in rolled:
        reward = weighted(one.scored.terms, weights)
        if reward is None or (one.scored.terms.right or 0.0) < RIGHT_FROM:
            continue
        place = one.draw.prompt.place
        if place not in best or reward > best[place][0]:
            reply = ChatMessage(role="assistant", content=one.draw.sampled.text)
            best[place] = (reward, ChatRow(prompt=one.draw.prompt.messages, completion=[reply]))
    return [row for _, (_, row) in sorted(best.items())]
