"""What the console's charts, ring and tables are made of, by value."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from evercurrent.console import charts
from evercurrent.console.history import LOOKS_MAX, SEQUENCE_MAX, STAGES, History
from evercurrent.console.overview import Overview
from evercurrent.console.ring import color_of, ring_svg
from evercurrent.v1 import admin_pb2, models_pb2


def seen(
    p99_ms: float = 2.0, count: int = 10, live: str = "v1", comparisons: tuple[models_pb2.Comparison, ...] = ()
) -> Overview:
    stages = ("total", *STAGES)
    return Overview(
        at_s=0.0,
        latency={
            stage: admin_pb2.LatencySummary(stage=stage, count=count, p50_ms=1.0, p99_ms=p99_ms, p999_ms=3.0)
            for stage in stages
        },
        ring=admin_pb2.GetRingResponse(),
        router=admin_pb2.RouterInfo(),
        workers=(
            admin_pb2.WorkerInfo(name="a", updates_at_risk=3, journal_lag_ms=20.0),
            admin_pb2.WorkerInfo(name="b", updates_at_risk=4, journal_lag_ms=50.0),
        ),
        users=(),
        live=live,
        comparisons=comparisons,
        updates_per_s={"a": 100.0, "b": 50.0},
    )


def beside(version: str, events: int, mean: float = 0.1) -> models_pb2.Comparison:
    return models_pb2.Comparison(
        sums=models_pb2.VersionSums(version=version, score=models_pb2.SequenceSums(count=events)),
        score=models_pb2.Interval(mean=mean, low=mean - 0.2, high=mean + 0.2),
    )


def test_a_look_is_kept_in_numbers_and_only_so_many() -> None:
    history = History()
    history.add(seen(), "12:00:00")
    look = history.looks[0]
    assert (look.p50_ms, look.p99_ms, look.p999_ms, look.updates_per_s) == (1.0, 2.0, 3.0, 150.0)
    assert (look.at_risk, look.lag_ms, look.stages_p99_ms) == (7, 50.0, (2.0,) * len(STAGES))
    for number in range(LOOKS_MAX + 5):
        history.add(seen(), f"{number}")
    assert len(history.looks) == LOOKS_MAX
    assert history.looks[0].clock == "5"


def test_where_nothing_was_measured_there_is_a_gap() -> None:
    history = History()
    history.add(seen(), "1")
    history.add(seen(count=0), "2")
    lines = {line["name"]: line["data"] for line in charts.latency(history)["series"]}
    assert lines == {"P50": [1.0, None], "P99": [2.0, None], "P99.9": [3.0, None]}
    assert [line["data"] for line in charts.stages(history)["series"]] == [[2.0, None]] * len(STAGES)
    assert [line["data"] for line in charts.durability(history)["series"]] == [[50.0, 50.0], [7, 7]]


def test_sequences_grow_with_events_and_end_with_their_version() -> None:
    history = History()
    for events in (0, 10, 10, 30):
        history.add(seen(comparisons=(beside("v2", events),)), "")
    assert history.sequences["v2"].events == [10, 30]
    low, band, mean, *others = charts.sequences(history)["series"]
    assert not others
    assert [point[0] for point in mean["data"]] == [10, 30]
    assert all(abs(low[1] + high[1] - 0.3) < 1e-9 for low, high in zip(low["data"], band["data"], strict=True))
    history.add(seen(comparisons=(beside("v3", 5),)), "")
    assert set(history.sequences) == {"v3"}
    history.add(seen(live="v3", comparisons=(beside("v3", 4),)), "")
    assert history.sequences["v3"].events == [4]


def test_a_long_sequence_is_thinned_and_keeps_its_ends() -> None:
    history = History()
    for events in range(1, 3 * SEQUENCE_MAX):
        history.add(seen(comparisons=(beside("v2", events),)), "")
    kept = history.sequences["v2"]
    assert len(kept.events) == len(kept.mean) == len(kept.low) == len(kept.high) <= SEQUENCE_MAX
    assert (kept.events[0], kept.events[-1]) == (1, 3 * SEQUENCE_MAX - 1)
    assert kept.events == sorted(set(kept.events))


@given(st.lists(st.integers(0, 3), min_size=1, max_size=64))
def test_each_slot_is_drawn_once_in_its_members_color(slots: list[int]) -> None:
    names = ["a", "b", "c", "d"]
    svg = ring_svg(names, slots, {"a": 5.0})
    paths = re.findall(r'<path d="([^"]*)" fill="([^"]*)"><title>(\w): (\d+) of (\d+) slots', svg)
    assert [(name, int(num)) for _, _, name, num, _ in paths] == [(n, slots.count(i)) for i, n in enumerate(names)]
    assert [color for _, color, *_ in paths] == [color_of(index) for index in range(4)]
    for (path, *_), index in zip(paths, range(4), strict=True):
        is_whole = slots.count(index) == len(slots)
        runs = sum(one == index and (at == 0 or slots[at - 1] != index) for at, one in enumerate(slots))
        assert path.count("M") == (2 if is_whole else runs)


def test_names_are_escaped() -> None:
    svg = ring_svg(["<script>"], [0, 0], {"<script>": 1.0})
    assert "<script>" not in svg
    assert "&lt;script&gt;" in svg
