"""SFT of an allocator on a table's labels, and group-relative fine-tuning by look-up (docs/method.md, section 11).

SFT is cross-entropy of the letter of the cheapest model that was right, every question in eight orders at least. GRPO
draws a letter for each rollout, each with the models in another order. A rollout's reward is 1[right] - cost / v, a
look-up; its advantage is the reward less the mean of the question's group. A KL penalty pulls to the start, exact,
since the probabilities of all letters are known. Both keep the weights that do best on questions that are not learned
from.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from r2.answering.scorer import FloatArray, IntArray
from r2.problem import Problem
from r2.training.table_allocator.arms import NO_LABEL
from r2.training.table_allocator.letters import MICRO, LetterModel, Shown
from r2.training.table_allocator.settings import AllocatorSettings

DEV = 4
"""One question in so many says which weights are kept."""


@dataclass(frozen=True, slots=True)
class Lessons:
    """Questions with each one's label (a place among the arms) and what every arm earns (questions x arms)."""

    problems: Sequence[Problem]
    labels: IntArray
    rewards: FloatArray

    def part(self, at: Sequence[int]) -> "Lessons":
        places = np.asarray(at, np.int64)
        return Lessons([self.problems[i] for i in at], self.labels[places], self.rewards[places])


@dataclass(frozen=True, slots=True)
class Curve:
    """`trained`: loss or mean reward of each step. `dev`: of the questions that are not learned from, at each look, the
    start first; higher is better. `best_step`: 0 is the start."""

    trained: list[float]
    dev: list[float]
    best_step: int


def split(lessons: Lessons, settings: AllocatorSettings) -> tuple[Lessons, Lessons]:
    """(questions to learn from, dev questions), drawn by the seed."""
    order = np.random.default_rng(settings.seed).permutation(len(lessons.problems)).tolist()
    n_dev = len(order) // DEV
    n_looked_at = None if settings.n_questions is None else settings.n_questions // (DEV - 1)
    return lessons.part(order[n_dev:][: settings.n_questions]), lessons.part(order[:n_dev][:n_looked_at])


def supervise(allocator: LetterModel, learned: Lessons, dev: Lessons, settings: AllocatorSettings) -> Curve:
    """Cross-entropy on the labels; questions without one are left out."""
    known = learned.part(np.flatnonzero(learned.labels != NO_LABEL).tolist())
    looked = dev.part(np.flatnonzero(dev.labels != NO_LABEL).tolist())
    chance = random.Random(f"sft:{settings.seed}")
    n_rows = max(settings.n_orders * len(known.problems), settings.sft_steps * settings.batch_rows)
    views: list[tuple[int, list[int]]] = []
    while len(views) < n_rows:
        passed = [(at, _drawn(allocator, chance)) for at in range(len(known.problems))]
        views += chance.sample(passed, len(passed))
    batches = [views[i : i + settings.batch_rows] for i in range(0, len(views), settings.batch_rows)]

    def step(number: int) -> Iterator[tuple[Any, float]]:
        batch = batches[number]
        prompts = [allocator.shown(known.problems[at], order) for at, order in batch]
        for places, found in allocator.in_batches(prompts):
            labels = _tensor([int(known.labels[batch[i][0]]) for i in places], found.device)
            its = found.gather(1, labels[:, None])
            yield -its.sum() / len(batch), float(-its.detach().sum()) / len(batch)

    def look() -> float:
        found = probabilities(allocator, looked.problems, settings.seed)
        return float(np.log(found[np.arange(len(found)), looked.labels]).mean())

    return _trained(allocator, len(batches), settings.sft_rate, settings.check_every, len(batches), step, look)


