"""Events in a worker that are traced: their spans, that of each step they were in, and that of the segment which made
them durable.

A step handles many events at once: its span is a child of the first of them that is traced, and links them all; the
others link it. The span of a segment's write likewise is a child of the first, and links all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from evercurrent.telemetry.tracing import Context, Span, SpanKind, Tracer, current, unpacked
from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1.worker_pb2 import LinkTrace
from persistence.keys import JOURNAL_PREFIX
from worker.inbox import Waiting
from worker.residents import Indices, Residents
from worker.results import Results

UPDATE, STEP, PUT = "evercurrent.worker.update", "evercurrent.step", "evercurrent.journal.put"

WAITING_MAX = 8192
"""Updates whose durability is waited for, to be told; when there are more, those so far are told of no more."""

Attributes = dict[str, str | int | float | bool]


class Traces:
    """By number, which marks carry from the receipt of an event to its step: at most what links have in flight."""

    def __init__(self, tracer: Tracer, residents: Residents, clock_us: Callable[[], int]) -> None:
        self._tracer = tracer
        self._residents = residents
        self._clock_us = clock_us
        self._parents: dict[int, Context] = {}
        self._last = 0
        self._waiting: dict[int, list[tuple[int, str, Context]]] = {}
        self._num_waiting = 0
        self._put: tuple[str, int, int, int] | None = None

    def take(self, traces: Sequence[LinkTrace], num_events: int) -> NDArray[np.uint32]:
        """The number of each event of a frame; 0: it is not traced."""
        numbers = np.zeros(num_events, np.uint32)
        for trace in traces:
            if (parent := unpacked(trace.context)) is not None:
                self._last = self._last % 0xFFFF_FFFF + 1
                self._parents[self._last] = parent
                numbers[trace.index] = self._last
        return numbers

    def drop(self, waiting: Waiting) -> None:
        """Nobody answers these events."""
        for number in waiting.marks["trace"][waiting.marks["trace"] > 0].tolist():
            self._parents.pop(number, None)

    def around(self, taken: Waiting, step: Callable[[Waiting], list[Results]]) -> list[Results]:
        """A step over these events, and its spans if any of them is traced."""
        traced = np.flatnonzero(taken.marks["trace"]).tolist()
        if not traced:
            return step(taken)
        parents = {index: self._parents.pop(taken.marks["trace"].item(index)) for index in traced}
        contexts = {index: self._tracer.child(parent) for index, parent in parents.items()}
        first = contexts[traced[0]]
        span = self._tracer.child(first)
        began_us = self._clock_us()
        token = current.set(span)
        try:
            results = step(taken)
        finally:
            current.reset(token)
        ended_us = self._clock_us()
        for index in traced:
            links = [] if index == traced[0] else [span]
            self._update(taken, index, parents[index], contexts[index], links, results, began_us, ended_us)
        attributes: Attributes = {"evercurrent.events": len(taken)}
        events = list(contexts.values())
        self._tracer.put(Span(STEP, span, first, SpanKind.INTERNAL, began_us, ended_us, attributes, events))
        return results

    def put(self, key: str, num_bytes: int, began_us: int, ended_us: int) -> None:
        """An object was written."""
        if key.startswith(JOURNAL_PREFIX):
            self._put = key, num_bytes, began_us, ended_us

    def durable(self, rows: Indices) -> None:
        """More of these rows is durable, by the segment that was written last."""
        if not self._waiting or self._put is None:
            return
        links: list[Context] = []
        for row in rows.tolist():
            waiting = self._waiting.pop(row, None)
            if waiting is None:
                continue
            self._num_waiting -= len(waiting)
            durable_version, user = self._residents.durable_version.item(row), self._residents.slab.key(row)
            links += [context for version, of, context in waiting if of == user and version <= durable_version]
            self._wait_for(row, [one for one in waiting if one[1] == user and one[0] > durable_version])
        if links:
            key, num_bytes, began_us, ended_us = self._put
            attributes: Attributes = {"evercurrent.key": key, "evercurrent.bytes": num_bytes}
            context = self._tracer.child(links[0])
            self._tracer.put(Span(PUT, context, links[0], SpanKind.CLIENT, began_us, ended_us, attributes, links))

    def _update(
        self,
        taken: Waiting,
        index: int,
        parent: Context,
        context: Context,
        links: Sequence[Context],
        results: Sequence[Results],
        began_us: int,
        ended_us: int,
    ) -> None:
        marks = taken.marks[index]
        from_links = taken.marks["link"]
        of_link = next(one.records for one in results if one.link == int(marks["link"]))
        record = of_link[int(np.count_nonzero(from_links[:index] == marks["link"]))]
        row, version = int(marks["row"]), int(record["version"])
        status = pb.Status.Name(int(record["status"])).removeprefix("STATUS_").lower()
        user = self._residents.slab.key(row)
        hydrate_us = int(marks["hydrate_us"])
        attributes: Attributes = {
            "user.id": user.partition("\0")[2],
            "evercurrent.status": status,
            "evercurrent.version": version,
            "evercurrent.queue_us": began_us - int(marks["received_us"]),
            "evercurrent.hydrate_us": hydrate_us,
        }
        start_us = int(marks["received_us"]) - hydrate_us
        error = status if status == "rejected" else ""
        self._tracer.put(Span(UPDATE, context, parent, SpanKind.SERVER, start_us, ended_us, attributes, links, error))
        if record["status"] == pb.STATUS_APPLIED:
            self._wait_for(row, [(version, user, context)])

    def _wait_for(self, row: int, updates: list[tuple[int, str, Context]]) -> None:
        if not updates:
            return
        if self._num_waiting + len(updates) > WAITING_MAX:
            # Rows that went to other workers become durable there, and are never told of here.
            self._waiting.clear()
            self._num_waiting = 0
        self._waiting.setdefault(row, []).extend(updates)
        self._num_waiting += len(updates)
