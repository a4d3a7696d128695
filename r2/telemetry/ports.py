"""What spans are to the code that makes them, whoever sends them."""

from collections.abc import Mapping
from typing import Protocol

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""Variables that name a collector."""
Value = str | int | float | list[str] | None


class Span(Protocol):
    """A span that is open."""

    @property
    def is_kept(self) -> bool:
        """False for a problem that is not in the sample."""

    def note(self, attributes: Mapping[str, Value]) -> None:
        """Adds attributes; those that are None are left out."""

    def add(self, name: str, started_at: float, ended_at: float, attributes: Mapping[str, Value], error: bool) -> None:
        """A child that is over already, between two moments in epoch seconds."""

    def end(self) -> None:
        """Its last moment."""


class Tracer(Protocol):
    """What makes spans (`export.py`)."""

    def start(self, name: str, parent: Span | None, trace_id: int | None, attributes: Mapping[str, Value]) -> Span:
        """A span that begins now; a trace of its own without a parent."""

    def close(self) -> None:
        """Sends what is left, for two seconds at most."""
