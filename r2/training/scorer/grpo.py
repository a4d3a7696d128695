"""Group-relative fine-tuning of a scorer's choices by look-up (docs/method.md, section 11; ours).

What is tuned are logits on top of the rule's values: an action's score is V / v + logit, in right answers. The
probabilities of the scorer never move, so that they stay calibrated. For each question, at a price drawn for it, G
routes are drawn from softmax(score / T); a route's reward is 1[right] - cost / v, a look-up in the table; its advantage
is the reward less the group's mean. The gradient pulls back towards the start with a KL penalty. Some questions are not
learned from: the weights are kept that do best on them, which may be those of the start.

The plans that give the values come from scorers that had not seen the question.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from r2.answering.choice import CHOICE_FEATURES
from r2.answering.scorer import FloatArray, IntArray
from r2.evaluation.recorded.crossfit import folds_of
from r2.evaluation.recorded.method import VALUES, TableMethod
from r2.evaluation.recorded.table import OutcomeTable
from r2.training.scorer.choice_states import States, TableStates
from r2.training.scorer.table_method import N_INNER, SCORER, ScorerPolicy, fit_policy
from r2.training.scorer.tree import MAX_ASKED

TUNED = f"{SCORER}_grpo"
PRICES = tuple(number for number, value in enumerate(VALUES) if 5 <= value <= 100)
"""Numbers of the prices that questions are tuned at."""
DEV = 4
"""One question in so many says when to stop."""
LEAST = 0.01
"""An action that the start would draw more seldom is not drawn."""
N_UNSEEN = 2
"""Folds in which scorers are fitted that have not seen the questions they plan."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorerGrpoSettings:
    """`group_size` routes of each question; `temperature` in right answers; `kl` weighs how far it leaves the start.
    The weights are looked at every `check_every` steps, and training ends when `patience` looks found none better."""

    steps: int = 120
    batch_size: int = 256
    group_size: int = 8
    temperature: float = 0.005
    kl: float = 0.02
    learning_rate: float = 0.002
    check_every: int = 10
    patience: int = 6
    seed: int = 0


@dataclass(slots=True)
class Tuned:
    """`weights` over `CHOICE_FEATURES`. `curve`: mean reward of each step's routes. `dev_curve`: mean reward of the
    likeliest route of the questions that were not learned from, at each look, the start first. `best_step`: 0 is the
    start."""

    weights: FloatArray
    curve: list[float]
    dev_curve: list[float]
    best_step: int


