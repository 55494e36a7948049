"""Every user's newest stored state, read from the store alone: nobody is asked, nothing is sealed, nothing changes.

What counts is what a new owner would find (DESIGN.md, section 5): rows under the claim that the slot's record names, in
the segments from where the journal begins, and the users' records; of these the higher version. While workers serve, a
slot is as durable as it was at some moment during the reading, each at its own; a slot that moves meanwhile is read
again.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from google.protobuf.message import DecodeError
from ulid import ULID

from evercurrent.slots import NUM_SLOTS, slot_of
from evercurrent.v1.storage_pb2 import SealedUserRecord, SlotRecord, UserRecord
from persistence.errors import Damaged
from persistence.keys import (
    SLOTS_PREFIX,
    USERS_PREFIX,
    is_segment_key,
    journal_prefix,
    record_key,
    segment_of_key,
    slot_key,
    slots_of_keys,
)
from persistence.packing import Part, unpacked
from persistence.record import read_record, read_slot
from persistence.rows import Rows, halves, joined_rows
from persistence.segment import Segment, read_segment
from persistence.store import ObjectStore, list_all

GETS_MAX = 32
"""Objects that are read at once."""


@dataclass(frozen=True, slots=True, eq=False)
class States:
    """Users of one model version, none of them forgotten. One who has states of several versions is in several."""

    model: str
    rows: Rows


@dataclass(frozen=True, slots=True, eq=False)
class SlotStates:
    """A slot's users. `damaged`: who is stored and cannot be read: user keys, or the keys of objects."""

    slot: int
    states: list[States]
    damaged: list[str]


@dataclass(slots=True)
class _Found:
    """The newest row of each user of some slots, by record key: where it stands in `parts`."""

    parts: list[Rows] = field(default_factory=list)
    newest: dict[str, tuple[int, int]] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)

    def add(self, part: Rows) -> None:
        """Rows that count, unless a higher version is known; on a tie the later ones."""
        self.parts.append(part)
        versions, slots = part.versions.tolist(), part.slots.tolist()
        for index, user in enumerate(part.users):
            key = record_key(slots[index], user)
            self.damaged.pop(key, None)
            if key not in self.newest or versions[index] >= self.version(key):
                self.newest[key] = (len(self.parts) - 1, index)

    def version(self, key: str) -> int:
        """The version of a user's newest row; -1 without one."""
        part, index = self.newest.get(key, (0, -1))
        return -1 if index < 0 else int(self.parts[part].versions[index])

    def spoil(self, key: str, name: str) -> None:
        """The newest row of a user cannot be read, so that older ones say nothing."""
        self.newest.pop(key, None)
        self.damaged[key] = name

    def states(self) -> list[States]:
        """Who is not forgotten, by model version and width."""
        chosen = defaultdict[int, list[int]](list)
        for place, index in self.newest.values():
            if not self.parts[place].forgotten[index]:
                chosen[place].append(index)
        alike = defaultdict[Part, list[Rows]](list)
        for place, indices in chosen.items():
            rows = self.parts[place].take(np.array(indices, np.intp))
            for part in rows.packing:
                of_version = unpacked(rows.states, rows.packing, part.version)
                assert of_version is not None, part
                states, has = of_version
                alone = replace(rows, states=states, packing=(part,))
                if has.any():
                    alike[part].append(alone.take(np.flatnonzero(has)))
        return [States(part.version, joined_rows(parts)) for part, parts in alike.items()]


async def read_states(store: ObjectStore) -> AsyncIterator[SlotStates]:
    """Slot by slot, those that ever had an owner. Holds one journal in memory at a time.

    Raises:
        Damaged: a slot's record or a whole segment cannot be read.
    """
    stored = [entry.key async for entry in list_all(store, SLOTS_PREFIX)]
    left = [slot_key(slot) for slot in slots_of_keys(stored)]
    while left:
        records = await _slot_records(store, left)
        moved = list[str]()
        for incarnation, claims in _by_owner(records).items():
            found = await _read_journal(store, incarnation, claims)
            still = await _slot_records(store, [slot_key(slot) for slot in claims])
            for slot, claim in claims.items():
                if still[slot].claim != claim:
                    moved.append(slot_key(slot))
                    continue
                await _read_records(store, slot, found[slot])
                yield SlotStates(slot, found[slot].states(), list(found[slot].damaged.values()))
        left = moved


