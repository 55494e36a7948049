"""What the engine does with links that end, tags that close, models that fail and routers that err."""

from __future__ import annotations

import itertools
import logging

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from ulid import ULID

from evercurrent.errors import Refused, refused
from evercurrent.model import Batch, Model
from evercurrent.slots import NUM_SLOTS
from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1.columns_pb2 import (
    EVENT_KIND_CLOSE,
    EVENT_KIND_OBSERVATION,
    EVENT_KIND_QUERY,
    EVENT_KIND_REFUSED,
    EVENT_KIND_SKIP,
    IndexedRejection,
)
from evercurrent.v1.worker_pb2 import LinkTagOpen, LinkTagOpened
from evercurrent.wire import Event
from tests.toys import HUGE_GRADIENT, HUGE_STATE, NAN_LOSS, RAISE, Choosing, Counting, Following
from tests.worker.playing import Played
from worker.arrivals import ASIDE_MAX
from worker.engine import Engine
from worker.residents import DIRTY
from worker.sessions import SESSIONS_PER_USER


def new_engine(model: Model | None = None, residents_max: int = 100, batch_max: int = 64) -> Played:
    return Played(model or Counting(), residents_max, batch_max, itertools.count().__next__)


def open_tag(engine: Engine, link: int, tag: int, user: str, session_id: str = "") -> LinkTagOpened:
    opened = engine.open(link, LinkTagOpen(tag=tag, user_id=user, session_id=session_id), user)
    assert opened is not None
    return opened


def event(
    tag: int, seq: int = 0, kind: int = EVENT_KIND_OBSERVATION, deed: int = 1, timeout_us: int = 0, outcome: float = 0.5
) -> Event:
    return Event(seq, 1, 0, (deed, 2), 0, tag, timeout_us, (0.5, -1.0), (outcome,), kind)


def receive(engine: Played, link: int, *events: Event) -> None:
    engine.take(link, b"".join(engine.layout.pack(*one) for one in events))


def drain(engine: Played) -> list[tuple[int, np.void, int]]:
    """All results as (link, record, reason)."""
    found = []
    for results in engine.answers():
        reasons = {indexed.index: indexed.rejection.reason for indexed in results.rejections}
        found += [(results.link, record, reasons.get(at, 0)) for at, record in enumerate(results.records)]
    return found


def row_of(engine: Engine, user: str) -> NDArray[np.float32]:
    row = engine.slab.find(user)
    assert row is not None
    state_D: NDArray[np.float32] = engine.slab.state[row].copy()
    return state_D


@pytest.mark.parametrize("deed", [NAN_LOSS, HUGE_GRADIENT, HUGE_STATE, RAISE])
@pytest.mark.parametrize("neighbours", [0, 1, 5])
def test_a_refused_update_leaves_its_row_bit_for_bit_and_harms_nobody(deed: int, neighbours: int) -> None:
    engine, alone = new_engine(), new_engine()
    for tested in (engine, alone):
        link = tested.open_link()
        for tag in range(neighbours + 1):
            open_tag(tested, link, tag, f"user-{tag}")
        receive(tested, link, *[event(tag) for tag in range(neighbours + 1)])
        drain(tested)
    before = row_of(engine, "user-0").tobytes()
    receive(engine, 1, event(0, deed=deed), *[event(tag) for tag in range(1, neighbours + 1)])
    reasons = [reason for _, _, reason in drain(engine)]
    assert reasons[0] in (
        pb.REASON_LOSS_NOT_FINITE,
        pb.REASON_GRADIENT,
        pb.REASON_STATE,
        pb.REASON_MODEL_ERROR,
    )
    assert reasons[1:] == [0] * neighbours
    assert row_of(engine, "user-0").tobytes() == before
    for tag in range(1, neighbours + 1):
        receive(alone, 1, event(tag))
        drain(alone)
        np.testing.assert_allclose(row_of(engine, f"user-{tag}"), row_of(alone, f"user-{tag}"), rtol=1e-5)


def test_one_of_many_that_makes_the_model_raise_costs_few_runs(caplog: pytest.LogCaptureFixture) -> None:
    class Tallying(Counting):
        num_runs = 0

        def predict(self, state_BD: Tensor, batch: Batch) -> Tensor:
            type(self).num_runs += 1
            return super().predict(state_BD, batch)

    engine = new_engine(Tallying())
    link = engine.open_link()
    for tag in range(64):
        open_tag(engine, link, tag, f"user-{tag}")
    Tallying.num_runs = 0
    with caplog.at_level(logging.CRITICAL):
        receive(engine, link, *[event(tag, deed=RAISE if tag == 40 else 1) for tag in range(64)])
        found = drain(engine)
    assert [int(record["tag"]) for _, record, reason in found if reason] == [40]
    assert Tallying.num_runs <= 1 + 2 * 6


