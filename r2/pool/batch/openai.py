"""Files and batches of OpenAI, and of the providers that have the same form with habits of their own: Azure, Groq,
Together.

A file of lines is uploaded and named in a job; answers come back in one file and refusals in another, either of which
may be missing. `FORMS` holds the differences. Sources: the vendors' own SDKs and pages, as of 2026-11; Together tells
neither counts nor anything of ours but the name of the file, and by that its jobs are known again.
"""

import urllib.parse
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

import orjson

from r2.errors import BatchGoneError, BatchUnclearError
from r2.pool.batch.files import Uploads, begins_with, cancelled, id_of, row_of, upload_file
from r2.pool.batch.http import BatchHttp, address, count_of, quoted, seconds_of, skew_s
from r2.pool.batch.protocol import BatchJob, BatchLimits, BatchLine, BatchRow, BatchStatus, State
from r2.pool.client.dialects.dialect import parts_of
from r2.pool.client.dialects.text import text_of

MB: Final = 10**6
DAY_S: Final = 86_400.0
JOB_FIELD, RUN_FIELD = "r2_job", "r2_run"
"""Names of our ids in a job's metadata."""
_MOST_PAGES: Final = 1000

_STATES: Final[Mapping[str, State]] = {
    "validating": "submitted",
    "in_progress": "running",
    "finalizing": "running",
    "cancelling": "running",
    "completed": "ended",
    "failed": "failed",
    "expired": "expired",
    "cancelled": "cancelled",
}


@dataclass(frozen=True, slots=True)
class Form:
    """How one provider differs from OpenAI. `url` is what stands in each line and in the job; `is_bare`: a line is
    `custom_id` and `body` alone; `window`: the completion window to ask for, "" for a provider that is not asked for
    one; `names_file`: the name of the uploaded file is a field of the form."""

    limits: BatchLimits
    url: str = "/v1/chat/completions"
    purpose: str = "batch"
    upload_path: str = "/files"
    window: str = "24h"
    is_bare: bool = False
    names_file: bool = False
    pages: bool = True


FORMS: Mapping[str, Form] = {
    "openai": Form(BatchLimits(50_000, 200 * MB)),
    "azure": Form(BatchLimits(50_000, 200 * MB), url="/chat/completions"),
    "groq": Form(BatchLimits(50_000, 100 * MB)),
    "together": Form(
        BatchLimits(50_000, 100 * MB, max_queued_tokens=30 * 10**9, has_metadata=False),
        purpose="batch-api",
        upload_path="/files/upload",
        window="",
        is_bare=True,
        names_file=True,
        pages=False,
    ),
}
"""Dialect -> its form. Azure's pages name 50,000 and 100,000 lines: the smaller number holds."""


