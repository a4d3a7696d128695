"""Spans made by OpenTelemetry's SDK and sent by OTLP over HTTP, from a thread: the extra `otel`. Loaded only where the
user names a collector.

A collector that is slow or away never holds up a run: the queue is bounded, a request has two seconds, and so has the
end. The provider is ours alone and not the process's: Prefect's own spans are not sent along.
"""

import asyncio
import logging
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from r2.telemetry.ports import ENDPOINTS, Span, Tracer, Value

QUEUE: Final = 20_000
BATCH: Final = 512
DELAY_S: Final = 1.0
TIMEOUT_S: Final = 2.0
"""Of a request, and of what is left at the end."""


def opened(environ: Mapping[str, str], share: float, say: Callable[[str], None]) -> Tracer | None:
    """None, with a line to `say`, where the SDK is not installed."""
    try:
        return _OtelTracer(share, _collector(environ), say)
    except ModuleNotFoundError as missing:
        say(
            f"spans are wanted (OTEL_EXPORTER_OTLP_ENDPOINT), but {missing.name} is not installed: none are sent. "
            "Install the extra: pip install 'r2-reasoner[otel]'"
        )
        return None


async def closed(tracer: Tracer) -> None:
    """Sends what is left beside the event loop."""
    await asyncio.to_thread(tracer.close)


class _OtelTracer:
    """A provider with its thread."""

    def __init__(self, share: float, collector: str, say: Callable[[str], None]) -> None:
        from opentelemetry.context import Context
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBased

        for name in ("opentelemetry.sdk", "opentelemetry.exporter"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # a record for each failed request; we say it once
        self._ids = _ids()
        self._processor = BatchSpanProcessor(
            _said_once(OTLPSpanExporter(timeout=TIMEOUT_S), collector, say),
            max_queue_size=QUEUE,
            max_export_batch_size=BATCH,
            schedule_delay_millis=DELAY_S * 1000,
        )
        provider = TracerProvider(
            sampler=ParentBased(_by_problem(share)),
            resource=Resource.create({"service.name": "r2-reasoner"}),
            id_generator=self._ids,
            shutdown_on_exit=False,
        )
        provider.add_span_processor(self._processor)
        self._tracer = provider.get_tracer("r2")
        self._nowhere = Context()

    def start(self, name: str, parent: Span | None, trace_id: int | None, attributes: Mapping[str, Value]) -> Span:
        context = parent.context if isinstance(parent, _OtelSpan) else self._nowhere
        self._ids.next_trace_id = trace_id
        return _OtelSpan(self._tracer, self._tracer.start_span(name, context=context, attributes=_told(attributes)))

    def close(self) -> None:
        """What did not arrive in two seconds is lost; the thread is a daemon, and ends with the process."""
        ending = threading.Thread(target=self._processor.shutdown, name="spans-end", daemon=True)
        ending.start()
        ending.join(TIMEOUT_S)


class _OtelSpan:
    """One open span."""

    def __init__(self, tracer: Any, span: Any) -> None:
        from opentelemetry.trace import set_span_in_context

        self._tracer, self._span = tracer, span
        self.is_kept: bool = span.is_recording()
        self.context = set_span_in_context(span)

    def note(self, attributes: Mapping[str, Value]) -> None:
        if self.is_kept:
            self._span.set_attributes(_told(attributes))

    def add(self, name: str, started_at: float, ended_at: float, attributes: Mapping[str, Value], error: bool) -> None:
        from opentelemetry.trace import SpanKind, StatusCode

        span = self._tracer.start_span(
            name,
            context=self.context,
            kind=SpanKind.CLIENT,
            attributes=_told(attributes),
            start_time=_nanoseconds(started_at),
        )
        if error:
            span.set_status(StatusCode.ERROR)
        span.end(_nanoseconds(ended_at))

    def end(self) -> None:
        self._span.end()


def _ids() -> Any:
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

    class Ids(RandomIdGenerator):
        """Random ones, but for a trace whose id is given."""

        next_trace_id: int | None = None

        def generate_trace_id(self) -> int:
            given, self.next_trace_id = self.next_trace_id, None
            return given if given is not None else super().generate_trace_id()

    return Ids()


def _by_problem(share: float) -> Any:
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler, SamplingResult, TraceIdRatioBased

    class ByProblem(Sampler):
        """A share of the problems; runs and shards, of which there are few, are all kept."""

        problems = TraceIdRatioBased(share)

        def should_sample(
            self, parent_context: Any, trace_id: int, name: str, *more: Any, **named: Any
        ) -> SamplingResult:
            chosen = self.problems if name == "problem" else ALWAYS_ON
            return chosen.should_sample(parent_context, trace_id, name, *more, **named)

        def get_description(self) -> str:
            return f"ByProblem{{{share}}}"

    return ByProblem()


def _said_once(inner: Any, collector: str, say: Callable[[str], None]) -> Any:
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    class SaidOnce(SpanExporter):
        """Says once that spans do not arrive."""

        has_said = False

        def export(self, spans: Sequence[Any]) -> Any:
            result = inner.export(spans)
            if result is not SpanExportResult.SUCCESS and not self.has_said:
                self.has_said = True
                say(
                    f"spans do not reach the collector at {collector} (OTEL_EXPORTER_OTLP_ENDPOINT) and are dropped "
                    "while it is away. The run itself is not affected."
                )
            return result

        def shutdown(self) -> None:
            inner.shutdown()

    return SaidOnce()


def _collector(environ: Mapping[str, str]) -> str:
    """The address as it may be shown."""
    named = next(filter(None, (environ.get(name, "").strip() for name in ENDPOINTS)), "")
    return re.sub(r"//[^/@]*@", "//", named).partition("?")[0]


def _told(attributes: Mapping[str, Value]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if value is not None}


def _nanoseconds(at: float) -> int:
    return int(at * 1e9)
