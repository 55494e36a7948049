"""One model version at work: it learns from events and answers queries, in states of its own, under its own guard.

Rows whose update the guard refuses, or on which the model raises, stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from evercurrent.errors import rejection
from evercurrent.model import ArrayUpdate, Batch, Floats, Model, Update
from evercurrent.telemetry.logs import get_logger
from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1.columns_pb2 import EVENT_KIND_OBSERVATION
from evercurrent.wire import Layout, Records
from worker.guard import Guard
from worker.parts import Mask, Migrate, Shapes, VersionStates
from worker.slab import Indices
from worker.validation import has_outcome

T = TypeVar("T")

_TRUE = np.ones(1, np.bool_)

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
    """`number` is what result records call the version; `update_us`: what the model took in the last `learn`,
    with the view of the events that it is given."""

    def __init__(
        self, number: int, model: Model, states: VersionStates, layout: Layout, clock_us: Callable[[], int]
    ) -> None:
        self.number = number
        self.version = states.version
        self.model = model
        self.states = states
        self.update_us = 0
        self._guard = Guard(model)
        self._compiled = model.compiled_update()
        self._layout = layout
        self._clock_us = clock_us
        self._model_errors: set[type[Exception]] = set()
        record = np.zeros(1, layout.event_dtype)
        self._one = record.view(np.uint8).data.cast("B")
        """The memory of one event, which these are views of."""
        self._columns_of_one = columns_of(record, layout, _TRUE)

    def learn(self, rows: Indices, events: Records) -> Learned:
        """One forward and one backward over events of different users."""
        self.update_us = 0
        if not len(events):
            return Learned.nothing(0, self._layout.prediction_width)
        everybody = np.arange(len(events))
        try:
            update = self._update(self.states.states[rows], events)
        except Exception as error:
            learned = Learned.nothing(len(events), self._layout.prediction_width)
            updates = self._split(self._update, rows, events, everybody, learned, error)
        else:
            if not self._guard.check(update):
                # The usual: nothing is copied that need not be.
                self.states.states[rows] = update.state_BD
                loss_N = np.where(has_outcome(events), update.loss_B, np.float32(np.nan))
                return Learned(update.prediction_BP, loss_N)
            learned = Learned.nothing(len(events), self._layout.prediction_width)
            updates = [(everybody, update)]
        for indices, update in updates:
            self._take(indices, update, rows, events, learned)
        return learned

    def learn_one(self, row: int, raw: bytes) -> tuple[float, list[float]] | None:
        """The same for one event, its record, that has an outcome: its loss and prediction. None, and nothing has
        changed: the general way has more to say of it."""
        states = self.states.states
        self.update_us = 0
        try:
            if self._compiled is not None:
                began_us = self._clock_us()
                self._one[:] = raw
                update = self._compiled(states[row : row + 1], *self._columns_of_one)
                self.update_us = self._clock_us() - began_us
            else:
                update = self._update(states[row : row + 1].copy(), self._layout.events(raw), has_outcome_B=_TRUE)
        except Exception:  # The general way does it again, and reports it.
            return None
        loss, state_D = update.loss_B.item(), update.state_BD[0]
        # The ufunc's own `reduce`: the array's `max` takes twice the time.
        state_abs = np.maximum.reduce(np.abs(state_D)).item()
        if not self._guard.allows(loss, update.gradient_norm_B.item(), state_abs):
            return None
        states[row] = state_D
        return loss, update.prediction_BP[0].tolist()

    def _take(
        self, indices: NDArray[np.intp], update: ArrayUpdate, rows: Indices, events: Records, learned: Learned
    ) -> None:
        """What of an update the guard lets stand."""
        refusals = self._guard.check(update)
        learned.refused.update((int(indices[at]), why) for at, why in refusals.items())
        stand = np.delete(np.arange(len(indices)), list(refusals))
        kept = indices[stand]
        self.states.states[rows[kept]] = update.state_BD[stand]
        learned.prediction_NP[kept] = update.prediction_BP[stand]
        learned.loss_N[kept] = np.where(has_outcome(events[kept]), update.loss_B[stand], np.nan)

    def predict(self, rows: Indices, events: Records) -> Learned:
        """Predict for queries; nothing changes."""
        answered = Learned.nothing(len(events), self._layout.prediction_width)
        for indices, prediction_BP in self._isolate(self._read_out, rows, events, np.arange(len(events)), answered):
            answered.prediction_NP[indices] = prediction_BP
        return answered

    def _update(self, states_BD: Floats, events: Records, has_outcome_B: Mask | None = None) -> ArrayUpdate:
        """What the model makes of these states, which are its own to change; `has_outcome_B` as of `columns_of`."""
        began_us = self._clock_us()
        try:
            if self._compiled is not None:
                return self._compiled(states_BD, *columns_of(events, self._layout, has_outcome_B))
            update = self.model.update(torch.from_numpy(states_BD), batch_of(events, self._layout, has_outcome_B))
        finally:
            self.update_us += self._clock_us() - began_us
        num = len(states_BD)
        if update.state_BD.shape != states_BD.shape or not len(update.prediction_BP) == len(update.loss_B) == num:
            raise ValueError(f"the update of {num} states gives {tuple(update.state_BD.shape)}")
        return arrays_of(update)

    def _read_out(self, states_BD: Floats, events: Records) -> Floats:
        batch = batch_of(events, self._layout)
        with torch.no_grad():
            return np.asarray(self.model.readout(self.model.predict(torch.from_numpy(states_BD), batch)).numpy())

    def _isolate(
        self,
        act: Callable[[Floats, Records], T],
        rows: Indices,
        events: Records,
        indices: NDArray[np.intp],
        learned: Learned,
    ) -> list[tuple[NDArray[np.intp], T]]:
        """Run a model over events. If it raises, go one by one: only those that make it raise are refused."""
        try:
            return [(indices, act(self.states.states[rows[indices]], events[indices]))]
        except Exception as error:
            return self._split(act, rows, events, indices, learned, error)

    def _split(
        self,
        act: Callable[[Floats, Records], T],
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
    initial_BD = model.initial_state().detach()[None]
    update = model.update(initial_BD, batch_of(event, layout))
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
    if (compiled := model.compiled_update()) is not None:
        again = compiled(initial_BD.numpy(), *columns_of(event, layout))
        for name, one, other in zip(declared, arrays_of(update), again, strict=True):
            if one.shape != other.shape or not np.allclose(one, other, rtol=1e-3, atol=1e-4, equal_nan=True):
                raise ValueError(f"{model.name}: compiled_update gives {name} {other}, and update {one}")


def arrays_of(update: Update) -> ArrayUpdate:
    """An update's arrays."""
    parts = update.state_BD, update.prediction_BP, update.loss_B, update.gradient_norm_B
    return ArrayUpdate(*(part.detach().numpy() for part in parts))


