"""One POST to a model's endpoint and its outcome, as a value. No retries and no limits here: those are the caller's.

The API key is read by name when a request is sent, lives in that request's headers and nowhere else, and
is struck from everything that comes back before anybody sees it.
"""

import asyncio
import io
import ipaddress
import math
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import aiohttp
from yarl import URL

from r2.pool.client.body import KEPT_BYTES, MOST_BYTES, read_body
from r2.pool.client.dialects import DIALECTS
from r2.pool.client.dialects.dialect import Dialect
from r2.pool.client.refusals import Refusal, refusal
from r2.pool.client.stream import StreamedReply, read_stream
from r2.pool.client.wire import scrub

_LARGE_BODY = 1 << 20
"""aiohttp writes larger bytes in one piece and warns about it; from a file object it writes chunks."""


_COMPUTING_S = 1.0
"""A connection that ends without a byte of an answer, this long or longer after the request: the answer may have been
under way."""

Billing = Literal["usage", "worst", "nothing"]
"""What the server may have billed: what the body says, anything up to the worst case, or nothing."""


@dataclass(slots=True)  # not frozen: freezing costs more than the rest of making one, and there is one per call
class HttpReply:
    """What came of one POST. `status` is 0 if no answer began; `refusal` None only for a 2xx, whose body has yet to be
    parsed.

    `is_stale` marks a connection that ended at once, before any byte of the answer, as idle ones do: the caller may try
    once more at no charge. `computed_tokens` are those of a streamed answer that was given up: more was not computed.
    `headers` are those of a whole 2xx.
    """

    status: int
    body: bytes = b""
    refusal: Refusal | None = None
    billing: Billing = "usage"
    is_stale: bool = False
    computed_tokens: int | None = None
    headers: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an entry's requests go: made once, so that no URL is parsed and no proxy looked up per call.

    `timeout_s` is the least time that an answer is waited for; where it `streams`, the least between two pieces of it.
    """

    url: URL
    proxy: URL | None
    api_key_env: str | None
    timeout_s: float
    dialect: Dialect
    streams: bool = False
    keeps_connections: bool = True
    """llama.cpp's server closes some right after an answer, without a word; to connect anew costs nothing beside it."""

    @classmethod
    def at(
        cls,
        base_url: str,
        api_key_env: str | None,
        timeout_s: float,
        *,
        served_model: str = "",
        dialect: Dialect = DIALECTS["compatible"],
        streams: bool = False,
        keeps_connections: bool = True,
    ) -> Self:
        url = URL(dialect.url(base_url, served_model), encoded=True)
        return cls(url, proxy_for(url), api_key_env, timeout_s, dialect, streams, keeps_connections)


