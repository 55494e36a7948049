"""A segment of a journal as bytes: rows as an Arrow IPC stream, then a footer (docs/adr/0008-stored-formats.md). Pure.

Each row has a checksum of its own, so that damage costs the users it hit and no others. What is read is never trusted:
`read_segment` ends in rows, in named damage, or in `Damaged`.

Letters: N users, D numbers a state, S sessions of all of them.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from evercurrent.v1 import storage_pb2 as pb
from persistence.checksum import row_checksums
from persistence.errors import Damaged
from persistence.packing import Packing, packed_width, packing_of
from persistence.rows import SESSION_FIELDS, U64, Rows, joined_rows, no_rows

FORMAT = 1
MAGIC = b"EVC1"
HANDED_OVER = 0
"""The footer's number of rows that one owner hands another: not yet durable as they are, they keep what is."""

_TAIL = struct.Struct("<II4s")
_END_OF_STREAM = struct.pack("<II", 0xFFFFFFFF, 0)
_ULID = pa.binary(16)
_SESSION = pa.list_(pa.uint64(), SESSION_FIELDS)
_STATE = "state"


class SegmentWriter:
    """Rows on their way into a segment, a slice at a time: each `add` is bounded work for the serving loop.

    Every slice is serialized by itself, so nothing that was added is moved before `finish`. What is kept is bytes:
    Arrow's own buffers would grow megabytes at a time, which one slice in eight then waits for, and joining them would
    hold the interpreter's lock.
    """

    def __init__(self, state_width: int) -> None:
        self.num_rows = 0
        self._schema = _schema(state_width)
        self._parts: list[bytes] = [self._schema.serialize().to_pybytes()]
        self.num_bytes = len(self._parts[0])

    def add(self, rows: Rows) -> None:
        """Append rows; they are copied."""
        if not len(rows):
            return
        part = _batch(rows, self._schema).serialize().to_pybytes()
        self._parts.append(part)
        self.num_rows += len(rows)
        self.num_bytes += len(part)

    def finish(self, footer: pb.SegmentFooter) -> bytes:
        """The whole segment; `format` and `num_rows` of the footer are filled in, and it says what the states pack. One
        copy of it all: off the loop."""
        sealed = pb.SegmentFooter()
        sealed.CopyFrom(footer)
        sealed.num_rows = self.num_rows
        return b"".join([*self._parts, _END_OF_STREAM, _tail(sealed)])


@dataclass(frozen=True, slots=True)
class Segment:
    """What a segment holds. `damaged` names the users whose rows are not in `rows`, as far as it can be read."""

    footer: pb.SegmentFooter
    rows: Rows
    damaged: list[str]


def seal_body(incarnation: str, number: int) -> bytes:
    """The segment that closes a journal for good."""
    return _tail(pb.SegmentFooter(incarnation=incarnation, number=number, seal=True))


def read_footer(body: bytes) -> pb.SegmentFooter:
    """The footer of a segment. Raises Damaged."""
    return _split(body)[0]


def read_segment(body: bytes) -> Segment:
    """All of a segment; its rows are durable as they are, unless they were handed over. Raises Damaged.

    Without rows the width of a state may be unknown, and 0.
    """
    footer, stream = _split(body)
    parts, damaged = _read_rows(stream, footer) if len(stream) else ([no_rows(0)], [])
    rows = joined_rows(parts)
    if len(rows) + len(damaged) != footer.num_rows:
        raise Damaged(f"the segment holds {len(rows) + len(damaged)} rows, its footer says {footer.num_rows}")
    return Segment(footer, rows if footer.number == HANDED_OVER else _durable(rows), damaged)


def _durable(rows: Rows) -> Rows:
    sessions = rows.sessions.copy()
    sessions[:, 4] = sessions[:, 2]
    return replace(rows, durable_versions=rows.versions, sessions=sessions)


def _tail(footer: pb.SegmentFooter) -> bytes:
    footer.format = FORMAT
    packed = footer.SerializeToString()
    return packed + _TAIL.pack(len(packed), zlib.crc32(packed), MAGIC)


def _split(body: bytes) -> tuple[pb.SegmentFooter, memoryview]:
    """Footer and Arrow stream of a segment."""
    end = len(body) - _TAIL.size
    if end < 0:
        raise Damaged(f"a segment of {len(body)} bytes is cut short")
    length, checksum, magic = _TAIL.unpack_from(body, end)
    if magic != MAGIC:
        raise Damaged(f"the segment ends in {magic!r} instead of {MAGIC!r}")
    start = end - length
    if start < 0 or zlib.crc32(packed := body[start:end]) != checksum:
        raise Damaged("the checksum of the segment's footer is wrong")
    try:
        footer = pb.SegmentFooter.FromString(packed)
    except DecodeError as error:
        raise Damaged(f"the segment's footer cannot be read: {error}") from error
    if footer.format != FORMAT:
        raise Damaged(f"the segment has format {footer.format}; this release reads {FORMAT}")
    return footer, memoryview(body)[:start]


