"""A whole training of alternating rounds: its problems frozen in the run's folder, then one round after the other until
all are settled.

How a round is run is the caller's: `run_in_process` starts a fresh process for it; the flow wraps that in a Prefect
task. The same settings resume the training.
"""

import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from r2.answering.wanted import wanted_digest
from r2.atomic import write_atomically
from r2.errors import ConfigError, StoppedError, TrainingError
from r2.lifeline import spawn
from r2.policies.registry import file_sha256
from r2.pool.file.config import load_pool
from r2.problem import Problem
from r2.problems.own_check import checks_digest
from r2.problems.split import split_of
from r2.settings import Columns
from r2.training.curve import MetricsFile
from r2.training.grpo.partners import parts_of, untrained_digest, versions_of
from r2.training.grpo.promotion import Decision
from r2.training.grpo.rounds import Rounds, State, fresh_held_out
from r2.training.grpo.settings import GrpoSettings
from r2.training.launch import LAST_WORD, REFUSED, training_command
from storage.lake.address import lake_folder
from storage.lake.lake import Lake
from storage.runs.plan import run_dir_of
from storage.sources.problem_files import question_file, row_of
from storage.sources.questions import read_questions
from tasks.training.waiting import exit_code_of

REPORT_S = 10.0
SHOWN = {
    "reward": "reward",
    "entropy": "entropy",
    "pool/cost_usd": "usd_per_rollout",
    "pool/valid_share": "valid",
    "pool/top_model_share": "top_model",
    "step_s": "step_s",
}
"""Metrics of a step that are shown while a round runs -> as what."""

RunRound = Callable[[Path], None]
"""Does the round that a specification file describes; returns when its result is written."""


@dataclass(frozen=True, slots=True)
class GrpoResult:
    """Where the training stands, with one record per settled round."""

    state: State
    run_dir: Path
    is_stopped: bool = False
    """The user stopped it before all its rounds were settled."""


def open_rounds(settings: GrpoSettings) -> Rounds:
    """Finds or begins the training that these settings describe. ConfigError for what is wrong in them, before anything
    is paid."""
    pool = load_pool(settings.pool, settings.policies_dir)
    pool.check_keys()
    data_dir = Path(settings.data_dir) if settings.data_dir else None
    file = question_file(settings.problems, settings.limit, settings.seed, data_dir, lake_folder(settings.lake))
    start = versions_of(settings, pool)
    digest = file_sha256(file.path)
    parts = parts_of(start, pool, settings)
    by_content = checks_digest(settings.reasoning) + wanted_digest(settings.reasoning)
    run_id = settings.run_id(untrained_digest(pool, start) + by_content, digest)
    run_dir = run_dir_of(lake_folder(settings.lake), run_id)
    run_dir.mkdir(parents=True, exist_ok=True)
    frozen = run_dir / "problems.jsonl"
    if not frozen.exists():
        rows = [row for row in file.rows(settings.limit) if isinstance(row, Problem)]
        check = parts.router.check
        judged = [row for row in rows if (row.target is not None if check is None else check.can_judge(row))]
        if not judged:
            raise ConfigError(
                f"--problems {settings.problems}: none of its rows has an answer to be judged by; GRPO needs them, or "
                "a check that does without (--check)."
            )
        lines = [orjson.dumps(row_of(row), option=orjson.OPT_APPEND_NEWLINE) for row in judged]
        write_atomically(frozen, b"".join(lines))
    rounds = Rounds.open(run_dir, settings, run_id, start)
    for role, version in start.items():
        ours = {rounds.state.start[role], rounds.state.current[role]}
        ours |= {record["candidates"].get(role, "") for record in rounds.state.settled}
        if rounds.is_done and version not in ours:
            raise ConfigError(
                f"training {run_id} is done, and since then {version} was promoted. To train on from it, name it: "
                f"--{role} {version}."
            )
    if not rounds.is_done:
        tested = [
            row
            for row in read_questions(frozen, Columns())
            if isinstance(row, Problem) and split_of(row.question, settings.split_seed, settings.test_share) == "test"
        ]
        fresh_held_out(run_dir, rounds.state.number, tested, settings)
    return rounds


