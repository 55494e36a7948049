"""States of several versions in one: what is put in comes out, in whatever packing it is brought."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evercurrent.v1.storage_pb2 import SegmentFooter
from persistence.errors import SchemaMismatch
from persistence.packing import (
    Packing,
    Part,
    packed,
    packed_width,
    packing_of,
    part_messages,
    repacked,
    union,
    unpacked,
)
from persistence.rows import joined_rows
from persistence.segment import SegmentWriter, read_segment
from tests.persistence.test_segment import rows_of

WIDTHS = {"v1": 2, "v2": 1, "v3": 0, "v4": 3}
NUM = 4

packings = st.lists(st.sampled_from(sorted(WIDTHS)), min_size=1, unique=True).map(
    lambda names: tuple(Part(name, WIDTHS[name]) for name in names)
)
holders = st.lists(st.booleans(), min_size=NUM, max_size=NUM)


def states_of(packing: Packing, has: list[list[bool]]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Numbers that tell part and user; users who lack a part have none of it, where the packing can say so."""
    parts = []
    for at, part in enumerate(packing):
        numbers = np.arange(1, NUM * part.width + 1, dtype=np.float32).reshape(NUM, part.width) + 100 * at
        parts.append((numbers, np.array(has[at]) | (len(packing) == 1)))
    return packed(parts)


@given(packing=packings, data=st.data())
def test_what_is_packed_comes_out_and_nobody_has_what_they_had_not(packing: Packing, data: st.DataObject) -> None:
    has = [data.draw(holders) for _ in packing]
    states = states_of(packing, has)
    assert states.shape == (NUM, packed_width(packing))
    for at, part in enumerate(packing):
        found = unpacked(states, packing, part.version)
        assert found is not None
        numbers, is_there = found
        assert is_there.tolist() == (has[at] if len(packing) > 1 else [True] * NUM)
        expected = np.arange(1, NUM * part.width + 1, dtype=np.float32).reshape(NUM, part.width) + 100 * at
        assert np.array_equal(numbers, np.where(is_there[:, None], expected, 0))
    assert unpacked(states, packing, "v9") is None
    assert packing_of("v1", part_messages(packing), packed_width(packing)) == packing or len(packing) == 1


@given(packing=packings, other=packings, data=st.data())
def test_another_packing_holds_the_same_of_the_parts_that_both_have(
    packing: Packing, other: Packing, data: st.DataObject
) -> None:
    states = states_of(packing, [data.draw(holders) for _ in packing])
    both = union([packing, other])
    brought = repacked(states, packing, both)
    for part in both:
        before, after = unpacked(states, packing, part.version), unpacked(brought, both, part.version)
        assert after is not None
        if before is None:
            assert not after[1].any() or len(both) == 1
        else:
            assert np.array_equal(before[0], after[0])
            assert np.array_equal(before[1], after[1])
    if packing != both:
        assert np.array_equal(repacked(brought, both, packing), states) or len(packing) == 1


def test_a_version_has_one_width() -> None:
    with pytest.raises(SchemaMismatch, match="v1 have 3 numbers, and 2"):
        union([(Part("v1", 2),), (Part("v1", 3),)])


def test_rows_of_two_packings_join_and_are_read_back_from_a_segment() -> None:
    one = rows_of(3)
    other = rows_of(2, seed=1)
    packing = (Part("", 1), Part("v2", 0))
    states = packed([(other.states[:, :1], np.array([True, False])), (np.zeros((2, 0), np.float32), np.ones(2, bool))])
    alone = replace(one, states=one.states[:, :1], packing=(Part("", 1),))
    rows = joined_rows([alone, replace(other, states=states, packing=packing)])
    assert rows.packing == packing
    writer = SegmentWriter(packed_width(packing))
    writer.add(rows)
    footer = SegmentFooter(number=1, model=packing[0].version, parts=part_messages(packing))
    read = read_segment(writer.finish(footer)).rows
    assert read.packing == packing
    found, of_second = unpacked(read.states, packing, ""), unpacked(read.states, packing, "v2")
    assert found is not None
    assert of_second is not None
    assert found[1].tolist() == [True, True, True, True, False]
    assert of_second[1].tolist() == [False, False, False, True, True]
    assert np.array_equal(found[0][:3], one.states[:, :1])