class OpenAIBatch:
    """One entry at one of these providers."""

    def __init__(self, http: BatchHttp, form: Form, model: str, *, is_azure: bool = False) -> None:
        """`model` is what the job asks for: lines that were written for another deployment of it are changed."""
        self._http = http
        self._form = form
        self._is_azure = is_azure
        self._model = model
        self._uploads = Uploads()
        self._begins = b'{"model":%b,' % orjson.dumps(model)

    @property
    def limits(self) -> BatchLimits:
        return self._form.limits

    async def submit(self, job: BatchJob, lines: Collection[BatchLine]) -> str:
        fields = {"purpose": self._form.purpose}
        if self._form.names_file:
            fields["file_name"] = f"{job.id}.jsonl"
        url = self._url(self._form.upload_path)
        asked: dict[str, Any] = {"endpoint": self._form.url}
        if self._form.window:
            asked["completion_window"] = self._form.window
        if self._form.limits.has_metadata:
            asked["metadata"] = {JOB_FIELD: job.id, RUN_FIELD: job.run_id[:512]}

        async def send() -> str:
            return await upload_file(self._http, url, job, lines, self._wrapped, fields)

        async with self._uploads.of(job, send) as file_id:
            body = orjson.dumps({"input_file_id": file_id, **asked})
            answer = await self._http.ask("POST", self._url("/batches"), "create", body=body)
        return id_of(_job_in(answer.document))

    async def status(self, provider_id: str) -> BatchStatus:
        return status_of(await self._get(provider_id))

    async def results(self, provider_id: str) -> AsyncGenerator[BatchRow, None]:
        told = await self._get(provider_id)
        ended_at = seconds_of(told.get("completed_at") or told.get("expired_at") or told.get("cancelled_at"))
        for field in ("output_file_id", "error_file_id"):
            file_id = told.get(field)
            if isinstance(file_id, str) and file_id:
                url = self._url(f"/files/{quoted(file_id)}/content")
                async with aclosing(self._http.lines(url, ended_at=ended_at)) as found:
                    async for line in found:
                        yield row_of(line)

    async def cancel(self, provider_id: str) -> None:
        url = self._url(f"/batches/{quoted(provider_id)}/cancel")
        await cancelled(self._http, url, lambda: self.status(provider_id))

    async def find(self, job: BatchJob, custom_ids: Collection[str]) -> str | None:
        if self._form.limits.has_metadata:
            async for told in self._listed(job.created_at - DAY_S):
                metadata = told.get("metadata")
                if isinstance(metadata, dict) and metadata.get(JOB_FIELD) == job.id:
                    return id_of(told)
            return None
        return await self._find_by_file(job)

    async def _find_by_file(self, job: BatchJob) -> str | None:
        """By the name of the uploaded file, which is our id."""
        async for told in self._listed(job.created_at - DAY_S):
            file_id = told.get("input_file_id")
            if not isinstance(file_id, str):
                continue
            try:
                answer = await self._http.ask("GET", self._url(f"/files/{quoted(file_id)}"), "job")
            except BatchGoneError:
                if await self._is_ours_by_rows(told, job):
                    return id_of(told)
                continue
            if text_of(answer.document.get("filename")) == f"{job.id}.jsonl":
                return id_of(told)
        return None

    async def _is_ours_by_rows(self, told: Mapping[str, Any], job: BatchJob) -> bool:
        """Of a job whose file is gone: by its first row."""
        status = status_of(told)
        if not status.is_over:
            raise BatchUnclearError(f"{status.provider_id} may be our job {job.id}: its file cannot be looked at yet")
        return await begins_with(self.results(status.provider_id), job)

    async def _listed(self, since: float) -> AsyncIterator[Mapping[str, Any]]:
        """Jobs, the newest first, back to `since` by our clock; as far back again as the two clocks are apart."""
        after = ""
        for _ in range(_MOST_PAGES):
            query = "?" + urllib.parse.urlencode({"limit": "100", **({"after": after} if after else {})})
            answer = await self._http.ask("GET", self._url("/batches" + (query if self._form.pages else "")), "job")
            document = answer.document
            shown = parts_of(document if isinstance(document, list) else document.get("data"))
            oldest = since - skew_s(answer.now)
            for told in shown:
                created_at = seconds_of(told.get("created_at"))
                if created_at is not None and created_at < oldest:
                    if self._form.pages:
                        return
                    continue
                yield told
            has_more = isinstance(document, dict) and document.get("has_more") is True
            if not has_more or not shown:
                return
            after = id_of(shown[-1])
        raise BatchUnclearError(f"the list of jobs has more than {_MOST_PAGES} pages")

    async def _get(self, provider_id: str) -> Mapping[str, Any]:
        answer = await self._http.ask("GET", self._url(f"/batches/{quoted(provider_id)}"), "job")
        told = _job_in(answer.document)
        id_of(told)
        return told

    def _url(self, path: str) -> str:
        base = self._http.base_url
        if self._is_azure and "api-version=" in base:
            head, _, query = base.partition("?")
            root = head.partition("/openai")[0].rstrip("/")
            return address(f"{root}/openai?{query}", path)
        return address(base, path)

    def _wrapped(self, line: BatchLine) -> bytes:
        body = line.body
        if not body.startswith(self._begins):
            body = orjson.dumps({**orjson.loads(body), "model": self._model})
        if self._form.is_bare:
            return b'{"custom_id":"%b","body":%b}\n' % (line.custom_id.encode(), body)
        method = b'"method":"POST","url":"%b"' % self._form.url.encode()
        return b'{"custom_id":"%b",%b,"body":%b}\n' % (line.custom_id.encode(), method, body)


def status_of(told: Mapping[str, Any]) -> BatchStatus:
    """A job as it is told. A state that nobody knows is taken for running: it is asked again."""
    state = _STATES.get(text_of(told.get("status")).lower(), "running")
    code, text = _why_failed(told)
    counts = told.get("request_counts")
    counts = counts if isinstance(counts, dict) else {}
    ends = [told.get(f"{name}_at") for name in ("completed", "failed", "expired", "cancelled")]
    return BatchStatus(
        id_of(told),
        state,
        n_rows=count_of(counts.get("total")) or None,
        n_done=count_of(counts.get("completed")),
        n_failed=count_of(counts.get("failed")),
        error_code="queue_full" if code == "token_limit_exceeded" else code,
        error_text=text,
        expected_end=seconds_of(told.get("expires_at") or told.get("job_deadline")),
        created_at=seconds_of(told.get("created_at")),
        started_at=seconds_of(told.get("in_progress_at")),
        ended_at=next((found for end in ends if (found := seconds_of(end)) is not None), None),
    )


def _why_failed(told: Mapping[str, Any]) -> tuple[str, str]:
    """(code of the first error, the first three in words)."""
    errors = told.get("errors")
    listed = parts_of(errors.get("data") if isinstance(errors, dict) else errors)
    if not listed:
        said = text_of(told.get("error"))
        return ("failed" if said else ""), said
    said = "; ".join(
        (f"line {error['line']}: " if isinstance(error.get("line"), int) else "") + text_of(error.get("message"))[:300]
        for error in listed[:3]
    )
    more = f" (and {len(listed) - 3} more)" if len(listed) > 3 else ""
    return text_of(listed[0].get("code")) or "failed", said + more


def _job_in(document: Any) -> Mapping[str, Any]:
    """The job of a reply; Together puts a new one into a frame."""
    inner = document.get("job") if isinstance(document, dict) else None
    found = inner if isinstance(inner, dict) else document
    if not isinstance(found, dict):
        raise BatchUnclearError(f"the provider's reply is no job: {str(document)[:200]}", may_exist=True)
    return found
