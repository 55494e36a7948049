"""Slots taken from their owners and given to others, as the store decides (DESIGN.md, section 5).

What this incarnation believes it owns is what an answer of the store proved; what is in doubt is asked again. An owner
is asked for some slots at a time, so that a user waits for few others' rows, and each slot is served as soon as its own
are in: who came with it can leave again where not all fit.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np

from evercurrent.errors import Refused, rejection
from evercurrent.telemetry.logs import get_logger
from evercurrent.v1 import observation_pb2 as pb
from persistence.errors import StoreError
from persistence.keys import SLOTS_PREFIX, slot_key, slots_of_keys
from persistence.rows import Rows, joined_rows, no_rows
from worker.flows import (
    TOGETHER_MAX,
    AskRelease,
    Backoff,
    Dead,
    Flow,
    Get,
    HandOver,
    ListKeys,
    Offload,
    Pause,
    Released,
    Signal,
    Wait,
    insist,
    together,
)
from worker.journal import Journal
from worker.owner import Owner, stopping
from worker.reading import Silence, read_journal, seal
from worker.residency import Residency, refusal_of
from worker.residents import Indices, Residents
from worker.slots import FREE, SERVING, STANDING, TAKING, Attempt, Read, Slots, mask_of

SLICE_ROWS = 512
HAND_OVER_ROWS = 1024
SLOTS_AT_ONCE = 32
"""Slots that an owner is asked for at once."""

TRANSIENT = frozenset({pb.REASON_NOT_OWNER, pb.REASON_UNAVAILABLE})
"""Why slots cannot be had now that perhaps can be had in a while."""

S = TypeVar("S", Indices, list[int], Sequence[Read], list[tuple[int, Attempt]])

logger = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Left:
    """Slots that were asked for and not handed over: `not_held` never were or are no more, `kept` are served on."""

    not_held: frozenset[int]
    kept: frozenset[int]


class Claims:
    """Slots in and out. `settled` is pulsed when an attempt, or the taking of slots, has come to its end."""

    def __init__(self, me: Owner, slots: Slots, residents: Residents, journal: Journal, residency: Residency) -> None:
        self.settled = Signal()
        self._me = me
        self._slots = slots
        self._residents = residents
        self._journal = journal
        self._residency = residency
        self._wanted: list[int] = []
        self._assigned: dict[int, frozenset[int]] = {}
        self._hurried = set[int]()
        self._wanted_later = set[int]()
        self._reads: dict[str, list[Read]] = {}
        self._confirmed = set[int]()
        self._is_confirming = False
        self._dropping = set[int]()
        self._is_dropping = False

    def want(self, slots: Iterable[int]) -> None:
        """Claim those of these slots that are FREE."""
        wanted = [slot for slot in slots if self._slots.state[slot] == FREE]
        if wanted and not self._me.is_draining:
            self._slots.state[wanted] = TAKING
            if not self._wanted:
                self._me.start(self._take())
            self._wanted += wanted

    def assign(self, link: int, slots: Iterable[int]) -> None:
        """A router sends the users of these slots here, and of no others: claim those of them that have a record, since
        somebody's users are there. After a while look once more: a claim may have been on its way to its record."""
        self._assigned[link] = frozenset(slots)
        self._me.start(self._want_assigned(link, self._assigned[link]))

    def unassign(self, link: int) -> None:
        """A router is gone."""
        self._assigned.pop(link, None)

    def settle(self) -> Flow[None]:
        """Wait until no slot is being taken, and each claim that was begun stands or is lost."""
        while self._slots.attempts or self._slots.is_taking:
            yield Wait(self.settled)

    def hurry(self, slot: int) -> None:
        """Somebody waits for a user of a slot that is being taken: ask for it before others."""
        self._hurried.add(slot)

    def _want_assigned(self, link: int, slots: frozenset[int]) -> Flow[None]:
        yield from self._want_stored(slots)
        yield Wait(Signal(), max(self._me.timing.hold_us, self._me.timing.dead_after_us))
        if self._assigned.get(link) is slots:
            yield from self._want_stored(slots)

    def _want_stored(self, slots: frozenset[int]) -> Flow[None]:
        keys = yield from insist(ListKeys(SLOTS_PREFIX))
        self.want([slot for slot in slots_of_keys(keys) if slot in slots])

    # --- taking -------------------------------------------------------------------------------------------------

    def _take(self) -> Flow[None]:
        """Find out whose the wanted slots are, all that were wanted by now, and take them from each owner: of one in
        turn, so that its journal is read a few times and not once a slot, however its users come."""
        slots, self._wanted = self._wanted, []
        for part in _parts(slots, TOGETHER_MAX):
            answers = yield from together([Get(slot_key(slot)) for slot in part])
            for slot, answer in zip(part, answers, strict=True):
                try:
                    read = Read.of(slot, answer)
                except StoreError as error:
                    self._refuse([slot], refusal_of(error))
                    continue
                if self._is_on_its_way(read):
                    why = rejection(pb.REASON_NOT_OWNER, "", "the user moves to another worker", 100)
                    self._refuse([slot], why)
                    continue
                if read.owner not in self._reads:
                    self._reads[read.owner] = []
                    self._me.start(self._take_in_turn(read.owner))
                self._reads[read.owner].append(read)

    def _is_on_its_way(self, read: Read) -> bool:
        """Whether this incarnation gave the slot away a moment ago, and its record does not name who took it yet. To
        take it back now would be a race for the record, and what the loser learned would have to be replayed."""
        if read.owner != self._me.name or self._slots.retained.get(read.slot) != read.claim:
            return False
        since_us = self._me.clock_us() - self._slots.released_us.item(read.slot)
        return since_us < self._me.timing.dead_after_us

    def _take_in_turn(self, owner: str) -> Flow[None]:
        while reads := self._reads[owner]:
            self._reads[owner] = []
            yield from self._take_from(owner, reads)
        del self._reads[owner]

    def _take_from(self, owner: str, reads: list[Read]) -> Flow[None]:
        """Take slots that one incarnation owns, or nobody. Each leaves `left` when its rows are known."""
        left = {read.slot: read for read in reads}
        try:
            if not owner:
                yield from self._bring_in(left, reads, [])
                return
            if owner == self._me.name:
                yield from self._journal.await_landing()
            else:
                yield from self._take_released(owner, left)
            if left:
                rows = yield from self._journaled_rows(owner, left)
                yield from self._bring_in(left, list(left.values()), [rows])
        except StoreError as error:
            self._refuse(list(left), refusal_of(error))
        except Refused as error:
            self._refuse(list(left), error.rejection)

    def _take_released(self, owner: str, left: dict[int, Read]) -> Flow[None]:
        """Ask the owner for its slots, some at a time. The rows of those that are left are in its journal.

        Raises:
            Refused: REASON_NOT_OWNER, the owner lives and cannot be reached.
            StoreError: its journal cannot be closed.
        """
        silence = Silence(owner, self._me.clock_us)
        self._me.start(silence.look())
        asked = set[int]()
        while reads := self._next_to_ask(left, asked):
            address = reads[0].record.address if reads[0].record else ""
            answer = yield AskRelease(owner, address, {read.slot: read.claim for read in reads})
            if not isinstance(answer, Released):
                break
            asked.update(read.slot for read in reads)
            self._leave_kept(owner, left, answer.kept)
            given = [read for read in reads if read.slot not in answer.not_held | answer.kept]
            yield from self._bring_in(left, given, answer.rows)
        else:
            return
        name = owner.partition("/")[0]
        if not isinstance(answer, Dead) and not (yield from silence.lasts(self._me.timing.dead_after_us)):
            text = f"{name} owns the user and cannot be reached"
            raise Refused(rejection(pb.REASON_NOT_OWNER, "", text, 500, owner=name))
        yield from seal(owner)
        self._me.counts.seals += 1

    def _next_to_ask(self, left: Mapping[int, Read], asked: Collection[int]) -> list[Read]:
        """Some slots that were not asked for yet, first those that somebody waits for."""
        waiting = [read for slot, read in left.items() if slot not in asked]
        waiting.sort(key=lambda read: read.slot not in self._hurried)
        return waiting[:SLOTS_AT_ONCE]

    def _leave_kept(self, owner: str, left: dict[int, Read], kept: Collection[int]) -> None:
        """The owner goes on serving these slots: who waits for their users is sent there."""
        name = owner.partition("/")[0]
        for slot in kept:
            del left[slot]
        self._refuse(list(kept), rejection(pb.REASON_NOT_OWNER, "", f"{name} owns the user", 50, owner=name))

    def _want_later(self, slots: Iterable[int]) -> None:
        """Claim slots that could not be had when any owner has had them for long enough, if routers still send their
        users here."""
        new = frozenset(slots) - self._wanted_later
        if new and not self._me.is_draining:
            self._wanted_later |= new
            self._me.start(self._want_again(new))

    def _want_again(self, slots: frozenset[int]) -> Flow[None]:
        yield Wait(Signal(), max(self._me.timing.hold_us, self._me.timing.dead_after_us))
        self._wanted_later -= slots
        self.want([slot for slot in slots if any(slot in assigned for assigned in self._assigned.values())])

    def _journaled_rows(self, owner: str, left: Mapping[int, Read]) -> Flow[Rows]:
        """The rows of slots in their owner's journal, which no longer changes them."""
        newest = yield from read_journal(owner, {slot: read.claim for slot, read in left.items()})
        if newest.damaged:
            logger.error("rows are damaged", journal=owner, num_users=len(newest.damaged))
            yield from self._residency.mark_damaged(newest.damaged)
        return newest.rows

    def _bring_in(self, left: dict[int, Read], reads: Sequence[Read], parts: Sequence[Rows]) -> Flow[None]:
        """Begin claims on slots, make the rows that came with them resident, and serve each slot when its last row is
        in. Slots whose rows find no room for long are given up: no record names these claims."""
        for part in parts:
            self._residents.check(part)
        waiting = sorted(read.slot for read in reads)
        sort = partial(_by_slot, parts, waiting)
        # Few are sorted at once: users wait, and a thread may take long to get its turn.
        rows = sort() if sum(map(len, parts)) <= SLICE_ROWS else (yield Offload(sort))
        assert isinstance(rows, Rows)
        for begun in _parts(reads, TOGETHER_MAX):
            for read in begun:
                self._slots.attempt(read, self._me.name, self._me.address)
                del left[read.slot]
            yield Pause()
        num_in = 0
        while True:
            num_whole = int((np.searchsorted(rows.slots, waiting, side="right") <= num_in).sum())
            yield from self._serve(waiting[:num_whole])
            waiting = waiting[num_whole:]
            if not waiting:
                return
            coming = rows.take(np.arange(num_in, min(num_in + SLICE_ROWS, len(rows))))
            num_more = yield from self._residency.take_over(coming, 2 * self._me.timing.dead_after_us)
            if not num_more:
                self._give_up(waiting)
                return
            num_in += num_more
            yield Pause()

    def _serve(self, slots: list[int]) -> Flow[None]:
        """All rows of these slots are in. Some at a time: many users may wait for them."""
        for part in _parts(slots, TOGETHER_MAX):
            self._slots.state[part] = SERVING
            self._slots.served_us[part] = self._me.clock_us()
            self._hurried.difference_update(part)
            self._me.tell.slots_ready(part)
            self._journal.note_change()
            self._journal.quick.set()
            self._me.start(self._settle({slot: self._slots.attempts[slot] for slot in part}))
            yield Pause()

    def _give_up(self, slots: list[int]) -> None:
        why = rejection(pb.REASON_OVERLOADED, "", "there is no room for the users of this slot", 1000)
        if self._me.is_closing:
            why = stopping()
        self._slots.leave(slots)
        self._me.tell.slots_refused(slots, why)
        self._drop_soon(slots)
        self.settled.pulse()

    def _refuse(self, slots: list[int], why: pb.Rejection) -> None:
        if slots:
            self._slots.state[slots] = FREE
            self._hurried.difference_update(slots)
            self._me.tell.slots_refused(slots, why)
            self.settled.pulse()
            if why.reason in TRANSIENT:
                self._want_later(slots)

    # --- claiming -----------------------------------------------------------------------------------------------

    def _settle(self, attempts: dict[int, Attempt]) -> Flow[None]:
        """Have each record written, once all rows that came with its claim are in a segment."""
        while True:
            ready = [slot for slot in attempts if not self._residents.num_unlanded[slot]]
            if ready:
                self._me.start(self._write_claims({slot: attempts.pop(slot) for slot in ready}))
            if not attempts:
                return
            yield Wait(self._journal.landing)

    def _write_claims(self, attempts: dict[int, Attempt]) -> Flow[None]:
        """The CAS of each slot, again while it is in doubt."""
        backoff = Backoff()
        while True:
            unsure: dict[int, Attempt] = {}
            for part in _parts(list(attempts.items()), TOGETHER_MAX):
                unsure |= yield from self._write_once(dict(part))
            if not unsure:
                return
            attempts = unsure
            yield from backoff.wait()

    def _write_once(self, attempts: dict[int, Attempt]) -> Flow[dict[int, Attempt]]:
        """One CAS each, and what stands then. Returns those that may yet stand or fall."""
        attempts = {slot: one for slot, one in attempts.items() if self._slots.attempts.get(slot) is one}
        answers = yield from together([one.cas() for one in attempts.values()])
        unsure = {}
        for (slot, one), answer in zip(attempts.items(), answers, strict=True):
            if isinstance(answer, StoreError) or answer is None:
                unsure[slot] = one
            else:
                self._stands(slot, one)
        reads = yield from together([Get(slot_key(slot)) for slot in unsure])
        failed = {}
        for (slot, one), answer in zip(unsure.items(), reads, strict=True):
            try:
                read = Read.of(slot, answer)
            except StoreError:
                failed[slot] = one
                continue
            if read.record is not None and read.record.claim == one.record.claim:
                self._stands(slot, one)
            elif read.etag != one.base:
                self._lose(slot, one, read.owner)
            else:
                failed[slot] = one
        return failed

    def _stands(self, slot: int, attempt: Attempt) -> None:
        """The store names our claim."""
        if self._slots.attempts.get(slot) is not attempt:
            return
        del self._slots.attempts[slot]
        self._slots.state[slot] = STANDING
        self._me.counts.claims += 1
        self.settled.pulse()
        self._confirmed.add(slot)
        if not self._is_confirming:
            self._is_confirming = True
            self._me.start(self._confirm())

    def _confirm(self) -> Flow[None]:
        """What has landed of the slots whose claims stand now is durable."""
        while self._confirmed:
            confirmed = mask_of(self._confirmed)
            self._confirmed.clear()
            for part in self._residents.parts():
                self._me.tell.durable(self._residents.stand(confirmed & self._slots.standing(), part))
                yield Pause()
        self._is_confirming = False

    def _lose(self, slot: int, attempt: Attempt, owner: str) -> None:
        """Another claim stands: what this one served was an attempt that never counted."""
        if self._slots.attempts.get(slot) is not attempt:
            return
        logger.info("claim lost", slot=slot, owner=owner)
        self._me.counts.claims_lost += 1
        self._slots.leave([slot])
        name = owner.partition("/")[0]
        why = rejection(pb.REASON_NOT_OWNER, "", f"{name} owns the user now", 100, owner=name)
        self._me.tell.slots_lost(mask_of([slot]), why)
        self._drop_soon([slot])
        self.settled.pulse()

    # --- leaving ------------------------------------------------------------------------------------------------

    def release(self, claims: dict[int, int]) -> Flow[Left]:
        """Stop serving slots for good and hand their rows over, in parts, but for those that were claimed a moment ago:
        or two routers that disagree would have them move to and fro.

        A claim that is not held here is never served again, and its rows are in the journal when this returns. It is to
        be driven to its end, whether or not anybody still takes the rows.
        """
        held = [slot for slot, claim in claims.items() if self._slots.holds(slot, claim)]
        not_held = frozenset(claims) - frozenset(held)
        kept = frozenset[int]()
        if not self._me.is_draining:
            kept_from_us = self._me.clock_us() - self._me.timing.hold_us
            kept = frozenset(slot for slot in held if self._slots.served_us[slot] > kept_from_us)
            held = [slot for slot in held if slot not in kept]
        if held:
            self._slots.leave(held)
            self.settled.pulse()
            self._slots.retained.update((slot, claims[slot]) for slot in held)
            self._slots.released_us[held] = self._me.clock_us()
            why = rejection(pb.REASON_NOT_OWNER, "", "the user moves to another worker", 100)
            self._me.tell.slots_lost(mask_of(held), why)
            for part in _parts((yield from self._rows_of(held)), HAND_OVER_ROWS):
                yield HandOver(self._residents.gather(self._still(part), self._slots.claims)[0])
                self._residents.drop_rows(self._still(part))
            self._slots.free(held)
            self._me.counts.slots_released += len(held)
            self._me.released.pulse()
        if not_held:
            yield from self._journal.await_landing()
        return Left(not_held, kept)

    def _drop_soon(self, slots: Sequence[int]) -> None:
        """Have the rows of slots that are served no more go."""
        self._dropping.update(slots)
        if not self._is_dropping:
            self._is_dropping = True
            self._me.start(self._drop())

    def _drop(self) -> Flow[None]:
        while self._dropping:
            slots = list(self._dropping)
            self._dropping.clear()
            for part in _parts((yield from self._rows_of(slots)), SLICE_ROWS):
                self._residents.drop_rows(self._still(part))
                yield Pause()
            self._slots.free(slots)
        self._is_dropping = False

    def _rows_of(self, slots: Sequence[int]) -> Flow[Indices]:
        """The rows of slots that are being released, each with its generation: nobody comes there any more."""
        mask = mask_of(slots)
        found = [np.zeros((0, 2), np.intp)]
        for part in self._residents.parts():
            rows = self._residents.of_slots(mask, part)
            found.append(np.column_stack([rows, self._residents.slab.generation[rows]]))
            yield Pause()
        return np.concatenate(found)

    def _still(self, found: Indices) -> Indices:
        """Of rows with their generations, those that nobody has dropped since."""
        still: Indices = found[self._residents.slab.generation[found[:, 0]] == found[:, 1], 0]
        return still


def _by_slot(parts: Sequence[Rows], slots: Sequence[int]) -> Rows:
    """All rows of some slots, slot by slot."""
    rows = joined_rows([part for part in parts if len(part)] or [no_rows(0)])
    order = np.argsort(rows.slots, kind="stable")
    return rows.take(order[mask_of(slots)[rows.slots[order]]])


def _parts(many: S, num_max: int) -> Iterator[S]:
    """Some at a time."""
    for start in range(0, len(many), num_max):
        yield many[start : start + num_max]
