"""The tables of a pool file, as pydantic checks them: one per model, with its prices, limits and worked examples.

What the file as a whole means is in r2/pool/file/config.py.
"""

from collections.abc import Mapping
from datetime import date
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from r2.pool.file.vllm_table import VllmTable
from r2.roster import PromptMode, Tier
from r2.settings import REGION, RETENTION, tag_of

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]

OUTPUT_LIMIT_FIELDS: Final = (
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "max_new_tokens",
    "maxOutputTokens",
    "n_predict",
    "num_predict",
)
"""Names that servers give the limit on generated tokens."""

_ANSWER_COUNT_FIELDS: Final = ("n", "best_of", "num_return_sequences", "candidate_count")
"""Names that servers give the number of answers to one request. Each is billed, and one is read."""


_LATER_MODEL_FIELDS: Final[Mapping[str, object]] = {
    "dialect": None,
    "sampling": True,
    "reasoning_effort": None,
    "omit": (),
    "limit_field": None,
    "max_output_tokens": None,
    "thinking_tokens": 0,
    "cache_prefix": None,
    "batch_price": ...,
    "batch_model": ...,
    "profile_rows": None,
    "adapter": None,
    "examples": (),
}
_LATER_PRICE_FIELDS: Final[Mapping[str, object]] = {"cache_write": None, "long": (), "batch": ..., "until": ...}
"""Fields that came later, with their defaults: pool files that do not set them keep their digest. `...`: never counts.
"""


def drop_later_defaults(entry: dict[str, Any]) -> None:
    """Takes the fields that came later out of a dumped entry where they have their defaults, before it is digested."""
    for table, later in ((entry, _LATER_MODEL_FIELDS), (entry["price_usd_per_mtok"], _LATER_PRICE_FIELDS)):
        for name, default in later.items():
            if name in table and (default is ... or table[name] == default or (default == () and table[name] == [])):
                del table[name]


def _day(text: str) -> str:
    date.fromisoformat(text)  # ValueError: February has no 30th
    return text


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Day = Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$"), AfterValidator(_day)]
"""A day of the calendar, YYYY-MM-DD."""


class Rates(_Table):
    """USD per million tokens; None: as `input`."""

    input: NotNegative
    cached_input: NotNegative | None = None
    cache_write: NotNegative | None = None
    output: NotNegative


class LongRates(Rates):
    """Rates of a request whose prompt has more than `above_tokens` tokens, all of it."""

    above_tokens: int = Field(ge=1)


class BatchRates(Rates):
    """Rates of a batch endpoint."""

    long: tuple[LongRates, ...] = ()
    """Other rates for a whole request with a longer prompt, smallest threshold first."""


class PriceTable(_Table):
    input: NotNegative
    """USD per million prompt tokens."""
    cached_input: NotNegative | None = None
    """USD per million prompt tokens read from the provider's cache; None: as `input`."""
    cache_write: NotNegative | None = None
    """USD per million prompt tokens written to the provider's cache; None: as `input`."""
    output: NotNegative
    """USD per million generated tokens."""
    long: tuple[LongRates, ...] = ()
    """Other rates for a whole request with a longer prompt, smallest threshold first."""
    batch: BatchRates | None = None
    """Rates of the provider's batch endpoint."""
    until: Day | None = None
    """Last day of this price, where a later one is known. A run after it stops before its first call."""
    date: str = Field(pattern=r"^\d{4}-\d{2}-\d{2}$")
    """Day the price was read or measured."""
    source: str = Field(min_length=1)
    """Where it was read, or how it was measured."""


class EndpointLimits(_Table):
    max_requests_per_minute: Positive | None = None
    """None: no limit of this kind."""
    max_tokens_per_minute: Positive | None = None
    """Prompt plus generated tokens; None: no limit of this kind."""
    max_in_flight: int = Field(default=64, ge=1)
    """Ceiling of the adaptive bound on simultaneous calls."""


class ExampleTable(_Table):
    question: Annotated[str, Field(min_length=1)]
    reply: Annotated[str, Field(min_length=1)]
    """As the model should write it: a program for `prompt_mode = "program"`, thoughts and the last line for `cot`."""


