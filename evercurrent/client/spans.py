"""Spans of calls, by the OpenTelemetry that the program has: whoever gives a tracer provider has each call traced, and
the service goes on with the trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

OBSERVE, OBSERVE_MANY = "evercurrent.client.observe", "evercurrent.client.observe_many"

_NOTHING = nullcontext("")


class Spans(Protocol):
    """What a call is wrapped into. Gives the W3C traceparent that goes with its observations, "" for none."""

    def span(self, name: str, user_id: str) -> AbstractContextManager[str]: ...


class NoSpans:
    """Nothing is traced by the client; the service may begin a trace by itself."""

    def span(self, name: str, user_id: str) -> AbstractContextManager[str]:
        return _NOTHING


class ProviderSpans:
    """Spans of a tracer provider; each is a child of the one that is current where the call is made."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry.trace import SpanKind

        self._tracer = provider.get_tracer("evercurrent.client")
        self._kind = SpanKind.CLIENT

    @contextmanager
    def span(self, name: str, user_id: str) -> Iterator[str]:
        attributes = {"user.id": user_id} if user_id else {}
        with self._tracer.start_as_current_span(name, kind=self._kind, attributes=attributes) as span:
            context = span.get_span_context()
            yield (
                f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
                if context.is_valid
                else ""
            )
