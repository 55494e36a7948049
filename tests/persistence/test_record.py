"""Records give back what was put in; what was not written so is an error by name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ulid import ULID

from evercurrent.v1.storage_pb2 import SlotRecord
from persistence.errors import Damaged
from persistence.packing import Part
from persistence.record import damaged_body, read_record, read_slot, record_body, slot_body
from persistence.rows import Rows
from tests.persistence.test_segment import WIDTH, rows_of

MODEL = "counting"
INDEX, SLOT = 2, 9


def rows(*, forgotten: bool = False) -> Rows:
    return replace(rows_of(4), packing=(Part(MODEL, WIDTH),), forgotten=np.full(4, forgotten))


USER = rows().users[INDEX]


def test_a_record_gives_back_the_user() -> None:
    read = read_record(record_body(rows(), INDEX), USER, SLOT)
    expected = rows()
    assert (len(read), read.users, read.slots.tolist()) == (1, [USER], [SLOT])
    assert read.versions[0] == read.durable_versions[0] == expected.versions[INDEX]
    assert np.array_equal(read.states, expected.states[[INDEX]])
    assert np.array_equal(read.floors, expected.floors[[INDEX]])
    assert np.array_equal(read.sessions, expected.sessions[1:3][:, [0, 1, 2, 3, 2]])
    assert not read.claims.any()
    assert not read.forgotten.any()


def test_a_user_without_sessions_has_none() -> None:
    read = read_record(record_body(rows(), 0), rows().users[0], SLOT)
    assert read.sessions.shape == (0, rows().sessions.shape[1])
    assert read.num_sessions.tolist() == [0]


def test_a_tombstone_holds_nothing_of_the_user() -> None:
    body = record_body(rows(forgotten=True), INDEX)
    assert USER.encode() not in body
    assert rows().states[INDEX].tobytes() not in body
    read = read_record(body, USER, SLOT)
    assert read.forgotten.all()
    assert read.versions[0] == rows().versions[INDEX]
    assert (len(read.sessions), read.states.tolist()) == (0, [[]])


@given(st.data())
def test_a_flipped_bit_is_damage(data: st.DataObject) -> None:
    body = bytearray(record_body(rows(), INDEX))
    place = data.draw(st.integers(0, 8 * len(body) - 1))
    body[place // 8] ^= 1 << place % 8
    with pytest.raises(Damaged):
        read_record(bytes(body), USER, SLOT)


@given(st.binary(max_size=100))
def test_no_bytes_of_strangers_are_a_record(body: bytes) -> None:
    with pytest.raises(Damaged):
        read_record(body, USER, SLOT)


def test_another_users_record_is_damage() -> None:
    with pytest.raises(Damaged, match="another user"):
        read_record(record_body(rows(), 1), USER, SLOT)


def test_a_record_says_whose_numbers_they_are() -> None:
    assert read_record(record_body(rows(), INDEX), USER, SLOT).packing == (Part(MODEL, WIDTH),)
    both = (Part("v1", 0), Part("v2", WIDTH - 2))
    read = read_record(record_body(replace(rows(), packing=both), INDEX), USER, SLOT)
    assert read.packing == both
    assert np.array_equal(read.states, rows().states[[INDEX]])


def test_a_state_of_other_numbers_than_its_parts_is_damage() -> None:
    body = record_body(replace(rows(), packing=(Part("v1", 1), Part("v2", WIDTH))), INDEX)
    with pytest.raises(Damaged, match=f"has {WIDTH} numbers, its parts {WIDTH + 3}"):
        read_record(body, USER, SLOT)


def test_a_slots_record_is_read_as_written() -> None:
    record = SlotRecord(slot=3, epoch=2, incarnation="w/1", address="h:1", claim=str(ULID.from_int(7)))
    read = read_slot(slot_body(record))
    assert read.format == 1
    read.ClearField("format")
    assert read == record


@pytest.mark.parametrize(
    "wrong", [{"claim": "01J"}, {"claim": "I" * 26}, {"incarnation": "w/é"}, {"address": "h:port"}, {"address": ""}]
)
def test_a_slots_record_that_names_no_owner_is_damage(wrong: dict[str, str]) -> None:
    record = SlotRecord(slot=3, incarnation="w/1", address="h:1", claim=str(ULID.from_int(7)))
    for field, value in wrong.items():
        setattr(record, field, value)
    with pytest.raises(Damaged, match="names no owner"):
        read_slot(slot_body(record))


def test_a_mark_of_damage_is_read_as_damage_whoever_reads_it() -> None:
    with pytest.raises(Damaged, match="was found damaged"):
        read_record(damaged_body("\0ann", MODEL), "\0ann", SLOT)


@pytest.mark.parametrize("body", [b"", b"\xff\xff", b"\x08\x02", b"\x08\x01\x10\x80\x20"])
def test_what_is_no_slots_record_is_damage(body: bytes) -> None:
    with pytest.raises(Damaged):
        read_slot(body)
