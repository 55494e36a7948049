"""AUC against a slow obvious twin, log loss against its definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evercurrent.metrics import auc, log_loss

EVENTS = st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0])), max_size=40)


def slow_auc(events: list[tuple[bool, float]]) -> float:
    """Counts every pair of a positive and a negative."""
    pairs = [(good, bad) for right, good in events if right for wrong, bad in events if not wrong]
    if not pairs:
        return math.nan
    return sum(1.0 if good > bad else 0.5 if good == bad else 0.0 for good, bad in pairs) / len(pairs)


@given(EVENTS)
def test_auc_is_the_share_of_ordered_pairs(events: list[tuple[bool, float]]) -> None:
    fast = auc([float(right) for right, _ in events], [score for _, score in events])
    assert fast == pytest.approx(slow_auc(events), nan_ok=True)


@given(EVENTS)
def test_auc_sees_only_the_order(events: list[tuple[bool, float]]) -> None:
    outcomes, scores = np.array([right for right, _ in events]), np.array([score for _, score in events])
    assert auc(outcomes, scores) == pytest.approx(auc(outcomes, scores**3 - 7), nan_ok=True)


def test_log_loss_of_known_predictions() -> None:
    assert log_loss([1, 0], [0.5, 0.5]) == pytest.approx(math.log(2))
    assert log_loss([1, 0, 0.5], [0.9, 0.2, 0.5]) == pytest.approx(-(math.log(0.9) + math.log(0.8) + math.log(0.5)) / 3)


def test_log_loss_of_a_certain_error_is_finite() -> None:
    assert log_loss([1], [0]) == pytest.approx(-math.log(1e-7))


def test_nothing_to_score() -> None:
    assert math.isnan(auc([], []))
    assert math.isnan(auc([1, 1], [0.2, 0.4]))
    assert math.isnan(log_loss([], []))
