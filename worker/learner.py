"""One model version at work: it learns from events and answers queries, in states of its own, under its own guard.

Rows whose update the guard refuses, or on which the model raises, stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from evercurrent.errors import rejection
from evercurrent.model import Batch, Model, Update
from evercurrent.telemetry.logs import get_logger
from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1.columns_pb2 import EVENT_KIND_OBSERVATION
from evercurrent.wire import Layout, Records
from worker.guard import Guard
from worker.parts import Floats, Migrate, Shapes, VersionStates
from worker.slab import Indices
from worker.validation import has_outcome

T = TypeVar("T")

logger = get_logger(__name__)


@dataclass(slots=True)
class Learned:
    """What became of N events: predictions [N, P] and losses [N], NaN where there are none; whose updates were refused
    and why, by index; of these, on which the model raised."""

    prediction_NP: Floats
    loss_N: Floats
    refused: dict[int, pb.Rejection] = field(default_factory=dict)
    raised: set[int] = field(default_factory=set)

    @classmethod
    def nothing(cls, num_events: int, prediction_width: int) -> Learned:
        """Not yet."""
        blank = np.full((num_events, prediction_width), np.nan, np.float32)
        return cls(blank, np.full(num_events, np.nan, np.float32))

    def applied(self) -> Indices:
        """Who learned."""
        if not self.refused:
            return np.arange(len(self.loss_N))
        return np.delete(np.arange(len(self.loss_N)), list(self.refused))


class Learner:
    """`number` is what result records call the version; `update_us`: what the model itself took in the last `learn`."""

    def __init__(
        self, number: int, model: Model, states: VersionStates, layout: Layout, clock_us: Callable[[], int]
    ) -> None:
        self.number = number
        self.version = states.version
        self.model = model
        self.states = states
        self.guard = Guard(model)
        self.update_us = 0
        self._layout = layout
        self._clock_us = clock_us
        self._model_errors: set[type[Exception]] = set()

    def learn(self, rows: Indices, events: Records) -> Learned:
        """One forward and one backward over events of different users."""
        self.update_us = 0
        if not len(events):
            return Learned.nothing(0, self._layout.prediction_width)
        everybody = np.arange(len(events))
        try:
            update = self._update(torch.from_numpy(self.states.states[rows]), batch_of(events, self._layout))
        except Exception as error:
            learned = Learned.nothing(len(events), self._layout.prediction_width)
            updates = self._split(self._update, rows, events, everybody, learned, error)
        else:
            if not self.guard.check(update):
                # The usual: nothing is copied that need not be.
                self.states.states[rows] = update.state_BD.detach().numpy()
                loss_N = np.where(has_outcome(events), update.loss_B.detach().numpy(), np.float32(np.nan))
                return Learned(update.prediction_BP.detach().numpy(), loss_N)
            learned = Learned.nothing(len(events), self._layout.prediction_width)
            updates = [(everybody, update)]
        for indices, update in updates:
            self._take(indices, update, rows, events, learned)
        return learned

    def _take(
        self, indices: NDArray[np.intp], update: Update, rows: Indices, events: Records, learned: Learned
    ) -> None:
        """What of an update the guard lets stand."""
        refusals = self.guard.check(update)
        learned.refused.update((int(indices[at]), why) for at, why in refusals.items())
        stand = np.delete(np.arange(len(indices)), list(refusals))
        kept = indices[stand]
        self.states.states[rows[kept]] = update.state_BD.detach().numpy()[stand]
        learned.prediction_NP[kept] = update.prediction_BP.detach().numpy()[stand]
        learned.loss_N[kept] = np.where(has_outcome(events[kept]), update.loss_B.detach().numpy()[stand], np.nan)

    def predict(self, rows: Indices, events: Records) -> Learned:
        """Predict for queries; nothing changes."""
        answered = Learned.nothing(len(events), self._layout.prediction_width)
        for indices, prediction_BP in self._isolate(self._read_out, rows, events, np.arange(len(events)), answered):
            answered.prediction_NP[indices] = prediction_BP
        return answered

    def _update(self, states_BD: torch.Tensor, batch: Batch) -> Update:
        began_us = self._clock_us()
        try:
            update = self.model.update(states_BD, batch)
        finally:
            self.update_us += self._clock_us() - began_us
        num = len(states_BD)
        if update.state_BD.shape != states_BD.shape or not len(update.prediction_BP) == len(update.loss_B) == num:
            raise ValueError(f"the update of {num} states gives {tuple(update.state_BD.shape)}")
        return update

    def _read_out(self, states_BD: torch.Tensor, batch: Batch) -> Floats:
        with torch.no_grad():
            return np.asarray(self.model.readout(self.model.predict(states_BD, batch)).numpy())

    def _isolate(
        self,
        act: Callable[[torch.Tensor, Batch], T],
        rows: Indices,
        events: Records,
        indices: NDArray[np.intp],
        learned: Learned,
    ) -> list[tuple[NDArray[np.intp], T]]:
        """Run a model over events. If it raises, go one by one: only those that make it raise are refused."""
        try:
            states_BD = torch.from_numpy(self.states.states[rows[indices]])
            return [(indices, act(states_BD, batch_of(events[indices], self._layout)))]
        except Exception as error:
            return self._split(act, rows, events, indices, learned, error)

    def _split(
        self,
        act: Callable[[torch.Tensor, Batch], T],
        rows: Indices,
        events: Records,
        indices: NDArray[np.intp],
        learned: Learned,
        error: Exception,
    ) -> list[tuple[NDArray[np.intp], T]]:
        """The model raised on these: on which of them?"""
        if len(indices) == 1:
            index = int(indices[0])
            self._log_error(error)
            learned.refused[index] = rejection(pb.REASON_MODEL_ERROR, "", f"{type(error).__name__}: {error}")
            learned.raised.add(index)
            return []
        middle = len(indices) // 2
        return [
            *self._isolate(act, rows, events, indices[:middle], learned),
            *self._isolate(act, rows, events, indices[middle:], learned),
        ]

    def _log_error(self, error: Exception) -> None:
        """The first of its type with its traceback; every reply tells its own, and a client must not fill the log."""
        if type(error) not in self._model_errors:
            self._model_errors.add(type(error))
            text = "the model failed; further errors of this type are told in replies only"
            logger.error(text, version=self.version, exc_info=error)


def blank_states(version: str, model: Model, num_rows: int) -> VersionStates:
    """States of a version that nobody has yet."""
    return VersionStates.blank(version, model.initial_state().detach().numpy(), num_rows, migration_of(model))


def migration_of(model: Model) -> Migrate:
    """What a model makes of another's states, as arrays."""

    def migrate(states_BD: Floats, shapes: Shapes) -> Floats:
        with torch.no_grad():
            migrated: Floats = model.migrate(torch.from_numpy(np.ascontiguousarray(states_BD)), shapes).numpy()
        if migrated.shape != (len(states_BD), model.state_width):
            raise ValueError(f"{model.name}: migrate gives states of shape {migrated.shape}")
        return migrated

    return migrate


