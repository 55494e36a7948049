"""Who owns which slots, what of them is journaled, who leaves memory: one incarnation's side of DESIGN.md, section 5.

Flows (worker.flows) over the residents. The store alone decides: everything that this incarnation believes it knows is
what an answer of the store proved, and what is in doubt is asked again. No I/O, no clock of its own.

    slot:  FREE → TAKING (whose rows?) → SERVING (rows journaled under a new claim, then the CAS) → STANDING → FREE

The journal has one segment in flight. Its footer names the oldest segment that still counts; only once that footer has
landed do older ones go, so a write that lands late brings nothing back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any, Protocol

import numpy as np
from ulid import ULID

from evercurrent.errors import EvercurrentError, Refused, rejection
from evercurrent.slots import NUM_SLOTS
from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1.storage_pb2 import Attempt, SegmentFooter, SlotRecord
from persistence.errors import Damaged, StoreError
from persistence.keys import (
    SLOTS_PREFIX,
    journal_prefix,
    record_key,
    segment_key,
    segment_of_key,
    slot_key,
    slot_of_key,
)
from persistence.record import read_record, read_slot, record_body, slot_body
from persistence.rows import Rows, halves
from persistence.segment import SegmentWriter, read_footer, seal_body
from persistence.store import Etag, Stored
from worker.flows import (
    AskRelease,
    Dead,
    Delete,
    Flow,
    Get,
    HandOver,
    ListKeys,
    Offload,
    Pause,
    PutIfAbsent,
    PutIfMatch,
    ReadSegment,
    Released,
    Signal,
    StoreEffect,
    Together,
    Wait,
)
from worker.reading import Newest, newest_rows
from worker.residents import CLEAN, NOWHERE, Gathered, Indices, Mask, Residents

FREE, TAKING, SERVING, STANDING, RELEASING = range(5)

TOGETHER_MAX = 64
SLICE_ROWS = 512
EVICT_ROWS = 64
EVICT_SAMPLE = 1024
EVICT_AT = 0.98
"""Share of the bound from which on users leave ahead of need."""
SEGMENT_BYTES_MAX = 4 << 20
CARRY_BYTES_MAX = 4 << 20
SEGMENTS_MIN = 16
"""A journal this short is never cleaned."""
HAND_OVER_ROWS = 1024
BACKOFF_US = 50_000
BACKOFF_US_MAX = 2_000_000

logger = logging.getLogger(__name__)


class Fenced(EvercurrentError):
    """Another incarnation has sealed this one's journal: it owns nothing any more, and a new one must begin."""


class Users(Protocol):
    """Who feeds the residents and asks for them: told at once, never raising."""

    def slots_ready(self, slots: Sequence[int]) -> None:
        """They are served from now on: seek the users that wait for them."""

    def slots_refused(self, slots: Sequence[int], why: pb.Rejection) -> None:
        """They could not be claimed; who waits for them is refused."""

    def slots_lost(self, slots: Mask, why: pb.Rejection) -> None:
        """They are served no more, from now on; their rows are about to go."""

    def user_ready(self, user: str) -> None:
        """One that was sought is resident, or may be sought again."""

    def user_refused(self, user: str, why: pb.Rejection) -> None:
        """One that was sought cannot be served now."""

    def durable(self, rows: Indices) -> None:
        """More of these rows is durable."""

    def fenced(self) -> None:
        """This incarnation is over."""


@dataclass(frozen=True, slots=True)
class Timing:
    """How often the journal is written, when a silent owner counts as dead; microseconds."""

    journal_interval_us: int
    dead_after_us: int

    @property
    def heartbeat_us(self) -> int:
        """An owner writes a segment at least this often, if need be an empty one."""
        return self.dead_after_us // 4


@dataclass(slots=True)
class _Attempt:
    """A slot under a claim of ours: the record that is to be written, and what it replaces."""

    record: SlotRecord
    body: bytes
    base: Etag | None
    base_claim: str


@dataclass(frozen=True, slots=True)
class _Read:
    """A slot's record as it was read; None: there is none."""

    slot: int
    record: SlotRecord | None
    etag: Etag | None


