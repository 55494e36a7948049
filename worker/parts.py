"""One model version's states of all residents: the numbers, and who has them.

The arrays are reserved whole, as the slab's are. Row 0 is never a user's: it keeps the initial state. This module knows
no model but by what `migrate` does.

Letters: B users, D numbers of a state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from persistence.packing import Part
from worker.slab import INITIAL_ROW, Indices

Floats = NDArray[np.float32]
Shapes = Mapping[str, tuple[int, ...]]
Migrate = Callable[[Floats, Shapes], Floats]
"""A version's states [B, D] of another's, by that one's tensors."""


class VersionStates:
    """`states` is float32 [rows, D]; `present` says which rows have one, where the version is not the live one: that
    one's states all residents have."""

    def __init__(self, version: str, initial: Floats, states: Floats, migrate: Migrate | None = None) -> None:
        self.version = version
        self.part = Part(version, len(initial))
        self.states = states
        self.states[INITIAL_ROW] = initial
        self.present = np.zeros(len(states), np.bool_)
        self.migrate = migrate

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
