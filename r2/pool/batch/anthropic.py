"""Anthropic's message batches. Source: the vendor's SDK, anthropic 2.14.0 (2026-11).

The requests stand in the body of the create, and are written there piece by piece. A batch holds nothing of ours but
their ids: after a kill it is known again by its count, and by its first result once it is over. Counts are 0 until
then, which says nothing of how far it is.
"""

import urllib.parse
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterator, Mapping
from contextlib import aclosing
from typing import Any, Final

from r2.errors import BatchGoneError, BatchUnclearError
from r2.pool.batch.files import as_bytes, begins_with, cancelled, id_of
from r2.pool.batch.http import BatchHttp, Content, address, count_of, in_chunks, quoted, seconds_of, skew_s
from r2.pool.batch.openai import DAY_S, MB
from r2.pool.batch.protocol import BatchJob, BatchLimits, BatchLine, BatchRow, BatchStatus, State
from r2.pool.client.dialects.dialect import parts_of
from r2.pool.client.dialects.text import as_json, text_of

_MOST_PAGES: Final = 1000
_COUNTS: Final = ("processing", "succeeded", "errored", "canceled", "expired")
_STATUSES: Final[Mapping[str, int]] = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "conflict_error": 409,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""Type of an error -> the HTTP status that it has live."""


class AnthropicBatch:
    """One entry at Anthropic."""

    def __init__(self, http: BatchHttp) -> None:
        self._http = http

    @property
    def limits(self) -> BatchLimits:
        return BatchLimits(100_000, 256 * MB, has_metadata=False)

    async def submit(self, job: BatchJob, lines: Collection[BatchLine]) -> str:
        head, tail = b'{"requests":[', b"]}"
        length = len(head) + sum(len(_wrapped(line)) for line in lines) + max(0, len(lines) - 1) + len(tail)

        def pieces() -> Iterator[bytes]:
            yield head
            for place, line in enumerate(lines):
                if place:
                    yield b","
                yield _wrapped(line)
            yield tail

        content = Content(length, in_chunks(pieces()), "application/json")
        answer = await self._http.ask("POST", self._url(), "create", body=content)
        return id_of(answer.document)

    async def status(self, provider_id: str) -> BatchStatus:
        answer = await self._http.ask("GET", self._url(f"/{quoted(provider_id)}"), "job")
        return _status_of(answer.document)

    async def results(self, provider_id: str) -> AsyncGenerator[BatchRow, None]:
        status = await self.status(provider_id)
        url = self._url(f"/{quoted(provider_id)}/results")
        async with aclosing(self._http.lines(url, ended_at=status.ended_at)) as found:
            async for line in found:
                yield _row_of(line)

    async def cancel(self, provider_id: str) -> None:
        url = self._url(f"/{quoted(provider_id)}/cancel")
        await cancelled(self._http, url, lambda: self.status(provider_id))

    async def find(self, job: BatchJob, custom_ids: Collection[str]) -> str | None:
        """A batch that is not over and has our count may be ours, whenever our clock says it was made: none runs for
        more than a day."""
        unclear = ""
        async for told in self._listed(job.created_at - DAY_S):
            status = _status_of(told)
            if status.n_rows != job.n_rows:
                continue
            if not status.is_over:
                unclear = status.provider_id
                continue
            try:
                if await begins_with(self.results(status.provider_id), job):
                    return status.provider_id
            except BatchGoneError:
                continue  # its results are not kept any more: it is as good as none
        if unclear:
            raise BatchUnclearError(f"batch {unclear} has as many requests as our job {job.id}, and is not over yet")
        return None

    async def _listed(self, since: float) -> AsyncIterator[Mapping[str, Any]]:
        """Batches, the newest first, back to `since` by our clock; as far back again as the two clocks are apart."""
        after = ""
        for _ in range(_MOST_PAGES):
            query = urllib.parse.urlencode({"limit": "100", **({"after_id": after} if after else {})})
            answer = await self._http.ask("GET", self._url(f"?{query}"), "job")
            document = answer.document if isinstance(answer.document, dict) else {}
            shown = parts_of(document.get("data"))
            for told in shown:
                created_at = seconds_of(told.get("created_at"))
                if created_at is not None and created_at < since - skew_s(answer.now):
                    return
                yield told
            if document.get("has_more") is not True or not shown:
                return
            after = id_of(shown[-1])
        raise BatchUnclearError(f"the list of batches has more than {_MOST_PAGES} pages")

    def _url(self, path: str = "") -> str:
        return address(self._http.base_url, f"/messages/batches{path}")


def _wrapped(line: BatchLine) -> bytes:
    return b'{"custom_id":"%b","params":%b}' % (line.custom_id.encode(), line.body)


def _status_of(told: Any) -> BatchStatus:
    provider_id = id_of(told)
    counts = told.get("request_counts")
    found = {name: count_of(counts.get(name)) or 0 for name in _COUNTS} if isinstance(counts, dict) else {}
    state: State = "running"
    if told.get("processing_status") == "ended":
        state = "cancelled" if found.get("canceled") else "expired" if found.get("expired") else "ended"
    is_over = state != "running"
    return BatchStatus(
        provider_id,
        state,
        n_rows=sum(found.values()) or None,
        n_done=found.get("succeeded") if is_over else None,
        n_failed=found.get("errored") if is_over else None,
        expected_end=seconds_of(told.get("expires_at")),
        created_at=seconds_of(told.get("created_at")),
        started_at=seconds_of(told.get("created_at")),
        ended_at=seconds_of(told.get("ended_at")),
    )


def _row_of(line: bytes) -> BatchRow:
    entry = as_json(line)
    result = entry.get("result") if isinstance(entry, dict) else None
    if not isinstance(entry, dict) or not isinstance(result, dict):
        return BatchRow("", 0, line, "not readable")
    name = text_of(entry.get("custom_id"))
    match result.get("type"):
        case "succeeded":
            return BatchRow(name, 200, as_bytes(result.get("message")))
        case "errored":
            whole = result.get("error")
            inner = whole.get("error") if isinstance(whole, dict) else None
            kind = text_of(inner.get("type")) if isinstance(inner, dict) else ""
            return BatchRow(name, _STATUSES.get(kind, 500), as_bytes(whole))
        case "canceled":
            return BatchRow(name, 0, as_bytes(result), "cancelled")
        case "expired":
            return BatchRow(name, 0, as_bytes(result), "expired")
    return BatchRow(name, 0, as_bytes(result), text_of(result.get("type")) or "not run")
