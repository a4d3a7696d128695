"""What the batch endpoints of all imitations share: jobs, their rows, a clock, a ledger, and failures to turn on.

A job is looked at when it is asked about: then the rows run that its clock says have run by now. They are answered as
the same imitation answers live, and billed at the batch price on the same bill; `ledger` has a line for each, so that a
test can prove that nothing was paid twice. A provider's module says how requests are read and how jobs look.

Failures of a job are asked for before it is created, by `fail_job`:

    fails            taken, and refused as a whole afterwards
    expires          half of it is done when its time is over
    cancelled        somebody else cancels it half-way
    never_ends       half of it is done, and nothing more ever happens
    twice            some rows stand twice in the results
    shuffled         the results are in another order (as they are where the provider promises none)
    foreign          rows of another job stand in the results
    missing          some rows stand nowhere
    cut              the results end in the middle of a line

and failures of requests, each so many times, by `fail_request`:

    upload_breaks    the connection ends in the middle of an upload
    create_reset     the job is created, and the connection ends before the answer
    create_5xx       500, and nothing is created
    create_rate      429, and nothing is created
    poll_5xx         503 for whoever asks about a job
    list_5xx         503 for the list of jobs
    download_breaks  the connection ends in the middle of the results
    late_file        404 for results that are there a moment later
    rate             429 for any request
"""

import hashlib
import json
import random
import tempfile
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from aiohttp import web

from tests.support.providers.bill import PriceList, Rates
from tests.support.providers.sent import Refused, Sent

if TYPE_CHECKING:
    from tests.support.providers.imitation import Ask, Imitation

JOB_FAULTS = frozenset(
    {"fails", "expires", "cancelled", "never_ends", "twice", "shuffled", "foreign", "missing", "cut"}
)
REQUEST_FAULTS = frozenset(
    {
        "upload_breaks",
        "create_reset",
        "create_5xx",
        "create_rate",
        "poll_5xx",
        "list_5xx",
        "download_breaks",
        "late_file",
        "rate",
    }
)
Ending = Literal["completed", "failed", "expired", "cancelled"]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Terms:
    """How jobs go here. A job waits `queue_s` and then runs for `run_s`, whatever its size. `window_s`: when it expires
    (None: never). `retention_s`: how long its results are kept after its end. `enqueued_tokens`: prompt tokens of all
    jobs of a model that are not over. `most_per_look`: rows that one look at a job runs, so that none takes long.
    `clock` is the provider's own, in epoch seconds."""

    queue_s: float = 0.0
    run_s: float = 0.0
    window_s: float | None = 86_400.0
    retention_s: float = 29 * 86_400.0
    enqueued_tokens: int = 2_000_000_000
    most_per_look: int = 5_000
    clock: Callable[[], float] = time.time


@dataclass(frozen=True, slots=True)
class Charge:
    """One billed row. `request` is a digest of what was asked, `custom_id` left out."""

    job: str
    custom_id: str
    request: str
    usd: Decimal


@dataclass(slots=True)
class Outcome:
    """What came of a row: `document` is its reply or refusal, None for one that did not run."""

    custom_id: str
    kind: Literal["done", "refused", "expired", "cancelled"]
    status: int = 0
    document: Any = None


@dataclass
class Job:
    """A job. `request` is what it was created with, in the provider's own form; `rows` are (custom_id, body as JSON).
    `n_run` of them have run. `model` is the one that is asked."""

    id: str
    request: Mapping[str, Any]
    created_at: float
    rows: Sequence[tuple[str, bytes]]
    model: str = ""
    n_tokens: int = 0
    faults: frozenset[str] = frozenset()
    state: Literal["waiting", "running", "over"] = "waiting"
    ending: Ending | None = None
    errors: list[dict[str, Any]] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    n_run: int = 0
    started_at: float | None = None
    ended_at: float | None = None
    cancel_at: float | None = None
    expires_at: float | None = None
    files: dict[str, str] = field(default_factory=dict)

    @property
    def is_over(self) -> bool:
        return self.state == "over"

    def n(self, *kinds: str) -> int:
        """Rows that ended in these ways."""
        return sum(outcome.kind in kinds for outcome in self.outcomes)


@dataclass
class StoredFile:
    """A file of the provider's store."""

    id: str
    path: Path
    n_bytes: int
    created_at: float
    name: str = ""
    purpose: str = ""
    downloads: int = 0


