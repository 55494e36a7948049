"""Versions beside the live one: what each has learned, who has a state of it, and what a swap leaves out: nothing."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from evercurrent.errors import Refused
from evercurrent.model import Batch
from evercurrent.slots import NUM_SLOTS
from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1.columns_pb2 import EVENT_KIND_CLOSE, EVENT_KIND_QUERY
from evercurrent.v1.models_pb2 import MODEL_ROLE_SHADOW, MODEL_ROLE_STANDBY
from evercurrent.v1.worker_pb2 import LinkTagOpen
from evercurrent.wire import Records
from tests.toys import NAN_LOSS, RAISE, Counting, Sluggish, next_hash
from tests.worker.playing import Played
from tests.worker.test_engine import drain, event, new_engine, open_tag, receive
from worker import followers as module
from worker.followers import Follower
from worker.parts import Floats

NO_CLAIMS = np.zeros((NUM_SLOTS, 2), np.uint64)
USERS = [f"user-{number}" for number in range(6)]


def history_of(deeds: list[int]) -> tuple[int, int]:
    """Count and hash after observations of these deeds (`tests.worker.test_engine.event`)."""
    hash_ = 0
    for deed in deeds:
        hash_ = next_hash(hash_, deed, 2, True)
    return len(deeds), hash_


def learned(engine: Played, version: str, user: str) -> tuple[int, int] | None:
    """Count and hash of a user's state of a version; None without one."""
    row = engine.slab.find(user)
    assert row is not None
    if version == engine.live.version:
        states = engine.residents.live
    else:
        states = engine.residents.others[version]
        if not states.present[row]:
            return None
    return int(states.states[row, 0]), int(states.states[row, 2])


def following(role: int = MODEL_ROLE_SHADOW, fraction: float = 1.0, starts_anew: bool = False) -> Played:
    """An engine with every user's tag open, and version v2 beside the live one."""
    engine = new_engine()
    link = engine.open_link()
    for tag, user in enumerate(USERS):
        open_tag(engine, link, tag, user)
    engine.follow("v2", Sluggish(), role, fraction, starts_anew)  # type: ignore[arg-type]
    return engine


def follower_of(engine: Played, version: str = "v2") -> Follower:
    found = engine.followers.get(version)
    assert found is not None
    return found


def follow_all(engine: Played) -> None:
    while engine.followers.num_waiting:
        engine.followers.step()


steps = st.lists(
    st.one_of(
        st.tuples(st.just("event"), st.integers(0, len(USERS) - 1), st.integers(0, 11)),
        st.tuples(st.just("step"), st.just(0), st.just(0)),
        st.tuples(st.just("follow"), st.just(0), st.just(0)),
        st.tuples(st.just("promote"), st.just(0), st.just(0)),
        st.tuples(st.just("leave"), st.integers(0, len(USERS) - 1), st.just(0)),
    ),
    max_size=40,
)


@given(steps)
def test_whoever_is_live_and_its_standby_have_seen_every_event(script: list[tuple[str, int, int]]) -> None:
    engine = following()
    expected: dict[str, list[int]] = {user: [] for user in USERS}
    for what, number, deed in script:
        if what == "event":
            receive(engine, 1, event(number, deed=deed))
            expected[USERS[number]].append(deed)
        elif what == "step" and engine.num_waiting:
            engine.step()
        elif what == "follow" and engine.followers.num_waiting:
            engine.followers.step()
        elif what == "promote":
            other = next(iter(engine.followers)).version
            for _ in engine.followers.fill(other):
                pass
            engine.go_live(other)
        elif what == "leave":
            drain(engine)
            row = engine.slab.find(USERS[number])
            assert row is not None
            rows, _ = engine.residents.gather(np.array([row]), NO_CLAIMS)
            engine.end_user(row, pb.Rejection(reason=pb.REASON_NOT_OWNER))
            engine.residents.drop(row)
            engine.residents.restore(rows)
            open_tag(engine, 1, number, USERS[number])
    drain(engine)
    standby = engine.followers.standby
    if standby is None:
        follow_all(engine)
    else:
        engine.residents.catch_up(np.array([engine.slab.find(user) for user in USERS]))
    (beside,) = engine.followers
    for user, deeds in expected.items():
        assert learned(engine, engine.live.version, user) == history_of(deeds)
        assert learned(engine, beside.version, user) in ([history_of(deeds)] if standby else [history_of(deeds), None])


