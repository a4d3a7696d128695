"""The opponents of a trained router on the simulated pool, each in its strongest form: every setting is played on dev
questions, and the one of the highest utility at the price at hand is taken.

Left out: `tot` and `automix`, which lose on this pool by far (docs/results.md). Used by simulated_routing.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.in_process import InProcess
from r2.answering.confidence import token_confidence
from r2.answering.protocol import Router, Trajectory
from r2.evaluation.cascades import THRESHOLDS, agreement_cascades, confidence_cascades, most_useful
from r2.evaluation.fitted import DevAnswers, rules_by_benchmark, worked_examples
from r2.methods import method_named
from r2.methods.router import make_router
from r2.pool.file.config import PoolConfig
from r2.problem import Problem
from r2.problems.same_result import groups_of
from r2.settings import AnswerSettings, Reasoning
from r2.training.fit_query_router import fit_query_router

FloatArray = NDArray[np.float64]
CONFIDENCES: Final = (0.0, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)
SURE: Final = (0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
"""Thresholds of the query router."""
SECOND: Final = "sim-32b"
"""Plans again where the first plan fails its check, for every method that plans."""
MOST_ESCALATIONS: Final = 16
SAMPLES: Final = 3


@dataclass(frozen=True, slots=True)
class Played:
    """One way to answer on each question: whether it was right, and what it cost."""

    right: FloatArray
    cost_usd: FloatArray

    def utility(self, v_usd: float) -> FloatArray:
        return v_usd * self.right - self.cost_usd


@dataclass(frozen=True, slots=True)
class Opponent:
    """A row: a method with the settings that are tried on dev questions. `fitted`: settings that are chosen from what
    every solver answered there."""

    name: str
    tried: tuple[Mapping[str, Any], ...]
    method: str
    fitted: str = ""


def router_of(pool: PoolConfig, method: str, **fields: Any) -> Router:
    """The pool's router with these settings."""
    chosen = Reasoning(method=method, **fields)
    return make_router(pool, AnswerSettings(input="none", pool=str(pool.path), reasoning=chosen))


def opponents(pool: PoolConfig) -> list[Opponent]:
    """All rows, every solver where a method takes one."""
    solvers = [card.name for card in pool.roster().solvers]
    plans = {"second_decomposer": SECOND, "max_escalations": MOST_ESCALATIONS}
    rows = []
    for name in solvers:
        sure = [{"model": name, "min_confidence": p, "max_escalations": MOST_ESCALATIONS} for p in CONFIDENCES]
        rows += [
            Opponent(f"cot:{name}", ({"model": name},), "cot"),
            Opponent(f"start:{name}", tuple(sure), "start"),
            Opponent(f"start_steps:{name}", tuple({**one, **plans} for one in sure), "start_steps"),
            Opponent(f"decompose_one:{name}", ({"model": name, "second_decomposer": SECOND},), "decompose_one"),
            Opponent(
                f"self_consistency:{name},{SAMPLES}", ({"model": name, "n_samples": SAMPLES},), "self_consistency"
            ),
        ]
    strongest = pool.roster().strongest
    rows += [
        Opponent("rule", (), "rule", "rule"),
        Opponent("agreement_cascade", (), "agreement_cascade", "agreement"),
        Opponent("confidence_cascade", (), "confidence_cascade", "confidence"),
        Opponent("query_router", (), "query_router", "query"),
        Opponent(f"few_shot:{strongest}", ({"model": strongest},), "few_shot", "examples"),
        Opponent(f"program:{strongest}", ({"model": strongest},), "program"),
    ]
    return rows


