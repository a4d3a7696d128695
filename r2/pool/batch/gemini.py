"""Gemini's batches. Source: the vendor's SDK, google-genai 3.6.1 (2026-11), and its REST pages.

A file of lines is uploaded in two steps and named in a batch with a display name, which is our id; a batch is a
long-running operation. One that has expired has no results. States begin with BATCH_STATE_ on the wire and with
JOB_STATE_ in the SDK: what follows is what counts.
"""

import urllib.parse
from collections.abc import AsyncGenerator, Collection, Iterator, Mapping
from contextlib import aclosing
from typing import Any, Final

import orjson

from r2.errors import BatchLaneDownError, BatchUnclearError
from r2.pool.batch.files import Uploads, as_bytes, cancelled
from r2.pool.batch.http import BatchHttp, Content, address, count_of, in_chunks, seconds_of
from r2.pool.batch.openai import MB
from r2.pool.batch.protocol import BatchJob, BatchLimits, BatchLine, BatchRow, BatchStatus, State
from r2.pool.client.dialects.dialect import parts_of
from r2.pool.client.dialects.text import as_json, text_of

_MOST_PAGES: Final = 1000
_STATES: Final[Mapping[str, State]] = {
    "PENDING": "submitted",
    "QUEUED": "submitted",
    "RUNNING": "running",
    "SUCCEEDED": "ended",
    "PARTIALLY_SUCCEEDED": "ended",
    "FAILED": "failed",
    "CANCELLED": "cancelled",
    "EXPIRED": "expired",
}
_STATUSES: Final[Mapping[int, int]] = {
    1: 499,
    3: 400,
    4: 504,
    5: 404,
    7: 403,
    8: 429,
    9: 400,
    10: 409,
    11: 400,
    12: 501,
    13: 500,
    14: 503,
    16: 401,
}
"""Code of google.rpc.Status -> the HTTP status that it has live."""
_EXHAUSTED: Final = 8


class GeminiBatch:
    """One entry at Gemini."""

    def __init__(self, http: BatchHttp, served_model: str) -> None:
        self._http = http
        self._model = served_model.removeprefix("models/")
        self._uploads = Uploads()

    @property
    def limits(self) -> BatchLimits:
        """No page names a number of lines; 100,000 are ours."""
        return BatchLimits(100_000, 2000 * MB, window_s=48 * 3600.0)

    async def submit(self, job: BatchJob, lines: Collection[BatchLine]) -> str:
        url = self._url(f"/models/{urllib.parse.quote(self._model)}:batchGenerateContent")
        async with self._uploads.of(job, lambda: self._upload(job, lines)) as file_name:
            batch = {"displayName": f"{job.id} {job.run_id}"[:512], "inputConfig": {"fileName": file_name}}
            answer = await self._http.ask("POST", url, "create", body=orjson.dumps({"batch": batch}))
        return _name_of(answer.document)

    async def _upload(self, job: BatchJob, lines: Collection[BatchLine]) -> str:
        """Sends the lines; the file's name there. The second address is the upload's own and gets no key."""
        length = sum(len(_wrapped(line)) for line in lines)
        headers = {
            "X-Goog-Upload-Protocol": "resumable",
            "X-Goog-Upload-Command": "start",
            "X-Goog-Upload-Header-Content-Length": str(length),
            "X-Goog-Upload-Header-Content-Type": "application/jsonl",
        }
        body = orjson.dumps({"file": {"displayName": f"{job.id}.jsonl"}})
        started = await self._http.ask("POST", self._apart("upload", "/files"), "upload", body=body, headers=headers)
        target = started.headers.get("x-goog-upload-url", "")
        if urllib.parse.urlsplit(target).scheme not in ("http", "https"):
            raise BatchUnclearError(f"the upload got no address to send to, but {target[:100]!r}")

        def pieces() -> Iterator[bytes]:
            yield from map(_wrapped, lines)

        content = Content(length, in_chunks(pieces()), "application/jsonl")
        headers = {"X-Goog-Upload-Command": "upload, finalize", "X-Goog-Upload-Offset": "0"}
        sent = await self._http.ask("POST", target, "upload", body=content, headers=headers, has_key=False)
        stored = sent.document.get("file") if isinstance(sent.document, dict) else None
        name = stored.get("name") if isinstance(stored, dict) else None
        if not isinstance(name, str):
            raise BatchUnclearError(f"the upload's reply names no file: {str(sent.document)[:200]}")
        return name

    async def status(self, provider_id: str) -> BatchStatus:
        return _status_of(await self._get(provider_id))

    async def results(self, provider_id: str) -> AsyncGenerator[BatchRow, None]:
        told = await self._get(provider_id)
        output = _output_of(told)
        file_name = output.get("responsesFile")
        if isinstance(file_name, str) and file_name:
            url = self._apart("download", f"/{urllib.parse.quote(file_name)}:download?alt=media")
            async with aclosing(self._http.lines(url, ended_at=_status_of(told).ended_at)) as found:
                async for line in found:
                    yield _row_of_line(line)
        inline = output.get("inlinedResponses")
        for entry in parts_of(inline.get("inlinedResponses") if isinstance(inline, dict) else inline):
            metadata = entry.get("metadata")
            yield _row_of(metadata.get("key") if isinstance(metadata, dict) else None, entry)

    async def cancel(self, provider_id: str) -> None:
        url = self._url(f"/{urllib.parse.quote(provider_id)}:cancel")
        await cancelled(self._http, url, lambda: self.status(provider_id))

    async def find(self, job: BatchJob, custom_ids: Collection[str]) -> str | None:
        token = ""
        for _ in range(_MOST_PAGES):
            query = urllib.parse.urlencode({"pageSize": "100", **({"pageToken": token} if token else {})})
            answer = await self._http.ask("GET", self._url(f"/batches?{query}"), "job")
            document = answer.document if isinstance(answer.document, dict) else {}
            for told in parts_of(document.get("operations")):
                if text_of(_metadata_of(told).get("displayName")).split(" ")[0] == job.id:
                    return _name_of(told)
            token = text_of(document.get("nextPageToken"))
            if not token:
                return None
        raise BatchUnclearError(f"the list of batches has more than {_MOST_PAGES} pages")

    async def _get(self, provider_id: str) -> Mapping[str, Any]:
        answer = await self._http.ask("GET", self._url(f"/{urllib.parse.quote(provider_id)}"), "job")
        _name_of(answer.document)
        told: Mapping[str, Any] = answer.document
        return told

    def _url(self, path: str) -> str:
        parts = urllib.parse.urlsplit(self._http.base_url)
        base = parts.path.partition("/models/")[0].rstrip("/")
        return address(urllib.parse.urlunsplit((parts.scheme, parts.netloc, base, parts.query, "")), path)

    def _apart(self, service: str, path: str) -> str:
        """The address of uploads and downloads: the service stands before the version."""
        parts = urllib.parse.urlsplit(self._url(path))
        before, slash, after = parts.path.partition("/v1")
        if not slash:
            raise BatchLaneDownError(
                f"{self._http.base_url}: expected an address that ends in a version, as .../v1beta, for batches. Write "
                "it so in the pool file.",
                "misconfigured",
            )
        whole = f"{before}/{service}{slash}{after}"
        return urllib.parse.urlunsplit((parts.scheme, parts.netloc, whole, parts.query, ""))


