"""Of all that lies in a store, each user's newest state that counts, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from ulid import ULID

from evercurrent.slots import slot_of, user_key
from evercurrent.v1.storage_pb2 import SegmentFooter, SlotRecord
from persistence import Stored
from persistence.errors import Damaged
from persistence.keys import record_key, segment_key, slot_key
from persistence.memory import MemoryStore
from persistence.packing import Part
from persistence.record import record_body, slot_body
from persistence.rows import Rows, halves, joined_rows
from persistence.segment import SegmentWriter, seal_body
from persistence.snapshot import read_states

ALICE, BOB, CAROL = (user_key("shop", name) for name in ("alice", "bob", "carol"))
HERE, THERE = "a/01JD0000000000000000000000", "b/01JD0000000000000000000001"
OLD, CLAIM, LOST = (str(ULID.from_int((1 << 100) + number)) for number in range(3))
WIDTH = 2


def row(user: str, version: int, value: float, claim: str = CLAIM, forgotten: bool = False) -> Rows:
    """A user with one session, whose state is `value` and its negative."""
    sessions = np.array([[7, 8, version, 0, version]], np.uint64)[: 0 if forgotten else 1]
    return Rows(
        [user],
        np.array([slot_of(user)], np.uint16),
        np.array([halves(int(ULID.from_str(claim)))], np.uint64),
        np.array([version], np.uint64),
        np.array([version], np.uint64),
        np.array([forgotten]),
        np.zeros((1, 2), np.uint64),
        np.array([[value, -value]], np.float32),
        np.array([len(sessions)], np.int32),
        sessions,
        (Part("m", WIDTH),),
    )


def claim(store: MemoryStore, user: str, incarnation: str = HERE, name: str = CLAIM) -> None:
    record = SlotRecord(slot=slot_of(user), epoch=1, incarnation=incarnation, address="h:1", claim=name)
    put(store, slot_key(slot_of(user)), slot_body(record))


def put(store: MemoryStore, key: str, body: bytes) -> None:
    store._objects[key] = Stored(body, "e")  # type: ignore[arg-type]


def segment(
    store: MemoryStore, number: int, *rows: Rows, incarnation: str = HERE, first: int = 1, model: str = "m"
) -> None:
    writer = SegmentWriter(rows[0].states.shape[1] if rows else WIDTH)
    for one in rows:
        writer.add(one)
    body = writer.finish(SegmentFooter(incarnation=incarnation, number=number, first=first, model=model))
    put(store, segment_key(incarnation, number), body)


def record(store: MemoryStore, rows: Rows, model: str = "m") -> None:
    body = record_body(replace(rows, packing=(Part(model, WIDTH),)), 0)
    put(store, record_key(int(rows.slots[0]), rows.users[0]), body)


async def states(store: MemoryStore) -> Mapping[str, tuple[int, float]]:
    """Version and value of each user."""
    found = {}
    async for slot in read_states(store):
        assert slot.damaged == []
        for part in slot.states:
            for index, user in enumerate(part.rows.users):
                assert user not in found
                assert slot.slot == slot_of(user)
                assert part.rows.states[index, 1] == -part.rows.states[index, 0]
                assert part.rows.sessions[int(part.rows.num_sessions[:index].sum()), 2] == part.rows.versions[index]
                found[user] = (int(part.rows.versions[index]), float(part.rows.states[index, 0]))
    return found


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


async def test_an_empty_store_has_nobody(store: MemoryStore) -> None:
    assert await states(store) == {}


async def test_rows_of_several_users_segments_and_owners(store: MemoryStore) -> None:
    claim(store, ALICE)
    claim(store, BOB)
    claim(store, CAROL, THERE, OLD)
    segment(store, 1, row(ALICE, 1, 0.1), row(BOB, 4, 0.125))
    segment(store, 2, joined_rows([row(ALICE, 2, 0.25), row(CAROL, 9, 0.9)]))
    segment(store, 3)
    segment(store, 1, row(CAROL, 3, 0.5, OLD), incarnation=THERE)
    found = await states(store)
    assert found[ALICE] == (2, 0.25)
    assert found[CAROL] == (3, 0.5)
    assert found[BOB] == (4, 0.125)


async def test_rows_of_another_claim_never_count(store: MemoryStore) -> None:
    claim(store, ALICE)
    segment(store, 1, row(ALICE, 3, 0.5))
    segment(store, 2, row(ALICE, 8, 0.75, LOST))
    segment(store, 3, row(ALICE, 9, 0.75, OLD))
    assert await states(store) == {ALICE: (3, 0.5)}


async def test_segments_from_before_the_journals_beginning_do_not_count(store: MemoryStore) -> None:
    claim(store, ALICE)
    claim(store, BOB)
    segment(store, 1, row(ALICE, 7, 0.5))
    segment(store, 2, row(BOB, 1, 0.25))
    segment(store, 3, first=2)
    assert await states(store) == {BOB: (1, 0.25)}


async def test_a_seal_says_nothing_of_the_beginning(store: MemoryStore) -> None:
    claim(store, ALICE)
    segment(store, 1, row(ALICE, 7, 0.5))
    segment(store, 2, row(ALICE, 2, 0.25), first=2)
    put(store, segment_key(HERE, 3), seal_body(HERE, 3))
    assert await states(store) == {ALICE: (2, 0.25)}


async def test_among_rows_the_higher_version_then_the_later_segment(store: MemoryStore) -> None:
    claim(store, ALICE)
    segment(store, 9, row(ALICE, 5, 0.25))
    segment(store, 10, row(ALICE, 5, 0.5))
    segment(store, 11, row(ALICE, 4, 0.75))
    assert await states(store) == {ALICE: (5, 0.5)}


@pytest.mark.parametrize(("version", "expected"), [(4, (5, 0.5)), (5, (5, 0.5)), (6, (6, 0.25))])
async def test_a_record_counts_if_it_is_newer(store: MemoryStore, version: int, expected: tuple[int, float]) -> None:
    claim(store, ALICE)
    segment(store, 1, row(ALICE, 5, 0.5))
    record(store, row(ALICE, version, 0.25))
    assert await states(store) == {ALICE: expected}


async def test_who_left_memory_is_read_from_the_record(store: MemoryStore) -> None:
    claim(store, ALICE)
    record(store, row(ALICE, 6, 0.25))
    assert await states(store) == {ALICE: (6, 0.25)}


async def test_who_was_forgotten_is_absent(store: MemoryStore) -> None:
    for user in (ALICE, BOB, CAROL):
        claim(store, user)
    segment(store, 1, row(ALICE, 5, 0.5), row(BOB, 5, 0.5), row(CAROL, 5, 0.5))
    segment(store, 2, row(BOB, 6, 0.0, forgotten=True), row(CAROL, 6, 0.0, forgotten=True))
    record(store, row(ALICE, 6, 0.0, forgotten=True))
    record(store, row(BOB, 4, 0.25))
    record(store, row(CAROL, 7, 0.75))
    assert await states(store) == {CAROL: (7, 0.75)}


async def test_states_of_two_models_stay_apart(store: MemoryStore) -> None:
    claim(store, ALICE)
    twin = next(
        user for user in (user_key("shop", str(number)) for number in range(10**6)) if slot_of(user) == slot_of(ALICE)
    )
    segment(store, 1, row(ALICE, 1, 0.5))
    wide = row(twin, 2, 0.25)
    record(store, wide, model="other")
    found = [(part.model, part.rows.users) async for slot in read_states(store) for part in slot.states]
    assert sorted(found) == [("m", [ALICE]), ("other", [twin])]


def spoil(store: MemoryStore, key: str, value: float) -> None:
    """Change a number of a state where it is stored."""
    body = store._objects[key].body
    raw = np.float32(value).tobytes()
    assert body.count(raw) == 1
    put(store, key, body.replace(raw, np.float32(value + 1).tobytes()))


async def damaged(store: MemoryStore) -> list[str]:
    return [name async for slot in read_states(store) for name in slot.damaged]


async def test_what_is_damaged_is_named_and_the_rest_is_read(store: MemoryStore) -> None:
    for user in (ALICE, BOB, CAROL):
        claim(store, user)
    segment(store, 1, row(ALICE, 1, 0.5), row(BOB, 1, 0.25))
    segment(store, 2, row(ALICE, 2, 0.123), row(BOB, 2, 0.456))
    segment(store, 3, row(BOB, 3, 0.75))
    record(store, row(CAROL, 2, 0.789))
    spoil(store, segment_key(HERE, 2), 0.123)
    spoil(store, segment_key(HERE, 2), 0.456)
    spoil(store, record_key(slot_of(CAROL), CAROL), 0.789)
    assert sorted(await damaged(store)) == sorted([ALICE, record_key(slot_of(CAROL), CAROL)])
    found = [(part.rows.users, part.rows.versions.tolist()) async for s in read_states(store) for part in s.states]
    assert found == [([BOB], [3])]


async def test_a_record_at_another_users_key_is_damaged(store: MemoryStore) -> None:
    claim(store, ALICE)
    key = record_key(slot_of(ALICE), ALICE)
    put(store, key, record_body(row(BOB, 1, 0.5), 0))
    assert await damaged(store) == [key]


async def test_a_segment_that_cannot_be_read_is_named(store: MemoryStore) -> None:
    claim(store, ALICE)
    put(store, segment_key(HERE, 1), b"nothing")
    with pytest.raises(Damaged, match=segment_key(HERE, 1)):
        await states(store)


class Moving(MemoryStore):
    """A store in which something happens when an object is read."""

    def __init__(self) -> None:
        super().__init__()
        self.trigger = ""

    async def get(self, key: str, *, timeout_s: float | None = None) -> Stored | None:
        if key == self.trigger:
            self.trigger = ""
            self.happen()
        return await super().get(key)

    def happen(self) -> None:
        """A new owner has the slot, has gone on, and the old journal is gone."""
        claim(self, ALICE, THERE, LOST)
        segment(self, 1, row(ALICE, 8, 0.75, LOST), incarnation=THERE)
        del self._objects[segment_key(HERE, 1)]


class Cleaning(Moving):
    """The owner carries a row to a new segment and begins its journal there."""

    def happen(self) -> None:
        segment(self, 3, row(ALICE, 5, 0.5), first=2)
        del self._objects[segment_key(HERE, 1)]


@pytest.mark.parametrize("with_record", [False, True])
async def test_a_slot_that_moves_meanwhile_is_read_again(with_record: bool) -> None:
    store = Moving()
    claim(store, ALICE)
    claim(store, BOB)
    segment(store, 1, row(ALICE, 5, 0.5))
    segment(store, 2, row(BOB, 2, 0.25))
    if with_record:
        record(store, row(ALICE, 4, 0.25))
    store.trigger = segment_key(HERE, 2)
    assert await states(store) == {ALICE: (8, 0.75), BOB: (2, 0.25)}


async def test_a_journal_that_is_cleaned_meanwhile_is_read_again() -> None:
    store = Cleaning()
    claim(store, ALICE)
    segment(store, 1, row(ALICE, 5, 0.5))
    segment(store, 2)
    store.trigger = segment_key(HERE, 1)
    assert await states(store) == {ALICE: (5, 0.5)}
