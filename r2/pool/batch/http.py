"""Requests to a batch endpoint: one try each, with a time limit, and every failure as one of the protocol's errors.

The key is read by name when a request is sent, and struck from whatever comes back. What a server says is read by the
client's own table of refusals (r2/pool/client/refusals.py); what follows depends on what was asked: a job that is being
created may exist after an answer was lost, a job that is asked about does not end because a key was revoked.
"""

import asyncio
import re
import time
import urllib.parse
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final, Literal

import aiohttp
from yarl import URL

from r2.errors import (
    BatchError,
    BatchGoneError,
    BatchLaneDownError,
    BatchQueueFullError,
    BatchRefusedError,
    BatchUnclearError,
)
from r2.pool.client.body import KEPT_BYTES, read_body
from r2.pool.client.dialects.dialect import Dialect
from r2.pool.client.dialects.text import as_json
from r2.pool.client.http import proxy_for
from r2.pool.client.refusals import Refusal, refusal
from r2.pool.client.wire import scrub

Asking = Literal["upload", "create", "job", "results"]
"""What a request is for: a file that runs nothing by itself; a job; a word about a job or all jobs; results."""

QUICK_S: Final = 60.0
"""Time limit of a request that sends and receives little."""
_SLOWEST_BYTES_S: Final = 100_000
"""An upload slower than this is given up."""
_IDLE_S: Final = 120.0
"""A download is given up when nothing came for so long, or after `_LONGEST_S` in all."""
_LONGEST_S: Final = 4 * 3600.0
LONGEST_REPLY: Final = 64 << 20
"""Of a reply that is no results: a page of jobs, an operation with inline results."""
LONGEST_LINE: Final = 16 << 20
"""A longer line of results is a lost row."""
LATE_S: Final = 600.0
"""Results that are not there so soon after a job's end are late, not gone."""
_CHUNK: Final = 1 << 18

_LANE_IS_DOWN: Final = frozenset({"auth", "unknown_model", "quota_used_up"})
_NO_SUCH_METHOD: Final = (405, 501)


@dataclass(frozen=True, slots=True)
class Content:
    """The body of a request, whose length is known and which is made piece by piece."""

    length: int
    pieces: AsyncIterator[bytes]
    content_type: str


@dataclass(frozen=True, slots=True)
class Answer:
    """A 2xx: its JSON and its headers, names in lower case. `now` is the provider's clock, None where it shows none."""

    document: Any
    headers: Mapping[str, str]
    now: float | None


class Lines:
    """The lines of a file that comes in pieces, without the empty ones. Of a line longer than `longest` its beginning
    is given, and the rest is dropped."""

    def __init__(self, longest: int = LONGEST_LINE) -> None:
        self._longest = longest
        self._rest: list[bytes] = []
        self._n_rest = 0
        self._is_dropping = False

    def feed(self, piece: bytes) -> list[bytes]:
        """The lines that end within the piece."""
        *whole, rest = piece.split(b"\n")
        found = []
        for each in whole:
            line = b"".join((*self._rest, each)) if self._rest else each
            if not self._is_dropping and line.strip():
                found.append(line if len(line) <= self._longest else line[:KEPT_BYTES])
            self._rest, self._n_rest, self._is_dropping = [], 0, False
        if rest and not self._is_dropping:
            self._rest.append(rest)
            self._n_rest += len(rest)
            if self._n_rest > self._longest:
                found.append(b"".join(self._rest)[:KEPT_BYTES])
                self._rest, self._n_rest, self._is_dropping = [], 0, True
        return found

    def end(self) -> list[bytes]:
        """What comes after the last newline, if anything does."""
        line = b"".join(self._rest)
        return [line] if line.strip() else []