def probe(model: Model, layout: Layout) -> None:
    """Run a model once on the initial state: what does not fit shows before anybody is served, and torch is warm.

    Raises:
        ValueError: the model's outputs have other shapes than it declares.
    """
    event = np.zeros(1, layout.event_dtype)
    event["kind"] = EVENT_KIND_OBSERVATION
    if not layout.is_choice:
        outcome = model.observation.outcome
        event["outcome"] = min(max(0.0, outcome.low), outcome.high)
    update: Update = model.update(model.initial_state().detach()[None], batch_of(event, layout))
    declared = {
        "state_BD": (1, model.state_width),
        "prediction_BP": (1, model.prediction_width),
        "loss_B": (1,),
        "gradient_norm_B": (1,),
    }
    for name, shape in declared.items():
        given = tuple(getattr(update, name).shape)
        if given != shape:
            raise ValueError(f"{model.name}: update gives {name} of shape {given}, expected {shape}")


def batch_of(events: Records, layout: Layout) -> Batch:
    """The model's view of events."""
    has = has_outcome(events)
    if layout.is_choice:
        outcome = np.where(has, events["choice"], 0)
    else:
        outcome = np.where(has[:, None], events["outcome"], np.float32(0))
        if layout.is_value:
            outcome = outcome[:, 0]
    return Batch(
        ids_BK=torch.from_numpy(np.ascontiguousarray(events["ids"])),
        features_BF=torch.from_numpy(np.ascontiguousarray(events["features"])),
        outcome=torch.from_numpy(outcome),
        has_outcome_B=torch.from_numpy(has),
        event_time_us_B=torch.from_numpy(np.ascontiguousarray(events["event_time_us"])),
    )
