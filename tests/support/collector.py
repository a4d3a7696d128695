"""A collector of spans on loopback: what it got, as OTLP over HTTP has it."""

from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass
class Collected:
    """One span, with its ids in hex as the view `otel_spans` has them."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    start_ns: int
    end_ns: int
    is_error: bool
    attributes: dict[str, Any]


@dataclass
class Collector:
    """Takes what is sent to /v1/traces, or answers `status`."""

    status: int = 200
    spans: list[Collected] = field(default_factory=list)
    raw: bytes = b""
    headers: list[dict[str, str]] = field(default_factory=list)
    url: str = ""

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=1 << 26)
        app.router.add_post("/v1/traces", self._take)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._runner.cleanup()

    def named(self, name: str) -> list[Collected]:
        return [span for span in self.spans if span.name == name or span.name.startswith(f"{name} ")]

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.raw += body
        self.headers.append(dict(request.headers))
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.spans += [_read(span) for scope in resource.scope_spans for span in scope.spans]
        return web.Response(status=self.status)


def _read(span: Any) -> Collected:
    return Collected(
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        span.status.code == 2,
        {one.key: _value(one.value) for one in span.attributes},
    )


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    return getattr(value, kind)