def test_a_query_answers_from_the_state_after_the_observation_before_it_and_before_the_one_after() -> None:
    engine = new_engine()
    link = engine.open_link()
    open_tag(engine, link, 0, "ann", str(ULID.from_int(1)))
    query = event(0, kind=EVENT_KIND_QUERY)
    receive(engine, link, query, event(0, 1), query, query, event(0, 2), query)
    records = [record for _, record, _ in drain(engine)]
    assert [int(record["version"]) for record in records] == [0, 1, 1, 1, 2, 2]
    assert [int(record["applied_seq"]) for record in records] == [0, 1, 1, 1, 2, 2]
    hashes = [float(record["prediction"][0]) for record in records]
    assert hashes[0] == hashes[1] == 0
    assert hashes[2] == hashes[3] == hashes[4] != hashes[5]


def test_a_close_that_waits_when_its_link_ends_is_not_done_twice() -> None:
    engine = new_engine()
    link = engine.open_link()
    for tag in range(3):
        open_tag(engine, link, tag, f"user-{tag}")
    receive(engine, link, event(0), event(1), event(1, kind=EVENT_KIND_CLOSE))
    engine.close_link(link)
    drain(engine)
    assert engine.num_tags == 0
    assert engine.slab.num_tags[1:].tolist() == [0] * 100
    assert sorted(engine.slab) == ["user-0", "user-1"]


def test_a_second_close_in_one_frame_finds_nothing() -> None:
    engine = new_engine()
    link = engine.open_link()
    open_tag(engine, link, 0, "ann")
    open_tag(engine, link, 1, "ann")
    receive(engine, link, event(0, kind=EVENT_KIND_CLOSE), event(0, kind=EVENT_KIND_CLOSE))
    assert [int(record["status"]) for _, record, _ in drain(engine)] == [pb.STATUS_CLOSED] * 2
    assert len(engine.slab) == 1


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("kind", [EVENT_KIND_OBSERVATION, EVENT_KIND_QUERY, EVENT_KIND_SKIP])
def test_what_comes_after_a_close_in_one_frame_is_nobodys(kind: int, waits: bool) -> None:
    engine = new_engine(batch_max=1)
    link, other = engine.open_link(), engine.open_link()
    if waits:
        open_later(engine, link, 0, "ann", str(ULID.from_int(5)))
        receive(engine, link, event(0, kind=EVENT_KIND_CLOSE))
        receive(engine, link, event(0, 9, kind=kind))
        engine.host.away.clear()
        engine.user_ready("ann")
    else:
        open_tag(engine, link, 0, "ann", str(ULID.from_int(5)))
        receive(engine, link, event(0, kind=EVENT_KIND_CLOSE), event(0, 9, kind=kind))
    ann = engine.slab.find("ann")
    assert [int(result.records["status"][0]) for result in engine.step()] == [pb.STATUS_CLOSED]
    opened = open_tag(engine, other, 0, "bob", str(ULID.from_int(6)))
    assert (engine.slab.find("ann"), engine.slab.find("bob"), opened.applied_seq) == (None, ann, 0)
    assert [reason for _, _, reason in drain(engine)] == [pb.REASON_TAG]
    assert engine.slab.version[ann] == 0
    receive(engine, other, event(0, 1))
    assert [int(record["status"]) for _, record, _ in drain(engine)] == [pb.STATUS_APPLIED]


def test_closes_of_several_tags_in_one_frame_end_each_its_own() -> None:
    engine = new_engine()
    link = engine.open_link()
    for tag in (3, 7, 9):
        open_tag(engine, link, tag, f"user-{tag}")
    close = EVENT_KIND_CLOSE
    frame = [event(9), event(7, kind=close), event(3), event(7), event(3, kind=close), event(7, kind=close), event(9)]
    receive(engine, link, *frame, event(3), event(5, kind=close))
    found = sorted((int(record["tag"]), int(record["status"]), reason) for _, record, reason in drain(engine))
    applied, closed, rejected = pb.STATUS_APPLIED, pb.STATUS_CLOSED, pb.STATUS_REJECTED
    tag = pb.REASON_TAG
    assert found == [
        *[(3, applied, 0), (3, rejected, tag), (3, closed, 0), (5, closed, 0)],
        *[(7, rejected, tag), (7, closed, 0), (7, closed, 0), (9, applied, 0), (9, applied, 0)],
    ]
    assert engine.num_tags == 1