class ModelTable(EndpointLimits):
    endpoint: str
    """`http(s)://host/v1` (any OpenAI-compatible URL), `local:CATALOGUE-NAME` or `local:FILE.gguf` (embedded
    llama.cpp), `policy:NAME` (the promoted version of a trained policy), `policy:NAME@v2` or `policy:FOLDER`,
    `vllm:CATALOGUE-NAME`, `vllm:FOLDER` or `vllm:HUB-ID` (a vLLM server that we start, one for all entries of a model),
    `simulated:NAME` (our own server with a simulated model), or `recording:FILE`."""
    adapter: str | None = None
    """A trained policy that the `vllm:` server loads as a LoRA adapter for this entry: `NAME` (the promoted version),
    `NAME@v2` or a folder. None: the model itself."""
    served_model: str = ""
    """The `model` field sent to the endpoint; "" for the entry's own name."""
    tier: Tier
    price_usd_per_mtok: PriceTable
    prompt_mode: PromptMode = "direct"
    """`direct` asks for the result alone, `cot` for steps and then the result: same weights, two entries. `bare` leaves
    every instruction out, for a model that was fine-tuned on the job. `program` asks for a short Python program, which
    is run in a sandbox of this machine, and what it prints is the result (r2/answering/programs.py)."""
    examples: tuple[ExampleTable, ...] = ()
    """Worked examples, shown as earlier turns of the conversation whenever the entry is asked for a result in its own
    prompt mode. Those of a `program` entry stand in place of the five that it has by itself."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the key; None for endpoints without keys."""
    quota: str | None = None
    """Name of a `[quotas.NAME]` table whose limits this model shares with others (one key, one quota)."""
    context_tokens: int = Field(default=4096, ge=256)
    """Tokens that prompt and answer may have together. An entry whose file says so is not asked what it cannot hold."""
    timeout_s: Positive = 120.0
    """Least time that one attempt is waited for; longer where the entry's last answers say that it needs more."""
    deadline_s: Positive = 600.0
    """Time limit of one call with all its waits, retries and fallbacks. Servers that we start ourselves (`local:`,
    `policy:`, `vllm:`, `simulated:`) have none: whoever waits for them waits for work of ours."""
    dialect: str | None = None
    """How the endpoint is spoken to (r2/pool/client/dialects/); None: as the address's host says, else as any
    OpenAI-compatible server."""
    sampling: bool = True
    """The model takes a temperature. False for those that refuse it or ignore it."""
    reasoning_effort: str | None = None
    """How hard a reasoning model thinks; None: the model's default. One model with two efforts is two entries."""
    omit: tuple[str, ...] = ()
    """Fields of the request body that are never sent, because the model refuses them."""
    limit_field: str | None = None
    """Name of the output limit in the request body; None: the dialect's own."""
    max_output_tokens: int | None = Field(default=None, ge=1)
    """The most tokens that the model can generate; None: not known. A call's own limit is cut to it."""
    thinking_tokens: int = Field(default=0, ge=0)
    """Added to the limit of each call that does not bring its own (a row's `max_tokens`), for a model whose thinking
    counts within the limit: without it a short limit is spent before the answer begins. Reserves go by the sum, the dry
    run by a quarter of it."""
    cache_prefix: bool | None = None
    """Mark the system text for the provider's cache, where it must be asked for (Anthropic): always, or never. A cache
    write costs more than a fresh token. None: where it pays, see r2/pool/client/caching.py."""
    batch_price: float | None = Field(default=None, gt=0, le=1)
    """Share of the price that the provider's batch endpoint takes. None: `price_usd_per_mtok.batch` where it is given,
    else the provider's own rule (r2/pool/batch/prices.py)."""
    batch_model: str = ""
    """What batch jobs ask for, where that is another deployment than live calls go to (Azure); "" for
    `served_model`."""
    retires: Day | None = None
    """Day from which the provider no longer serves the model. A run that would begin then stops before its first call
    (r2/pool/file/dated.py)."""
    regions: tuple[Annotated[str, Field(pattern=f"^({REGION})$")], ...] = ()
    """Where the provider processes and keeps what it is sent, all of them: `eu`, `us`, ... By your contract with it;
    `r2 answer --require` goes by it (r2/pool/file/data_policy.py). (): not known."""
    retention: str | None = Field(default=None, pattern=f"^({RETENTION})$")
    """How long the provider keeps it: `none`, or days as `30d`. None: not known."""
    lane: Literal["live", "batch"] | None = None
    """`batch`: calls wait for the provider's batch endpoint, at its batch price (r2/pool/batch/), those of a decomposer
    or allocator too. None: as `--lane` says, which leaves the router's own calls live."""
    stream: bool = False
    """Ask for the answer in pieces and give it up only when nothing came for `timeout_s`: for slow servers of your own
    that send a token a piece (llama.cpp, vLLM, Ollama). `local:` entries always do."""
    logprobs: bool = False
    """The endpoint returns log-probabilities (`top_logprobs`) when asked."""
    guided: bool = False
    """The endpoint honours `response_format = {type = "json_schema"}`."""
    solver: bool = True
    """False for entries that only decompose or allocate."""
    profile: Mapping[str, Annotated[float, Field(ge=0, le=1)]] = Field(default_factory=dict)
    """Skill -> measured accuracy; written by `r2 pool calibrate`."""
    profile_rows: int | Mapping[str, int] | None = None
    """Questions that each accuracy of the profile was measured on: one number for all skills, or skill -> number;
    written with it. None, and of a skill that is not there: not known."""
    simulated: Mapping[str, float | Mapping[str, float]] = Field(default_factory=dict)
    """Parameters of a `simulated:` model; see r2/pool/simulated/process.py."""
    extra_body: Mapping[str, Any] = Field(default_factory=dict)
    """Further fields of the request body, for server options this file has no name for. A limit on generated tokens
    (`max_tokens`, `max_completion_tokens`, ...) is sent in place of each call's own, and reserves, caps and estimates
    go by it; fields that ask for several answers are refused."""
    hidden_input_tokens: int = Field(default=64, ge=0)
    """Prompt tokens that the server may bill beside a token per byte of what is sent: its chat template, its own system
    prompt. A bill above that closes the entry in a run with a money cap."""
    hidden_output_tokens: int = Field(default=0, ge=0)
    """Generated tokens that the server may bill beyond the limit it was given, as those that count thinking beside the
    limit do. A bill above that closes the entry in a run with a money cap."""

    @field_validator("profile_rows", mode="before")
    @classmethod
    def _are_counts_of_the_profile(cls, rows: object, info: ValidationInfo) -> object:
        counts = rows if isinstance(rows, Mapping) else {} if rows is None else {"": rows}
        if not all(isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in counts.values()):
            raise ValueError("expected a number of questions, 1 or more, or one by skill: {add = 75, multiply = 8}")
        named = counts if isinstance(rows, Mapping) else ()
        if unknown := [name for name in named if name not in info.data.get("profile", named)]:
            raise ValueError(f"the profile has no {unknown[0]}; add its accuracy there, or take it out here")
        return rows

    @field_validator("extra_body")
    @classmethod
    def _bounds_its_cost(cls, extra_body: Mapping[str, Any]) -> Mapping[str, Any]:
        for name in OUTPUT_LIMIT_FIELDS:
            limit = extra_body.get(name, 1)
            if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
                raise ValueError(
                    f"extra_body.{name} = {limit!r} does not bound what a call may cost; give a number of tokens, 1 or "
                    "more, or leave it out"
                )
        for name in _ANSWER_COUNT_FIELDS:
            if name in extra_body and extra_body[name] != 1:
                raise ValueError(
                    f"extra_body.{name} = {extra_body[name]!r} asks for several answers to one request: all would be "
                    "billed and one is read. Leave it out; methods that need samples ask for them one by one"
                )
        return extra_body

    @model_validator(mode="after")
    def _may_have_examples(self) -> Self:
        if self.examples and self.prompt_mode == "bare":
            raise ValueError(
                'an entry with prompt_mode = "bare" is asked without any instruction, as it was trained: take its '
                "examples out, or choose another prompt mode"
            )
        return self

    @property
    def vllm_target(self) -> str | None:
        """MODEL of a `vllm:MODEL` endpoint; None for other endpoints."""
        kind, _, target = self.endpoint.partition(":")
        return target if kind == "vllm" else None

    @property
    def sent_output_limit(self) -> int | None:
        """The limit on generated tokens that holds in place of a call's own: the one in `extra_body`, or where `omit`
        leaves the limit out what the model can generate; None: the call's own."""
        if not self.extra_body and not self.omit:
            return None
        given = [self.extra_body[name] for name in OUTPUT_LIMIT_FIELDS if name in self.extra_body]
        if given:
            return max(int(limit) for limit in given)
        if any(name in self.omit for name in OUTPUT_LIMIT_FIELDS):
            return self.max_output_tokens or self.context_tokens
        return None


