"""What each resident costs lately: how many events it sends, and how much of the step's time they take. Pure.

Two float32 a row, exact for every resident. Space-Saving (Metwally, Agrawal, El Abbadi 2005) would bound the memory
whatever the number of users, which the slab does already, and cost a lookup and an update in Python for each event of a
batch. Here a batch of 256 is two numpy calls, with what leads to them 11 µs of its 710, and a lone event is two
additions: 0.16 µs warm, 1 to 3 of its 417 with the caches as the model leaves them.

A step's time is split evenly over the events that it took: the model runs once for all of them, and what one of them
costs there cannot be told. So a user is slow whose events take much of the worker's time, be it that there are many,
that they come alone, each to a step of its own, or that the model fails on them: then the step goes through the batch
again in halves, every time. What a user *waits* for is not counted here: the store, when it comes into memory, takes
none of the step's time, and results say it (hydrate_us).

Counts fade: what is HALF_LIFE_S older counts half. Instead of halving all of them, what is new counts twice (Cormode et
al., Forward Decay, ICDE 2009), until the numbers get so large that all are scaled down once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

HALF_LIFE_S = 10
US_PER_S = 1_000_000

_WEIGHT_MAX = 2.0**64
_NOTHING = 2.0**-24
"""Less than this of an event or a microsecond is as good as none."""

Counts = NDArray[np.float32]


class Usage:
    """Counts by row, in a unit that changes with time: compare them with each other, and divide them by `elapsed_s` or
    `step_us_in_all`. Rows that are nobody's have none, but for row 0."""

    def __init__(self, num_rows: int) -> None:
        self.events: Counts = np.zeros(num_rows, np.float32)
        self.step_us: Counts = np.zeros(num_rows, np.float32)
        self.step_us_in_all = 0.0
        self._events_view = self.events.data.cast("B").cast("f")
        self._step_us_view = self.step_us.data.cast("B").cast("f")
        self._elapsed_s = 0.0
        self._weight = 1.0
        self._last_us: int | None = None
        self._doubles_at_us = 0

    @property
    def elapsed_s(self) -> float:
        """The time over which was counted, faded as the counts are; at least one second."""
        return max(self._elapsed_s, self._weight)

    def count_one(self, row: int, step_us: int) -> None:
        """A step took one event. Through views of the arrays: half the time of numpy's own items."""
        step = step_us * self._weight
        self._events_view[row] += self._weight
        self._step_us_view[row] += step
        self.step_us_in_all += step

    def count(self, rows: NDArray[np.int32], step_us: int) -> None:
        """A step took these rows' events, any number each."""
        if not len(rows):
            return
        step = step_us * self._weight
        np.add.at(self.events, rows, np.float32(self._weight))
        np.add.at(self.step_us, rows, np.float32(step / len(rows)))
        self.step_us_in_all += step

    def pass_time(self, now_us: int) -> None:
        """It is so late now. To be called about once a second, and before counts are read."""
        if self._last_us is None:
            self._last_us = now_us
            self._doubles_at_us = now_us + HALF_LIFE_S * US_PER_S
        while now_us >= self._doubles_at_us:
            self._elapsed_s += (self._doubles_at_us - self._last_us) / US_PER_S * self._weight
            self._last_us = self._doubles_at_us
            self._doubles_at_us += HALF_LIFE_S * US_PER_S
            self._weight *= 2
            if self._weight >= _WEIGHT_MAX:
                self._scale_down()
        self._elapsed_s += (now_us - self._last_us) / US_PER_S * self._weight
        self._last_us = now_us

    def blank(self, rows: NDArray[np.intp] | int) -> None:
        """These rows have cost nothing yet."""
        self.events[rows] = self.step_us[rows] = 0

    def _scale_down(self) -> None:
        """What counts 1 from now on counts 1. What is next to nothing goes: arithmetic on subnormal numbers is slow."""
        for counts in (self.events, self.step_us):
            counts[counts < self._weight * _NOTHING] = 0
            counts /= np.float32(self._weight)
        self.step_us_in_all /= self._weight
        self._elapsed_s /= self._weight
        self._weight = 1.0
