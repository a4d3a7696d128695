"""Every switch of a supervised training, in one frozen model: the flow's parameter, the TOML file and the test fixture
are this class."""

import hashlib
from pathlib import Path
from typing import Any, ClassVar, Literal

import orjson
from pydantic import Field, model_validator

from r2.problems.source import parse_source
from r2.settings import Frozen, Positive, load
from r2.training.tiny import tiny_size

PolicyKind = Literal["decomposer", "allocator", "specialist", "scorer"]
OF_SCORER = (
    "policy",
    "outcomes",
    "name",
    "seed",
    "split_seed",
    "test_share",
    "pool",
    "lake",
    "policies_dir",
    "promote",
    "models_dir",
    "data_dir",
)
"""Settings that may be given where a scorer is trained; it has no weights to begin with, no steps and no prompts. The
last two are set by the environment for every command."""


class SftSettings(Frozen):
    """One run of `train_sft`: one base, one policy or the two of a router."""

    old_names: ClassVar = {"out": "policies_dir", "save_every": "save_steps"}

    policy: Literal["decomposer", "allocator", "both", "specialist", "scorer"] = "both"
    labels: str = "labels"
    """Folder that `r2 label` wrote, or several with commas between; for decomposer and allocator."""
    outcomes: tuple[str, ...] = ()
    """Tables of recorded answers (storage/sources/outcome_tables.py) that a scorer is trained on, all their rows.
    Empty: the checked answers of the lake to questions on the `train` side, of entries of `pool` as they are today."""
    problems: str | None = None
    """Source of problems (r2/problems/source.py): a specialist is trained on their subtasks; a router is evaluated on
    those of its `test` side."""
    name: str | None = None
    """Name in the registry; None: decomposer, allocator, or <problems>-specialist."""
    base: str = "smollm2"
    """`smollm2` or another catalogue name, `tiny` or `tiny:WIDTHxLAYERS` (made from scratch), or a path or hub id of
    Hugging Face weights."""
    start: str | None = None
    """Policy of the registry to train further, NAME or NAME@VERSION, of the same base; None: the base itself."""
    weights: Literal["auto", "adapter", "full"] = "auto"
    """LoRA adapter or all weights; `auto`: full for `tiny`, else adapter."""
    steps: int = Field(default=260, ge=1)
    """Optimiser steps."""
    batch_size: int = Field(default=4, ge=1)
    """Rows per step and device."""
    learning_rate: Positive | None = None
    """None: 8e-4 for adapters, 3e-3 for `tiny`, 5e-5 for all weights of a pretrained base (ours)."""
    lora_rank: int = Field(default=8, ge=1)
    lora_alpha: int = Field(default=16, ge=1)
    max_tokens: int = Field(default=1024, ge=32)
    """Longer rows are cut at the end."""
    prompt_mode: Literal["bare", "direct"] = "bare"
    """`bare`: the system message is one word, and pool entries of the policy need `prompt_mode = "bare"`; `direct`: the
    prompts as labelled."""
    augment: int = Field(default=4, ge=0)
    """Views of each allocator row: as labelled, then with the models in other orders and some unused ones left out, so
    that the allocator should read profiles and not places (r2/training/sft/augment.py; the shipped ones do not). 0 or
    1: as labelled alone."""
    seed: int = 0
    split_seed: int = 0
    """Of the split into train and test (r2/problems/split.py); as in the label sets."""
    test_share: float = Field(default=0.1, gt=0, lt=1)
    n_problems: int = Field(default=20000, ge=1)
    """Problems that a specialist's subtasks come from, before the split."""
    n_held_out: int = Field(default=60, ge=0)
    """Held-out rows that are answered greedily after training."""
    pool: str | None = None
    """Pool file: the policy's plans or allocations are executed on it for `n_executed` held-out problems. None: not
    executed. Of a scorer: whose entries' answers it learns from; needed where there are no `outcomes`."""
    n_executed: int = Field(default=40, ge=0)
    save_steps: int = Field(default=25, ge=1)
    """Steps between checkpoints: what a kill can cost."""
    threads: int | None = Field(default=None, ge=1)
    """Of torch; None: its own choice. On a machine that is busy with other work, 1 is the fastest: threads wait for
    each other (measured)."""
    trainer: dict[str, Any] = Field(default_factory=dict)
    """Further fields of TRL's `SFTConfig`, as they are."""
    accelerate_config: str | None = None
    """File for `accelerate launch` (configs/accelerate): several GPUs or machines, FSDP, DeepSpeed. None: one process.
    """
    launcher: tuple[str, ...] = ()
    """Another command that starts Python modules on several devices, put before `-m`: ("torchrun", "--nproc_per_node",
    "4")."""
    lake: str = "lake"
    policies_dir: str = "policies"
    """Folder of the policy registry."""
    models_dir: str = "models"
    data_dir: str | None = None
    promote: bool = False
    """Promote the new version even where another one is promoted. The first version of a name is promoted unasked,
    unless fewer than half of its plans for held-out problems are valid."""

    @model_validator(mode="after")
    def _fields_fit(self) -> "SftSettings":
        if self.policy == "scorer":
            return self._scorer_fits()
        if self.outcomes:
            raise ValueError(f"--outcomes trains a scorer, not {self.policy}: say --policy scorer")
        if self.policy == "specialist" and self.problems is None:
            raise ValueError("a specialist needs --problems, the source its subtasks come from (scan, arithmetic)")
        if self.is_tiny and self.weights == "adapter":
            raise ValueError(
                "base tiny is made from scratch, so all its weights are trained; an adapter would have nothing to adapt"
            )
        if self.policy == "both" and self.name is not None:
            raise ValueError("--name names one policy; --policy both trains two")
        if self.pool is not None and self.policy != "specialist" and self.problems is None:
            raise ValueError(
                "--pool executes held-out problems; say which with --problems (scan, gsm8k, file:PATH, ...)"
            )
        return self

    def _scorer_fits(self) -> "SftSettings":
        for name, field in type(self).model_fields.items():
            if name not in OF_SCORER and getattr(self, name) != field.get_default(call_default_factory=True):
                raise ValueError(
                    f"{name} has no meaning for a scorer, which is trained on outcomes alone: leave it out"
                )
        if self.outcomes and self.pool is not None:
            raise ValueError("outcomes and pool: recorded answers need no pool; leave one of the two out")
        if not self.outcomes and self.pool is None:
            raise ValueError(
                "a scorer needs --outcomes, files of recorded answers; or --pool, and then it learns from what the "
                "lake has of that pool's entries"
            )
        return self

    @property
    def kinds(self) -> tuple[PolicyKind, ...]:
        """The policies this run trains, in order."""
        return ("decomposer", "allocator") if self.policy == "both" else (self.policy,)

    def policy_name(self, kind: PolicyKind) -> str:
        """Its name in the registry."""
        if self.name is not None:
            return self.name
        if kind != "specialist":
            return kind
        return f"{parse_source(self.problems or '').name}-specialist"

    @property
    def is_tiny(self) -> bool:
        """True if the base is made from scratch."""
        return tiny_size(self.base) is not None

    @property
    def is_full(self) -> bool:
        """True if all weights are trained."""
        return self.weights == "full" or (self.weights == "auto" and self.is_tiny)

    @property
    def rate(self) -> float:
        """The learning rate with its default filled in."""
        if self.learning_rate is not None:
            return self.learning_rate
        return 8e-4 if not self.is_full else 3e-3 if self.is_tiny else 5e-5

    def identity(self) -> dict[str, Any]:
        """What decides the trained weights; paths, evaluation and checkpoints do not."""
        if self.policy == "scorer":
            return self.model_dump(mode="json", include={"policy", "seed"})
        is_augmented = self.policy in ("allocator", "both")
        return self.model_dump(
            mode="json",
            include={
                "policy",
                "problems",
                "base",
                "start",
                "weights",
                "steps",
                "batch_size",
                "learning_rate",
                "lora_rank",
                "lora_alpha",
                "max_tokens",
                "prompt_mode",
                "seed",
                "split_seed",
                "test_share",
                "n_problems",
                "trainer",
                *({"augment"} if is_augmented else ()),
            },
        )

    def run_id(self, data_sha256: dict[str, str]) -> str:
        """Identity of the job: the same data, base and settings resume the same run; anything else is another run."""
        identity = [sorted(data_sha256.items()), self.identity()]
        return f"sft-{hashlib.sha256(orjson.dumps(identity, option=orjson.OPT_SORT_KEYS)).hexdigest()[:12]}"


def load_sft_settings(path: Path | None, overrides: dict[str, Any]) -> SftSettings:
    """Defaults, the TOML file, then flags. ConfigError names the field."""
    return load(SftSettings, path, overrides)