def tune(
    states: States, settings: ScorerGrpoSettings, prices: Sequence[int] = PRICES, dev: Sequence[int] | None = None
) -> Tuned:
    """Weights learned from the questions of `states` that are not in `dev` (None: one in `DEV`, drawn by the seed), at
    the prices of these numbers."""
    rng = np.random.default_rng(settings.seed)
    order = rng.permutation(states.n_questions)
    held = np.sort(order[: states.n_questions // DEV]) if dev is None else np.asarray(dev, np.int64)
    learned = np.setdiff1d(np.arange(states.n_questions), held)
    weights = np.zeros(len(CHOICE_FEATURES))
    first, second = np.zeros_like(weights), np.zeros_like(weights)
    best, best_step, curve = weights, 0, []
    dev_curve = [likeliest_reward(states, held, weights, prices)]
    n_worse = 0
    for step in range(1, settings.steps + 1):
        at = rng.choice(learned, min(settings.batch_size, len(learned)), replace=False)
        price = rng.choice(np.asarray(prices), len(at))
        gradient, reward = _gradient(states, at, price, weights, settings, rng)
        first = 0.9 * first + 0.1 * gradient
        second = 0.99 * second + 0.01 * gradient**2
        up = first / (1 - 0.9**step) / (np.sqrt(second / (1 - 0.99**step)) + 1e-8)
        weights = weights + settings.learning_rate * up
        curve.append(reward)
        if step % settings.check_every and step < settings.steps:
            continue
        dev_curve.append(likeliest_reward(states, held, weights, prices))
        if dev_curve[-1] > max(dev_curve[:-1]):
            best, best_step, n_worse = weights, step, 0
        else:
            n_worse += 1
        if n_worse >= settings.patience:
            break
    return Tuned(best, curve, dev_curve, best_step)


def likeliest_reward(states: States, at: IntArray, weights: FloatArray, prices: Sequence[int]) -> float:
    """Mean reward of the likeliest routes of these questions, over the prices."""
    if not len(at):
        return 0.0
    every = np.tile(at, len(prices))
    price = np.repeat(np.asarray(prices), len(at))
    state = np.zeros(len(every), np.int64)
    going = np.arange(len(every))
    for _ in range(MAX_ASKED + 1):
        base, found = states.actions(every[going], state[going], price[going])
        action = (base + found @ weights).argmax(axis=1)
        goes_on = action < base.shape[1] - 1
        state[going[goes_on]] |= 1 << action[goes_on]
        going = going[goes_on]
    return float(states.rewards(every, state, price).mean())


def tuned_method(settings: ScorerGrpoSettings) -> TableMethod:
    """The scorer after group-relative fine-tuning."""
    fit = partial(tuned_policy, settings=settings)
    return TableMethod(TUNED, "learned", fit, inner_folds=N_INNER, start=SCORER)


def tuned_policy(table: OutcomeTable, settings: ScorerGrpoSettings) -> ScorerPolicy:
    """A scorer fitted on all rows, with choices tuned on the plans of scorers that had not seen the question."""
    start = fit_policy(table, settings.seed)
    found = tune(unseen_states(table, start.cost_ref_usd, settings.seed), settings)
    return ScorerPolicy(replace(start.scorer, choice=tuple(found.weights.tolist())), start.cost_ref_usd)


def unseen_states(table: OutcomeTable, cost_ref_usd: float, seed: int) -> TableStates:
    """The table's questions, each planned by a scorer that was fitted on other ones."""
    folds = folds_of(table, N_UNSEEN, salt="grpo")
    numbers = np.unique(folds)
    policies = [fit_policy(table.part(np.flatnonzero(folds != fold)), seed) for fold in numbers]
    for policy in policies:
        policy.cost_ref_usd = cost_ref_usd
    return TableStates(table, policies, np.searchsorted(numbers, folds))


def _gradient(
    states: States,
    at: IntArray,
    price: IntArray,
    weights: FloatArray,
    settings: ScorerGrpoSettings,
    rng: np.random.Generator,
) -> tuple[FloatArray, float]:
    """(gradient of the objective, mean reward) over `group_size` routes of each of these questions."""
    every, prices = np.repeat(at, settings.group_size), np.repeat(price, settings.group_size)
    state = np.zeros(len(every), np.int64)
    of_score, of_kl = np.zeros((len(every), len(weights))), np.zeros((len(every), len(weights)))
    going = np.arange(len(every))
    for _ in range(MAX_ASKED + 1):
        base, found = states.actions(every[going], state[going], prices[going])
        start = _softmax(base / settings.temperature)
        base = np.where(start < LEAST, -np.inf, base)
        p = _softmax((base + found @ weights) / settings.temperature)
        start = _softmax(base / settings.temperature)
        action = (p.cumsum(axis=1) > rng.random((len(p), 1))).argmax(axis=1)
        mean = np.einsum("na,naf->nf", p, found)
        of_score[going] += (found[np.arange(len(p)), action] - mean) / settings.temperature
        apart = np.log(np.maximum(p, 1e-12)) - np.log(np.maximum(start, 1e-12))
        weighed = p * (apart - (p * apart).sum(axis=1, keepdims=True))
        of_kl[going] += np.einsum("na,naf->nf", weighed, found) / settings.temperature
        goes_on = action < base.shape[1] - 1
        state[going[goes_on]] |= 1 << action[goes_on]
        going = going[goes_on]
    rewards = states.rewards(every, state, prices).reshape(len(at), settings.group_size)
    advantage = (rewards - rewards.mean(axis=1, keepdims=True)).reshape(-1, 1)
    return np.asarray((advantage * of_score - settings.kl * of_kl).mean(axis=0)), float(rewards.mean())


def _softmax(scores: FloatArray) -> FloatArray:
    each = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(each / each.sum(axis=1, keepdims=True))
