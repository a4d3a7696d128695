"""Every switch of a scorer's group-relative fine-tuning (`r2 grpo --policy scorer`)."""

import hashlib
from typing import Any

import orjson
from pydantic import Field, model_validator

from r2.settings import Frozen
from r2.training.sft.settings import SftSettings


class TuneSettings(Frozen):
    """One fine-tuning of the choices of a scorer that is in the registry."""

    scorer: str = "scorer"
    """NAME or NAME@VERSION; the new version has the same name."""
    outcomes: tuple[str, ...] = ()
    """Tables of recorded answers to learn from; empty: what the lake has of entries of `pool`, as of `SftSettings`."""
    pool: str | None = None
    lake: str = "lake"
    policies_dir: str = "policies"
    seed: int = 0
    split_seed: int = 0
    test_share: float = Field(default=0.3, gt=0, lt=1)
    """Share of the questions that are held out: they decide about the promotion, and nothing else."""
    steps: int = Field(default=120, ge=1)
    group_size: int = Field(default=8, ge=2)
    learning_rate: float = Field(default=0.002, gt=0)
    margin: float = Field(default=0.01, ge=0)
    """The gate's; see `GrpoSettings`."""
    accuracy_margin: float = Field(default=0.05, gt=0, le=1)
    delta: float = Field(default=0.05, gt=0, lt=1)

    @model_validator(mode="after")
    def _one_source(self) -> "TuneSettings":
        self.of_trials()
        return self

    @property
    def name(self) -> str:
        """In the registry."""
        return self.scorer.partition("@")[0]

    def of_trials(self) -> SftSettings:
        """The settings of a scorer's training on the same answers. ValueError where they name none, or two sources."""
        return SftSettings(
            policy="scorer",
            outcomes=self.outcomes,
            pool=self.pool,
            lake=self.lake,
            policies_dir=self.policies_dir,
            seed=self.seed,
        )

    def run_id(self, data_sha256: dict[str, str], start: str) -> str:
        """Identity of the job: the same answers, start and settings are the same run."""
        own = self.model_dump(mode="json", exclude={"outcomes", "pool", "lake", "policies_dir", "scorer"})
        identity: list[Any] = [sorted(data_sha256.items()), start, own]
        return f"grpo-{hashlib.sha256(orjson.dumps(identity, option=orjson.OPT_SORT_KEYS)).hexdigest()[:12]}"
