"""Every switch of a run, in one frozen model per flow: the flow's parameter, the TOML file and the test fixture are this class.

Flags override TOML, TOML overrides the defaults here. Validators check, they do not rewrite. Nothing here is a secret.
"""

import hashlib
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from r2.errors import ConfigError

Positive = Annotated[float, Field(gt=0)]


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Labelling(_Frozen):
    """How a problem is labelled (METHOD: teacher decompositions, grouped search). Part of a run's identity, stored with its rows."""

    teacher: str | None = None
    """Pool entry that writes the candidate plans; None: the strongest."""
    m_eval: str | None = None
    """Pool entry that executes every candidate (the paper's M_eval); None: the strongest."""
    judge: str = "lexical"
    """Pool entry that judges coherence, or `lexical`: the share of a step's words that the question or earlier steps bring."""
    n_candidates: int = Field(default=8, ge=1, le=64)
    temperature: float = Field(default=0.8, ge=0, le=2)
    """Of the teacher's plans, and of repeated answers where an endpoint gives no log-probabilities."""
    weights: tuple[float, float, float] = (0.3, 0.4, 0.3)
    """Of conciseness, practicality and coherence in a candidate's score (ours; the paper's are unpublished)."""
    alpha: float = Field(default=0.4, ge=0, le=1)
    """Quantile of a result's token probabilities that counts as its confidence (DoT)."""
    tau_easy: float = Field(default=0.9, ge=0, le=1)
    tau_medium: float = Field(default=0.5, ge=0, le=1)
    n_agreement: int = Field(default=4, ge=1)
    """Further answers per subtask whose agreement is the confidence where there are no log-probabilities."""
    max_misses: int = Field(default=2, ge=1)
    """Wrong executions in a row after which a subtask is tried with no cheaper model."""


class Reasoning(_Frozen):
    """How a problem is answered. Part of a run's identity: another value is another run."""

    method: Literal["r2", "cot", "label"] = "r2"
    """`r2`: decompose, allocate, solve. `cot`: one model, step by step. `label`: plans and allocations to train on."""
    model: str | None = None
    """The model of `cot`; None: the strongest of the pool."""
    decomposer: str | None = None
    """None: as the pool file's [router] says. The same for the next two."""
    allocator: str | None = None
    finalizer: str | None = None
    b: float = 0.0
    """Cost knob: weight of the log price when the allocator's choice is made; 0 takes the choice as written. Needs an
    allocator whose endpoint returns log-probabilities."""
    max_escalations: int = Field(default=2, ge=0)
    """Times per problem a failed check may pass a subtask on to the next stronger model."""
    max_cost_per_question_usd: Positive | None = None
    """Hard cap per question; a call that could pass it goes to a cheaper model, or ends the question."""
    temperature: float = Field(default=0.0, ge=0, le=2)
    seed: int = 0
    """Of the sample, and of the models' sampling where temperature > 0."""
    plan_tokens: int = Field(default=200, ge=16)
    """Output limit of a decomposer's call."""
    cot_tokens: int = Field(default=320, ge=16)
    """Output limit of a call that thinks step by step."""
    labelling: Labelling | None = None
    """Only of method `label`."""

    def identity(self) -> dict[str, Any]:
        """What tells two ways of answering apart."""
        return self.model_dump(mode="json", exclude={"labelling"} if self.labelling is None else None)


class Columns(_Frozen):
    """Which column of the input holds what."""

    id: str = "id"
    question: str = "question"
    answer: str = "answer"
    benchmark: str = "benchmark"
    choices: str = "choices"
    context: str = "context"


class AnswerSettings(_Frozen):
    """One run of `answer_questions`."""

    input: str
    """JSONL, CSV, Parquet, or an OpenAI Batch JSONL file."""
    pool: str = "pools/local.toml"
    lake: str = "lake"
    out: str | None = None
    """Answers in input order; None: beside the input, `<name>.answers.jsonl`."""
    reasoning: Reasoning = Reasoning()
    columns: Columns = Columns()
    default_benchmark: str = ""
    """Benchmark of rows that name none."""
    limit: int | None = Field(default=None, ge=1)
    """Only the first so many rows."""
    sample: int | None = Field(default=None, ge=1)
    """A seeded sample of so many rows, in input order."""
    max_cost_usd: Positive | None = None
    """Hard cap of the run over all its sessions; the run stops cleanly there and a higher cap goes on."""
    shard_size: int = Field(default=500, ge=1)
    """Problems per shard: the unit of commit and of Prefect's retries."""
    shards_in_flight: int = Field(default=2, ge=1)
    max_in_flight: int = Field(default=64, ge=1)
    """Problems worked on at once over all shards; calls are bounded by the pool file besides."""
    models_dir: str = "models"
    max_error_rate: float = Field(default=1.0, ge=0, le=1)
    """A run with a larger share of failed questions ends as failed, not as completed with errors."""

    def run_id(self, input_digest: str, pool_digest: str) -> str:
        """Identity of the job: what decides which questions are asked and how. Budgets, concurrency and paths are not in it,
        so that a run can go on with a higher cap or from another folder."""
        identity = [
            input_digest, pool_digest, self.reasoning.identity(), self.columns.model_dump(),
            self.default_benchmark, self.limit, self.sample,
        ]  # fmt: skip
        return f"{self.reasoning.method}-{hashlib.sha256(orjson.dumps(identity)).hexdigest()[:12]}"


def load_settings(path: Path | None, overrides: dict[str, Any]) -> AnswerSettings:
    """Defaults, then the TOML file, then `overrides` (nested dicts; None values are left out). ConfigError names the field."""
    merged: dict[str, Any] = {}
    if path is not None:
        try:
            merged = tomllib.loads(path.read_text("utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"{path}: cannot be read as TOML: {error}") from error
    merged = _merge(merged, overrides)
    try:
        return AnswerSettings.model_validate(merged)
    except ValidationError as error:
        where = path or "flags"
        problems = [f"{where}: {'.'.join(str(p) for p in e['loc'])}: {e['msg']}" for e in error.errors()]
        raise ConfigError("\n".join(problems)) from None


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, dict):
            merged[key] = _merge(merged.get(key, {}), value)
        elif value is not None:
            merged[key] = value
    return merged
