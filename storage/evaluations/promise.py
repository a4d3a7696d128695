"""A promised accuracy: from `target_accuracy` to the value of `b` that a sweep in the lake certifies.

The numbers are r2/evaluation/floor.py; `r2 policy sweep` measures them. Called before a run is planned, so that the run
is the same as one with that `b` written down.
"""

from dataclasses import dataclass

from r2.errors import ConfigError
from r2.evaluation.floor import Floor, fewest_rows
from r2.evaluation.sweep import Sweep, SweepSettings, answers_digest
from r2.pool.file.config import PoolConfig
from r2.pool.file.data_policy import pool_of
from r2.settings import AnswerSettings, Reasoning
from storage.evaluations.sweeps import read_sweep, sweeps_in
from storage.lake.address import lake_folder

_OF_THE_KNOB = {"decomposer", "allocator", "b", "seed"}
"""Fields that the sweep decides, and the seed, which is drawn anew in any case."""
_AS_MEASURED = ("routing", "value_usd", "horizon")
"""Fields that are as in the sweep where nobody says otherwise."""


@dataclass(frozen=True, slots=True)
class Promise:
    """The settings with their `b`, the sweep it is from, and what that sweep shows."""

    settings: AnswerSettings
    sweep_id: str
    floor: Floor

    @property
    def said(self) -> str:
        return f"b = {self.settings.reasoning.b:g}, certified by {self.sweep_id}. {self.floor.said}"


def promised(settings: AnswerSettings) -> Promise | None:
    """The settings that keep the promise of `target_accuracy`; None where none was asked for. A second call changes
    nothing.

    ConfigError, with the number of rows that it takes, where no sweep fits or its rows do not show so much; and where
    another `b`, decomposer or allocator is asked for than the one that was measured.
    """
    if settings.target_accuracy is None:
        if settings.certified is not None:
            raise ConfigError(f"--certified {settings.certified}: it needs --target-accuracy, such as 0.95.")
        return None
    if settings.reasoning.method != "r2":
        raise ConfigError(
            f"--target-accuracy {settings.target_accuracy:g}: only method r2 has a knob to keep it with, not "
            f"{settings.reasoning.method}. Leave one of the two flags out."
        )
    sweep = _chosen(settings, pool_of(settings))
    floor = sweep.certify(settings.target_accuracy, settings.delta)
    if floor.theta is None:
        raise ConfigError(f"--target-accuracy {settings.target_accuracy:g}: sweep {sweep.sweep_id}: {floor.said}")
    if settings.reasoning.b not in (0.0, floor.theta):
        raise ConfigError(
            f"--b {settings.reasoning.b:g}: --target-accuracy chooses b, and chose {floor.theta:g}. Leave --b out."
        )
    measured = SweepSettings.model_validate(sweep.settings)
    at_b = measured.at(floor.theta)
    router = {name: getattr(at_b, name) for name in ("decomposer", "allocator", "b", *_AS_MEASURED)}
    reasoning = settings.reasoning.model_copy(update=router)
    return Promise(settings.model_copy(update={"reasoning": reasoning}), sweep.sweep_id, floor)


def _chosen(settings: AnswerSettings, pool: PoolConfig) -> Sweep:
    if settings.certified is not None:
        sweep = read_sweep(lake_folder(settings.lake), settings.certified)
        if reason := _misfit(sweep, settings.reasoning, pool):
            raise ConfigError(f"--certified {settings.certified}: {reason}. Run r2 policy sweep with today's settings.")
        return sweep
    fitting = [sweep for sweep in sweeps_in(lake_folder(settings.lake)) if not _misfit(sweep, settings.reasoning, pool)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise ConfigError(
            f"--target-accuracy {settings.target_accuracy:g}: {settings.lake} has {len(fitting)} sweeps of this router "
            f"and pool ({', '.join(sweep.sweep_id for sweep in fitting)}). Name one with --certified; to take the best "
            "of several would break the promise."
        )
    assert settings.target_accuracy is not None
    raise ConfigError(
        f"--target-accuracy {settings.target_accuracy:g}: {settings.lake} has no sweep of this router and pool that "
        f"could show it. Run r2 policy sweep on checked questions like these first, at least "
        f"{fewest_rows(settings.target_accuracy, settings.delta)} of them (which is enough only if all are right)."
    )


def _misfit(sweep: Sweep, reasoning: Reasoning, pool: PoolConfig) -> str:
    """Why what was measured says nothing about these settings; "" where it does."""
    measured = SweepSettings.model_validate(sweep.settings)
    then, now = measured.at(0.0).identity(), reasoning.identity()
    unsaid = {name for name in _AS_MEASURED if name not in reasoning.model_fields_set}
    names = sorted((then.keys() | now.keys()) - _OF_THE_KNOB - unsaid)
    if other := [name for name in names if then.get(name) != now.get(name)]:
        return f"it was measured with other settings ({', '.join(other)})"
    for role in ("decomposer", "allocator"):
        if role == "allocator" and measured.reasoning.routing == "rule" and reasoning.allocator is None:
            continue
        wanted, had = getattr(reasoning, role) or getattr(pool.router, role), getattr(measured, role)
        if wanted != had:
            return f"it was measured with the {role} {had}, not {wanted}"
    if sweep.answers_digest != answers_digest(pool, reasoning):
        return "it was measured with another pool, schema, system text or verifier, or by an earlier version"
    return ""
