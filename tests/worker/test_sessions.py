"""The session log against a dictionary of dictionaries."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from evercurrent.errors import Refused
from evercurrent.v1 import observation_pb2 as pb
from worker.sessions import SESSIONS_PER_USER, UNSEQUENCED, SessionLog

NUM_ROWS = 4
session_ids = st.integers(1, 24).map(lambda number: number << 70 | 5)


@dataclass
class Known:
    """What the twin knows of a session."""

    last_seq: int = 0
    durable_seq: int = 0
    num_feeds: int = 0
    entry: int = UNSEQUENCED


@dataclass
class User:
    """What the twin knows of a user."""

    floor: int = 0
    sessions: dict[int, Known] = field(default_factory=dict)


class SessionLogMachine(RuleBasedStateMachine):
    """Opens, closes, consumes, makes durable and drops, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.log = SessionLog(NUM_ROWS)
        self.users = [User() for _ in range(NUM_ROWS)]

    @rule(row=st.integers(0, NUM_ROWS - 1), session_id=session_ids)
    def open(self, row: int, session_id: int) -> None:
        user = self.users[row]
        known = user.sessions.get(session_id)
        if known is None:
            done = [
                other
                for other, facts in user.sessions.items()
                if not facts.num_feeds and facts.durable_seq == facts.last_seq
            ]
            full = len(user.sessions) == SESSIONS_PER_USER
            if session_id <= user.floor or (full and not done):
                with pytest.raises(Refused) as caught:
                    self.log.open(row, session_id)
                forgotten = session_id <= user.floor
                expected = pb.REASON_SESSION_FORGOTTEN if forgotten else pb.REASON_OVERLOADED
                assert caught.value.rejection.reason == expected
                return
            if full:
                del user.sessions[min(done)]
                user.floor = max(user.floor, min(done))
            known = user.sessions[session_id] = Known()
        known.num_feeds += 1
        known.entry = self.log.open(row, session_id)
        assert int(self.log.last_seq[known.entry]) == known.last_seq
        assert self.log.session_id(known.entry) == session_id

    def fed(self) -> list[Known]:
        return [facts for user in self.users for facts in user.sessions.values() if facts.num_feeds]

    @precondition(lambda self: self.fed())
    @rule(data=st.data())
    def consume(self, data: st.DataObject) -> None:
        known = data.draw(st.sampled_from(self.fed()))
        known.last_seq += 1
        self.log.last_seq[known.entry] += 1

    @rule(row=st.integers(0, NUM_ROWS - 1))
    def make_durable(self, row: int) -> None:
        for known in self.users[row].sessions.values():
            known.durable_seq = known.last_seq
            self.log.durable_seq[known.entry] = known.last_seq

    @precondition(lambda self: self.fed())
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        known = data.draw(st.sampled_from(self.fed()))
        known.num_feeds -= 1
        self.log.close(known.entry)

    @rule(row=st.integers(0, NUM_ROWS - 1))
    def drop(self, row: int) -> None:
        if not any(facts.num_feeds for facts in self.users[row].sessions.values()):
            self.log.drop(row)
            self.users[row] = User()

    @invariant()
    def entries_are_each_ones_own(self) -> None:
        entries = [facts.entry for user in self.users for facts in user.sessions.values()]
        assert len(set(entries)) == len(entries) == len(self.log)
        assert UNSEQUENCED not in entries
        for row, user in enumerate(self.users):
            assert {self.log.session_id(entry) for entry in self.log.of(row)} == user.sessions.keys()


TestSessionLog = SessionLogMachine.TestCase
TestSessionLog.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)


def test_the_oldest_unfed_session_makes_room_and_is_not_started_anew() -> None:
    log = SessionLog(2)
    entries = {number: log.open(1, number) for number in range(1, SESSIONS_PER_USER + 1)}
    with pytest.raises(Refused, match="16 sessions is open or not durable yet"):
        log.open(1, 100)
    log.close(entries[2])
    log.close(entries[5])
    log.open(1, 100)
    with pytest.raises(Refused, match="newer sessions took its place"):
        log.open(1, 2)
    assert log.open(1, 1) == entries[1]
    log.open(1, 101)
    with pytest.raises(Refused, match="newer sessions took its place"):
        log.open(1, 5)


def test_a_session_that_is_not_durable_yet_keeps_its_place() -> None:
    log = SessionLog(2)
    for number in range(1, SESSIONS_PER_USER + 1):
        entry = log.open(1, number)
        log.last_seq[entry] = 1
        log.close(entry)
    with pytest.raises(Refused, match="not durable yet"):
        log.open(1, 100)
    log.durable_seq[log.of(1)] = 1
    log.open(1, 100)
    assert {log.session_id(entry) for entry in log.of(1)} == {*range(2, SESSIONS_PER_USER + 1), 100}


def test_there_is_room_for_all_that_users_may_have() -> None:
    log = SessionLog(101)
    ids = range(1, SESSIONS_PER_USER + 1)
    entries = {(row, number): log.open(row, number) for row in range(1, 101) for number in ids}
    assert len(log) == len(set(entries.values())) == 100 * SESSIONS_PER_USER
    assert [log.session_id(entry) for entry in entries.values()] == [number for _, number in entries]
