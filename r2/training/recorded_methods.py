"""The methods that are compared on recorded answers, in the order of the table; here because some of them are trained.

A further method is one more line of `recorded_methods`: a `TableMethod` whose `fit` gives a policy
(r2/evaluation/recorded/method.py).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from r2.answering.query_router import QueryRouter, pick
from r2.errors import ConfigError
from r2.evaluation.recorded.cascades import agreement_cascade, confidence_cascade
from r2.evaluation.recorded.counted import counted
from r2.evaluation.recorded.fixed import benchmark_rule, best_constant, constant
from r2.evaluation.recorded.method import TableMethod, TablePolicy
from r2.evaluation.recorded.table import OutcomeTable, Question
from r2.settings import MODELS_DIR
from r2.training.fit_query_router import fit_query_router
from r2.training.scorer.grpo import TUNED, ScorerGrpoSettings, tuned_method
from r2.training.scorer.table_method import SCORER, scorer_method
from r2.training.table_allocator.table_method import (
    ALLOCATOR,
    ALLOCATOR_TUNED,
    Load,
    allocator_method,
    tuned_allocator_method,
)

QUERY_ROUTER = "query_router"
THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.88, 0.9, 0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 1.0)
"""Probabilities of being right from which the query router takes a cheaper model."""


def recorded_methods(
    models: Sequence[str], names: Sequence[str] = (), n_seeds: int = 1, models_dir: Path = MODELS_DIR
) -> tuple[TableMethod, ...]:
    """Every model as a constant, and the methods of these names, trained ones once for each of the seeds 0 ..
    `n_seeds` - 1; without a name all but those of `LONG`, which take many times as long to fit. `NAME:BASE` is an
    allocator on another base model than `tiny`, whose weights lie in `models_dir`. ConfigError for a name that no
    method has."""
    fixed = (
        best_constant(),
        benchmark_rule(),
        query_router(),
        confidence_cascade(),
        agreement_cascade(),
        counted(),
    )
    load = partial(_load, models_dir)
    trained = {**_trained(load), **_on_bases(names, load)}
    known = [*(method.name for method in fixed), *trained]
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(f"--methods {unknown[0]}: no method on recorded answers. Known: {', '.join(known)}.")
    chosen = [method for method in fixed if not names or method.name in names]
    for name, made in trained.items():
        if name in names or not (names or name in LONG):
            chosen += [_of_seed(made(seed), seed, n_seeds) for seed in range(n_seeds)]
    return (*(constant(model) for model in models), *chosen)


def _of_seed(method: TableMethod, seed: int, n_seeds: int) -> TableMethod:
    """Named by its seed, where there are several."""
    if n_seeds == 1:
        return replace(method, family=method.name)
    start = f"{method.start}, seed {seed}" if method.start else ""
    return replace(method, name=f"{method.name}, seed {seed}", start=start, family=method.name)


def _trained(load: Load) -> dict[str, Callable[[int], TableMethod]]:
    return {
        SCORER: scorer_method,
        TUNED: lambda seed: tuned_method(ScorerGrpoSettings(seed=seed)),
        ALLOCATOR: partial(allocator_method, load=load),
        ALLOCATOR_TUNED: partial(tuned_allocator_method, load=load),
    }


LONG = (TUNED, ALLOCATOR, ALLOCATOR_TUNED)


def _on_bases(names: Sequence[str], load: Load) -> dict[str, Callable[[int], TableMethod]]:
    """The allocators of these names that name a base."""
    made = {ALLOCATOR: allocator_method, ALLOCATOR_TUNED: tuned_allocator_method}
    of_base = [(name, *name.partition(":")[::2]) for name in names if ":" in name]
    return {name: partial(made[kind], load=load, base=base) for name, kind, base in of_base if kind in made and base}


def train_on_the_gpu(methods: Sequence[TableMethod]) -> bool:
    """Whether one of them trains on a GPU of this machine. One fit fills most of its memory: they go one by one."""
    if not any(method.name.startswith((ALLOCATOR, ALLOCATOR_TUNED)) for method in methods):
        return False
    from r2.training import device

    return device.has_gpu()


def _load(models_dir: Path, base: str, words: Sequence[str], seed: int) -> tuple[Any, Any]:
    """A base to train in this process, on one thread: jobs run side by side. On the GPU where there is one."""
    from r2.training import device
    from r2.training.base import load_base

    device.use_threads(1)
    model, tokenizer = load_base(base, models_dir, words, seed)
    return model.cuda() if device.has_gpu() else model, tokenizer


def query_router() -> TableMethod:
    """One model for each question, by the probability of being right that its words give each model."""
    return TableMethod(QUERY_ROUTER, "query_router", _fit_router, inner_folds=3)


def _fit_router(table: OutcomeTable) -> TablePolicy:
    right, costs = table.outcomes_by_model()
    return _Router(tuple(f"at {value:g}" for value in THRESHOLDS), fit_query_router(table.problems, right, costs))


@dataclass(slots=True)
class _Router:
    settings: Sequence[str]
    router: QueryRouter
    _last: tuple[str, dict[str, float]] = field(default=("", {}))
    """The question played last, with its probabilities: its other settings need them too."""

    def play(self, question: Question, setting: int) -> str:
        if not self._last[1] or self._last[0] != question.problem.question:
            self._last = (question.problem.question, self.router.p_right(question.problem))
        return question.ask(pick(self._last[1], THRESHOLDS[setting])).arm
