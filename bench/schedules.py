"""Who sends when: arrivals of an open load, drawn or recorded. Pure, but for the reading of a recording.

Letters in array names: N events.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from bench.pacing import poisson
from bench.traffic import Drawn
from evercurrent.models.adaptive.data import matrix
from evercurrent.v1 import description_pb2

BURST_EVENTS = 32


@dataclass(frozen=True, slots=True)
class Schedule:
    """N events: ascending times in ns from 0 on, and the number of the user of each."""

    times_ns: NDArray[np.int64]
    users: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.times_ns)


@dataclass(frozen=True, slots=True)
class Recording:
    """A schedule of what once happened, and what it was; `names` are those of the users."""

    schedule: Schedule
    drawn: Drawn
    names: tuple[str, ...]

    def within(self, start_ns: int, end_ns: int) -> tuple[Schedule, Drawn]:
        """The events in [start, end), their times from the start on."""
        at = slice(*np.searchsorted(self.schedule.times_ns, (start_ns, end_ns)).tolist())
        return Schedule(self.schedule.times_ns[at] - start_ns, self.schedule.users[at]), self.drawn.take(at)


def bursts(rate_per_s: float, duration_s: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Times of a Poisson process of bursts of BURST_EVENTS events at once, with this rate of events."""
    return np.repeat(poisson(rate_per_s / BURST_EVENTS, duration_s, rng), BURST_EVENTS)


def users_of(num_events: int, num_users: int, exponent: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """The user of each event. The k-th of them has a share that falls with k^-exponent (Zipf's law); 0: all alike."""
    weights = np.arange(1, num_users + 1, dtype=np.float64) ** -exponent
    return rng.choice(num_users, num_events, p=weights / weights.sum())


def recorded(path: Path, speed: float, model: description_pb2.ModelDescription) -> Recording:
    """An event log as `evercurrent export events` writes it, its clock `speed` times as fast.

    Raises:
        ValueError: it has no events, or they are of another model's kind.
    """
    table = pq.read_table(path, columns=["namespace", "user_id", "event_time", *_COLUMNS.values(), "ids", "features"])
    table = table.sort_by("event_time")
    column = _COLUMNS[model.outcome]
    outcomes = table[column].combine_chunks()
    if not len(table) or outcomes.null_count:
        raise ValueError(f"{path} has {len(table)} events, {outcomes.null_count} of them without a {column} as outcome")
    ids, features = _matrix(table["ids"], len(model.ids)), _matrix(table["features"], len(model.features))
    if model.outcome == description_pb2.OUTCOME_KIND_VECTOR:
        outcome = _matrix(table[column], model.outcome_width).astype(np.float32)
    else:
        outcome = outcomes.to_numpy(zero_copy_only=False)
        outcome = outcome if column == "choice" else outcome[:, None]
    sizes = np.array([field.size for field in model.ids], np.int64)
    if ((ids < 0) | (ids >= sizes)).any():
        raise ValueError(f"{path} has ids that {model.name} does not take")
    users, numbers = np.unique(np.array(table["user_id"].to_pylist()), return_inverse=True)
    times_us = table["event_time"].to_numpy().astype("datetime64[us]").astype(np.int64)
    times_ns = ((times_us - times_us[0]) * (1000 / speed)).astype(np.int64)
    drawn = Drawn(ids.astype(np.int64), features.astype(np.float32), outcome)
    return Recording(Schedule(times_ns, numbers), drawn, tuple(users.tolist()))


_COLUMNS = {
    description_pb2.OUTCOME_KIND_VALUE: "value",
    description_pb2.OUTCOME_KIND_CHOICE: "choice",
    description_pb2.OUTCOME_KIND_VECTOR: "vector",
}


def _matrix(column: pa.ChunkedArray, width: int) -> NDArray[Any]:
    """A column of lists of one length, [N, width]. Raises ValueError."""
    found = matrix(column)
    if found.shape[1] != width:
        raise ValueError(f"an event has not the {width} {column.type.value_type} that the model takes")
    return found
