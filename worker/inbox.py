"""What waits, and which of it the next step takes: at most one observation a user, in each user's order.

A step takes a user's first observation and the queries before it; what comes after that observation stays for the next
round. So a flooding user adds rounds of its own and holds up nobody, and no result depends on how a batch was cut.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evercurrent.v1.columns_pb2 import EVENT_KIND_QUERY
from evercurrent.wire import Records, joined
from worker.slab import INITIAL_ROW

MARKS = np.dtype(
    [
        ("received_us", "<i8"),
        ("link", "<i4"),
        ("entry", "<i4"),
        ("row", "<i4"),
        ("refusal", "<i4"),
        ("hydrate_us", "<u4"),
        ("trace", "<u4"),
        ("pin", "<u2"),
        ("reason", "u1"),
    ]
)
"""What the worker adds to an event: when it came or, later, its user; from which link; its session's entry; its user's
row; the number of the refusal that a router sent with it (0: none); how long it waited for its user; the number of its
trace (0: it is not traced); the version that its session is pinned to, by its number (NO_PIN: the live one); and why it
cannot be taken (0: it can)."""

NO_PIN = 0


@dataclass(frozen=True, slots=True)
class Waiting:
    """Events and their marks, index by index."""

    events: Records
    marks: Records

    def __len__(self) -> int:
        return len(self.events)

    def take(self, index: NDArray[np.bool_] | NDArray[np.intp] | slice) -> Waiting:
        return Waiting(self.events[index], self.marks[index])


class Inbox:
    """Frames in order of arrival, and the rest of those that a step began. Bounded by the links' in-flight bounds."""

    def __init__(self, num_rows: int, batch_max: int) -> None:
        self._batch_max = batch_max
        self._frames: deque[Waiting] = deque()
        self._rest: Waiting | None = None
        self._first = np.zeros(num_rows, np.int64)
        self._num_waiting = 0

    def __len__(self) -> int:
        return self._num_waiting

    def put(self, frame: Waiting) -> None:
        """Append a frame."""
        if len(frame):
            self._frames.append(frame)
            self._num_waiting += len(frame)

    def drop(self, is_lost: Callable[[NDArray[np.int32]], NDArray[np.bool_]]) -> Waiting | None:
        """Take out the events of users who are lost, told by their rows; None if there are none. Takes time by what
        waits, which bounds of links keep small."""
        return self.drop_events(lambda marks: is_lost(marks["row"]))

    def drop_events(self, are_lost: Callable[[Records], NDArray[np.bool_]]) -> Waiting | None:
        """As `drop`, told by their marks."""
        if not self._num_waiting:
            return None
        parts = [self._rest] if self._rest is not None and len(self._rest) else []
        waiting = _joined([*parts, *self._frames])
        lost = are_lost(waiting.marks)
        if not lost.any():
            return None
        self._frames.clear()
        self._rest = waiting.take(~lost)
        self._num_waiting = len(self._rest)
        return waiting.take(lost)

    def rows(self) -> NDArray[np.int32]:
        """The rows of all that waits, some more than once."""
        parts = [self._rest] if self._rest is not None and len(self._rest) else []
        found: NDArray[np.int32] = _joined([*parts, *self._frames]).marks["row"]
        return found

    def cut(self) -> Waiting:
        """Take the next step's events: no two observations of one user, at most `batch_max`. The inbox is not empty."""
        waiting = self._gather()
        if len(waiting) == 1:
            self._rest = None
            self._num_waiting -= 1
            return waiting
        chosen = self._choose(waiting)
        if chosen.all() and len(waiting) <= self._batch_max:
            self._rest = None
            taken = waiting
        else:
            chosen &= np.cumsum(chosen) <= self._batch_max
            taken, self._rest = waiting.take(chosen), waiting.take(~chosen)
        self._num_waiting -= len(taken)
        return taken

    def _gather(self) -> Waiting:
        """The rest of the last round and enough new frames to fill a batch."""
        parts = [self._rest] if self._rest is not None and len(self._rest) else []
        num_new = 0
        while self._frames and num_new < self._batch_max:
            parts.append(self._frames.popleft())
            num_new += len(parts[-1])
        return _joined(parts)

    def _choose(self, waiting: Waiting) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
        rows = waiting.marks["row"]
        order = np.arange(len(waiting))
        changing = order[waiting.events["kind"] != EVENT_KIND_QUERY]
        first = self._first
        first[rows] = len(waiting)
        # Of repeated indices the last assignment stands: assigned backwards, that is a user's first event.
        first[rows[changing[::-1]]] = changing[::-1]
        # Nobody's events (closes and tags unknown) wait for nobody.
        first[INITIAL_ROW] = len(waiting)
        return np.asarray(order <= first[rows])


def _joined(parts: Sequence[Waiting]) -> Waiting:
    if len(parts) == 1:
        return parts[0]
    return Waiting(joined([part.events for part in parts]), joined([part.marks for part in parts]))
