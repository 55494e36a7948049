"""Which user and session each tag of a link names."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from worker.sessions import UNSEQUENCED
from worker.slab import INITIAL_ROW

TAG_MAX = 1 << 24
"""Tags are below it: what a router can have open at once, and what the arrays may grow to."""


class Feeds:
    """The open tags of one link. Tags are small numbers that the router reuses, so arrays hold them."""

    def __init__(self) -> None:
        self._rows = np.full(64, INITIAL_ROW, np.int32)
        self._entries = np.full(64, UNSEQUENCED, np.int32)
        self._num_open = 0

    def __len__(self) -> int:
        return self._num_open

    def open(self, tag: int, row: int, entry: int) -> None:
        """A tag that is not in use names a session from now on."""
        if tag >= len(self._rows):
            self._grow(tag)
        assert self._rows[tag] == INITIAL_ROW, f"tag {tag} is in use"
        self._rows[tag] = row
        self._entries[tag] = entry
        self._num_open += 1

    def close(self, tag: int) -> bool:
        """The tag names nothing from now on; whether it did."""
        if self.find_one(tag)[0] == INITIAL_ROW:
            return False
        self._rows[tag] = INITIAL_ROW
        self._entries[tag] = UNSEQUENCED
        self._num_open -= 1
        return True

    def find(self, tags: NDArray[np.uint32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Rows and session entries of tags; INITIAL_ROW for one that is not open."""
        if tags.size and int(tags.max()) >= len(self._rows):
            known = tags < len(self._rows)
            safe = np.where(known, tags, 0)
            rows = np.where(known, self._rows[safe], np.int32(INITIAL_ROW))
            return rows, np.where(known, self._entries[safe], np.int32(UNSEQUENCED))
        return self._rows[tags], self._entries[tags]

    def find_one(self, tag: int) -> tuple[int, int]:
        """As `find`, for one tag."""
        if tag >= len(self._rows):
            return INITIAL_ROW, UNSEQUENCED
        return self._rows.item(tag), self._entries.item(tag)

    def tags(self) -> NDArray[np.intp]:
        """All open tags."""
        return np.flatnonzero(self._rows != INITIAL_ROW)

    def _grow(self, tag: int) -> None:
        size = max(2 * len(self._rows), tag + 1)
        for name, blank in (("_rows", INITIAL_ROW), ("_entries", UNSEQUENCED)):
            old = getattr(self, name)
            new = np.full(size, blank, np.int32)
            new[: len(old)] = old
            setattr(self, name, new)
