"""Group-relative fine-tuning of a scorer in the registry: a version of its own, promoted only by the gate of GRPO
rounds (r2/training/grpo/promotion.py).

Questions are split into those that are learned from and those that are held out. The weights of the choice are learned
on plans of scorers that had not seen the question. On the held-out questions a scorer fitted on the others is asked as
it would be served, without these weights and with them: that comparison decides. The new version has the start's
probabilities, and the weights. Seconds on a core; a run that was stopped is simply done anew.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from r2.answering.scored_unit import is_plan
from r2.answering.scorer import CHOICE_FEATURES, Scorer
from r2.errors import ConfigError
from r2.evaluation.recorded.crossfit import DEFAULT_VALUE
from r2.evaluation.recorded.method import cost_ref_of
from r2.evaluation.recorded.table import OutcomeTable, Replies
from r2.ledger import CORE_HOUR_USD
from r2.policies.registry import Policy, PolicyCard, Registry, git_commit
from r2.pool.file.scorer_file import SCORER_FILE
from r2.problems.split import split_of
from r2.records.tables import CurveRow
from r2.training.grpo.promotion import Decision, Gate, decide
from r2.training.grpo.scorer_settings import TuneSettings
from r2.training.scorer.trials import Trials
from storage.lake.lake import Lake
from storage.runs.sessions import add_session, session_row
from tasks.training.scorer_policy import CORE_SECONDS, LEAST_QUESTIONS, scorer_trials


@dataclass(frozen=True, slots=True)
class TunedScorer:
    """The version, the comparison that decided about it, and whether its name means it now. `is_new`: this call made
    it. `remarks`: what of the answers is not used, as sentences."""

    policy: Policy
    reason: str
    is_promoted: bool
    is_new: bool
    remarks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TuneRows:
    """Answers that everybody gave, split. `data_sha256` as on a policy's card."""

    learned: OutcomeTable
    held_out: OutcomeTable
    data_sha256: dict[str, str]
    remarks: tuple[str, ...]


def tune_rows(settings: TuneSettings) -> TuneRows:
    """ConfigError for too few questions that every arm was asked."""
    found = scorer_trials(settings.of_trials())
    table, n_left_out = table_of(found.trials)
    sides = np.array([split_of(p.question, settings.split_seed, settings.test_share) for p in table.problems])
    at_learned, at_held_out = np.flatnonzero(sides == "train"), np.flatnonzero(sides != "train")
    if min(len(at_learned), len(at_held_out)) < LEAST_QUESTIONS:
        raise ConfigError(
            f"{', '.join(found.data_sha256)}: {len(at_learned)} questions to learn from and {len(at_held_out)} held "
            f"out, of those that every one of {len(table.models)} arms was asked ({n_left_out} were not); fine-tuning "
            f"needs {LEAST_QUESTIONS} of each. Give more questions, or another --test-share."
        )
    remarks = found.remarks
    if n_left_out:
        remarks = (
            *remarks,
            f"{n_left_out} questions left out: not every arm was asked, so a route cannot be looked up",
        )
    return TuneRows(table.part(at_learned), table.part(at_held_out), found.data_sha256, remarks)


def table_of(trials: Trials) -> tuple[OutcomeTable, int]:
    """(the units that every arm was asked as a table, how many others there are). Plans are no such units, and arms
    that were asked for nothing else are left out. A unit's kind is the benchmark."""
    units = np.array([not is_plan(kind) for kind in trials.kinds])
    known = ~np.isnan(trials.right_AU[:, units])
    arms = np.flatnonzero(known.any(axis=1))
    is_whole = known[arms].all(axis=0)
    at = np.flatnonzero(units)[is_whole]
    confidence = trials.confidence_AU[np.ix_(arms, at)]
    table = OutcomeTable(
        tuple(trials.arms[arm] for arm in arms),
        tuple(replace(trials.problems[unit], benchmark=trials.kinds[unit]) for unit in at),
        trials.right_AU[np.ix_(arms, at)],
        trials.cost_usd_AU[np.ix_(arms, at)],
        replies=Replies(trials.results_AU[np.ix_(arms, at)]),
        output_tokens_MP=trials.tokens_AU[np.ix_(arms, at)],
        confidence_MP=None if np.isnan(confidence).all() else confidence,
    )
    return table, int((~is_whole).sum())


