"""Gemini's batches: a file of lines, or the requests themselves, behind a long-running operation.

Files are uploaded in two steps: one that names the size and gets an address, and one that sends the bytes there.
Results stand in a file in the order of the requests, or inline. A batch that has expired has no results at all, though
what was done of it is billed; a cancelled one has those that were done. Creating is refused with 429 where too many
prompt tokens of the model wait.
"""

import datetime
import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aiohttp import web

from tests.support.providers.batch import Batches, Handler, Job, Outcome, json_of, line
from tests.support.providers.sent import Refused, Sent

if TYPE_CHECKING:
    from tests.support.providers.gemini import Gemini, GeminiModel
    from tests.support.providers.imitation import Ask

MOST_INLINE = 20 * 2**20
MOST_FILE = 2 * 2**30
_CREATE = re.compile(r"/v1(?:beta)?/models/([^/:]+):batchGenerateContent")
_BATCH = re.compile(r"/v1(?:beta)?/(batches/[^/:]+)")
_CANCEL = re.compile(r"/v1(?:beta)?/(batches/[^/:]+):cancel")
_UPLOAD = re.compile(r"/upload/v1(?:beta)?/files")
_DOWNLOAD = re.compile(r"(?:/download)?/v1(?:beta)?/(files/[^/:]+):download")


