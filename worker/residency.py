"""Who is in memory: users are read from their records, leave into them, and are forgotten.

A record is written with a state that a segment of a standing claim holds, over whatever is older and never over what is
newer: who lost a slot without knowing it takes nothing back.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evercurrent.errors import Refused, rejection
from evercurrent.slots import slot_of
from evercurrent.telemetry.logs import get_logger
from evercurrent.v1 import observation_pb2 as pb
from persistence.errors import Damaged, SchemaMismatch, StoreError
from persistence.keys import record_key
from persistence.record import damaged_body, read_record, record_body
from persistence.rows import Rows
from persistence.store import Stored
from worker.flows import Backoff, Flow, Get, Pause, PutIfAbsent, PutIfMatch, Signal, Wait, together
from worker.journal import Journal
from worker.owner import Owner
from worker.residents import CLEAN, IN_FLIGHT, NOWHERE, Indices, Mask, Residents
from worker.slots import Slots

EVICT_ROWS = 64
EVICT_SAMPLE = 1024
EVICT_AT = 0.98
"""Share of the bound from which on users leave ahead of need."""

logger = get_logger(__name__)


class Residency:
    """Users in and out."""

    def __init__(self, me: Owner, slots: Slots, residents: Residents, journal: Journal) -> None:
        self._me = me
        self._slots = slots
        self._residents = residents
        self._journal = journal
        self._hydrating = set[str]()
        self._room = Signal()
        self._is_evicting = False
        self._num_evicted = 0

    def seek(self, user: str, slot: int) -> int | None:
        """The row of a user of a slot that is served, or None: they will be told when to seek again."""
        residents = self._residents
        row = residents.slab.find(user)
        if row is not None:
            if residents.forgotten[row]:
                residents.revive(row)
                self._journal.note_change()
            return row
        if len(residents.slab) >= EVICT_AT * residents.slab.residents_max:
            self.evict_soon()
        if user in self._hydrating:
            return None
        if self._slots.virgin[slot] and not residents.slab.is_full:
            return self._admit(user, slot)
        self._hydrating.add(user)
        self._me.start(self._hydrate(user, slot))
        return None

    def mark_damaged(self, users: Iterable[str]) -> Flow[None]:
        """Have records say that these users' newest states are damaged, before their slots are claimed: the rows that
        show it count no more then, and nobody may take something older for the newest. Raises StoreError."""
        for user in users:
            key, body = record_key(slot_of(user), user), damaged_body(user, self._residents.live.version)
            while True:
                stored = yield Get(key)
                if stored is not None and stored.body == body:
                    break
                put = PutIfAbsent(key, body) if stored is None else PutIfMatch(key, body, stored.etag)
                if (yield put) is not None:
                    break

    def take_over(self, rows: Rows, patience_us: int) -> Flow[int]:
        """Make the first of these rows, which came with claims, resident: as many as there is room for. Returns how
        many; 0: for so long nobody has left, or the worker stops."""
        residents = self._residents
        if not (yield from self._make_room(patience_us)) or self._me.is_closing:
            return 0
        coming = rows.take(np.arange(min(len(rows), residents.slab.num_free)))
        at = residents.take_over(coming)
        residents.used_us[at] = self._me.clock_us()
        self._journal.note_change()
        if coming.forgotten.any():
            self._me.start(self._bury_all(self._burial(at[coming.forgotten])))
        return len(coming)

    def _admit(self, user: str, slot: int) -> int:
        row = self._residents.admit(user, slot)
        self._residents.used_us[row] = self._me.clock_us()
        return row

    def _hydrate(self, user: str, slot: int) -> Flow[None]:
        """Have a user come, and tell."""
        why: pb.Rejection | None = None
        try:
            yield from self._come(user, slot)
        except Damaged:
            logger.exception("a record is damaged", key=record_key(slot, user))
            why = _damaged(user, slot)
        except StoreError as error:
            why = refusal_of(error)
        except Refused as error:
            why = error.rejection
        self._hydrating.discard(user)
        if why is None:
            self._me.tell.user_ready(user)
        else:
            self._me.tell.user_refused(user, why)

    def _come(self, user: str, slot: int) -> Flow[None]:
        """A user comes, from its record or as new. Raises Refused or StoreError."""
        claim = self._slots.claim(slot)
        stored = None if self._slots.virgin[slot] else (yield Get(record_key(slot, user)))
        if not (yield from self._make_room(2 * self._me.timing.heartbeat_us)):
            most = self._residents.slab.residents_max
            text = f"all {most} resident users are taken and none can leave now"
            raise Refused(rejection(pb.REASON_OVERLOADED, "user_id", text, 1000))
        if not self._slots.holds(slot, claim):
            raise Refused(rejection(pb.REASON_NOT_OWNER, "", "the user moves to another worker", 100))
        if stored is not None:
            record = read_record(stored.body, user, slot)
            self._residents.check(record)
            self._residents.restore(record)
            self._me.counts.hydrated += 1
        self._admit(user, slot)

    # --- leaving ------------------------------------------------------------------------------------------------

    def evict_soon(self) -> None:
        """Let some users leave, unless that is being done."""
        if not self._is_evicting:
            self._is_evicting = True
            self._me.start(self._evict())

    def evict_rows(self, rows: Indices) -> Flow[int]:
        """Write these users' records; those that nothing touched meanwhile leave when their write is confirmed. Returns
        how many left."""
        residents = self._residents
        generations = residents.slab.generation[rows]
        before, marks = residents.gather(rows, self._slots.claims)
        unwritten = residents.segment[rows] != NOWHERE
        written = ~unwritten
        if unwritten.any():
            written[unwritten] = yield from self._write_records(before.take(np.flatnonzero(unwritten)))
        here = written & (residents.slab.generation[rows] == generations)
        leaving = rows[here][residents.are_as(marks, here) & self._may_leave(rows[here], also_carried=True)]
        residents.drop_rows(leaving)
        return len(leaving)

    def _make_room(self, patience_us: int) -> Flow[bool]:
        """Until a row is free; False: for so long nobody could leave. An eviction that began before this was asked says
        nothing, and who is DIRTY can leave when the next segment has landed."""
        clock_us = self._me.clock_us
        since_us = clock_us()
        while self._residents.slab.is_full:
            began_before = self._is_evicting
            self.evict_soon()
            yield Wait(self._room)
            if self._residents.slab.is_full and not self._num_evicted and not began_before:
                if clock_us() - since_us >= patience_us:
                    return False
                yield Wait(self._journal.landing, self._me.timing.heartbeat_us)
        return True

    def _evict(self) -> Flow[None]:
        """Let the least recently used of a sample leave."""
        try:
            yield Pause()
            self._num_evicted = 0
            self._num_evicted = yield from self.evict_rows(self._leaving())
            self._me.counts.evicted += self._num_evicted
        finally:
            self._is_evicting = False
            self._room.pulse()

    def _leaving(self) -> Indices:
        residents = self._residents
        num_rows = residents.slab.num_rows
        sample = np.arange(1, num_rows)
        if num_rows > EVICT_SAMPLE:
            random = self._me.random
            steps = np.arange(EVICT_SAMPLE) * random.randrange(1, num_rows) + random.randrange(num_rows)
            sample = np.unique(steps % num_rows)
        sample = sample[self._may_leave(sample)]
        most = max(1, min(EVICT_ROWS, len(residents.slab) // 16))
        return sample[np.argsort(residents.used_us[sample], kind="stable")[:most]]

    def _may_leave(self, rows: Indices, also_carried: bool = False) -> Mask:
        """Residents whom nobody feeds and whose newest state a segment of a standing claim, or their record, holds;
        with `also_carried` those whom a segment takes along meanwhile, too: it adds nothing to what stands."""
        residents = self._residents
        may_leave: Mask = (
            residents.slab.resident[rows]
            & (residents.slab.num_tags[rows] == 0)
            & ((residents.dirty[rows] == CLEAN) | (also_carried & (residents.dirty[rows] == IN_FLIGHT)))
            & ~residents.unlanded[rows]
            & ~residents.forgotten[rows]
            & self._slots.standing()[residents.slab.slot[rows]]
        )
        return may_leave

    def _write_records(self, rows: Rows) -> Flow[Mask]:
        """Write records over what is older; which are confirmed to stand, or something newer."""
        self._slots.virgin[rows.slots] = False
        keys = [record_key(slot, user) for slot, user in zip(rows.slots.tolist(), rows.users, strict=True)]
        before = yield from together([Get(key) for key in keys])
        written = np.zeros(len(rows), np.bool_)
        puts: dict[int, PutIfAbsent | PutIfMatch] = {}
        for index, answer in enumerate(before):
            if isinstance(answer, StoreError):
                continue
            body = record_body(rows, index)
            if answer is None:
                puts[index] = PutIfAbsent(keys[index], body)
            elif answer.body == body:
                written[index] = True
            else:
                try:
                    written[index] = self._is_newer(answer, rows, index)
                except SchemaMismatch:
                    continue
                if not written[index]:
                    puts[index] = PutIfMatch(keys[index], body, answer.etag)
        answers = yield from together(list(puts.values()))
        for index, answer in zip(puts, answers, strict=True):
            written[index] = answer is not None and not isinstance(answer, StoreError)
        return written

    def _is_newer(self, stored: Stored, rows: Rows, index: int) -> bool:
        """Whether a record is newer than a row: then the row's claim stands no more. One that is damaged is not.

        Raises:
            SchemaMismatch: it is of a version that nothing is known of, not to be written over.
        """
        user, slot = rows.users[index], int(rows.slots[index])
        try:
            record = read_record(stored.body, user, slot)
        except Damaged:
            return False
        self._residents.check(record)
        return _is_newer(record, rows.take(np.array([index])))

    # --- forgetting ---------------------------------------------------------------------------------------------

    def forget(self, row: int) -> Flow[bool]:
        """Make a resident, whom nobody feeds, a tombstone, at once; the flow is done when it stands in the journal and
        as the record. False: the slot went to another owner first, who is to be asked again."""
        assert not self._residents.slab.num_tags[row], "somebody still feeds the user"
        self._residents.forget(row)
        self._journal.note_change()
        return self._bury_one(self._burial(np.array([row], np.intp)))

    def forget_damaged(self, user: str, slot: int) -> Flow[bool]:
        """As `forget`, of one of whom nothing can be read. Raises Refused: REASON_OVERLOADED, memory is full."""
        return self.forget(self._residents.slab.find(user) or self._admit(user, slot))

    def _bury_one(self, burial: _Burial) -> Flow[bool]:
        return bool((yield from self._bury(burial))[0])

    def _bury_all(self, burial: _Burial) -> Flow[None]:
        yield from self._bury(burial)

    def _burial(self, rows: Indices) -> _Burial:
        tombstones, _ = self._residents.gather(rows, self._slots.claims)
        return _Burial(rows, self._residents.slab.generation[rows], tombstones)

    def _bury(self, burial: _Burial) -> Flow[Mask]:
        """Write the records of tombstones, each once a standing claim holds its row: an attempt must not write records.
        Then the row leaves, unless the user is back: as with anybody who leaves, no segment that holds something older
        outlives the one that holds the row. Returns whose tombstones stand; of the others the slot went."""
        rows, slots, versions = burial.rows, burial.tombstones.slots, burial.tombstones.versions
        buried = np.zeros(len(rows), np.bool_)
        backoff = Backoff()
        while True:
            mine = (self._slots.claims[slots] == burial.tombstones.claims).all(axis=1) & self._slots.journaled(slots)
            here = self._residents.slab.generation[rows] == burial.generations
            buried |= mine & ~here
            due = mine & ~buried & self._slots.standing()[slots] & (self._residents.durable_version[rows] >= versions)
            if due.any():
                buried[due] = yield from self._write_records(burial.tombstones.take(np.flatnonzero(due)))
                self._drop_buried(burial, due & buried)
            if (buried | ~mine).all():
                return buried
            if (due & ~buried).any():
                yield from backoff.wait()
            else:
                yield Wait(self._journal.landing, self._me.timing.heartbeat_us)

    def _drop_buried(self, burial: _Burial, buried: Mask) -> None:
        residents, rows = self._residents, burial.rows
        still = (
            buried
            & (residents.slab.generation[rows] == burial.generations)
            & (residents.slab.version[rows] == burial.tombstones.versions)
            & residents.forgotten[rows]
            & (residents.dirty[rows] == CLEAN)
            & self._slots.standing()[residents.slab.slot[rows]]
        )
        residents.drop_rows(rows[still])


@dataclass(frozen=True, slots=True, eq=False)
class _Burial:
    """Rows that became tombstones, and those as they were."""

    rows: Indices
    generations: NDArray[np.uint32]
    tombstones: Rows


def _is_newer(one: Rows, other: Rows) -> bool:
    """Which of two durable states of one user came later. Who was forgotten comes back at the tombstone's version, and
    what is rejected or skipped moves only a session."""
    if one.versions[0] != other.versions[0]:
        return bool(one.versions[0] > other.versions[0])
    if one.forgotten[0] != other.forgotten[0]:
        return bool(other.forgotten[0])
    return _covers(one, other) and not _covers(other, one)


def _covers(one: Rows, other: Rows) -> bool:
    """Whether one state knows all that another has consumed. A session that is gone is at or below the floor."""
    known = {(high, low): last_seq for high, low, last_seq, _, _ in one.sessions.tolist()}
    floor = tuple(one.floors[0].tolist())
    return all(
        known.get((high, low), 0) >= last_seq or (high, low) <= floor
        for high, low, last_seq, _, _ in other.sessions.tolist()
    )


def _damaged(user: str, slot: int) -> pb.Rejection:
    return rejection(pb.REASON_DATA_LOSS, "user_id", f"what is stored at {record_key(slot, user)} is damaged")


def refusal_of(error: StoreError) -> pb.Rejection:
    """What users are told when the store fails them."""
    match error:
        case Damaged():
            return rejection(pb.REASON_DATA_LOSS, "", f"what is stored is damaged: {error}")
        case SchemaMismatch():
            return rejection(pb.REASON_SCHEMA, "", str(error))
        case _:
            return rejection(pb.REASON_UNAVAILABLE, "", f"the store fails: {error}", 500)
