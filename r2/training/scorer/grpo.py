"""Group-relative fine-tuning of the scorer's choices on recorded answers (docs/method.md, section 11; ours).

What is tuned are logits on top of the rule's values: an action's score is V / v + logit, in right answers. The
probabilities of the scorer never move, so that they stay calibrated. For each question G routes are drawn from
softmax(score / T); a route's reward is 1[right] - cost / v, a look-up in the table; its advantage is the reward less
the group's mean. The gradient pulls back towards the start with a KL penalty. The plans that give the values come from
scorers that had not seen the question.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from r2.answering.attempts import Attempts
from r2.answering.scorer import FloatArray
from r2.evaluation.recorded.crossfit import folds_of
from r2.evaluation.recorded.method import VALUES, TableMethod
from r2.evaluation.recorded.table import OutcomeTable, Question
from r2.training.scorer.choices import CHOICE_FEATURES, Turn, turn_of
from r2.training.scorer.plan import ScoredPlan
from r2.training.scorer.table_method import MIDDLE, N_INNER, SCORER, ScorerPolicy, fit_policy

TUNED = f"{SCORER}_grpo"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorerGrpoSettings:
    """`group_size` routes of each question; `temperature` in right answers; `kl` weighs how far it leaves the start."""

    steps: int = 60
    batch_size: int = 64
    group_size: int = 8
    temperature: float = 0.02
    kl: float = 0.02
    learning_rate: float = 0.003
    seed: int = 0


@dataclass(slots=True)
class Tuned:
    """`weights` over `CHOICE_FEATURES`. `curve`: mean reward of each step's routes."""

    weights: FloatArray
    curve: list[float]


def tune(
    table: OutcomeTable,
    plan_of: Callable[[int], ScoredPlan],
    setting: int,
    v_usd: float,
    settings: ScorerGrpoSettings,
    places: Sequence[int] | None = None,
) -> Tuned:
    """Weights after `settings.steps` steps over the table's questions (`places`: these rows alone), at the price
    `v_usd`, which is the plans' price of the number `setting`."""
    rng = np.random.default_rng(settings.seed)
    weights = np.zeros(len(CHOICE_FEATURES))
    first, second = np.zeros_like(weights), np.zeros_like(weights)
    known: dict[tuple[int, Attempts], Turn] = {}
    curve: list[float] = []
    among = np.arange(table.n_problems) if places is None else np.asarray(places)
    for step in range(1, settings.steps + 1):
        gradient, rewards = np.zeros_like(weights), []
        batch = rng.choice(among, min(settings.batch_size, len(among)), replace=False)
        for at in batch.tolist():
            plan = plan_of(at)
            routes = [
                _drawn(table, at, plan, setting, v_usd, weights, settings.temperature, rng, known)
                for _ in range(settings.group_size)
            ]
            reward = np.array([one[0] for one in routes])
            rewards.append(reward.mean())
            for advantage, (_, score_gradient, kl_gradient) in zip(reward - reward.mean(), routes, strict=True):
                gradient += advantage * score_gradient - settings.kl * kl_gradient
        gradient /= len(batch) * settings.group_size
        first = 0.9 * first + 0.1 * gradient
        second = 0.99 * second + 0.01 * gradient**2
        up = first / (1 - 0.9**step) / (np.sqrt(second / (1 - 0.99**step)) + 1e-8)
        weights = weights + settings.learning_rate * up
        curve.append(float(np.mean(rewards)))
    return Tuned(weights, curve)


def tuned_method(settings: ScorerGrpoSettings) -> TableMethod:
    """The scorer after group-relative fine-tuning at the middle price."""
    return TableMethod(TUNED, "learned", partial(tuned_policy, settings=settings), inner_folds=N_INNER)


def tuned_policy(table: OutcomeTable, settings: ScorerGrpoSettings) -> ScorerPolicy:
    """A scorer fitted on all rows, with choices tuned on the plans of scorers that had not seen the question."""
    start = fit_policy(table, settings.seed)
    folds = folds_of(table, N_INNER, salt="grpo")
    plans: dict[int, ScoredPlan] = {}
    for fold in np.unique(folds):
        unseen = fit_policy(table.part(np.flatnonzero(folds != fold)), settings.seed)
        unseen.cost_ref_usd = start.cost_ref_usd
        for at in np.flatnonzero(folds == fold).tolist():
            plans[at] = unseen.plan_of(Question(table, at))
    at_v = VALUES.index(MIDDLE)
    found = tune(table, plans.__getitem__, at_v, MIDDLE * start.cost_ref_usd, settings)
    return ScorerPolicy(start.scorer, start.cost_ref_usd, found.weights)


def _drawn(
    table: OutcomeTable,
    at: int,
    plan: ScoredPlan,
    setting: int,
    v_usd: float,
    weights: FloatArray,
    temperature: float,
    rng: np.random.Generator,
    known: dict[tuple[int, Attempts], Turn],
) -> tuple[float, FloatArray, FloatArray]:
    """(reward of one route, gradient of its log-probability, gradient of its divergence from the start)."""
    question = Question(table, at)
    of_score, of_kl = np.zeros_like(weights), np.zeros_like(weights)
    while True:
        key = (at, question.attempts)
        if key not in known:
            known[key] = turn_of(plan, question.attempts, setting, v_usd)
        turn = known[key]
        p = _softmax((turn.base_A + turn.features_AF @ weights) / temperature)
        start = _softmax(turn.base_A / temperature)
        action = int(rng.choice(len(p), p=p))
        mean = p @ turn.features_AF
        of_score += (turn.features_AF[action] - mean) / temperature
        apart = np.log(np.maximum(p, 1e-12)) - np.log(np.maximum(start, 1e-12))
        of_kl += (p * (apart - p @ apart)) @ turn.features_AF / temperature
        arm = turn.actions[action]
        if arm is None:
            break
        question.ask(arm)
    answers = plan.accepted(question.attempts) if question.attempts else None
    is_right = 0.0 if answers is None else table.is_correct_MP[table.models.index(answers), at]
    return float(is_right - question.cost_usd / v_usd), of_score, of_kl


def _softmax(scores: FloatArray) -> FloatArray:
    each = np.exp(scores - scores.max())
    return np.asarray(each / each.sum())
