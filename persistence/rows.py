"""Users' states as columns: what segments, hand-overs and hydration carry.

Letters: N users, D numbers a state, S sessions of all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from persistence.packing import Packing, repacked, union

U64 = NDArray[np.uint64]
LOW_MASK = (1 << 64) - 1

SESSION_FIELDS = 5
"""Columns of `Rows.sessions`: the ULID's upper and lower 64 bits, last_seq, lost, durable_seq."""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """N users. `sessions` holds the sessions of user 0, then those of user 1, and so on, `num_sessions[i]` each."""

    users: list[str]
    slots: NDArray[np.uint16]
    claims: U64
    """[N, 2]: the claim under which each row was written, a ULID's upper and lower 64 bits."""
    versions: U64
    durable_versions: U64
    """The versions known to be durable when the row was gathered; in a stored row they equal `versions`."""
    forgotten: NDArray[np.bool_]
    """Tombstones: users who were forgotten at this version. Their states are zeros and they have no sessions."""
    floors: U64
    """[N, 2]: the session floor, a ULID's upper and lower 64 bits."""
    states: NDArray[np.float32]
    """[N, D]."""
    num_sessions: NDArray[np.int32]
    sessions: U64
    """[S, SESSION_FIELDS]."""
    packing: Packing
    """What the states hold."""

    def __len__(self) -> int:
        return len(self.users)

    def sessions_of(self, index: int) -> U64:
        """The sessions of one user. Counts those before: for many users take slices first."""
        start = int(self.num_sessions[:index].sum())
        return self.sessions[start : start + int(self.num_sessions[index])]

    def take(self, indices: NDArray[np.intp]) -> Rows:
        """Those users, in that order."""
        ends = np.cumsum(self.num_sessions)
        counts = self.num_sessions[indices]
        first = np.repeat(ends[indices] - counts - np.concatenate([[0], np.cumsum(counts)[:-1]]), counts)
        return Rows(
            [self.users[index] for index in indices.tolist()],
            self.slots[indices],
            self.claims[indices],
            self.versions[indices],
            self.durable_versions[indices],
            self.forgotten[indices],
            self.floors[indices],
            self.states[indices],
            counts,
            self.sessions[(first + np.arange(counts.sum())).astype(np.intp)],
            self.packing,
        )


def no_rows(state_width: int, packing: Packing = ()) -> Rows:
    """Nobody."""
    return Rows(
        [],
        np.zeros(0, np.uint16),
        np.zeros((0, 2), np.uint64),
        np.zeros(0, np.uint64),
        np.zeros(0, np.uint64),
        np.zeros(0, np.bool_),
        np.zeros((0, 2), np.uint64),
        np.zeros((0, state_width), np.float32),
        np.zeros(0, np.int32),
        np.zeros((0, SESSION_FIELDS), np.uint64),
        packing,
    )


def joined_rows(parts: Sequence[Rows]) -> Rows:
    """All of them, in order, in one packing; at least one part. Raises SchemaMismatch: a version has two widths."""
    if len(parts) == 1:
        return parts[0]
    packing = union(part.packing for part in parts)
    states = np.concatenate([repacked(part.states, part.packing, packing) for part in parts])
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS}
    return Rows(users=[user for part in parts for user in part.users], states=states, packing=packing, **columns)


_COLUMNS = tuple(name for name in Rows.__slots__ if name not in ("users", "states", "packing"))


def halves(number: int) -> tuple[int, int]:
    """A ULID's upper and lower 64 bits."""
    return number >> 64, number & LOW_MASK
