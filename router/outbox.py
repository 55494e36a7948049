"""What the core has for one worker: the outbox that its shell empties into messages, and how the worker is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1 import worker_pb2
from evercurrent.v1.columns_pb2 import IndexedRejection
from evercurrent.wire import Layout
from router.replay import Kept

NOTHING: Mapping[int, bytes] = MappingProxyType({})
Indexed = TypeVar("Indexed", IndexedRejection, worker_pb2.LinkTrace)

OPENS_MAX = 16_384
EVENTS_BYTES_MAX = 4 << 20
"""What one message takes: well below what gRPC lets through, even when the sessions of a whole worker move."""


class Outbox:
    """What waits to be sent to one worker. Bounded by the in-flight bound that the core keeps, and by what moves
    there."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._opens: list[worker_pb2.LinkTagOpen] = []
        self._events: list[bytes] = []
        self._refusals: list[IndexedRejection] = []
        self._traces: list[worker_pb2.LinkTrace] = []
        self._num_events = 0
        self._slots: worker_pb2.LinkSlots | None = None

    def open(self, request: worker_pb2.LinkTagOpen) -> None:
        self._opens.append(request)
        self._wake()

    def send(
        self, raw: bytes, num_events: int, refusal: pb.Rejection | None = None, traces: Mapping[int, bytes] = NOTHING
    ) -> None:
        """Append packed events; a refusal belongs to the single event of kind REFUSED, `traces` to those at these
        indices."""
        if refusal is not None:
            self._refusals.append(IndexedRejection(index=self._num_events, rejection=refusal))
        for index, context in traces.items():
            self._traces.append(worker_pb2.LinkTrace(index=self._num_events + index, context=context))
        self._events.append(raw)
        self._num_events += num_events
        self._wake()

    def send_kept(self, kept: Kept, traces: Mapping[int, bytes] = NOTHING) -> None:
        """Append events that were kept, with their refusals and the contexts of those that are traced."""
        if kept.refusals:
            for index, ordinal in enumerate(kept.ordinals.tolist()):
                if ordinal in kept.refusals:
                    why = kept.refusals[ordinal]
                    self._refusals.append(IndexedRejection(index=self._num_events + index, rejection=why))
        self.send(kept.records.tobytes(), len(kept.records), None, traces)

    def tell_slots(self, slots: Sequence[int]) -> None:
        """These slots' users are sent there from now on."""
        self._slots = worker_pb2.LinkSlots(slots=slots)
        self._wake()

    def drop(self, tags: Sequence[int], layout: Layout) -> None:
        """Unsend the events of tags that the worker gave up. They would come after the open of the session that gets
        such a tag next."""
        events = layout.events(b"".join(self._events))
        kept = ~np.isin(events["tag"], tags)
        places = np.cumsum(kept) - 1
        self._refusals = [_at(places.item(one.index), one) for one in self._refusals if kept[one.index]]
        self._traces = [_at(places.item(one.index), one) for one in self._traces if kept[one.index]]
        self._events = [events[kept].tobytes()]
        self._num_events = int(kept.sum())

    def take(self) -> worker_pb2.LinkRequest:
        """What waits, or as much of it as a message takes: opens first, so that none comes after its tag's events."""
        request = worker_pb2.LinkRequest()
        frame = request.frame
        frame.SetInParent()
        if self._opens:
            frame.opens.extend(self._opens[:OPENS_MAX])
            self._opens = self._opens[OPENS_MAX:]
        if self._slots is not None:
            frame.slots.CopyFrom(self._slots)
            self._slots = None
        if not self._opens:
            self._take_events(frame)
        if self._opens or self._events:
            self._wake()
        return request

    def _take_events(self, frame: worker_pb2.LinkFrame) -> None:
        raw = b"".join(self._events)
        if len(raw) <= EVENTS_BYTES_MAX:
            frame.events = raw
            if self._refusals:
                frame.refusals.extend(self._refusals)
                self._refusals = []
            if self._traces:
                frame.traces.extend(self._traces)
                self._traces = []
            self._events, self._num_events = [], 0
            return
        event_bytes = len(raw) // self._num_events
        num_taken = EVENTS_BYTES_MAX // event_bytes
        frame.events = raw[: num_taken * event_bytes]
        frame.refusals.extend(one for one in self._refusals if one.index < num_taken)
        frame.traces.extend(one for one in self._traces if one.index < num_taken)
        self._refusals = [_at(one.index - num_taken, one) for one in self._refusals if one.index >= num_taken]
        self._traces = [_at(one.index - num_taken, one) for one in self._traces if one.index >= num_taken]
        self._events = [raw[num_taken * event_bytes :]]
        self._num_events -= num_taken


def _at(index: int, one: Indexed) -> Indexed:
    """The same of an event at another place."""
    one.index = index
    return one


class Link:
    """One worker as the core sees it: `outbox` is None while it is not reachable."""

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self.address = address
        self.incarnation = ""
        self.outbox: Outbox | None = None
        self.num_in_flight = 0
        self.num_updates = 0
        self.status = worker_pb2.WorkerStatus()
        """As the worker said last."""
        self.live = ""
        """The model version that is live there."""
        self.numbers: NDArray[np.uint16] | None = None
        """The router's number of each of the worker's numbers of versions, where they differ."""
