"""Which user and session each tag of a link names, and which model version it is pinned to."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from worker.inbox import NO_PIN
from worker.sessions import UNSEQUENCED
from worker.slab import INITIAL_ROW

TAG_MAX = 1 << 24
"""Tags are below it: what a router can have open at once, and what the arrays may grow to."""

WAITING, ENDED = -1, -2
"""In place of a row: the user is not here yet; the worker gave the tag up, and what still comes for it is dropped."""


class Feeds:
    """The tags of one link. Tags are small numbers that the router reuses, so arrays hold them. One that is in use is
    open (it has a row) or WAITING; one that is not has INITIAL_ROW or is ENDED."""

    def __init__(self) -> None:
        self._rows = np.full(64, INITIAL_ROW, np.int32)
        self._entries = np.full(64, UNSEQUENCED, np.int32)
        self._pins = np.full(64, NO_PIN, np.uint16)
        self._num_open = 0
        self._num_pinned = 0

    def __len__(self) -> int:
        return self._num_open

    def is_used(self, tag: int) -> bool:
        """Whether a tag is open or waiting."""
        return self.find_one(tag)[0] not in (INITIAL_ROW, ENDED)

    def wait(self, tag: int) -> None:
        """A tag that is not in use is to be opened."""
        assert not self.is_used(tag), f"tag {tag} is in use"
        self._put(tag, WAITING, UNSEQUENCED)

    def open(self, tag: int, row: int, entry: int, pin: int = NO_PIN) -> None:
        """A tag that is not in use, or waits, names a session from now on."""
        assert self.find_one(tag)[0] <= INITIAL_ROW, f"tag {tag} is in use"
        self._put(tag, row, entry)
        self._num_open += 1
        self._pins[tag] = pin
        self._num_pinned += pin != NO_PIN

    def close(self, tag: int) -> bool:
        """The tag names nothing from now on; whether it did. One that waited does so no more."""
        return self._leave(tag, INITIAL_ROW)

    def end(self, tag: int) -> None:
        """The tag is given up: what comes for it is dropped until it is opened again."""
        self._leave(tag, ENDED)

    def _leave(self, tag: int, mark: int) -> bool:
        row = self.find_one(tag)[0]
        if row != mark and tag < len(self._rows):
            self._put(tag, mark, UNSEQUENCED)
        was_open = row > INITIAL_ROW
        self._num_open -= was_open
        if was_open and self._pins[tag] != NO_PIN:
            self._pins[tag] = NO_PIN
            self._num_pinned -= 1
        return was_open

    def _put(self, tag: int, row: int, entry: int) -> None:
        if tag >= len(self._rows):
            self._grow(tag)
        self._rows[tag] = row
        self._entries[tag] = entry

    def find(self, tags: NDArray[np.uint32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Rows and session entries of tags; INITIAL_ROW, WAITING or ENDED for one that is not open."""
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

    @property
    def has_pins(self) -> bool:
        """Whether any tag is pinned."""
        return self._num_pinned > 0

    def pins(self, tags: NDArray[np.uint32]) -> NDArray[np.uint16]:
        """What tags are pinned to."""
        known = tags < len(self._pins)
        return np.where(known, self._pins[np.where(known, tags, 0)], np.uint16(NO_PIN))

    def tags(self) -> NDArray[np.intp]:
        """All open tags."""
        return np.flatnonzero(self._rows > INITIAL_ROW)

    def _grow(self, tag: int) -> None:
        size = max(2 * len(self._rows), tag + 1)
        for name, blank in (("_rows", INITIAL_ROW), ("_entries", UNSEQUENCED), ("_pins", NO_PIN)):
            old = getattr(self, name)
            new = np.full(size, blank, old.dtype)
            new[: len(old)] = old
            setattr(self, name, new)