def test_a_shadow_learns_after_the_live_reply_and_from_states_that_saw_nothing_of_the_event() -> None:
    engine = following()
    for deed in (1, 2):
        receive(engine, 1, event(0, deed=deed))
        results = drain(engine)
        assert [record["model"] for _, record, _ in results] == [1]
    assert learned(engine, "v2", USERS[0]) == (0, 0)
    follow_all(engine)
    assert learned(engine, "v2", USERS[0]) == history_of([1, 2])


def test_who_was_known_before_begins_where_the_live_state_was() -> None:
    for starts_anew, expected in ((False, history_of([3, 4])), (True, history_of([4]))):
        engine = new_engine()
        link = engine.open_link()
        open_tag(engine, link, 0, USERS[0])
        receive(engine, link, event(0, deed=3))
        drain(engine)
        engine.follow("v2", Sluggish(), MODEL_ROLE_SHADOW, 1.0, starts_anew)
        receive(engine, link, event(0, deed=4))
        drain(engine)
        follow_all(engine)
        assert learned(engine, "v2", USERS[0]) == expected


def test_a_shadow_takes_its_fraction_always_the_same_users_and_each_version_others() -> None:
    chosen: dict[str, set[str]] = {}
    for version in ("v2", "v3"):
        for _ in range(2):
            engine = new_engine(residents_max=500, batch_max=512)
            link = engine.open_link()
            engine.follow(version, Sluggish(), MODEL_ROLE_SHADOW, 0.4, False)
            for tag in range(400):
                open_tag(engine, link, tag, f"user-{tag}")
            receive(engine, link, *[event(tag) for tag in range(400)])
            drain(engine)
            follow_all(engine)
            members = {user for user in engine.slab if learned(engine, version, user)}
            assert chosen.setdefault(version, members) == members
    assert 120 < len(chosen["v2"]) < 200
    assert chosen["v2"] != chosen["v3"]


def test_a_shadow_with_too_much_to_do_sheds_the_last_of_its_users_and_the_others_miss_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "SHADOW_BACKLOG_MAX", 40)
    engine = new_engine(residents_max=500, batch_max=512)
    link = engine.open_link()
    engine.follow("v2", Sluggish(), MODEL_ROLE_SHADOW, 1.0, False)
    for tag in range(100):
        open_tag(engine, link, tag, f"user-{tag}")
    receive(engine, link, *[event(tag, deed=1) for tag in range(100)])
    drain(engine)
    follower = follower_of(engine)
    assert follower.backlog <= 40
    receive(engine, link, *[event(tag, deed=2) for tag in range(20)])
    drain(engine)
    follow_all(engine)
    states = {user: learned(engine, "v2", user) for user in engine.slab}
    kept = [user for user, state in states.items() if state is not None]
    assert 0 < len(kept) <= 60
    assert follower.sums.num_shed == 100 - len(kept)
    assert follower.fraction < 1
    for user in kept:
        assert states[user] == history_of([1, 2] if int(user.partition("-")[2]) < 20 else [1])
    rows = np.array([engine.slab.find(user) for user in engine.slab])
    assert engine.residents.others["v2"].members(rows, follower.fraction, engine.slab.keys).sum() == len(kept)
    before = follower.fraction
    engine.followers.pass_time(10**9)
    assert before < follower.fraction <= 1


def test_a_standby_that_lags_sheds_nobody_and_counts_what_it_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STANDBY_BACKLOG_MAX", 3)
    engine = following(MODEL_ROLE_STANDBY)
    for deed in range(5):
        receive(engine, 1, event(0, deed=deed))
        drain(engine)
    follow_all(engine)
    assert learned(engine, "v2", USERS[0]) == history_of([0, 1, 2])
    assert follower_of(engine).sums.num_missed == 2


def test_what_is_copied_has_every_state_of_a_standby_up_to_date() -> None:
    engine = following(MODEL_ROLE_STANDBY)
    receive(engine, 1, event(0, deed=7), event(1, deed=8))
    drain(engine)
    row = engine.slab.find(USERS[0])
    assert row is not None
    rows, _ = engine.residents.gather(np.array([row]), NO_CLAIMS)
    assert [part.version for part in rows.packing] == ["v1", "v2"]
    assert follower_of(engine).backlog == 1
    assert learned(engine, "v2", USERS[0]) == history_of([7])


