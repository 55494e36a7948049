"""Learners stream in order, each by its own stream, and what comes back is counted for what it is."""

from __future__ import annotations

import math
import os
import signal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evercurrent.cli.cluster import run_cluster
from evercurrent.cli.learners import Tally, deal, stream_learners
from evercurrent.models.adaptive import EventLog, replay
from evercurrent.models.knowledge_tracing import default_world, simulate
from evercurrent.models.loading import load_model
from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1.session_pb2 import SessionResponse


@given(users=st.lists(st.integers(0, 9), max_size=60), num_lanes=st.integers(1, 6))
def test_deal_gives_every_event_to_its_users_lane_in_order(users: list[int], num_lanes: int) -> None:
    user_N = np.array(users, np.int64)
    lanes = deal(user_N, num_lanes)
    assert len(lanes) == min(num_lanes, len(set(users)))
    assert sorted(event for lane in lanes for event in lane.tolist()) == list(range(len(users)))
    assert all(lane.tolist() == sorted(lane.tolist()) for lane in lanes)
    of_lane = [set(user_N[lane].tolist()) for lane in lanes]
    assert sum(len(found) for found in of_lane) == len(set(users))


def test_deal_evens_the_lanes_out() -> None:
    user_N = np.repeat(np.arange(6), [9, 1, 5, 4, 3, 2])
    assert sorted(len(lane) for lane in deal(user_N, 3)) == [7, 8, 9]


def answer(status: pb.Status, *prediction: float) -> SessionResponse:
    """A reply of the router."""
    return SessionResponse(result=pb.ObservationResult(status=status, prediction=prediction))


def test_tally_counts_applied_rejected_and_lost() -> None:
    tally = Tally.of(4)
    tally.num_sent = 4
    tally.add(2, 30.0, answer(pb.STATUS_APPLIED, 0.25))
    tally.add(0, 10.0, answer(pb.STATUS_REJECTED))
    tally.add(3, 20.0, SessionResponse(rejected=pb.Rejection(reason=pb.REASON_TOO_LARGE)))
    assert (tally.num_applied, tally.num_rejected, tally.num_lost) == (1, 2, 1)
    assert np.flatnonzero(np.isfinite(tally.prediction_N)).tolist() == [2]
    assert tally.answered_ms.tolist() == [30.0, 10.0, 20.0]
    assert tally.percentiles_ms()[0] == 20.0


def test_tally_of_nothing_has_no_percentiles() -> None:
    assert all(math.isnan(value) for value in Tally.of(3).percentiles_ms())


@pytest.fixture(scope="module")
def log() -> EventLog:
    """A few learners that answer more often than there are lanes."""
    return simulate(default_world(), num_users=12, num_events=20, seed=5)


async def test_served_predictions_are_those_of_the_model(log: EventLog) -> None:
    tally = Tally.of(len(log))
    with run_cluster(num_workers=2, store="memory:") as cluster:
        await stream_learners(cluster.address, log, tally, num_lanes=5)
    assert (tally.num_applied, tally.num_rejected, tally.num_lost, tally.broken) == (len(log), 0, 0, [])
    expected = replay(load_model("knowledge-tracing"), log).continuous_N
    np.testing.assert_allclose(tally.prediction_N, expected, atol=1e-5)


async def test_learners_of_a_dead_worker_break_and_the_others_go_on(log: EventLog) -> None:
    tally = Tally.of(len(log))
    with run_cluster(num_workers=2, store="memory:") as cluster:
        os.kill(cluster.pids["worker-1"], signal.SIGKILL)
        assert cluster.wait().name == "worker-1"
        await stream_learners(cluster.address, log, tally)
    assert 0 < len(tally.broken) < 12
    assert all("UNAVAILABLE" in text for text in tally.broken)
    assert tally.num_applied == (12 - len(tally.broken)) * 20