def test_what_a_link_sent_before_it_ended_is_learned() -> None:
    engine = new_engine(batch_max=1)
    link = engine.open_link()
    open_tag(engine, link, 0, "ann", str(ULID.from_int(5)))
    receive(engine, link, *[event(0, seq) for seq in (1, 2, 3)])
    engine.close_link(link)
    drain(engine)
    again = open_tag(engine, engine.open_link(), 0, "ann", str(ULID.from_int(5)))
    assert (again.applied_seq, again.version) == (3, 3)


def test_who_learned_nothing_leaves_with_the_last_feed() -> None:
    engine = new_engine(residents_max=1)
    link = engine.open_link()
    open_tag(engine, link, 0, "ann")
    open_tag(engine, link, 1, "ann")
    receive(engine, link, event(0, kind=EVENT_KIND_CLOSE))
    drain(engine)
    assert open_tag(engine, link, 2, "bob").rejection.reason == pb.REASON_OVERLOADED
    receive(engine, link, event(1, kind=EVENT_KIND_QUERY), event(1, kind=EVENT_KIND_CLOSE))
    drain(engine)
    assert len(engine.slab) == len(engine.sessions) == 0
    assert not open_tag(engine, link, 2, "bob").HasField("rejection")


def test_a_full_worker_serves_its_residents_and_refuses_others() -> None:
    engine = new_engine(residents_max=2)
    link = engine.open_link()
    for tag, user in enumerate(("ann", "bob")):
        open_tag(engine, link, tag, user)
    refused = open_tag(engine, link, 2, "cid")
    assert refused.rejection.reason == pb.REASON_OVERLOADED
    assert refused.rejection.retry_after_ms > 0
    receive(engine, link, event(0), event(1), event(2))
    found = drain(engine)
    assert sorted((int(record["tag"]), reason) for _, record, reason in found) == [(0, 0), (1, 0), (2, pb.REASON_TAG)]


def test_a_refused_session_changes_nothing_for_the_others() -> None:
    engine = new_engine()
    link = engine.open_link()
    for tag in range(SESSIONS_PER_USER):
        open_tag(engine, link, tag, "ann", str(ULID.from_int(100 + tag)))
    assert open_tag(engine, link, 50, "ann", str(ULID.from_int(200))).rejection.reason == pb.REASON_OVERLOADED
    assert engine.num_tags == SESSIONS_PER_USER
    assert not open_tag(engine, link, 50, "bob", str(ULID.from_int(0))).HasField("rejection")
    assert len(engine.slab) == 2


def test_an_expired_observation_consumes_its_seq() -> None:
    engine = new_engine()
    link = engine.open_link()
    open_tag(engine, link, 0, "ann", str(ULID.from_int(1)))
    receive(engine, link, event(0, 1, timeout_us=1), event(0, 2, timeout_us=1_000_000))
    found = drain(engine)
    assert [reason for _, _, reason in found] == [pb.REASON_DEADLINE, 0]
    assert [int(record["applied_seq"]) for _, record, _ in found] == [1, 2]
    assert [int(record["version"]) for _, record, _ in found] == [0, 1]


def test_events_of_tags_unknown_wait_for_nobody() -> None:
    engine = new_engine()
    link = engine.open_link()
    open_tag(engine, link, 0, "ann")
    receive(engine, link, *[event(9)] * 5, event(0), event(1 << 31))
    records = engine.step()[0].records
    assert len(records) == 7
    assert engine.num_waiting == 0


def test_a_refusal_that_names_no_event_ends_the_link_and_one_unsaid_is_answered() -> None:
    engine = new_engine()
    link = engine.open_link()
    open_tag(engine, link, 0, "ann")
    packed = engine.layout.events(engine.layout.pack(*event(0, kind=EVENT_KIND_REFUSED)))
    with pytest.raises(Refused, match="names no event"):
        engine.receive(link, packed, [IndexedRejection(index=1)])
    engine.receive(link, packed, ())
    assert [reason for _, _, reason in drain(engine)] == [pb.REASON_PROTOCOL]


def test_a_tag_in_use_is_refused() -> None:
    engine = new_engine()
    link = engine.open_link()
    open_tag(engine, link, 0, "ann")
    with pytest.raises(Refused, match="0 is in use"):
        open_tag(engine, link, 0, "bob")
    assert list(engine.slab) == ["ann"]


