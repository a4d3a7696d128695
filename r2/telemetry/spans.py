"""Where spans begin and end. Costs nothing worth measuring, and loads no OpenTelemetry, until `tracing` is open.

A problem is a trace of its own with the calls made for it, and has the trace id that the view `otel_spans` gives it
(storage/sql/operations.sql), so that a trace leads to the lake and back. It is sampled as a whole. A run is another
trace, with its shards. No span has a text: neither prompts nor answers, nor a provider's message.
"""

import hashlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar

from r2.call import Attempt, Call
from r2.errors import ConfigError
from r2.telemetry.ports import ENDPOINTS, Span, Tracer, Value

DISABLED = "OTEL_SDK_DISABLED"
RATIO = "OTEL_TRACES_SAMPLER_ARG"
"""Share of the problems whose spans are kept, 0 to 1."""


class _Process:
    """The tracer of this process, and how many runs use it."""

    tracer: Tracer | None = None
    n_open = 0


_process = _Process()
_run: ContextVar[Span | None] = ContextVar("run", default=None)
_problem: ContextVar[tuple[Span, str, str] | None] = ContextVar("problem", default=None)
"""The problem that is worked on here, where it is in the sample, with its run and its id."""


@asynccontextmanager
async def tracing(
    run_id: str, method: str, environ: Mapping[str, str], say: Callable[[str], None]
) -> AsyncIterator[None]:
    """While open, a run's spans are made and sent, where `environ` names a collector; else nothing is done.

    `say` gets one line where they cannot be made, or do not arrive. ConfigError for a share that is none.
    """
    if not is_wanted(environ):
        yield
        return
    # Here and not above: it loads OpenTelemetry, which nobody else needs.
    from r2.telemetry.export import closed, opened

    if _process.tracer is None:
        _process.tracer = opened(environ, sampled_share(environ), say)
    tracer = _process.tracer
    if tracer is None:
        yield
        return
    _process.n_open += 1
    run = tracer.start("run", None, None, {"r2.run_id": run_id, "r2.method": method})
    token = _run.set(run)
    try:
        yield
    finally:
        _run.reset(token)
        run.end()
        _process.n_open -= 1
        if _process.n_open == 0:
            _process.tracer = None
            await closed(tracer)


@contextmanager
def shard_span(run_id: str, shard: int) -> Iterator[None]:
    """A shard from its reading to its commit."""
    if (tracer := _process.tracer) is None:
        yield
        return
    span = tracer.start("shard", _run.get(), None, {"r2.run_id": run_id, "r2.shard": shard})
    try:
        yield
    finally:
        span.end()


@contextmanager
def problem_span(run_id: str, problem_id: str, method: str) -> Iterator[Callable[[Mapping[str, Value]], None]]:
    """A problem from its first call to its outcome; what is yielded takes attributes of the outcome."""
    if (tracer := _process.tracer) is None:
        yield _nothing
        return
    about = {"r2.run_id": run_id, "r2.problem_id": problem_id, "r2.method": method}
    span = tracer.start("problem", None, trace_id_of(run_id, problem_id), about)
    token = _problem.set((span, run_id, problem_id) if span.is_kept else None)
    try:
        yield span.note
    finally:
        _problem.reset(token)
        span.end()


def attempt_span(row: Attempt, call: Call) -> None:
    """An attempt at a call that is over, under the problem that it was made for."""
    if (problem := _problem.get()) is None:
        return
    span, run_id, problem_id = problem
    ended_at = row.started_at + row.latency_s
    about = attributes_of(row, call) | {"r2.run_id": run_id, "r2.problem_id": problem_id}
    span.add(f"chat {row.model}", row.started_at, ended_at, about, row.error_type is not None)


def attributes_of(row: Attempt, call: Call) -> dict[str, Value]:
    """The columns of `otel_spans` under their names, but for the prompt."""
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": row.model,
        "gen_ai.request.temperature": call.temperature,
        "gen_ai.request.max_tokens": call.max_output_tokens,
        "gen_ai.response.model": row.response_model,
        "gen_ai.response.id": row.response_id,
        "gen_ai.response.finish_reasons": [row.finish_reason],
        "gen_ai.usage.input_tokens": row.usage.input_tokens,
        "gen_ai.usage.cache_read.input_tokens": row.usage.cached_input_tokens,
        "gen_ai.usage.cache_creation.input_tokens": row.usage.cache_write_tokens,
        "gen_ai.usage.output_tokens": row.usage.output_tokens,
        "gen_ai.client.operation.duration": row.latency_s,
        "error.type": row.error_type,
        "http.response.status_code": row.status,
        "r2.purpose": call.purpose,
        "r2.subtask_index": call.subtask_index,
        "r2.cost_usd": row.cost_usd,
    }


def trace_id_of(run_id: str, problem_id: str, rollout: int = 0) -> int:
    """As the view `otel_spans` has it, in hex there."""
    name = f"{run_id}\0{problem_id}\0{rollout}"
    return int(hashlib.md5(name.encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest(), 16)


def is_wanted(environ: Mapping[str, str]) -> bool:
    """Whether the user names a collector, and has not switched OpenTelemetry off."""
    is_off = environ.get(DISABLED, "").strip().lower() == "true"
    return not is_off and any(environ.get(name, "").strip() for name in ENDPOINTS)


def sampled_share(environ: Mapping[str, str]) -> float:
    """ConfigError for a value that is no share."""
    text = environ.get(RATIO, "").strip()
    try:
        share = float(text or 1.0)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise ConfigError(f"{RATIO}={text!r}: expected the share of problems to send spans of, 0 to 1, as 0.01")
    return share


def _nothing(attributes: Mapping[str, Value]) -> None:
    """No span is open."""
