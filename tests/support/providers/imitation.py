"""A strict imitation of a provider: a server on loopback that refuses what the provider refuses, and keeps a bill.

A subclass reads a request as its provider does (`read`, which refuses with `Refused`), writes a reply in its form
(`document`), and has a method `fault_NAME` for each failure that it can show. A failure is asked for by a marker in the
prompt, `[[fault:overloaded]]` for good or `[[fault:overloaded*2]]` for the first two requests with this prompt, by the
header `x-imitate-fault`, or by `fail_next`. A provider that has no such failure answers as if nothing had been asked.

    async with OpenAI() as openai:
        ...                       # ask openai.base_url with openai.key
    assert openai.bill_usd == ...

Nothing here knows the product.
"""

import asyncio
import json
import re
import zlib
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, ClassVar, Literal, Self

from aiohttp import web

from tests.support.providers import brain, tokens
from tests.support.providers.batch import Batches
from tests.support.providers.bill import Bill, PriceList, Tokens
from tests.support.providers.limits import Limits, Window
from tests.support.providers.sent import Refused, Sent

FAULTS = frozenset(
    {
        "rate_requests",  # 429: requests per minute
        "rate_tokens",  # 429: tokens per minute
        "rate_day",  # 429: per day
        "too_large",  # one request larger than the whole limit
        "no_money",  # quota or credit gone
        "overloaded",  # 503 or 529
        "server_error",  # 500
        "content_filter",  # the prompt is refused by moderation
        "filtered_reply",  # 200, the reply was stopped by moderation
        "refusal",  # 200, the model says no
        "context",  # the prompt does not fit
        "context_with_limit",  # the prompt fits, but not with the output limit
        "flagged",  # 403 for this one prompt
        "error_in_200",  # an error object in a 200
        "empty_choices",  # a 200 without a choice
        "finish_error",  # a choice that ended in an error
        "retired",  # the model is no more
    }
)
_MARKER = re.compile(r"\[\[fault:([a-z_0-9]+)(?:\*(\d+))?\]\]")
_FILLERS = (" the", "A", " B", "1", " 2", "C", "0", ".", " yes", "D", " a", "3", "E", " no", "\n", "F", "4", " of", "5")

SPENT_ON_THINKING: Mapping[str, tuple[int, int]] = {
    "none": (0, 0),
    "minimal": (8, 2),
    "low": (24, 5),
    "medium": (64, 10),
    "high": (192, 20),
    "xhigh": (384, 25),
    "max": (512, 30),
}
"""Effort -> (tokens at least, per cent of the output limit) that are thought before the first word of the answer."""


@dataclass(frozen=True, slots=True)
class Model:
    """What the provider serves under a name. `snapshot` is the name that replies bear."""

    name: str
    snapshot: str
    prices: PriceList
    context_tokens: int
    max_output_tokens: int


@dataclass(frozen=True, slots=True)
class Ask:
    """A request that the provider takes. `prompt` is all its tokens, `marks` the places where the client wants it
    cached, `thinking` an effort of `SPENT_ON_THINKING` or a number of tokens. `form` is for the provider's own use."""

    model: Model
    system: str
    turns: tuple[brain.Turn, ...]
    prompt: Sequence[str]
    limit: int | None
    thinking: str | int = "none"
    schema: Mapping[str, Any] | None = None
    is_json: bool = False
    answer: str | None = None
    """Set where the request itself leaves only one answer."""
    stop: tuple[str, ...] = ()
    n: int = 1
    n_top_logprobs: int | None = None
    marks: tuple[int, ...] = ()
    seed: int = 0
    is_sampled: bool = False
    form: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Written:
    """What the model wrote: its thinking and its answer as tokens, and why it ended. `stop` is the sequence it met."""

    thinking: list[str]
    answer: list[str]
    finish: Literal["stop", "length"]
    stop: str | None = None

    @property
    def text(self) -> str:
        return "".join(self.answer)


@dataclass
class Exchange:
    """One request as the imitation saw it, and how it was answered."""

    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Any
    status: int = 0
    fault: str | None = None
    model: str = ""
    text: str = ""
    finish: str = ""
    tokens: Tokens | None = None
    usd: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token of an answer with its log-probability and the most likely tokens of its place, likeliest first."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...]


def answer_of(ask: Ask) -> str:
    """What the imitations' own brain answers."""
    turns = [(role, _MARKER.sub("", said).strip()) for role, said in ask.turns]
    return brain.answer(ask.system, turns, schema=ask.schema, is_json=ask.is_json)


def logprobs(answer: Sequence[str], n_top: int) -> list[TokenLogprob]:
    """Log-probabilities that depend on nothing but the answer."""
    found = []
    for place, token in enumerate(answer):
        chosen = -(1 + zlib.crc32(f"{place}{token}".encode()) % 40) / 100
        others = [other for other in _FILLERS if other != token][: max(0, n_top - 1)]
        top = [(token, chosen), *((other, chosen - 1.5 - rank / 4) for rank, other in enumerate(others))]
        found.append(TokenLogprob(token, chosen, tuple(top[:n_top])))
    return found


