"""Admission of a frame against a twin that judges one event at a time."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1.columns_pb2 import (
    EVENT_KIND_CLOSE,
    EVENT_KIND_NO_OUTCOME,
    EVENT_KIND_OBSERVATION,
    EVENT_KIND_QUERY,
    EVENT_KIND_SKIP,
)
from evercurrent.wire import SEQ_MAX
from router.sessions import ACTIVE, CLOSING, NOWHERE, SETTLING, SessionTable

HELD_BACK = -2

EVENTS = np.dtype([("seq", "<u8"), ("kind", "u1")])
NUM_SESSIONS = 5
NUM_WORKERS = 2


@dataclass
class TwinSession:
    """One session of the twin."""

    worker: int
    resumed_at: int
    next_seq: int
    durable_seq: int
    waits: bool
    num_in_flight: int = 0
    state: int = ACTIVE


@dataclass
class TwinTable:
    """One event at a time."""

    sessions: list[TwinSession] = field(default_factory=list)
    num_sent: Counter[int] = field(default_factory=Counter)

    def ordinals(self, sids: list[int]) -> list[int]:
        """Those of events that go on."""
        ordinals = []
        for sid in sids:
            self.num_sent[sid] += 1
            ordinals.append(self.num_sent[sid])
        return ordinals

    def admit(self, sid: int, kind: int, seq: int, room: list[int], session_max: int) -> int | None:
        """None if it goes on, else a reason; -1 for a duplicate, HELD_BACK for a close that waits."""
        session = self.sessions[sid]
        if session.state != ACTIVE:
            return pb.REASON_TAG
        if kind == EVENT_KIND_CLOSE and session.waits and session.durable_seq < session.next_seq - 1:
            session.state = SETTLING
            return HELD_BACK
        if kind == EVENT_KIND_CLOSE:
            session.state = CLOSING
        elif room[session.worker] <= 0 or session.num_in_flight >= session_max:
            return pb.REASON_OVERLOADED
        elif kind == EVENT_KIND_SKIP:
            if seq > SEQ_MAX:
                return pb.REASON_SEQ_GAP
            if seq < session.next_seq:
                return -1
            session.next_seq = seq + 1
        elif kind != EVENT_KIND_QUERY:
            if 0 < seq <= session.resumed_at:
                return -1
            if seq != session.next_seq:
                return pb.REASON_SEQ_GAP if seq > session.next_seq else pb.REASON_SEQ_REGRESSION
            session.next_seq += 1
        room[session.worker] -= 1
        session.num_in_flight += 1
        return None


kinds = st.sampled_from(
    [EVENT_KIND_OBSERVATION] * 6 + [EVENT_KIND_NO_OUTCOME, EVENT_KIND_QUERY, EVENT_KIND_SKIP, EVENT_KIND_CLOSE]
)
offsets = st.sampled_from([0] * 8 + [-1, 1, -3])
events = st.lists(st.tuples(st.integers(0, NUM_SESSIONS - 1), kinds, offsets), min_size=1, max_size=14)
plain = st.lists(
    st.tuples(st.integers(0, NUM_SESSIONS - 1), st.just(EVENT_KIND_OBSERVATION), st.just(0)),
    min_size=1,
    max_size=NUM_SESSIONS,
    unique_by=lambda event: event[0],
)


repeated = st.lists(
    st.tuples(st.integers(0, 1), st.just(EVENT_KIND_OBSERVATION), st.sampled_from([0, 0, -1])), min_size=2, max_size=3
)


@given(
    frames=st.lists(st.one_of(events, plain, repeated), min_size=1, max_size=6),
    resumed=st.lists(
        st.tuples(st.integers(0, 4), st.integers(0, 2), st.booleans()), min_size=NUM_SESSIONS, max_size=NUM_SESSIONS
    ),
    room=st.integers(0, 30),
    session_max=st.integers(1, 8),
    answered=st.lists(st.booleans(), min_size=6, max_size=6),
)
def test_frames_are_admitted_as_one_event_after_the_other(
    frames: list[list[tuple[int, int, int]]],
    resumed: list[tuple[int, int, bool]],
    room: int,
    session_max: int,
    answered: list[bool],
) -> None:
    table, twin = SessionTable(capacity=2), TwinTable()
    for sid, (applied_seq, num_at_risk, waits) in enumerate(resumed):
        durable_seq = max(0, applied_seq - num_at_risk)
        assert table.allocate(feed=1, tag=sid, slot=0, limit=session_max, wait_durable=waits) == sid
        table.worker[sid] = sid % NUM_WORKERS
        table.activate(sid, applied_seq, durable_seq)
        twin.sessions.append(TwinSession(sid % NUM_WORKERS, applied_seq, applied_seq + 1, durable_seq, waits))
    left = [room] * NUM_WORKERS
    for frame, all_answered in zip(frames, answered, strict=False):
        records = np.zeros(len(frame), EVENTS)
        before = np.array(left)
        expected = []
        for index, (sid, kind, offset) in enumerate(frame):
            seq = max(0, twin.sessions[sid].next_seq + offset)
            if kind == EVENT_KIND_SKIP and offset == -3:
                seq = SEQ_MAX + 1
            records[index] = (seq, kind)
            expected.append(twin.admit(sid, kind, seq, left, session_max))
        sids = np.array([sid for sid, _, _ in frame], np.int32)
        admission = table.admit(sids, records, before)
        assert admission.accepted.tolist() == [why is None for why in expected]
        assert admission.ordinals.tolist() == twin.ordinals(sids[admission.accepted].tolist())
        assert list(admission.duplicates) == [index for index, why in enumerate(expected) if why == -1]
        assert {index: why.reason for index, why in admission.refused.items()} == {
            index: why for index, why in enumerate(expected) if why not in (None, -1, HELD_BACK)
        }
        for sid, session in enumerate(twin.sessions):
            assert int(table.next_seq[sid]) == session.next_seq
            assert table.num_unanswered(sid) == session.num_in_flight
            assert int(table.state[sid]) == session.state
        if all_answered:
            _settle_all(table, twin)
            table.num_answered[:] = table.num_sent
            left = [room] * NUM_WORKERS
            for session in twin.sessions:
                session.num_in_flight = 0


def _settle_all(table: SessionTable, twin: TwinTable) -> None:
    """All that was sent is durable now, by watermarks of which some are old."""
    sids = np.arange(NUM_SESSIONS, dtype=np.int64)
    seqs = np.array([session.next_seq - 1 for session in twin.sessions], np.uint64)
    waiting = [sid for sid, session in enumerate(twin.sessions) if session.state == SETTLING]
    assert table.settled(sids) == [], "nothing became durable"
    table.raise_durable(np.repeat(sids, 2), np.stack([seqs, seqs // np.uint64(2)], axis=1).ravel())
    assert table.is_durable(sids).all()
    assert table.settled(np.repeat(sids, 2)) == waiting
    for session in twin.sessions:
        session.durable_seq = session.next_seq - 1
        session.state = CLOSING if session.state == SETTLING else session.state


def test_a_freed_sid_starts_anew() -> None:
    table = SessionTable(capacity=1)
    first = table.allocate(feed=1, tag=3, slot=7, limit=5, wait_durable=True)
    table.num_sent[first] = 9
    table.activate(first, 41, 40)
    assert table.judge_seq(first, 41) is None
    table.free(first)
    assert (table.num_unanswered(first), int(table.base[first])) == (0, 9)
    again = table.allocate(feed=2, tag=4, slot=8, limit=6)
    assert again == first
    assert (table.num_unanswered(again), int(table.base[again])) == (0, 9)
    assert (int(table.slot[again]), int(table.limit[again])) == (8, 6)
    assert (int(table.next_seq[again]), int(table.resumed_at[again]), len(table)) == (1, 0, 1)
    assert (int(table.durable_seq[again]), bool(table.wait_durable[again])) == (0, False)
    assert table.of_worker(NOWHERE).tolist() == [again]
    assert table.of_worker(1).tolist() == []
