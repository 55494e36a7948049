"""The feed by value, and against a simulated service that does all that a service may do."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evercurrent.client.feed import Budget, Feed, Overtaken
from evercurrent.client.requests import Message
from evercurrent.client.results import Rejection, Result, Status
from evercurrent.v1 import observation_pb2 as pb
from tests.client.simulated import OVERLOADED, SEQ_GAP, TOO_LARGE, Router, Worker


def new_feed(keeps: bool = True, window: int = 100, resumed: bool = False) -> Feed:
    return Feed(Budget(1000, 1 << 20), keeps=keeps, window=window, resumed=resumed)


def observe(feed: Feed, *deeds: int) -> None:
    for deed in deeds:
        feed.observe(pb.Observation(ids=[deed]), 10)


def taken(feed: Feed) -> list[str]:
    """All that is to be written now, in short."""
    texts = []
    while (message := feed.take()) is not None:
        texts.append(in_short(message))
    return texts


def in_short(message: Message) -> str:
    if isinstance(message, pb.Observation):
        return f"{message.seq}"
    if isinstance(message, pb.Query):
        return f"?{message.query_id}"
    return f"skip {getattr(message, 'from')}-{message.to}"


def applied(seq: int, durable_seq: int = 0) -> Result:
    return Result(seq, Status.APPLIED, applied_seq=seq, durable_seq=durable_seq)


def refused(seq: int, applied_seq: int, why: Rejection) -> Result:
    return Result(seq, Status.REJECTED, applied_seq=applied_seq, rejection=why)


def opened(*deeds: int, **more: bool) -> Feed:
    """A feed whose stream is open, and that has sent observations."""
    feed = new_feed(**more)
    feed.opened(0, 0)
    observe(feed, *deeds)
    taken(feed)
    return feed


def test_nothing_is_sent_before_the_stream_is_open() -> None:
    feed = new_feed()
    observe(feed, 5, 6)
    assert taken(feed) == []
    assert feed.opened(0, 0) == []
    assert taken(feed) == ["1", "2"]


def test_a_query_is_sent_after_the_observations_before_it() -> None:
    feed = new_feed()
    observe(feed, 5)
    feed.ask(pb.Query(candidates=[pb.Candidate()]))
    observe(feed, 6)
    feed.opened(0, 0)
    assert taken(feed) == ["1", "?1", "2"]


def test_what_is_durable_is_kept_no_more() -> None:
    feed = opened(5, 6, 7)
    for seq in (1, 2, 3):
        feed.result(applied(seq))
    assert (feed.num_kept, feed.at_risk, feed.is_settled) == (3, 0, False)
    feed.watermark(2)
    assert (feed.num_kept, feed.budget.num_events, feed.budget.num_bytes) == (1, 1, 10)
    feed.watermark(3)
    assert (feed.num_kept, feed.budget.num_bytes, feed.is_settled) == (0, 0, True)


def test_without_a_store_only_what_is_unanswered_is_kept() -> None:
    feed = opened(5, 6, keeps=False)
    feed.result(applied(1))
    assert feed.num_kept == 1
    feed.result(applied(2))
    assert (feed.num_kept, feed.is_settled) == (0, True)


def test_after_a_break_lost_replies_are_duplicates_and_the_rest_is_sent_again() -> None:
    feed = opened(5, 6, 7, 8)
    feed.result(applied(1))
    feed.left()
    told = feed.opened(2, 1)
    assert [(result.seq, result.status) for result in told] == [(2, Status.DUPLICATE)]
    assert taken(feed) == ["3", "4"]


def test_answers_to_what_was_answered_before_are_swallowed() -> None:
    feed = opened(5, 6)
    assert feed.result(applied(1)) is not None
    assert feed.result(applied(2)) is not None
    feed.left()
    assert feed.opened(0, 0) == []
    assert taken(feed) == ["1", "2"]
    assert feed.result(applied(1)) is None
    assert feed.result(applied(2)) is None


def test_what_is_no_longer_kept_is_skipped() -> None:
    feed = opened(5, 6, 7)
    for seq in (1, 2, 3):
        feed.result(applied(seq))
    assert feed.give_up_oldest()
    assert feed.give_up_oldest()
    assert feed.at_risk == 2
    feed.left()
    feed.opened(0, 0)
    assert taken(feed) == ["skip 1-2", "3"]
    feed.result(Result(2, Status.SKIPPED, applied_seq=2, lost=2))
    assert feed.lost == 2


def test_what_is_not_answered_is_not_given_up() -> None:
    feed = opened(5)
    assert not feed.give_up_oldest()


def test_a_refusal_that_consumes_nothing_goes_back_when_all_is_answered() -> None:
    feed = opened(5, 6, 7)
    assert feed.result(refused(2, 1, OVERLOADED)) is None
    observe(feed, 8)
    assert taken(feed) == []
    assert not feed.is_drained
    assert feed.result(applied(1)) is not None
    assert feed.result(refused(3, 1, SEQ_GAP)) is None
    assert feed.is_drained
    assert feed.retry_after_ms == OVERLOADED.retry_after_ms
    feed.rewind()
    assert taken(feed) == ["2", "3", "4"]


def test_a_query_behind_a_refusal_is_asked_again() -> None:
    feed = opened(5)
    query_id = feed.ask(pb.Query(candidates=[pb.Candidate()]))
    assert taken(feed) == ["?1"]
    feed.result(refused(1, 0, OVERLOADED))
    assert not feed.answered(query_id, None)
    feed.rewind()
    assert taken(feed) == ["1", "?1"]
    feed.result(applied(1))
    assert feed.answered(query_id, None)


def test_a_query_whose_reply_was_lost_is_asked_again() -> None:
    feed = opened(5)
    feed.ask(pb.Query(candidates=[pb.Candidate()]))
    assert taken(feed) == ["?1"]
    feed.left()
    feed.opened(1, 0)
    assert taken(feed) == ["?1"]


def test_a_refusal_that_consumes_its_seq_is_a_result() -> None:
    feed = opened(5, 6)
    told = feed.result(refused(1, 1, Rejection("OUTCOME")))
    assert told is not None
    assert told.rejected
    assert not feed.is_rewinding


def test_what_is_refused_unnamed_is_found_out_and_skipped() -> None:
    feed = opened(5, 6, 7)
    feed.refused_unnamed(TOO_LARGE)
    feed.result(applied(1))
    assert not feed.is_drained
    feed.result(refused(3, 1, SEQ_GAP))
    assert feed.is_drained
    refusals = feed.rewind()
    assert [(result.seq, result.rejection) for result in refusals.results] == [(2, TOO_LARGE)]
    assert taken(feed) == ["skip 2-2", "3"]


def test_a_seq_that_another_stream_delivered_is_a_duplicate() -> None:
    feed = opened(5)
    told = feed.result(refused(1, 1, Rejection("SEQ_REGRESSION")))
    assert told is not None
    assert told.duplicate


def test_more_consumed_than_sent_is_somebody_elses() -> None:
    feed = opened(5, 6)
    feed.left()
    with pytest.raises(Overtaken):
        feed.opened(3, 0)


def test_a_resumed_feed_begins_where_the_service_is() -> None:
    feed = new_feed(resumed=True)
    feed.opened(7, 5)
    assert feed.at_risk == 2
    observe(feed, 5)
    assert taken(feed) == ["8"]


def test_a_stream_takes_no_more_than_its_window() -> None:
    feed = opened(5, 6, 7, window=2)  # type: ignore[arg-type]
    assert feed.num_under_way == 2
    feed.result(applied(1))
    assert taken(feed) == ["3"]


ACTIONS = [0, 0, 1, 2, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 9, 10, 11, 12]
"""Weighed so that much is under way when something breaks."""

ROUNDS_MAX = 5000
"""Enough to finish what 200 actions began."""


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_whatever_happens_all_is_applied_once_in_order_and_answered_once(data: st.DataObject) -> None:
    """Nothing is given up here; so all that was observed is learned, except what was refused for good."""
    worker = Worker()
    router = Router(worker, large=data.draw(st.sampled_from([0, 5])))
    feed = new_feed(data.draw(st.booleans()), window=data.draw(st.integers(1, 8)))
    results: dict[int, Result] = {}
    seen: dict[int, int] = {}
    observed_before: dict[int, int] = {}

    def note(told: Result | tuple[int, int] | None) -> None:
        if isinstance(told, Result):
            assert told.seq not in results
            results[told.seq] = told
        elif told is not None:
            query_id, state = told
            assert query_id not in seen
            seen[query_id] = state
            refused_before = sum(
                1 for seq, result in results.items() if result.rejected and seq <= observed_before[query_id]
            )
            assert state >= observed_before[query_id] - refused_before

    def act(action: int, calm: bool) -> None:
        if action == 0:
            observe(feed, feed.last_seq % 1000)
        elif action == 1:
            observed_before[feed.ask(pb.Query(candidates=[pb.Candidate()]))] = feed.last_seq
        elif action == 2 and (message := feed.take()) is not None:
            router.take(message, None if calm else data.draw(st.sampled_from([None, None, OVERLOADED])))
        elif action == 3 and router.admitted:
            router.work()
        elif action == 4 and router.replies:
            note(router.replies.popleft()(feed))
        elif action == 5 and router.own_replies:
            note(router.own_replies.popleft()(feed))
        elif action == 6 and feed.is_drained:
            refusals_found = feed.rewind()
            for result in refusals_found.results:
                note(result)
        elif action == 7 and not feed.is_open:
            for result in router.open(feed):
                note(result)
        elif action == 8:
            worker.durable_seq = worker.last_seq
        elif action == 9 and feed.is_open:
            feed.watermark(worker.durable_seq)
        elif action == 10 and router.late:
            worker.apply(router.late.popleft())
        elif action == 11:
            router.leave(feed)
        elif action == 12:
            router.leave(feed)
            router.late.clear()
            if feed.keeps:
                worker.die()

    for action in data.draw(st.lists(st.sampled_from(ACTIONS), min_size=100, max_size=200)):
        act(action, calm=False)
    for _ in range(ROUNDS_MAX):
        if feed.is_settled and not router.late:
            break
        for action in (7, 10, 2, 3, 4, 5, 6, 8, 9):
            act(action, calm=True)

    assert feed.is_settled, "it makes no progress"
    refused_seqs = {seq for seq, result in results.items() if result.rejected}
    assert worker.seqs == [seq for seq in range(1, feed.last_seq + 1) if seq not in refused_seqs]
    assert worker.learned == [(seq - 1) % 1000 for seq in worker.seqs]
    assert results.keys() == set(range(1, feed.last_seq + 1))
    assert seen.keys() == observed_before.keys()
    assert (feed.num_kept, feed.budget.num_events, feed.budget.num_bytes) == (0, 0, 0)
    assert refused_seqs == {seq for seq in results if router.is_large(seq)}