class Imitation(ABC):
    """One provider on loopback. Used as an async context manager; `base_url` is what a client is given."""

    name: ClassVar[str]
    """The product's name of the dialect, for pool files."""
    route: ClassVar[str]
    """Path of the base URL."""
    letters: ClassVar[int] = 6
    """Longest word that is one token."""
    tokens_per_message: ClassVar[int] = 4
    batch_form: ClassVar[Callable[["Imitation"], Batches] | None] = None
    """Makes the batch endpoints; None for a provider that has none."""
    cache: tokens.PrefixCache

    def __init__(
        self,
        models: Sequence[Model] | None = None,
        *,
        key: str | None = None,
        limits: Limits | None = None,
        latency_s: float = 0.0,
        answers: Callable[[Ask], str] | None = None,
    ) -> None:
        """`answers` writes the answers in the place of the imitations' own brain."""
        self.models: dict[str, Model] = {model.name: model for model in models or self.default_models()}
        self.key = f"sk-imitation-{self.name}-0123456789" if key is None else key
        self.latency_s = latency_s
        limits = limits or Limits()
        self.requests_window = Window(limits.requests)
        self.tokens_window = Window(limits.tokens)
        self.cache = tokens.PrefixCache(least=1024, step=128)
        self.bill = Bill()
        self.requests: list[Exchange] = []
        self.serial = 0
        """Of the reply that is being written: live, of a row, or about a job."""
        self.base_url = ""
        self.batches = None if self.batch_form is None else type(self).batch_form(self)  # type: ignore[misc]
        self._answers = answers or answer_of
        self._asked: Counter[tuple[str, int]] = Counter()
        self._next: deque[str] = deque()
        self._runner: web.AppRunner | None = None

    @classmethod
    @abstractmethod
    def default_models(cls) -> Sequence[Model]: ...

    @abstractmethod
    def read(self, request: web.Request, body: Any) -> Ask:
        """The request as the provider understands it. Refused for what it does not take."""

    @abstractmethod
    def document(self, ask: Ask, written: Sequence[Written], counts: Tokens) -> Sent:
        """The reply in the provider's form."""

    @abstractmethod
    def not_found(self, request: web.Request) -> Sent:
        """What a wrong path gets."""

    @abstractmethod
    def not_json(self) -> Sent:
        """What a body that is no JSON object gets."""

    def headers(self, sent: Sent) -> dict[str, str]:
        """Headers of every response, in the provider's form."""
        return {}

    @abstractmethod
    def fault_rate_requests(self, ask: Ask) -> Sent: ...

    @abstractmethod
    def fault_rate_tokens(self, ask: Ask) -> Sent: ...

    @abstractmethod
    def fault_too_large(self, ask: Ask) -> Sent: ...

    @abstractmethod
    def fault_context(self, ask: Ask) -> Sent: ...

    @property
    def bill_usd(self) -> Decimal:
        return self.bill.usd

    def fail_next(self, *faults: str) -> None:
        """The next requests fail in these ways, whatever they ask."""
        self._next.extend(_known(fault) for fault in faults)

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=300 * 2**20)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.base_url = f"http://127.0.0.1:{self._runner.addresses[0][1]}{self.route}"
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()
        if self.batches is not None:
            self.batches.close()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if self.batches is not None and (response := await self.batches.handle(request)) is not None:
            return response
        raw = await request.read()
        try:
            body = json.loads(raw) if raw else None
        except ValueError:
            body = None
        exchange = Exchange(request.path, dict(request.query), dict(request.headers), body)
        self.requests.append(exchange)
        self.serial += 1
        if self.latency_s:
            await asyncio.sleep(self.latency_s)
        sent = self._answer(request, body, exchange)
        exchange.status, exchange.text, exchange.finish = sent.status, sent.text, sent.finish
        text = sent.document if isinstance(sent.document, str) else json.dumps(sent.document, ensure_ascii=False)
        kind = "application/json" if not isinstance(sent.document, str) else "text/html"
        headers = {**self.headers(sent), **sent.headers}
        return web.Response(status=sent.status, text=text, content_type=kind, headers=headers)

    def _answer(self, request: web.Request, body: Any, exchange: Exchange) -> Sent:
        try:
            ask = self.read(request, body)
            exchange.model = ask.model.name
            exchange.fault = self._fault(request.headers.get("x-imitate-fault"), ask)
            sent = self._failure(exchange.fault, ask) or self._over_limit(ask) or self._reply(ask)
        except Refused as refused:
            return refused.sent
        if sent.tokens is not None:
            exchange.tokens = sent.tokens
            exchange.usd = self.bill.charge(ask.model.name, ask.model.prices, sent.tokens)
        return sent

    def answer(self, ask: Ask) -> Sent:
        """A row of a batch, which no limit per minute holds back. Raises Refused; what it costs is not billed here."""
        return self._failure(self._marked(ask), ask) or self._reply(ask)

    def _failure(self, fault: str | None, ask: Ask) -> Sent | None:
        failure = None if fault is None else getattr(self, f"fault_{fault}", None)
        return None if failure is None else failure(ask)

    def _fault(self, named: str | None, ask: Ask) -> str | None:
        if self._next:
            return self._next.popleft()
        return _known(named) if named else self._marked(ask)

    def _marked(self, ask: Ask) -> str | None:
        """The failure that the prompt asks for."""
        said = ask.system + "".join(text for _, text in ask.turns)
        found = _MARKER.search(said)
        if found is None:
            return None
        self._asked[ask.model.name, hash(said)] += 1
        is_over = found[2] is not None and self._asked[ask.model.name, hash(said)] > int(found[2])
        return None if is_over else _known(found[1])

    def _over_limit(self, ask: Ask) -> Sent | None:
        n_wanted = len(ask.prompt) + (ask.limit or 0)
        if n_wanted > self.tokens_window.limit:
            return self.fault_too_large(ask)
        if not self.requests_window.take(1):
            return self.fault_rate_requests(ask)
        return None if self.tokens_window.take(n_wanted) else self.fault_rate_tokens(ask)

    def _reply(self, ask: Ask) -> Sent:
        self.check_context(ask)
        written = [self.write(ask) for _ in range(ask.n)]
        return self.document(ask, written, self.count(ask, written))

    def check_context(self, ask: Ask) -> None:
        """Refused for a prompt that leaves no room for an answer."""
        if len(ask.prompt) >= ask.model.context_tokens:
            raise Refused(self.fault_context(ask))

    def write(self, ask: Ask) -> Written:
        """Thinks first, then writes with what the limit leaves."""
        limit = min(ask.limit or ask.model.max_output_tokens, ask.model.max_output_tokens)
        limit = min(limit, ask.model.context_tokens - len(ask.prompt))
        thinking = self._think(ask, limit)
        text = ask.answer
        if text is None:
            text = self._answers(ask)
        met = None
        for sequence in ask.stop:
            if (at := text.find(sequence)) >= 0:
                text, met = text[:at], sequence
        answer = tokens.split(text, self.letters)
        left = limit - len(thinking)
        if len(answer) > left or (thinking and left == 0):
            return Written(thinking, answer[:left], "length")
        return Written(thinking, answer, "stop", met)

    def _think(self, ask: Ask, limit: int) -> list[str]:
        if isinstance(ask.thinking, int):
            n_tokens = min(ask.thinking // 16, limit)  # a budget is seldom used up
        else:
            least, per_cent = SPENT_ON_THINKING[ask.thinking]
            n_tokens = min(max(least, min(limit, 8192) * per_cent // 100), limit)
        said = tokens.split(brain.thoughts(ask.turns, n_tokens // 8 + 1), self.letters) if n_tokens else []
        return said[:n_tokens]

    def count(self, ask: Ask, written: Sequence[Written]) -> Tokens:
        """What is billed: here with the whole prompt as fresh input."""
        return Tokens(
            fresh=len(ask.prompt),
            thinking=sum(len(one.thinking) for one in written),
            answer=sum(len(one.answer) for one in written),
        )

    def prompt(self, messages: Sequence[tuple[str, str]]) -> list[str]:
        """The tokens of a prompt: each message in its frame."""
        pieces = []
        for role, text in messages:
            pieces += [f"<{role}>"] * self.tokens_per_message
            pieces += tokens.split(text, self.letters)
        return pieces

    def entry(
        self, name: str, model: str, *, tier: str, key_env: str | None = None, is_plain: bool = False, **lines: str
    ) -> str:
        """The table of a pool file for one of the models. `lines` are further keys with their TOML values.

        `is_plain`: without the lines that say what the model takes, so that a client has to find it out.
        """
        served = self.models[model]
        fields = {
            "endpoint": json.dumps(self.base_url),
            "dialect": json.dumps(self.name),
            "served_model": json.dumps(model),
            "tier": json.dumps(tier),
            "context_tokens": str(served.context_tokens),
            "max_output_tokens": str(served.max_output_tokens),
            "price_usd_per_mtok": _price_toml(served.prices),
        }
        if key_env is not None:
            fields["api_key_env"] = json.dumps(key_env)
        fields |= ({} if is_plain else self.entry_lines(served)) | lines
        return f"[models.{json.dumps(name)}]\n" + "".join(f"{key} = {value}\n" for key, value in fields.items())

    def entry_lines(self, model: Model) -> dict[str, str]:
        """What the model takes, as lines with TOML values."""
        return {}


def _price_toml(prices: PriceList) -> str:
    at = prices.base
    numbers = f"input = {at.input}, cached_input = {at.cached}, output = {at.output}"
    if at.cache_write != at.input:
        numbers += f", cache_write = {at.cache_write}"
    if prices.long is not None:
        far = prices.long
        long = f"above_tokens = {prices.long_above}, input = {far.input}, cached_input = {far.cached}"
        long += f", output = {far.output}"
        if far.cache_write != far.input:
            long += f", cache_write = {far.cache_write}"
        numbers += f", long = [{{{long}}}]"
    return f'{{{numbers}, date = "2026-11-26", source = "the imitation\'s own price list"}}'


def _known(fault: str) -> str:
    if fault not in FAULTS:
        raise ValueError(f"no fault {fault!r}; there are {', '.join(sorted(FAULTS))}")
    return fault
