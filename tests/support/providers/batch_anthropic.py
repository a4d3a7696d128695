"""Anthropic's message batches.

All requests stand in the body of the create. Their ids are checked there, the requests themselves when they run: what
is refused then is an `errored` result. Counts are 0 until the batch has ended; results come in any order; a batch has
nothing of ours but its requests. Results are kept for 29 days, and the batch is archived then.
"""

import datetime
import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from aiohttp import web

from tests.support.providers.batch import Batches, Handler, Job, Outcome, cut, json_of, line
from tests.support.providers.sent import Refused, Sent

if TYPE_CHECKING:
    from tests.support.providers.anthropic import Anthropic
    from tests.support.providers.imitation import Ask

MOST_REQUESTS = 100_000
MOST_BYTES = 256 * 2**20
_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")


class AnthropicBatches(Batches):
    """`/messages/batches`."""

    server: "Anthropic"

    def route(self, request: web.Request) -> Handler | None:
        path, method = request.path.removeprefix(f"{self.server.route}/messages/batches"), request.method
        if path == request.path:
            return None
        if path == "":
            return self._create if method == "POST" else self._list if method == "GET" else None
        if method == "GET" and re.fullmatch(r"/[^/]+", path):
            return self._retrieve
        if method == "GET" and re.fullmatch(r"/[^/]+/results", path):
            return self._results
        return self._cancel if method == "POST" and re.fullmatch(r"/[^/]+/cancel", path) else None

    def unavailable(self, status: int) -> Sent:
        if status == 429:
            return self.server.fault_rate_requests(None)  # type: ignore[arg-type]
        kind = "overloaded_error" if status == 529 else "api_error"
        return self.server.error(status, kind, "Internal server error")

    async def _create(self, request: web.Request) -> web.StreamResponse:
        self.server.check_headers(request)
        if self.takes_fault("upload_breaks"):
            await request.content.readany()
            cut(request)
            return web.Response()
        if (request.content_length or 0) > MOST_BYTES:
            raise Refused(self.server.fault_too_large(None))  # type: ignore[arg-type]
        asked = await json_of(request)
        self.fail_create()
        rows = self._checked(asked)
        job = self.create("msgbatch_", {}, rows)
        if self.reset_after_create(request):
            return web.Response()
        return self.respond(Sent(200, self.document(job)))

    def _checked(self, asked: Any) -> list[tuple[str, bytes]]:
        refuse = self.server.refuse
        if not isinstance(asked, dict):
            raise Refused(self.server.not_json())
        for name in sorted(set(asked) - {"requests"}):
            refuse(f"{name}: Extra inputs are not permitted")
        requests = asked.get("requests")
        if not isinstance(requests, list) or not requests:
            refuse("requests: List should have at least 1 item after validation, not 0")
        if len(requests) > MOST_REQUESTS:
            refuse(f"requests: List should have at most {MOST_REQUESTS} items after validation, not {len(requests)}")
        seen: set[str] = set()
        rows = []
        for place, each in enumerate(requests):
            if not isinstance(each, dict):
                refuse(f"requests.{place}: Input should be an object")
            for name in sorted(set(each) - {"custom_id", "params"}):
                refuse(f"requests.{place}.{name}: Extra inputs are not permitted")
            custom_id = each.get("custom_id")
            if not isinstance(custom_id, str) or not _ID.fullmatch(custom_id):
                refuse(f"requests.{place}.custom_id: String should match pattern '^[a-zA-Z0-9_-]{{1,64}}$'")
            if custom_id in seen:
                refuse(f"requests.{place}.custom_id: Batch contains duplicate custom_id: {custom_id}")
            seen.add(custom_id)
            if not isinstance(each.get("params"), dict):
                refuse(f"requests.{place}.params: Field required")
            rows.append((custom_id, json.dumps(each["params"]).encode()))
        return rows

    def ask(self, job: Job, body: Any) -> "Ask":
        return self.server.read_params(body)

    def fail_whole(self, job: Job) -> None:
        """No batch fails here; all of its requests do."""
        failure = self.unavailable(500)
        job.outcomes = [Outcome(custom_id, "refused", 500, failure.document) for custom_id, _ in job.rows]
        self.end(job, "completed", self.now())

    def write_results(self, job: Job, outcomes: Sequence[Outcome]) -> None:
        lines = [line({"custom_id": outcome.custom_id, "result": _result(outcome)}) for outcome in outcomes]
        name = f"{job.id}_results.jsonl"
        is_cut = "cut" in job.faults
        job.files["results"] = self.store("file_", lines, name=name, purpose="results", is_cut=is_cut)

    def _job(self, request: web.Request) -> Job:
        name = request.path.removeprefix(f"{self.server.route}/messages/batches/").split("/")[0]
        job = self.jobs.get(name)
        if job is None:
            raise Refused(self.server.error(404, "not_found_error", f"No message batch found with id: {name}"))
        return self.look(job)

    async def _retrieve(self, request: web.Request) -> web.StreamResponse:
        self.server.check_headers(request)
        if self.takes_fault("poll_5xx"):
            raise Refused(self.unavailable(529))
        return self.respond(Sent(200, self.document(self._job(request))))

    async def _cancel(self, request: web.Request) -> web.StreamResponse:
        self.server.check_headers(request)
        job = self._job(request)
        if not job.is_over:
            job.cancel_at = job.cancel_at or self.now()
        return self.respond(Sent(200, self.document(job)))

    async def _results(self, request: web.Request) -> web.StreamResponse:
        self.server.check_headers(request)
        job = self._job(request)
        if not job.is_over:
            self.server.refuse(f"Message batch {job.id} has not finished processing.")
        if self._is_archived(job) or self.takes_fault("late_file"):
            raise Refused(self.server.error(404, "not_found_error", f"The results of {job.id} are not available."))
        if "results" not in job.files:
            raise Refused(self.server.error(404, "not_found_error", f"No results for {job.id}."))
        return await self.send_file(request, self.files[job.files["results"]])

    async def _list(self, request: web.Request) -> web.StreamResponse:
        """The newest first; `limit` (20, at most 1000), `after_id` or `before_id`."""
        self.server.check_headers(request)
        if self.takes_fault("list_5xx"):
            raise Refused(self.unavailable(529))
        limit = int(request.query.get("limit", "20"))
        if not 1 <= limit <= 1000:
            self.server.refuse("limit: Input should be between 1 and 1000")
        jobs = [self.look(job) for job in reversed(self.jobs.values())]
        names = [job.id for job in jobs]
        after, before = request.query.get("after_id"), request.query.get("before_id")
        if after is not None and before is not None:
            self.server.refuse("before_id and after_id cannot both be specified")
        if after is not None:
            jobs = jobs[names.index(after) + 1 :] if after in names else []
        if before is not None:
            jobs = jobs[: names.index(before)][-limit:] if before in names else []
        page = jobs[:limit]
        document = {
            "data": [self.document(job) for job in page],
            "has_more": len(jobs) > limit,
            "first_id": page[0].id if page else None,
            "last_id": page[-1].id if page else None,
        }
        return self.respond(Sent(200, document))

    def _is_archived(self, job: Job) -> bool:
        return self.now() >= job.created_at + self.terms.retention_s

    def document(self, job: Job) -> dict[str, Any]:
        """A batch as it is told."""
        is_over = job.is_over
        counts = {
            "processing": 0 if is_over else len(job.rows),
            "succeeded": job.n("done") if is_over else 0,
            "errored": job.n("refused") if is_over else 0,
            "canceled": job.n("cancelled") if is_over else 0,
            "expired": job.n("expired") if is_over else 0,
        }
        is_cancelling = job.cancel_at is not None and self.now() >= job.cancel_at
        archived_at = job.created_at + self.terms.retention_s if self._is_archived(job) else None
        address = self.server.base_url + f"/messages/batches/{job.id}/results"
        return {
            "id": job.id,
            "type": "message_batch",
            "processing_status": "ended" if is_over else "canceling" if is_cancelling else "in_progress",
            "request_counts": counts,
            "created_at": _time(job.created_at),
            "expires_at": _time(job.expires_at if job.expires_at is not None else job.created_at + 86_400),
            "ended_at": _time(job.ended_at),
            "cancel_initiated_at": _time(job.cancel_at if is_cancelling else None),
            "archived_at": _time(archived_at),
            "results_url": address if is_over and archived_at is None else None,
        }


def _result(outcome: Outcome) -> dict[str, Any]:
    match outcome.kind:
        case "done":
            return {"type": "succeeded", "message": outcome.document}
        case "refused":
            return {"type": "errored", "error": outcome.document}
    return {"type": "canceled" if outcome.kind == "cancelled" else "expired"}


def _time(moment: float | None) -> str | None:
    if moment is None:
        return None
    return datetime.datetime.fromtimestamp(moment, datetime.UTC).isoformat().replace("+00:00", "Z")
