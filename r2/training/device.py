"""What depends on the machine: the one place that decides number format, checkpointing and threads of a training.

TRL's own defaults (bf16 and gradient checkpointing) are for GPUs; a CPU without bf16 units emulates the format, and a
step takes ten times as long.
"""

from typing import Any

import torch


def has_gpu() -> bool:
    """True where CUDA has a device."""
    return torch.cuda.is_available()


def trainer_fields() -> dict[str, Any]:
    """Fields of transformers' `TrainingArguments` that follow from the machine: bf16 and checkpointing on a GPU,
    float32 without on a CPU."""
    gpu = has_gpu()
    return {"bf16": gpu, "gradient_checkpointing": gpu, "use_cpu": not gpu, "dataloader_pin_memory": gpu}


def use_threads(n_threads: int | None) -> int:
    """Sets torch's threads (None: leaves them) and returns how many it uses. Sums of floats depend on the number: keep
    it in a resumed run."""
    if n_threads is not None:
        torch.set_num_threads(n_threads)
    return torch.get_num_threads()


def without_progress_bars() -> None:
    """Switches transformers' progress bars off: they would stand between the lines of the training's own progress."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
