"""A policy whose training is done: its curve in the lake, its version in the registry, and whether its name means it
now. Needs no Prefect.

Each step is done once however often it is asked for: the lake drops a unit that it has, and a version that this run has
registered is found again.
"""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from r2.policies.registry import Policy, PolicyCard, Registry, git_commit
from r2.records.tables import CurveRow
from r2.training.curve import MetricsFile, MetricValue
from storage.lake.lake import Lake
from tasks.training.scorer_policy import priced_usd
from tasks.training.sft_process import PolicyResult, PolicySpec

LEAST_VALID = 0.5
"""Share of valid plans, or allocations, from which a first version is promoted unasked. Ours."""
MAX_SHUFFLED_COST = 1.1
"""Price of an allocator's choices where the models are shuffled, over that where they are not, up to which its first
version is promoted unasked. Ours."""


@dataclass(frozen=True, slots=True)
class TrainedPolicy:
    """A policy of a run: its version in the registry, how it did, and whether its name now means it."""

    policy: Policy
    result: PolicyResult
    is_promoted: bool


def trained_policy(spec: PolicySpec, result: PolicyResult, data_sha256: dict[str, str]) -> TrainedPolicy:
    """Stores the curve and registers the version; promotes a first version that nothing keeps back, and any where that
    was asked for."""
    name = spec.settings.policy_name(spec.kind)
    points = MetricsFile(spec.work_dir / "curve.jsonl").points()
    last_step = 0 if spec.kind == "scorer" else spec.settings.steps
    rows = curve_rows(spec.run_id, name, points, result, last_step)
    Lake(spec.settings.lake).commit(spec.run_id, f"curve-{name}", {"curves": rows})
    policy = register(spec, result, points, data_sha256)
    registry = Registry(spec.settings.policies_dir)
    is_first = registry.current(name) is None
    if spec.settings.promote or (is_first and not kept_back(policy)):
        reason = "first version" if is_first else "asked for with --promote"
        registry.promote(name, policy.card.version, reason, {"metrics": result.metrics})
    return TrainedPolicy(policy, result, registry.current(name) == policy.card.version)


def kept_back(policy: Policy) -> str:
    """Why a version is not promoted unasked, by its held-out rows, with the next move; "" where nothing speaks against
    it, or it was not measured."""
    metrics = policy.card.metrics
    for metric, what in (("valid_plan", "plans"), ("valid_allocation", "allocations")):
        share = float(metrics.get(metric, 1.0))
        if share < LEAST_VALID:
            return (
                f"{share:.0%} of its {what} for held-out problems are valid, under {LEAST_VALID:.0%}. Train it for "
                "longer or on more labels"
            )
    ratio = float(metrics.get("shuffled_cost", 1.0))
    if ratio > MAX_SHUFFLED_COST:
        return (
            f"with the models in random orders its choices cost {ratio:.2f} times as much, over {MAX_SHUFFLED_COST:g}: "
            "it goes by their places in the list. Train it with augment = 8 or more, and for longer"
        )
    return ""


def curve_rows(
    run_id: str, policy: str, points: Sequence[MetricValue], result: PolicyResult, last_step: int
) -> list[CurveRow]:
    """The curve's points as rows of phase `sft`, and the held-out metrics as rows of phase
    `held_out` at the last step."""
    rows = [CurveRow(run_id, "sft", policy, 0, p.step, p.metric, p.value, p.logged_at) for p in points]
    at = max((p.logged_at for p in points), default=time.time())
    return rows + [
        CurveRow(run_id, "held_out", policy, 0, last_step, metric, value, at)
        for metric, value in sorted(result.metrics.items())
    ]


def register(
    spec: PolicySpec, result: PolicyResult, points: Sequence[MetricValue], data_sha256: dict[str, str]
) -> Policy:
    """The version of this run: the one that is there, else a new one with its card."""
    settings, registry = spec.settings, Registry(spec.settings.policies_dir)
    name = settings.policy_name(spec.kind)
    for known in registry.versions(name):
        policy = registry.load(f"{name}@{known}")
        if policy.card.config.get("run_id") == spec.run_id:
            return policy
    losses = [p.value for p in points if p.metric == "loss"]
    is_scorer = spec.kind == "scorer"
    trained_s = result.wall_s if is_scorer else sum(p.value for p in points if p.metric == "step_s")
    metrics = {**result.metrics, "n_rows": result.n_rows, "n_held_out": result.n_held_out}
    if losses:
        metrics["last_loss"] = sum(losses[-10:]) / len(losses[-10:])
    parent = registry.load(settings.start).ref if settings.start else ""
    card = PolicyCard(
        name=name,
        kind=spec.kind,
        base="numpy" if is_scorer else settings.base,
        prompt_mode=settings.prompt_mode,
        parent=parent,
        data_sha256=data_sha256,
        seed=settings.seed,
        config={
            "run_id": spec.run_id,
            **settings.identity(),
            **({} if is_scorer else {"learning_rate": settings.rate}),
        },
        metrics=metrics,
        git_commit=git_commit(),
        cost_usd=result.paid_usd + priced_usd(result),
        wall_s=trained_s,
    )
    return registry.create(name, card, lambda folder: _copy(spec.weights, folder))


def _copy(source: Path, target: Path) -> None:
    for path in source.iterdir():
        shutil.copyfile(path, target / path.name)
