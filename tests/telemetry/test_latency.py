"""The latency window against numpy's percentiles of the same values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evercurrent.telemetry.latency import BOUNDS_US, NUM_SLICES, SLICE_S, LatencyWindow

RELATIVE_ERROR = 1 / 32
WINDOW_S = NUM_SLICES * SLICE_S

values = st.lists(st.integers(0, 1 << 35), min_size=1, max_size=60)


@given(frames=st.lists(values, min_size=1, max_size=6))
def test_percentiles_are_within_a_step(frames: list[list[int]]) -> None:
    window = LatencyWindow()
    for at, frame in enumerate(frames):
        window.record(frame, now_s=1000.0 + at)
    summary = window.summary(1000.0 + len(frames))
    flat = np.concatenate(frames)
    assert summary.count == len(flat)
    assert summary.max_ms == flat.max() / 1000
    for q, given_ms in ((0.5, summary.p50_ms), (0.99, summary.p99_ms), (0.999, summary.p999_ms)):
        exact_us = float(np.quantile(flat, q, method="inverted_cdf"))
        assert exact_us <= given_ms * 1000 * (1 + 1e-9)
        assert given_ms * 1000 <= exact_us * (1 + RELATIVE_ERROR) + 1


def test_what_is_older_than_the_window_is_forgotten() -> None:
    window = LatencyWindow()
    window.record([1_000_000], now_s=5.0)
    window.record([10], now_s=15.0)
    assert window.summary(WINDOW_S - 1).max_ms == 1000
    assert window.summary(WINDOW_S + 1).max_ms == 0.01
    assert window.summary(WINDOW_S + 11).count == 0
    window.record([20], now_s=WINDOW_S + 5)
    assert (window.summary(WINDOW_S + 5).count, window.summary(WINDOW_S + 5).max_ms) == (2, 0.02)


@given(frames=st.lists(values, min_size=1, max_size=8), pause_s=st.sampled_from([1, 15, 70]))
def test_a_distribution_is_of_all_that_ever_was(frames: list[list[int]], pause_s: int) -> None:
    window = LatencyWindow()
    for at, frame in enumerate(frames):
        window.record(frame, now_s=1000.0 + at * pause_s)
    found, flat = window.distribution(), np.concatenate(frames)
    edges = [0, *BOUNDS_US, 1 << 62]
    assert list(found.counts) == np.histogram(flat, edges)[0].tolist()
    assert found.sum_s == pytest.approx(flat.sum() / 1e6)


def test_nothing_and_values_out_of_range() -> None:
    window = LatencyWindow()
    window.record([], now_s=1.0)
    assert window.summary(1.0).count == 0
    window.record([-5, 1 << 40], now_s=1.0)
    summary = window.summary(1.0)
    assert (summary.count, summary.p50_ms) == (2, 0.0)
    assert summary.max_ms == pytest.approx((1 << 40) / 1000)
