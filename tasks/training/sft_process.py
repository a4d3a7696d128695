"""One policy trained and examined, in a process of its own: `python -m tasks.training.sft_process SPEC.json`. Memory
goes with the process, and a crash takes nothing else along.

Reads the spec, writes into its work folder: checkpoints, `curve.jsonl`, `weights/` once training is done, `result.json`
last. Started again it does what is left. Progress on stderr, the trainer's own chatter in `trainer.log`. Knows neither
Prefect nor the lake.
"""

import asyncio
import contextlib
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from pydantic import Field

from r2.atomic import replacing_folder, write_atomically
from r2.call import Purpose
from r2.errors import ConfigError
from r2.lifeline import die_with_parent
from r2.policies.registry import Policy, Registry
from r2.settings import AnswerSettings, Frozen, Reasoning
from r2.training.data import ChatRow, messages_of
from r2.training.ranks import is_writer
from r2.training.sft.settings import PolicyKind, SftSettings
from storage.runs.journal import Journal
from storage.runs.paid import paid_usd
from tasks.cause import exit_code, message
from tasks.training.training_rows import JOB, TrainingRows, held_out_problems, training_rows

if TYPE_CHECKING:  # not when a flow is imported: torch is seconds
    from r2.training.sampling import LocalPolicy

REPORT_S = 10.0
EXAMINED_TOGETHER = 16
SLACK_TOKENS = 8


class PolicySpec(Frozen):
    """What the process is told. `partners`: policies of the same run that were trained before, whose parts they play
    when this one is executed."""

    settings: SftSettings
    kind: PolicyKind
    run_id: str
    work_dir: Path
    partners: dict[PolicyKind, Path] = Field(default_factory=dict)

    @property
    def weights(self) -> Path:
        """Folder of the finished weights."""
        return self.work_dir / "weights"


@dataclass(frozen=True, slots=True)
class PolicyResult:
    """`result.json`: what was trained and how it did. `wall_s` is of the session that finished the training."""

    metrics: dict[str, float]
    n_rows: int
    n_held_out: int
    paid_usd: float
    wall_s: float
    first_step: int


def read_result(work_dir: Path) -> PolicyResult | None:
    """None while the process has not finished."""
    path = work_dir / "result.json"
    return PolicyResult(**orjson.loads(path.read_bytes())) if path.exists() else None


def train_policy(spec: PolicySpec) -> PolicyResult | None:
    """Trains unless the weights are there, examines, and leaves the result. Of several processes that train together,
    only the first does more than train."""
    from r2.training.base import load_base
    from r2.training.sampling import load_trainable
    from r2.training.sft.trainer import save, train

    settings, started = spec.settings, time.monotonic()
    spec.work_dir.mkdir(parents=True, exist_ok=True)
    rows = training_rows(settings, spec.kind)
    texts = (said["content"] for row in (*rows.train, *rows.held_out) for said in (*row["prompt"], *row["completion"]))
    first_step = settings.steps
    if not spec.weights.exists():
        if settings.start is None:
            model, tokenizer = load_base(settings.base, Path(settings.models_dir), texts, settings.seed)
        else:
            model, tokenizer = load_trainable(starting_policy(settings), Path(settings.models_dir))
        trained = train(rows.train, model, tokenizer, spec.work_dir, settings, _progress(spec))
        if not is_writer():
            return None
        first_step = trained.first_step
        with replacing_folder(spec.weights) as folder:
            save(trained, folder)
        del model, trained
    metrics, paid_usd = examine(spec, rows)
    result = PolicyResult(
        metrics, len(rows.train), len(rows.held_out), paid_usd, time.monotonic() - started, first_step
    )
    write_atomically(spec.work_dir / "result.json", orjson.dumps(result))
    return result


def starting_policy(settings: SftSettings) -> Policy:
    """The policy `settings.start` names. ConfigError if it is not there or was trained from another base."""
    policy = Registry(settings.policies_dir).load(settings.start or "")
    if policy.card.base != settings.base:
        raise ConfigError(
            f"start {policy.ref}: it was trained from base {policy.card.base!r}, not {settings.base!r}. Give --base "
            f"{policy.card.base}."
        )
    return policy


