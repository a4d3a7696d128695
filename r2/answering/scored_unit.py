"""A trained scorer at one unit of today's pool: whether it fits the pool, which kind the unit is to it, and what it
believes of the pool's arms. Pure.

An arm that the scorer was not trained on comes with the profile that the untrained rule has of it. Costs are today's:
the pool's prices, the prompt at hand, and the tokens that the profile expects, exp(mu + sigma^2 / 2).
"""

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from r2.answering.attempts import Attempts
from r2.answering.beliefs import Arm
from r2.answering.choice import tuned
from r2.answering.expected_cost import call_usd
from r2.answering.lookahead import Decision, Waits, decide
from r2.answering.scored import ScoredBeliefs, key_of
from r2.answering.scorer import OTHER, SUREST, ArmProfile, KindProfile, Level, Scorer, logit
from r2.call import Message
from r2.problem import Problem
from r2.problems.kind import kind_of
from r2.roster import ModelCard

PRICE_FACTOR: Final = 2.0
"""A price that changed by more than this, either way, is another than the scorer was trained for."""
ALL_KINDS: Final = "all"
"""The kind of every question to a scorer that was trained on questions of which no kind is known."""
ANY_STEP: Final = "step"
"""The kind of a step whose text has no known form."""
PLAN_OF: Final = "plan of "
LEAST_CONFIDENCE_SD: Final = 0.05
DIFFICULTY_GRID: Final = 0.5
"""Steps of a text's difficulty that units are told apart by, in standard deviations."""
COST_GRID: Final = 0.2
"""Steps of costs, relative."""
MOST_REMEMBERED: Final = 2_000
"""Kinds of units that are remembered together with what was decided of them."""
NOBODY: Final = Problem("", "")
LOCK: Final = threading.RLock()
"""Questions are answered in several threads, and share what is worked out."""


def question_kind(problem: Problem) -> str:
    """The kind of a question as scorers know it: what its form says, else its benchmark."""
    return kind_of(problem.question) or problem.benchmark or ALL_KINDS


def plan_kind(kind: str) -> str:
    """The kind of a plan for a question of this kind."""
    return f"{PLAN_OF}{kind}"


def is_plan(kind: str) -> bool:
    """Whether the kind is that of a plan."""
    return kind.startswith(PLAN_OF)


def step_kind(task: str) -> str:
    """The kind of a step of a plan as scorers know it."""
    return kind_of(task) or ANY_STEP


def step_unit(problem: Problem, task: str, given: Sequence[str]) -> Problem:
    """A step as the scorer reads it: its text, and the earlier results that it is shown."""
    return replace(problem, question=task, context="\n".join(given), choices=(), target=None, aliases=())


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
    kept = {*worth_considering(scorer, kind, seen), *(arm.name for arm in arms if arm.name not in scorer.arms)}
    shown = [arm for arm in arms if arm.name in kept]
    costs = {}
    for arm in shown:
        costs[arm.name] = arm.cost_usd
        profile = scorer.arms.get(arm.name)
        n_tokens = None if profile is None else expected_tokens(profile.at(kind))
        if n_tokens is not None:
            card = replace(cards[arm.name], thinking_tokens=0, sent_output_limit=None)  # they are in what was measured
            costs[arm.name] = call_usd(card, prompts[arm.name], n_tokens) / v_usd
    return shared_beliefs(scorer, kind, shown, costs, scorer.difficulty(problem, kind))


def worth_considering(scorer: Scorer, kind: str, seen: Sequence[str]) -> list[str]:
    """Of the arms that it knows those on the kind's shortlist, and those that are right more often than any of them:
    where the others disagree, and being right is worth much, somebody must be left to ask."""
    listed = scorer.shortlist(kind, seen)
    best = max((scorer.arms[name].at(kind).accuracy for name in listed), default=0.0)
    return [name for name in seen if name in listed or scorer.arms[name].at(kind).accuracy > best]


def shared_beliefs(
    scorer: Scorer, kind: str, arms: Sequence[Arm], costs: Mapping[str, float], difficulty: float
) -> ScoredBeliefs:
    """What is believed of a unit of this kind and difficulty: one and the same for all units that are alike, difficulty
    and costs on a grid, so that what was worked out for one serves the others."""
    difficulty = DIFFICULTY_GRID * round(difficulty / DIFFICULTY_GRID)
    costs = {name: _on_grid(cost) for name, cost in costs.items()}
    alike = (kind, difficulty, tuple((arm.name, arm.weights) if arm.name in scorer.arms else arm for arm in arms))
    priced = (alike, tuple(costs.items()))
    with LOCK:
        if len(scorer.memory) > MOST_REMEMBERED:
            scorer.memory.clear()
        if alike not in scorer.memory:
            profiles = {
                arm.name: replace(scorer.arms[arm.name], weights=arm.weights)
                if arm.name in scorer.arms
                else profile_of(arm)
                for arm in arms
            }
            scorer.memory[alike] = ScoredBeliefs(scorer, NOBODY, kind, profiles, None, difficulty)
        if priced not in scorer.memory:
            scorer.memory[priced] = scorer.memory[alike].priced(costs)
        found: ScoredBeliefs = scorer.memory[priced]
        return found


def decided(
    beliefs: ScoredBeliefs, attempts: Attempts, horizon: int, decompose: float | None, waits: Waits = ()
) -> Decision:
    """The rule's decision, a right answer taken as 1, moved by the scorer's choice where it has one; remembered with
    the beliefs."""
    key = (frozenset(beliefs.arms), key_of(attempts), horizon, decompose, waits)
    with LOCK:
        if key not in beliefs.decisions:
            rule = decide(beliefs, attempts, 1.0, horizon, decompose, waits=waits)
            beliefs.decisions[key] = tuned(rule, beliefs, attempts)
        return beliefs.decisions[key]


def _on_grid(cost: float) -> float:
    return math.exp(COST_GRID * round(math.log(cost) / COST_GRID)) if cost > 0 else 0.0


def expected_tokens(profile: KindProfile) -> float | None:
    """Generated tokens of a call, exp(mu + sigma^2 / 2) - 1; None where no length was known in training."""
    if profile.log_tokens <= 0:
        return None
    return math.exp(profile.log_tokens + profile.log_tokens_sd**2 / 2) - 1


def profile_of(arm: Arm) -> ArmProfile:
    """The profile of an arm that the scorer has not seen, from what the pool's card says."""
    sure = [logit(level.typical, SUREST) for level in arm.levels]
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
