"""The journal of one incarnation: what is DIRTY goes into segments, one in flight, and what is no longer needed goes.

Each footer names the oldest segment that still counts, which never goes back. Only when such a footer has landed are
older segments deleted, so a write that lands late brings nothing back; and they go strictly from the old end, so among
the rows that count none is older than its user's record (docs/adr/0009).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice

import numpy as np

from evercurrent.telemetry.logs import get_logger
from evercurrent.v1.storage_pb2 import Attempt as AttemptMessage
from evercurrent.v1.storage_pb2 import SegmentFooter
from persistence.errors import StoreError
from persistence.keys import segment_key, slot_key
from persistence.packing import Packing, packed_width, part_messages
from persistence.segment import SegmentWriter, seal_body
from worker.flows import (
    TOGETHER_MAX,
    Delete,
    Flow,
    Get,
    Offload,
    Pause,
    PutIfAbsent,
    Signal,
    Wait,
    insist,
    together,
)
from worker.owner import Fenced, Owner
from worker.residents import CLEAN, Gathered, Indices, Residents
from worker.slots import Attempt, Read, Slots

SLICE_ROWS = 512
SEGMENT_BYTES_MAX = 4 << 20
CARRY_BYTES_MAX = 160 << 10
"""Of the oldest segment's rows in one segment; up to SEGMENT_BYTES_MAX of them while the journal is twice too long."""
LOOP_SHARE = 32
"""Of the serving loop's time the journal takes one part in so many, as far as its heartbeat allows: under load segments
are fewer and hold each user once."""
SEGMENTS_MIN = 16
"""A journal this short is never cleaned."""
ROWS_PER_SEGMENT = 512
"""A journal may have a segment for so many rows that are needed, besides a few: a million residents fill 61 whole ones,
and to carry them all again and again would be most of what is written."""
DELETED_MIN = 16
"""Segments that are not needed wait for each other: where a store has transactions, they go in one."""
ENCODED_AT_ONCE_BYTES_MAX = 64 << 10
RESOLVE_SLOTS = 4 * TOGETHER_MAX

logger = get_logger(__name__)