def _by_owner(records: Mapping[int, SlotRecord]) -> dict[str, dict[int, str]]:
    """The claim of each slot, by the incarnation that owns it."""
    owners = defaultdict[str, dict[int, str]](dict)
    for slot, record in sorted(records.items()):
        owners[record.incarnation][slot] = record.claim
    return owners


async def _slot_records(store: ObjectStore, keys: Sequence[str]) -> dict[int, SlotRecord]:
    records = [read_slot(body) for _, body in await _get_all(store, keys) if body is not None]
    return {record.slot: record for record in records}


async def _read_journal(store: ObjectStore, incarnation: str, claims: Mapping[int, str]) -> Mapping[int, _Found]:
    """What a journal says of slots under these claims."""
    segments = dict[int, Segment]()
    while True:
        keys = [entry.key async for entry in list_all(store, journal_prefix(incarnation)) if is_segment_key(entry.key)]
        numbers = [segment_of_key(key)[1] for key in keys]
        segments = {number: segment for number, segment in segments.items() if number in numbers}
        missing = [key for key, number in zip(keys, numbers, strict=True) if number not in segments]
        for key, body in await _get_all(store, missing):
            if body is not None:
                segments[segment_of_key(key)[1]] = await asyncio.to_thread(_read_wanted, key, body, claims)
        if len(segments) == len(keys):
            return await asyncio.to_thread(_newest, [segments[number] for number in sorted(segments)], claims)


def _read_wanted(key: str, body: bytes, claims: Mapping[int, str]) -> Segment:
    """A segment with only the rows under these claims."""
    try:
        segment = read_segment(body)
    except Damaged as error:
        raise Damaged(f"{key}: {error}") from error
    wanted = np.zeros((NUM_SLOTS, 2), np.uint64)
    for slot, claim in claims.items():
        wanted[slot] = halves(int(ULID.from_str(claim)))
    rows = segment.rows
    mine = (rows.claims == wanted[rows.slots]).all(axis=1) & rows.claims.any(axis=1)
    return Segment(segment.footer, rows.take(np.flatnonzero(mine)), segment.damaged)


def _newest(segments: Sequence[Segment], slots: Iterable[int]) -> Mapping[int, _Found]:
    """The newest rows by slot, of segments in their order."""
    found = {slot: _Found() for slot in slots}
    counting = [segment for segment in segments if not segment.footer.seal]
    first = counting[-1].footer.first if counting else 0
    for segment in counting:
        if segment.footer.number < first:
            continue
        for slot, rows in _by_slot(segment.rows):
            found[slot].add(rows)
        for user in segment.damaged:
            slot = slot_of(user)
            if slot in found:
                found[slot].spoil(record_key(slot, user), user)
    return found


def _by_slot(rows: Rows) -> list[tuple[int, Rows]]:
    order = np.argsort(rows.slots, kind="stable")
    slots, starts = np.unique(rows.slots[order], return_index=True)
    return [
        (slot, rows.take(indices)) for slot, indices in zip(slots.tolist(), np.split(order, starts)[1:], strict=True)
    ]


async def _read_records(store: ObjectStore, slot: int, found: _Found) -> None:
    """Put the records of a slot's users where they are newer."""
    keys = [entry.key async for entry in list_all(store, f"{USERS_PREFIX}{slot:04d}/")]
    for key, body in await _get_all(store, keys):
        if body is None:
            continue
        try:
            stored = _read_record(key, body, slot)
        except Damaged:
            found.spoil(key, key)
            continue
        if key not in found.damaged and int(stored.versions[0]) > found.version(key):
            found.parts.append(stored)
            found.newest[key] = (len(found.parts) - 1, 0)


def _read_record(key: str, body: bytes, slot: int) -> Rows:
    """A user's record, of whatever user and model it is. Raises Damaged."""
    try:
        record = UserRecord.FromString(SealedUserRecord.FromString(body).record)
    except DecodeError as error:
        raise Damaged("a user's record cannot be read") from error
    rows = read_record(body, record.user, slot)
    if not record.forgotten and record_key(slot, record.user) != key:
        raise Damaged("a user's record is another user's")
    return rows


async def _get_all(store: ObjectStore, keys: Sequence[str]) -> list[tuple[str, bytes | None]]:
    """The objects of these keys, None where there is none any more."""
    bodies = list[tuple[str, bytes | None]]()
    for begin in range(0, len(keys), GETS_MAX):
        part = keys[begin : begin + GETS_MAX]
        answers = await asyncio.gather(*(store.get(key) for key in part))
        bodies += [(key, None if stored is None else stored.body) for key, stored in zip(part, answers, strict=True)]
    return bodies