class Batches(ABC):
    """The batch endpoints of one imitation. `terms` may be changed at any time."""

    price_share: ClassVar[Decimal] = Decimal("0.5")
    shares_cached: ClassVar[bool] = True
    """Whether the discount holds for prompt tokens that are read from the cache, too."""
    is_ordered: ClassVar[bool] = False
    """Whether results come in the order of the rows."""

    def __init__(self, server: "Imitation") -> None:
        self.server = server
        self.terms = Terms()
        self.jobs: dict[str, Job] = {}
        self.files: dict[str, StoredFile] = {}
        self.ledger: list[Charge] = []
        self.calls: list[tuple[str, str, int]] = []
        """(method, path, status) of every request to these endpoints; status 0: the connection was ended."""
        self.price_lists: dict[str, PriceList] = {}
        """Model -> its batch prices, where they are no share of the live ones."""
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._job_faults: deque[frozenset[str]] = deque()
        self._request_faults: Counter[str] = Counter()
        self._n_made = 0

    # For tests

    def fail_job(self, *faults: str) -> None:
        """The next job that is created has these failures. Called again: the one after it."""
        if unknown := set(faults) - JOB_FAULTS:
            raise ValueError(f"no job faults {sorted(unknown)}; there are {', '.join(sorted(JOB_FAULTS))}")
        self._job_faults.append(frozenset(faults))

    def fail_request(self, fault: str, times: int = 1) -> None:
        """The next requests of the kind that the failure is about fail so."""
        if fault not in REQUEST_FAULTS:
            raise ValueError(f"no request fault {fault!r}; there are {', '.join(sorted(REQUEST_FAULTS))}")
        self._request_faults[fault] = times

    def cancel_from_outside(self, job_id: str) -> None:
        """As if somebody with the same key had cancelled it now."""
        self.jobs[job_id].cancel_at = self.now()

    @property
    def billed_usd(self) -> Decimal:
        return sum((charge.usd for charge in self.ledger), Decimal(0))

    def paid_twice(self) -> list[str]:
        """What was asked and billed in more than one row, by the digest of the request."""
        return [digest for digest, n in Counter(charge.request for charge in self.ledger).items() if n > 1]

    def close(self) -> None:
        if self._folder is not None:
            self._folder.cleanup()

    # The provider

    @abstractmethod
    def route(self, request: web.Request) -> Handler | None:
        """Who answers the request; None where it is not about batches."""

    @abstractmethod
    def ask(self, job: Job, body: Any) -> "Ask":
        """A row as the provider understands it. Raises the imitation's Refused for what it does not take."""

    @abstractmethod
    def write_results(self, job: Job, outcomes: Sequence[Outcome]) -> None:
        """Stores the results of a job that is over, in the provider's form."""

    @abstractmethod
    def unavailable(self, status: int) -> Sent:
        """What a 5xx, or a 429, looks like."""

    def validate(self, job: Job) -> None:
        """Before a job runs: its errors, in the provider's form, if it is refused as a whole after it was taken."""
        job.errors = []

    # What they share

    async def handle(self, request: web.Request) -> web.StreamResponse | None:
        """The response; None where the request is not about batches."""
        handler = self.route(request)
        if handler is None:
            return None
        try:
            if self.takes_fault("rate"):
                raise Refused(self.unavailable(429))
            response = await handler(request)
        except Refused as refused:
            response = self.respond(refused.sent)
        self.calls.append((request.method, request.path, 0 if _is_cut(request) else response.status))
        return response

    def respond(self, sent: Sent) -> web.Response:
        self.server.serial += 1
        headers = {"Date": formatdate(self.now(), usegmt=True), **self.server.headers(sent), **sent.headers}
        if isinstance(sent.document, str):
            return web.Response(status=sent.status, text=sent.document, content_type="text/html", headers=headers)
        text = json.dumps(sent.document, ensure_ascii=False)
        return web.Response(status=sent.status, text=text, content_type="application/json", headers=headers)

    def now(self) -> float:
        return self.terms.clock()

    def takes_fault(self, fault: str) -> bool:
        """Whether the request fails so; counts it."""
        if self._request_faults[fault] <= 0:
            return False
        self._request_faults[fault] -= 1
        return True

    def new_id(self, prefix: str, *, digits: int = 24) -> str:
        self._n_made += 1
        return prefix + hashlib.sha256(f"{id(self)} {self._n_made}".encode()).hexdigest()[:digits]

    def create(
        self, prefix: str, request: Mapping[str, Any], rows: Sequence[tuple[str, bytes]], *, model: str = ""
    ) -> Job:
        faults = self._job_faults.popleft() if self._job_faults else frozenset()
        now = self.now()
        window = self.terms.window_s
        expires_at = None if window is None else now + window
        job = Job(self.new_id(prefix), request, now, rows, model, faults=faults, expires_at=expires_at)
        self.jobs[job.id] = job
        return job

    def enqueued(self, model: str) -> int:
        """Prompt tokens of the model's jobs that are not over."""
        return sum(job.n_tokens for job in self.jobs.values() if job.model == model and not job.is_over)

    def look(self, job: Job) -> Job:
        """The job as it is now."""
        now = self.now()
        if job.state == "waiting" and now >= job.created_at + self.terms.queue_s:
            self.validate(job)
            if "fails" in job.faults:
                self.fail_whole(job)
            if job.errors:
                self.end(job, "failed", now)
            if job.is_over:
                return job
            job.state, job.started_at = "running", max(job.created_at + self.terms.queue_s, job.created_at)
            self._schedule(job)
        if job.state == "running":
            self._run(job, now)
        elif job.state == "waiting" and job.cancel_at is not None and now >= job.cancel_at:
            self._stop(job, "cancelled", job.cancel_at)
        return job

    def fail_whole(self, job: Job) -> None:
        """The job fails for the provider's own reasons."""
        job.errors = [self.own_failure()]

    def own_failure(self) -> dict[str, Any]:
        """What such a job says."""
        return {"code": "internal_error", "line": None, "message": "The job failed on our side.", "param": None}

    def _schedule(self, job: Job) -> None:
        """The failures that come half-way."""
        assert job.started_at is not None
        half = job.started_at + self.terms.run_s / 2
        if "expires" in job.faults:
            job.expires_at = half
        if "cancelled" in job.faults:
            job.cancel_at = half

    def _run(self, job: Job, now: float) -> None:
        assert job.started_at is not None
        n_rows = len(job.rows)
        ends = {"expired": job.expires_at, "cancelled": job.cancel_at}
        due = [(at, ending) for ending, at in ends.items() if at is not None and now >= at]
        until = min(due)[0] if due else now
        share = 1.0 if self.terms.run_s <= 0 else min(1.0, (until - job.started_at) / self.terms.run_s)
        if job.faults & {"never_ends", "expires", "cancelled"}:
            share = min(share, 0.5) if self.terms.run_s > 0 else 0.5
        n_due = max(job.n_run, int(n_rows * share))
        for place in range(job.n_run, min(n_due, job.n_run + self.terms.most_per_look)):
            job.outcomes.append(self._run_row(job, *job.rows[place]))
            job.n_run += 1
        if job.n_run < n_due:
            return  # the next look goes on
        if job.n_run == n_rows:
            self.end(job, "completed", min(now, job.started_at + self.terms.run_s))
        elif due:
            at, ending = min(due)
            self._stop(job, "expired" if ending == "expired" else "cancelled", at)

    def _stop(self, job: Job, ending: Literal["expired", "cancelled"], at: float) -> None:
        job.outcomes += [Outcome(custom_id, ending) for custom_id, _ in job.rows[job.n_run :]]
        self.end(job, ending, at)

    def end(self, job: Job, ending: Ending, at: float) -> None:
        """The job is over."""
        job.state, job.ending, job.ended_at = "over", ending, at
        if ending != "failed":
            self.write_results(job, self._as_told(job))

    def _run_row(self, job: Job, custom_id: str, raw: bytes) -> Outcome:
        self.server.serial += 1
        try:
            ask = self.ask(job, json.loads(raw))
            sent = self.server.answer(ask)
        except Refused as refused:
            sent = refused.sent
        if sent.tokens is None or not 200 <= sent.status < 300:
            return Outcome(custom_id, "refused", sent.status, sent.document)
        usd = self.server.bill.charge(ask.model.name, self.prices(ask.model.name, ask.model.prices), sent.tokens)
        self.ledger.append(Charge(job.id, custom_id, digest_of(json.loads(raw)), usd))
        return Outcome(custom_id, "done", sent.status, sent.document)

    def prices(self, model: str, live: PriceList) -> PriceList:
        """Batch prices of a model."""
        if model not in self.price_lists:
            long = None if live.long is None else self._share(live.long)
            self.price_lists[model] = PriceList(self._share(live.base), live.long_above, long)
        return self.price_lists[model]

    def _share(self, live: Rates) -> Rates:
        share = self.price_share
        cached = live.cached * share if self.shares_cached else min(live.cached, live.input * share)
        return Rates(
            live.input * share, cached, live.output * share, live.cache_write * share, live.cache_write_1h * share
        )

    def _as_told(self, job: Job) -> list[Outcome]:
        """The rows in the order and number in which the results have them."""
        told = list(job.outcomes)
        chance = random.Random(job.id)
        if "missing" in job.faults:
            told = [outcome for place, outcome in enumerate(told) if place % 3 != 1]
        if "twice" in job.faults:
            told += [outcome for place, outcome in enumerate(told) if place % 2 == 0]
        if "foreign" in job.faults:
            told += [
                Outcome(f"f0re19{outcome.custom_id[6:]}", outcome.kind, outcome.status, outcome.document)
                for outcome in told[:3]
            ]
        if not self.is_ordered or job.faults & {"shuffled", "twice", "foreign"}:
            chance.shuffle(told)
        return told

    # Files

    def store(self, prefix: str, lines: Sequence[bytes], *, name: str, purpose: str, is_cut: bool = False) -> str:
        """A file of lines; its id."""
        stored = self.open_file(prefix, name=name, purpose=purpose)
        content = b"".join(lines)
        if is_cut and lines:
            content = content[: len(content) - max(2, len(lines[-1]) // 2)]
        stored.path.write_bytes(content)
        stored.n_bytes = len(content)
        return stored.id

    def open_file(self, prefix: str, *, name: str, purpose: str) -> StoredFile:
        """An empty file of the store."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="imitation-")
        file_id = self.new_id(prefix)
        path = Path(self._folder.name) / file_id.replace("/", "-")
        self.files[file_id] = StoredFile(file_id, path, 0, self.now(), name, purpose)
        return self.files[file_id]

    async def receive(self, content: Any, stored: StoredFile, request: web.Request, *, expected: int) -> bool:
        """Takes an upload piece by piece; False where it breaks in the middle."""
        breaks = self.takes_fault("upload_breaks")
        with stored.path.open("wb") as out:
            async for piece in content:
                out.write(piece)
                stored.n_bytes += len(piece)
                if breaks and stored.n_bytes >= min(1, expected // 2):
                    del self.files[stored.id]
                    cut(request)
                    return False
        return True

    async def send_file(self, request: web.Request, stored: StoredFile) -> web.StreamResponse:
        """The content of a file, in pieces; the connection may end in the middle."""
        stored.downloads += 1
        breaks = self.takes_fault("download_breaks")
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(stored.n_bytes)}
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        n_sent = 0
        with stored.path.open("rb") as content:
            while piece := content.read(64 * 1024 if not breaks else max(1, stored.n_bytes // 2)):
                await response.write(piece)
                n_sent += len(piece)
                if breaks and n_sent < stored.n_bytes:
                    cut(request)
                    return response
        await response.write_eof()
        return response

    def fail_create(self) -> None:
        """Raises the failure that is asked for of a create."""
        for fault, status in (("create_5xx", 500), ("create_rate", 429)):
            if self.takes_fault(fault):
                raise Refused(self.unavailable(status))

    def reset_after_create(self, request: web.Request) -> bool:
        """Whether the answer to a create is lost, though the job is there."""
        if not self.takes_fault("create_reset"):
            return False
        cut(request)
        return True


def digest_of(body: Any) -> str:
    """What was asked, as the ledger has it."""
    return hashlib.sha256(json.dumps(body).encode()).hexdigest()[:16]


def cut(request: web.Request) -> None:
    """Ends the connection without a further word."""
    request["is_cut"] = True
    if request.transport is not None:
        request.transport.abort()


def _is_cut(request: web.Request) -> bool:
    return bool(request.get("is_cut"))


def line(document: Any) -> bytes:
    """One line of a results file."""
    return json.dumps(document, ensure_ascii=False).encode() + b"\n"


async def json_of(request: web.Request) -> Any:
    """The body as JSON; None for what is none."""
    raw = await request.read()
    try:
        return json.loads(raw)
    except ValueError:
        return None