@dataclass(slots=True)
class Field:
    """A pool with the dev questions that settings are chosen on. What was played is kept."""

    pool: PoolConfig
    models: InProcess
    dev: Sequence[Problem]
    kept: dict[str, Any] = field(default_factory=dict)

    def play(self, problems: Sequence[Problem], method: str, fields: Mapping[str, Any]) -> Played:
        """A method with these settings."""
        fields = dict(fields)
        learned = fields.pop("learned", None)
        if learned is None:
            router = router_of(self.pool, method, **fields)
        else:
            router = replaced(router_of(self.pool, "cot"), fields, learned)
        run = method_named(method).run
        return played([self.models.play(problem, run(problem, router)) for problem in problems])

    def choose(self, row: Opponent, v_usd: float) -> tuple[Mapping[str, Any], float]:
        """The settings of the highest utility on dev questions, with that utility."""
        tried = self._fitted(row, v_usd) if row.fitted else row.tried
        best, most = tried[0], -np.inf
        for fields in tried:
            key = f"{row.name} {sorted((k, repr(v)) for k, v in fields.items() if k not in ('examples', 'learned'))}"
            if key not in self.kept:
                self.kept[key] = self.play(self.dev, row.method, fields)
            utility = float(self.kept[key].utility(v_usd).mean())
            if utility > most:
                best, most = fields, utility
        return best, most

    def _fitted(self, row: Opponent, v_usd: float) -> tuple[Mapping[str, Any], ...]:
        answers = self.answers()
        numbers = np.array(
            [groups_of(p, [texts[i] for texts in answers.answers]) for i, p in enumerate(self.dev)], np.int64
        ).T
        if row.fitted == "rule":
            return tuple(point.fields for point in rules_by_benchmark(answers))
        if row.fitted == "agreement":
            if "agreement" not in self.kept:
                self.kept["agreement"] = agreement_cascades(answers.right_MP, answers.cost_usd_MP, numbers)
            best = most_useful(self.kept["agreement"], v_usd)
            return ({"chain": tuple(answers.models[m] for m in best.order)},)
        if row.fitted == "confidence":
            if "confidence" not in self.kept:
                self.kept["confidence"] = confidence_cascades(
                    answers.right_MP, answers.cost_usd_MP, numbers, answers.confidence_MP, thresholds=THRESHOLDS
                )
            best = most_useful(self.kept["confidence"], v_usd)
            return ({"chain": tuple(answers.models[m] for m in best.order), "threshold": best.threshold},)
        if row.fitted == "query":
            if "query" not in self.kept:
                right = {m: list(answers.right_MP[i] > 0.5) for i, m in enumerate(answers.models)}
                costs = {m: list(answers.cost_usd_MP[i]) for i, m in enumerate(answers.models)}
                self.kept["query"] = fit_query_router(self.dev, right, costs)
            return tuple({"threshold": p, "learned": self.kept["query"]} for p in SURE)
        [fields] = row.tried
        return ({**fields, "examples": self._examples(str(fields["model"]))},)

    def answers(self) -> DevAnswers:
        """What every solver answers to each dev question, in its own prompt mode and with its log-probabilities."""
        if "answers" not in self.kept:
            self.kept["answers"] = self._answers()
        found: DevAnswers = self.kept["answers"]
        return found

    def _answers(self) -> DevAnswers:
        names = [card.name for card in self.pool.roster().solvers]
        rows: list[list[Trajectory]] = []
        run = method_named("start").run
        for name in names:
            router = router_of(self.pool, "start", model=name, min_confidence=1e-9, max_escalations=1)
            rows.append([self.models.play(problem, run(problem, router)) for problem in self.dev])
        each = [played(row) for row in rows]
        return DevAnswers(
            tuple(names),
            tuple(self.dev),
            np.array([one.right for one in each]),
            np.array([one.cost_usd for one in each]),
            tuple(tuple(one.outcome.answer for one in row) for row in rows),
            np.array([[token_confidence(one.pairs[0][1], 0.4) or np.nan for one in row] for row in rows]),
        )

    def _examples(self, model: str) -> tuple[Any, ...]:
        router = router_of(self.pool, "cot", model=model)
        run = method_named("cot").run
        rows = [self.models.play(problem, run(problem, router)) for problem in self.dev[:60]]
        said = {t.problem.problem_id: (t.pairs[0][0].messages[-1][1], t.pairs[0][1].text) for t in rows}
        return worked_examples(self.dev[:60], [t.is_right for t in rows], said, Reasoning().n_examples)


def replaced(router: Router, fields: Mapping[str, Any], learned: Any) -> Router:
    """The router with a fitted query router, which no file holds."""
    from dataclasses import replace

    return replace(router, settings=router.settings.model_copy(update=dict(fields)), query_router=learned)


def played(trajectories: Sequence[Trajectory]) -> Played:
    """Right and cost of each."""
    return Played(
        np.array([float(one.is_right) for one in trajectories]),
        np.array([one.answering_cost_usd for one in trajectories]),
    )
