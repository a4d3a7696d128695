"""A scorer as it is served today: what a call costs follows the pool file, whatever it cost when it was trained."""

from collections.abc import Sequence
from dataclasses import replace

from r2.answering.open_unit import entry_of
from r2.answering.scorer import ArmProfile, Scorer
from r2.roster import ModelCard


def priced_today(scorer: Scorer, solvers: Sequence[ModelCard]) -> Scorer:
    """Its arms at today's prices: three prompt tokens to one generated, as prices are compared elsewhere. Arms whose
    price it does not know, or that are not in the pool, are as they were."""
    cards = {card.name: card for card in solvers}

    def priced(name: str, profile: ArmProfile) -> ArmProfile:
        card, known = cards.get(entry_of(name)), profile.price_usd_per_mtok
        then = 0.0 if known is None else 0.75 * known[0] + 0.25 * known[1]
        if card is None or then <= 0:
            return profile
        ratio = card.blended_price / then
        kinds = {kind: replace(one, cost_usd=one.cost_usd * ratio) for kind, one in profile.kinds.items()}
        return replace(profile, kinds=kinds)

    return replace(scorer, arms={name: priced(name, profile) for name, profile in scorer.arms.items()})
