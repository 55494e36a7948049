"""Traces of single events, by OpenTelemetry: which events are traced, and spans that are told when they are over.

The serving loop only notes what happened and when; spans are encoded and sent by the exporter's own thread. Where a
context comes from outside it is a W3C traceparent (https://www.w3.org/TR/trace-context/), and its sampled flag decides;
between a router and its workers it is 24 bytes, and only of what is sampled.
"""

from __future__ import annotations

import re
import struct
import time
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from enum import Enum
from math import inf, log
from random import Random
from typing import NamedTuple, Protocol

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
_LENGTH = 55
"""Of version 00; later ones may be longer."""
_SAMPLED = 0x01
_CONTEXT = struct.Struct(">QQQ")
_HALF = (1 << 64) - 1


class Context(NamedTuple):
    """One span of a trace that is sampled."""

    trace_id: int
    span_id: int

    def packed(self) -> bytes:
        """As `unpacked` reads it."""
        return _CONTEXT.pack(self.trace_id >> 64, self.trace_id & _HALF, self.span_id)

    def traceparent(self) -> str:
        """As W3C writes it."""
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-01"


current: ContextVar[Context | None] = ContextVar("evercurrent_trace", default=None)
"""The trace that is worked for now; logs name it."""


def unpacked(raw: bytes) -> Context | None:
    """What `Context.packed` gave; None: these bytes are none."""
    if len(raw) != _CONTEXT.size:
        return None
    high, low, span_id = _CONTEXT.unpack(raw)
    return Context(high << 64 | low, span_id)


class NotSampled:
    """A caller has decided that an event is not traced."""


def parse_traceparent(text: str) -> Context | NotSampled | None:
    """The caller's span, or that it is not sampled; None: this is no traceparent, and is to be ignored."""
    found = _TRACEPARENT.fullmatch(text)
    if found is None or (text.startswith("00") and len(text) != _LENGTH):
        return None
    trace_id, span_id = int(found[1], 16), int(found[2], 16)
    if not trace_id or not span_id:
        return None
    return Context(trace_id, span_id) if int(found[3], 16) & _SAMPLED else NotSampled()


class SpanKind(Enum):
    """What a span was to those around it."""

    SERVER = "server"
    CLIENT = "client"


class Span(NamedTuple):
    """What happened from when to when, microseconds of the process's monotonic clock. `error` is empty if all went
    well."""

    name: str
    context: Context
    parent: Context | None
    kind: SpanKind
    start_us: int
    end_us: int
    attributes: Mapping[str, str | int]
    links: Sequence[Context] = ()
    error: str = ""


class SpanSink(Protocol):
    """Who takes spans that are over. Returns at once; drops what it has no room for."""

    def put(self, span: Span) -> None: ...


class Tracer:
    """Decides which events are traced, names spans, and gives them to a sink. `ratio` is the share of the traces begun
    here that are sampled."""

    def __init__(self, sink: SpanSink, ratio: float, random: Random) -> None:
        self._sink = sink
        self._ratio = ratio
        self._random = random
        self._num_until_next = self._gap()

    def begins(self) -> bool:
        """Whether the next event, which came without a context, begins a trace."""
        self._num_until_next -= 1
        if self._num_until_next > 0:
            return False
        self._num_until_next = self._gap()
        return True

    def begin_some(self, num_events: int) -> list[int]:
        """Which of the next so many events begin a trace: as `begins` for each, at the cost of those alone."""
        chosen = []
        at = self._num_until_next - 1
        while at < num_events:
            chosen.append(int(at))
            at += self._gap()
        self._num_until_next = at + 1 - num_events
        return chosen

    def _gap(self) -> float:
        """How many events until one is sampled, where each is by itself: a geometric number."""
        if self._ratio <= 0:
            return inf
        if self._ratio >= 1:
            return 1
        return 1 + int(log(1 - self._random.random()) / log(1 - self._ratio))

    def child(self, parent: Context | None) -> Context:
        """A new span under this one, or the first of a trace."""
        trace_id = parent.trace_id if parent is not None else self._random.getrandbits(128) or 1
        return Context(trace_id, self._random.getrandbits(64) or 1)

    def put(self, span: Span) -> None:
        """A span is over."""
        self._sink.put(span)


def wall_offset_ns() -> int:
    """What the monotonic clock lacks to nanoseconds since the Unix epoch, for now."""
    return time.time_ns() - time.monotonic_ns()
