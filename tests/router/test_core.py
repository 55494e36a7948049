"""The routing core by value: a worker that is played by the test, feeds that only remember."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from evercurrent.describe import describe
from evercurrent.errors import Refused
from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1 import worker_pb2
from evercurrent.v1.columns_pb2 import EVENT_KIND_CLOSE, EVENT_KIND_OBSERVATION, IndexedRejection
from evercurrent.wire import Event, Records
from router.core import Outbox, RoutingCore
from router.ring import build_ring
from router.sessions import FREE
from tests.toys import Choosing, Counting

WORKER = 0


class Remembering:
    """A feed that keeps what it is told."""

    def __init__(self) -> None:
        self.answers: list[worker_pb2.LinkTagOpened] = []
        self.told: list[tuple[int, int, int]] = []
        self.watermarks: list[tuple[int, int]] = []
        self.lost: list[int] = []
        self.stopped: pb.Rejection | None = None

    def opened(self, sid: int, answer: worker_pb2.LinkTagOpened) -> None:
        self.answers.append(answer)

    def results(self, records: Records, rejections: Sequence[IndexedRejection]) -> None:
        reasons = {indexed.index: indexed.rejection.reason for indexed in rejections}
        self.told += [(int(record["tag"]), int(record["seq"]), reasons.get(at, 0)) for at, record in enumerate(records)]

    def durable(self, sids: NDArray[np.int64], seqs: NDArray[np.uint64]) -> None:
        self.watermarks += zip(sids.tolist(), seqs.tolist(), strict=True)

    def ended(self, sids: Sequence[int], why: pb.Rejection) -> None:
        self.lost += sids

    def stop(self, why: pb.Rejection) -> None:
        self.stopped = why


@pytest.fixture
def core() -> RoutingCore:
    return RoutingCore(build_ring(["worker-0"]), {"worker-0": "127.0.0.1:1"}, 100, 10, lambda: 5)


def link(core: RoutingCore) -> Outbox:
    opened = worker_pb2.LinkOpened(worker="worker-0", incarnation="worker-0/1", model=describe(Counting()))
    return core.link_opened(WORKER, opened, lambda: None)


def packed(core: RoutingCore, sid: int, seq: int) -> bytes:
    return core.layout.pack(Event(seq, 1, 0, (1, 2), 0, sid, 0, (0.0, 0.0), (0.0,), EVENT_KIND_OBSERVATION))


def answer(core: RoutingCore, outbox: Outbox, *, refuse: Sequence[str] = (), opens_only: bool = False) -> Records:
    """Play the worker for what waits: open all but some users, apply all events. The events, in their order."""
    frame = outbox.take().frame
    opens = []
    for request in frame.opens:
        opened = worker_pb2.LinkTagOpened(tag=request.tag)
        if request.user_id in refuse:
            opened.rejection.reason = pb.REASON_OVERLOADED
        opens.append(opened)
    core.receive(WORKER, worker_pb2.LinkResults(opens=opens))
    events = core.layout.events(frame.events)
    if not opens_only:
        reply(core, events)
    return events


def reply(core: RoutingCore, events: Records, reject: Sequence[int] = (), applied_seq: int = 0) -> None:
    """The worker's results for events; those at some indices rejected for a gap."""
    results = np.zeros(len(events), core.layout.result_dtype)
    for name in ("tag", "seq", "kind"):
        results[name] = events[name]
    results["status"] = pb.STATUS_APPLIED
    results["applied_seq"] = applied_seq or events["seq"]
    rejections = [IndexedRejection(index=at, rejection=pb.Rejection(reason=pb.REASON_SEQ_GAP)) for at in reject]
    core.receive(WORKER, worker_pb2.LinkResults(results=results.tobytes(), rejections=rejections))


def test_a_refused_sid_is_not_given_away_while_its_events_are_on_the_way(core: RoutingCore) -> None:
    outbox = link(core)
    first, second = Remembering(), Remembering()
    number = core.add_feed(first)
    sid = core.open(number, 0, "ann", "", "")
    core.send(sid, packed(core, sid, 0))
    events = answer(core, outbox, refuse=["ann"], opens_only=True)
    assert first.answers[0].HasField("rejection")
    core.remove_feed(number, ())
    other = core.open(core.add_feed(second), 0, "bob", "", "")
    assert other != sid
    answer(core, outbox)
    reply(core, events)
    assert second.told == []
    assert int(core.sessions.num_in_flight[other]) == 0
    assert core.links[WORKER].num_in_flight == 0
    assert core.sessions.state[sid] == FREE


