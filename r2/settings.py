"""Every switch of a run, in one frozen model per flow: the flow's parameter, the TOML file and the test fixture are
this class.

Flags override TOML, TOML overrides the defaults here. Validators check, they do not rewrite. Nothing here is a secret.
"""

import hashlib
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from r2.errors import ConfigError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

MODELS_DIR = Path("models")
"""Folder of fetched weights, where none is named."""
MAX_TOML_CHARACTERS = 4 * 1024 * 1024
"""A pool file of a thousand models has a tenth of it."""
MAX_TOML_DEPTH = 32
"""Tables and lists within each other; our own files have five."""
Settings = TypeVar("Settings", bound=BaseModel)
Positive = Annotated[float, Field(gt=0)]


class Frozen(BaseModel):
    """Unknown fields are errors, and nothing changes after it was checked."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    old_names: ClassVar[Mapping[str, str]] = {}
    """Names of fields in earlier versions, which settings files and stored runs may hold -> the names now."""

    @model_validator(mode="before")
    @classmethod
    def _named_as_now(cls, values: Any) -> Any:
        return named_as_now(cls, values) if cls.old_names and isinstance(values, dict) else values


def named_as_now(kind: type[Frozen], values: dict[str, Any]) -> dict[str, Any]:
    """The values under the names that their fields have now. ValueError where one is given under both names."""
    for old, new in kind.old_names.items():
        if old in values and new in values:
            raise ValueError(f"{old} is the old name of {new}; leave it out")
    return {kind.old_names.get(name, name): value for name, value in values.items()}


class Labelling(Frozen):
    """How a problem is labelled (docs/method.md, sections 2.1 and 3.1). Part of a run's identity, stored with its
    rows."""

    teacher: str | None = None
    """Pool entry that writes the candidate plans; None: the strongest."""
    m_eval: str | None = None
    """Pool entry that executes every candidate (the paper's M_eval); None: the middle solver. A strong one gets most
    questions right at once, so that targets collapse to direct plans, which then need strong models."""
    judge: str = "lexical"
    """Pool entry that judges coherence, or `lexical`: the share of a step's words that the question or earlier steps
    bring."""
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
    solve_temperature: float = Field(default=0.0, ge=0, le=2)
    """Of the executions that tell a right plan or allocation from a wrong one: that at which questions will be
    answered."""
    n_executions: int | None = Field(default=None, ge=1)
    """Times that a plan is executed with the same models where one of them is stochastic: it is asked at a temperature
    above 0, or takes none (`sampling = false`). None: 3. Where all are deterministic, once."""
    min_right_share: float = Field(default=0.6, gt=0, le=1)
    """Share of those executions that must be right for the whole to count as right: one lucky success is no label."""

    def switched_off(self) -> tuple[str, ...]:
        """The paper's equations that these settings leave without effect, in words."""
        off = []
        if self.n_candidates == 1:
            off.append("Eq. 1 (one candidate plan: its score chooses nothing)")
        elif not any(self.weights):
            off.append("Eq. 1 (all weights are 0)")
        if self.tau_medium >= 1:
            off.append("Eq. 7's probe (tau_medium = 1: every subtask starts with a large model)")
        elif self.tau_easy <= 0:
            off.append("Eq. 7's probe (tau_easy = 0: every subtask starts with a small model)")
        return tuple(off)


class Example(Frozen):
    """A worked example of `few_shot`: what a model was asked, and the reply it should give."""

    benchmark: str = ""
    asked: str
    reply: str


class Reasoning(Frozen):
    """How a problem is answered. Part of a run's identity: another value is another run."""

    method: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")] = "r2"
    """`r2`: as `routing` says. `label`: plans and allocations to train on. The others are what r2 is held
    against: each is a module of r2/methods/, or of another package (r2/plugins.py), which says what it does and which
    of the settings below it reads. A name that nobody has is refused by whoever makes the router."""
    model: str | None = None
    """The one model of `cot`, `tot`, `decompose_one`, `self_consistency`, `few_shot` and `program`, and the first of
    `start`; None: the strongest of the pool."""
    decomposer: str | None = None
    """None: as the pool file's [router] says. The same for the next two."""
    allocator: str | None = None
    finalizer: str | None = None
    """Who writes the answer from the results of a plan. None: as the pool file's [router] says; where that says
    `last_step`, rows without a benchmark have the strongest model of their steps write it. `last_step` here: nobody,
    the last step's result is the answer of every row."""
    second_decomposer: str | None = None
    """Pool entry that plans again where the first plan fails its cheap check (r2/answering/plan_check.py). None: as the
    pool file's [router] says, which by default is nobody; `none`: nobody."""
    b: float = 0.0
    """Cost knob: weight of the log price when the allocator's choice is made; 0 takes the choice as written. Needs an
    allocator whose endpoint returns log-probabilities."""
    max_escalations: int = Field(default=2, ge=0)
    """Times per problem a failed check may pass a subtask on to the next stronger model."""
    min_confidence: float = Field(default=0, ge=0, le=1)
    """A step whose model is less sure of its result counts as a failed check: the next stronger model is asked, within
    `max_escalations` (ours). 0: results are checked by their form alone, as are those of endpoints without
    log-probabilities."""
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
    small_model: str | None = None
    """Who is asked first by `datashunt`, `dot` and `automix`; None: the cheapest solver of the smallest tier."""
    large_model: str | None = None
    """Who is asked where the small model is not sure; None: the strongest."""
    chain: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Models of `automix` and of the cascades, in the order of asking; None: of `automix` `small_model`, then
    `large_model`, of the cascades the cheapest, the middle and the strongest solver."""
    by_benchmark: dict[str, str] | None = None
    """Benchmark -> model of `rule`; "" stands for all others."""
    examples: tuple[Example, ...] = ()
    """Worked examples of `few_shot`."""
    n_examples: int = Field(default=4, ge=0, le=32)
    """Most examples that a prompt of `few_shot` shows."""
    threshold: float = Field(default=0.8, ge=0, le=1)
    """Confidence from which an answer stands (`datashunt`, `dot`, `automix`, `confidence_cascade`), or probability of
    being right from which a model is good enough (`query_router`). 0: the first answer, or the cheapest model, always.
    """
    n_samples: int = Field(default=4, ge=1)
    """Verdicts of a self-verification (`automix`), answers of `self_consistency`, and further answers whose agreement
    is the confidence where an endpoint gives no log-probabilities (`datashunt`, `dot`)."""
    sample_temperature: float = Field(default=0.8, ge=0, le=2)
    """Of those samples, and of the thoughts of `tot`."""
    confidence_quantile: float = Field(default=0.4, ge=0, le=1)
    """Quantile of an answer's token probabilities that counts as its confidence (DoT: alpha), for `min_confidence` too.
    """
    n_thoughts: int = Field(default=2, ge=1, le=16)
    """Thoughts per level of `tot` (paper: N = 2)."""
    depth: int = Field(default=2, ge=1, le=8)
    """Levels of thoughts of `tot` before its answer."""
    query_router: str | None = None
    """JSON file of a fitted query-level router, which `query_router` needs (r2/answering/query_router.py)."""
    random_level: Literal["query", "subtask"] = "query"
    """What `random` draws a model for: the question, or each subtask of the decomposer's plan."""
    mix: dict[str, Annotated[float, Field(ge=0)]] | None = None
    """Model -> weight of `random`; None: every solver alike."""
    order_seed: int | None = None
    """Seed of the order in which each question's allocator is shown the models; None: cheapest first, as the roster has
    them."""
    check: str | None = None
    """Who says whether an answer is right, in place of the benchmark's check: FILE.py:FUNCTION, judge:ENTRY,
    regex:PATTERN, json-equal or exact (r2/problems/own_check.py)."""
    rubric: str | None = None
    """Text file that tells a judge what is right."""
    verify: str | None = None
    """A check that is asked while a question is answered, without the gold answer: a result that it refuses goes to the
    next stronger model, within `max_escalations`. Only where the method escalates (`r2`)."""

    routing: Literal["rule", "allocator"] = "allocator"
    """How `r2` finds a model: by the rule of sequential routing (r2/answering/sequential.py), or by the plan and the
    allocator of the paper. Settings that do not say mean the allocator, as all stored ones do; `r2 answer` takes the
    rule where nobody names an allocator."""
    value_usd: Positive | None = None
    """What a right answer is worth to the rule, in USD, before `b`: v * exp(-b). None: at most 50 times the cost of the
    question on the largest model thinking step by step."""
    horizon: int = Field(default=3, ge=0, le=4)
    """Attempts that the rule looks ahead. 0: nobody is asked twice. 1 never buys a second opinion."""
    wait_usd_per_hour: float = Field(default=0.0, ge=0)
    """What an hour of waiting for a question is worth, in USD: the rule adds it to the price of each attempt that waits
    for a batch job, and may ask two entries side by side instead. 0: waiting is free."""
    job_hours: float = Field(default=1.0, gt=0)
    """Hours that a batch job is expected to take, for that price."""
    scorer: str | None = None
    """What the rule believes, trained: NAME or NAME@VERSION of the registry, or a scorer's JSON file. None: profiles.
    """
    max_answer_tokens: int = Field(default=4096, ge=16)
    """Output limit of a call that answers a row without a benchmark, or one of its steps, within what the entry can
    generate. An answer that ends at it is asked for once more at twice the limit. Rows with a benchmark have the limit
    of their benchmark."""
    schema_file: str | None = None
    """JSON Schema that every answer must match (r2/problems/schema.py). A row's own schema goes before it."""
    system_file: str | None = None
    """Text file: the system text of the calls that answer the question, before our own wording."""

    def identity(self) -> dict[str, Any]:
        """What tells two ways of answering apart. Fields that came later count only where they differ from their
        defaults, so that runs of earlier versions can be resumed.

        The user's own checks, schema and system text are not in it, nor is a scorer: they count by the content of their
        files, wherever those lie (`checks_digest` of r2/problems/own_check.py, `wanted_digest` of
        r2/answering/wanted.py, `scorer_digest` of r2/pool/file/scorer_file.py).
        """
        defaults = Reasoning.model_construct()
        unset = {name for name in _LATER_FIELDS if getattr(self, name) == getattr(defaults, name)}
        found = self.model_dump(mode="json", exclude=unset | _BY_CONTENT)
        if self.labelling is not None:
            usual = Labelling()
            for name in _LATER_IN_LABELLING:
                if getattr(self.labelling, name) == getattr(usual, name):
                    del found["labelling"][name]
        return found


_LATER_FIELDS = (
    "labelling",
    "small_model",
    "large_model",
    "chain",
    "by_benchmark",
    "examples",
    "n_examples",
    "threshold",
    "n_samples",
    "sample_temperature",
    "confidence_quantile",
    "n_thoughts",
    "depth",
    "query_router",
    "random_level",
    "mix",
    "order_seed",
    "second_decomposer",
    "min_confidence",
    "max_answer_tokens",
    "routing",
    "value_usd",
    "horizon",
    "wait_usd_per_hour",
    "job_hours",
)
_LATER_IN_LABELLING = ("solve_temperature", "n_executions", "min_right_share")
_BY_CONTENT = {"check", "rubric", "verify", "schema_file", "system_file", "scorer"}


class Columns(Frozen):
    """Which column of the input holds what."""

    id: str = "id"
    question: str = "question"
    answer: str = "answer"
    benchmark: str = "benchmark"
    choices: str = "choices"
    context: str = "context"
    aliases: str = "aliases"
    request: str = ""
    """Object with what the row asks for itself (temperature, max_tokens, ...); "": such a column is the user's own."""

    def identity(self) -> dict[str, str]:
        """What tells two readings of a file apart; the columns that came later count only where they are renamed."""
        later = {"aliases": "aliases", "request": ""}
        return self.model_dump(exclude={name for name, usual in later.items() if getattr(self, name) == usual})


MOST_TAGS = 16
_TAG_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,39}")


