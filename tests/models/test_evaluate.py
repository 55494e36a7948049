"""Prequential evaluation against a twin that takes one event at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from evercurrent.model import Model
from evercurrent.models.adaptive.data import EventLog
from evercurrent.models.adaptive.replay import batch_of, replay
from evercurrent.models.knowledge_tracing.simulator import World, default_world, simulate
from evercurrent.models.loading import load_model


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model("knowledge-tracing")


def uneven_log() -> EventLog:
    """Users of very different lengths, in stream order."""
    log = simulate(default_world(), num_users=12, num_events=40, seed=9)
    return log.at(np.flatnonzero(log.order_N < 1 + 3 * log.user_N)).stream()


def slow_replay(model: Model, log: EventLog, night_events: int) -> tuple[list[float], list[float]]:
    """One event at a time in the log's order; a copy of the row is taken at each nightly cut."""
    states: dict[int, torch.Tensor] = {}
    frozen: dict[int, torch.Tensor] = {}
    counts: dict[int, int] = {}
    continuous, frozen_predictions = [], []
    for place, user in enumerate(log.user_N.tolist()):
        state_1D = states.get(user, model.initial_state().unsqueeze(0))
        if counts.get(user, 0) % night_events == 0:
            frozen[user] = state_1D.clone()
        batch = batch_of(log, np.array([place]))
        frozen_predictions.append(float(model.readout(model.predict(frozen[user], batch))))
        update = model.update(state_1D, batch)
        continuous.append(float(update.prediction_BP))
        states[user] = update.state_BD
        counts[user] = counts.get(user, 0) + 1
    return continuous, frozen_predictions


@pytest.mark.parametrize("night_events", [1, 4, 25])
def test_replay_is_one_event_at_a_time(model: Model, night_events: int) -> None:
    log = uneven_log()
    result = replay(model, log, night_events)
    continuous, frozen = slow_replay(model, log, night_events)
    np.testing.assert_allclose(result.continuous_N, continuous, atol=1e-5)
    np.testing.assert_allclose(result.batch_N, frozen, atol=1e-5)
    assert np.array_equal(result.continuous_N, result.batch_N) == (night_events == 1)


def test_shipped_model_gains_by_continuous_learning(model: Model) -> None:
    scores = replay(model, simulate(default_world(), num_users=300, num_events=80, seed=77)).scores()
    assert scores.updates == 300 * 80
    assert scores.users == 300
    assert scores.auc_continuous > 0.74
    assert scores.auc_continuous > scores.auc_batch + 0.03
    assert scores.log_loss_continuous < scores.log_loss_batch


def test_log_without_events(model: Model) -> None:
    log = simulate(World.draw(2, 1, seed=0), num_users=1, num_events=1, seed=0)
    assert replay(model, log.of_users([])).scores().updates == 0
