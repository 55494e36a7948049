"""The sessions of a router: where each one is and what it may send next. A pure state machine over arrays.

    FREE → OPENING → ACTIVE → (SETTLING →) CLOSING → FREE

A session is named by a small number, its *sid*, which is also its tag on the link. Arrays, because a frame of
hundreds of events is admitted by a few operations; one event by itself reads single cells of the same arrays. The
worker is the judge of seqs; the router checks them first so that what is wrong is answered near, and resumes where
the worker says. A session that waits for durability is SETTLING from its close until all that was sent of it is
durable; only then is the worker told of the close. In any of these states a session may be *moving*: it is on no worker
(`worker` is NOWHERE), and what is sent for it is held (router.moves).

Events are counted by session: the n-th that was sent has the *ordinal* n, whoever was the sid before; answers come in
the order of the events. So an event is answered when its ordinal is at most `num_answered`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1.columns_pb2 import (
    EVENT_KIND_CLOSE,
    EVENT_KIND_NO_OUTCOME,
    EVENT_KIND_OBSERVATION,
    EVENT_KIND_QUERY,
    EVENT_KIND_SKIP,
)
from evercurrent.wire import SEQ_MAX, Records

FREE, OPENING, ACTIVE, SETTLING, CLOSING = range(5)

NOBODY = 0
"""The feed of sessions whose stream is gone: what still comes for them is dropped."""

NOWHERE = 0
"""The worker of sessions that are moving."""

Indices = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Admission:
    """Which events of a frame go on: `accepted` in order; `refused` and `duplicate` by index. A close that is none of
    these goes on later. `ordinals` are those of the accepted ones."""

    accepted: NDArray[np.bool_]
    refused: dict[int, pb.Rejection]
    ordinals: NDArray[np.int64]
    duplicates: tuple[int, ...] = ()


class SessionTable:
    """All sessions, by sid: `state`, `feed` (who feeds it), `worker` (index of its link), `slot`, `tag` (the feed's own
    name for it), `next_seq` (expected), `resumed_at` (consumed before this feed opened it), `durable_seq` (as told by
    the worker), `wait_durable` (whether its close waits, and its feed is told), `limit` (events that may be
    unanswered), `num_sent` and `num_answered` (ordinals), `base` (the last ordinal of whoever was the sid before),
    `num_muted` (results to come first that are for nobody)."""

    def __init__(self, capacity: int = 1024) -> None:
        self.state = np.zeros(capacity, np.uint8)
        self.feed = np.zeros(capacity, np.int32)
        self.worker = np.zeros(capacity, np.int16)
        self.slot = np.zeros(capacity, np.int16)
        self.tag = np.zeros(capacity, np.uint32)
        self.next_seq = np.zeros(capacity, np.uint64)
        self.resumed_at = np.zeros(capacity, np.uint64)
        self.durable_seq = np.zeros(capacity, np.uint64)
        self.wait_durable = np.zeros(capacity, np.bool_)
        self.limit = np.zeros(capacity, np.int32)
        self.num_sent = np.zeros(capacity, np.int64)
        self.num_answered = np.zeros(capacity, np.int64)
        self.base = np.zeros(capacity, np.int64)
        self.num_muted = np.zeros(capacity, np.int32)
        self._last = np.zeros(capacity, np.int64)
        self.num_raised = 0
        """How often `durable_seq` was raised, of whomever."""
        self._free: list[int] = []
        self._used = 0

    def __len__(self) -> int:
        return self._used - len(self._free)

    def allocate(self, feed: int, tag: int, slot: int, limit: int, wait_durable: bool = False) -> int:
        """A new session, OPENING and NOWHERE."""
        if self._free:
            sid = self._free.pop()
        else:
            if self._used == len(self.state):
                self._grow()
            sid = self._used
            self._used += 1
        self.worker[sid] = NOWHERE
        self.slot[sid] = slot
        self.limit[sid] = limit
        self.durable_seq[sid] = 0
        self.begin(sid, feed, tag, wait_durable)
        return sid

    def begin(self, sid: int, feed: int, tag: int, wait_durable: bool) -> None:
        """A feed opens the session, for the first time or instead of the one before."""
        self.state[sid] = OPENING
        self.feed[sid] = feed
        self.tag[sid] = tag
        self.next_seq[sid] = 1
        self.resumed_at[sid] = 0
        self.wait_durable[sid] = wait_durable

    def activate(self, sid: int, applied_seq: int, durable_seq: int) -> None:
        """The worker opened the session and has consumed this much of it, of which so much is durable."""
        if self.state[sid] == OPENING:
            self.state[sid] = ACTIVE
        self.resumed_at[sid] = applied_seq
        self.next_seq[sid] = max(self.next_seq.item(sid), applied_seq + 1)
        self.durable_seq[sid] = max(self.durable_seq.item(sid), durable_seq)

    def num_unanswered(self, sid: int) -> int:
        """Events sent or held and not answered."""
        return self.num_sent.item(sid) - self.num_answered.item(sid)

    def raise_durable(self, sids: NDArray[np.int64], seqs: NDArray[np.uint64]) -> None:
        """The worker said that so much is durable; what it said before may have been more."""
        np.maximum.at(self.durable_seq, sids, seqs)
        self.num_raised += 1

    def is_durable(self, sids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Of which of these sessions all that was sent is durable."""
        return self.durable_seq[sids] + np.uint64(1) >= self.next_seq[sids]

    def settled(self, sids: NDArray[np.int64]) -> list[int]:
        """Those of these sessions that were SETTLING and have nothing to wait for any more: they are CLOSING."""
        is_settling = self.state[sids] == SETTLING
        if not is_settling.any():
            return []
        settling = np.unique(sids[is_settling])
        settled = settling[self.is_durable(settling)]
        self.state[settled] = CLOSING
        return [int(sid) for sid in settled]

    def free(self, sid: int) -> None:
        """The sid may be given to another session; nothing is owed to it, and nothing of it is needed."""
        assert not self.num_muted[sid], "a sid whose results are still to come is not free"
        self.base[sid] = self.num_answered[sid] = self.num_sent[sid]
        self.state[sid] = FREE
        self.feed[sid] = NOBODY
        self._free.append(sid)

    def of_worker(self, worker: int) -> Indices:
        """All sids in use that are on this worker."""
        return np.flatnonzero((self.worker == worker) & (self.state != FREE))

    def judge_seq(self, sid: int, seq: int) -> pb.Rejection | None:
        """Why a seq that is not the next one and no replay cannot be taken; None for a replay (seq <= resumed_at)."""
        if seq <= self.resumed_at[sid] and seq > 0:
            return None
        expected = int(self.next_seq[sid])
        if seq > expected:
            return pb.Rejection(
                reason=pb.REASON_SEQ_GAP, field="seq", message=f"{seq} came where {expected} is expected"
            )
        return pb.Rejection(
            reason=pb.REASON_SEQ_REGRESSION, field="seq", message=f"{seq} came again; {expected} is expected"
        )

    def admit(self, sids: NDArray[np.int32], events: Records, room: NDArray[np.int64]) -> Admission:
        """Which of these events of ACTIVE sessions go on. Moves `next_seq` and counts them as sent.

        `room[w]` is how many more events worker w may be sent. Beyond it, and beyond the session's limit, events are
        refused with REASON_OVERLOADED and consume nothing.
        """
        num = len(events)
        indices = sids.astype(np.intp)
        if self._all_plain(indices, events, room):
            self.next_seq[indices] = events["seq"] + np.uint64(1)
            ordinals = self.num_sent[indices] + 1
            self.num_sent[indices] = ordinals
            return Admission(np.ones(num, np.bool_), {}, ordinals)
        return self._admit_singly(indices, events, room)

    def _all_plain(self, sids: Indices, events: Records, room: NDArray[np.int64]) -> bool:
        """Whether this is the usual frame: one due observation each of different active sessions, and room for all."""
        kinds = events["kind"]
        order = np.arange(len(sids))
        self._last[sids] = order
        plain = (kinds == EVENT_KIND_OBSERVATION) | (kinds == EVENT_KIND_NO_OUTCOME)
        plain &= self._last[sids] == order
        plain &= events["seq"] == self.next_seq[sids]
        plain &= self.state[sids] == ACTIVE
        plain &= self.num_sent[sids] - self.num_answered[sids] < self.limit[sids]
        return np.count_nonzero(plain) == len(sids) and bool(
            (np.bincount(self.worker[sids], minlength=len(room)) <= room).all()
        )

    def _admit_singly(self, sids: Indices, events: Records, room: NDArray[np.int64]) -> Admission:
        accepted = np.zeros(len(events), np.bool_)
        ordinals: list[int] = []
        refused: dict[int, pb.Rejection] = {}
        duplicates: list[int] = []
        left = room.tolist()
        columns = (sids.tolist(), events["kind"].tolist(), events["seq"].tolist())
        for index, (sid, kind, seq) in enumerate(zip(*columns, strict=True)):
            worker = int(self.worker[sid])
            why = self._refusal(sid, kind, seq, left[worker])
            if why is not None:
                refused[index] = why
            elif kind not in (EVENT_KIND_QUERY, EVENT_KIND_CLOSE) and seq < self.next_seq[sid]:
                duplicates.append(index)
            elif kind == EVENT_KIND_CLOSE and self._must_settle(sid):
                self.state[sid] = SETTLING
            else:
                accepted[index] = True
                left[worker] -= 1
                self.num_sent[sid] += 1
                ordinals.append(self.num_sent.item(sid))
                if kind == EVENT_KIND_CLOSE:
                    self.state[sid] = CLOSING
                elif kind != EVENT_KIND_QUERY:
                    self.next_seq[sid] = seq + 1
        return Admission(accepted, refused, np.array(ordinals, np.int64), tuple(duplicates))

    def _must_settle(self, sid: int) -> bool:
        return bool(self.wait_durable[sid] and self.durable_seq[sid] + np.uint64(1) < self.next_seq[sid])

    def _refusal(self, sid: int, kind: int, seq: int, room: int) -> pb.Rejection | None:
        if self.state[sid] != ACTIVE:
            return pb.Rejection(reason=pb.REASON_TAG, field="tag", message="the session is closed")
        if kind == EVENT_KIND_CLOSE:
            return None
        if room <= 0:
            return overloaded("the worker's queue is full")
        if self.num_unanswered(sid) >= self.limit[sid]:
            return overloaded(f"the session has {self.limit[sid]} events in flight")
        if kind == EVENT_KIND_QUERY:
            return None
        if kind == EVENT_KIND_SKIP:
            return None if seq <= SEQ_MAX else too_far(seq, "seq")
        return None if seq == self.next_seq[sid] else self.judge_seq(sid, seq)

    def _grow(self) -> None:
        size = 2 * len(self.state)
        for name, old in vars(self).items():
            if isinstance(old, np.ndarray):
                new = np.zeros(size, old.dtype)
                new[: len(old)] = old
                setattr(self, name, new)


def too_far(seq: int, field: str) -> pb.Rejection:
    """A skip to a seq that none can follow."""
    return pb.Rejection(reason=pb.REASON_SEQ_GAP, field=field, message=f"{seq} is above {SEQ_MAX}")


def overloaded(message: str) -> pb.Rejection:
    """Come back soon."""
    return pb.Rejection(reason=pb.REASON_OVERLOADED, message=message, retry_after_ms=50)
