"""Segments give back what was put in, and name whose row is damaged."""

from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from evercurrent.v1.storage_pb2 import Attempt, SegmentFooter
from persistence.checksum import row_checksums
from persistence.errors import Damaged
from persistence.packing import Part
from persistence.rows import SESSION_FIELDS, Rows, joined_rows
from persistence.segment import HANDED_OVER, SegmentWriter, read_footer, read_segment, seal_body

WIDTH = 3
FOOTER = SegmentFooter(incarnation="worker-0/1", number=7, first=2, attempts=[Attempt(slot=3, claim="c")], model="m")


def rows_of(num: int, seed: int = 0) -> Rows:
    """Users with 0, 1, 2, 0 … sessions and random everything else."""
    random = np.random.default_rng(seed)
    counts = (np.arange(num) % 3).astype(np.int32)

    def numbers(*shape: int) -> NDArray[np.uint64]:
        return random.integers(1 << 64, size=shape, dtype=np.uint64)

    return Rows(
        [f"space\0üser-{seed}-{index}" for index in range(num)],
        random.integers(4096, size=num).astype(np.uint16),
        numbers(num, 2),
        numbers(num),
        numbers(num),
        random.random(num) < 0.5,
        numbers(num, 2),
        random.standard_normal((num, WIDTH)).astype(np.float32),
        counts,
        numbers(int(counts.sum()), SESSION_FIELDS),
        (Part("", WIDTH),),
    )


def written(*parts: Rows, number: int = HANDED_OVER) -> bytes:
    writer = SegmentWriter(WIDTH)
    for part in parts:
        writer.add(part)
    return writer.finish(SegmentFooter(incarnation="worker-0/1", number=number, first=1))


def assert_same(rows: Rows, others: Rows) -> None:
    assert rows.users == others.users
    for name in Rows.__slots__[1:]:
        assert np.array_equal(getattr(rows, name), getattr(others, name)), name


def assert_nothing_false(body: bytes, rows: Rows) -> None:
    """A body that was `rows` once is refused, or each row is as it was or named."""
    try:
        segment = read_segment(body)
    except Damaged:
        return
    assert len(segment.rows) + len(segment.damaged) == len(rows)
    places = {user: index for index, user in enumerate(rows.users)}
    assert_same(segment.rows, rows.take(np.array([places[user] for user in segment.rows.users], np.intp)))


@given(st.lists(st.integers(0, 7), max_size=4))
@example([])
@example([0])
def test_what_is_written_in_slices_is_read_whole(sizes: list[int]) -> None:
    parts = [rows_of(size, seed) for seed, size in enumerate(sizes)]
    segment = read_segment(written(*parts))
    assert segment.damaged == []
    assert segment.footer.num_rows == sum(sizes)
    assert_same(segment.rows, joined_rows([*parts, rows_of(0)]))


def test_the_footer_is_kept_and_completed() -> None:
    writer = SegmentWriter(WIDTH)
    writer.add(rows_of(4))
    body = writer.finish(FOOTER)
    expected = SegmentFooter()
    expected.CopyFrom(FOOTER)
    expected.format = 1
    expected.num_rows = 4
    assert read_footer(body) == read_segment(body).footer == expected
    assert writer.num_rows == 4
    assert len(body) - expected.ByteSize() - 100 < writer.num_bytes < len(body)


def test_what_a_journal_holds_is_durable() -> None:
    rows = rows_of(5)
    read = read_segment(written(rows, number=7)).rows
    assert np.array_equal(read.durable_versions, rows.versions)
    assert np.array_equal(read.sessions[:, 4], rows.sessions[:, 2])
    assert np.array_equal(read.sessions[:, :4], rows.sessions[:, :4])


def test_an_added_row_may_change_afterwards() -> None:
    rows = rows_of(3)
    writer = SegmentWriter(WIDTH)
    writer.add(rows)
    rows.states[:] = 0
    rows.versions[:] = 0
    assert_same(read_segment(writer.finish(SegmentFooter())).rows, rows_of(3))


def test_a_seal_says_so_and_has_no_rows() -> None:
    body = seal_body("worker-0/1", 9)
    footer = read_footer(body)
    assert (footer.seal, footer.incarnation, footer.number) == (True, "worker-0/1", 9)
    assert len(read_segment(body).rows) == 0


def test_a_damaged_row_is_named_and_the_others_are_read() -> None:
    rows = rows_of(6)
    body = written(rows)
    at = body.index(rows.states[2].tobytes())
    segment = read_segment(body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :])
    assert segment.damaged == [rows.users[2]]
    assert_same(segment.rows, rows.take(np.array([0, 1, 3, 4, 5])))