def train_rounds(
    settings: GrpoSettings,
    run_round: RunRound,
    told: Callable[[Rounds, Decision], None] = lambda rounds, decision: None,
) -> Rounds:
    """Rounds until all that were asked for are settled, or until the user stops them; `told` hears each decision."""
    rounds = open_rounds(settings)
    with Lake(settings.lake).run_lock(rounds.state.run_id), suppress(StoppedError):
        while not rounds.is_done:
            spec = rounds.next_spec()
            if not (spec.parent / "result.json").exists():
                run_round(spec)
            told(rounds, rounds.settle())
    return rounds


def round_table(state: State) -> list[dict[str, object]]:
    """One row per settled round: who learned, what held-out problems said, and what followed."""
    rows: list[dict[str, object]] = []
    for record in state.settled:
        decision = record["decision"]
        row: dict[str, object] = {
            "round": record["number"],
            "trained": ", ".join(record["candidates"].values()) or "nobody",
            "utility before": decision["before"]["utility"],
            "utility after": decision["after"]["utility"],
            "difference": decision["difference"],
            "low 95%": decision["low"],
            "high 95%": decision["high"],
            "accuracy before": decision["before"]["accuracy"],
            "accuracy after": decision["after"]["accuracy"],
            "USD per 1k before": 1000 * decision["before"]["cost_usd"],
            "USD per 1k after": 1000 * decision["after"]["cost_usd"],
            "promoted": decision["is_promoted"],
            "held out": decision["n_problems"],
            "lost, won": f"{decision.get('n_losses', '?')}, {decision.get('n_wins', '?')}",
            "accuracy no worse by more than": decision.get("accuracy_margin_held", "?"),
            "problems missing": _missing(decision),
            "cost in random orders": decision.get("shuffled_cost_ratio") or "",
            "USD paid": record["cost_usd"],
            "alarms": "; ".join(record["alarms"][-3:]),
        }
        rows.append(row)
    return rows


def _missing(decision: Mapping[str, Any]) -> object:
    """How many problems are missing to show the asked margin; decisions before it was asked have none."""
    missing = decision.get("n_problems_missing", "?")
    return "no number would do" if missing is None else missing


def run_in_process(spec: Path) -> None:
    """A round in a process of its own, which ends with this one. TrainingError with the end of its log if it fails."""
    settings = GrpoSettings.model_validate(orjson.loads(spec.read_bytes())["settings"])
    command = training_command(
        "tasks.training.grpo_process", spec, accelerate_config=settings.accelerate_config, launcher=settings.launcher
    )
    run_command(command, spec.parent / "train.log", settings.threads)


def run_command(command: list[str], log: Path, threads: int | None = None) -> None:
    """Runs a command to its end, its output in `log`. TrainingError with the log's last lines if it fails, transient
    unless the process said that it refuses; StoppedError if the user stopped it."""
    environment = dict(os.environ) if threads is None else {**os.environ, "OMP_NUM_THREADS": str(threads)}
    said_before = log.stat().st_size if log.exists() else 0
    process = spawn(command, log=log, env=environment)
    code = exit_code_of(process, lambda: _report(log.parent), REPORT_S)
    if process.stdin is not None:
        process.stdin.close()
    if code:
        error = TrainingError(f"{log}: the round's process ended with code {code}. {_why(log, said_before)}")
        error.transient = code != REFUSED
        raise error


def _report(folder: Path) -> None:
    """Says on stderr where the policies of a round are."""
    if facts := progress_of(folder):
        sys.stderr.write(orjson.dumps(facts).decode() + "\n")
        sys.stderr.flush()


def progress_of(folder: Path) -> dict[str, object]:
    """The newest step of each policy that the round in `folder` trains, by its curve; empty before the first step."""
    facts: dict[str, object] = {}
    for path in sorted(folder.glob("*/curve.jsonl")):
        if points := MetricsFile(path).points():
            step = points[-1].step
            said = {p.metric: p.value for p in points if p.step == step and p.metric in SHOWN}
            facts[path.parent.name] = {"step": step, **{SHOWN[name]: round(value, 4) for name, value in said.items()}}
    return {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "round": folder.name, **facts} if facts else {}


def _why(log: Path, begins_at: int, n_lines: int = 15) -> str:
    """The process's own message; the last lines of its log, which `begins_at` a byte, where it left none, because it
    was killed."""
    lines = log.read_bytes()[begins_at:].decode("utf-8", "replace").splitlines()
    said = [line.removeprefix(LAST_WORD) for line in lines if line.startswith(LAST_WORD)]
    return said[-1] if said else "Its last lines:\n" + "\n".join(lines[-n_lines:])
