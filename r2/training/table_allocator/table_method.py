"""The language-model allocator as methods on recorded answers (r2/evaluation/recorded/): after SFT, and after
group-relative fine-tuning on top of it.

Its knob is `b`, as of the served allocator: the highest log p - b * ln(price). It asks one model and accepts what that
says.
"""

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from r2.answering.allocation import shifted_choice
from r2.evaluation.recorded.method import TableMethod, cost_ref_of
from r2.evaluation.recorded.table import OutcomeTable, Question
from r2.training.table_allocator.arms import cards_of, cheapest_right, rewards_of, shown_arms
from r2.training.table_allocator.learning import Lessons, fine_tune, probabilities, split, supervise
from r2.training.table_allocator.letters import LetterModel, words_of
from r2.training.table_allocator.settings import TINY, AllocatorSettings, settings_for

ALLOCATOR, ALLOCATOR_TUNED = "allocator_sft", "allocator_grpo"
KNOBS = tuple(round(-3 + 0.1 * step, 1) for step in range(41))
"""Values of `b`, -3 to 1: below 0 dearer models win."""
N_INNER = 2
Load = Callable[[str, Sequence[str], int], tuple[Any, Any]]
"""(base, words of its tokenizer if one is made, seed) -> (model, tokenizer)"""


@dataclass(slots=True)
class AllocatorPolicy:
    """`settings` are the values of `b`. The probabilities of the question that is being played are kept, since all
    settings of one question come one after the other."""

    allocator: LetterModel
    seed: int
    settings: Sequence[str] = tuple(f"b = {b:g}" for b in KNOBS)
    _playing: tuple[str, Mapping[str, float]] = field(default=("", {}))

    def play(self, question: Question, setting: int) -> str:
        choice = shifted_choice(self._log_probabilities(question), self.allocator.prices(), KNOBS[setting])
        return question.ask(choice).arm

    def _log_probabilities(self, question: Question) -> Mapping[str, float]:
        problem = question.problem
        if self._playing[0] != problem.question:
            [p] = probabilities(self.allocator, [problem], self.seed)
            found = dict(zip(self.allocator.arms, np.log(p).tolist(), strict=True))
            self._playing = problem.question, {arm: found[arm] for arm in found if arm in question.models}
        return self._playing[1]


def allocator_method(seed: int, load: Load, base: str = TINY) -> TableMethod:
    """The allocator after SFT."""
    fit = partial(fit_supervised, load=load, settings=settings_for(base, seed))
    return TableMethod(_named(ALLOCATOR, base), "learned", fit, inner_folds=N_INNER)


def tuned_allocator_method(seed: int, load: Load, base: str = TINY) -> TableMethod:
    """The allocator after SFT and group-relative fine-tuning."""
    fit = partial(fit_tuned, load=load, settings=settings_for(base, seed))
    start = _named(ALLOCATOR, base)
    return TableMethod(_named(ALLOCATOR_TUNED, base), "learned", fit, inner_folds=N_INNER, start=start)


def fit_supervised(table: OutcomeTable, load: Load, settings: AllocatorSettings) -> AllocatorPolicy:
    """An allocator that learned the labels of the table."""
    return AllocatorPolicy(_supervised(table, load, settings), settings.seed)


def fit_tuned(table: OutcomeTable, load: Load, settings: AllocatorSettings) -> AllocatorPolicy:
    """The same allocator, after it learned from what its choices earn."""
    allocator = _supervised(table, load, settings)
    start = copy.deepcopy(allocator.model).requires_grad_(False)
    fine_tune(allocator, start, *split(lessons_of(table, allocator.arms, settings), settings), settings)
    return AllocatorPolicy(allocator, settings.seed)


def lessons_of(table: OutcomeTable, arms: Sequence[str], settings: AllocatorSettings) -> Lessons:
    """The table's questions without their gold answers."""
    problems = [Question(table, at).problem for at in range(table.n_problems)]
    v_usd = settings.value * cost_ref_of(table)
    return Lessons(problems, cheapest_right(table, arms), rewards_of(table, arms, v_usd))


def _supervised(table: OutcomeTable, load: Load, settings: AllocatorSettings) -> LetterModel:
    arms = shown_arms(table)
    cards = cards_of(table, arms)
    lessons = lessons_of(table, arms, settings)
    words = words_of(lessons.problems, [cards[arm] for arm in arms])
    model, tokenizer = load(settings.base, words, settings.seed)
    allocator = LetterModel(model, tokenizer, arms, cards)
    allocator.train_last(settings.trained_layers)
    key = _digest(table, settings)
    if key not in _STARTS:
        supervise(allocator, *split(lessons, settings), settings)
        _STARTS[key] = allocator.weights()
    allocator.set_weights(_STARTS[key])
    return allocator


_STARTS: dict[str, Sequence[Any]] = {}
"""What SFT learned in this process, by rows and settings: the tuned allocator of the same rows starts there."""


def _digest(table: OutcomeTable, settings: AllocatorSettings) -> str:
    said = repr((settings, table.models, [problem.question for problem in table.problems]))
    arrays = table.is_correct_MP.tobytes() + table.cost_usd_MP.tobytes()
    return hashlib.sha256(said.encode("utf-8", "surrogatepass") + arrays).hexdigest()


def _named(name: str, base: str) -> str:
    return name if base == TINY else f"{name}:{base}"
