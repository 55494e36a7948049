"""Layouts: the struct record is the numpy record, and columns bring back what they were given."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evercurrent.errors import Refused
from evercurrent.v1 import description_pb2
from evercurrent.v1.columns_pb2 import EventColumns
from evercurrent.v1.wire_pb2 import WireEventColumns
from evercurrent.wire import Event, Layout, Records

LONG = st.integers(-(1 << 63), (1 << 63) - 1)
UNSIGNED = st.integers(0, (1 << 64) - 1)
SHORT = st.integers(0, (1 << 32) - 1)
FLOAT = st.floats(width=32, allow_nan=False)

layouts = st.one_of(
    st.builds(
        Layout,
        num_ids=st.integers(0, 3),
        num_features=st.integers(0, 3),
        outcome=st.just(description_pb2.OUTCOME_KIND_VECTOR),
        outcome_width=st.integers(1, 3),
        prediction_width=st.integers(1, 3),
    ),
    st.builds(
        Layout,
        num_ids=st.integers(0, 3),
        num_features=st.integers(0, 3),
        outcome=st.sampled_from([description_pb2.OUTCOME_KIND_VALUE, description_pb2.OUTCOME_KIND_CHOICE]),
        outcome_width=st.just(1),
        prediction_width=st.integers(1, 3),
    ),
)


def events_of(layout: Layout) -> st.SearchStrategy[Event]:
    return st.builds(
        Event,
        seq=UNSIGNED,
        event_time_us=LONG,
        stamp_us=UNSIGNED,
        ids=st.lists(LONG, min_size=layout.num_ids, max_size=layout.num_ids),
        choice=LONG if layout.is_choice else st.just(0),
        tag=SHORT,
        timeout_us=SHORT,
        features=st.lists(FLOAT, min_size=layout.num_features, max_size=layout.num_features),
        outcome=st.just([])
        if layout.is_choice
        else st.lists(FLOAT, min_size=layout.outcome_width, max_size=layout.outcome_width),
        kind=st.integers(0, 6),
    )


@given(layout=layouts, data=st.data())
def test_one_event_is_the_same_record_for_struct_and_numpy(layout: Layout, data: st.DataObject) -> None:
    event = data.draw(events_of(layout))
    raw = layout.pack(*event)
    assert len(raw) == layout.event_dtype.itemsize
    assert len(raw) % 8 == 0
    record = layout.events(raw)[0]
    for name, value in event._asdict().items():
        if (name == "choice" and not layout.is_choice) or (name == "outcome" and layout.is_choice):
            assert name not in (layout.event_dtype.names or ())
        else:
            assert record[name].tolist() == value
    assert layout.event(raw) == event


@given(layout=layouts, data=st.data())
def test_one_result_is_the_same_record_for_struct_and_numpy(layout: Layout, data: st.DataObject) -> None:
    names = [name for name in layout.result_dtype.names or () if name != "padding"]
    values: dict[str, Any] = {}
    for name in names:
        strategy: st.SearchStrategy[Any] = UNSIGNED
        if name in ("tag", "queue_us", "hydrate_us", "step_us"):
            strategy = SHORT
        elif name == "loss":
            strategy = FLOAT
        elif name == "prediction":
            strategy = st.lists(FLOAT, min_size=layout.prediction_width, max_size=layout.prediction_width)
        elif name in ("status", "kind"):
            strategy = st.integers(0, 255)
        elif name == "model":
            strategy = st.integers(0, 65_535)
        values[name] = data.draw(strategy)
    flat = [part for value in values.values() for part in (value if isinstance(value, list) else [value])]
    record = layout.results(layout.result_struct.pack(*flat))[0]
    assert {name: record[name].tolist() for name in names} == values


def columns_of_events(layout: Layout, events: Records) -> WireEventColumns:
    """The Exchange form of events: the inverse of `Layout.events_of_columns`."""
    columns = WireEventColumns(
        tags=events["tag"].tobytes(),
        seqs=events["seq"].tobytes(),
        ids=events["ids"].tobytes(),
        features=events["features"].tobytes(),
        kinds=events["kind"].tobytes(),
        event_times_us=events["event_time_us"].tobytes(),
        timeouts_us=events["timeout_us"].tobytes(),
    )
    if layout.is_choice:
        columns.choices = events["choice"].tobytes()
    elif layout.is_value:
        columns.values = events["outcome"].tobytes()
    else:
        columns.vectors = events["outcome"].tobytes()
    return columns


def drawn_records(layout: Layout, data: st.DataObject) -> Records:
    events = data.draw(st.lists(events_of(layout), min_size=1, max_size=5))
    return layout.events(b"".join(layout.pack(*event._replace(stamp_us=0)) for event in events))


@given(layout=layouts, data=st.data())
def test_columns_bring_back_the_events_and_are_those_of_the_contract(layout: Layout, data: st.DataObject) -> None:
    records = drawn_records(layout, data)
    wire = columns_of_events(layout, records)
    assert layout.events_of_columns(wire).tobytes() == records.tobytes()
    contract = EventColumns.FromString(wire.SerializeToString())
    assert list(contract.seqs) == records["seq"].tolist()
    assert list(contract.ids) == records["ids"].ravel().tolist()
    again = WireEventColumns.FromString(contract.SerializeToString())
    assert layout.events_of_columns(again).tobytes() == records.tobytes()


COLUMNS = ("tags", "seqs", "ids", "features", "values", "choices", "vectors", "kinds", "event_times_us", "timeouts_us")


@given(layout=layouts, data=st.data())
def test_a_column_of_another_length_is_named(layout: Layout, data: st.DataObject) -> None:
    wire = columns_of_events(layout, drawn_records(layout, data))
    name = data.draw(st.sampled_from([name for name in COLUMNS if getattr(wire, name) and name != "tags"]))
    setattr(wire, name, getattr(wire, name) + b"\0")
    with pytest.raises(Refused) as caught:
        layout.events_of_columns(wire)
    assert caught.value.rejection.field == f"events.{name}"


@given(layout=layouts, data=st.data())
def test_result_columns_hold_the_results_under_the_clients_tags(layout: Layout, data: st.DataObject) -> None:
    num = data.draw(st.integers(1, 5))
    results = np.zeros(num, layout.result_dtype)
    results["seq"], results["loss"] = np.arange(num), math.nan
    results["prediction"] = np.arange(num * layout.prediction_width).reshape(num, -1)
    results["lost"][-1] = data.draw(st.integers(0, 1))
    totals = np.full(num, 9, np.uint32) if data.draw(st.booleans()) else None
    results["model"] = data.draw(st.lists(st.integers(0, 3), min_size=num, max_size=num))
    versions = ["", "v1", "v2", "v3"]
    wire = layout.columns_of_results(results, np.arange(num, dtype=np.uint32) + 5, totals, versions)
    indices = list(wire.model_indices) or [0] * num
    assert [wire.model_versions[index] for index in indices] == [versions[number] for number in results["model"]]
    assert bool(wire.model_indices) == (len(set(results["model"].tolist())) > 1)
    assert np.frombuffer(wire.tags, "<u4").tolist() == list(range(5, 5 + num))
    assert np.frombuffer(wire.predictions, "<f4").tolist() == list(range(num * layout.prediction_width))
    assert bool(wire.lost) == bool(results["lost"].any())
    assert bool(wire.total_us) == bool(wire.step_us) == (totals is not None)
    assert not wire.at_risk
    assert not wire.durable_seqs


def test_bytes_that_are_no_whole_number_of_records_are_refused() -> None:
    layout = Layout(2, 2, description_pb2.OUTCOME_KIND_VALUE, 1, 1)
    with pytest.raises(Refused, match="no whole number"):
        layout.events(bytes(layout.event_dtype.itemsize + 1))