def test_a_model_of_other_shapes_than_it_declares_is_refused_at_start() -> None:
    class Narrow(Counting):
        prediction_width = 3

    with pytest.raises(ValueError, match=r"counting: update gives prediction_BP of shape \(1, 2\), expected \(1, 3\)"):
        new_engine(Narrow())


def test_choices_and_vectors_are_learned_from() -> None:
    def updated(model: Model, *events: Event) -> NDArray[np.float32]:
        engine = new_engine(model)
        link = engine.open_link()
        for tag in range(len(events)):
            open_tag(engine, link, tag, f"user-{tag}")
        receive(engine, link, *events)
        assert [reason for *_, reason in drain(engine)] == [0] * len(events)
        return engine.slab.state[1 : 1 + len(events)]

    choice = [Event(0, 1, 0, (), chosen, chosen, 0, (0.5,), (), EVENT_KIND_OBSERVATION) for chosen in range(3)]
    many = updated(Choosing(), *choice)
    for chosen in range(3):
        assert many[chosen].argmax() == chosen
        lone = updated(Choosing(), choice[chosen]._replace(tag=0))
        np.testing.assert_allclose(lone[0], many[chosen], rtol=1e-5)
    vector = [Event(0, 1, 0, (at,), 0, at, 0, (), (1.0, -0.5), EVENT_KIND_OBSERVATION) for at in range(3)]
    many = updated(Following(), *vector)
    for at in range(3):
        expected = torch.zeros(3, 2)
        expected[at] = torch.tensor([0.2, -0.1])
        np.testing.assert_allclose(many[at].reshape(3, 2), expected, rtol=1e-5)
        lone = updated(Following(), vector[at]._replace(tag=0))
        np.testing.assert_allclose(lone[0], many[at], rtol=1e-5)


def open_later(engine: Played, link: int, tag: int, user: str, session_id: str = "") -> None:
    """Open a tag of a user who is not here yet."""
    engine.host.away.add(user)
    assert engine.open(link, LinkTagOpen(tag=tag, user_id=user, session_id=session_id), user) is None


def test_events_of_a_user_on_the_way_wait_and_hold_up_nobody() -> None:
    engine = new_engine()
    link = engine.open_link()
    open_later(engine, link, 0, "ann", str(ULID.from_int(1)))
    open_tag(engine, link, 1, "bob")
    receive(engine, link, event(0, 1), event(1), event(0, 2))
    receive(engine, link, event(0, 3))
    assert [int(record["tag"]) for _, record, _ in drain(engine)] == [1]
    engine.host.away.clear()
    engine.user_ready("ann")
    assert [(at, answer.tag) for at, answer in engine.told.opened_tags] == [(link, 0)]
    found = [record for _, record, _ in drain(engine)]
    assert [int(record["seq"]) for record in found] == [1, 2, 3]
    assert all(record["status"] == pb.STATUS_APPLIED and record["hydrate_us"] > 0 for record in found)
    receive(engine, link, event(0, 4))
    assert [int(record["hydrate_us"]) for _, record, _ in drain(engine)] == [0]


def test_a_close_that_came_before_the_user_is_done_after_the_events() -> None:
    engine = new_engine()
    link = engine.open_link()
    open_later(engine, link, 0, "ann")
    receive(engine, link, event(0), event(0, kind=EVENT_KIND_CLOSE))
    engine.host.away.clear()
    engine.user_ready("ann")
    assert [int(record["status"]) for _, record, _ in drain(engine)] == [pb.STATUS_APPLIED, pb.STATUS_CLOSED]
    assert engine.num_tags == 0
    open_tag(engine, link, 0, "bob")


def test_who_cannot_come_is_refused_and_its_events_name_nothing() -> None:
    engine = new_engine()
    link = engine.open_link()
    open_later(engine, link, 0, "ann")
    refusals = [IndexedRejection(index=0, rejection=pb.Rejection(reason=pb.REASON_IDS_COUNT))]
    packed = engine.layout.events(engine.layout.pack(*event(0, kind=EVENT_KIND_REFUSED)))
    engine.receive(link, packed, refusals)
    receive(engine, link, event(0), event(0, kind=EVENT_KIND_CLOSE))
    engine.user_refused("ann", pb.Rejection(reason=pb.REASON_UNAVAILABLE))
    assert engine.told.opened_tags[0][1].rejection.reason == pb.REASON_UNAVAILABLE
    assert [reason for _, _, reason in drain(engine)] == [pb.REASON_IDS_COUNT, pb.REASON_TAG, 0]
    open_tag(engine, link, 0, "bob")


