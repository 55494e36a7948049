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
from evercurrent.v1.columns_pb2 import (
    EVENT_KIND_CLOSE,
    EVENT_KIND_OBSERVATION,
    EVENT_KIND_REFUSED,
    IndexedRejection,
)
from evercurrent.wire import WATERMARK, Records
from router.core import RoutingCore
from router.outbox import Outbox
from router.sessions import ACTIVE, CLOSING, FREE, SETTLING
from tests.router.playing import WORKER, core_of, link
from tests.toys import Choosing


class Remembering:
    """A feed that keeps what it is told."""

    def __init__(self) -> None:
        self.answers: list[worker_pb2.LinkTagOpened] = []
        self.told: list[tuple[int, int, int]] = []
        self.watermarks: list[tuple[int, int]] = []
        self.lost: list[int] = []
        self.left = ""
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

    def go_away(self, message: str, grace_ms: int) -> None:
        self.left = message

    def stop(self, why: pb.Rejection) -> None:
        self.stopped = why


@pytest.fixture
def core() -> RoutingCore:
    return core_of()


def packed(core: RoutingCore, sid: int, seq: int, kind: int = EVENT_KIND_OBSERVATION) -> bytes:
    return core.layout.pack(seq, 1, 0, (1, 2), 0, sid, 0, (0.0, 0.0), (0.0,), kind)


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


def reply(
    core: RoutingCore, events: Records, reject: Sequence[int] = (), applied_seq: int = 0, durable_seq: int = 0
) -> None:
    """The worker's results for events; those at some indices rejected for a gap."""
    results = np.zeros(len(events), core.layout.result_dtype)
    for name in ("tag", "seq", "kind"):
        results[name] = events[name]
    results["status"] = pb.STATUS_APPLIED
    results["applied_seq"] = applied_seq or events["seq"]
    results["durable_seq"] = durable_seq
    rejections = [IndexedRejection(index=at, rejection=pb.Rejection(reason=pb.REASON_SEQ_GAP)) for at in reject]
    core.receive(WORKER, worker_pb2.LinkResults(results=results.tobytes(), rejections=rejections))


def opened_one(core: RoutingCore, outbox: Outbox, feed: int, user_id: str = "ann", wait_durable: bool = True) -> int:
    """A session that the worker has opened."""
    sid = core.open(feed, 0, user_id, "", "", wait_durable)
    answer(core, outbox)
    return sid


def send(core: RoutingCore, outbox: Outbox, sid: int, *seqs: int) -> Records:
    """Send observations; the events as the worker gets them."""
    for seq in seqs:
        core.send(sid, packed(core, sid, seq))
        core.sessions.next_seq[sid] = seq + 1
    return core.layout.events(outbox.take().frame.events)


def close(core: RoutingCore, sid: int) -> None:
    """The feed's own close, as an Exchange stream sends it."""
    event = core.layout.events(packed(core, sid, 0, EVENT_KIND_CLOSE))
    core.send_many(np.array([sid], np.int32), event)


def sent_kinds(core: RoutingCore, outbox: Outbox) -> list[int]:
    return list(core.layout.events(outbox.take().frame.events)["kind"].tolist())


def watermark(core: RoutingCore, *tags_and_seqs: tuple[int, int]) -> None:
    """The worker's watermarks."""
    records = np.zeros(len(tags_and_seqs), WATERMARK)
    records["tag"] = [tag for tag, _ in tags_and_seqs]
    records["durable_seq"] = [seq for _, seq in tags_and_seqs]
    core.receive(WORKER, worker_pb2.LinkResults(watermarks=records.tobytes()))


def end(core: RoutingCore, *tags: int) -> None:
    """The worker gives tags up."""
    frame = worker_pb2.LinkResults()
    for tag in tags:
        frame.ended.add(tag=tag, rejection=pb.Rejection(reason=pb.REASON_NOT_OWNER, message="moved"))
    core.receive(WORKER, frame)


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
    assert core.sessions.num_unanswered(other) == 0
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
    with pytest.raises(Refused, match="worker-0 serves another model than the others' counting: ids"):
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


