"""A trained scorer at one unit of today's pool: whether it fits the pool, which kind the unit is to it, and what it
believes of the pool's arms. Pure.

An arm that the scorer was not trained on comes with the profile that the untrained rule has of it. Costs are today's:
the pool's prices, the prompt at hand, and the tokens that the profile expects, exp(mu + sigma^2 / 2).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from r2.answering.beliefs import Arm
from r2.answering.expected_cost import call_usd
from r2.answering.scored import ScoredBeliefs
from r2.answering.scorer import OTHER, ArmProfile, KindProfile, Level, Scorer, logit
from r2.call import Message
from r2.problem import Problem
from r2.roster import ModelCard

PRICE_FACTOR: Final = 2.0
"""A price that changed by more than this, either way, is another than the scorer was trained for."""
ALL_KINDS: Final = "all"
"""The kind of every question to a scorer that was trained on questions of which no kind is known."""
LEAST_CONFIDENCE_SD: Final = 0.05


def misfit(scorer: Scorer, solvers: Sequence[ModelCard]) -> str:
    """Why the scorer cannot be used for a pool with these solvers, as a sentence; "" where it can.

    It cannot where it has not seen more than half of them, or where the price of one that it has seen, three prompt
    tokens to one generated, changed by more than `PRICE_FACTOR`. Prices that were not stored with it are not compared.
    """
    unseen = [card.name for card in solvers if card.name not in scorer.arms]
    if 2 * len(unseen) > len(solvers):
        return (
            f"it was trained on {len(solvers) - len(unseen)} of the {len(solvers)} solvers, which is less than half; "
            f"not on {', '.join(unseen[:4])}{', ...' if len(unseen) > 4 else ''}"
        )
    for card in solvers:
        known = scorer.arms[card.name].price_usd_per_mtok if card.name in scorer.arms else None
        if known is None:
            continue
        then, now = 0.75 * known[0] + 0.25 * known[1], card.blended_price
        if max(then, now) > PRICE_FACTOR * min(then, now):
            return (
                f"the price of {card.name} was {then:g} USD per million tokens when it was trained, and is {now:g}: "
                f"more than {PRICE_FACTOR:g} times apart"
            )
    return ""


def kind_for(scorer: Scorer, kinds: Sequence[str], *, is_question: bool) -> str | None:
    """The first of the unit's kinds, the most telling first, that the scorer was trained on; None: it knows nothing of
    such units."""
    wanted = [kind for kind in kinds if kind] + [ALL_KINDS] * is_question
    return next((kind for kind in wanted if kind in scorer.kinds), None)


def scored_beliefs(
    scorer: Scorer,
    problem: Problem,
    kind: str,
    arms: Sequence[Arm],
    cards: Mapping[str, ModelCard],
    prompts: Mapping[str, Sequence[Message]],
    v_usd: float,
) -> ScoredBeliefs:
    """`arms` as the untrained rule sees them; `cards` and `prompts` by the arm's name. `problem` holds the unit's text.
    Costs are in units of `v_usd`. Arms that the scorer knows and thinks little of at this kind are left out."""
    seen = [arm.name for arm in arms if arm.name in scorer.arms]
    kept = {*scorer.shortlist(kind, seen), *(arm.name for arm in arms if arm.name not in scorer.arms)}
    profiles, costs = {}, {}
    for arm in arms:
        if arm.name not in kept:
            continue
        profile = scorer.arms.get(arm.name)
        if profile is None:
            profiles[arm.name] = profile_of(arm)
            continue
        profiles[arm.name] = replace(profile, weights=arm.weights)
        n_tokens = expected_tokens(profile.at(kind))
        if n_tokens is not None:
            card = replace(cards[arm.name], thinking_tokens=0, sent_output_limit=None)  # they are in what was measured
            costs[arm.name] = call_usd(card, prompts[arm.name], n_tokens) / v_usd
        else:
            costs[arm.name] = arm.cost_usd
    return ScoredBeliefs(scorer, problem, kind, profiles, costs)


def expected_tokens(profile: KindProfile) -> float | None:
    """Generated tokens of a call, exp(mu + sigma^2 / 2) - 1; None where no length was known in training."""
    if profile.log_tokens <= 0:
        return None
    return math.exp(profile.log_tokens + profile.log_tokens_sd**2 / 2) - 1


def profile_of(arm: Arm) -> ArmProfile:
    """The profile of an arm that the scorer has not seen, from what the pool's card says."""
    sure = [logit(level.typical) for level in arm.levels]
    return ArmProfile(
        {
            OTHER: KindProfile(
                n=0,
                accuracy=arm.p_right,
                cost_usd=arm.cost_usd,
                confidence=float(np.mean(sure)) if sure else 0.0,
                confidence_sd=float(np.std(sure) + LEAST_CONFIDENCE_SD) if sure else 1.0,
                levels=tuple(Level(one.least, one.typical, one.if_right, one.if_wrong) for one in arm.levels),
            )
        },
        arm.weights,
    )
