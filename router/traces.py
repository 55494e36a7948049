"""Events on their way through a router that are traced: their contexts, and their spans once they are answered.

The span of an event begins when it is sent and ends when its result is there, whichever workers it was sent to between.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from evercurrent.telemetry.tracing import Context, NotSampled, Span, SpanKind, Tracer, parse_traceparent
from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1.columns_pb2 import EVENT_KIND_NO_OUTCOME, EVENT_KIND_OBSERVATION
from evercurrent.wire import Records

NAME = "evercurrent.update"
STATUSES = {number: name.removeprefix("STATUS_").lower() for name, number in pb.Status.items()}

Traceparents = Mapping[tuple[int, int], str]
"""By session and seq."""
NO_TRACEPARENTS: Traceparents = MappingProxyType({})
Contexts = Mapping[int, bytes]
"""What goes with the events at these indices."""


@dataclass(frozen=True, slots=True)
class _Traced:
    ordinal: int
    seq: int
    context: Context
    parent: Context | None
    began_us: int


class Traces:
    """By session. Bounded as what is unanswered is. Without a tracer no span is made here, and none begins: a worker's
    spans are those of whoever gave the context."""

    def __init__(self, tracer: Tracer | None, clock_us: Callable[[], int], user_of: Callable[[int], str]) -> None:
        self._tracer = tracer
        self._clock_us = clock_us
        self._user_of = user_of
        self._under_way: dict[int, deque[_Traced]] = {}

    def begin(self, sid: int, ordinal: int, seq: int, traceparent: str) -> bytes | None:
        """An event is about to be sent; what is to go with it, None if it is not traced."""
        found = parse_traceparent(traceparent) if traceparent else None
        if isinstance(found, NotSampled):
            return None
        if found is None and (self._tracer is None or not self._tracer.begins()):
            return None
        return self._begin(sid, ordinal, seq, found)

    def begin_many(
        self,
        events: Records,
        ordinals: NDArray[np.int64],
        traceparents: Traceparents,
    ) -> dict[int, bytes]:
        """As `begin`, for events under their sids; the traceparents are by sid and seq. By index of event."""
        chosen: dict[int, Context | None] = {}
        if self._tracer is not None:
            chosen = dict.fromkeys(self._tracer.begin_some(len(events)))
        if traceparents:
            for index, key in enumerate(zip(events["tag"].tolist(), events["seq"].tolist(), strict=True)):
                found = parse_traceparent(traceparents.get(key, ""))
                if isinstance(found, NotSampled):
                    chosen.pop(index, None)
                elif found is not None:
                    chosen[index] = found
        begun: dict[int, bytes] = {}
        for index in sorted(chosen):
            event = events[index]
            if event["kind"] in (EVENT_KIND_OBSERVATION, EVENT_KIND_NO_OUTCOME):
                begun[index] = self._begin(int(event["tag"]), ordinals.item(index), int(event["seq"]), chosen[index])
        return begun

    def _begin(self, sid: int, ordinal: int, seq: int, parent: Context | None) -> bytes:
        if self._tracer is not None:
            context = self._tracer.child(parent)
        else:
            assert parent is not None, "who has no tracer begins no trace"
            context = parent
        traced = _Traced(ordinal, seq, context, parent, self._clock_us())
        self._under_way.setdefault(sid, deque()).append(traced)
        return context.packed()

    def again(self, sid: int, ordinals: NDArray[np.int64]) -> dict[int, bytes]:
        """What is to go with events that are sent once more, by index."""
        if sid not in self._under_way:
            return {}
        by_ordinal = {traced.ordinal: traced for traced in self._under_way[sid]}
        return {
            index: by_ordinal[ordinal].context.packed()
            for index, ordinal in enumerate(ordinals.tolist())
            if ordinal in by_ordinal
        }

    def answered(self, sids: NDArray[np.int64], num_answered: NDArray[np.int64], records: Records, worker: str) -> None:
        """These results came, each of a session of which so many are answered now."""
        if len(sids) == 1:
            found, records_of = [sids.item(0)], {sids.item(0): records}
        else:
            found = list(self._under_way.keys() & set(sids.tolist()))
            records_of = {sid: records[sids == sid] for sid in found}
        for sid in found:
            own = records_of[sid]
            last = num_answered.item(sid)
            waiting = self._under_way.get(sid, deque())
            while waiting and waiting[0].ordinal <= last:
                traced = waiting.popleft()
                at = traced.ordinal - (last - len(own)) - 1
                # One that is not among these was answered to a feed that is gone.
                self._end(sid, traced, own[at] if at >= 0 else None, worker)
            if not waiting:
                self._under_way.pop(sid, None)

    def forget(self, sid: int) -> None:
        """What is under way of a session gets no answer that anybody takes."""
        for traced in self._under_way.pop(sid, ()):
            self._end(sid, traced, None, "")

    @property
    def is_idle(self) -> bool:
        """Whether nothing that is traced is under way."""
        return not self._under_way

    def _end(self, sid: int, traced: _Traced, record: np.void | None, worker: str) -> None:
        if self._tracer is None:
            return
        attributes: dict[str, str | int] = {"user.id": self._user_of(sid), "evercurrent.seq": traced.seq}
        error = "no answer"
        if record is not None:
            said = dict(zip(record.dtype.names or (), record.item(), strict=True))
            status = STATUSES[said["status"]]
            attributes |= {
                "evercurrent.worker": worker,
                "evercurrent.status": status,
                "evercurrent.version": said["version"],
                "evercurrent.queue_us": said["queue_us"],
                "evercurrent.hydrate_us": said["hydrate_us"],
                "evercurrent.step_us": said["step_us"],
            }
            error = status if status == "rejected" else ""
        self._tracer.put(
            Span(
                NAME,
                traced.context,
                traced.parent,
                SpanKind.SERVER,
                traced.began_us,
                self._clock_us(),
                attributes,
                error=error,
            )
        )


def shared_out(contexts: Contexts, ours: NDArray[np.bool_]) -> Contexts:
    """Of contexts by index, those of some events, by index among these."""
    places = np.cumsum(ours) - 1
    return {places.item(index): context for index, context in contexts.items() if ours[index]}