def test_slots_bring_their_own_users_and_refuse_their_own() -> None:
    engine = new_engine()
    link = engine.open_link()
    for tag, user in enumerate(("ann", "bob", "cid")):
        engine.host.away.add(user)
        assert engine.open(link, LinkTagOpen(tag=tag, user_id=user, slot=tag), user) is None
    called: list[int | pb.Rejection] = []
    engine.call("cid", 2, called.append)
    engine.host.away.clear()
    engine.slots_ready([0, 2])
    assert [answer.tag for _, answer in engine.told.opened_tags] == [0, 2]
    assert called == [engine.slab.find("cid")]
    engine.slots_refused([1], pb.Rejection(reason=pb.REASON_NOT_OWNER))
    assert engine.told.opened_tags[-1][1].rejection.reason == pb.REASON_NOT_OWNER
    assert engine.num_arrivals == 0


def test_a_link_that_ends_takes_what_waits_with_it() -> None:
    engine = new_engine()
    link, other = engine.open_link(), engine.open_link()
    open_later(engine, link, 0, "ann")
    open_later(engine, other, 0, "ann")
    receive(engine, link, event(0))
    engine.close_link(link)
    assert engine.num_arrivals == 1
    engine.host.away.clear()
    engine.user_ready("ann")
    assert [at for at, _ in engine.told.opened_tags] == [other]
    assert drain(engine) == []


@pytest.mark.parametrize("is_stepped", [False, True])
def test_tags_of_slots_that_are_lost_end_and_what_waits_of_them_is_dropped(is_stepped: bool) -> None:
    engine = new_engine()
    link, other = engine.open_link(), engine.open_link()
    for tag, user in enumerate(("ann", "bob")):
        assert engine.open(link, LinkTagOpen(tag=tag, user_id=user, slot=tag), user) is not None
        assert engine.open(other, LinkTagOpen(tag=tag, user_id=user, slot=tag), user) is not None
    receive(engine, link, event(0), event(1), event(0), event(0, kind=EVENT_KIND_CLOSE))
    if is_stepped:
        engine.step()
    slots = np.zeros(NUM_SLOTS, np.bool_)
    slots[0] = True
    engine.slots_lost(slots, pb.Rejection(reason=pb.REASON_NOT_OWNER))
    assert sorted(engine.told.ended_tags) == [(link, 0, pb.REASON_NOT_OWNER), (other, 0, pb.REASON_NOT_OWNER)]
    assert engine.told.num_dropped == (2 if is_stepped else 3)
    row = engine.slab.find("ann")
    assert row is not None
    assert engine.slab.num_tags[row] == 0
    late = engine.layout.events(engine.layout.pack(*event(0)))
    assert engine.receive(link, late, ()) == 1
    assert [int(record["tag"]) for _, record, _ in drain(engine)] == ([] if is_stepped else [1])
    open_tag(engine, link, 0, "cid")
    receive(engine, link, event(0))
    assert [reason for _, _, reason in drain(engine)] == [0]