class Ownership:
    """The slots, the journal and the records of one incarnation. `start` has a flow driven beside the others."""

    def __init__(
        self,
        incarnation: str,
        address: str,
        model: str,
        residents: Residents,
        timing: Timing,
        clock_us: Callable[[], int],
        random: Random,
        start: Callable[[Flow[None]], None],
    ) -> None:
        self.incarnation = incarnation
        self.address = address
        self.state = np.full(NUM_SLOTS, FREE, np.uint8)
        self.claims = np.zeros((NUM_SLOTS, 2), np.uint64)
        self.landed = 0
        """The number of the newest segment that has landed."""
        self.work = Signal()
        """Set when a row has become DIRTY."""
        self.users: Users | None = None
        self._model = model
        self._residents = residents
        self._timing = timing
        self._clock_us = clock_us
        self._random = random
        self._start = start
        self._virgin = np.zeros(NUM_SLOTS, np.bool_)
        self._attempts: dict[int, _Attempt] = {}
        self._retained: dict[int, int] = {}
        self._damaged: set[str] = set()
        self._hydrating: set[str] = set()
        self._landing = Signal()
        self._room = Signal()
        self._settled = Signal()
        self._quick = Signal()
        self._closing = False
        self._evicting = False
        self._in_flight = False
        self._oldest = 1
        self._beginning = 1
        self._deleting = False
        self._num_evicted = 0
        self._journal_rows: dict[int, int] = {}
        self._last_segment_us = clock_us()
        self._last_resolve_us = clock_us()

    # --- what the serving loop asks -----------------------------------------------------------------------------

    def serves(self, slot: int) -> bool:
        """Whether users of this slot may be served now."""
        return self.state.item(slot) in (SERVING, STANDING)

    def note_change(self) -> None:
        """A row has become DIRTY."""
        if not self.work.is_set:
            self.work.set()

    def seek(self, user: str, slot: int) -> int | None:
        """The row of a user, or None: `users` will be told when to seek again.

        Raises:
            Refused: REASON_DATA_LOSS, what is stored of the user is damaged; REASON_UNAVAILABLE, stopping.
        """
        if self._closing:
            raise Refused(rejection(pb.REASON_UNAVAILABLE, "", "the worker is stopping", 500))
        if not self.serves(slot):
            self.want([slot])
            return None
        if user in self._damaged:
            raise Refused(_damaged(user, slot))
        residents = self._residents
        row = residents.slab.find(user)
        if row is not None:
            if residents.forgotten[row]:
                residents.revive(row)
                self.note_change()
            return row
        if len(residents.slab) >= EVICT_AT * residents.slab.residents_max:
            self.evict_soon()
        if self._virgin[slot] and not residents.slab.is_full:
            return residents.admit(user, slot)
        if user not in self._hydrating:
            self._hydrating.add(user)
            self._start(self._hydrate(user, slot))
        return None

    def want(self, slots: Iterable[int]) -> None:
        """Claim those of these slots that are FREE."""
        wanted = [slot for slot in slots if self.state[slot] == FREE]
        if wanted and not self._closing:
            self.state[wanted] = TAKING
            self._start(self._take(wanted))

    def want_stored(self, slots: Iterable[int]) -> None:
        """Claim those of these slots that have a record: somebody's users are there."""
        self._start(self._want_stored(frozenset(slots)))

    # --- claims -------------------------------------------------------------------------------------------------

    def _want_stored(self, slots: frozenset[int]) -> Flow[None]:
        keys = yield from self._insist(ListKeys(SLOTS_PREFIX))
        self.want([slot for key in keys if (slot := slot_of_key(key)) in slots])

    def _take(self, slots: list[int]) -> Flow[None]:
        """Find out whose these slots are, and take them from each owner."""
        owners: dict[tuple[str, str], list[_Read]] = {}
        for answer, slot in zip(
            (yield from self._together([Get(slot_key(slot)) for slot in slots])), slots, strict=True
        ):
            try:
                read = _read(slot, answer)
            except StoreError as error:
                self._refuse([slot], _refusal_of(error, slot))
                continue
            owner = (read.record.incarnation, read.record.address) if read.record else ("", "")
            owners.setdefault(owner, []).append(read)
        for (incarnation, address), reads in owners.items():
            self._start(self._take_from(incarnation, address, reads))

    def _take_from(self, incarnation: str, address: str, reads: list[_Read]) -> Flow[None]:
        slots = [read.slot for read in reads]
        rows: list[Rows] = []
        if incarnation:
            claims = {read.slot: int(ULID.from_str(read.record.claim)) for read in reads if read.record}
            try:
                rows = yield from self._rows_of(incarnation, address, claims)
            except StoreError as error:
                self._refuse(slots, _refusal_of(error, slots[0]))
                return
            except Refused as error:
                self._refuse(slots, error.rejection)
                return
        if self._closing:
            return
        for read in reads:
            self._begin(read)
        if not (yield from self._import(rows)):
            return
        serving = [read.slot for read in reads if read.slot in self._attempts]
        self.state[serving] = SERVING
        self._tell().slots_ready(serving)
        self.note_change()
        self._quick.set()
        yield from self._settle(serving)

    def _rows_of(self, incarnation: str, address: str, claims: dict[int, int]) -> Flow[list[Rows]]:
        """The newest rows of slots under the claims that their records name.

        Raises:
            Refused: REASON_NOT_OWNER, the owner lives and cannot be reached.
            StoreError: the store fails, or a segment is damaged.
        """
        if incarnation == self.incarnation:
            while self._in_flight:
                yield Wait(self._landing)
            return (yield from self._read_journal(incarnation, claims))
        answer = yield AskRelease(incarnation, address, claims)
        if isinstance(answer, Released):
            left = {slot: claim for slot, claim in claims.items() if slot in answer.not_held}
            return [*answer.rows, *((yield from self._read_journal(incarnation, left)) if left else ())]
        if not isinstance(answer, Dead) and not (yield from self._is_silent(incarnation)):
            owner = incarnation.partition("/")[0]
            raise Refused(rejection(pb.REASON_NOT_OWNER, "", f"{owner} owns the user and cannot be reached", 500))
        yield from self._seal(incarnation)
        return (yield from self._read_journal(incarnation, claims))

    def _is_silent(self, incarnation: str) -> Flow[bool]:
        """Whether a journal does not grow for `dead_after` by our own clock."""
        before = yield ListKeys(journal_prefix(incarnation))
        yield Wait(Signal(), self._timing.dead_after_us)
        after = yield ListKeys(journal_prefix(incarnation))
        return bool(before[-1:] == after[-1:])

    def _seal(self, incarnation: str) -> Flow[None]:
        """Close a dead incarnation's journal for good. Only then may it be read.

        The seal counts if it is the last object: the owner never deletes its newest segment, so one that was written
        where a segment had been and gone is found out by looking again.
        """
        while True:
            keys = yield ListKeys(journal_prefix(incarnation))
            last = segment_of_key(keys[-1])[1] if keys else 0
            if last and read_footer((yield from self._body(keys[-1]))).seal:
                return
            yield PutIfAbsent(segment_key(incarnation, last + 1), seal_body(incarnation, last + 1))

    def _body(self, key: str) -> Flow[bytes]:
        stored = yield Get(key)
        if stored is None:
            raise Damaged(f"{key} is gone")
        assert isinstance(stored, Stored)
        return stored.body

    def _read_journal(self, incarnation: str, claims: dict[int, int]) -> Flow[list[Rows]]:
        """The newest row of each user under these claims in a journal that no longer changes them."""
        wanted = np.zeros((NUM_SLOTS, 2), np.uint64)
        for slot, claim in claims.items():
            wanted[slot] = halves(claim)
        while True:
            keys = yield ListKeys(journal_prefix(incarnation))
            segments = yield from self._together([ReadSegment(key) for key in keys])
            for segment in segments:
                if isinstance(segment, StoreError):
                    raise segment
            if all(segment is not None for segment in segments):
                break
        newest = yield Offload(partial(newest_rows, segments, wanted, self._model))
        assert isinstance(newest, Newest)
        if newest.damaged:
            logger.error("rows are damaged journal=%s num_users=%d", incarnation, len(newest.damaged))
        self._damaged.difference_update(newest.rows.users)
        self._damaged.update(newest.damaged)
        return [newest.rows]

    def _begin(self, read: _Read) -> None:
        """A new claim on a slot whose rows we know."""
        claim = ULID()
        record = SlotRecord(
            slot=read.slot,
            epoch=(read.record.epoch if read.record else 0) + 1,
            incarnation=self.incarnation,
            address=self.address,
            claim=str(claim),
        )
        base_claim = read.record.claim if read.record else ""
        self._attempts[read.slot] = _Attempt(record, slot_body(record), read.etag, base_claim)
        self.claims[read.slot] = halves(int(claim))
        self._virgin[read.slot] = read.record is None

    def _import(self, parts: list[Rows]) -> Flow[bool]:
        """Make the rows that came with claims resident. False: this incarnation ended meanwhile."""
        for rows in (part.take(at) for part in parts for at in _slices(len(part))):
            for index in range(len(rows)):
                while self._residents.slab.is_full:
                    self.evict_soon()
                    yield Wait(self._room)
                    if not self._num_evicted:
                        yield Wait(Signal(), BACKOFF_US)
                if self._closing:
                    return False
                if int(rows.slots[index]) in self._attempts and self._residents.slab.find(rows.users[index]) is None:
                    row = self._residents.take_over(rows, index)
                    if rows.forgotten[index]:
                        self._start(self._bury_taken_over(row))
            yield Pause()
        return True

    def _settle(self, slots: list[int]) -> Flow[None]:
        """Write the records, once all rows that came with the claims are in a segment."""
        attempts = {slot: self._attempts[slot] for slot in slots}
        while True:
            ready = [slot for slot in attempts if not self._residents.num_unlanded[slot]]
            if ready:
                yield from self._write_claims({slot: attempts.pop(slot) for slot in ready})
            if not attempts:
                return
            yield Wait(self._landing)

    def _write_claims(self, attempts: dict[int, _Attempt]) -> Flow[None]:
        """The CAS of each slot, again while it is in doubt; by what stands then."""
        backoff_us = BACKOFF_US
        while attempts := {slot: one for slot, one in attempts.items() if self._attempts.get(slot) is one}:
            answers = yield from self._together([_cas(slot, one) for slot, one in attempts.items()])
            unsure = []
            for (slot, one), answer in zip(list(attempts.items()), answers, strict=True):
                if isinstance(answer, StoreError) or answer is None:
                    unsure.append(slot)
                else:
                    self._stands(slot, one)
            reads = yield from self._together([Get(slot_key(slot)) for slot in unsure])
            failed = False
            for slot, answer in zip(unsure, reads, strict=True):
                try:
                    read = _read(slot, answer)
                except StoreError:
                    failed = True
                    continue
                if read.record is not None and read.record.claim == attempts[slot].record.claim:
                    self._stands(slot, attempts[slot])
                elif read.etag != attempts[slot].base:
                    owner = read.record.incarnation if read.record else "nobody"
                    self._lose(slot, attempts[slot], owner)
                else:
                    failed = True
            if failed:
                yield Wait(Signal(), backoff_us)
                backoff_us = min(2 * backoff_us, BACKOFF_US_MAX)

    def _stands(self, slot: int, attempt: _Attempt) -> None:
        """The store names our claim."""
        if self._attempts.get(slot) is not attempt:
            return
        del self._attempts[slot]
        self.state[slot] = STANDING
        if not self._attempts:
            self._settled.pulse()
        self._tell().durable(self._residents.stand(_mask([slot])))

    def _lose(self, slot: int, attempt: _Attempt, owner: str) -> None:
        """Another claim stands: what this one served was an attempt that never counted."""
        if self._attempts.get(slot) is not attempt:
            return
        logger.info("claim lost slot=%d owner=%s", slot, owner)
        why = rejection(pb.REASON_NOT_OWNER, "", f"{owner.partition('/')[0]} owns the user now", 100)
        self._forget_slots([slot], why)

    def _forget_slots(self, slots: Sequence[int], why: pb.Rejection) -> None:
        mask = _mask(slots)
        self._tell().slots_lost(mask, why)
        for row in self._residents.of_slots(mask).tolist():
            self._residents.drop(row)
        for slot in slots:
            self._attempts.pop(slot, None)
        self.claims[list(slots)] = 0
        self.state[list(slots)] = FREE

    def _refuse(self, slots: list[int], why: pb.Rejection) -> None:
        self.state[slots] = FREE
        self._tell().slots_refused(slots, why)

    # --- release ------------------------------------------------------------------------------------------------

    def release(self, claims: dict[int, int]) -> Flow[frozenset[int]]:
        """Stop serving slots for good and hand their rows over, in parts; returns those not held.

        A claim that is not held here is never served again, and its rows are in the journal when this returns. It is to
        be driven to its end, whether or not anybody still takes the rows.
        """
        held = [slot for slot, claim in claims.items() if self.serves(slot) and self._claim(slot) == claim]
        why = rejection(pb.REASON_NOT_OWNER, "", "the user moves to another worker", 100)
        mask = _mask(held)
        self.state[held] = RELEASING
        self._tell().slots_lost(mask, why)
        for slot in held:
            self._attempts.pop(slot, None)
            self._retained[slot] = claims[slot]
        rows = self._residents.of_slots(mask)
        for start in range(0, len(rows), HAND_OVER_ROWS):
            yield HandOver(self._residents.gather(rows[start : start + HAND_OVER_ROWS], self.claims)[0])
        for row in rows.tolist():
            self._residents.drop(row)
        self.claims[held] = 0
        self.state[held] = FREE
        not_held = frozenset(claims) - frozenset(held)
        if not_held:
            while self._in_flight:
                yield Wait(self._landing)
        return not_held

    def _claim(self, slot: int) -> int:
        high, low = self.claims[slot].tolist()
        return int(high) << 64 | int(low)

    # --- the journal --------------------------------------------------------------------------------------------

    def journal(self) -> Flow[None]:
        """Write segments while there is anything to say, for ever. Ends when this incarnation is fenced or closed."""
        try:
            while not self._closing:
                yield from self._await_work()
                if self._closing:
                    return
                yield from self.write_segment()
                yield from self._clean()
        except Fenced:
            self._tell().fenced()

    def close(self) -> Flow[None]:
        """Write what is needed and seal our own journal: whoever comes next need not wait for our death."""
        self._closing = True
        while self._in_flight:
            yield Wait(self._landing)
        try:
            while self._journaled(self._residents.changed()).any():
                yield from self.write_segment()
            if self._attempts:
                yield Wait(self._settled, self._timing.dead_after_us)
            number = self.landed + 1
            yield from self._append(number, seal_body(self.incarnation, number))
        except Fenced:
            self._tell().fenced()

    @property
    def owns(self) -> bool:
        """Whether any slot is served."""
        return bool((self.state >= SERVING).any())

    @property
    def num_served(self) -> int:
        """How many slots are served."""
        return int(np.count_nonzero((self.state == SERVING) | (self.state == STANDING)))

    def _await_work(self) -> Flow[None]:
        while not self.work.is_set:
            due_us = self._last_segment_us + self._timing.heartbeat_us - self._clock_us()
            if not self.owns:
                yield Wait(self.work)
            elif due_us <= 0 or not (yield Wait(self.work, due_us)):
                break
        while (due_us := self._last_segment_us + self._timing.journal_interval_us - self._clock_us()) > 0:
            if (yield Wait(self._quick, due_us)):
                break
        self._quick.clear()
        self.work.clear()

    def write_segment(self) -> Flow[None]:
        """Gather what is DIRTY and what is carried, and have it land. Raises Fenced."""
        self._in_flight = True
        began_us = self._clock_us()
        number = self.landed + 1
        writer = SegmentWriter(self._residents.slab.state.shape[1])
        parts: list[Gathered] = []
        rows = self._choose()
        generations = self._residents.slab.generation[rows]
        for start in range(0, len(rows), SLICE_ROWS):
            if start:
                yield Pause()
            part = slice(start, start + SLICE_ROWS)
            same = self._residents.slab.generation[rows[part]] == generations[part]
            chosen = rows[part][same & self._journaled(rows[part])]
            gathered, marks = self._residents.gather(chosen, self.claims)
            self._residents.send(marks)
            parts.append(marks)
            writer.add(gathered)
        first = self._first()
        footer = SegmentFooter(
            incarnation=self.incarnation,
            number=number,
            first=first,
            model=self._model,
            attempts=[
                Attempt(slot=slot, claim=one.record.claim, base=one.base_claim) for slot, one in self._attempts.items()
            ],
        )
        self._last_segment_us = began_us
        yield from self._append(number, (yield Offload(partial(writer.finish, footer))))
        self._journal_rows[number] = writer.num_rows
        self.landed = number
        self._in_flight = False
        self._landed(number, parts)
        if self._oldest < first and not self._deleting:
            self._deleting = True
            self._start(self._delete_below(first))

    def _landed(self, number: int, parts: Iterable[Gathered]) -> None:
        standing = self.state == STANDING
        for marks in parts:
            self._tell().durable(self._residents.land(marks, number, standing))
        if len(self._residents.changed()):
            self.note_change()
        self._landing.pulse()

    def _journaled(self, rows: Indices) -> Mask:
        """Which rows have a claim of ours; those of a slot that is being handed over stay as they are."""
        state = self.state[self._residents.slab.slot[rows]]
        journaled: Mask = (state == SERVING) | (state == STANDING) | (state == TAKING)
        return journaled

    def _choose(self) -> Indices:
        """The rows of the next segment, by slot: the changed ones, then those carried, each within its bound."""
        residents = self._residents
        row_bytes = 4 * residents.slab.state.shape[1] + 128
        changed = residents.changed()[: SEGMENT_BYTES_MAX // row_bytes]
        carried = self._to_carry()[: CARRY_BYTES_MAX // row_bytes]
        rows = np.concatenate([changed, carried])
        ordered: Indices = rows[np.argsort(residents.slab.slot[rows], kind="stable")]
        return ordered

    def _to_carry(self) -> Indices:
        """Rows of the oldest segment, while the journal is more than twice what is needed. Tombstones whose record is
        written are not carried: no older segment has a row of theirs."""
        residents = self._residents
        if not self._is_long() or self._retained:
            return np.zeros(0, np.intp)
        rows = residents.in_segment(self._first())
        done = rows[residents.forgotten[rows] & residents.buried[rows] & (residents.dirty[rows] == CLEAN)]
        for row in done.tolist():
            residents.drop(row)
        carried: Indices = rows[residents.slab.resident[rows] & (residents.dirty[rows] == CLEAN)]
        return carried

    def _is_long(self) -> bool:
        written = sum(self._journal_rows.values())
        needed = sum(self._residents.needed.values())
        return len(self._journal_rows) > SEGMENTS_MIN and (
            written > 2 * needed or len(self._journal_rows) > 4 * SEGMENTS_MIN
        )

    def _first(self) -> int:
        """The oldest segment that is still needed; all stay while a claim that we released is named by its record. It
        never goes back: of what a footer has given up, some may be gone."""
        if not self._retained and self._is_long():
            needed = self._residents.needed
            for number in [number for number, count in needed.items() if not count]:
                del needed[number]
            self._beginning = max(self._beginning, min(needed, default=self.landed))
        return self._beginning

    def _append(self, number: int, body: bytes) -> Flow[None]:
        """Have a segment land. Raises Fenced if the journal was sealed."""
        key = segment_key(self.incarnation, number)
        if (yield from self._insist(PutIfAbsent(key, body))) is not None:
            return
        stored = yield from self._insist(Get(key))
        if stored is None or stored.body != body:
            raise Fenced

    def _delete_below(self, first: int) -> Flow[None]:
        """A segment whose footer begins the journal at `first` has landed: what is older goes."""
        try:
            while self._oldest < first:
                numbers = range(self._oldest, min(first, self._oldest + TOGETHER_MAX))
                answers = yield Together(tuple(Delete(segment_key(self.incarnation, number)) for number in numbers))
                if any(isinstance(answer, StoreError) for answer in answers):
                    return
                for number in numbers:
                    self._journal_rows.pop(number, None)
                self._oldest = numbers[-1] + 1
        finally:
            self._deleting = False

    def _clean(self) -> Flow[None]:
        """Find out which of the claims that we released are named no more."""
        if not self._retained or self._clock_us() - self._last_resolve_us < self._timing.dead_after_us:
            return
        self._last_resolve_us = self._clock_us()
        slots = list(self._retained)[: 4 * TOGETHER_MAX]
        for slot, answer in zip(
            slots, (yield from self._together([Get(slot_key(slot)) for slot in slots])), strict=True
        ):
            try:
                read = _read(slot, answer)
            except StoreError:
                continue
            if read.record is not None and int(ULID.from_str(read.record.claim)) != self._retained.get(slot):
                self._retained.pop(slot, None)

    # --- residency ----------------------------------------------------------------------------------------------

    def _hydrate(self, user: str, slot: int) -> Flow[None]:
        """Read one user's record and make the user resident."""
        try:
            claim = self._claim(slot)
            stored = yield Get(record_key(slot, user))
            yield from self._make_room()
            if not self.serves(slot) or self._claim(slot) != claim:
                why = rejection(pb.REASON_NOT_OWNER, "", "the user moves to another worker", 100)
                self._tell().user_refused(user, why)
                return
            if stored is None:
                self._residents.admit(user, slot)
            else:
                width = self._residents.slab.state.shape[1]
                self._residents.restore(read_record(stored.body, user, slot, self._model, width), 0)
        except Damaged:
            logger.exception("a record is damaged key=%s", record_key(slot, user))
            self._tell().user_refused(user, _damaged(user, slot))
        except StoreError as error:
            self._tell().user_refused(user, _refusal_of(error, slot))
        except Refused as error:
            self._tell().user_refused(user, error.rejection)
        else:
            self._tell().user_ready(user)
        finally:
            self._hydrating.discard(user)

    def _make_room(self) -> Flow[None]:
        """Wait until a row is free. Raises Refused when nobody can leave."""
        while self._residents.slab.is_full:
            self.evict_soon()
            yield Wait(self._room)
            if not self._num_evicted:
                most = self._residents.slab.residents_max
                text = f"all {most} resident users are taken and none can leave now"
                raise Refused(rejection(pb.REASON_OVERLOADED, "user_id", text, 1000))

    def evict_soon(self) -> None:
        """Let some users leave, unless that is being done."""
        if not self._evicting:
            self._evicting = True
            self._start(self._evict())

    def _evict(self) -> Flow[None]:
        """Let the least recently used of a sample leave."""
        try:
            yield Pause()
            self._num_evicted = 0
            self._num_evicted = yield from self.evict_rows(self._leaving())
        finally:
            self._evicting = False
            self._room.pulse()

    def _leaving(self) -> Indices:
        residents = self._residents
        num_rows = residents.slab.num_rows
        sample = np.arange(1, num_rows)
        if num_rows > EVICT_SAMPLE:
            sample = np.unique([self._random.randrange(1, num_rows) for _ in range(EVICT_SAMPLE)])
        sample = sample[self._may_leave(sample)]
        most = max(1, min(EVICT_ROWS, len(residents.slab) // 16))
        return sample[np.argsort(residents.used_us[sample], kind="stable")[:most]]

    def _may_leave(self, rows: Indices) -> Mask:
        """Residents whom nobody feeds and whose newest state a segment of a standing claim, or their record, holds."""
        residents = self._residents
        may_leave: Mask = (
            residents.slab.resident[rows]
            & (residents.slab.num_tags[rows] == 0)
            & (residents.dirty[rows] == CLEAN)
            & ~residents.unlanded[rows]
            & ~residents.forgotten[rows]
            & (self.state[residents.slab.slot[rows]] == STANDING)
        )
        return may_leave

    def evict_rows(self, rows: Indices) -> Flow[int]:
        """Write these users' records; those that nothing touched meanwhile leave when their write is confirmed. Returns
        how many left."""
        residents = self._residents
        generations = residents.slab.generation[rows].copy()
        versions = residents.slab.version[rows].copy()
        segments = residents.segment[rows].copy()
        unwritten = segments != NOWHERE
        self._virgin[residents.slab.slot[rows[unwritten]]] = False
        written = ~unwritten
        if unwritten.any():
            gathered, _ = residents.gather(rows[unwritten], self.claims)
            written[unwritten] = yield from self._write_records(gathered)
        same = (
            written
            & (residents.slab.generation[rows] == generations)
            & (residents.slab.version[rows] == versions)
            & (residents.segment[rows] == segments)
        )
        leaving = rows[same & self._may_leave(rows)].tolist()
        for row in leaving:
            residents.drop(row)
        return len(leaving)

    def _write_records(self, rows: Rows) -> Flow[Mask]:
        """Write records over whatever older ones stand; which are confirmed."""
        keys = [record_key(int(rows.slots[index]), rows.users[index]) for index in range(len(rows))]
        before = yield from self._together([Get(key) for key in keys])
        written = np.zeros(len(rows), np.bool_)
        puts: dict[int, PutIfAbsent | PutIfMatch] = {}
        for index, answer in enumerate(before):
            body = record_body(rows, index, self._model)
            if isinstance(answer, StoreError):
                continue
            if answer is None:
                puts[index] = PutIfAbsent(keys[index], body)
            elif answer.body == body:
                written[index] = True
            else:
                puts[index] = PutIfMatch(keys[index], body, answer.etag)
        answers = yield from self._together(list(puts.values()))
        for index, answer in zip(puts, answers, strict=True):
            written[index] = answer is not None and not isinstance(answer, StoreError)
        return written

    # --- forgetting ---------------------------------------------------------------------------------------------

    def forget(self, row: int) -> Flow[bool]:
        """Make a resident, whom nobody feeds, a tombstone, at once; the flow is done when it stands in the journal and
        as the record. False: the slot went to another owner first, who is to be asked again."""
        self._residents.forget(row)
        self.note_change()
        return self._bury(row)

    def _bury(self, row: int) -> Flow[bool]:
        """Write the record of a tombstone, once a standing claim holds its row: an attempt must not write records.
        False: the row went."""
        residents = self._residents
        generation, version = residents.slab.generation.item(row), residents.slab.version.item(row)
        tombstone, _ = residents.gather(np.array([row], np.intp), self.claims)
        while (
            residents.durable_version.item(row) < version or residents.unlanded.item(row) or not self._stands_for(row)
        ):
            yield Wait(self._landing)
            if residents.slab.generation.item(row) != generation:
                return False
        self._virgin[residents.slab.slot[row]] = False
        backoff_us = BACKOFF_US
        while not (yield from self._write_records(tombstone))[0]:
            yield Wait(Signal(), backoff_us)
            backoff_us = min(2 * backoff_us, BACKOFF_US_MAX)
            if residents.slab.generation.item(row) != generation:
                return False
        if residents.slab.generation.item(row) != generation:
            return False
        residents.buried[row] = True
        return True

    def _bury_taken_over(self, row: int) -> Flow[None]:
        yield from self._bury(row)

    def _stands_for(self, row: int) -> bool:
        return self.state.item(self._residents.slab.slot.item(row)) == STANDING

    # --- helpers ------------------------------------------------------------------------------------------------

    def _tell(self) -> Users:
        assert self.users is not None, "nobody is told of the slots yet"
        return self.users

    def _together(self, effects: Sequence[Get | PutIfAbsent | PutIfMatch | ReadSegment]) -> Flow[list[Any]]:
        """The answers or errors of many store effects, TOGETHER_MAX at a time."""
        answers: list[Any] = []
        for start in range(0, len(effects), TOGETHER_MAX):
            answers += yield Together(tuple(effects[start : start + TOGETHER_MAX]))
        return answers

    def _insist(self, effect: StoreEffect) -> Flow[Any]:
        """The answer of a store effect, again until there is one."""
        backoff_us = BACKOFF_US
        while True:
            try:
                return (yield effect)
            except StoreError as error:
                logger.warning("the store fails, trying again: %s", error)
            yield Wait(Signal(), backoff_us)
            backoff_us = min(2 * backoff_us, BACKOFF_US_MAX)


def _read(slot: int, answer: object) -> _Read:
    """A slot's record of a Get's answer. Raises StoreError."""
    if isinstance(answer, StoreError):
        raise answer
    if answer is None:
        return _Read(slot, None, None)
    assert isinstance(answer, Stored)
    return _Read(slot, read_slot(answer.body), answer.etag)


def _cas(slot: int, attempt: _Attempt) -> PutIfAbsent | PutIfMatch:
    if attempt.base is None:
        return PutIfAbsent(slot_key(slot), attempt.body)
    return PutIfMatch(slot_key(slot), attempt.body, attempt.base)


def _slices(num_rows: int) -> Iterator[Indices]:
    """Indices, SLICE_ROWS at a time."""
    for start in range(0, num_rows, SLICE_ROWS):
        yield np.arange(start, min(start + SLICE_ROWS, num_rows))


def _mask(slots: Sequence[int]) -> Mask:
    mask = np.zeros(NUM_SLOTS, np.bool_)
    mask[list(slots)] = True
    return mask


def _damaged(user: str, slot: int) -> pb.Rejection:
    return rejection(pb.REASON_DATA_LOSS, "user_id", f"what is stored at {record_key(slot, user)} is damaged")


def _refusal_of(error: StoreError, slot: int) -> pb.Rejection:
    if isinstance(error, Damaged):
        return rejection(pb.REASON_DATA_LOSS, "", f"what is stored of slot {slot} is damaged: {error}")
    return rejection(pb.REASON_UNAVAILABLE, "", f"the store fails: {error}", 500)