def _schema(state_width: int) -> pa.Schema:
    """The columns. D stands there twice, so that no flipped bit makes a segment without rows one of another width."""
    return pa.schema(
        [
            ("user", pa.binary()),
            ("slot", pa.uint16()),
            ("claim", _ULID),
            ("version", pa.uint64()),
            ("durable_version", pa.uint64()),
            ("forgotten", pa.bool_()),
            ("floor", _ULID),
            (_STATE, pa.list_(pa.float32(), state_width)),
            ("sessions", pa.list_(_SESSION)),
            ("checksum", pa.uint64()),
        ],
        {"state_width": str(state_width)},
    )


def _batch(rows: Rows, schema: pa.Schema) -> pa.RecordBatch:
    keys = [user.encode() for user in rows.users]
    state_width = rows.states.shape[1]
    ends = np.zeros(len(rows) + 1, np.int32)
    np.cumsum(rows.num_sessions, out=ends[1:])
    columns = [
        pa.array(keys, pa.binary()),
        pa.array(rows.slots),
        _ulids(rows.claims),
        pa.array(rows.versions),
        pa.array(rows.durable_versions),
        pa.array(rows.forgotten),
        _ulids(rows.floors),
        pa.FixedSizeListArray.from_arrays(pa.array(rows.states.reshape(-1)), state_width),
        pa.ListArray.from_arrays(
            pa.array(ends), pa.FixedSizeListArray.from_arrays(pa.array(rows.sessions.reshape(-1)), SESSION_FIELDS)
        ),
        pa.array(row_checksums(rows, keys)),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _ulids(halves_N2: U64) -> pa.Array:
    """ULIDs as their 16 bytes, big-endian as everywhere."""
    return pa.FixedSizeBinaryArray.from_buffers(_ULID, len(halves_N2), [None, pa.py_buffer(halves_N2.astype(">u8"))])


def _read_rows(stream: memoryview, footer: pb.SegmentFooter) -> tuple[list[Rows], list[str]]:
    """The whole rows of an Arrow stream, in parts, and the users of the others."""
    try:
        with pa.ipc.open_stream(pa.py_buffer(stream)) as reader:
            state_width = _state_width(reader.schema)
            packing = _packing(footer, state_width)
            parts, damaged = [no_rows(state_width, packing)], []
            for batch in reader:
                batch.validate(full=True)
                whole, broken = _whole(batch, state_width, packing)
                parts.append(whole)
                damaged += broken
    except (pa.ArrowException, OSError, ValueError) as error:
        raise Damaged(f"the rows of the segment cannot be read: {error}") from error
    return parts, damaged


def _packing(footer: pb.SegmentFooter, state_width: int) -> Packing:
    """What the states hold. Raises ValueError if it does not fit their width."""
    packing = packing_of(footer.model, footer.parts, state_width)
    if packed_width(packing) != state_width:
        raise ValueError(f"states have {state_width} numbers, their parts {packed_width(packing)}")
    return packing


def _state_width(schema: pa.Schema) -> int:
    """D. Raises ValueError if this is not the schema of a segment."""
    place = schema.get_field_index(_STATE)
    kind = schema.field(place).type if place >= 0 else None
    if not isinstance(kind, pa.FixedSizeListType) or not schema.equals(_schema(kind.list_size), check_metadata=True):
        raise ValueError("these are not the columns of a segment")
    return int(kind.list_size)


def _whole(batch: pa.RecordBatch, state_width: int, packing: Packing) -> tuple[Rows, list[str]]:
    if any(column.null_count for column in batch.columns):
        raise ValueError("a field is missing")
    keys = batch["user"].to_pylist()
    rows = _rows(batch, keys, state_width, packing)
    is_whole = row_checksums(rows, keys) == batch["checksum"].to_numpy()
    if is_whole.all():
        return rows, []
    return rows.take(np.flatnonzero(is_whole)), [rows.users[index] for index in np.flatnonzero(~is_whole)]


def _rows(batch: pa.RecordBatch, keys: Sequence[bytes], state_width: int, packing: Packing) -> Rows:
    ends: NDArray[np.int32] = batch["sessions"].offsets.to_numpy()
    sessions = batch["sessions"].values.values.to_numpy().reshape(-1, SESSION_FIELDS)
    return Rows(
        [key.decode(errors="replace") for key in keys],
        batch["slot"].to_numpy(),
        _halves(batch["claim"]),
        batch["version"].to_numpy(),
        batch["durable_version"].to_numpy(),
        batch["forgotten"].to_numpy(zero_copy_only=False),
        _halves(batch["floor"]),
        batch[_STATE].values.to_numpy()[: len(keys) * state_width].reshape(len(keys), state_width),
        np.diff(ends),
        sessions[ends[0] : ends[-1]],
        packing,
    )


def _halves(ulids: pa.Array) -> U64:
    """[N, 2] of ULIDs' bytes."""
    return np.frombuffer(ulids.buffers()[1], ">u8", 2 * len(ulids)).astype(np.uint64).reshape(-1, 2)
