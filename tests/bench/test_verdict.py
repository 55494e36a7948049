"""Bench `verdict` finds for many runs at once what the service finds for each, and its streams are as it says."""

from __future__ import annotations

import numpy as np

from bench.verdict import BLOCK_EVENTS, LEVEL, Sums, outcomes
from evercurrent.sequences import Running, interval, verdict
from evercurrent.v1 import models_pb2


def test_verdicts_fall_where_those_of_the_service_do() -> None:
    delta_TR = np.random.default_rng(4).uniform(-0.5, 1.0, (400, 3)) * (1.0, -1.0, 0.05)
    sums = Sums(3)
    for block_TR in np.split(delta_TR, (1, 90, 200)):
        sums.add(block_TR)
    for run, delta_T in enumerate(delta_TR.T):
        running = Running()
        first: dict[models_pb2.Verdict, int] = {}
        for count, delta in enumerate(delta_T, start=1):
            running.add(np.array([delta]))
            first.setdefault(verdict(interval(running.sums(), LEVEL, 1.0)), count)
        assert sums.better_at_R[run] == first.get(models_pb2.VERDICT_BETTER, np.inf)
        assert sums.worse_at_R[run] == first.get(models_pb2.VERDICT_WORSE, np.inf)
    assert np.isfinite(sums.better_at_R).tolist() == [True, False, False]
    assert np.isfinite(sums.worse_at_R).tolist() == [False, True, False]


def test_outcomes_come_as_often_as_they_are_said_to_and_chances_have_a_past() -> None:
    blocks = list(outcomes(np.random.default_rng(1), 200, BLOCK_EVENTS + 100))
    assert [len(p_TR) for p_TR, _ in blocks] == [BLOCK_EVENTS, 100]
    p_TR, outcome_TR = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    assert 0.3 <= p_TR.min() < 0.4 < 0.6 < p_TR.max() <= 0.7
    for low in np.arange(0.3, 0.7, 0.1):
        among = (low <= p_TR) & (p_TR < low + 0.1)
        assert abs(outcome_TR[among].mean() - p_TR[among].mean()) < 0.01
