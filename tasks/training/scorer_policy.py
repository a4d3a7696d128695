"""A scorer as a policy: what it is trained on, and its training. Seconds on a core, so it needs no process of its own;
neither torch nor Prefect is needed.

It is trained on recorded answers (`outcomes`), or on the checked answers of the lake. A run that was stopped is simply
done anew.
"""

import hashlib
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson

from r2.answering.open_unit import entry_of
from r2.atomic import replacing_folder, write_atomically
from r2.errors import ConfigError
from r2.ledger import CORE_HOUR_USD
from r2.policies.registry import file_sha256
from r2.pool.file.config import PoolConfig, load_pool
from r2.pool.file.scorer_file import SCORER_FILE
from r2.training.scorer.trials import Trial, Trials, trials_from
from r2.training.sft.settings import SftSettings
from storage.lake.address import lake_folder
from storage.runs.checked_steps import checked_steps
from storage.runs.checked_trials import checked_trials
from storage.sources.outcome_tables import read_outcome_tables
from tasks.training.sft_process import PolicyResult, PolicySpec

LEAST_QUESTIONS = 20
"""One in five is kept for calibration."""
LEAST_OF_KIND = 8
"""Questions of a kind for profiles of its own (r2/training/scorer/profiles.py)."""
SECONDS_PER_QUESTION = 0.008
"""Of fitting, on one core of a server CPU: measured on 1,000 questions with 19 arms."""
CORE_SECONDS = "core_seconds"
"""Metric: what the training took of a core."""


@dataclass(frozen=True, slots=True)
class ScorerTrials:
    """`data_sha256` as on a policy's card. `remarks`: what is not used or not known, as sentences."""

    trials: Trials
    data_sha256: dict[str, str]
    remarks: tuple[str, ...]


def scorer_trials(settings: SftSettings) -> ScorerTrials:
    """InputFileError, LakeError or ConfigError for data that nothing can be learned from, by name."""
    found = _recorded(settings) if settings.outcomes else _of_lake(settings)
    if found.trials.n_units < LEAST_QUESTIONS:
        raise ConfigError(
            f"{', '.join(found.data_sha256)}: {found.trials.n_units} questions with an outcome; a scorer needs "
            f"{LEAST_QUESTIONS} at least, because it is calibrated on one in five of them."
        )
    return ScorerTrials(found.trials, found.data_sha256, (*found.remarks, *_remarks(found.trials)))


def train_scorer(spec: PolicySpec) -> PolicyResult:
    """Fits it and leaves `weights/scorer.json`, then `result.json`."""
    # Here and not above: scikit-learn takes seconds to import, and other trainings need not have it.
    from r2.training.scorer.fit import fit_scorer

    started, core_s = time.monotonic(), time.process_time()
    trials = scorer_trials(spec.settings).trials
    scorer, quality = fit_scorer(trials, seed=spec.settings.seed)
    metrics = {
        "ece": quality.ece,
        "ece_uncalibrated": quality.ece_uncalibrated,
        "loss": quality.loss,
        "temperature": scorer.temperature,
        **{f"auroc_{kind}": value for kind, value in quality.auroc.items()},
        "n_questions": float(trials.n_units),
        "n_trials": float(trials.n_trials),
        "n_arms": float(len(trials.arms)),
        CORE_SECONDS: time.process_time() - core_s,
    }
    spec.work_dir.mkdir(parents=True, exist_ok=True)
    with replacing_folder(spec.weights) as folder:
        (folder / SCORER_FILE).write_bytes(scorer.to_json())
    result = PolicyResult(metrics, trials.n_trials, quality.n, 0.0, time.monotonic() - started, 0)
    write_atomically(spec.work_dir / "result.json", orjson.dumps(result))
    return result


def priced_usd(result: PolicyResult) -> float:
    """What the seconds of a scorer's training cost, at the price of an hour of a core; 0 for other policies."""
    return result.metrics.get(CORE_SECONDS, 0.0) / 3600 * CORE_HOUR_USD


