"""Prequential evaluation: every answer of a log is predicted, then learned from.

Two predictions a time: *continuous* by the learner's state as it is, *batch* by a copy frozen at the learner's last
nightly cut. Both states learn alike; the frozen copy only predicts. Users do not touch each other in a model, so all
users' first events are taken together, then all second ones, and so on: for each user the order is the log's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from evercurrent.metrics import auc, log_loss
from evercurrent.model import Batch, Model
from evercurrent.models.knowledge_tracing.data import EventLog, Floats

NIGHT_EVENTS = 25
"""A night falls after so many events of a user."""


@dataclass(frozen=True, slots=True)
class Scores:
    """How well a log was predicted. Log losses are in nats."""

    updates: int
    users: int
    auc_continuous: float
    auc_batch: float
    log_loss_continuous: float
    log_loss_batch: float


@dataclass(frozen=True, slots=True)
class Replay:
    """The predictions [N] of a log's events, at the events' places in the log."""

    log: EventLog
    continuous_N: Floats
    batch_N: Floats

    def scores(self) -> Scores:
        """AUC and log loss of both."""
        outcome_N = self.log.outcome_N
        return Scores(
            updates=len(self.log),
            users=self.log.active_users.size,
            auc_continuous=auc(outcome_N, self.continuous_N),
            auc_batch=auc(outcome_N, self.batch_N),
            log_loss_continuous=log_loss(outcome_N, self.continuous_N),
            log_loss_batch=log_loss(outcome_N, self.batch_N),
        )


@torch.no_grad()
def replay(model: Model, log: EventLog, night_events: int = NIGHT_EVENTS) -> Replay:
    """Runs a log through `model.update`, every user from the initial state."""
    by_user = sorted(log.by_user(), key=len, reverse=True)
    lengths = np.array([places.size for places in by_user])
    continuous_N, batch_N = np.empty(len(log), np.float32), np.empty(len(log), np.float32)
    state_BD = model.initial_state().repeat(len(by_user), 1)
    frozen_BD = state_BD
    for t in range(int(lengths.max(initial=0))):
        num_active = int(np.searchsorted(-lengths, -t, side="left"))
        place_B = np.array([places[t] for places in by_user[:num_active]])
        state_BD = state_BD[:num_active]
        frozen_BD = state_BD if t % night_events == 0 else frozen_BD[:num_active]
        batch = batch_of(log, place_B)
        batch_N[place_B] = model.readout(model.predict(frozen_BD, batch))[:, 0].numpy()
        update = model.update(state_BD, batch)
        continuous_N[place_B] = update.prediction_BP[:, 0].numpy()
        state_BD = update.state_BD
    return Replay(log, continuous_N, batch_N)


def batch_of(log: EventLog, place_B: npt.NDArray[np.int64]) -> Batch:
    """The events at these places as a batch for a model; of different users."""
    size = place_B.size
    return Batch(
        ids_BK=ids_of(log, place_B),
        features_BF=torch.zeros(size, 0),
        outcome=torch.from_numpy(log.outcome_N[place_B]),
        has_outcome_B=torch.ones(size, dtype=torch.bool),
        event_time_us_B=torch.zeros(size, dtype=torch.int64),
    )


def ids_of(log: EventLog, places: npt.NDArray[np.int64]) -> Tensor:
    """Item and skill [..., 2] of the events at these places [...]."""
    return torch.from_numpy(np.stack((log.item_N[places], log.skill_N[places]), axis=-1))
