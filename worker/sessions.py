"""Which observation of which session was consumed last: the worker is the judge of every seq.

Sessions are entries of arrays, chained by user row, because most users have one and a million residents are expected.
A user keeps at most SESSIONS_PER_USER; the oldest that no stream feeds and whose last event is durable goes first and
raises the user's floor, and a session at or below the floor that is not known any more is refused rather than started
anew (DESIGN.md, section 5).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evercurrent.errors import refused
from evercurrent.v1 import observation_pb2 as pb

SESSIONS_PER_USER = 16
NO_ENTRY = -1
UNSEQUENCED = 0
"""The session id of observations that come without one."""

U64 = NDArray[np.uint64]

_LOW = (1 << 64) - 1


class SessionLog:
    """All sessions of all residents. An entry is an index into the arrays, valid until its user or its place is given
    up. The arrays are reserved for all that may ever be, as those of the slab are (worker.slab).

    Unsequenced feeds have no entry of their own: entry 0 stands for all of them and checks nothing.
    """

    def __init__(self, num_rows: int) -> None:
        num_entries = 1 + SESSIONS_PER_USER * num_rows
        self.last_seq = np.zeros(num_entries, np.uint64)
        self.lost = np.zeros(num_entries, np.uint64)
        self.landed_seq = np.zeros(num_entries, np.uint64)
        self.durable_seq = np.zeros(num_entries, np.uint64)
        self._id = np.zeros((num_entries, 2), np.uint64)
        self._num_feeds = np.zeros(num_entries, np.int32)
        self._next = np.zeros(num_entries, np.int32)
        self._head = np.full(num_rows, NO_ENTRY, np.int32)
        self._floor = np.zeros((num_rows, 2), np.uint64)
        self._used = 1
        self._free: list[int] = []

    def __len__(self) -> int:
        return self._used - 1 - len(self._free)

    def open(self, row: int, session_id: int) -> int:
        """The entry of a user's session (a ULID as a number), new ones with last_seq 0. One feed more holds it.

        Raises:
            Refused: REASON_SESSION_FORGOTTEN, it had to make room for newer ones, or the user was forgotten;
                REASON_OVERLOADED, every place of the user is held by a stream or not durable yet.
        """
        chain = self.of(row)
        for entry in chain:
            if self.session_id(entry) == session_id:
                self._num_feeds[entry] += 1
                return entry
        floor = _number(self._floor[row])
        if floor and session_id <= floor:
            text = "newer sessions took its place, or the user was forgotten; open a new one"
            raise refused(pb.REASON_SESSION_FORGOTTEN, "session_id", text)
        if len(chain) >= SESSIONS_PER_USER:
            self._forget_oldest(row, chain)
        entry = self._allocate()
        self._id[entry] = (session_id >> 64, session_id & _LOW)
        self.last_seq[entry] = 0
        self.lost[entry] = 0
        self.landed_seq[entry] = 0
        self.durable_seq[entry] = 0
        self._num_feeds[entry] = 1
        self._next[entry] = self._head[row]
        self._head[row] = entry
        return entry

    def close(self, entry: int) -> None:
        """One feed less. The session stays known."""
        self._num_feeds[entry] -= 1

    def of(self, row: int) -> list[int]:
        """The entries of a user."""
        entries = []
        entry = int(self._head[row])
        while entry != NO_ENTRY:
            entries.append(entry)
            entry = int(self._next[entry])
        return entries

    def session_id(self, entry: int) -> int:
        """A session's id, a ULID as a number."""
        return _number(self._id[entry])

    def drop(self, row: int) -> None:
        """Forget all sessions of a user, and its floor."""
        self._free.extend(self.of(row))
        self._head[row] = NO_ENTRY
        self._floor[row] = 0

    def drop_all(self, rows: NDArray[np.intp]) -> None:
        """Forget all sessions of users, and their floors."""
        _, entries, _ = self.gather(rows)
        self._free.extend(entries.tolist())
        self._head[rows] = NO_ENTRY
        self._floor[rows] = 0

    def forget(self, row: int) -> None:
        """Forget all sessions of a user for good: the floor rises to the newest, so that none of them begins anew."""
        newest = max((self.session_id(entry) for entry in self.of(row)), default=0)
        floor = max(newest, _number(self._floor[row]))
        self.drop(row)
        self._floor[row] = (floor >> 64, floor & _LOW)

    def gather(self, rows: NDArray[np.intp]) -> tuple[NDArray[np.int32], NDArray[np.int32], U64]:
        """The sessions of users: how many each has, their entries user by user, both halves of the users' floors."""
        heads = self._head[rows]
        owners, entries = [], []
        at = np.flatnonzero(heads != NO_ENTRY)
        level = heads[at]
        while len(at):
            owners.append(at)
            entries.append(level)
            level = self._next[level]
            more = level != NO_ENTRY
            at, level = at[more], level[more]
        if not owners:
            return np.zeros(len(rows), np.int32), np.zeros(0, np.int32), self._floor[rows]
        owner = np.concatenate(owners)
        order = np.argsort(owner, kind="stable")
        counts = np.bincount(owner, minlength=len(rows)).astype(np.int32)
        return counts, np.concatenate(entries)[order], self._floor[rows]

    def ids(self, entries: NDArray[np.int32]) -> U64:
        """Both halves of the ids of sessions, [entries, 2]."""
        return self._id[entries]

    def restore(self, rows: NDArray[np.intp], counts: NDArray[np.int32], sessions: U64, floors: U64) -> None:
        """Give users without sessions those that were gathered, `counts` each, user by user: (id high, id low,
        last_seq, lost, durable_seq)."""
        self._floor[rows] = floors
        entries = self._allocate_all(len(sessions))
        self._id[entries] = sessions[:, :2]
        self.last_seq[entries] = sessions[:, 2]
        self.lost[entries] = sessions[:, 3]
        self.landed_seq[entries] = self.durable_seq[entries] = sessions[:, 4]
        self._num_feeds[entries] = 0
        has_any = counts > 0
        ends = np.cumsum(counts)[has_any]
        following = np.append(entries[1:], NO_ENTRY)[: len(entries)]
        following[ends - 1] = NO_ENTRY
        self._next[entries] = following
        self._head[rows] = NO_ENTRY
        self._head[rows[has_any]] = entries[ends - counts[has_any]]

    def _forget_oldest(self, row: int, chain: list[int]) -> None:
        done = [
            entry for entry in chain if not self._num_feeds[entry] and self.durable_seq[entry] == self.last_seq[entry]
        ]
        if not done:
            text = f"each of the user's {SESSIONS_PER_USER} sessions is open or not durable yet"
            raise refused(pb.REASON_OVERLOADED, "session_id", text, retry_after_ms=1000)
        oldest = min(done, key=self.session_id)
        if self.session_id(oldest) > _number(self._floor[row]):
            self._floor[row] = self._id[oldest]
        kept = [entry for entry in chain if entry != oldest]
        self._head[row] = kept[0]
        for entry, following in zip(kept, [*kept[1:], NO_ENTRY], strict=True):
            self._next[entry] = following
        self._free.append(oldest)

    def _allocate(self) -> int:
        if self._free:
            return self._free.pop()
        self._used += 1
        return self._used - 1

    def _allocate_all(self, num: int) -> NDArray[np.int32]:
        num_reused = min(num, len(self._free))
        entries = self._free[len(self._free) - num_reused :]
        del self._free[len(self._free) - num_reused :]
        used, self._used = self._used, self._used + num - num_reused
        return np.array([*entries, *range(used, self._used)], np.int32)


def _number(halves: np.ndarray[tuple[int, ...], np.dtype[np.uint64]]) -> int:
    return (int(halves[0]) << 64) | int(halves[1])