class Columns(NamedTuple):
    """Events as `CompiledUpdate` takes them."""

    ids_BK: NDArray[np.int64]
    features_BF: Floats
    outcome: NDArray[Any]
    has_outcome_B: Mask
    event_time_us_B: NDArray[np.int64]


def columns_of(events: Records, layout: Layout, has_outcome_B: Mask | None = None) -> Columns:
    """Views of events. `has_outcome_B`, where it is known; None: to be found out."""
    outcome = events["choice"] if layout.is_choice else events["outcome"]
    return Columns(
        events["ids"],
        events["features"],
        outcome[:, 0] if layout.is_value else outcome,
        has_outcome(events) if has_outcome_B is None else has_outcome_B,
        events["event_time_us"],
    )


def batch_of(events: Records, layout: Layout, has_outcome_B: Mask | None = None) -> Batch:
    """The model's view of events. `has_outcome_B` is given where all have one; None: to be found out."""
    columns = columns_of(events, layout, has_outcome_B)
    if has_outcome_B is None:
        has = columns.has_outcome_B
        outcome = np.where(has if columns.outcome.ndim == 1 else has[:, None], columns.outcome, np.float32(0))
        columns = columns._replace(outcome=outcome.astype(columns.outcome.dtype, copy=False))
    return Batch(*(torch.from_numpy(np.ascontiguousarray(column)) for column in columns))