class BatchHttp:
    """Requests of one entry to its provider."""

    def __init__(
        self,
        dialect: Dialect,
        base_url: str,
        api_key_env: str | None,
        *,
        session: aiohttp.ClientSession,
        environ: Mapping[str, str],
    ) -> None:
        self.base_url = base_url
        self._dialect = dialect
        self._api_key_env = api_key_env
        self._session = session
        self._environ = environ

    async def ask(
        self,
        method: str,
        url: str,
        asking: Asking,
        *,
        body: bytes | Content | None = None,
        headers: Mapping[str, str] | None = None,
        has_key: bool = True,
    ) -> Answer:
        """One request and its whole answer, as JSON. Raises as the module says."""
        n_bytes = body.length if isinstance(body, Content) else len(body or b"")
        limit_s = QUICK_S + n_bytes / _SLOWEST_BYTES_S
        async with self._sent(method, url, asking, body, headers, has_key, limit_s) as (response, key):
            received, is_whole = await read_body(response, LONGEST_REPLY)
            lowered = {name.lower(): value for name, value in response.headers.items()}
            if not is_whole:
                raise BatchUnclearError(
                    f"{_host(url)}: a reply of more than {LONGEST_REPLY >> 20} MiB to {method} {_path(url)}",
                    may_exist=asking == "create",
                )
            document = as_json(scrub(received, key)) if received.strip() else {}
            if document is None:
                raise BatchUnclearError(
                    f"{_host(url)}: HTTP {response.status} to {method} {_path(url)} without JSON: {received[:100]!r}",
                    may_exist=asking == "create",
                )
            return Answer(document, lowered, clock_of(lowered))

    async def lines(self, url: str, *, ended_at: float | None = None) -> AsyncGenerator[bytes, None]:
        """The lines of a file, as they come; one that is too long is given cut.

        `ended_at` is when its job ended, by the provider's clock: a file that is missing soon after that is late.
        BatchGoneError for one that is missing, BatchUnclearError for one that breaks off, after its whole lines.
        """
        async with self._sent("GET", url, "results", None, None, True, None, ended_at) as (response, key):
            lines = Lines()
            async for piece in response.content.iter_any():
                for found in lines.feed(piece):
                    yield scrub(found, key)
            for found in lines.end():
                yield scrub(found, key)

    @asynccontextmanager
    async def _sent(
        self,
        method: str,
        url: str,
        asking: Asking,
        body: bytes | Content | None,
        headers: Mapping[str, str] | None,
        has_key: bool,
        limit_s: float | None,
        ended_at: float | None = None,
    ) -> AsyncIterator[tuple[aiohttp.ClientResponse, str]]:
        """The open response, a 2xx, and the key to strike from it."""
        key = self._key(asking) if has_key else ""
        given = {"User-Agent": "r2-reasoner", **(self._dialect.headers(key) if has_key else {}), **(headers or {})}
        data: Any = body
        if isinstance(body, Content):
            data = body.pieces
            given |= {"Content-Type": body.content_type, "Content-Length": str(body.length)}
        elif body is not None:
            given.setdefault("Content-Type", "application/json")
        address = URL(url, encoded=True)
        total = _LONGEST_S if limit_s is None else limit_s
        timeout = aiohttp.ClientTimeout(total=total, sock_connect=10, sock_read=_IDLE_S if limit_s is None else None)
        is_creating, what = asking == "create", f"{method} {_path(url)}"
        try:
            async with self._session.request(
                method,
                address,
                data=data,
                headers=given,
                proxy=proxy_for(address),
                timeout=timeout,
                allow_redirects=False,
            ) as response:
                if not 200 <= response.status < 300:
                    received, _ = await read_body(response, KEPT_BYTES)
                    now = clock_of({name.lower(): value for name, value in response.headers.items()})
                    is_late = ended_at is not None and now is not None and now - ended_at < LATE_S
                    raise self._failure(
                        response.status, scrub(received, key), response.headers, asking, what, is_late=is_late
                    )
                yield response, key
        except (aiohttp.ConnectionTimeoutError, aiohttp.ClientConnectorError, aiohttp.InvalidURL) as error:
            raise BatchUnclearError(self._said(error, key, url)) from None
        except TimeoutError:
            message = f"{_host(url)}: no answer to {what} within {total:.0f} s"
            raise BatchUnclearError(message, may_exist=is_creating) from None
        except (aiohttp.ClientError, OSError, asyncio.IncompleteReadError, ValueError) as error:
            raise BatchUnclearError(self._said(error, key, url), may_exist=is_creating) from None

    def _key(self, asking: Asking) -> str:
        name = self._api_key_env
        if name is None:
            return ""
        key = self._environ.get(name, "").strip()
        if key and key.isascii() and key.isprintable():
            return key
        message = f"${name} {'holds characters that no key has' if key else 'is not set'}; set it."
        if asking in ("upload", "create"):
            raise BatchLaneDownError(message, "auth")
        raise BatchUnclearError(message)

    def _failure(
        self, status: int, body: bytes, headers: Mapping[str, str], asking: Asking, what: str, *, is_late: bool
    ) -> BatchError:
        """What a status that is no 2xx means."""
        found = refusal(status, body, headers)
        if found is None:  # 1xx or a 3xx: nothing that a batch endpoint says
            found = Refusal("bad_request", f"HTTP {status}", status)
        message = f"{urllib.parse.urlsplit(self.base_url).netloc}: {what}: {found.message}"
        if asking in ("job", "results"):
            is_missing = status in (404, 410) or (status == 403 and _MAY_NOT_EXIST in body.lower())
            if is_missing and not is_late:
                return BatchGoneError(message)
            return BatchUnclearError(message, retry_after_s=found.retry_after_s)
        if found.error_type in _LANE_IS_DOWN:
            if found.error_type == "auth" and self._api_key_env is not None:
                message += f" (the key is read from ${self._api_key_env})"
            return BatchLaneDownError(message, found.error_type)
        if status in _NO_SUCH_METHOD:
            return BatchLaneDownError(f"{message}. This address has no batch endpoint.", "misconfigured")
        if status == 429 and _QUEUE.search(body[:4096]) is not None:
            return BatchQueueFullError(message)
        if status == 429:
            return BatchUnclearError(message, retry_after_s=found.retry_after_s)
        if 400 <= status < 500 and status not in (408, 409, 425, 499):
            return BatchRefusedError(message, code_of(body), line_of(body))
        return BatchUnclearError(message, may_exist=asking == "create", retry_after_s=found.retry_after_s)

    def _said(self, error: Exception, key: str, url: str) -> str:
        text = f"{_host(url)}: {type(error).__name__}: {error}"
        return scrub(text.encode("utf-8", "replace"), key).decode("utf-8", "replace")[:300]


