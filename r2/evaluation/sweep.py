"""A sweep of the cost knob: what is asked for, what was measured, and which b it advises. Pure; the choice itself is
r2/evaluation/cost_knob.py.

`r2 policy sweep` answers the same problems once per b. `flows/sweep_b.py` runs it, `storage/evaluations/sweeps.py`
keeps it.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

import orjson
from pydantic import Field

from r2.answering.wanted import wanted_digest
from r2.errors import ConfigError
from r2.evaluation.comparison import Comparison
from r2.evaluation.cost_knob import Advice, KnobResult, TableRow, at_accuracy, checked_values, table, within_budget
from r2.evaluation.floor import Floor, certify_counts
from r2.evaluation.outcomes import MethodOutcomes
from r2.evaluation.settings import EvaluateSettings
from r2.pool.file.config import PoolConfig
from r2.pool.file.scorer_file import scorer_digest
from r2.problems.own_check import checks_digest
from r2.settings import Positive, Reasoning

REFERENCE = "reference"
RULE_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0)
"""Values of b where the rule routes and none are given: what a right answer is worth goes from 50 to 0.3 times the cost
of the question on the largest model."""


class SweepSettings(EvaluateSettings):
    """One sweep. Problems, pool, lake and money are those of an evaluation; all problems of the sources are used."""

    b: tuple[float, ...] = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8)
    """Values of the knob; where the rule routes and none are given, `RULE_VALUES`."""
    decomposer: str | None = None
    """None: as the pool file's [router] says. The same for the allocator."""
    allocator: str | None = None
    reference: str | None = None
    """Solver whose accuracy on the same problems is what shares of accuracy refer to; None: the best point of the
    sweep."""
    budget_usd_per_1k: Positive | None = None
    """Advise the most accurate b that costs at most so much per thousand problems."""
    min_accuracy_share: float | None = Field(default=None, gt=0, le=1)
    """Advise the cheapest b with at least this share of the reference accuracy."""
    target_accuracy: float | None = Field(default=None, gt=0, lt=1)
    """Certify the cheapest b that is at least so accurate (r2/evaluation/floor.py), for `r2 answer`."""
    delta: float = Field(default=0.05, gt=0, lt=1)
    """Chance at most that a certified b is less accurate."""

    def at(self, b: float) -> Reasoning:
        """How problems are answered at one value."""
        fields: dict[str, Any] = {"method": "r2", "decomposer": self.decomposer, "b": b}
        if self.reasoning.routing == "allocator":
            fields["allocator"] = self.allocator
        return Reasoning.model_validate(self.reasoning.model_dump() | fields)

    def sweep_id(self, problems_digest: str, pool_digest: str) -> str:
        """Identity: problems, pool, router and what all points share; values of b are not in it, so that more can be
        added."""
        shared = [problems_digest, pool_digest, self.decomposer, self.allocator, self.reasoning.identity()]
        return f"sweep-{hashlib.sha256(orjson.dumps(shared)).hexdigest()[:12]}"


def checked(settings: SweepSettings, pool: PoolConfig) -> SweepSettings:
    """The settings with their router and values filled in. An accuracy is promised by the rule, unless the settings
    name an allocator or a way to route. ConfigError where the sweep cannot work, before anything is asked."""
    roster = pool.roster()
    reasoning = settings.reasoning
    is_named = "routing" in reasoning.model_fields_set or settings.allocator is not None
    if settings.target_accuracy is not None and not is_named:
        reasoning = reasoning.model_copy(update={"routing": "rule"})
    by_rule = reasoning.routing == "rule"
    decomposer = settings.decomposer or pool.router.decomposer
    allocator = settings.allocator or pool.router.allocator
    for name in (decomposer, allocator, *([settings.reference] if settings.reference else [])):
        roster.require(name)
    asked = RULE_VALUES if by_rule and "b" not in settings.model_fields_set else settings.b
    values = checked_values(asked, allocator, by_rule or roster[allocator].has_logprobs)
    return settings.model_copy(
        update={"decomposer": decomposer, "allocator": allocator, "b": values, "reasoning": reasoning}
    )


@dataclass(frozen=True, slots=True)
class SweepMeasurement:
    """One b with the 95 % intervals of its accuracy and cost. `run_id` is its run in the lake."""

    b: float
    run_id: str
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    usd_per_1k: float
    usd_per_1k_low: float
    usd_per_1k_high: float
    calls_per_problem: float
    top_model: str
    top_model_share: float
    n_right: int | None = None
    """Problems answered right, a failed one counting as wrong; None in sweeps before this was stored, and where a check
    gives numbers between 0 and 1."""

    @property
    def point(self) -> KnobResult:
        return KnobResult(self.b, self.accuracy, self.usd_per_1k)