def fine_tune(allocator: LetterModel, start: Any, learned: Lessons, dev: Lessons, settings: AllocatorSettings) -> Curve:
    """Group-relative steps from the weights that `allocator` has; `start` is the model that KL pulls to."""
    chance, rng = random.Random(f"grpo:{settings.seed}"), np.random.default_rng(settings.seed)
    first = LetterModel(start, allocator.tokenizer, allocator.arms, allocator.cards)
    n_together = max(1, MICRO // settings.group_size)

    def step(number: int) -> Iterator[tuple[Any, float]]:
        n = min(settings.batch_questions, len(learned.problems))
        drawn = rng.choice(len(learned.problems), n, replace=False).tolist()
        drawn.sort(key=lambda at: len(learned.problems[at].question))
        n_rollouts = n * settings.group_size
        for begin in range(0, n, n_together):
            at = np.repeat(drawn[begin : begin + n_together], settings.group_size)
            prompts = [allocator.shown(learned.problems[i], _drawn(allocator, chance)) for i in at.tolist()]
            found, pulled = allocator.log_probabilities(prompts), _without_gradient(first, prompts)
            actions = draw(np.exp(found.detach().double().cpu().numpy()), rng)
            rewards = learned.rewards[at, actions].reshape(-1, settings.group_size)
            loss = policy_loss(found, pulled, actions, advantages(rewards).ravel(), settings.kl)
            yield loss / n_rollouts, float(rewards.sum()) / n_rollouts

    def look() -> float:
        chosen = probabilities(allocator, dev.problems, settings.seed).argmax(axis=1)
        return float(dev.rewards[np.arange(len(chosen)), chosen].mean())

    rate, patience = settings.grpo_rate, settings.patience
    return _trained(allocator, settings.steps, rate, settings.check_every, patience, step, look)


def advantages(rewards: FloatArray) -> FloatArray:
    """Each reward less the mean of its group (groups x rollouts). Not divided by the spread: groups that differ in
    nothing but cost would count as much as those that differ in being right."""
    return np.asarray(rewards - rewards.mean(axis=1, keepdims=True))


def policy_loss(found: Any, start: Any, actions: IntArray, gained: FloatArray, kl: float) -> Any:
    """Sum over rollouts of kl * KL(now, start) - advantage * log p(action). `found` and `start` are log-probabilities,
    rollouts x arms."""
    its = found.gather(1, _tensor(actions.tolist(), found.device)[:, None])[:, 0]
    apart = (found.exp() * (found - start)).sum()
    return kl * apart - (_tensor(gained.tolist(), found.device) * its).sum()


def draw(p: FloatArray, rng: np.random.Generator) -> IntArray:
    """One place for each row of probabilities."""
    reached = p.cumsum(axis=1) > rng.random((len(p), 1)) * p.sum(axis=1, keepdims=True)
    return np.asarray(reached.argmax(axis=1), np.int64)


def order_of(problem: Problem, n_arms: int, seed: int) -> list[int]:
    """The order in which a question is asked where nothing is learned: drawn for it, as an order seed of `r2 answer`
    does."""
    return random.Random(f"order:{seed}:{problem.problem_id}").sample(range(n_arms), n_arms)


def probabilities(allocator: LetterModel, problems: Sequence[Problem], seed: int) -> FloatArray:
    """Questions x arms, each question in one drawn order."""
    import torch

    n = len(allocator.arms)
    found = np.zeros((len(problems), n))
    with torch.no_grad():
        prompts = [allocator.shown(problem, order_of(problem, n, seed)) for problem in problems]
        for places, its in allocator.in_batches(prompts):
            found[places] = its.double().exp().cpu().numpy()
    return found


def _trained(
    allocator: LetterModel,
    n_steps: int,
    rate: float,
    check_every: int,
    patience: int,
    step: Callable[[int], Iterator[tuple[Any, float]]],
    look: Callable[[], float],
) -> Curve:
    """`step` yields parts of one step's loss, each with its part of the figure for the curve."""
    import torch

    weights = allocator.learning()
    optimizer = torch.optim.AdamW(weights, lr=rate, weight_decay=0.0)
    dev, curve, best_step, n_worse = [look()], [], 0, 0
    best = allocator.weights()
    for number in range(1, n_steps + 1):
        optimizer.param_groups[0]["lr"] = rate * min(1.0, number / 10)
        total = 0.0
        for loss, figure in step(number - 1):
            loss.backward()
            total += figure
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        curve.append(total)
        if number % check_every and number < n_steps:
            continue
        dev.append(look())
        if dev[-1] > max(dev[:-1]):
            best, best_step, n_worse = allocator.weights(), number, 0
        else:
            n_worse += 1
        if n_worse >= patience:
            break
    allocator.set_weights(best)
    return Curve(curve, dev, best_step)


def _drawn(allocator: LetterModel, chance: random.Random) -> list[int]:
    return chance.sample(range(len(allocator.arms)), len(allocator.arms))


def _without_gradient(model: LetterModel, prompts: Sequence[Shown]) -> Any:
    import torch

    with torch.no_grad():
        return model.log_probabilities(prompts)


def _tensor(values: Sequence[float], device: Any) -> Any:
    import torch

    return torch.tensor(values, device=device)
