"""What is kept to be sent again, and what of it a worker is sent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from evercurrent.describe import describe
from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1.columns_pb2 import (
    EVENT_KIND_CLOSE,
    EVENT_KIND_OBSERVATION,
    EVENT_KIND_QUERY,
    EVENT_KIND_REFUSED,
    EVENT_KIND_SKIP,
)
from evercurrent.wire import Layout, Records
from router import replay as replay_module
from router.moves import replay
from router.replay import Kept, ReplayLog
from router.sessions import SessionTable
from tests.toys import Counting

LAYOUT = Layout.of(describe(Counting()))
EVENT_BYTES = LAYOUT.event_dtype.itemsize + 8
WHY = pb.Rejection(reason=pb.REASON_OUTCOME)
OBSERVATION = EVENT_KIND_OBSERVATION


def packed(tag: int, seq: int, kind: int = OBSERVATION, stamp_us: int = 0, timeout_us: int = 0) -> bytes:
    return LAYOUT.pack(seq, 1, stamp_us, (1, 2), 0, tag, timeout_us, (0.0, 0.0), (0.0,), kind)


class Feeding:
    """A table of sessions and the log of what they sent."""

    def __init__(self, events_max: int = 1000, bytes_max: int = 1 << 20) -> None:
        self.table = SessionTable()
        self.log = ReplayLog(self.table, events_max, bytes_max)
        self.log.begin(LAYOUT.event_dtype)

    def open(self) -> int:
        sid = self.table.allocate(feed=1, tag=0, slot=0, limit=1000)
        self.table.activate(sid, 0, 0)
        return sid

    def send(self, sid: int, *seqs: int, kind: int = OBSERVATION, refusal: pb.Rejection | None = None) -> None:
        for seq in seqs:
            self.table.num_sent[sid] += 1
            self.log.add(packed(sid, seq, kind), self.table.num_sent.item(sid), 1, refusal)

    def answer(self, sid: int, num_events: int) -> None:
        self.table.num_answered[sid] += num_events

    def make_durable(self, sid: int, seq: int) -> None:
        self.table.raise_durable(np.array([sid]), np.array([seq], np.uint64))

    def take(self, sid: int) -> Kept | None:
        return self.log.take(np.array([sid])).get(sid)

    def seqs(self, sid: int) -> list[int]:
        kept = self.take(sid)
        return [] if kept is None else kept.records["seq"].tolist()


@pytest.fixture
def feeding() -> Feeding:
    return Feeding()


def test_an_event_is_kept_until_it_is_answered_and_durable(feeding: Feeding) -> None:
    ann, bob = feeding.open(), feeding.open()
    feeding.send(ann, 1, 2, 3)
    feeding.send(bob, 1)
    feeding.send(ann, 4)
    feeding.answer(ann, 3)
    feeding.make_durable(ann, 2)
    feeding.make_durable(bob, 1)
    feeding.log.compact()
    assert len(feeding.log) == 3, "what is durable and not answered has an answer to come"
    assert feeding.seqs(ann) == [3, 4]
    assert len(feeding.log) == 1
    assert feeding.seqs(bob) == [1]
    assert len(feeding.log) == 0


def test_what_consumes_no_seq_is_kept_until_it_is_answered(feeding: Feeding) -> None:
    sid = feeding.open()
    feeding.send(sid, 9, 9, kind=EVENT_KIND_QUERY)
    feeding.send(sid, 0, kind=EVENT_KIND_CLOSE)
    feeding.send(sid, 5, kind=EVENT_KIND_SKIP)
    feeding.answer(sid, 1)
    feeding.log.compact()
    assert len(feeding.log) == 3
    feeding.answer(sid, 3)
    feeding.log.compact()
    assert feeding.seqs(sid) == [5]


def test_events_of_frames_and_lone_ones_are_kept_in_order(feeding: Feeding) -> None:
    ann, bob = feeding.open(), feeding.open()
    feeding.send(ann, 1)
    frame = LAYOUT.events(packed(bob, 1) + packed(ann, 2))
    feeding.log.add_many(frame, np.array([1, 2]))
    feeding.log.add(packed(ann, 3) + packed(ann, 4), 4, 2)
    feeding.table.num_sent[[ann, bob]] = [4, 1]
    kept = feeding.log.take(np.array([ann, bob]))
    assert kept[ann].records["seq"].tolist() == [1, 2, 3, 4]
    assert kept[ann].ordinals.tolist() == [1, 2, 3, 4]
    assert kept[bob].records["seq"].tolist() == [1]


def test_the_log_is_looked_through_when_it_has_doubled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_module, "COMPACT_MIN", 4)
    feeding = Feeding()
    sid = feeding.open()
    feeding.send(sid, 1, 2, 3)
    feeding.answer(sid, 3)
    feeding.make_durable(sid, 2)
    assert len(feeding.log) == 3
    feeding.send(sid, 4)
    assert len(feeding.log) == 2
    feeding.send(sid, 5, 6)
    assert len(feeding.log) == 4
    feeding.send(sid, 7, 8, 9, 10)
    assert len(feeding.log) == 8, "it is looked through at twice of what was left"


def test_a_sid_that_is_given_away_has_nothing_of_whoever_had_it(feeding: Feeding) -> None:
    sid = feeding.open()
    feeding.send(sid, 1, 2, kind=EVENT_KIND_REFUSED, refusal=WHY)
    feeding.log.forget(sid)
    feeding.table.free(sid)
    feeding.log.compact()
    assert len(feeding.log) == 0, "not even as long as nobody has the sid"
    feeding.send(sid, 3)
    feeding.table.free(sid)
    feeding.table._free.pop()
    assert feeding.open() == sid
    feeding.send(sid, 1)
    kept = feeding.take(sid)
    assert kept is not None
    assert (kept.records["seq"].tolist(), kept.ordinals.tolist(), kept.refusals) == ([1], [4], {})


def test_refusals_are_kept_with_their_events(feeding: Feeding) -> None:
    sid = feeding.open()
    feeding.send(sid, 1)
    feeding.send(sid, 2, kind=EVENT_KIND_REFUSED, refusal=WHY)
    feeding.send(sid, 3)
    kept = feeding.take(sid)
    assert kept is not None
    assert kept.refusals == {2: WHY}
    feeding.log.add_kept(kept)
    again = feeding.take(sid)
    assert again is not None
    assert again.refusals == {2: WHY}
    feeding.log.forget(sid)
    assert again.records["seq"].tolist() == [1, 2, 3]
    feeding.log.add_kept(again)
    held = feeding.take(sid)
    assert held is not None
    assert held.refusals == {2: WHY}, "also of what was held and never sent before"
    feeding.log.add_kept(held)
    feeding.answer(sid, 2)
    feeding.log.compact()
    late = feeding.take(sid)
    assert late is not None
    assert late.refusals == {}, "who was refused knows why"
    assert late.records["seq"].tolist() == [1, 2, 3]


def test_what_did_not_consume_its_seq_is_not_sent_again(feeding: Feeding) -> None:
    sid = feeding.open()
    feeding.send(sid, 1, 2, 3)
    feeding.answer(sid, 3)
    feeding.log.not_consumed(sid, 3)
    feeding.send(sid, 3)
    kept = feeding.take(sid)
    assert kept is not None
    assert kept.ordinals.tolist() == [1, 2, 4], "the other that came with its seq is"


def test_what_was_too_late_has_no_effect_when_it_is_sent_again(feeding: Feeding) -> None:
    sid = feeding.open()
    feeding.send(sid, 1, 2)
    feeding.answer(sid, 1)
    feeding.log.expired(sid, 1)
    kept = feeding.take(sid)
    assert kept is not None
    assert kept.records["kind"].tolist() == [EVENT_KIND_REFUSED, OBSERVATION]


@pytest.mark.parametrize("bounds", [(8, 1 << 20), (1000, 8 * EVENT_BYTES)], ids=["events", "bytes"])
def test_a_full_log_gives_up_the_oldest_that_are_answered(bounds: tuple[int, int]) -> None:
    feeding = Feeding(*bounds)
    ann, bob = feeding.open(), feeding.open()
    feeding.send(ann, 1)
    feeding.send(bob, 1, 2, 3, 4)
    feeding.answer(bob, 3)
    feeding.send(ann, 2, 3, 4)
    assert (len(feeding.log), feeding.log.num_dropped) == (8, 0)
    assert feeding.log.num_bytes == 8 * EVENT_BYTES
    feeding.send(ann, 5)
    assert (len(feeding.log), feeding.log.num_dropped) == (6, 3)
    assert feeding.seqs(bob) == [4]
    assert feeding.seqs(ann) == [1, 2, 3, 4, 5]


def test_what_has_no_answer_is_never_given_up() -> None:
    feeding = Feeding(events_max=2)
    sid = feeding.open()
    feeding.send(sid, 1, 2, 3, 4)
    assert (len(feeding.log), feeding.log.num_dropped) == (4, 0)


def test_a_log_is_full_until_more_is_durable() -> None:
    feeding = Feeding(events_max=3)
    sid = feeding.open()
    feeding.send(sid, 1, 2)
    assert not feeding.log.is_full
    feeding.send(sid, 3)
    feeding.answer(sid, 3)
    assert feeding.log.is_full
    feeding.make_durable(sid, 1)
    assert not feeding.log.is_full
    assert (len(feeding.log), feeding.log.num_dropped) == (2, 0)


def kept_of(*events: tuple[int, int], first_ordinal: int = 1, refusals: dict[int, pb.Rejection] | None = None) -> Kept:
    """Events of sid 7, each a seq and a kind."""
    records = LAYOUT.events(b"".join(packed(7, seq, kind) for seq, kind in events))
    return Kept(records, np.arange(first_ordinal, first_ordinal + len(events)), refusals or {})


def observations(*seqs: int) -> Kept:
    return kept_of(*((seq, OBSERVATION) for seq in seqs))


def told(records: Records) -> list[tuple[int, int]]:
    assert (records["tag"] == 7).all()
    return list(zip(records["seq"].tolist(), records["kind"].tolist(), strict=True))


def seen(seqs: Sequence[int]) -> list[tuple[int, int]]:
    return [(seq, OBSERVATION) for seq in seqs]


@pytest.mark.parametrize(
    ("applied_seq", "sent", "num_muted"),
    [(2, [3, 4, 5, 6], 2), (4, [5, 6], 0), (5, [5, 6], 0), (6, [5, 6], 0)],
)
def test_a_worker_is_sent_what_it_lacks_and_what_has_no_answer(
    applied_seq: int, sent: list[int], num_muted: int
) -> None:
    plan = replay(7, observations(3, 4, 5, 6), 2, 7, applied_seq, 0)
    assert told(plan.sent.records) == seen(sent)
    assert (plan.num_muted, plan.missing) == (num_muted, None)
    assert plan.stays.records["seq"].tolist() == [3, 4, 5, 6], "the next worker may lack more"
    assert plan.last_seq == 6


def test_of_what_was_answered_only_what_consumes_is_sent_again() -> None:
    kept = kept_of((0, EVENT_KIND_QUERY), (1, OBSERVATION), (0, EVENT_KIND_QUERY), (0, EVENT_KIND_CLOSE))
    plan = replay(7, kept, 2, 2, 0, 0)
    assert told(plan.sent.records) == [(1, OBSERVATION), (0, EVENT_KIND_QUERY), (0, EVENT_KIND_CLOSE)]
    assert plan.sent.ordinals.tolist() == [2, 3, 4]
    assert plan.num_muted == 1


def test_the_time_of_what_was_answered_is_not_over_and_that_of_the_others_goes_on() -> None:
    raw = b"".join(packed(7, seq, stamp_us=100, timeout_us=timeout) for seq, timeout in enumerate((50, 0, 50, 20), 1))
    kept = Kept(LAYOUT.events(raw), np.arange(1, 5))
    plan = replay(7, kept, 1, 5, 0, 130)
    assert plan.sent.records["timeout_us"].tolist() == [0, 0, 20, 1]
    assert plan.stays.records["timeout_us"].tolist() == [50, 0, 50, 20], "the next one reckons from the same stamp"


def test_gaps_are_skipped_before_what_comes_after_them() -> None:
    plan = replay(7, observations(4, 5, 8, 11), 3, 12, 1, 0)
    skip = EVENT_KIND_SKIP
    assert told(plan.sent.records) == [(3, skip), *seen([4, 5]), (7, skip), (8, OBSERVATION), (10, skip), *seen([11])]
    assert (plan.num_muted, plan.missing) == (6, (2, 3))
    assert plan.stays.records["seq"].tolist() == [4, 5, 8, 11]


def test_what_a_feed_would_go_on_after_is_skipped_if_nothing_is_kept() -> None:
    plan = replay(7, observations(), 0, 6, 2, 0)
    assert told(plan.sent.records) == [(5, EVENT_KIND_SKIP)]
    assert (plan.num_muted, plan.missing) == (1, (3, 5))
    assert replay(7, observations(), 0, 3, 2, 0).missing is None


def test_nothing_is_skipped_where_nobody_goes_on() -> None:
    plan = replay(7, observations(4), 1, 0, 3, 0)
    assert (told(plan.sent.records), plan.missing) == (seen([4]), None)
    assert replay(7, observations(), 0, 0, 3, 0).missing is None


@pytest.mark.parametrize("num_answered", [0, 1])
def test_a_skip_bridges_any_gap(num_answered: int) -> None:
    plan = replay(7, kept_of((9, EVENT_KIND_SKIP), (10, OBSERVATION)), num_answered, 11, 2, 0)
    assert told(plan.sent.records) == [(9, EVENT_KIND_SKIP), (10, OBSERVATION)]
    assert (plan.num_muted, plan.missing) == (num_answered, None)


def test_what_came_twice_is_sent_twice_and_is_no_gap() -> None:
    plan = replay(7, observations(4, 5, 4, 5, 6), 4, 7, 3, 0)
    assert told(plan.sent.records) == seen([4, 5, 4, 5, 6])
    assert plan.missing is None
    assert plan.last_muted_seq == 5


def test_who_was_told_nothing_yet_goes_on_where_the_worker_is() -> None:
    whole = replay(7, observations(4, 5), 2, None, 3, 0)
    assert (told(whole.sent.records), whole.missing, whole.last_muted_seq) == (seen([4, 5]), None, 5)
    torn = replay(7, observations(4, 6, 9), 2, None, 3, 0)
    assert told(torn.sent.records) == seen([4, 9]), "9 has no answer: the worker judges it"
    assert (torn.num_muted, torn.missing, torn.last_muted_seq) == (1, None, 4)
    assert torn.stays.records["seq"].tolist() == [4, 9], "6 can follow nothing any more"


def test_refusals_go_along() -> None:
    kept = kept_of((1, EVENT_KIND_REFUSED), (2, EVENT_KIND_REFUSED), refusals={2: WHY})
    plan = replay(7, kept, 1, 3, 0, 0)
    assert plan.sent.refusals == plan.stays.refusals == {2: WHY}
    assert plan.sent.ordinals.tolist() == [1, 2]
