"""Mistral: every field that it does not know is refused, the seed is called `random_seed`, and batches are jobs of its
own form.

A job names its files and its model; a line is `custom_id` and `body` without a model. States: QUEUED, RUNNING, SUCCESS,
FAILED, TIMEOUT_EXCEEDED, CANCELLATION_REQUESTED, CANCELLED.
"""

import datetime
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from aiohttp import web

from tests.support.providers import openai
from tests.support.providers.batch import Handler, Job, StoredFile, json_of
from tests.support.providers.batch_openai import MIB, Habits, OpenAIBatches
from tests.support.providers.bill import PriceList, rates
from tests.support.providers.chat import ChatModel
from tests.support.providers.imitation import Ask, Model
from tests.support.providers.sent import Refused, Sent

SMALL = ChatModel(
    "mistral-small-latest",
    "mistral-small-2603",
    PriceList(rates("0.1", "0.3", cached="0.01")),
    context_tokens=131_072,
    max_output_tokens=32_768,
)
_FIELDS = frozenset(
    {
        "model",
        "messages",
        "temperature",
        "top_p",
        "max_tokens",
        "stop",
        "random_seed",
        "response_format",
        "presence_penalty",
        "frequency_penalty",
        "n",
        "stream",
        "safe_prompt",
        "metadata",
        "prompt_mode",
        "reasoning_effort",
        "prompt_cache_key",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "prediction",
    }
)
_WORDS = {"completed": "SUCCESS", "failed": "FAILED", "expired": "TIMEOUT_EXCEEDED", "cancelled": "CANCELLED"}


