"""Prequential evaluation: every event of a log is predicted, then learned from.

Two predictions a time: *continuous* by the user's state as it is, *batch* by a copy frozen at the user's last nightly
cut. Both states learn alike; the frozen copy only predicts. Users do not touch each other in a model, so all users'
first events are taken together, then all second ones, and so on: for each user the order is the log's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from evercurrent.metrics import auc, log_loss
from evercurrent.model import Batch, Model, OutcomeSpec
from evercurrent.models.adaptive.data import EventLog, Floats, Ints
from evercurrent.models.adaptive.ranking import Ranking

NIGHT_EVENTS = 25
"""A night falls after so many events of a user."""


@dataclass(frozen=True, slots=True)
class Scores:
    """How well a log of yes-or-no outcomes was predicted. Log losses are in nats."""

    updates: int
    users: int
    auc_continuous: float
    auc_batch: float
    log_loss_continuous: float
    log_loss_batch: float


@dataclass(frozen=True, slots=True)
class Replay:
    """The predictions [N, P] of a log's events, at the events' places in the log, and the losses [N] of those by the
    state as it is."""

    log: EventLog
    continuous_NP: Floats
    batch_NP: Floats
    loss_N: Floats

    @property
    def continuous_N(self) -> Floats:
        """The first value of each prediction."""
        first: Floats = self.continuous_NP[:, 0]
        return first

    @property
    def batch_N(self) -> Floats:
        """The first value of each."""
        first: Floats = self.batch_NP[:, 0]
        return first

    def scores(self) -> Scores:
        """AUC and log loss of both, of a probability."""
        outcome_N = self.log.outcome_N
        return Scores(
            updates=len(self.log),
            users=self.log.active_users.size,
            auc_continuous=auc(outcome_N, self.continuous_N),
            auc_batch=auc(outcome_N, self.batch_N),
            log_loss_continuous=log_loss(outcome_N, self.continuous_N),
            log_loss_batch=log_loss(outcome_N, self.batch_N),
        )


def predicts_probability(model: Model) -> bool:
    """Whether a model tells how likely a yes is. A ranking's share of an item among all says nothing of its being
    liked."""
    outcome = model.observation.outcome
    return model.prediction_width == 1 and outcome == OutcomeSpec.bernoulli() and not isinstance(model, Ranking)


@torch.no_grad()
def replay(model: Model, log: EventLog, night_events: int = NIGHT_EVENTS) -> Replay:
    """Runs a log through `model.update`, every user from the initial state."""
    by_user = sorted(log.by_user(), key=len, reverse=True)
    lengths = np.array([places.size for places in by_user])
    shape = (len(log), model.prediction_width)
    continuous_NP, batch_NP = np.empty(shape, np.float32), np.empty(shape, np.float32)
    loss_N = np.empty(len(log), np.float32)
    state_BD = model.initial_state().repeat(len(by_user), 1)
    frozen_BD = state_BD
    for t in range(int(lengths.max(initial=0))):
        num_active = int(np.searchsorted(-lengths, -t, side="left"))
        place_B = np.array([places[t] for places in by_user[:num_active]])
        state_BD = state_BD[:num_active]
        frozen_BD = state_BD if t % night_events == 0 else frozen_BD[:num_active]
        batch = batch_of(log, place_B)
        batch_NP[place_B] = model.readout(model.predict(frozen_BD, batch)).numpy()
        update = model.update(state_BD, batch)
        continuous_NP[place_B] = update.prediction_BP.numpy()
        loss_N[place_B] = update.loss_B.numpy()
        state_BD = update.state_BD
    return Replay(log, continuous_NP, batch_NP, loss_N)


def batch_of(log: EventLog, place_B: Ints) -> Batch:
    """The events at these places as a batch for a model; of different users."""
    return Batch(
        ids_BK=torch.from_numpy(log.ids_NK[place_B]),
        features_BF=torch.from_numpy(log.features_NF[place_B]),
        outcome=torch.from_numpy(log.outcome_N[place_B]),
        has_outcome_B=torch.ones(place_B.size, dtype=torch.bool),
        event_time_us_B=torch.from_numpy(log.time_us_N[place_B]),
    )


def by_events_seen(log: EventLog, value_N: npt.ArrayLike, bounds: Sequence[int]) -> npt.NDArray[np.float64]:
    """The mean of a value of each event, by how many events of its user came before: of those from one bound to the
    next. NaN where there are none."""
    values: npt.NDArray[np.float64] = np.asarray(value_N, np.float64)
    seen_N = np.empty(len(log), np.int64)
    for places in log.by_user():
        seen_N[places] = np.arange(places.size)
    bin_N = np.digitize(seen_N, bounds) - 1
    num_bins = len(bounds) - 1
    inside = (bin_N >= 0) & (bin_N < num_bins)
    counts = np.bincount(bin_N[inside], minlength=num_bins)
    sums = np.bincount(bin_N[inside], weights=values[inside], minlength=num_bins)
    with np.errstate(invalid="ignore"):
        means: npt.NDArray[np.float64] = np.where(counts > 0, sums / counts, np.nan)
    return means
