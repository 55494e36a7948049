"""One model version's states of all residents: the numbers, who has them, and who is to have them.

The arrays are reserved whole, as the slab's are. Row 0 is never a user's: it keeps the initial state. This module knows
no model but by what `migrate` does.

Letters: B users, D numbers of a state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from persistence.packing import Part
from worker.slab import INITIAL_ROW, Indices

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
Shapes = Mapping[str, tuple[int, ...]]
UNKNOWN = 0
"""The position of a user of whom it was not asked for yet."""

Migrate = Callable[[Floats, Shapes], Floats]
"""A version's states [B, D] of another's, by that one's tensors."""


class VersionStates:
    """`states` is float32 [rows, D]; `present` says which rows have one, where the version is not the live one: that
    one's states all residents have. `pinned` rows are wanted whatever the fraction."""

    def __init__(self, version: str, initial: Floats, states: Floats, migrate: Migrate | None = None) -> None:
        self.version = version
        self.part = Part(version, len(initial))
        self.states = states
        self.states[INITIAL_ROW] = initial
        self.present = np.zeros(len(states), np.bool_)
        self.pinned = np.zeros(len(states), np.bool_)
        self.migrate = migrate
        self._positions = np.zeros(len(states), np.float32)

    @classmethod
    def blank(cls, version: str, initial: Floats, num_rows: int, migrate: Migrate | None = None) -> VersionStates:
        """Nobody has one."""
        return cls(version, initial, np.zeros((num_rows, len(initial)), np.float32), migrate)

    def put(self, rows: Indices, states: Floats) -> None:
        """These rows have these states from now on."""
        self.states[rows] = states
        self.present[rows] = True

    def begin(self, rows: Indices) -> None:
        """These rows begin with the initial state."""
        self.put(rows, self.states[INITIAL_ROW])

    def forget(self, rows: Indices | int) -> None:
        """Who is there now, or nobody, has none."""
        self.present[rows] = False
        self.pinned[rows] = False
        self._positions[rows] = UNKNOWN

    def members(self, rows: Indices, fraction: float, users: Callable[[Indices], Sequence[str]]) -> Mask:
        """Who of these is among a fraction of all users, by hash, or pinned. `users` names those never asked about."""
        positions = self._positions[rows]
        unknown = positions == UNKNOWN
        if unknown.any():
            found = [position(self.version, user) for user in users(rows[unknown])]
            self._positions[rows[unknown]] = positions[unknown] = found
        members: Mask = (positions < fraction) | self.pinned[rows]
        return members


def position(version: str, user: str) -> float:
    """Where a user is among all, above 0 and below 1, in the order in which a version takes them: another order for
    each."""
    digest = blake2b(f"{version}\0{user}".encode(), digest_size=4).digest()
    return ((int.from_bytes(digest, "little") >> 9) + 0.5) / 2**23
