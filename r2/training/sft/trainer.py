"""Supervised training of one policy on chat rows, with TRL's SFTTrainer: completion-only loss, LoRA adapter or all
weights, resumable.

Who calls it says where rows come from and where the weights go (tasks/training/sft_process.py); here is only the
training. The order of rows is fixed beforehand (`training_order`), so a resumed run sees what an unbroken one would
have seen.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from r2.training import device, ranks
from r2.training.curve import MetricsFile
from r2.training.data import ChatRow, training_order
from r2.training.sft.settings import SftSettings

TEMPLATE_TOKENS = 32
"""More than a chat template adds to one message."""
Report = Callable[[int, int, dict[str, float]], None]
"""Called with (step, steps, metrics) after every step."""


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """A finished training. `first_step` is the checkpoint it was resumed from, 0 for none; times and tokens are of this
    process. `weights` are the model's where several processes share it, None where this one has all of them."""

    model: Any
    tokenizer: Any
    first_step: int
    wall_s: float
    n_tokens: int
    weights: Mapping[str, Any] | None = None


def row_tokens(rows: Sequence[ChatRow], tokenizer: Any) -> list[int]:
    """Tokens of each row with its chat template."""
    return [
        len(
            tokenizer.apply_chat_template([*row["prompt"], *row["completion"]], tokenize=True, return_dict=True)[
                "input_ids"
            ]
        )
        for row in rows
    ]


def n_cut_rows(rows: Sequence[ChatRow], tokenizer: Any, max_tokens: int) -> int:
    """Rows that are longer than `max_tokens` and cut at their end. A token is a byte at least, so only rows with many
    bytes are tokenized."""

    def n_bytes(row: ChatRow) -> int:
        return sum(len(said["content"].encode()) + TEMPLATE_TOKENS for said in (*row["prompt"], *row["completion"]))

    long = [row for row in rows if n_bytes(row) > max_tokens]
    return sum(n > max_tokens for n in row_tokens(long, tokenizer))


def train(
    rows: Sequence[ChatRow],
    model: Any,
    tokenizer: Any,
    work_dir: Path,
    settings: SftSettings,
    report: Report = lambda step, steps, metrics: None,
) -> TrainingResult:
    """Trains to `settings.steps`, from the newest checkpoint in `work_dir` if there is one. Metrics go to
    `work_dir/curve.jsonl`."""
    started = time.monotonic()
    checkpoint = newest_checkpoint(work_dir)
    first_step = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
    curve = MetricsFile(work_dir / "curve.jsonl")
    if ranks.is_writer():
        curve.cut(first_step)
    trainer, lengths = make_trainer(rows, model, tokenizer, work_dir, settings)
    trainer.add_callback(_reporter(curve, settings.steps, report))
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    n_tokens = sum(lengths[first_step * len(lengths) // settings.steps :])
    return TrainingResult(
        trainer.accelerator.unwrap_model(trainer.model),
        tokenizer,
        first_step,
        time.monotonic() - started,
        n_tokens,
        trainer.accelerator.get_state_dict(trainer.model) if ranks.n_processes() > 1 else None,
    )


def make_trainer(
    rows: Sequence[ChatRow], model: Any, tokenizer: Any, work_dir: Path, settings: SftSettings
) -> tuple[Any, list[int]]:
    """(TRL's trainer, tokens of each row in the order they are seen in)."""
    from datasets.arrow_dataset import Dataset
    from trl.trainer.sft_trainer import SFTTrainer

    device.use_threads(settings.threads)
    lengths = [min(n, settings.max_tokens) for n in row_tokens(rows, tokenizer)]
    batches_per_step = ranks.n_processes() * int(settings.trainer.get("gradient_accumulation_steps", 1))
    order = training_order(
        lengths,
        settings.batch_size,
        settings.steps * batches_per_step,
        settings.seed,
        by_length=settings.policy == "specialist",
    )
    trainer = SFTTrainer(
        model=model,
        args=_config(work_dir, settings),
        train_dataset=Dataset.from_list([dict(rows[i]) for i in order]),
        processing_class=tokenizer,
        peft_config=None if settings.is_full or hasattr(model, "peft_config") else _lora(settings),
    )
    return trainer, [lengths[i] for i in order]


def newest_checkpoint(work_dir: Path) -> Path | None:
    """The last checkpoint that was written whole: `trainer_state.json` is written last, and a kill may tear it."""
    found = [p for p in work_dir.glob("checkpoint-*") if _is_json(p / "trainer_state.json")]
    return max(found, key=lambda p: int(p.name.rpartition("-")[2]), default=None)


def _is_json(path: Path) -> bool:
    try:
        orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return False
    return True


def save(trained: TrainingResult, folder: Path) -> None:
    """The adapter in half precision (its size is what is committed and shipped), or all weights in float32 with their
    tokenizer."""
    import torch

    model = trained.model
    weights = model.state_dict() if trained.weights is None else dict(trained.weights)
    if hasattr(model, "peft_config"):
        half = {name: value.detach().to(torch.float16) for name, value in weights.items() if "lora_" in name}
        model.save_pretrained(folder, state_dict=half)
        (folder / "README.md").unlink(missing_ok=True)  # a template; the policy card says what there is to say
    else:
        model.save_pretrained(folder, state_dict=weights)
        trained.tokenizer.save_pretrained(folder)


def _config(work_dir: Path, settings: SftSettings) -> Any:
    from trl.trainer.sft_config import SFTConfig

    fields: dict[str, Any] = {
        "max_steps": settings.steps,
        "per_device_train_batch_size": settings.batch_size,
        "learning_rate": settings.rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": min(10, settings.steps // 10),
        "logging_steps": 1,
        "logging_strategy": "steps",
        "save_steps": settings.save_steps,
        "save_total_limit": 2,
        "report_to": "none",
        "seed": settings.seed,
        "train_sampling_strategy": "sequential",
        "completion_only_loss": True,
        "max_length": settings.max_tokens,
        "disable_tqdm": True,
        **device.trainer_fields(),
    }
    return SFTConfig(output_dir=str(work_dir), **{**fields, **settings.trainer})


def _lora(settings: SftSettings) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def _reporter(curve: MetricsFile, n_steps: int, report: Report) -> Any:
    from transformers import TrainerCallback

    class Reporter(TrainerCallback):
        """Every logged step to the curve and to who watches."""

        def __init__(self) -> None:
            self.at = time.monotonic()

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            metrics = {name: value for name, value in (logs or {}).items() if isinstance(value, int | float)}
            if "loss" not in metrics or not ranks.is_writer():
                return  # the summary at the end, which would overwrite the last step's
            now = time.monotonic()
            metrics["step_s"], self.at = now - self.at, now
            curve.add(state.global_step, metrics)
            report(state.global_step, n_steps, metrics)

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.at = time.monotonic()

    return Reporter()
