"""The residents: one float32 row a user, and arrays beside it. No objects a user but its key.

The arrays are reserved whole for `residents_max` when the worker starts. The operating system gives a page only when
it is first written, so an empty slab costs nothing, a growing one never copies what it holds, and no update waits for
that. Row 0 is never a user's: it keeps the initial state. This module knows no model, no store and no clock.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from evercurrent.errors import refused
from evercurrent.v1 import observation_pb2 as pb

Indices = NDArray[np.intp]

INITIAL_ROW = 0
RETRY_AFTER_MS = 1000


class Slab:
    """Rows of users by key.

    `state` is float32 [rows, D]. By row: `version`, `slot`, `num_tags` (streams that feed the user now), `resident`
    (whether it is a user's) and `generation`, which tells a row's user from the one who had it before.
    """

    def __init__(self, initial_state: NDArray[np.float32], residents_max: int) -> None:
        rows = residents_max + 1
        self.residents_max = residents_max
        self.state: NDArray[np.float32] = np.zeros((rows, len(initial_state)), np.float32)
        self.state[INITIAL_ROW] = initial_state
        self.version = np.zeros(rows, np.uint64)
        self.slot = np.zeros(rows, np.uint16)
        self.num_tags = np.zeros(rows, np.int32)
        self.resident = np.zeros(rows, np.bool_)
        self.generation = np.zeros(rows, np.uint32)
        self._rows: dict[str, int] = {}
        self._keys: list[str] = [""]
        self._free: list[int] = []

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    @property
    def num_rows(self) -> int:
        """Rows that are or were in use, with row 0: what lies beyond was never touched."""
        return len(self._keys)

    @property
    def num_free(self) -> int:
        """How many more can be admitted."""
        return self.residents_max - len(self._rows)

    @property
    def is_full(self) -> bool:
        """Whether nobody more can be admitted."""
        return len(self._rows) >= self.residents_max

    def find(self, key: str) -> int | None:
        """The row of a resident."""
        return self._rows.get(key)

    def key(self, row: int) -> str:
        """The user of a row in use."""
        return self._keys[row]

    def keys(self, rows: Indices) -> list[str]:
        """The users of rows in use."""
        return [self._keys[row] for row in rows.tolist()]

    def admit(self, key: str, slot: int) -> int:
        """The row of a user, new ones with the initial state at version 0.

        Raises:
            Refused: REASON_OVERLOADED, the user is new and every row is taken.
        """
        row = self._rows.get(key)
        if row is not None:
            return row
        if self.is_full:
            raise refused(
                pb.REASON_OVERLOADED, "user_id", f"all {self.residents_max} resident users are taken", RETRY_AFTER_MS
            )
        if self._free:
            row = self._free.pop()
            self._keys[row] = key
        else:
            row = len(self._keys)
            self._keys.append(key)
        self._rows[key] = row
        self.state[row] = self.state[INITIAL_ROW]
        self.version[row] = 0
        self.slot[row] = slot
        self.num_tags[row] = 0
        self.resident[row] = True
        return row

    def admit_all(self, keys: Sequence[str], slots: NDArray[np.uint16]) -> Indices:
        """The rows of users, none of them here and none twice, as `admit` makes them. There is room for all."""
        assert len(keys) <= self.num_free, "there is no room for them"
        num_reused = min(len(keys), len(self._free))
        num_used = len(self._keys)
        rows = self._free[len(self._free) - num_reused :]
        del self._free[len(self._free) - num_reused :]
        for key, row in zip(keys, rows, strict=False):
            self._keys[row] = key
        self._keys.extend(keys[num_reused:])
        rows.extend(range(num_used, len(self._keys)))
        num_before = len(self._rows)
        self._rows.update(zip(keys, rows, strict=True))
        assert len(self._rows) == num_before + len(keys), "one of them is here"
        at = np.array(rows, np.intp)
        self.state[at] = self.state[INITIAL_ROW]
        self.version[at] = 0
        self.slot[at] = slots
        self.num_tags[at] = 0
        self.resident[at] = True
        return at

    def drop(self, row: int) -> None:
        """Forget the user of a row. The caller has closed its sessions."""
        self.drop_all(np.array([row], np.intp))

    def drop_all(self, rows: Indices) -> None:
        """Forget the users of rows, none twice."""
        for row in rows.tolist():
            del self._rows[self._keys[row]]
            self._keys[row] = ""
            self._free.append(row)
        self.version[rows] = 0
        self.resident[rows] = False
        self.generation[rows] += 1
