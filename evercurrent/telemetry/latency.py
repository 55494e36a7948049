"""Live percentiles over the last minute, and all that ever was by bucket, recorded a batch at a time.

A log-linear histogram (after Gil Tene's HdrHistogram: 32 linear steps to each power of two, so an error of at most
3%) whose `record` takes an array: the libraries of this kind take one value a call, which at 100,000 updates a second
is the whole budget. It knows no clock: the caller says what time it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

STEPS = 32
POWERS = 32
SLICE_S = 10.0
NUM_SLICES = 6

BOUNDS_US = (*(step << power for power in range(5, 23) for step in (2, 3)), 1 << 24)
"""Where `LatencyWindow.distribution` parts the values: edges of the histogram's own buckets."""


@dataclass(frozen=True, slots=True)
class Summary:
    """Percentiles of what was recorded; milliseconds, 0 when nothing was."""

    count: int
    p50_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float


@dataclass(frozen=True, slots=True)
class Distribution:
    """How many values lay below each of BOUNDS_US and not below the one before, and how many above all; and their sum
    in seconds."""

    counts: tuple[int, ...]
    sum_s: float


class LatencyWindow:
    """Microseconds recorded over the last NUM_SLICES × SLICE_S seconds."""

    def __init__(self) -> None:
        self._counts = np.zeros((NUM_SLICES, STEPS * POWERS), np.int64)
        self._maxima = np.zeros(NUM_SLICES, np.int64)
        self._slices = np.full(NUM_SLICES, -1, np.int64)
        self._gone = np.zeros(STEPS * POWERS, np.int64)
        self._sum_us = 0

    def record(self, values_us: ArrayLike, now_s: float) -> None:
        """Count values (microseconds, below 2**36; negative counts as 0). `now_s` never goes back."""
        values = np.maximum(np.asarray(values_us, np.int64), 0)
        if not values.size:
            return
        index = self._current(now_s)
        self._counts[index] += np.bincount(_buckets(values), minlength=STEPS * POWERS)
        self._maxima[index] = max(self._maxima[index], values.max())
        self._sum_us += int(values.sum())

    def distribution(self) -> Distribution:
        """Of all values since the beginning."""
        below = np.cumsum(self._gone + self._counts.sum(axis=0))
        edges = below[_buckets(np.array(BOUNDS_US)) - 1]
        return Distribution(tuple(np.diff(edges, prepend=0, append=below[-1]).tolist()), self._sum_us / 1e6)

    def summary(self, now_s: float) -> Summary:
        """What the window holds now."""
        live = self._slices > int(now_s // SLICE_S) - NUM_SLICES
        counts = self._counts[live & (self._slices >= 0)].sum(axis=0)
        total = int(counts.sum())
        if not total:
            return Summary(0, 0.0, 0.0, 0.0, 0.0)
        maximum = float(self._maxima[live & (self._slices >= 0)].max())
        running = np.cumsum(counts)

        def percentile(q: float) -> float:
            bucket = int(np.searchsorted(running, q * total))
            return min(_upper_edge(bucket), maximum) / 1000

        return Summary(total, percentile(0.5), percentile(0.99), percentile(0.999), maximum / 1000)

    def _current(self, now_s: float) -> int:
        number = int(now_s // SLICE_S)
        index = number % NUM_SLICES
        if self._slices[index] != number:
            self._slices[index] = number
            self._gone += self._counts[index]
            self._counts[index] = 0
            self._maxima[index] = 0
        return index


def _buckets(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Values below STEPS have a bucket each; above, STEPS buckets to each power of two."""
    _, exponents = np.frexp(values.astype(np.float64))
    shifts = np.maximum(exponents - 6, 0).astype(np.int64)
    return np.asarray(np.minimum(shifts * STEPS + (values >> shifts), STEPS * POWERS - 1))


def _upper_edge(bucket: int) -> int:
    if bucket < 2 * STEPS:
        return bucket
    shift = bucket // STEPS - 1
    return ((bucket - shift * STEPS + 1) << shift) - 1