@pytest.mark.parametrize("why", ["session id", "arrivals", "unseen"])
def test_a_tag_that_was_given_up_and_whose_open_is_refused_answers_what_came_with_it(
    why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever gets the tag next may have sent events along with the open, and waits for their answers."""
    engine = new_engine()
    link = engine.open_link()
    open_tag(engine, link, 0, "ann")
    engine.slots_lost(np.ones(NUM_SLOTS, np.bool_), pb.Rejection(reason=pb.REASON_NOT_OWNER))
    request = LinkTagOpen(tag=0, user_id="bob", session_id=str(ULID.from_int(0)) if why == "session id" else "")
    if why == "session id":
        monkeypatch.setattr(engine.sessions, "open", refusing)
    if why == "arrivals":
        monkeypatch.setattr(engine._arrivals, "is_full", lambda link: True)
    if why == "unseen":
        answer: LinkTagOpened | None = engine.refuse(link, 0, pb.Rejection(reason=pb.REASON_USER_ID))
    else:
        answer = engine.open(link, request, "bob")
    assert answer is not None
    assert answer.HasField("rejection")
    receive(engine, link, event(0), event(0, kind=EVENT_KIND_CLOSE))
    assert [reason for _, _, reason in drain(engine)] == [pb.REASON_TAG, 0]


def refusing(row: int, session_id: int) -> int:
    raise refused(pb.REASON_SESSION_FORGOTTEN, "session_id", "it was forgotten")


def test_watermarks_reach_those_who_asked_and_only_when_they_move() -> None:
    engine = new_engine()
    link = engine.open_link()
    session_id = str(ULID.from_int(1))
    asked = LinkTagOpen(tag=0, user_id="ann", session_id=session_id, watermarks=True)
    assert engine.open(link, asked, "ann") is not None
    assert engine.open(link, LinkTagOpen(tag=1, user_id="ann", watermarks=True), "ann") is not None
    open_tag(engine, link, 2, "ann", session_id)
    receive(engine, link, event(0, 1), event(1))
    drain(engine)
    row = engine.slab.find("ann")
    assert row is not None
    rows = np.array([row], np.intp)
    engine.durable(rows)
    assert engine.told.watermarks == []
    engine.sessions.durable_seq[engine.sessions.of(row)] = 1
    engine.residents.durable_version[row] = 2
    engine.durable(rows)
    engine.durable(rows)
    assert engine.told.watermarks == [(link, 0, 1), (link, 1, 2)]
    receive(engine, link, event(0, kind=EVENT_KIND_CLOSE), event(1, kind=EVENT_KIND_CLOSE))
    drain(engine)
    engine.residents.durable_version[row] = 3
    engine.durable(rows)
    assert len(engine.told.watermarks) == 2


@pytest.mark.parametrize("has_store", [True, False])
def test_an_open_says_how_far_its_session_or_the_user_is_durable(has_store: bool) -> None:
    engine = new_engine()
    engine.has_store = has_store
    link = engine.open_link()
    session_id = str(ULID.from_int(1))
    open_tag(engine, link, 0, "ann", session_id)
    row = engine.slab.find("ann")
    assert row is not None
    engine.sessions.durable_seq[engine.sessions.of(row)] = 3
    engine.residents.durable_version[row] = 5
    told = []
    for tag, session in ((1, session_id), (2, "")):
        answer = engine.open(link, LinkTagOpen(tag=tag, user_id="ann", session_id=session), "ann")
        assert answer is not None
        told.append(answer.durable_seq)
    assert told == ([3, 5] if has_store else [0, 0])


def test_what_is_consumed_is_to_be_journaled() -> None:
    def dirty_after(*events: Event) -> bool:
        engine = new_engine()
        link = engine.open_link()
        open_tag(engine, link, 0, "ann", str(ULID.from_int(1)))
        open_tag(engine, link, 1, "bob")
        receive(engine, link, *events)
        drain(engine)
        row = engine.slab.find("ann")
        assert row is not None
        return bool(engine.residents.dirty[row] == DIRTY)

    assert dirty_after(event(0, 1))
    assert dirty_after(event(0, 1), event(1))
    assert dirty_after(event(0, 1, deed=NAN_LOSS))
    assert dirty_after(event(0, 1, deed=99))
    assert dirty_after(event(0, 5, kind=EVENT_KIND_SKIP))
    assert not dirty_after(event(0, 2))
    assert not dirty_after(event(0, kind=EVENT_KIND_QUERY))


def test_the_deadline_counts_the_wait_for_the_user() -> None:
    engine = new_engine()
    link = engine.open_link()
    open_later(engine, link, 0, "ann")
    receive(engine, link, event(0, timeout_us=4))
    for _ in range(4):
        engine._clock_us()
    engine.host.away.clear()
    engine.user_ready("ann")
    assert [reason for _, _, reason in drain(engine)] == [pb.REASON_DEADLINE]


def test_what_waits_for_users_leaves_room_for_those_who_are_here() -> None:
    engine = new_engine()
    link, other = engine.open_link(), engine.open_link()
    open_tag(engine, link, 0, "here")
    open_later(engine, link, 1, "ann")
    receive(engine, link, *[event(1)] * ASIDE_MAX)
    engine.host.away.add("bob")
    refused = engine.open(link, LinkTagOpen(tag=2, user_id="bob"), "bob")
    assert refused is not None
    assert refused.rejection.reason == pb.REASON_OVERLOADED
    assert engine.open(other, LinkTagOpen(tag=2, user_id="bob"), "bob") is None
    open_tag(engine, link, 2, "here")
    engine.user_refused("ann", pb.Rejection(reason=pb.REASON_UNAVAILABLE))
    assert engine.open(link, LinkTagOpen(tag=3, user_id="bob"), "bob") is None
