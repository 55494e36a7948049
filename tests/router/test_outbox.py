"""What a worker is sent, and in how many messages."""

from __future__ import annotations

import pytest

from evercurrent.describe import describe
from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1 import worker_pb2
from evercurrent.v1.columns_pb2 import EVENT_KIND_OBSERVATION, EVENT_KIND_REFUSED
from evercurrent.wire import Layout
from router import outbox
from router.outbox import Outbox
from tests.toys import Counting

LAYOUT = Layout.of(describe(Counting()))


def packed(tag: int, seq: int, kind: int = EVENT_KIND_OBSERVATION) -> bytes:
    return LAYOUT.pack(seq, 1, 0, (1, 2), 0, tag, 0, (0.0, 0.0), (0.0,), kind)


def taken(box: Outbox) -> tuple[list[int], list[int], list[int]]:
    """Tags of the opens, seqs of the events, indices of the refusals of one message."""
    frame = box.take().frame
    return (
        [request.tag for request in frame.opens],
        LAYOUT.events(frame.events)["seq"].tolist(),
        [refusal.index for refusal in frame.refusals],
    )


def test_what_is_too_much_for_one_message_goes_in_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "OPENS_MAX", 2)
    monkeypatch.setattr(outbox, "EVENTS_BYTES_MAX", 2 * LAYOUT.event_dtype.itemsize + 1)
    woken: list[int] = []
    box = Outbox(lambda: woken.append(1))
    for tag in range(3):
        box.open(worker_pb2.LinkTagOpen(tag=tag))
    why = pb.Rejection(reason=pb.REASON_OUTCOME)
    for seq in range(1, 6):
        is_refused = seq in (2, 3, 5)
        box.send(
            packed(0, seq, EVENT_KIND_REFUSED if is_refused else EVENT_KIND_OBSERVATION), 1, why if is_refused else None
        )
    expected = [([0, 1], [], []), ([2], [1, 2], [1]), ([], [3, 4], [0]), ([], [5], [0])]
    for at, message in enumerate(expected):
        woken.clear()
        assert taken(box) == message
        assert bool(woken) == (at < len(expected) - 1), "whoever sends is woken as long as something is left"
    assert taken(box) == ([], [], [])