def tag_of(text: str) -> tuple[str, str]:
    """(name, value) of a tag as it is written, NAME=VALUE. ValueError where it is none."""
    name, has_value, value = text.partition("=")
    if not _TAG_NAME.fullmatch(name) or not has_value or not 0 < len(value) <= 100 or not value.isprintable():
        raise ValueError(
            f"tag {text!r:.120}: expected NAME=VALUE, as team=search. The name begins with a letter and has letters, "
            "digits, '_', '-' and '.', 40 at most; the value has 1 to 100 printable characters"
        )
    return name, value


@dataclass(frozen=True, slots=True)
class Required:
    """What a run requires of the entries that it asks. Empty regions and None: nothing."""

    regions: frozenset[str]
    """Those in which what is sent may be processed and kept."""
    retention_days: int | None
    """Days that it may be kept at most."""


REGION = r"[a-z][a-z0-9-]{0,39}"
RETENTION = r"none|[1-9]\d{0,4}d"


def required_of(text: str) -> Required:
    """What `region=eu,retention=none` requires; several regions are alternatives. ValueError for other words."""
    regions: set[str] = set()
    days: int | None = None
    for part in text.split(","):
        name, _, value = part.strip().partition("=")
        if name == "region" and re.fullmatch(REGION, value):
            regions.add(value)
        elif name == "retention" and re.fullmatch(RETENTION, value) and days is None:
            days = 0 if value == "none" else int(value.removesuffix("d"))
        else:
            raise ValueError(
                f"{part.strip()!r:.80}: expected region=NAME (small letters; repeat it for alternatives) and once "
                "retention=none or retention=30d, with commas between them"
            )
    return Required(frozenset(regions), days)


