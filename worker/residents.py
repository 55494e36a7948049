"""The residents and what of them is safe: rows, sessions, and how far each is journaled.

A row is DIRTY from a change until it is gathered for a segment, then IN_FLIGHT until that segment has landed. What has
landed is durable as soon as the claim of its slot stands (DESIGN.md, section 5); `stand` says so. This module knows no
store; `worker.ownership` decides when what is gathered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evercurrent.slots import NUM_SLOTS
from persistence.errors import SchemaMismatch
from persistence.packing import Packing, packed, unpacked
from persistence.rows import SESSION_FIELDS, U64, Rows
from worker.parts import Floats, Shapes, VersionStates
from worker.sessions import SessionLog
from worker.slab import Indices as Indices
from worker.slab import Slab
from worker.usage import Usage

CLEAN, DIRTY, IN_FLIGHT = range(3)
NOWHERE = 0
"""The segment of a row that no segment holds."""

SCAN_ROWS = 1 << 15
"""Rows that are looked through in one piece."""

Mask = NDArray[np.bool_]
States = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Gathered:
    """What of some rows is on its way to a segment."""

    rows: Indices
    generations: NDArray[np.uint32]
    versions: U64
    num_sessions: NDArray[np.int32]
    entries: NDArray[np.int32]
    ids: U64
    last_seqs: U64


class Residents:
    """Slab, sessions and usage, and by row:

    `dirty` (CLEAN, DIRTY, IN_FLIGHT), `segment` (the newest that holds the row, or NOWHERE), `unlanded` (came with a
    claim and is in no segment of it yet), `landed_version` and `durable_version`, `forgotten` (a tombstone),
    `used_us` (last use), `strikes` (updates refused in a row).

    The slab's states are those of the `live` version; `others` run beside it. `shapes` are the tensors of the versions
    whose states can be migrated. Whoever copies many rows goes through `bring_up` before, which has others learn what
    they have put off, a step at a time. `catch_up` is called for each copy: it brings up to date who must be, and says
    of each version whose states still lack something; these are not copied.
    """

    def __init__(self, initial_state: Floats, residents_max: int, version: str = "model") -> None:
        self.slab = Slab(initial_state, residents_max)
        self.live = VersionStates(version, initial_state, self.slab.state)
        self.others: dict[str, VersionStates] = {}
        self.shapes: dict[str, Shapes] = {}
        self.bring_up: Callable[[], Iterator[None]] = lambda: iter(())
        self.catch_up: Callable[[Indices], Mapping[str, Mask]] = lambda rows: {}
        self.sessions = SessionLog(residents_max + 1)
        self.usage = Usage(residents_max + 1)
        rows = residents_max + 1
        self.dirty = np.zeros(-(-rows // 8) * 8, np.uint8)
        self.segment = np.zeros(rows, np.int32)
        self.unlanded = np.zeros(rows, np.bool_)
        self.landed_version = np.zeros(rows, np.uint64)
        self.durable_version = np.zeros(rows, np.uint64)
        self.forgotten = np.zeros(rows, np.bool_)
        self.used_us = np.zeros(rows, np.int64)
        self.strikes = np.zeros(rows, np.uint16)
        self.num_unlanded = np.zeros(NUM_SLOTS, np.int64)
        self.needed: dict[int, int] = {}
        """How many rows have each segment as their newest."""

    @property
    def num_at_risk(self) -> int:
        """Updates that are applied and not durable."""
        used = slice(self.slab.num_rows)
        return int(self.slab.version[used].sum() - self.durable_version[used].sum())

    def admit(self, user: str, slot: int) -> int:
        """The row of a user, new ones at version 0 and CLEAN. Raises as Slab.admit."""
        row = self.slab.find(user)
        if row is None:
            row = self.slab.admit(user, slot)
            self._blank(np.array([row], np.intp))
        return row

    def restore(self, rows: Rows) -> Indices:
        """Make stored users resident, CLEAN: their newest states are durable where they were read. None of them is here
        yet, there is room for all, and `check` has let them pass. Returns their rows."""
        at = self.slab.admit_all(rows.users, rows.slots)
        self._blank(at)
        self._unpack(rows, at)
        self.slab.version[at] = rows.versions
        self.landed_version[at] = self.durable_version[at] = rows.durable_versions
        self.sessions.restore(at, rows.num_sessions, rows.sessions, rows.floors)
        return at

    def take_over(self, rows: Rows) -> Indices:
        """Make users that came with claims resident, as `restore`, but DIRTY: no segment of those claims holds them."""
        at = self.restore(rows)
        self.forgotten[at] = rows.forgotten
        self.dirty[at] = DIRTY
        self.unlanded[at] = True
        np.add.at(self.num_unlanded, rows.slots, 1)
        return at

    @property
    def packing(self) -> Packing:
        """What a row's state packs: the live version's numbers first."""
        return (self.live.part, *(other.part for other in self.others.values()))

    def check(self, rows: Rows) -> None:
        """See that a live state can be had of each of these. Raises SchemaMismatch."""
        if rows.packing == (self.live.part,):
            return
        usable = rows.forgotten.copy()
        for part in rows.packing:
            found = unpacked(rows.states, rows.packing, part.version)
            local = self.live if part.version == self.live.version else self.others.get(part.version)
            if found is not None and (local.part == part if local else part.version in self.shapes):
                usable |= found[1]
        if not usable.all():
            stored = ", ".join(f"{part.version!r} with {part.width} numbers" for part in rows.packing)
            own = f"{self.live.version!r}, whose state has {self.live.part.width}"
            raise SchemaMismatch(f"stored states are of {stored}; this worker runs {own}")

    def swap(self, version: str) -> None:
        """One of the others, of which every resident has a state, is the live version from now on, and the live one is
        one of the others."""
        coming = self.others.pop(version)
        assert coming.present[self.slab.resident].all(), f"somebody has no state of {version}"
        self.live.present = self.slab.resident.copy()
        self.others = {self.live.version: self.live, **self.others}
        self.live = coming
        self.slab.state = coming.states

    def drop(self, row: int) -> None:
        """Forget a user's row. Nobody feeds it."""
        self.drop_rows(np.array([row], np.intp))

    def drop_rows(self, rows: Indices) -> None:
        """Forget users' rows, none twice. Nobody feeds them."""
        self._leave_segment(rows)
        np.subtract.at(self.num_unlanded, self.slab.slot[rows[self.unlanded[rows]]], 1)
        self.dirty[rows] = CLEAN
        self.durable_version[rows] = 0
        self.strikes[rows] = 0
        for other in self.others.values():
            other.forget(rows)
        self.usage.blank(rows)
        self.sessions.drop_all(rows)
        self.slab.drop_all(rows)

    def forget(self, row: int) -> None:
        """Make a user, whom nobody feeds, a tombstone: one version on, no state, no sessions, and none of those it had
        may begin anew."""
        self.sessions.forget(row)
        self.usage.blank(row)
        self.slab.state[row] = self.slab.state[0]
        for other in self.others.values():
            other.forget(row)
        self.slab.version[row] += np.uint64(1)
        self.forgotten[row] = True
        self.dirty[row] = DIRTY

    def revive(self, row: int) -> None:
        """A forgotten user is back, and begins anew at the tombstone's version."""
        self.forgotten[row] = False
        self.dirty[row] = DIRTY

    def parts(self) -> Iterator[slice]:
        """The rows in use, SCAN_ROWS at a time, those that come into use meanwhile too."""
        start = 0
        while start < self.slab.num_rows:
            yield slice(start, min(start + SCAN_ROWS, self.slab.num_rows))
            start += SCAN_ROWS

    def of_slots(self, slots: Mask, part: slice) -> Indices:
        """Of a part of the rows, those of the residents of some slots."""
        found: Indices = np.flatnonzero(self.slab.resident[part] & slots[self.slab.slot[part]])
        found += part.start
        return found

    def changed(self) -> Indices:
        """Rows that are DIRTY, ascending. Looks at eight at once: of a million residents few are."""
        words = np.flatnonzero(self.dirty.view(np.uint64)[: -(-self.slab.num_rows // 8)] != 0)
        rows = (8 * words[:, None] + np.arange(8)).ravel()
        changed: Indices = rows[self.dirty[rows] == DIRTY]
        return changed

    def in_segment(self, number: int) -> Indices:
        """Rows whose newest segment is this one."""
        return np.flatnonzero(self.segment[: self.slab.num_rows] == number)

    def gather(self, rows: Indices, claims: U64, packing: Packing | None = None) -> tuple[Rows, Gathered]:
        """Copy rows, in today's packing or another of which the live version is a part; `claims` [slots, 2] are both
        halves of the claim of each slot."""
        slab, sessions = self.slab, self.sessions
        packing = self.packing if packing is None else packing
        lagging = self.catch_up(rows)
        num_sessions, entries, floors = sessions.gather(rows)
        slots = slab.slot[rows]
        columns = np.empty((len(entries), SESSION_FIELDS), np.uint64)
        ids = columns[:, :2] = sessions.ids(entries)
        columns[:, 2] = sessions.last_seq[entries]
        columns[:, 3] = sessions.lost[entries]
        columns[:, 4] = sessions.durable_seq[entries]
        forgotten = self.forgotten[rows]
        states = self._packed(rows, packing, lagging)
        states[forgotten] = 0
        gathered = Rows(
            slab.keys(rows),
            slots,
            claims[slots],
            slab.version[rows],
            self.durable_version[rows],
            forgotten,
            floors,
            states,
            num_sessions,
            columns,
            packing,
        )
        marks = Gathered(
            rows, slab.generation[rows], gathered.versions, num_sessions, entries, ids, columns[:, 2].copy()
        )
        return gathered, marks

    def send(self, marks: Gathered) -> None:
        """What was gathered is on its way."""
        self.dirty[marks.rows] = IN_FLIGHT

    def land(self, marks: Gathered, number: int, standing: Mask) -> Indices:
        """A segment that holds these has landed. Returns the rows of which more is durable now."""
        same = self.slab.generation[marks.rows] == marks.generations
        rows, versions = marks.rows[same], marks.versions[same]
        self._leave_segment(rows)
        self.segment[rows] = number
        if len(rows):
            self.needed[number] = self.needed.get(number, 0) + len(rows)
        self.dirty[rows[self.dirty[rows] == IN_FLIGHT]] = CLEAN
        first = rows[self.unlanded[rows]]
        np.subtract.at(self.num_unlanded, self.slab.slot[first], 1)
        self.unlanded[first] = False
        self.landed_version[rows] = versions
        entries, seqs = self._same_sessions(marks, same)
        self.sessions.landed_seq[entries] = seqs
        stands = standing[self.slab.slot[rows]]
        self.durable_version[rows[stands]] = versions[stands]
        entries, seqs = self._same_sessions(marks, same & standing[self.slab.slot[marks.rows]])
        self.sessions.durable_seq[entries] = seqs
        safer: Indices = rows[stands]
        return safer

    def stand(self, slots: Mask, part: slice) -> Indices:
        """The claims of these slots stand: what has landed is durable. Returns the rows of them in this part."""
        rows = self.of_slots(slots, part)
        landed: Indices = rows[self.segment[rows] != NOWHERE]
        self.durable_version[landed] = self.landed_version[landed]
        _, entries, _ = self.sessions.gather(landed)
        self.sessions.durable_seq[entries] = self.sessions.landed_seq[entries]
        return landed

    def are_as(self, marks: Gathered, chosen: Mask) -> Mask:
        """Which of the chosen rows, all of the same users still, are as they were gathered: versions, sessions and how
        far each is. The floor moves with the sessions."""
        rows = marks.rows[chosen]
        num_sessions, entries, _ = self.sessions.gather(rows)
        kept = np.repeat(chosen, marks.num_sessions)
        same: Mask = (self.slab.version[rows] == marks.versions[chosen]) & (num_sessions == marks.num_sessions[chosen])
        if not same.all():
            kept &= np.repeat(_spread(same, chosen), marks.num_sessions)
            entries = entries[np.repeat(same, num_sessions)]
        moved = (self.sessions.ids(entries) != marks.ids[kept]).any(axis=1)
        moved |= self.sessions.last_seq[entries] != marks.last_seqs[kept]
        owners = np.repeat(np.flatnonzero(same), num_sessions[same])
        same[owners[moved]] = False
        return same

    def _same_sessions(self, marks: Gathered, chosen: Mask) -> tuple[NDArray[np.int32], U64]:
        """The entries that still are the sessions that were gathered, of the chosen rows, and the seqs gathered. Users
        may have sessions of one id, and a place that was given up may be another user's now."""
        of_user = self.sessions.row[marks.entries] == np.repeat(marks.rows, marks.num_sessions)
        same_id = (self.sessions.ids(marks.entries) == marks.ids).all(axis=1)
        alive = np.repeat(chosen, marks.num_sessions) & of_user & same_id
        return marks.entries[alive], marks.last_seqs[alive]

    def _leave_segment(self, rows: Indices) -> None:
        for number, count in zip(*np.unique(self.segment[rows], return_counts=True), strict=True):
            if number != NOWHERE:
                self.needed[int(number)] -= int(count)
        self.segment[rows] = NOWHERE

    def _packed(self, rows: Indices, packing: Packing, lagging: Mapping[str, Mask]) -> Floats:
        """Copies of the rows' states."""
        if packing == (self.live.part,):
            return self.slab.state[rows]
        parts = []
        for part in packing:
            if part == self.live.part:
                parts.append((self.slab.state[rows], np.ones(len(rows), np.bool_)))
            elif (other := self.others.get(part.version)) is not None:
                has = other.present[rows]
                if (lag := lagging.get(part.version)) is not None:
                    has = has & ~lag
                parts.append((other.states[rows], has))
            else:
                parts.append((np.zeros((len(rows), part.width), np.float32), np.zeros(len(rows), np.bool_)))
        return packed(parts)

    def _unpack(self, rows: Rows, at: Indices) -> None:
        """Put stored states into rows; of versions that do not run here, only what the live one makes of them."""
        alive = ~rows.forgotten
        if rows.packing == (self.live.part,):
            self.slab.state[at[alive]] = rows.states[alive]
            return
        lacking = alive.copy()
        for local in (self.live, *self.others.values()):
            found = unpacked(rows.states, rows.packing, local.version) if local.part in rows.packing else None
            if found is None:
                continue
            here = found[1] & alive
            local.put(at[here], found[0][here])
            if local is self.live:
                lacking &= ~here
        for part in rows.packing:
            found = unpacked(rows.states, rows.packing, part.version) if part.version in self.shapes else None
            if found is None or not (here := found[1] & lacking).any():
                continue
            assert self.live.migrate is not None, "nobody said how to migrate"
            self.live.put(at[here], self.live.migrate(found[0][here], self.shapes[part.version]))
            lacking &= ~here

    def _blank(self, rows: Indices) -> None:
        self.dirty[rows] = CLEAN
        self.segment[rows] = NOWHERE
        self.unlanded[rows] = self.forgotten[rows] = False
        self.landed_version[rows] = self.durable_version[rows] = 0


def _spread(values: Mask, chosen: Mask) -> Mask:
    """Values of the chosen ones, in the place of each; the others are False."""
    spread = np.zeros(len(chosen), np.bool_)
    spread[chosen] = values
    return spread
