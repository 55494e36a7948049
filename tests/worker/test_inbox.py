"""The inbox takes everything once, in each user's order, and no two observations of one user in a step."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from evercurrent.v1.columns_pb2 import EVENT_KIND_OBSERVATION, EVENT_KIND_QUERY
from worker.inbox import MARKS, Inbox, Waiting
from worker.slab import INITIAL_ROW

EVENTS = np.dtype([("seq", "<u8"), ("kind", "u1")])
NUM_ROWS = 6

frames = st.lists(
    st.lists(st.tuples(st.integers(0, NUM_ROWS - 1), st.booleans()), max_size=20),
    max_size=8,
)


def waiting(rows_and_queries: list[tuple[int, bool]], first_seq: int) -> Waiting:
    events, marks = np.zeros(len(rows_and_queries), EVENTS), np.zeros(len(rows_and_queries), MARKS)
    events["seq"] = np.arange(first_seq, first_seq + len(events))
    events["kind"] = [EVENT_KIND_QUERY if is_query else EVENT_KIND_OBSERVATION for _, is_query in rows_and_queries]
    marks["row"] = [row for row, _ in rows_and_queries]
    return Waiting(events, marks)


@given(frames=frames, batch_max=st.integers(1, 7), cuts=st.lists(st.integers(0, 3), max_size=8))
def test_a_step_takes_one_observation_a_user_and_keeps_each_ones_order(
    frames: list[list[tuple[int, bool]]], batch_max: int, cuts: list[int]
) -> None:
    inbox = Inbox(NUM_ROWS, batch_max)
    num_put = 0
    taken: list[tuple[int, int]] = []

    def cut() -> None:
        batch = inbox.cut()
        assert 1 <= len(batch) <= batch_max
        rows, kinds = batch.marks["row"].tolist(), batch.events["kind"].tolist()
        learned: set[int] = set()
        for row, kind in zip(rows, kinds, strict=True):
            # Queries are answered before the batch learns: none may stand behind its user's observation.
            assert row == INITIAL_ROW or row not in learned
            if kind != EVENT_KIND_QUERY:
                learned.add(row)
        taken.extend(zip(rows, batch.events["seq"].tolist(), strict=True))

    for frame, num_cuts in zip(frames, [*cuts, *[0] * len(frames)], strict=False):
        inbox.put(waiting(frame, num_put))
        num_put += len(frame)
        for _ in range(num_cuts):
            assert len(inbox) == num_put - len(taken)
            if len(inbox):
                cut()
    while len(inbox):
        cut()
    assert sorted(seq for _, seq in taken) == list(range(num_put))
    for row in range(NUM_ROWS):
        own = [seq for other, seq in taken if other == row]
        assert own == sorted(own)


def test_a_flooding_user_does_not_delay_the_others() -> None:
    inbox = Inbox(10, batch_max=4)
    inbox.put(waiting([(1, False)] * 100, 0))
    inbox.put(waiting([(2, False), (3, False), (1, False)], 100))
    assert inbox.cut().events["seq"].tolist() == [0]
    assert sorted(inbox.cut().events["seq"].tolist()) == [1, 100, 101]
