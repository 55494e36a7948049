"""Watches: who is told of which watermark, against a slow and obvious twin."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from evercurrent.wire import WATERMARK
from worker.residents import Residents
from worker.sessions import UNSEQUENCED
from worker.watches import Watch, Watches

NUM_ROWS = 3
NUM_ENTRIES = 2

rows = st.integers(1, NUM_ROWS)
durable = st.integers(0, 5)


@dataclass
class Add:
    """A tag begins to watch, if it does not yet."""

    row: int
    watch: Watch


@dataclass
class Remove:
    """One of those that watch watches no more; without any, one that never did."""

    number: int


@dataclass
class Move:
    """The rows' versions and the sessions are durable so far; some rows are asked for."""

    rows: list[int]
    versions: list[int]
    seqs: list[int]


adds = st.builds(
    Add,
    rows,
    st.builds(
        Watch,
        link=st.integers(1, 3),
        tag=st.integers(0, 7),
        entry=st.integers(UNSEQUENCED, NUM_ENTRIES),
        told=st.integers(0, 3),
    ),
)
moves = st.builds(
    Move,
    st.lists(rows, unique=True),
    st.lists(durable, min_size=NUM_ROWS, max_size=NUM_ROWS),
    st.lists(durable, min_size=NUM_ENTRIES, max_size=NUM_ENTRIES),
)
scripts = st.lists(st.one_of(adds, st.builds(Remove, st.integers(0, 9)), moves), min_size=15, max_size=40)


@dataclass
class Twin:
    """One list of all that watch: row, watch."""

    all: list[tuple[int, Watch]] = field(default_factory=list)

    def add(self, row: int, watch: Watch) -> None:
        self.all.append((row, watch))

    def remove(self, row: int, link: int, tag: int) -> None:
        self.all = [one for one in self.all if (one[0], one[1].link, one[1].tag) != (row, link, tag)]

    def moved(self, rows: list[int], residents: Residents) -> dict[int, list[tuple[int, int]]]:
        moved: dict[int, list[tuple[int, int]]] = {}
        for row, watch in self.all:
            durable = int(residents.sessions.durable_seq[watch.entry])
            if watch.entry == UNSEQUENCED:
                durable = int(residents.durable_version[row])
            if row in rows and durable > watch.told:
                watch.told = durable
                moved.setdefault(watch.link, []).append((watch.tag, durable))
        return {link: sorted(marks) for link, marks in moved.items()}


@given(scripts)
def test_each_is_told_what_moved_of_its_own(script: list[Add | Remove | Move]) -> None:
    residents = Residents(np.zeros(1, np.float32), NUM_ROWS)
    watches, twin = Watches(NUM_ROWS + 1), Twin()
    for step in script:
        match step:
            case Add(row, watch):
                if (watch.link, watch.tag) not in {(one.link, one.tag) for _, one in twin.all}:
                    watches.add(row, replace(watch))
                    twin.add(row, replace(watch))
            case Remove(number):
                row, watch = twin.all[number % len(twin.all)] if twin.all else (1, Watch(1, 0, UNSEQUENCED, 0))
                watches.remove(row, watch.link, watch.tag)
                watches.remove(row % NUM_ROWS + 1, watch.link, watch.tag)
                twin.remove(row, watch.link, watch.tag)
            case Move():
                residents.durable_version[1:] = step.versions
                residents.sessions.durable_seq[1 : NUM_ENTRIES + 1] = step.seqs
                moved = watches.moved(np.array(step.rows, np.intp), residents)
                assert all(marks.dtype == WATERMARK for marks in moved.values())
                told = {
                    link: sorted(zip(marks["tag"].tolist(), marks["durable_seq"].tolist(), strict=True))
                    for link, marks in moved.items()
                }
                assert told == twin.moved(step.rows, residents)


def test_one_row_may_be_watched_by_many_over_many_links() -> None:
    residents = Residents(np.zeros(1, np.float32), NUM_ROWS)
    watches = Watches(NUM_ROWS + 1)
    for link in (1, 2, 3):
        for tag in (10, 11):
            watches.add(2, Watch(link, tag, UNSEQUENCED, 0))
    watches.remove(2, 1, 10)
    watches.remove(2, 3, 11)
    watches.remove(3, 1, 11)
    residents.durable_version[2] = 5
    moved = watches.moved(np.array([1, 2, 3], np.intp), residents)
    assert {link: sorted(marks["tag"].tolist()) for link, marks in moved.items()} == {1: [11], 2: [10, 11], 3: [10]}
    assert watches.moved(np.array([1, 2, 3], np.intp), residents) == {}