class Journal:
    """`work` is set when a row has become DIRTY, `quick` when a segment is wanted at once, `landing` is pulsed when one
    has landed. `landed` is the number of the newest that has."""

    def __init__(self, me: Owner, slots: Slots, residents: Residents) -> None:
        self.landed = 0
        self.is_in_flight = False
        self.work = Signal()
        self.quick = Signal()
        self.landing = Signal()
        self._me = me
        self._slots = slots
        self._residents = residents
        self._next_row = 0
        self._oldest = 1
        self._beginning = 1
        self._is_deleting = False
        self._num_rows: dict[int, int] = {}
        self._last_segment_us = me.clock_us()
        self._changed_us: int | None = None
        self._sent_us: int | None = None
        self._busy_us = 0
        self._is_resolving = False
        self._last_resolve_us = me.clock_us()

    def note_change(self) -> None:
        """A row has become DIRTY."""
        if not self.work.is_set:
            if self._changed_us is None:
                self._changed_us = self._me.clock_us()
            self.work.set()

    @property
    def lag_us(self) -> int:
        """The age of the oldest change that is in no segment which has landed; 0: there is none."""
        since = [at_us for at_us in (self._sent_us, self._changed_us) if at_us is not None]
        return self._me.clock_us() - min(since) if since else 0

    def await_landing(self) -> Flow[None]:
        """Until no segment is in flight."""
        while self.is_in_flight:
            yield Wait(self.landing)

    def run(self) -> Flow[None]:
        """Write segments while there is anything to say, for ever. Ends when this incarnation is fenced or closed."""
        try:
            while not self._me.is_closing:
                yield from self._await_work()
                if self._me.is_closing:
                    return
                yield from self.write_segment()
                self._resolve_soon()
        except Fenced:
            self._me.tell.fenced()

    def close(self, settled: Signal) -> Flow[None]:
        """Write what is needed and seal the journal: whoever comes next need not wait for our death. `settled` is
        pulsed when an attempt has come to its end."""
        yield from self.await_landing()
        try:
            while len(self._to_change()):
                yield from self.write_segment()
            until_us = self._me.clock_us() + self._me.timing.dead_after_us
            while self._slots.attempts and (left_us := until_us - self._me.clock_us()) > 0:
                yield Wait(settled, left_us)
            number = self.landed + 1
            yield from self._append(number, seal_body(self._me.name, number))
        except Fenced:
            self._me.tell.fenced()

    def write_segment(self) -> Flow[None]:
        """Gather what is DIRTY and what is carried, and have it land. Raises Fenced."""
        self.is_in_flight = True
        began_us = self._me.clock_us()
        self._busy_us = 0
        self._sent_us, self._changed_us = self._changed_us, None
        number = self.landed + 1
        for _ in self._residents.bring_up():
            yield Pause()
        packing = self._residents.packing
        writer = SegmentWriter(packed_width(packing))
        parts = yield from self._gather(writer, packing)
        first = self._first()
        attempts = list(self._slots.attempts.items())
        self._last_segment_us = began_us
        body = yield from self._encoded(writer, partial(self._footer, number, first, attempts, packing), len(attempts))
        yield from self._append(number, body)
        self._num_rows[number] = writer.num_rows
        self.landed = number
        self._sent_us = None
        yield from self._land(number, parts)
        self.is_in_flight = False
        self.landing.pulse()
        if self._oldest + DELETED_MIN <= first and not self._is_deleting:
            self._is_deleting = True
            self._me.start(self._delete_below(first))

    def _await_work(self) -> Flow[None]:
        timing, clock_us = self._me.timing, self._me.clock_us
        while not self.work.is_set:
            due_us = self._last_segment_us + timing.heartbeat_us - clock_us()
            if not self._slots.owns:
                yield Wait(self.work)
            elif due_us <= 0 or not (yield Wait(self.work, due_us)):
                break
        interval_us = max(timing.journal_interval_us, min(timing.heartbeat_us, LOOP_SHARE * self._busy_us))
        while (due_us := self._last_segment_us + interval_us - clock_us()) > 0:
            if (yield Wait(self.quick, due_us)):
                break
        self.quick.clear()
        self.work.clear()

    def _gather(self, writer: SegmentWriter, packing: Packing) -> Flow[list[Gathered]]:
        slab = self._residents.slab
        clock_us = self._me.clock_us
        parts: list[Gathered] = []
        began_us = clock_us()
        rows = self._choose()
        generations = slab.generation[rows]
        for part in _slices(len(rows)):
            if part.start:
                yield Pause()
                began_us = clock_us()
                if self._residents.live.part not in packing:
                    # A version went live meanwhile that this segment does not hold: the rest goes into the next one.
                    break
            same = slab.generation[rows[part]] == generations[part]
            chosen = rows[part][same & self._slots.journaled(slab.slot[rows[part]])]
            gathered, marks = self._residents.gather(chosen, self._slots.claims, packing)
            self._residents.send(marks)
            parts.append(marks)
            writer.add(gathered)
            self._busy_us += clock_us() - began_us
        return parts

    def _encoded(self, writer: SegmentWriter, footer: Callable[[], SegmentFooter], num_attempts: int) -> Flow[bytes]:
        """A segment as bytes: a small one at once, since the way to a thread and back costs more."""
        if writer.num_bytes <= ENCODED_AT_ONCE_BYTES_MAX and num_attempts <= SLICE_ROWS:
            yield Pause()
            return writer.finish(footer())
        body = yield Offload(lambda: writer.finish(footer()))
        assert isinstance(body, bytes)
        return body

    def _footer(self, number: int, first: int, attempts: list[tuple[int, Attempt]], packing: Packing) -> SegmentFooter:
        return SegmentFooter(
            incarnation=self._me.name,
            number=number,
            first=first,
            model=packing[0].version,
            parts=part_messages(packing),
            attempts=[AttemptMessage(slot=slot, claim=one.record.claim, base=one.base_claim) for slot, one in attempts],
        )

    def _land(self, number: int, parts: list[Gathered]) -> Flow[None]:
        for index, marks in enumerate(parts):
            if index:
                yield Pause()
            began_us = self._me.clock_us()
            self._me.tell.durable(self._residents.land(marks, number, self._slots.standing()))
            self._busy_us += self._me.clock_us() - began_us
        if len(self._residents.changed()):
            self.note_change()

    def _choose(self) -> Indices:
        """The rows of the next segment, by slot: the changed ones, then those carried, each within its bound. Where not
        all the changed ones fit, the next segment begins with those left."""
        residents = self._residents
        row_bytes = 4 * packed_width(residents.packing) + 128
        changed = self._to_change()
        num_max = SEGMENT_BYTES_MAX // row_bytes
        if len(changed) > num_max:
            changed = np.roll(changed, -int(np.searchsorted(changed, self._next_row)))[:num_max]
            self._next_row = int(changed[-1]) + 1
            self.quick.set()
        carry_bytes = CARRY_BYTES_MAX if len(self._num_rows) < 2 * self._num_segments_max() else SEGMENT_BYTES_MAX
        rows = np.concatenate([changed, self._to_carry()[: max(1, carry_bytes // row_bytes)]])
        ordered: Indices = rows[np.argsort(residents.slab.slot[rows], kind="stable")]
        return ordered

    def _to_change(self) -> Indices:
        """DIRTY rows under claims of ours."""
        rows = self._residents.changed()
        mine: Indices = rows[self._slots.journaled(self._residents.slab.slot[rows])]
        return mine

    def _to_carry(self) -> Indices:
        """Rows of the oldest segment, while the journal is more than twice what is needed."""
        residents = self._residents
        if self._slots.retained or not self._is_long():
            return np.zeros(0, np.intp)
        rows = residents.in_segment(self._first())
        carried: Indices = rows[residents.dirty[rows] == CLEAN]
        return carried

    def _is_long(self) -> bool:
        num_segments = len(self._num_rows)
        if num_segments <= SEGMENTS_MIN:
            return False
        written, needed = sum(self._num_rows.values()), sum(self._residents.needed.values())
        return written > 2 * needed or num_segments > self._num_segments_max()

    def _num_segments_max(self) -> int:
        return 4 * SEGMENTS_MIN + sum(self._residents.needed.values()) // ROWS_PER_SEGMENT

    def _first(self) -> int:
        """The oldest segment that is still needed; all stay while a claim that we released is named by its record. It
        never goes back: of what a footer has given up, some may be gone."""
        if not self._slots.retained and self._is_long():
            needed = self._residents.needed
            for number in [number for number, count in needed.items() if not count]:
                del needed[number]
            self._beginning = max(self._beginning, min(needed, default=self.landed))
        return self._beginning

    def _append(self, number: int, body: bytes) -> Flow[None]:
        """Have a segment land. Raises Fenced if the journal was sealed."""
        key = segment_key(self._me.name, number)
        if (yield from insist(PutIfAbsent(key, body))) is None:
            stored = yield from insist(Get(key))
            if stored is None or stored.body != body:
                raise Fenced
        self._me.counts.segment_bytes += len(body)

    def _delete_below(self, first: int) -> Flow[None]:
        """A segment whose footer begins the journal at `first` has landed: what is older goes."""
        try:
            while self._oldest < first:
                numbers = range(self._oldest, min(first, self._oldest + TOGETHER_MAX))
                yield Delete(tuple(segment_key(self._me.name, number) for number in numbers))
                for number in numbers:
                    self._num_rows.pop(number, None)
                self._oldest = numbers[-1] + 1
        except StoreError as error:
            logger.info("segments that are not needed stay for now", why=str(error))
        finally:
            self._is_deleting = False

    def _resolve_soon(self) -> None:
        """Now and then, beside the journal: no segment waits for reads."""
        is_due = self._me.clock_us() - self._last_resolve_us >= self._me.timing.dead_after_us
        if is_due and self._slots.retained and not self._is_resolving:
            self._is_resolving = True
            self._last_resolve_us = self._me.clock_us()
            self._me.start(self._resolve())

    def _resolve(self) -> Flow[None]:
        """Find out which of the claims that we released are named no more; those that were asked about come last."""
        retained = self._slots.retained
        asked = dict(islice(retained.items(), RESOLVE_SLOTS))
        answers = yield from together([Get(slot_key(slot)) for slot in asked])
        for (slot, claim), answer in zip(asked.items(), answers, strict=True):
            if retained.get(slot) != claim:
                continue
            del retained[slot]
            try:
                is_named = Read.of(slot, answer).claim == claim
            except StoreError:
                is_named = True
            if is_named:
                retained[slot] = claim
        self._is_resolving = False


def _slices(num_rows: int) -> Iterator[slice]:
    """SLICE_ROWS at a time."""
    for start in range(0, num_rows, SLICE_ROWS):
        yield slice(start, start + SLICE_ROWS)