class GeminiBatches(Batches):
    """`models/M:batchGenerateContent`, `batches`, and the file store."""

    server: "Gemini"
    shares_cached = False
    is_ordered = True

    def __init__(self, server: Any) -> None:
        super().__init__(server)
        self.terms.window_s = 2 * 86_400.0
        self.terms.retention_s = 2 * 86_400.0
        self._uploads: dict[str, tuple[str, int]] = {}

    def route(self, request: web.Request) -> Handler | None:
        path, method = request.path, request.method
        if method == "POST" and _UPLOAD.fullmatch(path):
            return self._send_piece if "upload_id" in request.query else self._start_upload
        if method == "POST" and _CREATE.fullmatch(path):
            return self._create
        if method == "GET" and re.fullmatch(r"/v1(?:beta)?/batches", path):
            return self._list
        if method == "GET" and _BATCH.fullmatch(path):
            return self._retrieve
        if method == "POST" and _CANCEL.fullmatch(path):
            return self._cancel
        return self._download if method == "GET" and _DOWNLOAD.fullmatch(path) else None

    def unavailable(self, status: int) -> Sent:
        if status == 429:
            return self.server.error(429, "RESOURCE_EXHAUSTED", "You exceeded your current quota.")
        word = "UNAVAILABLE" if status == 503 else "INTERNAL"
        return self.server.error(status, word, "The service is currently unavailable.")

    # Files

    async def _start_upload(self, request: web.Request) -> web.StreamResponse:
        self.server.check_key(request)
        headers = request.headers
        if headers.get("X-Goog-Upload-Protocol") != "resumable" or headers.get("X-Goog-Upload-Command") != "start":
            self.server.refuse("An upload begins with X-Goog-Upload-Protocol: resumable and the command start.")
        size = headers.get("X-Goog-Upload-Header-Content-Length", "")
        if not size.isdigit() or int(size) > MOST_FILE:
            self.server.refuse(f"X-Goog-Upload-Header-Content-Length: {size!r} is no size of at most 2 GiB.")
        asked = await json_of(request)
        fields = self.server.named(asked.get("file", {}) if isinstance(asked, dict) else {}, _FILE, "file")
        upload_id = self.new_id("up")
        self._uploads[upload_id] = (str(fields.get("displayName", "")), int(size))
        root = self.server.base_url.removesuffix(self.server.route)
        address = f"{root}{request.path}?upload_id={upload_id}&upload_protocol=resumable"
        headers_out = {"X-Goog-Upload-URL": address, "X-Goog-Upload-Status": "active"}
        return self.respond(Sent(200, {}, headers_out))

    async def _send_piece(self, request: web.Request) -> web.StreamResponse:
        upload = self._uploads.get(request.query["upload_id"])
        if upload is None:
            self.server.refuse("Upload has already been terminated.")
        name, size = upload
        commands = {word.strip() for word in request.headers.get("X-Goog-Upload-Command", "").split(",")}
        if commands != {"upload", "finalize"} or request.headers.get("X-Goog-Upload-Offset") != "0":
            self.server.refuse("This imitation takes a file in one piece: upload, finalize at offset 0.")
        stored = self.open_file("files/", name=name, purpose="upload")
        if not await self.receive(request.content.iter_any(), stored, request, expected=size):
            return web.Response()
        if stored.n_bytes != size:
            del self.files[stored.id]
            self.server.refuse(f"Upload has {stored.n_bytes} bytes, {size} were announced.")
        del self._uploads[request.query["upload_id"]]
        now = _time(self.now())
        root = self.server.base_url
        document = {
            "name": stored.id,
            "displayName": name,
            "mimeType": "application/jsonl",
            "sizeBytes": str(size),
            "createTime": now,
            "updateTime": now,
            "expirationTime": _time(self.now() + 48 * 3600),
            "sha256Hash": "aGFzaA==",
            "uri": f"{root}/{stored.id}",
            "state": "ACTIVE",
            "source": "UPLOADED",
        }
        return self.respond(Sent(200, {"file": document}, {"X-Goog-Upload-Status": "final"}))

    async def _download(self, request: web.Request) -> web.StreamResponse:
        self.server.check_key(request)
        found = _DOWNLOAD.fullmatch(request.path)
        assert found is not None
        stored = self.files.get(found[1])
        is_kept = stored is not None and self.now() < stored.created_at + self.terms.retention_s
        if stored is None or stored.purpose == "upload" or not is_kept or self.takes_fault("late_file"):
            said = f"You do not have permission to access the File {found[1]} or it may not exist."
            raise Refused(self.server.error(403, "PERMISSION_DENIED", said))
        if request.query.get("alt") != "media":
            self.server.refuse("Only alt=media is supported.")
        return await self.send_file(request, stored)

    # Batches

    async def _create(self, request: web.Request) -> web.StreamResponse:
        self.server.check_key(request)
        found = _CREATE.fullmatch(request.path)
        assert found is not None
        model = self.server.models.get(found[1])
        if model is None:
            raise Refused(self.server.error(404, "NOT_FOUND", f"models/{found[1]} is not found for API version v1beta"))
        asked = await json_of(request)
        if not isinstance(asked, dict):
            raise Refused(self.server.not_json())
        self.fail_create()
        batch = self.server.named(self.server.named(asked, frozenset({"batch"}), "").get("batch") or {}, _NEW, "batch")
        if not isinstance(batch.get("displayName"), str):
            self.server.refuse("* BatchGenerateContentRequest.batch.display_name: display_name must be specified.")
        source = self.server.named(batch.get("inputConfig") or {}, frozenset({"fileName", "requests"}), "input_config")
        rows = self._inline(source) if "requests" in source else self._from_file(source)
        if "requests" in source and (request.content_length or 0) > MOST_INLINE:
            self.server.refuse("Request payload size exceeds the limit: 20971520 bytes.")
        job = self.create("batches/", {**batch, "inputConfig": source}, rows, model=model.name)
        job.n_tokens = sum(len(raw) for _, raw in rows) // 4
        if self.enqueued(model.name) > self.terms.enqueued_tokens:
            del self.jobs[job.id]
            said = "You exceeded your current quota: too many tokens are enqueued for batches of this model."
            raise Refused(self.server.error(429, "RESOURCE_EXHAUSTED", said))
        if self.reset_after_create(request):
            return web.Response()
        return self.respond(Sent(200, self.document(job)))

    def _inline(self, source: Mapping[str, Any]) -> list[tuple[str, bytes]]:
        several = self.server.named(source["requests"], frozenset({"requests"}), "requests").get("requests")
        if not isinstance(several, list) or not several:
            self.server.refuse("* requests: requests must not be empty.")
        rows = []
        for place, each in enumerate(several):
            one = self.server.named(each, frozenset({"request", "metadata"}), f"requests[{place}]")
            key = (one.get("metadata") or {}).get("key", "")
            rows.append((str(key), json.dumps(one.get("request")).encode()))
        return rows

    def _from_file(self, source: Mapping[str, Any]) -> list[tuple[str, bytes]]:
        stored = self.files.get(str(source.get("fileName")))
        if stored is None or stored.purpose != "upload":
            said = f"You do not have permission to access the File {source.get('fileName')} or it may not exist."
            raise Refused(self.server.error(403, "PERMISSION_DENIED", said))
        return [("", raw) for raw in stored.path.read_bytes().splitlines()]

    def validate(self, job: Job) -> None:
        """A file is read when the job begins; one that holds a line that is none fails it."""
        if "requests" in job.request["inputConfig"]:
            return
        rows = []
        for place, (_, raw) in enumerate(job.rows, 1):
            try:
                entry = json.loads(raw)
            except ValueError:
                entry = None
            is_line = isinstance(entry, dict) and set(entry) == {"key", "request"} and isinstance(entry["key"], str)
            if not is_line or not isinstance(entry["request"], dict):
                said = f"The input file is not in the expected format: line {place}."
                job.errors = [{"code": 3, "message": said}]
                return
            rows.append((entry["key"], json.dumps(entry["request"]).encode()))
        if not rows:
            job.errors = [{"code": 3, "message": "The input file holds no requests."}]
        job.rows = rows

    def own_failure(self) -> dict[str, Any]:
        return {"code": 13, "message": "Internal error."}

    def ask(self, job: Job, body: Any) -> "Ask":
        model: GeminiModel = self.server.models[job.model]  # type: ignore[assignment]
        named = body.get("model")
        if named is not None and named != f"models/{job.model}":
            self.server.refuse(f"The request's model {named} is not the batch's models/{job.model}.")
        return self.server.read_content(body, model)

    def write_results(self, job: Job, outcomes: Sequence[Outcome]) -> None:
        if job.ending == "expired" or "requests" in job.request["inputConfig"]:
            return
        lines = [line({"key": o.custom_id} | _result(o)) for o in outcomes if o.kind in ("done", "refused")]
        if lines:
            is_cut = "cut" in job.faults
            job.files["results"] = self.store("files/batch-", lines, name="", purpose="results", is_cut=is_cut)

    def _job(self, name: str) -> Job:
        job = self.jobs.get(name)
        if job is None:
            raise Refused(self.server.error(404, "NOT_FOUND", f"Requested entity was not found: {name}"))
        return self.look(job)

    async def _retrieve(self, request: web.Request) -> web.StreamResponse:
        self.server.check_key(request)
        if self.takes_fault("poll_5xx"):
            raise Refused(self.unavailable(503))
        found = _BATCH.fullmatch(request.path)
        assert found is not None
        return self.respond(Sent(200, self.document(self._job(found[1]))))

    async def _cancel(self, request: web.Request) -> web.StreamResponse:
        self.server.check_key(request)
        found = _CANCEL.fullmatch(request.path)
        assert found is not None
        job = self._job(found[1])
        if job.is_over:
            self.server.refuse("The batch is over and cannot be cancelled.")
        job.cancel_at = job.cancel_at or self.now()
        return self.respond(Sent(200, {}))

    async def _list(self, request: web.Request) -> web.StreamResponse:
        """The newest first; `pageSize` (at most 100) and `pageToken`."""
        self.server.check_key(request)
        if self.takes_fault("list_5xx"):
            raise Refused(self.unavailable(503))
        size, start = int(request.query.get("pageSize", "50")), int(request.query.get("pageToken", "0"))
        jobs = [self.look(job) for job in reversed(self.jobs.values())]
        size = min(size, 100)
        document: dict[str, Any] = {}
        if shown := [self.document(job) for job in jobs[start : start + size]]:
            document["operations"] = shown
        if len(jobs) > start + size:
            document["nextPageToken"] = str(start + size)
        return self.respond(Sent(200, document))

    def _state(self, job: Job) -> str:
        match job.ending:
            case "completed":
                is_part = job.n("refused") and job.n("done")
                return "BATCH_STATE_PARTIALLY_SUCCEEDED" if is_part else "BATCH_STATE_SUCCEEDED"
            case None:
                return "BATCH_STATE_PENDING" if job.state == "waiting" else "BATCH_STATE_RUNNING"
        return f"BATCH_STATE_{job.ending.upper()}"

    def document(self, job: Job) -> dict[str, Any]:
        """The operation behind a batch. Counts are texts, as all 64-bit numbers are there."""
        n_good, n_bad, n_all = job.n("done"), job.n("refused"), len(job.rows)
        stats = {"requestCount": str(n_all)}
        for name, n in (("successful", n_good), ("failed", n_bad), ("pending", n_all - n_good - n_bad)):
            if n:
                stats[f"{name}RequestCount" if name != "pending" else "pendingRequestCount"] = str(n)
        metadata: dict[str, Any] = {
            "@type": "type.googleapis.com/google.ai.generativelanguage.v1main.GenerateContentBatch",
            "name": job.id,
            "model": f"models/{job.model}",
            "displayName": job.request["displayName"],
            "createTime": _time(job.created_at),
            "updateTime": _time(job.ended_at or job.started_at or job.created_at),
            "batchStats": stats,
            "state": self._state(job),
        }
        if job.ended_at is not None:
            metadata["endTime"] = _time(job.ended_at)
        document: dict[str, Any] = {"name": job.id, "metadata": metadata}
        output = self._output(job)
        if output is not None:
            metadata["output"] = output
            kind = "type.googleapis.com/google.ai.generativelanguage.v1main.GenerateContentBatchOutput"
            document["response"] = {"@type": kind, **output}
        if job.is_over:
            document["done"] = True
        if job.ending == "failed":
            document["error"] = job.errors[0]
        elif job.ending == "cancelled":
            document["error"] = {"code": 1, "message": "The operation was cancelled."}
        return document

    def _output(self, job: Job) -> dict[str, Any] | None:
        if not job.is_over or job.ending in ("failed", "expired"):
            return None
        if "results" in job.files:
            return {"responsesFile": job.files["results"]}
        if "requests" not in job.request["inputConfig"]:
            return None
        ran = [outcome for outcome in job.outcomes if outcome.kind in ("done", "refused")]
        return {
            "inlinedResponses": {"inlinedResponses": [{"metadata": {"key": o.custom_id}} | _result(o) for o in ran]}
        }


_FILE = frozenset({"displayName", "mimeType", "sizeBytes", "name"})
_NEW = frozenset({"displayName", "inputConfig", "priority", "model"})


def _result(outcome: Outcome) -> dict[str, Any]:
    if outcome.kind == "done":
        return {"response": outcome.document}
    error = outcome.document.get("error", {}) if isinstance(outcome.document, dict) else {}
    status = {"code": _GRPC.get(outcome.status, 2), "message": error.get("message", "")}
    return {"error": status | ({"details": error["details"]} if "details" in error else {})}


_GRPC = {400: 3, 401: 16, 402: 8, 403: 7, 404: 5, 429: 8, 500: 13, 503: 14}
"""HTTP status -> the code of google.rpc.Status."""


def _time(moment: float) -> str:
    return datetime.datetime.fromtimestamp(moment, datetime.UTC).isoformat().replace("+00:00", "Z")
