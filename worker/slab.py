"""The residents: one float32 row a user, and arrays beside it. No objects a user but its key.

The arrays are reserved whole for `residents_max` when the worker starts. The operating system gives a page only when
it is first written, so an empty slab costs nothing, a growing one never copies what it holds, and no update waits for
that. Row 0 is never a user's: it keeps the initial state. This module knows no model, no store and no clock.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from evercurrent.errors import refused
from evercurrent.v1 import observation_pb2 as pb

Indices = NDArray[np.intp]

INITIAL_ROW = 0
RETRY_AFTER_MS = 1000
NUM_SHARDS = 256
"""Dictionaries that the keys are spread over: one of a million keys takes 30 ms to grow. A power of two."""


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
        self._rows: list[dict[str, int]] = [{} for _ in range(NUM_SHARDS)]
        self._num_residents = 0
        self._keys: list[str] = [""]
        self._free: list[int] = []

    def __len__(self) -> int:
        return self._num_residents

    def __iter__(self) -> Iterator[str]:
        return chain.from_iterable(self._rows)

    @property
    def num_rows(self) -> int:
        """Rows that are or were in use, with row 0: what lies beyond was never touched."""
        return len(self._keys)

    @property
    def num_free(self) -> int:
        """How many more can be admitted."""
        return self.residents_max - self._num_residents

    @property
    def is_full(self) -> bool:
        """Whether nobody more can be admitted."""
        return self._num_residents >= self.residents_max

    def find(self, key: str) -> int | None:
        """The row of a resident."""
        return self._rows[hash(key) & (NUM_SHARDS - 1)].get(key)

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
        shard = self._shard(key)
        row = shard.get(key)
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
        shard[key] = row
        self._num_residents += 1
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
        for key, row in zip(keys, rows, strict=True):
            assert self._shard(key).setdefault(key, row) == row, "one of them is here"
        self._num_residents += len(keys)
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
            key = self._keys[row]
            del self._shard(key)[key]
            self._keys[row] = ""
            self._free.append(row)
        self._num_residents -= len(rows)
        self.version[rows] = 0
        self.resident[rows] = False
        self.generation[rows] += 1

    def _shard(self, key: str) -> dict[str, int]:
        return self._rows[hash(key) & (NUM_SHARDS - 1)]
