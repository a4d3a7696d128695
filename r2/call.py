"""A call to a model and what came back: the only two things the reasoning code and the outside world exchange.

`r2/answering/route.py` yields lists of `Call`s (a wave: they may run at the same time) and receives a list of
`Completion`s in the same order. Who answers is the driver's business: the aiohttp pool, a recording, or scripted
replies in tests.
"""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import orjson

from r2.ledger import Usage, UsageSource, total_usage

Purpose = Literal[
    "decompose", "allocate", "solve", "final", "teach", "judge", "verify", "review", "calibrate", "program"
]
ROUTER_PURPOSES: frozenset[Purpose] = frozenset({"decompose", "allocate"})
"""The router's own calls: counted in every total, and shown apart as its overhead."""
UNASKED_PURPOSES: frozenset[Purpose] = frozenset({"judge", "program"})
"""Calls that are no question to a model for an answer: a judge's, and the run of a program that a model wrote."""

Message = tuple[Literal["system", "user", "assistant"], str]


@dataclass(frozen=True, slots=True)
class Call:
    """One request to one pool entry, as the reasoning wants it.

    `sample_index` tells apart repeated asks of an otherwise equal request (re-asks, self-consistency, escalations to
    the same model); `subtask_index` is 0-based, None for decompose / allocate / final. `json_schema` asks for guided
    decoding where the server has it (`ModelCard.guided`), `json_object` for any JSON object. `top_logprobs` > 0 asks
    for log-probabilities. `effort` is the reasoning effort; None: the entry's own. `asked_for` names the fields that
    the row itself asks for, as the row calls them: what an entry cannot take of them is said (`Completion.not_sent`).
    """

    model: str
    messages: tuple[Message, ...]
    purpose: Purpose
    max_output_tokens: int
    temperature: float = 0.0
    top_logprobs: int = 0
    json_schema: str | None = None
    seed: int | None = None
    subtask_index: int | None = None
    sample_index: int = 0
    max_cost_usd: float | None = field(default=None, compare=False)
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    effort: str | None = None
    json_object: bool = False
    asked_for: frozenset[str] = field(default=frozenset(), compare=False)

    def request_sha(self) -> str:
        """Content address of the request: model entry, messages and sampling parameters, nothing of where it is sent.

        Two equal requests in different questions share it; it keys recordings.
        """
        return hashlib.sha256(self._canonical()).hexdigest()

    def journal_key(self, problem_id: str, rollout: int = 0) -> str:
        """Key of this call in a run's journal: the request and the place in the run that asked it; 32 hexadecimal
        digits."""
        place = f"{problem_id}\0{rollout}\0{self.purpose}\0{self.subtask_index}\0"
        address = hashlib.blake2b(place.encode("utf-8", "surrogatepass"), digest_size=16)
        address.update(self._canonical())
        return address.hexdigest()

    def _canonical(self) -> bytes:
        parts: list[Any] = [
            self.model,
            self.messages,
            self.max_output_tokens,
            self.temperature,
            self.top_logprobs,
            self.json_schema,
            self.seed,
            self.sample_index,
        ]
        if self.top_p is not None or self.stop or self.effort is not None or self.json_object:
            further = {"top_p": self.top_p, "stop": self.stop, "effort": self.effort, "json_object": self.json_object}
            # Only what is asked for, and only where something is: calls of earlier versions keep their keys.
            parts.append({name: value for name, value in further.items() if value})
        try:
            return orjson.dumps(parts)
        except TypeError:  # lone surrogates, which orjson refuses and json escapes
            return json.dumps(parts).encode()


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One generated token with its natural-log probability and the alternatives the server listed, best first."""

    token: str
    logprob: float
    alternatives: tuple[tuple[str, float], ...] = ()


@dataclass(slots=True)  # not frozen, nor is `Completion`: made per call, and freezing is half of making them
class Attempt:
    """One HTTP exchange (or one refusal to start it): a row of the `calls` table.

    `model` is the pool entry that was sent to, which differs from `Call.model` after a fallback. `status` is the HTTP
    status, 0 when there was none. `started_at` is in epoch seconds; `queue_s` the wait for the gate before it,
    `latency_s` from sending to the last byte. `raw_body` is the body as it came, kept so that a parse can be redone.
    `thinking` is what the model wrote before its answer, where the server shows it.
    """

    model: str
    attempt: int
    status: int
    started_at: float
    latency_s: float = 0.0
    queue_s: float = 0.0
    usage: Usage = field(default_factory=Usage)
    cost_usd: float = 0.0
    price_version: str = ""
    response_model: str = ""
    response_id: str = ""
    finish_reason: str = ""
    error_type: str | None = None
    error_message: str | None = None
    retry_after_s: float | None = None
    raw_body: bytes = b""
    thinking: str = ""


@dataclass(slots=True)
class Completion:
    """The outcome of one call: its text, or why there is none, and every attempt it took.

    `model` is the pool entry that answered. `text` is "" when `error_type` is set. `is_replayed` is true where the
    journal answered and nothing was paid now (the cost stays: it was paid by an earlier session of the same run).
    `lost_usd` is what killed sessions of the run may have paid for this call beside its attempts; not stored here.
    `not_sent` names what the row asked for (`Call.asked_for`) and the entry could not be sent.
    `reused_from` names the run that paid for it where it was not this one, "" elsewhere; `saved_usd` is what it would
    have cost, at the price of the day it was used again, where its attempts cost nothing for that.
    """

    text: str
    model: str
    attempts: tuple[Attempt, ...] = ()
    finish_reason: str = "stop"
    token_logprobs: tuple[TokenLogprob, ...] = ()
    error_type: str | None = None
    error_message: str | None = None
    is_replayed: bool = False
    lost_usd: float = field(default=0.0, compare=False)
    not_sent: tuple[str, ...] = ()
    reused_from: str = ""
    saved_usd: float = 0.0

    @property
    def is_ok(self) -> bool:
        return self.error_type is None

    @property
    def cost_usd(self) -> float:
        return sum(attempt.cost_usd for attempt in self.attempts)

    @property
    def worth_usd(self) -> float:
        """What the call costs, whoever paid for it."""
        return self.cost_usd + self.saved_usd

    @property
    def usage(self) -> Usage:
        return total_usage(attempt.usage for attempt in self.attempts)

    @property
    def latency_s(self) -> float:
        """Seconds spent on the wire over all attempts (not in queues)."""
        return sum(attempt.latency_s for attempt in self.attempts)

    def to_bytes(self, request_sha: str = "", problem_id: str = "") -> bytes:
        """As stored in a journal: JSON, raw bodies as text (undecodable bytes escaped, so that nothing is lost).

        `request_sha` is kept beside it (`request_sha_of`): by it another run finds the answer. Of `problem_id` a mark
        is kept (`problem_mark`): by it the words of a problem are found again when they are to be forgotten.
        """
        stored: dict[str, Any] = {
            "text": self.text,
            "model": self.model,
            "finish_reason": self.finish_reason,
            "error_type": self.error_type,
            "error_message": self.error_message,
            "token_logprobs": [[t.token, t.logprob, t.alternatives] for t in self.token_logprobs],
            "attempts": [_attempt_to_json(a) for a in self.attempts],
        }
        if self.not_sent:
            stored["not_sent"] = self.not_sent
        if self.reused_from:
            stored |= {"reused_from": self.reused_from, "saved_usd": self.saved_usd}
        if request_sha:
            stored["request_sha"] = request_sha
        if problem_id:
            stored["problem"] = problem_mark(problem_id)
        return orjson.dumps(stored)

    @classmethod
    def from_bytes(cls, stored: bytes) -> Self:
        """Inverse of `to_bytes`, marked as replayed. Raises ValueError or KeyError if `stored` is not one of ours."""
        entry = orjson.loads(stored)
        return cls(
            text=entry["text"],
            model=entry["model"],
            attempts=tuple(_attempt_from_json(a) for a in entry["attempts"]),
            finish_reason=entry["finish_reason"],
            token_logprobs=tuple(
                TokenLogprob(token, logprob, tuple((t, p) for t, p in alternatives))
                for token, logprob, alternatives in entry["token_logprobs"]
            ),
            error_type=entry["error_type"],
            error_message=entry["error_message"],
            is_replayed=True,
            not_sent=tuple(entry.get("not_sent", ())),
            reused_from=entry.get("reused_from", ""),
            saved_usd=entry.get("saved_usd", 0.0),
        )


def problem_mark(problem_id: str) -> str:
    """What a journal has of the problem that a call was made for: 16 hexadecimal digits."""
    return hashlib.blake2b(problem_id.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def request_sha_of(stored: bytes) -> str:
    """What `Completion.to_bytes` kept beside a completion; "" where it was not told."""
    return str(orjson.loads(stored).get("request_sha", ""))


def _attempt_to_json(a: Attempt) -> list[Any]:
    """Positional, because names would double the journal's size."""
    u = a.usage
    further = [u.cache_write_tokens, u.reasoning_tokens, a.thinking]  # came later: only where something is in them
    return [
        a.model,
        a.attempt,
        a.status,
        a.started_at,
        a.latency_s,
        a.queue_s,
        u.input_tokens,
        u.cached_input_tokens,
        u.output_tokens,
        u.source,
        a.cost_usd,
        a.price_version,
        a.response_model,
        a.response_id,
        a.finish_reason,
        a.error_type,
        a.error_message,
        a.retry_after_s,
        a.raw_body.decode("utf-8", "backslashreplace"),
        *(further if any(further) else ()),
    ]


def _attempt_from_json(entry: list[Any]) -> Attempt:
    (
        model,
        attempt,
        status,
        started_at,
        latency_s,
        queue_s,
        n_in,
        n_cached,
        n_out,
        source,
        cost,
        price_version,
        response_model,
        response_id,
        finish_reason,
        error_type,
        error_message,
        retry_after_s,
        raw_body,
        *further,
    ) = entry
    n_written, n_reasoning, thinking = further or (0, 0, "")
    usage_source: UsageSource = source
    return Attempt(
        model,
        attempt,
        status,
        started_at,
        latency_s,
        queue_s,
        Usage(n_in, n_cached, n_out, usage_source, n_written, n_reasoning),
        cost,
        price_version,
        response_model,
        response_id,
        finish_reason,
        error_type,
        error_message,
        retry_after_s,
        raw_body.encode(),
        thinking,
    )
