"""Who sends when: arrivals of the offered rate, shares of users, and logs that are sent again at their own times."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench import schedules
from bench.schedules import BURST_EVENTS
from evercurrent.v1.description_pb2 import (
    OUTCOME_KIND_CHOICE,
    OUTCOME_KIND_VALUE,
    OUTCOME_KIND_VECTOR,
    IdField,
    ModelDescription,
    OutcomeKind,
)
from persistence.events import SCHEMA

MODEL = ModelDescription(
    name="toy",
    ids=[IdField(name="item", size=10), IdField(name="skill", size=3)],
    features=["x"],
    outcome=OUTCOME_KIND_VALUE,
    outcome_width=1,
)


def described(outcome: OutcomeKind, width: int = 1) -> ModelDescription:
    model = ModelDescription()
    model.CopyFrom(MODEL)
    model.outcome, model.outcome_width, model.num_choices = outcome, width, 4
    return model


def write_log(folder: Path, *events: dict[str, object]) -> Path:
    blank = {"namespace": "", "slot": 1, "seq": 1, "version": 1, "model": "toy", "features": [0.5], "ids": [1, 2]}
    for day, some in (("2026-11-24", events[::2]), ("2026-11-25", events[1::2])):
        path = folder / f"day={day}"
        path.mkdir(parents=True)
        pq.write_table(
            pa.Table.from_pylist([{**blank, **each} for each in some], schema=SCHEMA), path / "bucket-00.parquet"
        )
    return folder


def test_bursts_come_at_once_and_at_the_rate_that_is_asked_for() -> None:
    times_ns = schedules.bursts(2000.0, 30.0, np.random.default_rng(1))
    instants, counts = np.unique(times_ns, return_counts=True)
    assert set(counts.tolist()) == {BURST_EVENTS}
    assert (np.diff(times_ns) >= 0).all()
    assert len(times_ns) == pytest.approx(60_000, rel=0.1)
    assert np.diff(instants).std() == pytest.approx(np.diff(instants).mean(), rel=0.1)


@pytest.mark.parametrize(("exponent", "expected"), [(0.0, [1 / 3, 1 / 3, 1 / 3]), (1.0, [6 / 11, 3 / 11, 2 / 11])])
def test_shares_of_users_follow_zipf(exponent: float, expected: list[float]) -> None:
    users = schedules.users_of(20_000, 3, exponent, np.random.default_rng(1))
    assert np.bincount(users) / len(users) == pytest.approx(expected, abs=0.02)


def test_a_log_is_sent_again_in_order_at_its_times(tmp_path: Path) -> None:
    path = write_log(
        tmp_path / "events",
        {"user_id": "bob", "event_time": 3_000_000, "value": 1.0, "ids": [3, 0]},
        {"user_id": "ann", "event_time": 1_000_000, "value": 0.0, "ids": [1, 0], "features": [2.0]},
        {"user_id": "ann", "event_time": 2_500_000, "value": 1.0, "ids": [2, 0]},
    )
    recording = schedules.recorded(path, 10.0, MODEL)
    assert [recording.names[number] for number in recording.schedule.users.tolist()] == ["ann", "ann", "bob"]
    assert recording.schedule.times_ns.tolist() == [0, 150_000_000, 200_000_000]
    assert recording.drawn.ids.tolist() == [[1, 0], [2, 0], [3, 0]]
    assert recording.drawn.features.tolist() == [[2.0], [0.5], [0.5]]
    assert recording.drawn.outcomes.tolist() == [[0.0], [1.0], [1.0]]
    schedule, drawn = recording.within(100_000_000, 200_000_000)
    assert (schedule.times_ns.tolist(), schedule.users.tolist(), drawn.ids.tolist()) == ([50_000_000], [0], [[2, 0]])


@pytest.mark.parametrize(
    ("outcome", "width", "event", "expected"),
    [(OUTCOME_KIND_CHOICE, 1, {"choice": 2}, [2]), (OUTCOME_KIND_VECTOR, 2, {"vector": [1.0, 2.0]}, [[1.0, 2.0]])],
)
def test_outcomes_of_a_log_are_of_the_models_kind(
    outcome: OutcomeKind, width: int, event: dict[str, object], expected: list[object], tmp_path: Path
) -> None:
    path = write_log(tmp_path, {"user_id": "ann", "event_time": 1, **event})
    assert schedules.recorded(path, 1.0, described(outcome, width)).drawn.outcomes.tolist() == expected


@pytest.mark.parametrize(
    ("event", "text"),
    [
        ({"choice": 1}, "1 of them without a value"),
        ({"value": 1.0, "ids": [1]}, "has not the 2 int64"),
        ({"value": 1.0, "ids": [10, 0]}, "ids that toy does not take"),
        ({"value": 1.0, "features": []}, "has not the 1 float"),
    ],
)
def test_a_log_of_another_model_is_refused(event: dict[str, object], text: str, tmp_path: Path) -> None:
    path = write_log(tmp_path, {"user_id": "ann", "event_time": 1, **event})
    with pytest.raises(ValueError, match=text):
        schedules.recorded(path, 1.0, MODEL)
