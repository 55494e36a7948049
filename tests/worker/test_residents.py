"""Bulk operations on residents against the same things done one by one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from persistence.errors import SchemaMismatch
from persistence.packing import Part
from persistence.rows import Rows, joined_rows
from worker.parts import VersionStates
from worker.residents import CLEAN, DIRTY, IN_FLIGHT, NOWHERE, Residents

USERS = [f"user-{number}" for number in range(12)]
RESIDENTS_MAX = 8
STATE_WIDTH = 2


def a_row(number: int, version: int, is_forgotten: bool, num_sessions: int) -> Rows:
    """One stored user; all its numbers tell whose they are."""
    sessions = [(number, 100 + at, 10 * version + at, at, version) for at in range(num_sessions)]
    return Rows(
        [USERS[number]],
        np.array([number % 3], np.uint16),
        np.array([[1, number]], np.uint64),
        np.array([version + 1], np.uint64),
        np.array([version], np.uint64),
        np.array([is_forgotten]),
        np.array([[0, number]], np.uint64),
        np.full((1, STATE_WIDTH), 0 if is_forgotten else number, np.float32),
        np.array([num_sessions], np.int32),
        np.array(sessions, np.uint64).reshape(-1, 5),
        (Part("model", STATE_WIDTH),),
    )


rows_of = st.builds(a_row, st.integers(0, len(USERS) - 1), st.integers(0, 5), st.booleans(), st.integers(0, 3))
some_rows = st.lists(rows_of, max_size=6, unique_by=lambda rows: rows.users[0])
steps = st.lists(st.tuples(some_rows, st.lists(st.sampled_from(USERS), max_size=5, unique=True)), max_size=8)


def facts(residents: Residents) -> dict[str, tuple[object, ...]]:
    """All that is known of each user, wherever its row is."""
    slab, known = residents.slab, {}
    for user in slab:
        row = slab.find(user)
        assert row is not None
        assert slab.key(row) == user
        gathered, _ = residents.gather(np.array([row], np.intp), np.zeros((4096, 2), np.uint64))
        entries = residents.sessions.of(row)
        known[user] = (
            slab.state[row].tolist(),
            gathered.floors.tolist(),
            gathered.sessions.tolist(),
            residents.sessions.landed_seq[entries].tolist(),
            *(
                column.item(row)
                for column in (
                    slab.version,
                    slab.slot,
                    slab.num_tags,
                    residents.dirty,
                    residents.segment,
                    residents.unlanded,
                    residents.forgotten,
                    residents.landed_version,
                    residents.durable_version,
                )
            ),
        )
    return known


@given(steps)
def test_many_come_and_go_as_one_by_one(script: list[tuple[list[Rows], list[str]]]) -> None:
    bulk, single = (Residents(np.array([7, 7], np.float32), RESIDENTS_MAX) for _ in range(2))
    for coming, going in script:
        new = [rows for rows in coming if bulk.slab.find(rows.users[0]) is None][: bulk.slab.num_free]
        if new:
            at = bulk.take_over(joined_rows(new))
            assert [bulk.slab.key(row) for row in at.tolist()] == [rows.users[0] for rows in new]
            for rows in new:
                (row,) = single.take_over(rows).tolist()
                assert row == single.slab.find(rows.users[0])
        assert facts(bulk) == facts(single)
        here = [user for user in going if bulk.slab.find(user) is not None]
        bulk.drop_rows(np.array([bulk.slab.find(user) for user in here], np.intp))
        for user in here:
            row = single.slab.find(user)
            assert row is not None
            single.drop(row)
        assert facts(bulk) == facts(single)
        assert bulk.num_unlanded.tolist() == single.num_unlanded.tolist()
        assert len(bulk.sessions) == len(single.sessions)
        at_risk = sum(
            bulk.slab.version.item(row) - bulk.durable_version.item(row)
            for user in bulk.slab
            if (row := bulk.slab.find(user)) is not None
        )
        assert bulk.num_at_risk == at_risk


@pytest.mark.parametrize("num_rows", [1, 7, 8, 9, 30])
def test_changed_rows_are_found_wherever_they_are(num_rows: int) -> None:
    residents = Residents(np.zeros(2, np.float32), num_rows)
    for number in range(num_rows):
        residents.admit(f"\0{number}", number)
    assert residents.changed().tolist() == []
    rng = np.random.default_rng(1)
    for share in (0.1, 0.5, 1.0):
        residents.dirty[: residents.slab.num_rows] = CLEAN
        rows = np.flatnonzero(rng.random(residents.slab.num_rows) < share)
        residents.dirty[rows] = rng.choice([DIRTY, IN_FLIGHT], len(rows))
        assert residents.changed().tolist() == np.flatnonzero(residents.dirty == DIRTY).tolist()


def test_who_came_with_a_claim_is_what_was_stored_and_in_no_segment() -> None:
    residents = Residents(np.array([7, 7], np.float32), RESIDENTS_MAX)
    at = residents.take_over(joined_rows([a_row(1, 4, False, 2), a_row(2, 3, True, 0)]))
    assert residents.slab.state[at].tolist() == [[1, 1], [7, 7]]
    assert residents.slab.version[at].tolist() == [5, 4]
    assert residents.forgotten[at].tolist() == [False, True]
    assert residents.dirty[at].tolist() == [DIRTY, DIRTY]
    assert residents.segment[at].tolist() == [NOWHERE, NOWHERE]
    assert [residents.sessions.last_seq.item(entry) for entry in residents.sessions.of(int(at[0]))] == [40, 41]
    assert residents.num_at_risk == 2


def test_nobody_comes_twice_or_beyond_the_bound() -> None:
    residents = Residents(np.zeros(STATE_WIDTH, np.float32), 1)
    with pytest.raises(AssertionError, match="no room"):
        residents.take_over(joined_rows([a_row(1, 0, False, 0), a_row(2, 0, False, 0)]))
    residents.take_over(a_row(1, 0, False, 0))
    residents.slab.residents_max = 2
    with pytest.raises(AssertionError, match="is here"):
        residents.take_over(a_row(1, 0, False, 0))


def test_a_forgotten_users_sessions_do_not_begin_anew() -> None:
    residents = Residents(np.array([7, 7], np.float32), RESIDENTS_MAX)
    (row,) = residents.take_over(a_row(1, 4, False, 3)).tolist()
    residents.forget(row)
    newest = 1 << 64 | 102
    gathered, _ = residents.gather(np.array([row], np.intp), np.zeros((4096, 2), np.uint64))
    assert (gathered.forgotten.tolist(), gathered.versions.tolist()) == ([True], [6])
    assert (gathered.states.tolist(), gathered.num_sessions.tolist()) == ([[0, 0]], [0])
    assert gathered.floors.tolist() == [[newest >> 64, newest & (1 << 64) - 1]]
    residents.revive(row)
    assert residents.slab.state[row].tolist() == [7, 7]


def test_parts_are_all_rows_in_use_and_those_of_slots_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.residents.SCAN_ROWS", 3)
    residents = Residents(np.zeros(STATE_WIDTH, np.float32), RESIDENTS_MAX)
    at = residents.take_over(joined_rows([a_row(number, 0, False, 0) for number in range(8)]))
    mask = np.zeros(4096, np.bool_)
    mask[1] = True
    found = [row for part in residents.parts() for row in residents.of_slots(mask, part).tolist()]
    assert found == [row for row in at.tolist() if residents.slab.slot[row] == 1]


def test_rows_are_as_they_were_gathered_until_anything_moves() -> None:
    residents = Residents(np.zeros(STATE_WIDTH, np.float32), RESIDENTS_MAX)
    rows = residents.restore(joined_rows([a_row(number, 1, False, number % 3) for number in range(6)]))
    _, marks = residents.gather(rows, np.zeros((4096, 2), np.uint64))
    everyone = np.ones(6, np.bool_)
    assert residents.are_as(marks, everyone).all()
    residents.slab.version[rows[0]] += np.uint64(1)
    residents.sessions.last_seq[residents.sessions.of(int(rows[2]))[1]] += np.uint64(1)
    residents.sessions.open(int(rows[4]), 1 << 90)
    assert residents.are_as(marks, everyone).tolist() == [False, True, False, True, False, True]
    chosen = np.array([True, True, False, False, True, True])
    assert residents.are_as(marks, chosen).tolist() == [False, True, False, True]


def test_stored_states_of_another_version_are_migrated_and_of_an_unknown_one_refused() -> None:
    residents = Residents(np.array([7, 7], np.float32), RESIDENTS_MAX, "v2")
    residents.live.migrate = lambda states_BD, shapes: states_BD * len(shapes) + 1
    old = replace(a_row(3, 4, False, 1), packing=(Part("v1", STATE_WIDTH),))
    with pytest.raises(SchemaMismatch, match="'v1' with 2 numbers; this worker runs 'v2', whose state has 2"):
        residents.check(old)
    residents.shapes["v1"] = {"a": (1,), "b": (1,)}
    residents.check(old)
    (row,) = residents.restore(old)
    assert residents.slab.state[row].tolist() == [7, 7]
    assert residents.slab.version[row] == 5


def test_who_has_a_state_of_the_live_version_keeps_it_and_those_beside_it_come_along() -> None:
    residents = Residents(np.array([7, 7], np.float32), RESIDENTS_MAX, "v2")
    residents.others["v3"] = VersionStates.blank("v3", np.zeros(1, np.float32), RESIDENTS_MAX + 1)
    packing = (Part("v1", 0), Part("v2", STATE_WIDTH), Part("v3", 1))
    stored = replace(a_row(3, 4, False, 0), states=np.array([[1, 1, 5, 6, 1, 9]], np.float32), packing=packing)
    residents.check(stored)
    (row,) = residents.restore(stored)
    assert residents.slab.state[row].tolist() == [5, 6]
    assert residents.others["v3"].states[row].tolist() == [9]
    assert residents.others["v3"].present[row]
    gathered, _ = residents.gather(np.array([row]), np.zeros((4096, 2), np.uint64))
    assert gathered.packing == (Part("v2", STATE_WIDTH), Part("v3", 1))
    assert gathered.states.tolist() == [[1, 5, 6, 1, 9]]
    residents.swap("v3")
    assert residents.slab.state[row].tolist() == [9]
    residents.drop(int(row))
    assert not residents.others["v2"].present[row]
