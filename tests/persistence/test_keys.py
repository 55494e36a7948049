"""Keys name what is there, in the order of its numbers, and hide users."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evercurrent.slots import NUM_SLOTS, user_key
from persistence import keys
from persistence.store import checked_key

INCARNATION = "worker-0/01JD3Z7M5V8K9Q2W4X6Y0ABCDE"


def test_keys_are_those_of_the_stored_format() -> None:
    assert keys.slot_key(42) == "slots/0042"
    assert keys.segment_key(INCARNATION, 42) == f"journal/{INCARNATION}/000000000042"
    assert keys.record_key(42, user_key("", "ada")) == "users/0042/8c47a7163f270678756e3faf73cc6e2a"


@given(st.integers(0, NUM_SLOTS - 1), st.integers(0, NUM_SLOTS - 1))
def test_slots_there_and_back_in_order(slot: int, other: int) -> None:
    key = keys.slot_key(slot)
    assert key.startswith(keys.SLOTS_PREFIX)
    assert keys.slots_of_keys([checked_key(key)]) == [slot]
    assert (key < keys.slot_key(other)) == (slot < other)


@given(st.integers(1, keys.NUMBER_MAX), st.integers(1, keys.NUMBER_MAX))
def test_segments_there_and_back_in_order(number: int, other: int) -> None:
    key = keys.segment_key(INCARNATION, number)
    assert key.startswith(keys.journal_prefix(INCARNATION))
    assert key.startswith(keys.JOURNAL_PREFIX)
    assert keys.is_segment_key(key)
    assert keys.segment_of_key(checked_key(key)) == (INCARNATION, number)
    assert (key < keys.segment_key(INCARNATION, other)) == (number < other)


@pytest.mark.parametrize("key", ["", "slots/", "slots/42", "slots/00042", "slots/0042/x", "slots/4096", "journal/0042"])
def test_no_other_key_is_a_slots(key: str) -> None:
    assert keys.slots_of_keys([key, "slots/0042"]) == [42]


@pytest.mark.parametrize(
    "key",
    [
        "journal/w/1/42",
        "journal/w/000000000042",
        "journal/w/1/000000000000",
        "slots/0042",
        "journal/w/1/000000000042\n",
    ],
)
def test_no_other_key_is_a_segments(key: str) -> None:
    assert not keys.is_segment_key(key)
    with pytest.raises(ValueError, match="segment"):
        keys.segment_of_key(key)


def test_a_users_key_hides_the_user() -> None:
    key = checked_key(keys.record_key(7, user_key("shop", "ada@example.org")))
    assert key.startswith(f"{keys.USERS_PREFIX}0007/")
    assert not any(part in key for part in ("shop", "ada", "example"))
    assert keys.record_key(7, user_key("a", "b")) != keys.record_key(7, user_key("", "ab"))
