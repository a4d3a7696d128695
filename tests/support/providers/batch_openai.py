"""OpenAI's files and batches, and those of the providers that have the same form with habits of their own.

A file of lines is uploaded and named in a job. The whole file is read before anything runs: one bad line and the job
has failed, with the lines' numbers in `errors`. What a line's body asks for is judged when it runs; refusals stand in
the error file, answers in the output file, and either is missing where it would be empty. Where too many prompt tokens
wait, the job is created all the same, and has failed when it is looked at.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from aiohttp import BodyPartReader, web

from tests.support.providers.batch import Batches, Handler, Job, Outcome, StoredFile, json_of, line
from tests.support.providers.sent import Refused, Sent

if TYPE_CHECKING:
    from tests.support.providers.imitation import Ask
    from tests.support.providers.openai import OpenAI

MIB = 2**20


@dataclass(frozen=True, slots=True)
class Habits:
    """How a provider's jobs differ. `windows`: the completion windows it takes; () for one that is not asked for it.
    `is_bare`: a line is `custom_id` and `body` alone. `keeps_counts`, `keeps_metadata`: what a job tells of itself."""

    purpose: str = "batch"
    upload_path: str = "/files"
    most_bytes: int = 200 * MIB
    most_lines: int = 50_000
    longest_id: int | None = None
    windows: tuple[str, ...] = ("24h",)
    is_bare: bool = False
    is_upper: bool = False
    keeps_counts: bool = True
    keeps_metadata: bool = True
    wraps_created: bool = False
    pages: bool = True
    expires: bool = True


class OpenAIBatches(Batches):
    """`/files` and `/batches`."""

    server: "OpenAI"
    habits = Habits()

    def __init__(self, server: Any) -> None:
        super().__init__(server)
        if not self.habits.expires:
            self.terms.window_s = None

    @property
    def endpoint(self) -> str:
        """What a line's `url` has to be."""
        return "/v1/chat/completions"

    def path_of(self, request: web.Request) -> str:
        """The path behind the base URL; "" for one that is elsewhere."""
        is_here = request.path.startswith(self.server.route)
        return request.path.removeprefix(self.server.route) if is_here else ""

    def route(self, request: web.Request) -> Handler | None:
        path, method = self.path_of(request), request.method
        if path == self.habits.upload_path and method == "POST":
            return self._upload
        if path == "/batches":
            return self._create if method == "POST" else self._list if method == "GET" else None
        if method == "GET" and re.fullmatch(r"/files/[^/]+/content", path):
            return self._content
        if method == "GET" and re.fullmatch(r"/files/[^/]+", path):
            return self._describe
        if method == "GET" and re.fullmatch(r"/batches/[^/]+", path):
            return self._retrieve
        return self._cancel if method == "POST" and re.fullmatch(r"/batches/[^/]+/cancel", path) else None

    def unavailable(self, status: int) -> Sent:
        if status == 429:
            said = "Rate limit reached for batches. Please try again in 1s."
            return self.server.error(429, said, kind="requests", code="rate_limit_exceeded")
        return self.server.error(status, "The server had an error. Sorry about that!", kind="server_error")

    def _refuse(self, message: str, param: str | None = None, code: str | None = None, status: int = 400) -> NoReturn:
        raise Refused(self.server.error(status, message, param=param, code=code))

    # Files

    async def _upload(self, request: web.Request) -> web.StreamResponse:
        self.server.check_key(request)
        if request.content_type != "multipart/form-data":
            self._refuse("Invalid Content-Type: expected multipart/form-data with a file and a purpose.")
        habits, purpose, stored, name = self.habits, None, None, None
        async for part in await request.multipart():
            if not isinstance(part, BodyPartReader):
                self._refuse("A part of the form holds parts itself.")
            match part.name:
                case "purpose":
                    purpose = await part.text()
                case "file_name" if habits.is_bare:
                    name = await part.text()
                case "file_type" if habits.is_bare:
                    await part.text()
                case "expires_after[anchor]" | "expires_after[seconds]":
                    await part.text()
                case "file":
                    name = name or part.filename
                    stored = self.open_file("file-", name=name or "", purpose="")
                    expected = request.content_length or 0
                    if not await self.receive(_pieces(part), stored, request, expected=expected):
                        return web.Response()
                case _:
                    self._refuse(f"Unrecognized request argument supplied: {part.name}")
        if stored is None:
            self._refuse("'file' is a required property", "file")
        if purpose != habits.purpose:
            self._refuse(f"'{purpose}' is not one of ['{habits.purpose}']", "purpose", "invalid_value")
        if not (name or "").endswith(".jsonl"):
            self._refuse(f"Invalid file format for Batch API. Must be .jsonl, got {name!r}", "file")
        if stored.n_bytes > habits.most_bytes:
            self._refuse(f"File is too large: {stored.n_bytes} bytes. The most is {habits.most_bytes}.", "file")
        stored.purpose = purpose
        return self.respond(Sent(200, self.file_document(stored)))

    def file_document(self, stored: StoredFile) -> dict[str, Any]:
        return {
            "id": stored.id,
            "object": "file",
            "bytes": stored.n_bytes,
            "created_at": int(stored.created_at),
            "filename": stored.name,
            "purpose": stored.purpose,
            "status": "processed",
            "expires_at": int(stored.created_at + 30 * 86_400),
            "status_details": None,
        }

    async def _content(self, request: web.Request) -> web.StreamResponse:
        self.server.check_key(request)
        name = request.path.split("/")[-2]
        stored = self.files.get(name)
        is_kept = stored is not None and self.now() < stored.created_at + self.terms.retention_s
        if stored is None or not is_kept or self.takes_fault("late_file"):
            self._refuse(f"No such File object: {name}", "id", status=404)
        return await self.send_file(request, stored)

    async def _describe(self, request: web.Request) -> web.StreamResponse:
        self.server.check_key(request)
        stored = self.files.get(request.path.split("/")[-1])
        if stored is None:
            self._refuse("No such File object.", "id", status=404)
        return self.respond(Sent(200, self.file_document(stored)))

    # Jobs

    async def _create(self, request: web.Request) -> web.StreamResponse:
        self.server.check_key(request)
        asked = await json_of(request)
        if not isinstance(asked, dict):
            raise Refused(self.server.not_json())
        self.fail_create()
        stored = self._check_create(asked)
        rows = stored.path.read_bytes().splitlines()
        job = self.create("batch_", asked, [("", raw) for raw in rows])
        job.n_tokens = 0
        if self.reset_after_create(request):
            return web.Response()
        document = self.document(job)
        return self.respond(Sent(200, {"job": document, "warning": None} if self.habits.wraps_created else document))

    def _check_create(self, asked: Mapping[str, Any]) -> StoredFile:
        habits = self.habits
        known = {"input_file_id", "endpoint", "completion_window", "output_expires_after"}
        known |= {"metadata"} if habits.keeps_metadata else {"priority", "model_id"}
        for name in sorted(set(asked) - known):
            self._refuse(f"Unknown parameter: '{name}'.", name, "unknown_parameter")
        for name in ("input_file_id", "endpoint", *(["completion_window"] if habits.windows else [])):
            if not isinstance(asked.get(name), str):
                self._refuse(f"Missing required parameter: '{name}'.", name, "missing_required_parameter")
        if asked["endpoint"] != self.endpoint:
            self._refuse(f"Invalid value: '{asked['endpoint']}'.", "endpoint", "invalid_value")
        if habits.windows and asked["completion_window"] not in habits.windows:
            self._refuse(f"Invalid value: '{asked['completion_window']}'.", "completion_window", "invalid_value")
        metadata = asked.get("metadata") or {}
        is_small = isinstance(metadata, dict) and len(metadata) <= 16
        if not is_small or any(not isinstance(v, str) or len(k) > 64 or len(v) > 512 for k, v in metadata.items()):
            self._refuse("Invalid 'metadata': at most 16 pairs of texts of 64 and 512 characters.", "metadata")
        stored = self.files.get(asked["input_file_id"])
        if stored is None or stored.purpose != habits.purpose:
            self._refuse(f"Invalid input_file_id: {asked['input_file_id']}", "input_file_id", status=404)
        return stored

    def validate(self, job: Job) -> None:
        """Reads every line; the model and the prompt tokens of the job are known from here on."""
        habits, seen, models = self.habits, set(), set()
        rows: list[tuple[str, bytes]] = []

        def wrong(place: int, code: str, message: str, param: str | None = None) -> None:
            job.errors.append({"code": code, "line": place, "message": message, "param": param})

        if not job.rows:
            job.errors.append({"code": "empty_file", "line": None, "message": "The file is empty.", "param": None})
        if len(job.rows) > habits.most_lines:
            said = f"The file has {len(job.rows)} requests; the most is {habits.most_lines}."
            job.errors.append({"code": "too_many_tasks", "line": None, "message": said, "param": None})
            return
        for place, (_, raw) in enumerate(job.rows, 1):
            try:
                entry = json.loads(raw)
            except ValueError:
                entry = None
            if not isinstance(entry, dict):
                wrong(place, "invalid_json_line", "This line is not parseable as valid JSON.")
                continue
            custom_id, body = entry.get("custom_id"), entry.get("body")
            needed = ("custom_id", "body") if habits.is_bare else ("custom_id", "method", "url", "body")
            for name in needed:
                if name not in entry:
                    wrong(place, "missing_required_parameter", f"Missing required parameter: '{name}'.", name)
            for name in sorted(set(entry) - set(needed)):
                wrong(place, "unknown_parameter", f"Unknown parameter: '{name}'.", name)
            if not isinstance(custom_id, str) or not custom_id or len(custom_id) > (habits.longest_id or 512):
                wrong(place, "invalid_custom_id", f"Invalid custom_id: {custom_id!r}.", "custom_id")
            elif custom_id in seen:
                wrong(place, "duplicate_custom_id", f"The custom_id {custom_id!r} stands twice.", "custom_id")
            seen.add(custom_id)
            if not habits.is_bare and (entry.get("method"), entry.get("url")) != ("POST", self.endpoint):
                wrong(place, "url_mismatch", f"The URL provided for this request must be {self.endpoint}.", "url")
            if not isinstance(body, dict):
                wrong(place, "invalid_request", "The body must be an object.", "body")
                continue
            models.add(body.get("model"))
            rows.append((str(custom_id), json.dumps(body).encode()))
            job.n_tokens += len(str(body.get("messages"))) // 4
        if len(models) > 1:
            wrong(len(job.rows), "mismatched_model", "All requests of a file must be for the same model.", "model")
        elif models and (code := self.refused_model(next(iter(models)))) is not None:
            wrong(1, *code, "model")
        if not job.errors:
            job.rows, job.model = rows, str(next(iter(models)))
            self._check_queue(job)

    def refused_model(self, model: Any) -> tuple[str, str] | None:
        """(code, message) for a model that has no batches."""
        if model in self.server.models:
            return None
        return "model_not_found", f"The provided model '{model}' is not supported by the Batch API."

    def _check_queue(self, job: Job) -> None:
        if self.enqueued(job.model) > self.terms.enqueued_tokens:
            said = (
                f"Enqueued token limit reached for {job.model} in organization org-imitation. Limit: "
                f"{self.terms.enqueued_tokens:,} enqueued tokens. Please try again once some in_progress batches have "
                "been completed."
            )
            job.errors.append({"code": "token_limit_exceeded", "line": None, "message": said, "param": None})

    def ask(self, job: Job, body: Any) -> "Ask":
        return self.server.read_body(body, self.server.model_named(body))

    def write_results(self, job: Job, outcomes: Sequence[Outcome]) -> None:
        output = [self._line(outcome) for outcome in outcomes if outcome.kind == "done"]
        errors = [self._line(outcome) for outcome in outcomes if outcome.kind != "done"]
        is_cut = "cut" in job.faults
        for kind, lines in (("output", output), ("error", errors)):
            if lines:
                name = f"{job.id}_{kind}.jsonl"
                job.files[kind] = self.store("file-", lines, name=name, purpose="batch_output", is_cut=is_cut)

    def _line(self, outcome: Outcome) -> bytes:
        response = error = None
        if outcome.kind in ("done", "refused"):
            request_id = self.new_id("req_", digits=16)
            response = {"status_code": outcome.status, "request_id": request_id, "body": outcome.document}
        else:
            code = f"batch_{outcome.kind}"
            error = {"code": code, "message": f"This request could not be executed: the batch {outcome.kind}."}
        made = {"id": self.new_id("batch_req_"), "custom_id": outcome.custom_id, "response": response, "error": error}
        return line(made)

    async def _retrieve(self, request: web.Request) -> web.StreamResponse:
        self.server.check_key(request)
        if self.takes_fault("poll_5xx"):
            raise Refused(self.unavailable(503))
        return self.respond(Sent(200, self.document(self.look(self._job(request.path.split("/")[-1])))))

    async def _cancel(self, request: web.Request) -> web.StreamResponse:
        self.server.check_key(request)
        job = self.look(self._job(request.path.split("/")[-2]))
        if job.is_over:
            self._refuse(f"Cannot cancel a batch with status '{self.status(job)}'.", status=409)
        job.cancel_at = job.cancel_at or self.now()
        return self.respond(Sent(200, self.document(job)))

    def _job(self, name: str) -> Job:
        job = self.jobs.get(name)
        if job is None:
            self._refuse(f"No batch found with id '{name}'.", status=404)
        return job

    async def _list(self, request: web.Request) -> web.StreamResponse:
        """The newest first; `limit` (20, at most 100) and `after`."""
        self.server.check_key(request)
        if self.takes_fault("list_5xx"):
            raise Refused(self.unavailable(503))
        jobs = [self.look(job) for job in reversed(self.jobs.values())]
        if not self.habits.pages:
            return self.respond(Sent(200, [self.document(job) for job in jobs]))
        limit = int(request.query.get("limit", "20"))
        if not 1 <= limit <= 100:
            self._refuse(f"Invalid 'limit': {limit}. Expected a value from 1 to 100.", "limit")
        names = [job.id for job in jobs]
        if (after := request.query.get("after")) is not None:
            if after not in names:
                self._refuse(f"No batch found with id '{after}'.", "after", status=404)
            jobs = jobs[names.index(after) + 1 :]
        page = jobs[:limit]
        document = {
            "object": "list",
            "data": [self.document(job) for job in page],
            "first_id": page[0].id if page else None,
            "last_id": page[-1].id if page else None,
            "has_more": len(jobs) > limit,
        }
        return self.respond(Sent(200, document))

    def status(self, job: Job) -> str:
        """The provider's word for how the job is doing."""
        if job.ending is not None:
            word: str = job.ending
        elif job.cancel_at is not None and self.now() >= job.cancel_at:
            word = "cancelling"
        else:
            word = "validating" if job.state == "waiting" else "in_progress"
        return word.upper() if self.habits.is_upper else word

    def document(self, job: Job) -> dict[str, Any]:
        """A job as it is told."""

        def at(moment: float | None, *endings: str) -> int | None:
            return None if moment is None or (endings and job.ending not in endings) else int(moment)

        document: dict[str, Any] = {
            "id": job.id,
            "object": "batch",
            "endpoint": job.request["endpoint"],
            "model": job.model or None,
            "errors": {"object": "list", "data": job.errors} if job.errors else None,
            "input_file_id": job.request["input_file_id"],
            "completion_window": job.request.get("completion_window", "24h"),
            "status": self.status(job),
            "output_file_id": job.files.get("output"),
            "error_file_id": job.files.get("error"),
            "created_at": int(job.created_at),
            "in_progress_at": at(job.started_at),
            "expires_at": at(job.expires_at),
            "finalizing_at": at(job.ended_at, "completed"),
            "completed_at": at(job.ended_at, "completed"),
            "failed_at": at(job.ended_at, "failed"),
            "expired_at": at(job.ended_at, "expired"),
            "cancelling_at": at(job.cancel_at),
            "cancelled_at": at(job.ended_at, "cancelled"),
            "request_counts": {
                "total": len(job.rows) if job.state != "waiting" and not job.errors else 0,
                "completed": job.n("done"),
                "failed": job.n("refused"),
            },
            "metadata": job.request.get("metadata"),
        }
        return document


async def _pieces(part: BodyPartReader) -> Any:
    while piece := await part.read_chunk(64 * 1024):
        yield piece