def tune_scorer(settings: TuneSettings, say: Callable[[str], None]) -> TunedScorer:
    """Learns, compares, registers; promotes where the gate says so. The version of an equal run is found again.
    ConfigError for a name that is no scorer, and as of `tune_rows`."""
    registry = Registry(settings.policies_dir)
    start = registry.load(settings.scorer)
    if start.card.kind != "scorer":
        raise ConfigError(f"--scorer {settings.scorer}: {start.ref} is a {start.card.kind}, no scorer.")
    rows = tune_rows(settings)
    run_id = settings.run_id(rows.data_sha256, start.ref)
    if (known := _known(registry, settings.name, run_id)) is not None:
        is_promoted = registry.current(settings.name) == known.card.version
        return TunedScorer(known, str(known.card.config["decision"]["reason"]), is_promoted, False, rows.remarks)
    started, core_s = time.monotonic(), time.process_time()
    weights, metrics, curve, decision = _learned(settings, rows, say)
    metrics[CORE_SECONDS] = time.process_time() - core_s
    Lake(settings.lake).commit(run_id, f"curve-{settings.name}", {"curves": _curve_rows(run_id, settings, curve)})
    scorer = replace(Scorer.from_json((start.path / SCORER_FILE).read_bytes(), start.ref), choice=weights)
    card = PolicyCard(
        name=settings.name,
        kind="scorer",
        base="numpy",
        parent=start.ref,
        data_sha256=rows.data_sha256,
        seed=settings.seed,
        config={"run_id": run_id, "decision": asdict(decision), **settings.model_dump(mode="json")},
        metrics=metrics,
        git_commit=git_commit(),
        cost_usd=metrics[CORE_SECONDS] / 3600 * CORE_HOUR_USD,
        wall_s=time.monotonic() - started,
    )
    policy = registry.create(settings.name, card, lambda folder: _write(folder, scorer))
    if decision.is_promoted:
        registry.promote(settings.name, policy.card.version, decision.reason, asdict(decision))
    _add_session(run_id, settings, rows, time.time() - (time.monotonic() - started))
    is_promoted = registry.current(settings.name) == policy.card.version
    return TunedScorer(policy, decision.reason, is_promoted, True, rows.remarks)


def _learned(
    settings: TuneSettings, rows: TuneRows, say: Callable[[str], None]
) -> tuple[tuple[float, ...], dict[str, float], dict[str, list[float]], Decision]:
    """(weights, metrics of the card, curves, what the held-out questions say)"""
    # Here and not above: scikit-learn takes seconds to import.
    from r2.training.grpo.served_scorer import served
    from r2.training.scorer.grpo import ScorerGrpoSettings, tune, unseen_states
    from r2.training.scorer.table_method import fit_policy

    fitted = fit_policy(rows.learned, settings.seed)
    cost_ref = cost_ref_of(rows.learned)
    states = unseen_states(rows.learned, cost_ref, settings.seed)
    own = ScorerGrpoSettings(
        steps=settings.steps,
        group_size=settings.group_size,
        learning_rate=settings.learning_rate,
        seed=settings.seed,
    )
    tuned = tune(states, own)
    say(
        f"{len(tuned.curve)} steps, the best after {tuned.best_step}: reward of questions that were not learned from "
        f"{tuned.dev_curve[0]:.4f} at the start, {max(tuned.dev_curve):.4f} there"
    )
    weights = tuple(tuned.weights.tolist())
    v_usd = DEFAULT_VALUE * cost_ref
    before = served(fitted.scorer, rows.held_out, v_usd, cost_ref)
    after = served(replace(fitted.scorer, choice=weights), rows.held_out, v_usd, cost_ref)
    gate = Gate(
        lam=1 / DEFAULT_VALUE, margin=settings.margin, accuracy_margin=settings.accuracy_margin, delta=settings.delta
    )
    decision = decide(before, after, gate, settings.seed)
    metrics = {
        "n_questions": float(rows.learned.n_problems),
        "n_held_out": float(rows.held_out.n_problems),
        "best_step": float(tuned.best_step),
        "utility_gain": decision.difference,
        "utility_gain_low": decision.low,
        "utility_gain_high": decision.high,
        **{f"{name}_before": value for name, value in decision.before.items() if name != "readable"},
        **{f"{name}_after": value for name, value in decision.after.items() if name != "readable"},
        **{f"weight of {name}": value for name, value in zip(CHOICE_FEATURES, weights, strict=True)},
    }
    return weights, metrics, {"reward": tuned.curve, "dev_reward": tuned.dev_curve}, decision


def _add_session(run_id: str, settings: TuneSettings, rows: TuneRows, started_at: float) -> None:
    """The run in the table `runs`. Routes are looked up: nothing was paid."""
    lake, n = Lake(settings.lake), rows.learned.n_problems + rows.held_out.n_problems
    row = session_row(
        lake,
        run_id,
        flow_run_id="",
        kind="grpo",
        method="grpo",
        input_path=",".join(settings.outcomes) or settings.lake,
        pool_path=settings.pool or "",
        config=settings.model_dump(mode="json"),
        status="completed",
        n_requested=n,
        n_answered=n,
        cost_usd=0.0,
        session_cost_usd=0.0,
        started_at=started_at,
    )
    add_session(lake, row)


def _known(registry: Registry, name: str, run_id: str) -> Policy | None:
    for version in registry.versions(name):
        policy = registry.load(f"{name}@{version}")
        if policy.card.config.get("run_id") == run_id:
            return policy
    return None


def _curve_rows(run_id: str, settings: TuneSettings, curves: dict[str, list[float]]) -> list[CurveRow]:
    """`dev_reward` has a point at each look, the start first."""
    at = time.time()
    return [
        CurveRow(run_id, "grpo", settings.name, 0, step, metric, value, at)
        for metric, values in curves.items()
        for step, value in enumerate(values)
    ]


def _write(folder: Path, scorer: Scorer) -> None:
    (folder / SCORER_FILE).write_bytes(scorer.to_json())