class AnswerSettings(Frozen):
    """One run of `answer_questions`."""

    input: str
    """JSONL, CSV, Parquet, or an OpenAI Batch JSONL file."""
    pool: str = "pools/local.toml"
    lake: str = "lake"
    out: str | None = None
    """Answers in input order; None: beside the input, `<name>.answers.jsonl`."""
    more_columns: tuple[str, ...] = ()
    """Further columns of the answers file (storage/runs/answer_columns.py)."""
    reasoning: Reasoning = Reasoning()
    columns: Columns = Columns()
    default_benchmark: str = ""
    """Benchmark of rows that name none."""
    limit: int | None = Field(default=None, ge=1)
    """Only the first so many rows."""
    sample: int | None = Field(default=None, ge=1)
    """A seeded sample of so many rows, in input order."""
    max_cost_usd: Positive | None = None
    """Hard cap of the run over all its sessions; the run stops cleanly there, and a higher cap resumes it."""
    tags: Mapping[str, str] = Field(default={}, max_length=MOST_TAGS)
    """Name -> value: for whom the run's sessions spend. Stored with each; the pool file may cap a tag's day
    (`[budget.max_usd_per_day_by_tag]`). No part of the run's identity."""
    shard_size: int = Field(default=500, ge=1)
    """Problems per shard: the unit of commit and of Prefect's retries."""
    shards_in_flight: int = Field(default=2, ge=1)
    max_in_flight: int = Field(default=64, ge=1)
    """Problems worked on at once over all shards; calls are bounded by the pool file besides."""
    require: str = ""
    """What entries must say of the data that they are sent (`regions`, `retention` in the pool file), as
    `region=eu,retention=none`; others are not asked. "": nothing."""
    lane: Literal["live", "batch"] | None = None
    """`batch`: every entry that can is asked by its provider's batch endpoint, but for the router's own calls; `live`:
    none is; None: as the pool file says (`lane` of an entry)."""
    deadline_s: Positive | None = None
    """Seconds from the start of a session until its last answer, where batch lanes are used: what would come later is
    asked live. None: jobs are waited for."""
    models_dir: str = "models"
    reuse: bool = False
    """Answers that other inputs of the lake paid for are used again, too. Those of earlier runs over the same input
    always are."""
    max_error_rate: float = Field(default=1.0, ge=0, le=1)
    """A run with a larger share of failed questions ends as failed, not as completed with errors."""
    target_accuracy: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Promised accuracy: `reasoning.b` becomes the cheapest value that a sweep's checked rows show to be at least so
    accurate (r2/evaluation/floor.py); None: `b` as it is."""
    delta: float = Field(default=0.05, gt=0, lt=1)
    """Chance at most that the promise is wrong."""
    certified: str | None = None
    """The sweep that shows it, by its id in the lake or the path of its JSON file; None: the only one in the lake that
    fits."""

    @field_validator("require")
    @classmethod
    def _is_required(cls, require: str) -> str:
        if require:
            required_of(require)
        return require

    @field_validator("tags")
    @classmethod
    def _are_tags(cls, tags: Mapping[str, str]) -> Mapping[str, str]:
        for name, value in tags.items():
            tag_of(f"{name}={value}")
        return tags

    def run_id(self, input_digest: str, pool_digest: str) -> str:
        """Identity of the job: what decides which questions are asked and how. Budgets, concurrency and paths are not
        in it, so that a run can be resumed with a higher cap or from another folder."""
        identity = [
            input_digest,
            pool_digest,
            self.reasoning.identity(),
            self.columns.identity(),
            self.default_benchmark,
            self.limit,
            self.sample,
        ]
        return f"{self.reasoning.method}-{hashlib.sha256(orjson.dumps(identity)).hexdigest()[:12]}"


class LabelSettings(Frozen):
    """One run of `label_plans`."""

    problems: str
    """Where problems come from: a benchmark by name (`scan?split=length`), `rg:TASK`, or `file:PATH?check=NAME`
    (r2/problems/source.py)."""
    pool: str = "pools/local.toml"
    lake: str = "lake"
    out: str = "labels"
    """Folder of decomposer.parquet, allocator.parquet and their README.md."""
    limit: int | None = Field(default=None, ge=1)
    seed: int = 0
    """Of generated problems and of the teacher's samples."""
    data_dir: str | None = None
    """Folder of benchmark files; None: only generated problems, `file:` and the Hugging Face hub."""
    finalizer: str | None = None
    """None: as the pool file's [router] says."""
    labelling: Labelling = Labelling()
    check: str | None = None
    """Who says whether an answer is right, as in `Reasoning`."""
    rubric: str | None = None
    max_answer_tokens: int = Field(default=4096, ge=16)
    """Output limit of an answer to a row without a benchmark, as in `Reasoning`."""
    test_share: float = Field(default=0.1, ge=0, lt=1)
    """Share of the problems that goes to the split `test`, by a hash of the question and `split_seed`."""
    split_seed: int = 0
    evaluation: tuple[str, ...] = ()
    """Problem sources that will be evaluated on: the card says how much of them is in the training set."""
    max_cost_usd: Positive | None = None
    shard_size: int = Field(default=100, ge=1)
    shards_in_flight: int = Field(default=2, ge=1)
    max_in_flight: int = Field(default=64, ge=1)
    reuse: bool = True
    """As in `AnswerSettings`."""
    models_dir: str = "models"

    def answering(self, input_path: str, default_benchmark: str = "", columns: Columns | None = None) -> AnswerSettings:
        """The same as a run of the method `label` over a file of problems: what plans, journals, budgets and the lake
        know."""
        reasoning = Reasoning(
            method="label",
            finalizer=self.finalizer,
            temperature=self.labelling.solve_temperature,
            seed=self.seed,
            labelling=self.labelling,
            check=self.check,
            rubric=self.rubric,
            max_answer_tokens=self.max_answer_tokens,
        )
        return AnswerSettings(
            input=input_path,
            pool=self.pool,
            lake=self.lake,
            reasoning=reasoning,
            columns=columns or Columns(),
            default_benchmark=default_benchmark,
            limit=self.limit,
            max_cost_usd=self.max_cost_usd,
            shard_size=self.shard_size,
            shards_in_flight=self.shards_in_flight,
            max_in_flight=self.max_in_flight,
            reuse=self.reuse,
            models_dir=self.models_dir,
        )


