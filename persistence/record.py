"""Records as bytes: who owns a slot, and the state of a user who left memory. Pure.

A user's record carries a checksum, since it may lie for years before it is read again; a slot's record is small,
rewritten all the time and guarded by its etag.
"""

from __future__ import annotations

import zlib

import numpy as np
from google.protobuf.message import DecodeError
from ulid import ULID

from evercurrent.slots import NUM_SLOTS
from evercurrent.v1 import storage_pb2 as pb
from persistence.errors import Damaged
from persistence.keys import journal_prefix
from persistence.packing import packed_width, packing_of, part_messages
from persistence.rows import SESSION_FIELDS, Rows
from persistence.store import checked_listing

FORMAT = 1


def slot_body(record: pb.SlotRecord) -> bytes:
    """A slot's record; `format` is filled in."""
    written = pb.SlotRecord()
    written.CopyFrom(record)
    written.format = FORMAT
    return written.SerializeToString()


def read_slot(body: bytes) -> pb.SlotRecord:
    """The record of a slot. Raises Damaged."""
    try:
        record = pb.SlotRecord.FromString(body)
    except DecodeError as error:
        raise Damaged(f"the record of a slot cannot be read: {error}") from error
    if record.format != FORMAT:
        raise Damaged(f"the record of a slot has format {record.format}; this release reads {FORMAT}")
    if record.slot >= NUM_SLOTS:
        raise Damaged(f"there is no slot {record.slot}")
    try:
        ULID.from_str(record.claim)
        checked_listing(journal_prefix(record.incarnation), "", 1)
        int(record.address.rpartition(":")[2])
    except ValueError as error:
        raise Damaged(f"the record of slot {record.slot} names no owner: {error}") from error
    return record


def record_body(rows: Rows, index: int) -> bytes:
    """The record of one user among rows; of a forgotten one a tombstone that does not say who it was."""
    record = pb.UserRecord(format=FORMAT, version=int(rows.versions[index]), model=rows.packing[0].version)
    record.floor_high, record.floor_low = rows.floors[index].tolist()
    if rows.forgotten[index]:
        record.forgotten = True
    else:
        record.user = rows.users[index]
        record.parts.extend(part_messages(rows.packing))
        record.state = rows.states[index].astype("<f4").tobytes()
        for high, low, last_seq, lost, _ in rows.sessions_of(index).tolist():
            record.sessions.add(id_high=high, id_low=low, last_seq=last_seq, lost=lost)
    return _sealed(record)


def damaged_body(user: str, model: str) -> bytes:
    """What says that a user's newest state was damaged, so that nothing older is ever taken for it."""
    return _sealed(pb.UserRecord(format=FORMAT, user=user, model=model, damaged=True))


def read_record(body: bytes, user: str, slot: int) -> Rows:
    """The one row of a user's record: durable as it is, and of no claim. A tombstone's state has no numbers.

    Raises:
        Damaged: the checksum is wrong, it is somebody else's, it says that the newest state was damaged, or the state
            has other numbers than its parts.
    """
    record = _unsealed(body)
    if not record.forgotten and record.user != user:
        raise Damaged("a user's record is another user's")
    if len(record.state) % 4:
        raise Damaged(f"the state of a user's record has {len(record.state)} bytes")
    state = np.frombuffer(record.state, "<f4").astype(np.float32)
    packing = packing_of(record.model, record.parts, len(state))
    if not record.forgotten and packed_width(packing) != len(state):
        raise Damaged(f"the state of a user's record has {len(state)} numbers, its parts {packed_width(packing)}")
    sessions = [(kept.id_high, kept.id_low, kept.last_seq, kept.lost, kept.last_seq) for kept in record.sessions]
    versions = np.array([record.version], np.uint64)
    return Rows(
        [user],
        np.array([slot], np.uint16),
        np.zeros((1, 2), np.uint64),
        versions,
        versions,
        np.array([record.forgotten]),
        np.array([[record.floor_high, record.floor_low]], np.uint64),
        state.reshape(1, len(state)),
        np.array([len(sessions)], np.int32),
        np.array(sessions, np.uint64).reshape(-1, SESSION_FIELDS),
        packing,
    )


def _sealed(record: pb.UserRecord) -> bytes:
    packed = record.SerializeToString()
    return pb.SealedUserRecord(record=packed, checksum=zlib.crc32(packed)).SerializeToString()


def _unsealed(body: bytes) -> pb.UserRecord:
    try:
        sealed = pb.SealedUserRecord.FromString(body)
        if zlib.crc32(sealed.record) != sealed.checksum:
            raise Damaged("the checksum of a user's record is wrong")
        record = pb.UserRecord.FromString(sealed.record)
    except DecodeError as error:
        raise Damaged(f"a user's record cannot be read: {error}") from error
    if record.format != FORMAT:
        raise Damaged(f"a user's record has format {record.format}; this release reads {FORMAT}")
    if record.damaged:
        raise Damaged("the newest state of the user was found damaged in a journal")
    return record