def test_watermarks_are_asked_for_and_told_to_the_feeds_that_they_concern(core: RoutingCore) -> None:
    outbox = link(core)
    feeds = [Remembering() for _ in range(3)]
    sids = [
        core.open(core.add_feed(feed), 0, f"user-{at}", "", "", wait_durable=at != 1) for at, feed in enumerate(feeds)
    ]
    opens = outbox.take().frame.opens
    assert [request.watermarks for request in opens] == [True, False, True]
    answers = [worker_pb2.LinkTagOpened(tag=sid, applied_seq=9, durable_seq=4) for sid in sids]
    core.receive(WORKER, worker_pb2.LinkResults(opens=answers))
    assert core.sessions.durable_seq[sids].tolist() == [4, 4, 4]
    watermark(core, (sids[2], 6), (sids[0], 5), (sids[2], 7))
    assert [feed.watermarks for feed in feeds] == [[(sids[0], 5)], [], [(sids[2], 6), (sids[2], 7)]]
    assert core.sessions.durable_seq[sids].tolist() == [5, 4, 7]


def test_a_watermark_of_a_tag_that_another_session_has_by_now_is_void(core: RoutingCore) -> None:
    outbox = link(core)
    feed = Remembering()
    number = core.add_feed(feed)
    sid = opened_one(core, outbox, number)
    core.close(sid)
    answer(core, outbox)
    watermark(core, (sid, 5))
    assert core.open(number, 0, "bob", "", "", wait_durable=True) == sid
    watermark(core, (sid, 5))
    assert feed.watermarks == []
    assert int(core.sessions.durable_seq[sid]) == 0


@pytest.mark.parametrize("num_events", [1, 2])
def test_results_raise_what_is_durable_and_never_lower_it(core: RoutingCore, num_events: int) -> None:
    outbox = link(core)
    feed = Remembering()
    sid = opened_one(core, outbox, core.add_feed(feed))
    events = send(core, outbox, sid, 1, 2, 3, 4)
    reply(core, events[:num_events], durable_seq=1)
    assert int(core.sessions.durable_seq[sid]) == 1
    watermark(core, (sid, 3))
    reply(core, events[2 : 2 + num_events], durable_seq=2)
    assert int(core.sessions.durable_seq[sid]) == 3
    assert feed.watermarks == [(sid, 3)]


def test_a_close_that_waits_is_sent_when_all_is_durable(core: RoutingCore) -> None:
    outbox = link(core)
    sid = opened_one(core, outbox, core.add_feed(Remembering()))
    events = send(core, outbox, sid, 1, 2)
    close(core, sid)
    assert core.sessions.state[sid] == SETTLING
    close(core, sid)
    reply(core, events)
    watermark(core, (sid, 1))
    assert sent_kinds(core, outbox) == []
    assert core.links[WORKER].num_in_flight == core.sessions.num_unanswered(sid) == 0
    watermark(core, (sid, 2))
    watermark(core, (sid, 2))
    assert core.sessions.state[sid] == CLOSING
    assert core.links[WORKER].num_in_flight == core.sessions.num_unanswered(sid) == 1
    assert answer(core, outbox)["kind"].tolist() == [EVENT_KIND_CLOSE]
    assert len(core.sessions) == core.links[WORKER].num_in_flight == 0


def test_a_close_does_not_wait_where_nothing_is_at_risk_or_nobody_asked(core: RoutingCore) -> None:
    outbox = link(core)
    number = core.add_feed(Remembering())
    waiting = opened_one(core, outbox, number)
    careless = opened_one(core, outbox, number, "bob", wait_durable=False)
    reply(core, send(core, outbox, waiting, 1))
    reply(core, send(core, outbox, careless, 1))
    watermark(core, (waiting, 1))
    close(core, waiting)
    close(core, careless)
    assert sent_kinds(core, outbox) == [EVENT_KIND_CLOSE] * 2


@pytest.mark.parametrize("num_events", [1, 2])
def test_a_result_that_says_all_is_durable_lets_the_close_go(core: RoutingCore, num_events: int) -> None:
    outbox = link(core)
    sid = opened_one(core, outbox, core.add_feed(Remembering()))
    events = send(core, outbox, sid, *range(1, num_events + 1))
    close(core, sid)
    reply(core, events, durable_seq=num_events)
    assert sent_kinds(core, outbox) == [EVENT_KIND_CLOSE]


def test_a_close_does_not_wait_for_a_seq_that_was_not_consumed(core: RoutingCore) -> None:
    outbox = link(core)
    sid = opened_one(core, outbox, core.add_feed(Remembering()))
    events = send(core, outbox, sid, 1, 2)
    close(core, sid)
    watermark(core, (sid, 1))
    reply(core, events[:1])
    assert sent_kinds(core, outbox) == []
    reply(core, events[1:], reject=[0], applied_seq=1)
    assert sent_kinds(core, outbox) == [EVENT_KIND_CLOSE]