def _recorded(settings: SftSettings) -> ScorerTrials:
    from r2.training.scorer.table_method import trials_of

    paths = [Path(path) for path in settings.outcomes]
    joined = read_outcome_tables(paths)
    trials = trials_of(joined.table)
    remarks = list(joined.remarks)
    if joined.table.replies is None:
        remarks.append("no replies: every answer counts as a result of its own, so agreement teaches nothing")
    return ScorerTrials(trials, {str(path): file_sha256(path) for path in paths}, tuple(remarks))


def _of_lake(settings: SftSettings) -> ScorerTrials:
    lake = lake_folder(settings.lake)
    pool = load_pool(settings.pool or "", settings.policies_dir)
    found = checked_trials(lake, pool, split_seed=settings.split_seed, test_share=settings.test_share)
    steps = checked_steps(lake, pool, split_seed=settings.split_seed, test_share=settings.test_share)
    remarks = [f"{n} checked answers left out: {why}" for why, n in sorted(found.left_out.items())]
    remarks += [f"steps of {n} checked answers left out: {why}" for why, n in sorted(steps.left_out.items())]
    if not found.trials and not steps.trials:
        said = f" ({'; '.join(remarks)})" if remarks else ""
        raise ConfigError(
            f"{lake}: no checked answer of an entry of {settings.pool} to a whole question{said}. Make some with: r2 "
            f"evaluate --pool {settings.pool} --problems SOURCE --lake {lake}; or give recorded answers (--outcomes)."
        )
    trials = trials_of_pool((*found.trials, *steps.trials), pool)
    return ScorerTrials(trials, {str(lake): trials_sha256(trials)}, tuple(remarks))


def trials_of_pool(found: Sequence[Trial], pool: PoolConfig) -> Trials:
    """With what the pool file says of the arms. ConfigError as of `Trials`."""
    roster = pool.roster()
    entries = {trial.arm: entry_of(trial.arm) for trial in found}
    return trials_from(
        found,
        {arm: roster[entry].weights for arm, entry in entries.items()},
        {arm: (roster[entry].price.input, roster[entry].price.output) for arm, entry in entries.items()},
    )


def trials_sha256(trials: Trials) -> str:
    """Of all that is learned from."""
    digest = hashlib.sha256()
    problems = [[p.question, p.context, p.choices] for p in trials.problems]
    digest.update(orjson.dumps([trials.arms, trials.kinds, problems, sorted(trials.weights.items())]))
    digest.update(orjson.dumps(sorted(trials.prices.items())))
    for matrix in (trials.right_AU, trials.cost_usd_AU, trials.tokens_AU, trials.confidence_AU, trials.results_AU):
        digest.update(np.ascontiguousarray(matrix).tobytes())
    return digest.hexdigest()


def _remarks(trials: Trials) -> list[str]:
    """What cannot be learned of some kinds, arms and evidence."""
    remarks = []
    kinds = np.array(trials.kinds)
    for kind, n in Counter(trials.kinds).items():
        if n < LEAST_OF_KIND:
            remarks.append(f"{kind}: {n} questions, too few for accuracies of their own; those of all kinds stand in")
            continue
        outcomes = trials.right_AU[:, kinds == kind]
        known = outcomes[~np.isnan(outcomes)]
        if known.min() == known.max():
            same = "right" if known.max() > 0 else "wrong"
            remarks.append(f"{kind}: every outcome is {same}, so nothing is learned of which answers are right")
        without = [arm for arm, row in zip(trials.arms, outcomes, strict=True) if np.isnan(row).all()]
        if without:
            remarks.append(f"{kind}: no outcome of {', '.join(without)}; their accuracy over all kinds stands in")
    sure = ~np.isnan(trials.confidence_AU)
    if not sure.any():
        remarks.append("no confidence is known: agreement and the text alone are learned from")
    elif silent := [arm for arm, row in zip(trials.arms, sure, strict=True) if not row.any()]:
        remarks.append(f"no confidence of {', '.join(silent)}: none was asked for, or the endpoint gives none")
    return remarks