class RouterTable(_Table):
    decomposer: str
    """Pool entry that splits questions into subtasks."""
    allocator: str
    """Pool entry that names one model per subtask."""
    second_decomposer: str | None = None
    """Pool entry that plans again where the decomposer's plan fails its cheap check (r2/answering/plan_check.py); None:
    nobody."""
    finalizer: str = "last_step"
    """The pool entry that writes the answer from all results of a plan (paper: a final call). `last_step`: rows with a
    benchmark take the last subtask's result (no call); for rows without one the strongest model of the steps writes
    it."""


class BudgetTable(_Table):
    max_usd_per_day: Positive | None = None
    """Spend of all processes of this host on this pool per UTC day; None: no cap."""
    max_usd_per_day_by_tag: Mapping[str, Positive] = Field(default_factory=dict)
    """NAME=VALUE of a tag (`r2 answer --tag`) -> the same for all runs that have it."""

    @field_validator("max_usd_per_day_by_tag")
    @classmethod
    def _are_tags(cls, caps_usd: Mapping[str, float]) -> Mapping[str, float]:
        for tag in caps_usd:
            tag_of(tag)
        return caps_usd


class PoolTables(_Table):
    router: RouterTable
    models: dict[str, ModelTable] = Field(min_length=1)
    quotas: dict[str, EndpointLimits] = Field(default_factory=dict)
    vllm: dict[str, VllmTable] = Field(default_factory=dict)
    """MODEL of a `vllm:MODEL` endpoint -> how its server is started; see r2/pool/file/vllm_table.py."""
    budget: BudgetTable = Field(default_factory=BudgetTable)
    simulated_faults: Mapping[str, float] = Field(default_factory=dict)
    """Fault name -> share of calls that meet it, on the `simulated:` endpoints; see r2/pool/simulated/process.py."""

    @model_validator(mode="after")
    def _names_resolve(self) -> "PoolTables":
        for role in ("decomposer", "allocator", "second_decomposer", "finalizer"):
            name = getattr(self.router, role)
            is_nobody = (role, name) in (("finalizer", "last_step"), ("second_decomposer", None))
            if name not in self.models and not is_nobody:
                raise ValueError(f"router.{role} = {name!r} is not a model of this pool ({', '.join(self.models)})")
        for name, model in self.models.items():
            if model.quota is not None and model.quota not in self.quotas:
                raise ValueError(f"models.{name}.quota = {model.quota!r} has no [quotas.{model.quota}] table")
        targets = {model.vllm_target for model in self.models.values() if model.vllm_target is not None}
        for name in self.vllm:
            if name not in targets:
                raise ValueError(f'[vllm."{name}"] is the server of no entry; expected endpoint = "vllm:{name}"')
        for name, model in self.models.items():
            if model.adapter is not None and model.vllm_target is None:
                raise ValueError(
                    f"models.{name}.adapter = {model.adapter!r} is for vllm: endpoints. Elsewhere the policy is the "
                    f'endpoint: endpoint = "policy:{model.adapter}"'
                )
        if not any(model.solver for model in self.models.values()):
            raise ValueError("no model has solver = true; somebody must answer")
        return self
