"""What the benches compute from what they measured: percentiles, and medians over pairs with their intervals. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

NUM_RESAMPLES = 2000
PAIRS_MIN = 15


@dataclass(frozen=True, slots=True)
class Interval:
    """A median and its 95% bootstrap interval."""

    median: float
    low: float
    high: float


def percentile(values: ArrayLike, percent: float) -> float:
    """The least of the values that at least `percent` percent of them do not exceed (nearest rank)."""
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    if not len(ordered):
        raise ValueError("no values")
    rank = max(1, math.ceil(percent * len(ordered) / 100))
    return float(ordered[rank - 1])


def bootstrap_median(values: ArrayLike, rng: np.random.Generator) -> Interval:
    """The median of the values and where it falls in 95% of resamples of them (percentile bootstrap; Efron 1979)."""
    sample = np.asarray(values, dtype=np.float64)
    if not len(sample):
        raise ValueError("no values")
    medians = np.median(sample[resamples(len(sample), rng)], axis=1)
    return Interval(float(np.median(sample)), percentile(medians, 2.5), percentile(medians, 97.5))


def resamples(num_values: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Indices [NUM_RESAMPLES, num_values] drawn with replacement."""
    return rng.integers(0, num_values, (NUM_RESAMPLES, num_values))


def paired_ratio(numerators: ArrayLike, denominators: ArrayLike, rng: np.random.Generator) -> Interval:
    """The median of the pairs' ratios. Pairs are measured side by side, so that what slows one slows the other."""
    return bootstrap_median(_paired(numerators) / _paired(denominators), rng)


def paired_difference(values: ArrayLike, others: ArrayLike, rng: np.random.Generator) -> Interval:
    """The median of the pairs' differences."""
    return bootstrap_median(_paired(values) - _paired(others), rng)


def _paired(values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if len(array) < PAIRS_MIN:
        raise ValueError(f"{len(array)} pairs: fewer than {PAIRS_MIN} say nothing about two arms")
    return array
