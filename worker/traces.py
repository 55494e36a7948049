"""Events in a worker that are traced: the spans of the steps they were in, and of the segments that made them durable.

A step handles many events at once, and a segment holds many rows: each has one span, a child of the first event in it
that is traced, and links all of them. What is an event's own in a worker, how long it waited and for what, its router
says in its span.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from evercurrent.telemetry.tracing import Context, Span, SpanKind, Tracer, current, unpacked
from evercurrent.v1.worker_pb2 import LinkTrace
from persistence.keys import JOURNAL_PREFIX
from worker.inbox import Waiting
from worker.residents import Indices, Residents
from worker.results import Results
from worker.slab import INITIAL_ROW

T = TypeVar("T")

STEP, PUT = "evercurrent.step", "evercurrent.journal.put"

WAITING_MAX = 8192
"""Updates whose durability is waited for, to be told; when there are more, those so far are told of no more."""


class Traces:
    """By number, which marks carry from the receipt of an event to its step: at most what links have in flight."""

    def __init__(self, tracer: Tracer, residents: Residents, clock_us: Callable[[], int]) -> None:
        self._tracer = tracer
        self._residents = residents
        self._clock_us = clock_us
        self._contexts: dict[int, Context] = {}
        self._last = 0
        self._waiting: dict[int, list[tuple[int, str, Context]]] = {}
        self._num_waiting = 0
        self._put: tuple[str, int, int, int] | None = None

    def take(self, traces: Sequence[LinkTrace], num_events: int) -> NDArray[np.uint32]:
        """The number of each event of a frame; 0: it is not traced."""
        numbers = np.zeros(num_events, np.uint32)
        for trace in traces:
            context = unpacked(trace.context)
            if context is not None:
                self._last = self._last % 0xFFFF_FFFF + 1
                self._contexts[self._last] = context
                numbers[trace.index] = self._last
        return numbers

    def drop(self, waiting: Waiting) -> None:
        """Nobody answers these events."""
        for number in waiting.marks["trace"][waiting.marks["trace"] > 0].tolist():
            self._contexts.pop(number, None)

    def around(self, taken: Waiting, step: Callable[[Waiting], list[Results]]) -> list[Results]:
        """A step over these events, and its span if any of them is traced."""
        numbers = taken.marks["trace"].tolist()
        if not any(numbers):
            return step(taken)
        contexts = {index: self._contexts.pop(number) for index, number in enumerate(numbers) if number}
        results = self._spanned(list(contexts.values()), len(numbers), lambda: step(taken))
        assert results is not None, "a step has results"
        rows = taken.marks["row"].tolist()
        for index, context in contexts.items():
            self._wait_for(rows[index], context)
        return results

    def around_one(self, trace: LinkTrace, row: int, step: Callable[[], T | None]) -> T | None:
        """The same for one event of a row. A step that gives nothing is not told of."""
        context = unpacked(trace.context)
        if context is None:
            return step()
        result = self._spanned([context], 1, step)
        if result is not None:
            self._wait_for(row, context)
        return result

    def _spanned(self, events: list[Context], num_events: int, step: Callable[[], T | None]) -> T | None:
        """A step over so many events, of which these are traced, and its span."""
        span = self._tracer.child(events[0])
        began_us = self._clock_us()
        token = current.set(span)
        try:
            results = step()
        finally:
            current.reset(token)
        if results is not None:
            attributes = {"evercurrent.events": num_events}
            ended_us = self._clock_us()
            self._tracer.put(Span(STEP, span, events[0], SpanKind.SERVER, began_us, ended_us, attributes, events))
        return results

    def put(self, key: str, num_bytes: int, began_us: int, ended_us: int) -> None:
        """An object was written."""
        if key.startswith(JOURNAL_PREFIX):
            self._put = key, num_bytes, began_us, ended_us

    def durable(self, rows: Indices) -> None:
        """More of these rows is durable, by the segment that was written last."""
        if not self._waiting or self._put is None:
            return
        events: list[Context] = []
        for row in rows.tolist():
            waiting = self._waiting.pop(row, None)
            if waiting is None:
                continue
            durable_version, user = self._residents.durable_version.item(row), self._residents.slab.key(row)
            events += [context for version, of, context in waiting if of == user and version <= durable_version]
            if left := [one for one in waiting if one[1] == user and one[0] > durable_version]:
                self._waiting[row] = left
            self._num_waiting -= len(waiting) - len(left)
        if events:
            key, num_bytes, began_us, ended_us = self._put
            attributes: dict[str, str | int] = {"evercurrent.key": key, "evercurrent.bytes": num_bytes}
            context = self._tracer.child(events[0])
            self._tracer.put(Span(PUT, context, events[0], SpanKind.CLIENT, began_us, ended_us, attributes, events))

    def _wait_for(self, row: int, context: Context) -> None:
        """An event of a row is to become durable: with the version that the row has now, or before."""
        if row == INITIAL_ROW:
            return
        if self._num_waiting >= WAITING_MAX:
            # Rows that went to other workers become durable there, and are never told of here.
            self._waiting.clear()
            self._num_waiting = 0
        version, user = self._residents.slab.version.item(row), self._residents.slab.key(row)
        self._waiting.setdefault(row, []).append((version, user, context))
        self._num_waiting += 1