class HttpSession:
    """The HTTP session of this process: connections are kept and never limited here (the gate limits calls)."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._session: aiohttp.ClientSession | None = None
        self._session_of_once: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session, self._session_of_once = _session(keepalive_timeout=30), _session(force_close=True)
        return self

    async def __aexit__(self, *exc: object) -> None:
        for session in (self._session, self._session_of_once):
            if session is not None:
                await session.close()

    async def post(
        self,
        endpoint: Endpoint,
        body: bytes,
        limit_s: float | None = None,
        most_bytes: int = MOST_BYTES,
        within_s: float = float("inf"),
    ) -> HttpReply:
        """Sends `body` and reads the whole answer, if it has at most `most_bytes`.

        It is given up after `limit_s` (None: the endpoint's `timeout_s`), or where the endpoint streams when nothing
        came for so long, and after `within_s` in any case.

        Never raises for what a server does; cancellation passes through.
        """
        session = self._session if endpoint.keeps_connections else self._session_of_once
        if session is None:
            raise RuntimeError("HttpSession is used outside `async with`")
        key, headers = "", endpoint.dialect.headers("")
        if endpoint.api_key_env is not None:
            key = self._environ.get(endpoint.api_key_env, "").strip()
            if not key or not key.isascii() or not key.isprintable():
                state = "is not set" if not key else "holds characters that no key has"
                message = f"${endpoint.api_key_env} {state}; set it."
                return HttpReply(0, refusal=Refusal("auth", message, blames_the_key=True), billing="nothing")
            headers = endpoint.dialect.headers(key)
        status = 0
        limit_s = min(endpoint.timeout_s if limit_s is None else limit_s, within_s)
        timeout = _time_limit(within_s) if endpoint.streams else _CONNECTING
        streamed: StreamedReply | None = None
        content = body if len(body) < _LARGE_BODY else io.BytesIO(body)
        began_at = time.monotonic()
        try:
            async with (
                asyncio.timeout(limit_s) as patience,
                session.post(
                    endpoint.url,
                    data=content,
                    headers=headers,
                    proxy=endpoint.proxy,
                    timeout=timeout,
                    allow_redirects=False,
                ) as response,
            ):
                status = response.status
                if not 200 <= status < 300:
                    received, _ = await read_body(response, KEPT_BYTES)
                    received = scrub(received, key)
                    refused = refusal(status, received, response.headers)
                    if refused is not None and refused.error_type == "auth" and endpoint.api_key_env is not None:
                        said = f"{refused.message} (the key is read from ${endpoint.api_key_env})"
                        refused = replace(refused, message=said)
                    return HttpReply(status, received, refused, billing="nothing")
                if endpoint.streams and response.content_type == "text/event-stream":
                    patience.reschedule(None)
                    streamed = StreamedReply()
                    received, is_whole = await read_stream(response, streamed, idle_s=limit_s, limit=most_bytes)
                else:
                    received, is_whole = await read_body(response, most_bytes)
                received = scrub(received, key)
                if not is_whole:
                    message = f"HTTP {status}: a body of more than {most_bytes / 2**20:.0f} MiB; the rest was not read"
                    return HttpReply(status, received, Refusal("bad_body", message, status), billing="worst")
                return HttpReply(status, received, headers=response.headers)
        except (aiohttp.ConnectionTimeoutError, aiohttp.ClientConnectorError, aiohttp.InvalidURL) as error:
            said = _said(error, key, endpoint)
            return HttpReply(0, refusal=Refusal("disconnected", said), billing="nothing")
        except TimeoutError:
            billing: Billing = "worst" if status < 300 else "nothing"
            if streamed is not None:
                message = f"nothing came for {limit_s:g} s, after {streamed.n_tokens} tokens of the answer"
                partial = scrub(streamed.body(), key)
                timed_out = Refusal("timeout", message)
                return HttpReply(status, partial, timed_out, billing, computed_tokens=streamed.n_tokens)
            message = f"no complete answer within {limit_s:g} s"
            return HttpReply(status, refusal=Refusal("timeout", message), billing=billing)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            refused, waited_s = Refusal("disconnected", _said(error, key, endpoint)), time.monotonic() - began_at
            is_billed = 200 <= status < 300 or (status == 0 and waited_s >= _COMPUTING_S)
            return HttpReply(
                status,
                refusal=refused,
                billing="worst" if is_billed else "nothing",
                is_stale=status == 0 and waited_s < _COMPUTING_S,
                computed_tokens=None if streamed is None else streamed.n_tokens,
            )
        except (aiohttp.ClientError, OSError, asyncio.IncompleteReadError, ValueError) as error:
            # Bytes came that are no HTTP, or a body that is none of its kind: an answer had begun.
            is_cut = isinstance(error, (aiohttp.ClientPayloadError, asyncio.IncompleteReadError))
            refused = Refusal("disconnected" if is_cut else "bad_body", _said(error, key, endpoint))
            return HttpReply(
                status,
                refusal=refused,
                billing="worst" if status < 300 else "nothing",
                computed_tokens=None if streamed is None else streamed.n_tokens,
            )


def _session(**kept: Any) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, limit_per_host=0, ttl_dns_cache=300, **kept),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"Content-Type": "application/json", "User-Agent": "r2-reasoner"},
    )


_CONNECTING = aiohttp.ClientTimeout(total=None, sock_connect=10)
"""Where the caller's own time limit is over the whole exchange: a second one would cost as much as the first."""


def _time_limit(seconds: float) -> aiohttp.ClientTimeout:
    """On the whole exchange, generation included; inf: no limit."""
    return aiohttp.ClientTimeout(total=seconds if math.isfinite(seconds) else None, sock_connect=10)


def _said(error: Exception, key: str, endpoint: Endpoint) -> str:
    text = f"{endpoint.url.host}:{endpoint.url.port}: {type(error).__name__}: {error}"
    return scrub(text.encode("utf-8", "replace"), key).decode("utf-8", "replace")[:300]


def proxy_for(url: URL) -> URL | None:
    """The environment's proxy for this URL. Loopback addresses never go through one, whatever NO_PROXY says."""
    host = url.host or ""
    try:
        is_loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = host == "localhost" or host.endswith(".localhost")
    if is_loopback or urllib.request.proxy_bypass(host):
        return None
    proxy = urllib.request.getproxies().get(url.scheme)
    return None if proxy is None else URL(proxy)