def examine(spec: PolicySpec, rows: TrainingRows) -> tuple[dict[str, float], float]:
    """(metrics on held-out rows and problems, USD paid to the pool): the saved weights are what is examined."""
    from r2.training.base import load_policy_weights
    from r2.training.sampling import LocalPolicy
    from r2.training.sft.augment import shuffled_rows
    from r2.training.sft.held_out import allocation_scores, plan_scores, subtask_scores
    from r2.training.sft.trainer import n_cut_rows

    settings = spec.settings
    mine = LocalPolicy(*load_policy_weights(spec.weights, settings.base, Path(settings.models_dir)))
    metrics: dict[str, float] = {
        "n_rows_cut": n_cut_rows(rows.train, mine.tokenizer, settings.max_tokens),
        "n_held_out_seen": rows.n_seen,
    }
    if rows.held_out:
        texts = greedy_texts(mine, rows.held_out)
        if spec.kind == "specialist":
            metrics |= subtask_scores(texts, rows.held_out_subtasks)
        else:
            metrics |= (plan_scores if spec.kind == "decomposer" else allocation_scores)(texts, rows.held_out)
    if rows.held_out and spec.kind == "allocator":
        shuffled = shuffled_rows(rows.held_out, settings.seed)
        mixed = allocation_scores(greedy_texts(mine, shuffled), shuffled)
        metrics |= {f"shuffled_{name}": mixed[name] for name in ("valid_allocation", "cost_equivalent")}
        if metrics.get("price_ratio") and "price_ratio" in mixed:
            metrics["shuffled_cost"] = mixed["price_ratio"] / metrics["price_ratio"]
    if settings.pool is None or spec.kind == "specialist" or not settings.n_executed:
        return metrics, 0.0
    policies: dict[Purpose, LocalPolicy] = {_purpose(spec.kind): mine}
    for kind, folder in spec.partners.items():
        policies[_purpose(kind)] = LocalPolicy(*load_policy_weights(folder, settings.base, Path(settings.models_dir)))
    return _executed(spec, policies, metrics)


def greedy_texts(policy: "LocalPolicy", rows: Sequence[ChatRow]) -> list[str]:
    """The policy's reply to each row, in order. Rows of like labels are answered together, with a few tokens more than
    the label has: what is longer is wrong anyway, and is not waited for."""
    from r2.training.sft.trainer import row_tokens

    sizes = row_tokens([ChatRow(prompt=[], completion=row["completion"]) for row in rows], policy.tokenizer)
    order = sorted(range(len(rows)), key=lambda i: sizes[i])
    texts: dict[int, str] = {}
    for start in range(0, len(order), EXAMINED_TOGETHER):
        batch = order[start : start + EXAMINED_TOGETHER]
        prompts = [messages_of(rows[i]) for i in batch]
        for i, sampled in zip(batch, policy.write(prompts, sizes[batch[-1]] + SLACK_TOKENS), strict=True):
            texts[i] = sampled.text
    return [texts[i] for i in range(len(rows))]


def _executed(
    spec: PolicySpec, policies: dict[Purpose, Any], metrics: dict[str, float]
) -> tuple[dict[str, float], float]:
    from r2.methods.router import make_router
    from r2.pool.client.state import state_dir
    from r2.pool.file.config import load_pool
    from r2.training.drive_policy import execute

    settings = spec.settings
    pool = load_pool(settings.pool or "")
    pool.check_keys()
    router = make_router(pool, AnswerSettings(input="", reasoning=Reasoning(seed=settings.seed)))
    problems = held_out_problems(settings)
    with Journal.open(spec.work_dir / "held_out.journal") as journal:
        if journal.n_missing_at_open:
            sys.stderr.write(f"r2: {journal.loss()}\n")
        done = asyncio.run(
            execute(
                problems,
                policies,
                settings.prompt_mode,
                pool,
                router,
                models_dir=Path(settings.models_dir),
                state_dir=state_dir(),
                log_dir=spec.work_dir / "logs",
                journal=journal,
                already_paid_usd=paid_usd(journal),
            )
        )
    return metrics | done.metrics(), done.paid_usd


def _purpose(kind: PolicyKind) -> Purpose:
    return "decompose" if JOB[kind] == "decompose" else "allocate"


def _progress(spec: PolicySpec) -> Callable[[int, int, dict[str, float]], None]:
    """A JSON line on stderr every ten seconds and at the end."""
    shown_at = began = time.monotonic()
    n_seen = 0

    def report(step: int, n_steps: int, metrics: dict[str, float]) -> None:
        nonlocal shown_at, n_seen
        n_seen += 1
        now = time.monotonic()
        if step < n_steps and now - shown_at < REPORT_S:
            return
        shown_at = now
        facts = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "run_id": spec.run_id,
            "policy": spec.settings.policy_name(spec.kind),
            "step": step,
            "steps": n_steps,
            "loss": round(metrics.get("loss", 0.0), 4),
            "minutes_left": round((now - began) / n_seen * (n_steps - step) / 60, 1),
        }
        sys.stderr.write(orjson.dumps(facts).decode() + "\n")
        sys.stderr.flush()

    return report


def main(spec_path: str) -> int:
    """Exit code 2 where the configuration is wrong, 1 for any other error: one line on stderr, where it arose in the
    log."""
    die_with_parent()
    os.environ |= {"HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings(
        "ignore", category=FutureWarning
    )  # between trl and transformers, whose fields of the same meaning change names
    spec = PolicySpec.model_validate_json(Path(spec_path).read_bytes())
    spec.work_dir.mkdir(parents=True, exist_ok=True)
    with (spec.work_dir / "trainer.log").open("a") as log, contextlib.redirect_stdout(log):
        try:
            from r2.training.device import without_progress_bars

            without_progress_bars()
            train_policy(spec)
        except Exception as error:
            traceback.print_exception(error, file=log)
            sys.stderr.write(f"{message(error)}\n")
            return exit_code(error)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