def test_a_swap_clears_what_was_added_up_and_names_the_new_version_in_replies() -> None:
    engine = following()
    receive(engine, 1, event(0, deed=1))
    drain(engine)
    follow_all(engine)
    assert follower_of(engine).sums.num_updates == 1
    engine.go_live("v2")
    receive(engine, 1, event(0, deed=2))
    assert [record["model"] for _, record, _ in drain(engine)] == [2]
    standby = engine.followers.standby
    assert standby is not None
    assert (standby.version, standby.sums.num_updates) == ("v1", 0)


def test_refusals_and_errors_of_each_are_paired() -> None:
    class Broken(Sluggish):
        def loss(self, prediction_BP: Tensor, batch: Batch) -> Tensor:
            return super().loss(prediction_BP, batch) * float("nan")

    engine = new_engine()
    link = engine.open_link()
    open_tag(engine, link, 0, USERS[0])
    engine.follow("v2", Broken(), MODEL_ROLE_SHADOW, 1.0, False)
    for deed in (1, 2, NAN_LOSS, RAISE):
        receive(engine, link, event(0, deed=deed))
        drain(engine)
    follow_all(engine)
    sums = engine.followers.sums_of(follower_of(engine))
    assert (sums.updates, sums.rejected, sums.errors) == (0, 3, 1)
    assert (sums.rejections.count, sums.rejections.sum) == (4, -2.0)
    assert (sums.failures.count, sums.failures.sum) == (4, 0.0)


def test_scores_are_paired_and_who_predicts_nothing_scores_as_the_scorer_says() -> None:
    engine = following()

    def scorer(prediction_NP: Floats, events: Records) -> NDArray[np.float64]:
        errors: NDArray[np.float64] = np.abs(prediction_NP[:, 1] - events["outcome"][:, 0]).astype(np.float64)
        return np.nan_to_num(errors, nan=99.0)

    engine.followers.scorer = scorer
    for deed in (1, 1, 1, NAN_LOSS):
        receive(engine, 1, event(0, deed=deed))
        drain(engine)
    follow_all(engine)
    sums = engine.followers.sums_of(follower_of(engine))
    assert sums.score.count == 4
    assert sums.score.sum == pytest.approx(sums.live_score_sum - sums.score_sum)
    assert sums.score.sum < 0
    assert sums.live_score_sum > 99


def test_a_pinned_session_is_answered_by_its_version_and_ends_with_it() -> None:
    engine = following(fraction=1e-9)
    link = engine.open_link()
    request = LinkTagOpen(tag=0, user_id=USERS[0], model_version="v2")
    assert engine.open(link, request, USERS[0]) is not None
    for deed in (1, 2):
        receive(engine, link, event(0, deed=deed))
        ((_, record, _),) = drain(engine)
        assert (record["model"], record["status"]) == (2, pb.STATUS_APPLIED)
        assert record["prediction"][0] == history_of([1] if deed == 2 else [])[1]
    receive(engine, link, event(0, kind=EVENT_KIND_QUERY))
    ((_, record, _),) = drain(engine)
    assert (record["model"], record["prediction"][0]) == (2, history_of([1, 2])[1])
    assert learned(engine, engine.live.version, USERS[0]) == history_of([1, 2])
    receive(engine, link, event(0, deed=3))
    engine.unfollow("v2")
    assert engine.told.ended_tags == [(link, 0, pb.REASON_MODEL)]
    assert engine.told.num_dropped == 1
    assert not engine.num_waiting


def test_a_pinned_session_whose_close_waits_ends_with_its_version() -> None:
    engine = following(fraction=1e-9)
    link = engine.open_link()
    num_tags = engine.slab.num_tags.sum()
    engine.open(link, LinkTagOpen(tag=0, user_id=USERS[0], model_version="v2"), USERS[0])
    receive(engine, link, event(0, deed=3), event(0, kind=EVENT_KIND_CLOSE))
    engine.unfollow("v2")
    assert engine.told.ended_tags == [(link, 0, pb.REASON_MODEL)]
    assert engine.told.num_dropped == 2
    assert engine.slab.num_tags.sum() == num_tags


def test_a_version_that_does_not_run_cannot_be_pinned() -> None:
    engine = following()
    opened = engine.open(1, LinkTagOpen(tag=9, user_id="x", model_version="v9"), "x")
    assert opened is not None
    assert opened.rejection.reason == pb.REASON_MODEL
    assert "v2" in opened.rejection.message


