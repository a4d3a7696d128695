"""One round of the nightly loop: its questions, what each entry is asked of them, the new version, and the decision.
Needs no Prefect; the order is in flows/refresh_router.py.

Every step leaves a file in the round's folder and is found done by it. What is asked are ordinary runs of the lake, so
that calls the traffic paid for are not paid again.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from r2.answering.scored_unit import misfit
from r2.answering.scorer import Scorer
from r2.atomic import write_atomically
from r2.errors import ConfigError
from r2.evaluation.recorded.crossfit import DEFAULT_VALUE
from r2.evaluation.recorded.method import cost_ref_of
from r2.ledger import CORE_HOUR_USD, Usage, cost_usd
from r2.policies.registry import Policy, PolicyCard, Registry, git_commit
from r2.pool.file.config import PoolConfig, load_pool
from r2.pool.file.scorer_file import SCORER_FILE
from r2.problems.split import split_of
from r2.training.grpo.promotion import Decision, Gate, decide
from r2.training.refresh.settings import RefreshSettings
from r2.training.refresh.todays_prices import priced_today
from r2.training.scorer.trials import Trial
from storage.lake.address import is_in_bucket
from storage.lake.lake import Lake
from storage.runs.checked_steps import checked_steps
from storage.runs.checked_trials import Among, checked_trials
from storage.runs.fresh_questions import fresh_questions
from storage.runs.refresh_rounds import Round, keys_used, present_round
from storage.sql.query import connect
from tasks.training.scorer_grpo import table_of
from tasks.training.scorer_policy import CORE_SECONDS, LEAST_QUESTIONS, trials_of_pool, trials_sha256

GUESSED_TOKENS = (300.0, 150.0)
"""Prompt and generated tokens of a question, where the lake has no call of the traffic to go by."""


@dataclass(frozen=True, slots=True)
class RoundResult:
    """What a call of the loop came to. `decision` None: nothing was to be decided, for the `reason`; or the round is
    not over yet (`is_stopped`)."""

    number: int
    reason: str
    decision: dict[str, Any] | None = None
    policy: str = ""
    is_promoted: bool = False
    is_stopped: bool = False
    label_usd: float = 0.0
    figures: dict[str, float] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


def lake_of(settings: RefreshSettings) -> Path:
    """The lake with the traffic. ConfigError where there is none, or where it lies in a bucket."""
    if is_in_bucket(settings.lake):
        raise ConfigError(
            f"lake {settings.lake}: the rounds of the loop are kept on a disk. Name the folder of a lake that is there."
        )
    lake = Path(settings.lake)
    if not Lake(lake).exists():
        raise ConfigError(f"{lake}: no lake there, and so no traffic to learn from. Name its folder with --lake.")
    return lake


def begun_round(settings: RefreshSettings) -> tuple[Round, str]:
    """The round that is to be worked on, its questions frozen; where there is too little new traffic for one, why."""
    lake = lake_of(settings)
    round_ = present_round(lake, settings.scorer)
    if round_.is_begun:
        return round_, ""
    fresh = fresh_questions(lake, keys_used(lake, settings.scorer))
    left_out = "".join(f"; {n} left out: {why}" for why, n in sorted(fresh.left_out.items()))
    if len(fresh.questions) < settings.least:
        return round_, (
            f"nothing to do: {len(fresh.questions)} new questions with a verdict and a right answer, a round begins "
            f"with {settings.least}{left_out}"
        )
    most = affordable(settings, load_pool(settings.pool, settings.policies_dir))
    if most < settings.least:
        return round_, (
            f"nothing to do: {settings.max_cost_usd} USD pay for the labels of about {most} questions, and a round "
            f"begins with {settings.least}. Raise max_cost_usd, or lower least."
        )
    taken = fresh.questions[: min(settings.n_questions, most)]
    about = {"n_new": len(fresh.questions), "n_taken": len(taken), "left_out": fresh.left_out, "began_at": time.time()}
    round_.begin(taken, about)
    return round_, ""


def affordable(settings: RefreshSettings, pool: PoolConfig) -> int:
    """Questions that every entry can be asked for the money of a round, by the tokens of the traffic so far."""
    if settings.max_cost_usd is None:
        return settings.n_questions
    with connect(Path(settings.lake), views=()) as db:
        [(n_in, n_out)] = db.execute(
            "select avg(input_tokens), avg(output_tokens) from calls where purpose = 'solve' and error_type is null"
        ).fetchall()
    usage = Usage(round(n_in or GUESSED_TOKENS[0]), 0, round(n_out or GUESSED_TOKENS[1]))
    each_usd = sum(cost_usd(card.price, usage) for card in pool.roster().solvers)
    return settings.n_questions if each_usd <= 0 else int(settings.max_cost_usd / each_usd)


def sides(round_: Round, settings: RefreshSettings) -> tuple[list[str], list[str]]:
    """(keys to learn from, keys held out). Another split each round, by the words alone."""
    learned: list[str] = []
    held_out: list[str] = []
    for key, question in round_.questions().items():
        is_held_out = split_of(question, settings.seed + round_.number, settings.held_out) == "test"
        (held_out if is_held_out else learned).append(key)
    return learned, held_out


def spent_usd(lake: Path, run_ids: Sequence[str]) -> float:
    """By all sessions of these runs."""
    with connect(lake, views=()) as db:
        [(usd,)] = db.execute(
            "select coalesce(sum(cost_usd), 0) from runs_latest where list_contains(?, run_id)", [list(run_ids)]
        ).fetchall()
    return float(usd)


def trained(round_: Round, settings: RefreshSettings) -> dict[str, Any]:
    """Fits the new version on everything recent but the round's held-out questions, and leaves `scorer.json` and
    `trained.json`, which it returns. ConfigError where there is too little to learn from."""
    if (known := round_.read("trained")) is not None:
        return known
    # Here and not above: scikit-learn takes seconds to import.
    from r2.training.scorer.fit import fit_scorer

    core_s = time.process_time()
    pool, (_, held_out) = load_pool(settings.pool, settings.policies_dir), sides(round_, settings)
    among = Among(since=_began_at(round_) - settings.window_days * 86_400, without=frozenset(held_out))
    found = _looked_up(settings, pool, among)
    if not found:
        raise ConfigError(
            f"{settings.lake}: no checked answer of an entry of {settings.pool} as it is today, so nothing can be "
            "learned of it."
        )
    trials = trials_of_pool(found, pool)
    if trials.n_units < LEAST_QUESTIONS:
        raise ConfigError(
            f"{settings.lake}: {trials.n_units} questions to learn from; {LEAST_QUESTIONS} are needed. Lower held_out, "
            "or raise n_questions."
        )
    scorer, quality = fit_scorer(trials, seed=settings.seed)
    before = promoted_scorer(settings)
    if before is not None:  # what the choice of the old version was tuned to, the new one begins with
        scorer = replace(scorer, choice=before[1].choice)
    write_atomically(round_.folder / SCORER_FILE, scorer.to_json())
    note: dict[str, Any] = {
        "data_sha256": trials_sha256(trials),
        "n_questions": trials.n_units,
        "n_trials": trials.n_trials,
        "ece": quality.ece,
        CORE_SECONDS: time.process_time() - core_s,
    }
    round_.write("trained", note)
    return note


def compared(round_: Round, settings: RefreshSettings, run_ids: Sequence[str]) -> dict[str, Any]:
    """The new version beside the promoted one on the round's held-out questions that every entry was asked: the gate's
    decision, with `unlabelled`, the keys of questions that some entry was not asked. Leaves `comparison.json`."""
    if (known := round_.read("comparison")) is not None:
        return known
    from r2.training.grpo.served_scorer import served

    pool, (_, held_out) = load_pool(settings.pool, settings.policies_dir), sides(round_, settings)
    labels = _looked_up(settings, pool, Among(run_ids=frozenset(run_ids)), steps=False)
    solvers = pool.roster().solvers
    whole = _whole(labels, {card.name for card in solvers})
    unlabelled = sorted(round_.questions().keys() - whole)
    mine = [trial for trial in labels if trial.problem.problem_id in whole & set(held_out)]
    n_held_out = len({trial.problem.problem_id for trial in mine})
    note: dict[str, Any] = {"unlabelled": unlabelled, "n_held_out": n_held_out}
    before = promoted_scorer(settings)
    after = Scorer.from_json((round_.folder / SCORER_FILE).read_bytes(), str(round_.folder / SCORER_FILE))
    if n_held_out < LEAST_QUESTIONS:
        note |= _plain(
            False,
            f"kept: only {n_held_out} held-out questions with an answer of every entry; {LEAST_QUESTIONS} are needed",
        )
    elif before is None:
        note |= _plain(True, "first version: there is none to compare with")
    elif why := misfit(before[1], solvers):
        note |= _plain(True, f"{before[0].ref} is not used with this pool any more: {why}")
    else:
        table, _ = table_of(trials_of_pool(mine, pool))
        cost_ref = cost_ref_of(table)
        v_usd = DEFAULT_VALUE * cost_ref
        gate = Gate(
            lam=1 / DEFAULT_VALUE,
            margin=-settings.least_gain,
            accuracy_margin=settings.accuracy_margin,
            delta=settings.delta,
        )
        decision: Decision = decide(
            served(priced_today(before[1], solvers), table, v_usd, cost_ref),
            served(priced_today(after, solvers), table, v_usd, cost_ref),
            gate,
            settings.seed,
        )
        note |= asdict(decision) | {"compared_with": before[0].ref}
    round_.write("comparison", note)
    return note


def settled(round_: Round, settings: RefreshSettings, comparison: dict[str, Any], label_usd: float) -> Policy:
    """The version in the registry, with the reason on its card, promoted where the comparison says so; then the round
    is over. Done again it finds what it did."""
    registry, note = Registry(settings.policies_dir), round_.read("trained") or {}
    run_id = f"refresh-{settings.scorer}-{round_.number:04d}-{note['data_sha256'][:12]}"
    policy = _registered(registry, settings.scorer, run_id)
    if policy is None:
        before = registry.current(settings.scorer)
        card = PolicyCard(
            name=settings.scorer,
            kind="scorer",
            base="numpy",
            parent=f"{settings.scorer}@{before}" if before else "",
            data_sha256={settings.lake: note["data_sha256"]},
            seed=settings.seed,
            config={"run_id": run_id, "decision": comparison, **settings.model_dump(mode="json")},
            metrics={
                **{name: float(note[name]) for name in ("n_questions", "n_trials", "ece", CORE_SECONDS)},
                "n_held_out": float(comparison["n_held_out"]),
                **_figures(comparison),
            },
            git_commit=git_commit(),
            cost_usd=label_usd + note[CORE_SECONDS] / 3600 * CORE_HOUR_USD,
        )
        content = (round_.folder / SCORER_FILE).read_bytes()
        policy = registry.create(settings.scorer, card, lambda folder: _write(folder, content))
    if comparison["is_promoted"]:
        registry.promote(settings.scorer, policy.card.version, comparison["reason"], comparison)
    round_.write("decision", comparison | {"version": policy.card.version, "label_usd": label_usd})
    return policy


def result_of(round_: Round, settings: RefreshSettings, policy: Policy, comparison: dict[str, Any]) -> RoundResult:
    """Of a round that is over."""
    over = round_.read("decision") or {}
    about = round_.read("round") or {}
    remarks = [f"{n} questions left out: {why}" for why, n in sorted(about.get("left_out", {}).items())]
    if unlabelled := comparison["unlabelled"]:
        remarks.append(f"{len(unlabelled)} questions that not every entry was asked wait for the next round")
    is_promoted = Registry(settings.policies_dir).current(settings.scorer) == policy.card.version
    figures = {
        "questions": float(len(round_.questions())),
        "held out": float(comparison["n_held_out"]),
        "labels, USD": float(over.get("label_usd", 0.0)),
        **_figures(comparison),
    }
    reason = str(comparison["reason"])
    label_usd = float(over.get("label_usd", 0.0))
    return RoundResult(
        round_.number, reason, comparison, policy.ref, is_promoted, False, label_usd, figures, tuple(remarks)
    )


def promoted_scorer(settings: RefreshSettings) -> tuple[Policy, Scorer] | None:
    """The version that the name means now; None before the first promotion."""
    registry = Registry(settings.policies_dir)
    if registry.current(settings.scorer) is None:
        return None
    policy = registry.load(settings.scorer)
    if policy.card.kind != "scorer":
        raise ConfigError(f"scorer {settings.scorer!r}: {policy.ref} is a {policy.card.kind}, no scorer. Name another.")
    policy.check_files()
    return policy, Scorer.from_json((policy.path / SCORER_FILE).read_bytes(), policy.ref)


def _looked_up(settings: RefreshSettings, pool: PoolConfig, among: Among, *, steps: bool = True) -> list[Trial]:
    found = list(checked_trials(Path(settings.lake), pool, split_seed=0, test_share=0.0, among=among).trials)
    if steps:
        found += checked_steps(Path(settings.lake), pool, split_seed=0, test_share=0.0, among=among).trials
    return found


def _whole(labels: Sequence[Trial], entries: set[str]) -> set[str]:
    """Keys of the questions that every entry has an outcome for."""
    asked: dict[str, set[str]] = {}
    for trial in labels:
        asked.setdefault(trial.problem.problem_id, set()).add(trial.arm)
    return {key for key, arms in asked.items() if entries <= arms}


def _plain(is_promoted: bool, reason: str) -> dict[str, Any]:
    """A decision without a comparison."""
    return {"is_promoted": is_promoted, "reason": reason}


def _figures(comparison: dict[str, Any]) -> dict[str, float]:
    found: dict[str, float] = {}
    for side in ("before", "after"):
        for name, value in comparison.get(side, {}).items():
            if name != "readable":
                found[f"{name} {side}"] = float(value)
    for name in ("difference", "low", "high"):
        if name in comparison:
            found[f"gain in utility{'' if name == 'difference' else f', {name}'}"] = float(comparison[name])
    return found


def _began_at(round_: Round) -> float:
    return float((round_.read("round") or {}).get("began_at", time.time()))


def _registered(registry: Registry, name: str, run_id: str) -> Policy | None:
    for version in registry.versions(name):
        policy = registry.load(f"{name}@{version}")
        if policy.card.config.get("run_id") == run_id:
            return policy
    return None


def _write(folder: Path, content: bytes) -> None:
    (folder / SCORER_FILE).write_bytes(content)
