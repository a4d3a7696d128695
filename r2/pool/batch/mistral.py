"""Mistral's batch jobs. Source: the vendor's SDK, mistralai 3.7.0 (2026-11).

Files as everywhere; a job names its files and its model, and a line has a body without one. The two pages of the vendor
disagree about the limits; the smaller numbers hold here.
"""

import urllib.parse
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from r2.errors import BatchUnclearError
from r2.pool.batch.files import Uploads, cancelled, id_of, row_of, upload_file
from r2.pool.batch.http import BatchHttp, address, count_of, quoted, seconds_of, skew_s
from r2.pool.batch.openai import DAY_S, JOB_FIELD, MB, RUN_FIELD
from r2.pool.batch.protocol import BatchJob, BatchLimits, BatchLine, BatchRow, BatchStatus, State
from r2.pool.client.dialects.dialect import parts_of
from r2.pool.client.dialects.text import text_of

_PAGE: Final = 100
_MOST_PAGES: Final = 1000
_STATES: Final[Mapping[str, State]] = {
    "QUEUED": "submitted",
    "RUNNING": "running",
    "CANCELLATION_REQUESTED": "running",
    "SUCCESS": "ended",
    "FAILED": "failed",
    "TIMEOUT_EXCEEDED": "expired",
    "CANCELLED": "cancelled",
}
_HOURS: Final = 24


class MistralBatch:
    """One entry at Mistral."""

    def __init__(self, http: BatchHttp, served_model: str) -> None:
        self._http = http
        self._model = served_model
        self._uploads = Uploads()

    @property
    def limits(self) -> BatchLimits:
        return BatchLimits(100_000, 512 * MB, window_s=_HOURS * 3600.0)

    async def submit(self, job: BatchJob, lines: Collection[BatchLine]) -> str:
        async def send() -> str:
            return await upload_file(self._http, self._url("/files"), job, lines, _wrapped, {"purpose": "batch"})

        asked = {
            "model": self._model,
            "endpoint": "/v1/chat/completions",
            "timeout_hours": _HOURS,
            "metadata": {JOB_FIELD: job.id, RUN_FIELD: job.run_id[:512]},
        }
        async with self._uploads.of(job, send) as file_id:
            body = orjson.dumps({"input_files": [file_id], **asked})
            answer = await self._http.ask("POST", self._url("/batch/jobs"), "create", body=body)
        return id_of(answer.document)

    async def status(self, provider_id: str) -> BatchStatus:
        return _status_of(await self._get(provider_id))

    async def results(self, provider_id: str) -> AsyncGenerator[BatchRow, None]:
        told = await self._get(provider_id)
        ended_at = seconds_of(told.get("completed_at"))
        for field in ("output_file", "error_file"):
            file_id = told.get(field)
            if isinstance(file_id, str) and file_id:
                url = self._url(f"/files/{quoted(file_id)}/content")
                async with aclosing(self._http.lines(url, ended_at=ended_at)) as found:
                    async for line in found:
                        yield row_of(line)

    async def cancel(self, provider_id: str) -> None:
        url = self._url(f"/batch/jobs/{quoted(provider_id)}/cancel")
        await cancelled(self._http, url, lambda: self.status(provider_id))

    async def find(self, job: BatchJob, custom_ids: Collection[str]) -> str | None:
        """The first page, which may have it and shows how far the two clocks are apart; then all since a day before."""
        shown, now = await self._page({})
        if (found := _ours(shown, job)) is not None or len(shown) < _PAGE:
            return found
        since = datetime.fromtimestamp(job.created_at - DAY_S - skew_s(now), UTC).isoformat()
        for page in range(_MOST_PAGES):
            shown, _ = await self._page({"page": page, "created_after": since})
            if (found := _ours(shown, job)) is not None or len(shown) < _PAGE:
                return found
        raise BatchUnclearError(f"the list of jobs has more than {_MOST_PAGES} pages")

    async def _page(self, fields: Mapping[str, object]) -> tuple[list[Mapping[str, Any]], float | None]:
        """(jobs, the provider's time)."""
        query = urllib.parse.urlencode({"page_size": _PAGE, **fields})
        answer = await self._http.ask("GET", self._url(f"/batch/jobs?{query}"), "job")
        return parts_of(answer.document.get("data") if isinstance(answer.document, dict) else None), answer.now

    async def _get(self, provider_id: str) -> Mapping[str, Any]:
        answer = await self._http.ask("GET", self._url(f"/batch/jobs/{quoted(provider_id)}"), "job")
        id_of(answer.document)
        told: Mapping[str, Any] = answer.document
        return told

    def _url(self, path: str) -> str:
        return address(self._http.base_url, path)


def _ours(shown: list[Mapping[str, Any]], job: BatchJob) -> str | None:
    for told in shown:
        metadata = told.get("metadata")
        if isinstance(metadata, dict) and metadata.get(JOB_FIELD) == job.id:
            return id_of(told)
    return None


def _wrapped(line: BatchLine) -> bytes:
    """The model stands on the job, and not in the body."""
    body = orjson.loads(line.body)
    body.pop("model", None)
    return b'{"custom_id":"%b","body":%b}\n' % (line.custom_id.encode(), orjson.dumps(body))


def _status_of(told: Mapping[str, Any]) -> BatchStatus:
    errors = parts_of(told.get("errors"))
    said = "; ".join(text_of(error.get("message"))[:300] for error in errors[:3])
    created_at = seconds_of(told.get("created_at"))
    return BatchStatus(
        id_of(told),
        _STATES.get(text_of(told.get("status")), "running"),
        n_rows=count_of(told.get("total_requests")) or None,
        n_done=count_of(told.get("succeeded_requests")),
        n_failed=count_of(told.get("failed_requests")),
        error_code="failed" if said else "",
        error_text=said,
        expected_end=None if created_at is None else created_at + _HOURS * 3600.0,
        created_at=created_at,
        started_at=seconds_of(told.get("started_at")),
        ended_at=seconds_of(told.get("completed_at")),
    )