def test_a_user_whose_updates_are_refused_again_and_again_is_quarantined_until_one_is_let_go() -> None:
    engine = new_engine()
    link = engine.open_link()
    open_tag(engine, link, 0, USERS[0])
    open_tag(engine, link, 1, USERS[1])
    receive(engine, link, event(0, deed=1))
    drain(engine)
    for _ in range(engine.model.quarantine_after):
        receive(engine, link, event(0, deed=NAN_LOSS))
        ((_, _, reason),) = drain(engine)
        assert reason == pb.REASON_LOSS_NOT_FINITE
    receive(engine, link, event(0, deed=2))
    assert [reason for _, _, reason in drain(engine)] == [pb.REASON_QUARANTINED]
    receive(engine, link, event(0, deed=2), event(1, deed=2))
    assert [reason for _, _, reason in drain(engine)] == [pb.REASON_QUARANTINED, 0]
    assert learned(engine, engine.live.version, USERS[0]) == history_of([1])
    assert [engine.slab.key(row) for row in engine.quarantined().tolist()] == [USERS[0]]
    engine.unquarantine(int(engine.quarantined()[0]))
    receive(engine, link, event(0, deed=3))
    assert [reason for _, _, reason in drain(engine)] == [0]
    assert learned(engine, engine.live.version, USERS[0]) == history_of([1, 3])


def test_an_update_that_stands_makes_up_for_those_refused_before() -> None:
    engine = new_engine()
    link = engine.open_link()
    open_tag(engine, link, 0, USERS[0])
    for deed in [NAN_LOSS] * (engine.model.quarantine_after - 1) + [1] + [NAN_LOSS] * 2:
        receive(engine, link, event(0, deed=deed))
        drain(engine)
    assert not len(engine.quarantined())


def test_a_model_of_other_shapes_than_it_declares_does_not_run() -> None:
    class Wrong(Sluggish):
        def readout(self, prediction_BP: Tensor) -> Tensor:
            return prediction_BP[:, :1]

    engine = new_engine()
    with pytest.raises(ValueError, match="prediction_BP"):
        engine.follow("v2", Wrong(), MODEL_ROLE_SHADOW, 1.0, False)
    assert not engine.followers
    with pytest.raises(Refused):
        engine._pin(1, "v2")


@pytest.mark.parametrize(
    ("standby_us", "live_us", "is_slow"),
    [(100, 100_000, True), (100, 501, True), (100, 500, False), (1, 501, True), (1, 500, False), (300, 1500, False)],
)
def test_the_next_step_of_a_slow_live_version_is_found_slow(standby_us: int, live_us: int, is_slow: bool) -> None:
    """Five times the standby's; and what is below half a millisecond is never slow."""
    now_us = itertools.count(step=standby_us)
    engine = Played(Counting(), 100, 64, now_us.__next__)
    link = engine.open_link()
    open_tag(engine, link, 0, USERS[0])
    engine.follow("v2", Sluggish(), MODEL_ROLE_STANDBY, 1.0, False)
    for number in range(module.STEP_TIMES + 10):
        receive(engine, link, event(0, deed=1))
        drain(engine)
        if number >= module.STEP_TIMES:
            engine.followers.note_live_step(live_us)
        follow_all(engine)
    sums = engine.followers.sums_of(follower_of(engine)).slowness
    assert sums.count == 20
    assert sums.sum == (0.0 if is_slow else -10.0)


def test_what_a_version_or_a_score_raises_does_not_reach_the_live_version() -> None:
    class Stuck(Sluggish):
        def migrate(self, old_state_BD: Tensor, old_shapes: object) -> Tensor:
            raise RuntimeError("asked to")

    def scorer(prediction_NP: Floats, events: Records) -> NDArray[np.float64]:
        raise RuntimeError("asked to")

    engine = new_engine()
    link = engine.open_link()
    open_tag(engine, link, 0, USERS[0])
    receive(engine, link, event(0, deed=1))
    drain(engine)
    engine.follow("v2", Stuck(), MODEL_ROLE_SHADOW, 1.0, False)
    engine.followers.scorer = scorer
    receive(engine, link, event(0, deed=2))
    ((_, record, _),) = drain(engine)
    assert record["status"] == pb.STATUS_APPLIED
    follow_all(engine)
    assert learned(engine, "v2", USERS[0]) == history_of([2])
    assert follower_of(engine).sums.score.count == 0