@dataclass(frozen=True, slots=True)
class Sweep:
    """A finished sweep. `status` is completed, or why some values of b are missing."""

    sweep_id: str
    status: str
    settings: Mapping[str, Any]
    n_problems: int
    reference: str
    reference_accuracy: float
    points: tuple[SweepMeasurement, ...]
    table: tuple[TableRow, ...]
    advice: tuple[Advice, ...]
    """For the budget and the accuracy that were asked for, in this order."""
    notes: tuple[str, ...]
    paid_usd: float
    floor: Floor | None = None
    """What these problems show about the target accuracy; None where none was asked for."""
    answers_digest: str = ""
    """Of the pool, the schema, the system text and the verifier: what must be the same where the floor is used
    (`answers_digest`); "" in sweeps before this was stored."""

    def certify(self, target: float, delta: float) -> Floor:
        """The cheapest b with at least this accuracy, along the values of b from the dearest (the smallest) to the
        first that is not measured.

        ConfigError where the sweep did not store what is right by problem, and as `certify_counts`.
        """
        asked = sorted(float(b) for b in self.settings["b"])
        measured = {point.b: point for point in self.points}
        path = [measured[b] for b in takewhile(measured.__contains__, asked)]
        counts = [point.n_right for point in path if point.n_right is not None]
        if len(counts) < len(path):
            raise ConfigError(
                f"sweep {self.sweep_id}: it does not say which answers are simply right or wrong: it was made by an "
                "earlier version, or its check gives numbers between 0 and 1. Run the same r2 policy sweep again, with "
                "a check that says right or wrong."
            )
        return certify_counts(counts, self.n_problems, [point.b for point in path], target, delta)


def answers_digest(pool: PoolConfig, reasoning: Reasoning) -> str:
    """What decides how questions are answered and is a file: pool, schema, system text, verifier, scorer. Who judges
    the answers is not in it: a floor is measured with a check, and used where there is none."""
    by_judge = (reasoning.verify or "").startswith("judge:")
    rubric = reasoning.rubric if by_judge else None
    asked = reasoning.model_copy(update={"check": None, "rubric": rubric})
    return pool.digest + checks_digest(asked) + wanted_digest(reasoning) + scorer_digest(reasoning.scorer)


def points_of(
    comparison: Comparison, runs: Mapping[float, str], outcomes: Mapping[str, MethodOutcomes]
) -> tuple[SweepMeasurement, ...]:
    """The measured points of a comparison whose labels are run ids, ascending in b. `outcomes` by run id."""
    points = []
    for b, run_id in sorted(runs.items()):
        m = comparison[run_id]
        accuracy, usd = m.accuracy.interval, m.usd_per_1k.interval
        points.append(
            SweepMeasurement(
                b,
                run_id,
                m.accuracy.value,
                accuracy.low if accuracy else m.accuracy.value,
                accuracy.high if accuracy else m.accuracy.value,
                m.usd_per_1k.value,
                usd.low if usd else m.usd_per_1k.value,
                usd.high if usd else m.usd_per_1k.value,
                m.calls_per_problem,
                m.top_model or "",
                m.top_model_share or 0.0,
                _n_right(outcomes[run_id]),
            )
        )
    return tuple(points)


def _n_right(outcomes: MethodOutcomes) -> int | None:
    right = outcomes.is_correct
    return int(right.sum()) if ((right == 0) | (right == 1)).all() else None


def concluded(
    sweep_id: str,
    status: str,
    settings: SweepSettings,
    n_problems: int,
    points: Sequence[SweepMeasurement],
    reference_accuracy: float | None,
    paid_usd: float,
    digest: str = "",
    trained: Sequence[str] = (),
) -> Sweep:
    """The table, the advice and the floor that follow from measured points; `reference_accuracy` None where no solver
    was asked beside them, `digest` as `answers_digest`, `trained` the pool's entries that serve trained policies."""
    plain = [one.point for one in points]
    best = max((p.accuracy for p in plain), default=0.0)
    reference = best if reference_accuracy is None else reference_accuracy
    advice: list[Advice] = []
    if plain and settings.budget_usd_per_1k is not None:
        advice.append(within_budget(plain, settings.budget_usd_per_1k))
    if plain and settings.min_accuracy_share is not None:
        advice.append(at_accuracy(plain, settings.min_accuracy_share * reference))
    notes = []
    if len(plain) > 1 and len({(p.accuracy, p.usd_per_1k) for p in plain}) == 1:
        why = (
            "to the rule the same entries are worth asking at all of them"
            if settings.reasoning.routing == "rule"
            else "the allocator is so sure of its choices that these values do not move it, or its endpoint gave no "
            "log-probabilities"
        )
        notes.append(f"Every b came to the same: {why}. Try larger ones.")
    if len(plain) > 1 and plain[0].accuracy < best - 1e-12:
        notes.append(
            f"Accuracy is not highest at the smallest b ({plain[0].b:g}): cheaper models were also better here, or "
            "it is chance."
        )
    if trained and settings.target_accuracy is not None and settings.held_out is None:
        notes.append(
            f"The pool has trained policies ({', '.join(trained)}): rows that they were trained on make the floor too "
            "high. Give rows that they have not seen, or --held-out with the test share of their training."
        )
    sweep = Sweep(
        sweep_id,
        status,
        settings.model_dump(mode="json"),
        n_problems,
        settings.reference or "the best point of the sweep",
        reference,
        tuple(points),
        tuple(table(plain, reference)) if plain else (),
        tuple(advice),
        tuple(notes),
        paid_usd,
        answers_digest=digest,
    )
    if settings.target_accuracy is None or not points:
        return sweep
    return replace(sweep, floor=sweep.certify(settings.target_accuracy, settings.delta))