_QUEUE: Final = re.compile(rb"enqueued|token_limit_exceeded|batch(?:es)? (?:queue|limit)|pending batch", re.IGNORECASE)
"""Words of a 429 that speak of what waits, and not of requests per minute."""
_MAY_NOT_EXIST: Final = b"may not exist"
"""Gemini's word, with status 403, for a file that is not there."""
_LINE: Final = re.compile(r"\brequests?[.\[](\d{1,7})\b|\bline (\d{1,7})\b")


def code_of(body: bytes) -> str:
    """The provider's word for a refusal; "" where it has none."""
    document = as_json(body)
    error = document.get("error", document) if isinstance(document, dict) else None
    for name in ("code", "status", "type"):
        value = error.get(name) if isinstance(error, dict) else None
        if isinstance(value, str) and value:
            return value[:64]
    return ""


def line_of(body: bytes) -> int | None:
    """The 1-based number of the request that a refusal blames: Anthropic counts `requests.0` from 0, others lines
    from 1."""
    found = _LINE.search(body[:4096].decode("utf-8", "replace"))
    if found is None:
        return None
    return int(found[1]) + 1 if found[1] is not None else int(found[2])


def clock_of(headers: Mapping[str, str]) -> float | None:
    """The provider's time, of the header Date; None where that is none."""
    try:
        return parsedate_to_datetime(headers["date"]).timestamp()
    except (KeyError, ValueError, TypeError, OverflowError, IndexError):
        return None


def skew_s(now: float | None) -> float:
    """How far the provider's clock and ours are apart, in seconds; 0 where it shows none."""
    return 0.0 if now is None else abs(now - time.time())


def seconds_of(value: object) -> float | None:
    """Epoch seconds of a number or an RFC 3339 time; None for anything else."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", value.strip()))
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError, OSError):
            return None
    return None


def count_of(value: object) -> int | None:
    """A count, as a number or as a text of digits; None for anything else."""
    if isinstance(value, str) and value.isdigit() and len(value) < 12:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def address(base_url: str, path: str) -> str:
    """`path` behind the pool file's address: without its `/chat/completions` or `/messages`, with its query."""
    parts = urllib.parse.urlsplit(base_url)
    base = parts.path.rstrip("/")
    for tail in ("/chat/completions", "/messages"):
        base = base.removesuffix(tail)
    more, _, query = path.partition("?")
    return urllib.parse.urlunsplit(
        (parts.scheme, parts.netloc, base + more, "&".join(filter(None, (parts.query, query))), "")
    )


def quoted(name: str) -> str:
    """A provider's id as a part of a path."""
    return urllib.parse.quote(name, safe="")


async def in_chunks(lines: Iterable[bytes]) -> AsyncIterator[bytes]:
    """Many short pieces as few long ones."""
    waiting: list[bytes] = []
    n_waiting = 0
    for piece in lines:
        waiting.append(piece)
        n_waiting += len(piece)
        if n_waiting >= _CHUNK:
            yield b"".join(waiting)
            waiting, n_waiting = [], 0
    if waiting:
        yield b"".join(waiting)


def _host(url: str) -> str:
    return urllib.parse.urlsplit(url).netloc


def _path(url: str) -> str:
    return urllib.parse.urlsplit(url).path
