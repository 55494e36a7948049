"""The statistics against slow and obvious twins."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import stats

finite = st.floats(-1e9, 1e9)
positive = st.floats(1e-3, 1e6)


@given(st.lists(finite, min_size=1, max_size=300), st.integers(1, 100))
def test_percentile_is_the_least_value_that_enough_values_do_not_exceed(values: list[float], percent: int) -> None:
    enough = [x for x in values if 100 * sum(value <= x for value in values) >= percent * len(values)]
    assert stats.percentile(values, percent) == min(enough)


def test_percentile_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no values"):
        stats.percentile([], 50)


@given(st.lists(finite, min_size=1, max_size=25), st.integers(0, 2**32))
def test_bootstrap_median_is_the_median_of_every_resample(values: list[float], seed: int) -> None:
    drawn = stats.resamples(len(values), np.random.default_rng(seed)).tolist()
    medians = sorted(statistics.median(values[i] for i in resample) for resample in drawn)

    interval = stats.bootstrap_median(values, np.random.default_rng(seed))

    assert interval.median == pytest.approx(statistics.median(values))
    assert interval.low == pytest.approx(medians[len(medians) * 25 // 1000 - 1])
    assert interval.high == pytest.approx(medians[len(medians) * 975 // 1000 - 1])


@given(st.lists(st.tuples(positive, positive), min_size=15, max_size=40), st.integers(0, 2**32))
def test_ratio_and_difference_are_taken_pair_by_pair(pairs: list[tuple[float, float]], seed: int) -> None:
    numerators, denominators = zip(*pairs, strict=True)

    ratio = stats.paired_ratio(numerators, denominators, np.random.default_rng(seed))
    difference = stats.paired_difference(numerators, denominators, np.random.default_rng(seed))

    assert ratio.median == pytest.approx(statistics.median(a / b for a, b in pairs))
    assert difference.median == pytest.approx(statistics.median(a - b for a, b in pairs))
    assert ratio.low <= ratio.median <= ratio.high
    assert difference.low <= difference.median <= difference.high


@given(st.lists(positive, min_size=15, max_size=40), st.floats(0.1, 10))
def test_noise_that_slows_both_arms_of_a_pair_leaves_the_ratio(noise: list[float], true_ratio: float) -> None:
    slower = [true_ratio * each for each in noise]
    ratio = stats.paired_ratio(slower, noise, np.random.default_rng(0))
    assert [ratio.low, ratio.median, ratio.high] == pytest.approx([true_ratio] * 3)


def test_the_interval_covers_the_true_median_in_most_samples() -> None:
    rng = np.random.default_rng(7)
    intervals = [stats.bootstrap_median(rng.lognormal(0, 0.2, 25), rng) for _ in range(200)]
    covered = sum(interval.low <= 1 <= interval.high for interval in intervals)
    assert 0.88 * 200 <= covered < 200


def test_few_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="14 pairs"):
        stats.paired_ratio([1.0] * 14, [1.0] * 14, np.random.default_rng(0))