def test_a_feed_that_leaves_waits_no_longer(core: RoutingCore) -> None:
    outbox = link(core)
    number = core.add_feed(Remembering())
    sid = opened_one(core, outbox, number)
    reply(core, send(core, outbox, sid, 1))
    close(core, sid)
    core.remove_feed(number, [sid])
    assert sent_kinds(core, outbox) == [EVENT_KIND_CLOSE]
    watermark(core, (sid, 1))
    assert sent_kinds(core, outbox) == []


@pytest.mark.parametrize("reason", [pb.REASON_OVERLOADED, pb.REASON_SEQ_GAP])
def test_what_was_rejected_unconsumed_is_expected_again(core: RoutingCore, reason: pb.Reason) -> None:
    outbox = link(core)
    sid = opened_one(core, outbox, core.add_feed(Remembering()))
    events = send(core, outbox, sid, 1, 2)
    results = np.zeros(2, core.layout.result_dtype)
    for name in ("tag", "seq", "kind"):
        results[name] = events[name]
    results["status"] = pb.STATUS_REJECTED
    results["applied_seq"] = 1
    whys = [pb.REASON_GRADIENT, reason]
    rejections = [IndexedRejection(index=at, rejection=pb.Rejection(reason=why)) for at, why in enumerate(whys)]
    core.receive(WORKER, worker_pb2.LinkResults(results=results[:1].tobytes(), rejections=rejections[:1]))
    assert int(core.sessions.next_seq[sid]) == 3
    core.receive(WORKER, worker_pb2.LinkResults(results=results.tobytes(), rejections=rejections))
    assert int(core.sessions.next_seq[sid]) == 2


def test_tags_that_the_worker_gave_up_end_and_nothing_is_awaited_of_them(core: RoutingCore) -> None:
    outbox = link(core)
    staying, leaving = Remembering(), Remembering()
    number, gone = core.add_feed(staying), core.add_feed(leaving)
    sids = [opened_one(core, outbox, number, f"user-{at}") for at in range(4)]
    left = opened_one(core, outbox, gone, "dan")
    send(core, outbox, sids[0], 1, 2)
    kept = send(core, outbox, sids[3], 1)
    reply(core, send(core, outbox, sids[1], 1))
    close(core, sids[1])
    core.remove_feed(gone, [left])
    assert sent_kinds(core, outbox) == [EVENT_KIND_CLOSE]
    end(core, sids[0], sids[1], left)
    assert staying.lost == sids[:2]
    assert leaving.lost == []
    assert core.sessions.state[[*sids, left]].tolist() == [FREE, FREE, ACTIVE, ACTIVE, FREE]
    assert core.links[WORKER].num_in_flight == 1
    watermark(core, (sids[1], 1))
    assert sent_kinds(core, outbox) == []
    reply(core, kept)
    assert core.links[WORKER].num_in_flight == 0
    assert len(core.sessions) == 2


def test_a_session_that_takes_the_tag_of_one_given_up_gets_none_of_its_events(core: RoutingCore) -> None:
    outbox = link(core)
    number = core.add_feed(Remembering())
    ann, bob = (opened_one(core, outbox, number, name) for name in ("ann", "bob"))
    why = pb.Rejection(reason=pb.REASON_OUTCOME)
    core.send(ann, packed(core, ann, 1))
    core.send(bob, packed(core, bob, 1, EVENT_KIND_REFUSED), refusal=why)
    core.send(ann, packed(core, ann, 2, EVENT_KIND_REFUSED), refusal=why)
    core.send(bob, packed(core, bob, 2))
    core.send(bob, packed(core, bob, 3, EVENT_KIND_REFUSED), refusal=why)
    end(core, ann)
    assert core.open(number, 0, "cem", "", "") == ann
    core.send(bob, packed(core, bob, 4))
    core.send(ann, packed(core, ann, 1, EVENT_KIND_REFUSED), refusal=why)
    frame = outbox.take().frame
    events = core.layout.events(frame.events)
    assert list(zip(events["tag"].tolist(), events["seq"].tolist(), strict=True)) == [
        (bob, 1),
        (bob, 2),
        (bob, 3),
        (bob, 4),
        (ann, 1),
    ]
    assert [refusal.index for refusal in frame.refusals] == [0, 2, 4]
    assert [request.user_id for request in frame.opens] == ["cem"]
    assert core.links[WORKER].num_in_flight == len(events)


def test_watermarks_of_another_length_are_refused(core: RoutingCore) -> None:
    link(core)
    with pytest.raises(Refused, match="17 bytes are no whole number of 16-byte records"):
        core.receive(WORKER, worker_pb2.LinkResults(watermarks=bytes(17)))