def load_label_settings(path: Path | None, overrides: dict[str, Any]) -> LabelSettings:
    """As `load_settings`, for labelling."""
    return load(LabelSettings, path, overrides)


def load_settings(path: Path | None, overrides: dict[str, Any], *, are_flags: bool = True) -> AnswerSettings:
    """Defaults, then the TOML file, then `overrides` (nested dicts; None values are left out). ConfigError names the
    field; of an override the flag, unless a program gave it and no command (`are_flags` False)."""
    return load(AnswerSettings, path, overrides, are_flags=are_flags)


def routed(settings: AnswerSettings) -> AnswerSettings:
    """The settings as `r2 answer` takes them: by the rule, where flags and file name neither a way to route nor what
    only an allocator has (`allocator`, `order_seed`, a promised accuracy, which is measured with one)."""
    chosen = settings.reasoning
    is_named = bool({"routing", "allocator", "order_seed"} & chosen.model_fields_set)
    if chosen.method != "r2" or is_named or settings.target_accuracy is not None:
        return settings
    return settings.model_copy(update={"reasoning": chosen.model_copy(update={"routing": "rule"})})


FLAGS: Mapping[str, str] = {
    "default_benchmark": "--benchmark",
    "labelling.n_candidates": "--candidates",
    "learning_rate": "--lr",
    "reasoning.schema_file": "--schema",
    "reasoning.system_file": "--system",
    "routers": "--router",
    "tags": "--tag",
    "scorers": "--scorer",
}
"""Field -> the flag that gives it, where that is not called after the field."""