def test_each_feed_is_told_its_own_in_order(core: RoutingCore) -> None:
    outbox = link(core)
    feeds = [Remembering() for _ in range(3)]
    sids = [core.open(core.add_feed(feed), 0, f"user-{at}", "", "") for at, feed in enumerate(feeds)]
    answer(core, outbox)
    for at in (0, 1, 0, 2, 1, 0):
        core.send(sids[at], packed(core, sids[at], int(core.sessions.next_seq[sids[at]])))
        core.sessions.next_seq[sids[at]] += 1
    reply(core, core.layout.events(outbox.take().frame.events), reject=[4, 5], applied_seq=1)
    gap = pb.REASON_SEQ_GAP
    assert feeds[0].told == [(sids[0], 1, 0), (sids[0], 2, 0), (sids[0], 3, gap)]
    assert feeds[1].told == [(sids[1], 1, 0), (sids[1], 2, gap)]
    assert feeds[2].told == [(sids[2], 1, 0)]
    assert [int(core.sessions.next_seq[sid]) for sid in sids] == [2, 2, 2]
    assert core.links[WORKER].num_in_flight == 0


def test_a_lost_link_ends_its_sessions_and_frees_their_sids(core: RoutingCore) -> None:
    outbox = link(core)
    staying, leaving = Remembering(), Remembering()
    number = core.add_feed(staying)
    sids = [core.open(number, tag, f"user-{tag}", "", "") for tag in range(3)]
    gone = core.add_feed(leaving)
    left = core.open(gone, 0, "dan", "", "")
    answer(core, outbox)
    core.send(sids[0], packed(core, sids[0], 1))
    core.remove_feed(gone, [left])
    core.link_lost(WORKER)
    assert staying.lost == sids
    assert leaving.lost == []
    assert len(core.sessions) == core.links[WORKER].num_in_flight == 0
    with pytest.raises(Refused, match="worker-0 is not reachable"):
        core.open(number, 0, "ann", "", "")
    core.stop()
    assert staying.stopped is not None
    link(core)
    assert core.open(number, 0, "ann", "", "") in [*sids, left]


def test_a_session_left_before_it_opened_is_closed_in_order(core: RoutingCore) -> None:
    outbox = link(core)
    number = core.add_feed(Remembering())
    sid = core.open(number, 0, "ann", "", "")
    core.remove_feed(number, [sid])
    events = answer(core, outbox)
    assert events["kind"].tolist() == [EVENT_KIND_CLOSE]
    assert len(core.sessions) == core.num_feeds == 0


def test_a_full_link_refuses_with_a_time_to_wait(core: RoutingCore) -> None:
    outbox = link(core)
    sid = core.open(core.add_feed(Remembering()), 0, "ann", "", "")
    answer(core, outbox)
    core.send(sid, packed(core, sid, 1) * 100, 100)
    with pytest.raises(Refused, match="the queue of worker-0 is full") as caught:
        core.send(sid, packed(core, sid, 1))
    assert caught.value.rejection.retry_after_ms > 0
    assert core.links[WORKER].num_in_flight == 100


def test_a_worker_of_another_model_is_refused(core: RoutingCore) -> None:
    link(core)
    other = worker_pb2.LinkOpened(worker="worker-0", model=describe(Choosing()))
    with pytest.raises(Refused, match="worker-0 serves choosing, described otherwise than the others' counting"):
        core.link_opened(WORKER, other, lambda: None)


def test_the_model_may_change_once_no_worker_serves_the_old_one(core: RoutingCore) -> None:
    link(core)
    feed = Remembering()
    core.add_feed(feed)
    core.link_lost(WORKER)
    link(core)
    assert feed.stopped is None, "the same model again ends nothing"
    core.link_lost(WORKER)
    core.link_opened(WORKER, worker_pb2.LinkOpened(worker="worker-0", model=describe(Choosing())), lambda: None)
    assert core.model.name == "choosing"
    assert core.layout.is_choice
    assert feed.stopped is not None
    assert feed.stopped.reason == pb.REASON_UNAVAILABLE