class MistralBatches(OpenAIBatches):
    """`/files` and `/batch/jobs`."""

    habits = Habits(most_bytes=512 * MIB, most_lines=100_000, is_bare=True)

    def route(self, request: web.Request) -> Handler | None:
        path, method = request.path.removeprefix(self.server.route), request.method
        if path.startswith("/files"):
            return super().route(request)
        if path == "/batch/jobs":
            return self._create if method == "POST" else self._list if method == "GET" else None
        if method == "GET" and re.fullmatch(r"/batch/jobs/[^/]+", path):
            return self._retrieve
        return self._cancel if method == "POST" and re.fullmatch(r"/batch/jobs/[^/]+/cancel", path) else None

    async def _create(self, request: web.Request) -> web.StreamResponse:
        self.server.check_key(request)
        asked = await json_of(request)
        if not isinstance(asked, dict):
            raise Refused(self.server.not_json())
        known = {"input_files", "model", "endpoint", "timeout_hours", "metadata", "agent_id", "requests"}
        for name in sorted(set(asked) - known):
            self.server.extra_forbidden(name)  # type: ignore[attr-defined]
        self.fail_create()
        if asked.get("endpoint") != self.endpoint or not isinstance(asked.get("model"), str):
            self._refuse("A job needs an endpoint and a model.", "endpoint", status=422)
        if asked["model"] not in self.server.models:
            self._refuse(f"Invalid model: {asked['model']}", "model", "1500")
        hours = asked.get("timeout_hours", 24)
        if not isinstance(hours, int) or not 1 <= hours <= 168:
            self._refuse("timeout_hours: Input should be between 1 and 168", "timeout_hours", status=422)
        files = [self.files.get(name) for name in asked.get("input_files") or []]
        inputs = [stored for stored in files if stored is not None and stored.purpose == "batch"]
        if not inputs or len(inputs) != len(files):
            self._refuse("Some of the input files do not exist.", "input_files", status=404)
        rows = [("", raw) for stored in inputs for raw in stored.path.read_bytes().splitlines()]
        job = self.create("", asked, rows, model=asked["model"])
        job.expires_at = job.created_at + hours * 3600
        if self.reset_after_create(request):
            return web.Response()
        return self.respond(Sent(200, self.document(job)))

    def validate(self, job: Job) -> None:
        seen: set[str] = set()
        rows: list[tuple[str, bytes]] = []
        for _, raw in job.rows:
            try:
                entry = json.loads(raw)
            except ValueError:
                entry = None
            is_line = isinstance(entry, dict) and set(entry) <= {"custom_id", "body"}
            body = entry.get("body") if is_line else None
            custom_id = entry.get("custom_id") if is_line else None
            if not isinstance(body, dict) or not isinstance(custom_id, str) or custom_id in seen:
                job.errors.append({"message": f"Invalid line {len(rows) + 1}.", "count": 1})
                return
            seen.add(custom_id)
            rows.append((custom_id, json.dumps(body).encode()))
            job.n_tokens += len(str(body.get("messages"))) // 4
        if not rows or len(rows) > self.habits.most_lines:
            job.errors.append({"message": f"A job takes 1 to {self.habits.most_lines} requests.", "count": 1})
        job.rows = rows

    def own_failure(self) -> dict[str, Any]:
        return {"message": "Internal error", "count": 1}

    def ask(self, job: Job, body: Any) -> Ask:
        given = {"model": job.model, **body}
        return self.server.read_body(given, self.server.model_named(given))

    async def _list(self, request: web.Request) -> web.StreamResponse:
        """Pages of 100, the newest first."""
        self.server.check_key(request)
        if self.takes_fault("list_5xx"):
            raise Refused(self.unavailable(503))
        page, size = int(request.query.get("page", "0")), int(request.query.get("page_size", "100"))
        since = datetime.datetime.fromisoformat(request.query.get("created_after", "1970-01-01T00:00:00+00:00"))
        jobs = [self.look(job) for job in reversed(self.jobs.values()) if job.created_at > since.timestamp()]
        shown = [self.document(job) for job in jobs[page * size : (page + 1) * size]]
        return self.respond(Sent(200, {"object": "list", "data": shown, "total": len(jobs)}))

    def status(self, job: Job) -> str:
        if job.ending is not None:
            return _WORDS[job.ending]
        if job.cancel_at is not None and self.now() >= job.cancel_at:
            return "CANCELLATION_REQUESTED"
        return "QUEUED" if job.state == "waiting" else "RUNNING"

    def document(self, job: Job) -> dict[str, Any]:
        n_good, n_bad = job.n("done"), job.n("refused")
        return {
            "id": job.id,
            "object": "batch",
            "input_files": job.request["input_files"],
            "metadata": job.request.get("metadata") or {},
            "endpoint": job.request["endpoint"],
            "model": job.model,
            "agent_id": None,
            "output_file": job.files.get("output"),
            "error_file": job.files.get("error"),
            "errors": job.errors,
            "status": self.status(job),
            "created_at": int(job.created_at),
            "started_at": None if job.started_at is None else int(job.started_at),
            "completed_at": None if job.ended_at is None else int(job.ended_at),
            "total_requests": len(job.rows),
            "completed_requests": n_good + n_bad,
            "succeeded_requests": n_good,
            "failed_requests": n_bad,
        }

    def file_document(self, stored: StoredFile) -> dict[str, Any]:
        document = super().file_document(stored)
        return {**document, "sample_type": "batch_request", "source": "upload", "num_lines": None}


class Mistral(openai.OpenAI):
    """`api.mistral.ai`."""

    name = "mistral"
    batch_form = MistralBatches

    @classmethod
    def default_models(cls) -> Sequence[Model]:
        return (SMALL,)

    def extra_forbidden(self, name: str) -> NoReturn:
        """A field that it does not know."""
        detail = {"type": "extra_forbidden", "loc": ["body", name], "msg": "Extra inputs are not permitted"}
        message = {"detail": [detail]}
        error = {"object": "error", "message": message, "type": "invalid_request_error", "param": None, "code": None}
        raise Refused(Sent(422, error))

    def read_body(self, body: Mapping[str, Any], model: ChatModel) -> Ask:
        for name in sorted(set(body) - _FIELDS):
            self.extra_forbidden(name)
        asked = {("seed" if name == "random_seed" else name): value for name, value in body.items()}
        return super().read_body(asked, model)

    def error(
        self,
        status: int,
        message: str,
        *,
        kind: str | None = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Sent:
        error = {"object": "error", "message": message, "type": kind, "param": param, "code": code}
        return Sent(status, error, headers or {})

    def entry_lines(self, model: Model) -> dict[str, str]:
        return {"guided": "true"}
