"""Sessions against a router that is played: whatever a stream does, callers see a pause."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from ulid import ULID

from evercurrent.client import (
    DataLoss,
    DeadlineExceeded,
    InvalidRequest,
    NoStore,
    ObservationRejected,
    Result,
    ServiceFailed,
    Session,
    SessionClosed,
    SessionForgotten,
    SessionTaken,
    Status,
    Unavailable,
)
from evercurrent.errors import rejection
from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1.session_pb2 import GoAway
from tests.client.played import Peer, Script, Sleeps, client_of, played, well

AT_ONCE_S = 0.05
"""A deadline of calls that are never answered."""


async def observe_all(session: Session, *deeds: int) -> list[Result]:
    """Observations that are all made at once."""
    return await asyncio.gather(*(session.observe(ids=[deed], outcome=1.0) for deed in deeds))


TRANSIENT: dict[str, tuple[grpc.StatusCode, pb.Reason | None, int]] = {
    "unavailable": (grpc.StatusCode.UNAVAILABLE, pb.REASON_UNAVAILABLE, 500),
    "not the owner": (grpc.StatusCode.ABORTED, pb.REASON_NOT_OWNER, 0),
    "overloaded": (grpc.StatusCode.RESOURCE_EXHAUSTED, pb.REASON_OVERLOADED, 3000),
    "cancelled": (grpc.StatusCode.CANCELLED, None, 0),
    "internal": (grpc.StatusCode.INTERNAL, None, 0),
}


@pytest.mark.parametrize(("code", "reason", "retry_after_ms"), TRANSIENT.values(), ids=TRANSIENT.keys())
async def test_a_transient_end_is_a_pause(code: grpc.StatusCode, reason: pb.Reason | None, retry_after_ms: int) -> None:
    async def broken(peer: Peer) -> None:
        await peer.open()
        await peer.take(1)
        await peer.take(1, answered=False)
        await peer.read()
        await peer.end(code, reason, retry_after_ms)

    sleeps = Sleeps()
    async with played(broken) as router, client_of(router, sleeps=sleeps) as client, client.session("ann") as session:
        results = await observe_all(session, 5, 6, 7)
        assert [result.status for result in results] == [Status.APPLIED, Status.DUPLICATE, Status.APPLIED]
        await session.durable()
    assert router.state.deeds == [5, 6, 7]
    assert {one.session_id for one in router.opens} == {session.session_id}
    assert len(sleeps.taken) == 1
    assert sleeps.taken[0] >= max(retry_after_ms / 1000, 0.025)


async def test_what_a_worker_forgot_is_sent_again_with_its_time() -> None:
    async def dies(peer: Peer) -> None:
        await peer.open()
        await peer.take(1)
        await peer.durable()
        await peer.take(2)
        await told.wait()
        times.extend(one.event_time_us for one in peer.state.observations)
        peer.state.forget()
        await peer.end(grpc.StatusCode.UNAVAILABLE)

    told, times = asyncio.Event(), list[int]()
    async with played(dies) as router, client_of(router) as client, client.session("ann") as session:
        results = await observe_all(session, 5, 6, 7)
        told.set()
        results += await observe_all(session, 8)
        assert [(result.seq, result.status) for result in results] == [(seq, Status.APPLIED) for seq in (1, 2, 3, 4)]
    assert router.state.deeds == [5, 6, 7, 8]
    assert [one.event_time_us for one in router.state.observations][:3] == times
    assert len(set(times)) == 3
    assert session.lost == 0


async def test_an_overload_is_tried_again_in_order_and_nobody_sees_it() -> None:
    async def overloaded(peer: Peer) -> None:
        await peer.open()
        first, second = (await peer.read()).observation, (await peer.read()).observation
        await peer.write(result=peer.state.refuse(first.seq, pb.REASON_OVERLOADED, 120))
        await peer.write(result=peer.state.consume(second))
        await peer.serve()

    sleeps = Sleeps()
    async with (
        played(overloaded) as router,
        client_of(router, sleeps=sleeps) as client,
        client.session("ann") as session,
    ):
        results = await observe_all(session, 5, 6)
        assert [result.status for result in results] == [Status.APPLIED, Status.APPLIED]
        await session.durable()
    assert router.state.deeds == [5, 6]
    assert sleeps.taken == [0.12]


async def test_an_observation_that_is_too_large_for_the_service_is_skipped_and_told() -> None:
    async def small(peer: Peer) -> None:
        await peer.open()
        await peer.read()
        await peer.write(rejected=rejection(pb.REASON_TOO_LARGE, "request", "by script"))
        await peer.serve()

    async with played(small) as router, client_of(router) as client, client.session("ann") as session:
        results = await observe_all(session, 5, 6)
        assert results[0].rejected
        with pytest.raises(ObservationRejected) as caught:
            results[0].raise_for_rejection()
        assert (caught.value.reason, caught.value.seq) == ("TOO_LARGE", 1)
        assert results[1].raise_for_rejection().applied
    assert (router.state.deeds, router.state.lost) == ([6], 1)


async def test_a_rejection_that_consumes_its_seq_is_a_result() -> None:
    async def rejecting(peer: Peer) -> None:
        await peer.open()
        await peer.read()
        peer.state.last_seq = 1
        await peer.write(result=peer.state.refuse(1, pb.REASON_OUTCOME))
        await peer.serve()

    async with played(rejecting) as router, client_of(router) as client, client.session("ann") as session:
        first, second = await observe_all(session, 5, 6)
        assert first.rejected
        assert first.rejection is not None
        assert first.rejection.reason == "OUTCOME"
        assert second.applied
    assert router.state.deeds == [6]


async def test_a_go_away_is_followed_to_another_router_when_the_replies_are_in() -> None:
    async def going(peer: Peer) -> None:
        await peer.open()
        await peer.take(1, answered=False)
        await peer.write(go_away=GoAway(message="by script"))
        await half_closed(peer)
        await peer.write(result=peer.state.consume(pb.Observation(seq=1)))
        left.set_result(True)
        await asyncio.Event().wait()

    async def half_closed(peer: Peer) -> None:
        assert await peer._context.read() is grpc.aio.EOF

    left: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    sleeps = Sleeps()
    async with played(going) as first, played() as second:
        second.state = first.state
        async with client_of(first, second, sleeps=sleeps) as client, client.session("ann") as session:
            assert (await session.observe(ids=[5], outcome=1.0)).seq == 1
            assert await left
            assert (await session.observe(ids=[6], outcome=1.0)).applied
        assert (len(first.opens), len(second.opens)) == (1, 1)
        assert second.state.deeds == [5, 6]
        assert sleeps.taken == []


async def test_another_router_is_tried_when_one_is_not_there() -> None:
    async with played() as gone:
        pass
    async with played() as router, client_of(gone, router) as client, client.session("ann") as session:
        assert (await session.observe(ids=[5], outcome=1.0)).applied
    assert router.state.deeds == [5]


FINAL: dict[str, tuple[pb.Reason, type[Exception]]] = {
    "forgotten": (pb.REASON_SESSION_FORGOTTEN, SessionForgotten),
    "damaged": (pb.REASON_DATA_LOSS, DataLoss),
    "another schema": (pb.REASON_SCHEMA, ServiceFailed),
    "another model": (pb.REASON_MODEL, InvalidRequest),
}


@pytest.mark.parametrize(("reason", "error"), FINAL.values(), ids=FINAL.keys())
async def test_a_final_end_is_told_to_every_call(reason: pb.Reason, error: type[Exception]) -> None:
    async def ending(peer: Peer) -> None:
        await peer.open()
        await peer.read()
        await peer.read()
        await peer.end(grpc.StatusCode.UNKNOWN, reason)

    async with played(ending) as router, client_of(router) as client:
        session = client.session("ann")
        await session.open()
        calls = [session.observe(ids=[deed], outcome=1.0) for deed in (5, 6)]
        failures = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(failure) for failure in failures] == [error, error]
        assert failures[0] is not failures[1]
        with pytest.raises(error):
            await session.observe(ids=[7])
        with pytest.raises(error):
            await session.close()


async def test_an_id_that_somebody_else_uses_is_told() -> None:
    async def taken(peer: Peer) -> None:
        await peer.open()
        await peer.take(1)
        peer.state.last_seq = 9
        await peer.end(grpc.StatusCode.UNAVAILABLE)

    async with played(taken) as router, client_of(router) as client:
        session = client.session("ann")
        await session.open()
        await session.observe(ids=[5], outcome=1.0)
        with pytest.raises(SessionTaken, match=r"9 were consumed where 1 were sent"):
            await session.durable()
        with pytest.raises(SessionTaken):
            await session.close()


async def test_without_a_store_it_is_opened_again_without_durability() -> None:
    async def storeless(peer: Peer) -> None:
        assert (await peer.read()).open.wait_durable
        await peer.end(grpc.StatusCode.FAILED_PRECONDITION, pb.REASON_NO_STORE)

    async with (
        played(storeless, has_store=False) as router,
        client_of(router) as client,
        client.session("ann") as session,
    ):
        assert not router.opens[0].wait_durable
        await observe_all(session, 5, 6)
        assert session.num_kept == 0
        with pytest.raises(NoStore):
            await session.durable()


async def test_a_close_waits_for_what_is_unanswered() -> None:
    async def slow(peer: Peer) -> None:
        await peer.open()
        read.set_result((await peer.read()).observation.seq)
        await told.wait()
        await peer.end(grpc.StatusCode.UNAVAILABLE)

    async def storeless(peer: Peer) -> None:
        await peer.read()
        await peer.end(grpc.StatusCode.FAILED_PRECONDITION, pb.REASON_NO_STORE)

    told = asyncio.Event()
    read: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    sleeps = Sleeps()
    async with played(storeless, slow, has_store=False) as router, client_of(router, sleeps=sleeps) as client:
        session = client.session("ann")
        with pytest.raises(SessionClosed, match="is not open"):
            await session.observe(ids=[5])
        await session.open()
        call = asyncio.create_task(session.observe(ids=[5], outcome=1.0))
        await read
        closing = asyncio.create_task(session.close())
        await asyncio.sleep(0)
        told.set()
        await closing
        assert (await call).applied
        assert sleeps.taken == [0.025]


async def test_a_call_whose_time_is_up_says_so_and_the_session_goes_on() -> None:
    async def slow(peer: Peer) -> None:
        await peer.open()
        await told.wait()
        await peer.serve()

    told = asyncio.Event()
    async with played(slow) as router, client_of(router) as client, client.session("ann") as session:
        with pytest.raises(DeadlineExceeded, match="may still be applied") as caught:
            await session.observe(ids=[5], outcome=1.0, timeout_s=AT_ONCE_S)
        assert isinstance(caught.value, TimeoutError)
        assert (caught.value.seq, caught.value.may_be_applied) == (1, True)
        with pytest.raises(DeadlineExceeded):
            await session.durable(timeout_s=AT_ONCE_S)
        told.set()
        assert (await session.observe(ids=[6], outcome=1.0)).seq == 2
    assert router.state.deeds == [5, 6]


async def test_a_cancelled_call_loses_and_reorders_nothing() -> None:
    async def slow(peer: Peer) -> None:
        await peer.open()
        read.set_result((await peer.read()).observation.seq)
        await told.wait()
        await peer.write(result=peer.state.consume(pb.Observation(seq=1, ids=[5])))
        await peer.serve()

    told = asyncio.Event()
    read: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    async with played(slow) as router, client_of(router) as client, client.session("ann") as session:
        call = asyncio.create_task(session.observe(ids=[5], outcome=1.0))
        assert await read == 1
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        told.set()
        assert (await session.observe(ids=[6], outcome=1.0)).seq == 2
    assert router.state.deeds == [5, 6]


async def test_a_call_waits_its_turn_when_the_session_is_full() -> None:
    async def slow(peer: Peer) -> None:
        await peer.open()
        await told.wait()
        await peer.serve()

    told = asyncio.Event()
    async with (
        played(slow) as router,
        client_of(router, in_flight_max=2) as client,
        client.session("ann") as session,
    ):
        calls = asyncio.gather(*(session.observe(ids=[deed], outcome=1.0) for deed in (5, 6, 7, 8)))
        await asyncio.sleep(0)
        with pytest.raises(DeadlineExceeded, match="not taken in") as caught:
            await session.observe(ids=[9], outcome=1.0, timeout_s=AT_ONCE_S)
        assert not caught.value.may_be_applied
        told.set()
        assert [result.seq for result in await calls] == [1, 2, 3, 4]
    assert router.state.deeds == [5, 6, 7, 8]


def keeps_nothing_durable(num: int) -> Script:
    async def script(peer: Peer) -> None:
        await peer.open()
        await peer.take(num)
        await peer.read()
        peer.state.forget()
        await peer.end(grpc.StatusCode.UNAVAILABLE)

    return script


async def test_a_full_replay_buffer_gives_up_the_oldest_and_counts_them() -> None:
    async with (
        played(keeps_nothing_durable(4)) as router,
        client_of(router, in_flight_max=2, replay_events_max=2) as client,
        client.session("ann") as session,
    ):
        for deed in (5, 6, 7, 8):
            await session.observe(ids=[deed], outcome=1.0)
        assert (session.num_kept, session.at_risk, session.lost) == (2, 2, 0)
        assert (await session.observe(ids=[9], outcome=1.0)).applied
        await session.durable()
        assert (session.at_risk, session.lost) == (0, 3)
    assert router.state.deeds == [8, 9]


async def test_a_full_replay_buffer_makes_calls_wait_if_told_so() -> None:
    async def late(peer: Peer) -> None:
        await peer.open()
        await peer.take(2)
        await told.wait()
        await peer.durable()
        await peer.serve()

    told = asyncio.Event()
    async with (
        played(late) as router,
        client_of(router, in_flight_max=2, replay_events_max=2, on_full="block") as client,
        client.session("ann") as session,
    ):
        await observe_all(session, 5, 6)
        with pytest.raises(DeadlineExceeded, match="not taken in"):
            await session.observe(ids=[7], outcome=1.0, timeout_s=AT_ONCE_S)
        told.set()
        assert (await session.observe(ids=[8], outcome=1.0)).seq == 3
    assert (router.state.deeds, session.at_risk) == ([5, 6, 8], 0)


async def fail_within(session: Session) -> None:
    async with session:
        await session.observe(ids=[5], outcome=1.0, timeout_s=AT_ONCE_S)


async def test_a_close_that_fails_is_told_and_masks_nothing() -> None:
    async def silent(peer: Peer) -> None:
        await peer.open()
        await peer.read()
        await asyncio.Event().wait()

    async with played(silent, silent, silent) as router, client_of(router, close_timeout_s=AT_ONCE_S) as client:
        session = client.session("ann")
        await session.open()
        with pytest.raises(DeadlineExceeded):
            await session.observe(ids=[5], outcome=1.0, timeout_s=AT_ONCE_S)
        with pytest.raises(DeadlineExceeded, match="1 unanswered, durable up to 0 of 1"):
            await session.close()
        await session.close()
        with pytest.raises(SessionClosed):
            await session.observe(ids=[6], outcome=1.0)
        with pytest.raises(DeadlineExceeded, match="no answer within") as caught_late:
            await fail_within(client.session("ann"))
        assert "did not close well" in caught_late.value.__notes__[0]


async def test_a_service_that_is_not_there_is_unavailable() -> None:
    async with played() as gone:
        pass
    async with client_of(gone) as client:
        with pytest.raises(Unavailable, match=r"not opened within .* s \(last heard: UNAVAILABLE"):
            await client.session("ann").open(timeout_s=AT_ONCE_S)
        with pytest.raises(Unavailable, match="last heard: UNAVAILABLE"):
            await client.predict("ann", ids=[5], timeout_s=AT_ONCE_S)


async def test_a_session_is_resumed_by_its_id() -> None:
    session_id = str(ULID())
    async with played() as router, client_of(router) as client:
        async with client.session("ann", session_id=session_id) as session:
            await observe_all(session, 5, 6)
        async with client.session("ann", session_id=session_id) as session:
            assert (await session.observe(ids=[7], outcome=1.0)).seq == 3
        with pytest.raises(InvalidRequest, match="not a ULID"):
            client.session("ann", session_id="ann")
    assert router.state.deeds == [5, 6, 7]


async def test_a_query_sees_what_was_observed_before_it_and_ranks() -> None:
    async with played(well) as router, client_of(router) as client, client.session("ann") as session:
        _, answer = await asyncio.gather(session.observe(ids=[5], outcome=1.0), session.predict(ids=[3]))
        assert answer.prediction == pytest.approx((1.003,))
        ranked = await session.rank([{"ids": [1]}, {"ids": [3]}, {"ids": [2]}])
        assert [one.index for one in ranked] == [1, 2, 0]
        assert ranked[0].candidate == {"ids": [3]}


BAD_VALUES: dict[str, tuple[dict[str, object], str]] = {
    "ids": ({"ids": ["x"]}, "ids"),
    "features": ({"features": [None]}, "features"),
    "outcome": ({"outcome": "won"}, "outcome"),
    "event time": ({"event_time_us": 1 << 80}, "event_time_us"),
    "size": ({"ids": range(100_000)}, ""),
}


@pytest.mark.parametrize(("values", "field"), BAD_VALUES.values(), ids=BAD_VALUES.keys())
async def test_a_value_that_no_message_holds_is_refused_at_once(values: dict[str, object], field: str) -> None:
    async with played() as router, client_of(router) as client, client.session("ann") as session:
        with pytest.raises(InvalidRequest) as caught:
            await session.observe(**values)  # type: ignore[arg-type]
        assert caught.value.field == field
        assert (await session.observe(ids=[5], outcome=1.0)).seq == 1


async def test_a_single_observation_is_applied_once_however_often_it_is_sent() -> None:
    sleeps = Sleeps()
    async with played() as router, client_of(router, sleeps=sleeps) as client:
        router.unary.extend([(pb.REASON_UNAVAILABLE, False), (pb.REASON_UNAVAILABLE, True)])
        result = await client.observe("ann", ids=[5], outcome=1.0, wait_for="durable")
        assert result.status is Status.DUPLICATE
        router.unary.append((pb.REASON_OUTCOME, False))
        with pytest.raises(InvalidRequest):
            await client.observe("ann", ids=[5], outcome=1.0)
    assert [state.deeds for state in router.states.values() if state.deeds] == [[5]]
    assert sleeps.taken == [0.07, 0.07]
