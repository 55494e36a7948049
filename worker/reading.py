"""How a journal is closed and read by others: is its owner silent, the seal, the newest rows of some claims."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from evercurrent.slots import NUM_SLOTS, slot_of
from evercurrent.telemetry.logs import get_logger
from persistence.errors import Damaged, StoreError
from persistence.keys import is_segment_key, journal_prefix, segment_key, segment_of_key
from persistence.rows import Rows, halves, joined_rows, no_rows
from persistence.segment import Segment, read_footer, seal_body
from persistence.store import Stored
from worker.flows import Flow, Get, ListKeys, Offload, PutIfAbsent, ReadSegment, Signal, Together, Wait

SEGMENTS_AT_ONCE = 8
"""Segments that are held in memory while a journal is read."""


logger = get_logger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Newest:
    """The newest row of each user, by slot; `damaged` are the users whose newest row cannot be read."""

    rows: Rows
    damaged: frozenset[str]


class JournalReader:
    """Takes the segments of a journal from the newest to the oldest and keeps the newest row of each user, under the
    wanted claims, by slot. Pure."""

    def __init__(self, claims: Mapping[int, int]) -> None:
        self.first = 0
        """Where the journal begins: what the newest segment that is no seal says."""
        self._claims = claims
        self._wanted = np.zeros((NUM_SLOTS, 2), np.uint64)
        for slot, claim in claims.items():
            self._wanted[slot] = halves(claim)
        self._seen = set[str]()
        self._damaged = set[str]()
        self._parts = list[Rows]()

    def take(self, segments: Sequence[Segment]) -> None:
        """The next older segments."""
        for segment in segments:
            if segment.footer.seal:
                continue
            self.first = self.first or segment.footer.first
            if segment.footer.number >= self.first:
                self._take(segment)

    def newest(self) -> Newest:
        """What was found. Raises SchemaMismatch: a version has states of two widths."""
        rows = joined_rows(self._parts or [no_rows(0)])
        return Newest(rows.take(np.argsort(rows.slots, kind="stable")), frozenset(self._damaged))

    def _take(self, segment: Segment) -> None:
        for user in segment.damaged:
            if user not in self._seen and slot_of(user) in self._claims:
                self._seen.add(user)
                self._damaged.add(user)
        rows = segment.rows
        mine = np.flatnonzero((rows.claims == self._wanted[rows.slots]).all(axis=1) & rows.claims.any(axis=1))
        new = [index for index in mine.tolist() if rows.users[index] not in self._seen]
        if new:
            self._seen.update([rows.users[index] for index in new])
            self._parts.append(rows.take(np.array(new, np.intp)))


def read_journal(incarnation: str, claims: Mapping[int, int]) -> Flow[Newest]:
    """The newest row of each user under these claims, in a journal that no longer changes them.

    Raises:
        StoreError: the store fails, a segment is damaged, or a version has states of two widths.
    """
    while True:
        keys = yield from _segments_of(incarnation)
        reader = yield Offload(partial(JournalReader, claims))
        assert isinstance(reader, JournalReader)
        if (yield from _read_all(reader, keys)):
            newest = yield Offload(reader.newest)
            assert isinstance(newest, Newest)
            return newest


def _read_all(reader: JournalReader, keys: Sequence[str]) -> Flow[bool]:
    """Read segments, the newest first. False: one of them is gone meanwhile."""
    left = list(keys)
    while left:
        at_once = [left.pop() for _ in range(min(len(left), SEGMENTS_AT_ONCE if reader.first else 1))]
        segments = yield Together(tuple(ReadSegment(key) for key in at_once))
        for segment in segments:
            if isinstance(segment, StoreError):
                raise segment
        if any(segment is None for segment in segments):
            return False
        yield Offload(partial(reader.take, segments))
        left = [key for key in left if segment_of_key(key)[1] >= reader.first]
    return True


class Silence:
    """Whether a journal grows, by our own clock. `look` may be driven beside what else is tried of its owner."""

    def __init__(self, incarnation: str, clock_us: Callable[[], int]) -> None:
        self._incarnation = incarnation
        self._clock_us = clock_us
        self._seen: list[str] | None = None
        self._seen_us = 0

    def look(self) -> Flow[None]:
        """See how far it is now, unless the store fails."""
        try:
            self._seen = (yield from _segments_of(self._incarnation))[-1:]
        except StoreError as error:
            logger.warning("the journal cannot be listed", journal=self._incarnation, why=str(error))
        self._seen_us = self._clock_us()

    def lasts(self, dead_after_us: int) -> Flow[bool]:
        """Whether it has not grown since it was seen, nor does until that is so long ago. Raises StoreError."""
        if self._seen is None:
            self._seen = (yield from _segments_of(self._incarnation))[-1:]
            self._seen_us = self._clock_us()
        if (left_us := self._seen_us + dead_after_us - self._clock_us()) > 0:
            yield Wait(Signal(), left_us)
        return (yield from _segments_of(self._incarnation))[-1:] == self._seen


def seal(incarnation: str) -> Flow[None]:
    """Close a dead incarnation's journal for good. Only then may it be read.

    The seal counts if it is the last object: the owner never deletes its newest segment, so one that was written where
    a segment had been and gone is found out by looking again.
    """
    while True:
        keys = yield from _segments_of(incarnation)
        last = segment_of_key(keys[-1])[1] if keys else 0
        if last and (yield from is_seal(keys[-1])):
            return
        yield PutIfAbsent(segment_key(incarnation, last + 1), seal_body(incarnation, last + 1))


def _segments_of(incarnation: str) -> Flow[list[str]]:
    keys = yield ListKeys(journal_prefix(incarnation))
    return [key for key in keys if is_segment_key(key)]


def is_seal(key: str) -> Flow[bool]:
    """Whether a segment is a seal. Raises Damaged if it is gone."""
    stored = yield Get(key)
    if stored is None:
        raise Damaged(f"{key} is gone")
    assert isinstance(stored, Stored)
    return read_footer(stored.body).seal