@given(st.data())
def test_no_flipped_bit_goes_unseen(data: st.DataObject) -> None:
    rows = rows_of(6)
    body = bytearray(written(rows))
    place = data.draw(st.integers(0, 8 * len(body) - 1))
    body[place // 8] ^= 1 << place % 8
    assert_nothing_false(bytes(body), rows)


def test_no_flipped_bit_changes_the_width_of_nobody() -> None:
    body = written()
    for place in range(8 * len(body)):
        flipped = bytearray(body)
        flipped[place // 8] ^= 1 << place % 8
        assert_nothing_false(bytes(flipped), rows_of(0))


@given(st.data())
def test_overwritten_and_lost_bytes_go_nowhere_unseen(data: st.DataObject) -> None:
    rows = rows_of(6)
    body = written(rows)
    start = data.draw(st.integers(0, len(body) - 1))
    end = data.draw(st.integers(start, min(start + 64, len(body))))
    assert_nothing_false(body[:start] + data.draw(st.binary(max_size=64)) + body[end:], rows)


def test_offsets_that_lead_astray_are_not_followed() -> None:
    rows = rows_of(6)
    body = written(rows)
    offsets = np.cumsum([0, *(len(user.encode()) for user in rows.users)]).astype("<i4")
    astray = offsets.copy()
    astray[2] = 1 << 30
    assert body.count(offsets.tobytes()) == 1
    with pytest.raises(Damaged, match="column 0"):
        read_segment(body.replace(offsets.tobytes(), astray.tobytes()))


@given(st.binary(max_size=200))
def test_no_bytes_of_strangers_are_read(body: bytes) -> None:
    with pytest.raises(Damaged):
        read_segment(body)


@given(st.integers(0, len(written(rows_of(6))) - 1))
def test_a_torn_segment_is_damaged(size: int) -> None:
    with pytest.raises(Damaged):
        read_segment(written(rows_of(6))[:size])


def test_rows_that_are_missing_are_missed() -> None:
    body = written(rows_of(6))
    footer_bytes = int.from_bytes(body[-12:-8], "little") + 12
    with pytest.raises(Damaged, match="0 rows, its footer says 6"):
        read_segment(body[-footer_bytes:])


def test_a_format_of_the_future_is_refused() -> None:
    footer = SegmentFooter(format=2).SerializeToString()
    tail = len(footer).to_bytes(4, "little") + zlib.crc32(footer).to_bytes(4, "little") + b"EVC1"
    with pytest.raises(Damaged, match="format 2"):
        read_footer(footer + tail)


@given(st.data())
def test_the_checksum_sees_each_bit_of_each_field(data: st.DataObject) -> None:
    rows, flipped = rows_of(3), rows_of(3)
    name = data.draw(
        st.sampled_from([name for name in Rows.__slots__ if name not in ("users", "num_sessions", "packing")])
    )
    raw = getattr(flipped, name).reshape(-1).view(np.uint8)
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= 1 << (0 if name == "forgotten" else data.draw(st.integers(0, 7)))
    owners = np.repeat(np.arange(3), rows.num_sessions) if name == "sessions" else np.arange(3)
    keys = [user.encode() for user in rows.users]
    changed = row_checksums(rows, keys) != row_checksums(flipped, keys)
    assert np.flatnonzero(changed).tolist() == [owners[place * len(owners) // len(raw)]]


def test_the_checksum_sees_places_and_widths() -> None:
    rows = replace(rows_of(3), states=np.zeros((3, WIDTH), np.float32))
    keys = [user.encode() for user in rows.users]
    sums = row_checksums(rows, keys)
    swapped = replace(rows, sessions=rows.sessions[[0, 2, 1]])
    wider = replace(rows, states=np.zeros((3, WIDTH + 1), np.float32))
    assert (row_checksums(swapped, keys) != sums).tolist() == [False, False, True]
    assert (row_checksums(wider, keys) != sums).all()
    assert (row_checksums(rows, keys[::-1]) != sums).tolist() == [True, False, True]


def test_checksums_are_those_of_the_stored_format() -> None:
    rows = rows_of(3)
    assert row_checksums(rows, [user.encode() for user in rows.users]).tolist() == _slow_checksums(rows)


def _slow_checksums(rows: Rows) -> list[int]:
    """The checksum of docs/adr/0008-stored-formats.md, a number at a time."""

    def weight(index: int) -> int:
        mixed = (index + 1) * 0x9E3779B97F4A7C15 % 2**64
        mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB % 2**64
        return (mixed ^ mixed >> 31) | 1

    def words(*numbers: int) -> list[int]:
        return [half for number in numbers for half in (number % 2**32, number >> 32)]

    sums, start = [], 0
    for index, user in enumerate(rows.users):
        end = start + int(rows.num_sessions[index])
        row = [WIDTH, int(rows.slots[index]), int(rows.forgotten[index]), end - start, zlib.crc32(user.encode())]
        row += words(int(rows.versions[index]), int(rows.durable_versions[index]))
        row += words(*rows.claims[index].tolist(), *rows.floors[index].tolist())
        row += [int.from_bytes(number.tobytes(), "little") for number in rows.states[index]]
        total = sum(word * weight(10 + place) for place, word in enumerate(row))
        for nth, session in enumerate(rows.sessions[start:end].tolist()):
            total += (2 * nth + 1) * sum(word * weight(place) for place, word in enumerate(words(*session)))
        sums.append(total % 2**64)
        start = end
    return sums
