"""Every switch of the nightly loop in one frozen model: parameter of the flow `refresh_router`, and its TOML file."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from r2.settings import Frozen, Positive, load
from r2.training.grpo.settings import GrpoSettings

STAGES = ("label", "train", "evaluate", "promote")
Stage = Literal["label", "train", "evaluate", "promote"]


class RefreshSettings(Frozen):
    """One name in the registry, kept up to date with the traffic of one pool."""

    pool: str = "pools/local.toml"
    scorer: str = "scorer"
    """Name of the policy in the registry. Its promoted version is what a new one is compared with."""
    lake: str = "lake"
    policies_dir: str = "policies"
    models_dir: str = "models"
    max_cost_usd: Positive | None = None
    """What one round may pay, over all its sessions: for labels, then for language-model policies. None: no cap."""
    n_questions: int = Field(default=400, ge=1)
    """New questions that one round takes at most, the newest."""
    least: int = Field(default=80, ge=40)
    """With fewer new questions a round does not begin."""
    held_out: float = Field(default=0.5, gt=0, lt=1)
    """Share of a round's questions that decide about the promotion, and that nothing of the round is trained on."""
    window_days: Positive = 30.0
    """Answers that are older are not trained on: what a model was like long ago says little of it today."""
    seed: int = 0
    least_gain: float = Field(default=0.01, ge=0)
    """In utility: a version is promoted only where the whole interval of its gain lies above this. Less, and chance or
    trifles promote some version every few nights."""
    accuracy_margin: float = Field(default=0.05, gt=0, le=1)
    delta: float = Field(default=0.05, gt=0, lt=1)
    max_in_flight: int = Field(default=64, ge=1)
    grpo_every: int = Field(default=0, ge=0)
    """Every so many rounds the language-model policies are due: then GRPO trains them on the round's questions, from
    the promoted versions. 0: never."""
    grpo: dict[str, Any] = Field(default_factory=dict)
    """Fields of `GrpoSettings` for that, but for those that the round decides."""

    @model_validator(mode="after")
    def _can_train(self) -> "RefreshSettings":
        if self.grpo_every:
            self.of_grpo(Path("questions.jsonl"), None)
        elif self.grpo:
            raise ValueError("grpo: it is never due; say how often with grpo_every")
        return self

    def is_due(self, number: int) -> bool:
        """Whether the language-model policies are trained in the round of this number, counted from 1."""
        return bool(self.grpo_every) and number % self.grpo_every == 0

    def of_grpo(self, questions: Path, left_usd: float | None) -> GrpoSettings:
        """How they are trained. ValueError for fields that are none, or that the round decides."""
        ours: dict[str, Any] = {
            "problems": f"file:{questions}",
            "pool": self.pool,
            "lake": self.lake,
            "policies_dir": self.policies_dir,
            "models_dir": self.models_dir,
            "max_cost_usd": left_usd,
        }
        if both := sorted(ours.keys() & self.grpo.keys()):
            raise ValueError(f"grpo.{both[0]}: the round decides it; leave it out")
        return GrpoSettings.model_validate(ours | self.grpo)


def load_refresh_settings(path: Path | None, overrides: dict[str, Any]) -> RefreshSettings:
    """Defaults, the TOML file, then flags. ConfigError names the field."""
    return load(RefreshSettings, path, overrides)
