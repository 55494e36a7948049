"""What was sent to workers and may have to be sent again: a log in the order of sending. Pure.

An event is kept until it is answered and, where it consumes a seq, durable. A log by session would cost an object an
event; here a frame is one entry, and what is needed no more goes when the log has doubled. When a session moves its
events are taken out. Bounded in events and bytes: beyond, the oldest that are answered are given up and counted; should
the worker die before they are durable, they are lost.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1.columns_pb2 import EVENT_KIND_CLOSE, EVENT_KIND_QUERY, EVENT_KIND_REFUSED
from evercurrent.wire import Records
from router.sessions import SessionTable

COMPACT_MIN = 4096
"""Events below which the log is not looked through."""

LEFT_WHEN_FULL = 0.75
"""Of a full log so much is kept, or it would be looked through at every event."""

_ORDINAL = struct.Struct("<q")


@dataclass(slots=True, eq=False)
class Kept:
    """Events of one session, with their ordinals; why some were refused before they were sent, by ordinal."""

    records: Records
    ordinals: NDArray[np.int64]
    refusals: dict[int, pb.Rejection] = field(default_factory=dict)


@dataclass(slots=True)
class _Marks:
    """What is unusual about events of one session: why some were refused before they were sent, by ordinal; which seqs
    were answered and not consumed, up to which ordinal; which were consumed without effect, for their time was over."""

    refusals: dict[int, pb.Rejection] = field(default_factory=dict)
    void: dict[int, int] = field(default_factory=dict)
    expired: set[int] = field(default_factory=set)


class ReplayLog:
    """The events of all sessions. `num_dropped` counts those that were given up."""

    def __init__(self, sessions: SessionTable, events_max: int, bytes_max: int) -> None:
        self.num_dropped = 0
        self._sessions = sessions
        self._events_max = events_max
        self._bytes_max = bytes_max
        self._dtype = np.dtype([])
        # Bytes and arrays alike: what has a buffer is joined.
        self._raws: list[Any] = []
        self._ordinals: list[Any] = []
        self._num_events = 0
        self._capacity = 0
        self._compact_at = 0
        self._marks: dict[int, _Marks] = {}
        self._looked_at = 0

    def __len__(self) -> int:
        return self._num_events

    @property
    def num_bytes(self) -> int:
        """What the events take."""
        return self._num_events * (self._dtype.itemsize + _ORDINAL.size)

    @property
    def is_full(self) -> bool:
        """Whether no event can be added without giving up another."""
        if self._num_events >= self._capacity and self._looked_at != self._sessions.num_raised:
            self.compact()
        return self._num_events >= self._capacity

    def begin(self, dtype: np.dtype[np.void]) -> None:
        """Events are of this layout from now on; those of before are forgotten."""
        self._dtype = dtype
        self._capacity = min(self._events_max, self._bytes_max // (dtype.itemsize + _ORDINAL.size))
        self._put(np.zeros(0, dtype), np.zeros(0, np.int64))
        self._marks.clear()

    def add(self, raw: bytes, last_ordinal: int, num_events: int = 1, refusal: pb.Rejection | None = None) -> None:
        """Keep events of one session with consecutive ordinals; a refusal belongs to a single event of kind REFUSED."""
        if num_events == 1:
            self._ordinals.append(_ORDINAL.pack(last_ordinal))
        else:
            self._ordinals.append(np.arange(last_ordinal - num_events + 1, last_ordinal + 1))
        if refusal is not None:
            sid = int(np.frombuffer(raw, self._dtype)["tag"][0])
            self._marks_of(sid).refusals[last_ordinal] = refusal
        self._raws.append(raw)
        self._grow(num_events)

    def add_many(self, raw: bytes | Records, ordinals: NDArray[np.int64]) -> None:
        """Keep events of many sessions; both are the log's from now on."""
        self._raws.append(raw)
        self._ordinals.append(ordinals)
        self._grow(len(ordinals))

    def add_kept(self, kept: Kept) -> None:
        """Keep events that were taken out, and are sent once more."""
        if not len(kept.records):
            return
        self.add_many(kept.records, kept.ordinals)
        if kept.refusals:
            self._marks_of(int(kept.records["tag"][0])).refusals.update(kept.refusals)

    def not_consumed(self, sid: int, seq: int) -> None:
        """This event was answered and did not consume its seq: another will come with it."""
        self._marks_of(sid).void[seq] = self._sessions.num_answered.item(sid)

    def expired(self, sid: int, seq: int) -> None:
        """This event consumed its seq without effect, as its time was over; it must have none when it is sent again."""
        self._marks_of(sid).expired.add(seq)

    def take(self, sids: NDArray[np.int64]) -> dict[int, Kept]:
        """Take out what is needed of some sessions; of each what there is, in order."""
        records, ordinals = self._needed()
        ours = np.isin(records["tag"], sids)
        self._put(records.compress(~ours), ordinals[~ours])
        records, ordinals = records.compress(ours), ordinals[ours]
        order = np.argsort(records["tag"], kind="stable")
        records, ordinals = records.take(order), ordinals[order]
        bounds = [*np.flatnonzero(np.diff(records["tag"], prepend=np.int64(-1))).tolist(), len(records)]
        return {
            int(records["tag"][start]): self._kept(records[start:end], ordinals[start:end])
            for start, end in pairwise(bounds)
        }

    def compact(self) -> None:
        """Let go of what is needed no more."""
        self._put(*self._needed())
        self._looked_at = self._sessions.num_raised
        for sid, marks in list(self._marks.items()):
            durable_seq = self._sessions.durable_seq.item(sid)
            num_answered = self._sessions.num_answered.item(sid)
            marks.void = {seq: ordinal for seq, ordinal in marks.void.items() if seq > durable_seq}
            marks.expired = {seq for seq in marks.expired if seq > durable_seq}
            marks.refusals = {ordinal: why for ordinal, why in marks.refusals.items() if ordinal > num_answered}
            if not (marks.void or marks.expired or marks.refusals):
                del self._marks[sid]

    def forget(self, sid: int) -> None:
        """The sid is free: what was unusual concerns nobody any more. Its events are not needed, by their ordinals."""
        self._marks.pop(sid, None)

    def _kept(self, records: Records, ordinals: NDArray[np.int64]) -> Kept:
        sid = int(records["tag"][0])
        marks = self._marks.get(sid)
        if marks is None:
            return Kept(records, ordinals)
        stays = np.ones(len(records), np.bool_)
        for index in np.flatnonzero(ordinals <= self._sessions.num_answered[sid]).tolist():
            seq = int(records["seq"][index])
            if ordinals[index] <= marks.void.get(seq, 0):
                stays[index] = False
            elif seq in marks.expired:
                records["kind"][index] = EVENT_KIND_REFUSED
        return Kept(records.compress(stays), ordinals[stays], dict(marks.refusals))

    def _marks_of(self, sid: int) -> _Marks:
        return self._marks.setdefault(sid, _Marks())

    def _grow(self, num_events: int) -> None:
        self._num_events += num_events
        if self._num_events >= self._compact_at:
            self.compact()
            if self._num_events > self._capacity:
                self._give_up()

    def _give_up(self) -> None:
        """Give up the oldest that are answered."""
        records, ordinals = self._all()
        num_over = len(records) - int(LEFT_WHEN_FULL * self._capacity)
        answered = np.flatnonzero(ordinals <= self._sessions.num_answered[records["tag"]])[:num_over]
        self.num_dropped += len(answered)
        stays = np.ones(len(records), np.bool_)
        stays[answered] = False
        self._put(records.compress(stays), ordinals[stays])

    def _needed(self) -> tuple[Records, NDArray[np.int64]]:
        records, ordinals = self._all()
        sids = records["tag"]
        sessions = self._sessions
        kinds = records["kind"]
        consumes = (kinds != EVENT_KIND_QUERY) & (kinds != EVENT_KIND_CLOSE)
        is_needed = (ordinals > sessions.num_answered[sids]) | (
            consumes & (records["seq"] > sessions.durable_seq[sids])
        )
        is_needed &= ordinals > sessions.base[sids]
        return records.compress(is_needed), ordinals[is_needed]

    def _all(self) -> tuple[Records, NDArray[np.int64]]:
        return (
            np.frombuffer(bytearray().join(self._raws), self._dtype),
            np.frombuffer(bytearray().join(self._ordinals), np.int64),
        )

    def _put(self, records: Records, ordinals: NDArray[np.int64]) -> None:
        self._raws = [records]
        self._ordinals = [ordinals]
        self._num_events = len(records)
        self._compact_at = min(max(COMPACT_MIN, 2 * len(records)), self._capacity + 1)
