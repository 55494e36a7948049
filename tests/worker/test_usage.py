"""What residents cost lately, against a twin that remembers every step."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from evercurrent.v1 import admin_pb2
from evercurrent.v1.columns_pb2 import EVENT_KIND_CLOSE, EVENT_KIND_OBSERVATION, EVENT_KIND_QUERY
from evercurrent.v1.worker_pb2 import LinkTagOpen
from evercurrent.wire import Event
from tests.toys import RAISE, Counting
from tests.worker.playing import Played
from worker.residents import Residents
from worker.top_users import Ranking
from worker.usage import HALF_LIFE_S, US_PER_S, Usage

NUM_ROWS = 5
BY_EVENTS, BY_TIME = admin_pb2.TOP_USERS_ORDER_EVENTS, admin_pb2.TOP_USERS_ORDER_STEP_TIME


@dataclass
class Twin:
    """Everything that happened: how many half-lives after the start, which row, events, microseconds."""

    now_us: int = 0
    events: list[tuple[int, int, float, float]] = field(default_factory=list)

    @property
    def num_halved(self) -> int:
        return self.now_us // (HALF_LIFE_S * US_PER_S)

    def count(self, rows: list[int], step_us: int) -> None:
        self.events += [(self.num_halved, row, 1, step_us / len(rows)) for row in rows]

    def rates(self) -> NDArray[np.float64]:
        """By row, events and milliseconds a second."""
        elapsed_s, from_us = 0.0, 0
        for halved in range(self.num_halved + 1):
            until_us = min(self.now_us, (halved + 1) * HALF_LIFE_S * US_PER_S)
            elapsed_s += (until_us - from_us) / US_PER_S * 0.5 ** (self.num_halved - halved)
            from_us = until_us
        found = np.zeros((NUM_ROWS + 1, 2))
        for halved, row, events, step_us in self.events:
            found[row] += np.array([events, step_us / 1000]) * 0.5 ** (self.num_halved - halved)
        return np.asarray(found / max(elapsed_s, 1))


rows = st.integers(1, NUM_ROWS)
passes = st.integers(0, 40 * US_PER_S)
steps = st.tuples(st.lists(rows, min_size=1, max_size=8), st.integers(0, 10_000))
scripts = st.lists(st.one_of(passes, steps), min_size=5, max_size=40)


@given(scripts)
def test_rates_are_those_of_what_happened_and_what_is_older_counts_less(
    script: list[int | tuple[list[int], int]],
) -> None:
    usage, twin = Usage(NUM_ROWS + 1), Twin()
    usage.pass_time(0)
    with patch("worker.usage._WEIGHT_MAX", 8.0):
        for step in script:
            if isinstance(step, int):
                twin.now_us += step
                usage.pass_time(twin.now_us)
                continue
            rows, step_us = step
            twin.count(rows, step_us)
            if len(rows) == 1:
                usage.count_one(rows[0], step_us)
            else:
                usage.count(np.array(rows, np.int32), step_us)
    found = np.stack([usage.events, usage.step_us / 1000], axis=1) / usage.elapsed_s
    expected = twin.rates()
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert usage.step_us_in_all / usage.elapsed_s == pytest.approx(expected[:, 1].sum() * 1000, rel=1e-6)


def test_a_step_that_takes_nobodys_event_counts_nothing() -> None:
    usage = Usage(2)
    usage.count(np.zeros(0, np.int32), 5)
    assert usage.step_us_in_all == 0


def test_scaled_down_counts_hold_nothing_subnormal() -> None:
    usage = Usage(2)
    usage.pass_time(0)
    usage.count_one(1, 1)
    for second in range(10_000):
        usage.pass_time(second * US_PER_S)
        smallest = usage.events[1]
        assert smallest == 0 or smallest > np.finfo(np.float32).tiny
    assert usage.events[1] == usage.step_us[1] == 0


def filled(num_users: int) -> Residents:
    residents = Residents(np.zeros(1, np.float32), num_users + 3)
    for number in range(num_users):
        residents.admit(f"shop\0user-{number}", number)
    return residents


@given(
    counts=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 900)), min_size=1, max_size=20),
    num=st.integers(1, 6),
    by_time=st.booleans(),
    part=st.integers(1, 25),
)
def test_the_first_are_those_of_all(counts: list[tuple[int, int]], num: int, by_time: bool, part: int) -> None:
    residents = filled(len(counts))
    residents.usage.count(np.zeros(3, np.int32), 10_000)
    for number, (num_events, step_us) in enumerate(counts):
        row = residents.slab.find(f"shop\0user-{number}")
        assert row is not None
        for _ in range(num_events):
            residents.usage.count_one(row, step_us)
    ranking = Ranking(residents, BY_TIME if by_time else BY_EVENTS, num)
    with patch("worker.residents.SCAN_ROWS", part):
        for rows in residents.parts():
            ranking.look(rows)
    ranks = sorted((events * step_us / 1000 if by_time else events for events, step_us in counts), reverse=True)
    shown = [user.step_ms_per_s if by_time else user.events_per_s for user in ranking.users]
    assert shown == pytest.approx([rank for rank in ranks[:num] if rank], rel=1e-5)
    total_us = sum(events * step_us for events, step_us in counts) + 10_000
    for user in ranking.users:
        number = int(user.user_id.removeprefix("user-"))
        events, step_us = counts[number]
        assert (user.namespace, user.slot, user.events_per_s) == ("shop", number, events)
        assert user.step_ms_per_s == pytest.approx(events * step_us / 1000, rel=1e-5)
        assert user.step_share == pytest.approx(events * step_us / total_us, rel=1e-5)


@pytest.mark.parametrize("way", ["drop", "forget"])
def test_who_comes_after_or_is_forgotten_has_cost_nothing(way: str) -> None:
    residents = filled(2)
    row = residents.slab.find("shop\0user-0")
    assert row is not None
    residents.usage.count_one(row, 7)
    if way == "drop":
        residents.drop(row)
        assert residents.admit("shop\0user-9", 3) == row
    else:
        residents.forget(row)
    ranking = Ranking(residents, BY_EVENTS, 5)
    for part in residents.parts():
        ranking.look(part)
    assert ranking.users == []


def event(tag: int, kind: int = EVENT_KIND_OBSERVATION, deed: int = 1) -> Event:
    return Event(0, 1, 0, (deed, 2), 0, tag, 0, (0.5, -1.0), (0.5,), kind)


def test_steps_are_counted_to_those_whose_events_they_took() -> None:
    """The clock is read twice a step, twice a run of the model, and at each receipt and open: 8 µs later each
    time."""
    engine = Played(Counting(), 10, 64, itertools.count(0, 8).__next__)
    link = engine.open_link()
    users = ("ann", "bob", "cid")
    for tag, user in enumerate(users):
        assert engine.open(link, LinkTagOpen(tag=tag, user_id=user), user) is not None

    def counted(*events: Event) -> list[tuple[float, float]]:
        """What a step of these costs ann, bob and cid."""
        usage = engine.residents.usage
        before = usage.events.copy(), usage.step_us.copy()
        engine.take(link, b"".join(engine.layout.pack(*one) for one in events))
        assert len(list(engine.answers())) == 1
        rows = [engine.slab.find(user) for user in users]
        return [
            (float((usage.events - before[0])[row]), float((usage.step_us - before[1])[row])) for row in rows if row
        ]

    nothing = (0.0, 0.0)
    assert counted(event(0)) == [(1, 24), nothing, nothing]
    assert counted(event(0), event(1)) == [(1, 12), (1, 12), nothing]
    assert counted(event(2, EVENT_KIND_QUERY)) == [nothing, nothing, (1, 8)]
    assert counted(*[event(0, EVENT_KIND_QUERY)] * 3, event(2)) == [(3, 18), nothing, (1, 6)]
    assert counted(event(1, deed=RAISE)) == [nothing, (1, 24), nothing]
    assert counted(event(0, EVENT_KIND_CLOSE), event(1), event(7)) == [nothing, (1, 12), nothing]
    assert counted(event(1, EVENT_KIND_CLOSE)) == [nothing, nothing, nothing]
