"""The ring: bounded loads, the same on every router, little moves."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evercurrent.slots import NUM_SLOTS
from router.ring import LOAD_BOUND, build_ring

names = st.lists(st.from_regex(r"[a-z]{1,6}-[0-9]{1,3}", fullmatch=True), min_size=1, max_size=12, unique=True)


@given(names=names, data=st.data())
@settings(max_examples=15, deadline=None)
def test_loads_are_bounded_and_the_order_of_members_does_not_matter(names: list[str], data: st.DataObject) -> None:
    ring = build_ring(names)
    assert ring.names == tuple(sorted(names))
    loads = ring.loads().tolist()
    assert sum(loads) == NUM_SLOTS
    assert max(loads) <= math.ceil(LOAD_BOUND * NUM_SLOTS / len(names))
    assert min(loads) > 0
    again = build_ring(data.draw(st.permutations(names)))
    assert again.digest == ring.digest
    assert again.owners.tolist() == ring.owners.tolist()
    assert not ring.owners.flags.writeable


def test_another_member_takes_little_more_than_its_share() -> None:
    before = build_ring([f"worker-{number}" for number in range(8)])
    after = build_ring([f"worker-{number}" for number in range(9)])
    moved = sum(
        before.names[old] != after.names[new]
        for old, new in zip(before.owners.tolist(), after.owners.tolist(), strict=True)
    )
    assert before.digest != after.digest
    assert moved < 2 * NUM_SLOTS / 9


def test_a_known_ring_stays_as_it_is() -> None:
    assert build_ring(["worker-0", "worker-1"]).digest == "f9896c336e47cc1b"


@pytest.mark.parametrize("names", [[], ["a", "a"]])
def test_members_are_there_and_different(names: list[str]) -> None:
    with pytest.raises(ValueError, match="at least one worker, and each once"):
        build_ring(names)