def load(kind: type[Settings], path: Path | None, overrides: dict[str, Any], *, are_flags: bool = True) -> Settings:
    """Any of these models: defaults, the TOML file, then `overrides`. ConfigError names the flag or the field, as of
    `load_settings`."""
    merged: dict[str, Any] = {}
    if path is not None:
        try:
            merged = parsed_toml(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: cannot be read as TOML: {error}") from error
    try:
        if issubclass(kind, Frozen):
            merged = named_as_now(kind, merged)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    merged = _merge(merged, overrides)
    try:
        return kind.model_validate(merged)
    except ValidationError as error:
        flags, where = (overrides, "flags") if are_flags else ({}, "settings")
        raise ConfigError("\n".join(_said(path or where, flags, one) for one in error.errors())) from None


def parsed_toml(text: str) -> dict[str, Any]:
    """A settings or pool file, which travel between people, as a document. Raises ValueError, in words for people, for
    text that is not TOML, too long, or nested too deeply to be handled (the parsers of TOML recurse)."""
    if len(text) > MAX_TOML_CHARACTERS:
        raise ValueError(f"too long: {len(text)} characters; at most {MAX_TOML_CHARACTERS} are read")
    try:
        document = tomllib.loads(text)
    except RecursionError:
        raise ValueError(
            f"nested too deeply; at most {MAX_TOML_DEPTH} tables and lists within each other are read"
        ) from None
    level: list[Any] = [document]
    for _ in range(MAX_TOML_DEPTH):
        inside = chain.from_iterable(one.values() if isinstance(one, dict) else one for one in level)
        level = [one for one in inside if isinstance(one, (dict, list))]
        if not level:
            return document
    raise ValueError(f"nested too deeply; at most {MAX_TOML_DEPTH} tables and lists within each other are read")


def _said(where: Path | str, flags: Mapping[str, Any], error: "ErrorDetails") -> str:
    """The flag with its value, or place and field (none where several do not fit together), and what is wrong."""
    field = [part for part in error["loc"] if isinstance(part, str)]
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "missing":
        message = "required, and neither a settings file nor a flag gives it"
    given: Any = flags
    for part in field:
        given = given.get(part) if isinstance(given, Mapping) else None
    if field and given is not None and not isinstance(given, Mapping):
        several = isinstance(given, (list, tuple))
        shown = error["input"] if several else given
        return f"{_flag_of(field)} {f'{shown:g}' if isinstance(shown, float) else shown}: {message}"
    named = [".".join(str(part) for part in error["loc"])] if error["loc"] else []
    return ": ".join([str(where), *named, message])


def _flag_of(field: Sequence[str]) -> str:
    if field[0] == "columns":
        return f"--{field[-1]}-column"
    return FLAGS.get(".".join(field), f"--{field[-1].replace('_', '-')}")


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, dict):
            merged[key] = _merge(merged.get(key, {}), value)
        elif value is not None:
            merged[key] = value
    return merged