def _wrapped(line: BatchLine) -> bytes:
    return b'{"key":"%b","request":%b}\n' % (line.custom_id.encode(), line.body)


def _name_of(told: object) -> str:
    name = told.get("name") if isinstance(told, dict) else None
    if not isinstance(name, str) or not name:
        raise BatchUnclearError(f"the provider's reply names no batch: {str(told)[:200]}", may_exist=True)
    return name


def _metadata_of(told: Mapping[str, Any]) -> Mapping[str, Any]:
    metadata = told.get("metadata")
    return metadata if isinstance(metadata, dict) else told


def _output_of(told: Mapping[str, Any]) -> Mapping[str, Any]:
    for found in (told.get("response"), _metadata_of(told).get("output")):
        if isinstance(found, dict) and ("responsesFile" in found or "inlinedResponses" in found):
            return found
    return {}


def _status_of(told: Mapping[str, Any]) -> BatchStatus:
    metadata = _metadata_of(told)
    state = _STATES.get(text_of(metadata.get("state")).rpartition("STATE_")[2], "running")
    stats = metadata.get("batchStats")
    stats = stats if isinstance(stats, dict) else {}
    error = told.get("error")
    code = error.get("code") if isinstance(error, dict) else None
    is_failed = state == "failed"
    return BatchStatus(
        _name_of(told),
        state,
        n_rows=count_of(stats.get("requestCount")) or None,
        n_done=count_of(stats.get("successfulRequestCount")) or (0 if stats else None),
        n_failed=count_of(stats.get("failedRequestCount")) or (0 if stats else None),
        error_code=("queue_full" if code == _EXHAUSTED else f"code {code}") if is_failed else "",
        error_text=text_of(error.get("message")) if is_failed and isinstance(error, dict) else "",
        created_at=seconds_of(metadata.get("createTime")),
        ended_at=seconds_of(metadata.get("endTime")),
    )


def _row_of_line(line: bytes) -> BatchRow:
    entry = as_json(line)
    return _row_of(entry.get("key"), entry) if isinstance(entry, dict) else BatchRow("", 0, line, "not readable")


def _row_of(key: object, entry: Mapping[str, Any]) -> BatchRow:
    name = text_of(key)
    if isinstance(entry.get("response"), dict):
        return BatchRow(name, 200, as_bytes(entry["response"]))
    error = entry.get("error")
    if not isinstance(error, dict):
        return BatchRow(name, 0, as_bytes(dict(entry)), "not run")
    code = error.get("code")
    status = _STATUSES.get(code, 500) if isinstance(code, int) else 500
    return BatchRow(name, status, as_bytes({"error": {**error, "code": status}}))
