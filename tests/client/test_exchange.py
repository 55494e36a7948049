"""An exchange against a router that is played: each user's session is on its own, whatever becomes of the stream."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import grpc
import pytest

from evercurrent.client import DeadlineExceeded, Exchange, InvalidRequest, Result, SessionForgotten, Status
from evercurrent.errors import rejection
from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1.session_pb2 import TagOpened
from tests.client.played import ExchangePeer, PlayedRouter, Sleeps, client_of, played, serve_frames

AT_ONCE_S = 0.05
"""A deadline of calls that are never answered."""


def event(user_id: str, deed: int) -> Mapping[str, Any]:
    return {"user_id": user_id, "ids": [deed], "outcome": 1.0}


async def observe_all(exchange: Exchange, *events: tuple[str, int]) -> list[Result]:
    return await exchange.observe_many([event(*one) for one in events])


def learned(router: PlayedRouter) -> list[list[int]]:
    """The deeds of each session."""
    return sorted(state.deeds for state in router.states.values())


async def test_frames_carry_whatever_is_ready_and_results_come_in_the_callers_order() -> None:
    async def counting(peer: ExchangePeer) -> None:
        await peer.open()
        while (frame := await peer.read()) is not None:
            sizes.append((len(frame.opens), len(frame.events.tags), len(frame.closes)))
            await peer.answer(frame)

    sizes: list[tuple[int, int, int]] = []
    async with played() as router, client_of(router) as client:
        router.exchange_scripts.append(counting)
        async with client.exchange() as exchange:
            results = await observe_all(exchange, ("ann", 5), ("bob", 6), ("ann", 7))
            assert [(result.seq, result.status) for result in results] == [
                (1, Status.APPLIED),
                (1, Status.APPLIED),
                (2, Status.APPLIED),
            ]
        assert exchange.num_kept == 0
    assert learned(router) == [[5, 7], [6]]
    assert sizes == [(2, 0, 0), (0, 3, 0), (0, 0, 2)]


async def test_a_broken_stream_is_a_pause_for_every_user() -> None:
    async def broken(peer: ExchangePeer) -> None:
        await peer.open()
        for _ in range(2):
            await peer.answer(await frame_of(peer))
        frame = await frame_of(peer)
        for tag, seq, deed in zip(frame.events.tags, frame.events.seqs, frame.events.ids, strict=True):
            if peer.users[tag] == "ann":
                peer.tags[tag].consume(pb.Observation(seq=seq, ids=[deed]))
            else:
                peer.tags[tag].forget()
        await peer.end(grpc.StatusCode.UNAVAILABLE)

    async with played() as router, client_of(router) as client:
        router.exchange_scripts.append(broken)
        async with client.exchange() as exchange:
            await observe_all(exchange, ("ann", 5), ("bob", 6))
            results = await observe_all(exchange, ("ann", 7), ("bob", 8))
            assert [result.status for result in results] == [Status.DUPLICATE, Status.APPLIED]
    assert learned(router) == [[5, 7], [6, 8]]


async def frame_of(peer: ExchangePeer) -> Any:
    frame = await peer.read()
    assert frame is not None
    return frame


async def test_a_user_whose_session_ended_is_opened_again_alone() -> None:
    async def losing(peer: ExchangePeer) -> None:
        await peer.open()
        await peer.answer(await frame_of(peer))
        frame = await frame_of(peer)
        (lost,) = (tag for tag, user in peer.users.items() if user == "ann")
        (kept,) = (tag for tag, user in peer.users.items() if user == "bob")
        why = rejection(pb.REASON_NOT_OWNER, "", "by script", 700)
        result = peer.tags[kept].consume(pb.Observation(seq=1, ids=[6]))
        await peer.tell([TagOpened(tag=lost, rejection=why)], [(kept, result, 1)])
        assert len(frame.events.tags) == 2
        again = await frame_of(peer)
        reopened.extend(one.user_id for one in again.opens)
        assert again.opens[0].tag != lost
        await peer.answer(again)
        while (rest := await peer.read()) is not None:
            await peer.answer(rest)

    reopened: list[str] = []
    sleeps = Sleeps()
    async with played() as router, client_of(router, sleeps=sleeps) as client:
        router.exchange_scripts.append(losing)
        async with client.exchange() as exchange:
            results = await observe_all(exchange, ("ann", 5), ("bob", 6))
            assert [result.status for result in results] == [Status.APPLIED, Status.APPLIED]
    assert reopened == ["ann"]
    assert learned(router) == [[5], [6]]
    assert sleeps.taken == [0.7]


async def test_a_user_whose_session_is_forgotten_is_told_and_begins_anew() -> None:
    async def forgetting(peer: ExchangePeer) -> None:
        await peer.open()
        frame = await frame_of(peer)
        refusals = {one.tag: FORGOTTEN for one in frame.opens if one.user_id == "ann"}
        await peer.answer(frame, refusals)
        while (rest := await peer.read()) is not None:
            await peer.answer(rest)

    async with played() as router, client_of(router, exchange_in_flight_max=1) as client:
        router.exchange_scripts.append(forgetting)
        async with client.exchange() as exchange:
            calls = (exchange.observe("ann", ids=[5], outcome=1.0), exchange.observe("bob", ids=[6], outcome=1.0))
            forgotten, result = await asyncio.gather(*calls, return_exceptions=True)
            assert isinstance(forgotten, SessionForgotten)
            assert isinstance(result, Result)
            assert (await exchange.observe("ann", ids=[7], outcome=1.0)).seq == 1
    assert learned(router) == [[6], [7]]


FORGOTTEN = rejection(pb.REASON_SESSION_FORGOTTEN, "session_id", "by script")


async def test_an_overload_of_one_user_is_tried_again_and_others_go_on() -> None:
    async def overloaded(peer: ExchangePeer) -> None:
        await peer.open()
        await peer.answer(await frame_of(peer))
        await peer.answer(await frame_of(peer), overloaded=True)
        while (frame := await peer.read()) is not None:
            await peer.answer(frame)

    sleeps = Sleeps()
    async with played() as router, client_of(router, sleeps=sleeps) as client:
        router.exchange_scripts.append(overloaded)
        async with client.exchange() as exchange:
            results = await observe_all(exchange, ("ann", 5), ("ann", 6), ("bob", 7))
            assert [result.status for result in results] == [Status.APPLIED] * 3
    assert learned(router) == [[5, 6], [7]]
    assert sleeps.taken == [0.05]


async def test_a_go_away_is_followed_when_the_replies_are_in() -> None:
    async def going(peer: ExchangePeer) -> None:
        await peer.open()
        await peer.answer(await frame_of(peer))
        frame = await frame_of(peer)
        await peer.go_away()
        assert await peer.read() is None
        await peer.answer(frame)
        await asyncio.Event().wait()

    sleeps = Sleeps()
    async with played() as router, client_of(router, sleeps=sleeps) as client:
        router.exchange_scripts.append(going)
        async with client.exchange() as exchange:
            assert (await exchange.observe("ann", ids=[5], outcome=1.0)).applied
            assert (await exchange.observe("ann", ids=[6], outcome=1.0)).applied
    assert learned(router) == [[5, 6]]
    assert sleeps.taken == []


async def test_durable_closes_what_is_idle_and_the_session_goes_on() -> None:
    async with played() as router, client_of(router) as client, client.exchange() as exchange:
        await observe_all(exchange, ("ann", 5), ("bob", 6))
        assert (exchange.num_kept, exchange.num_users) == (2, 2)
        await exchange.durable()
        assert (exchange.num_kept, exchange.num_users) == (0, 0)
        assert (await exchange.observe("ann", ids=[7], outcome=1.0)).seq == 2
    assert learned(router) == [[5, 7], [6]]


async def test_users_that_were_idle_longest_are_closed_when_many_are_open() -> None:
    async with (
        played() as router,
        client_of(router, exchange_users_max=2) as client,
        client.exchange() as exchange,
    ):
        for user in ("ann", "bob", "cid", "dan"):
            await exchange.observe(user, ids=[5], outcome=1.0)
        assert exchange.num_users <= 3
        assert (await exchange.observe("ann", ids=[6], outcome=1.0)).applied
    assert sorted(deed for deeds in learned(router) for deed in deeds) == [5, 5, 5, 5, 6]


async def test_what_is_kept_of_idle_users_is_made_durable_before_the_buffer_is_full() -> None:
    async with (
        played() as router,
        client_of(router, replay_events_max=64, in_flight_max=4) as client,
        client.exchange() as exchange,
    ):
        for number in range(200):
            await exchange.observe(f"user-{number}", ids=[5], outcome=1.0)
        assert exchange.num_kept < 64
        assert (exchange.at_risk, exchange.lost) == (0, 0)
    assert len(router.states) == 200


async def test_a_full_buffer_gives_up_the_oldest_of_whoever_was_idle_longest() -> None:
    async def never_durable(peer: ExchangePeer) -> None:
        await peer.open()
        while (frame := await peer.read()) is not None:
            frame.ClearField("closes")
            await peer.answer(frame)

    async with played() as router, client_of(router, replay_events_max=8, in_flight_max=4) as client:
        router.exchange_scripts.extend([never_durable, serve_frames])
        exchange = client.exchange()
        await exchange.open()
        for number in range(12):
            await exchange.observe(f"user-{number}", ids=[5], outcome=1.0)
        assert (exchange.num_kept, exchange.at_risk) == (8, 4)
        with pytest.raises(DeadlineExceeded, match="users not durable"):
            await exchange.close(AT_ONCE_S)


async def test_what_was_given_up_and_forgotten_is_counted_once() -> None:
    async def dying(peer: ExchangePeer) -> None:
        await peer.open()
        while not (frame := await frame_of(peer)).closes:
            await peer.answer(frame)
        for state in peer.router.states.values():
            state.forget()
        await peer.end(grpc.StatusCode.UNAVAILABLE)

    async with played() as router, client_of(router, replay_events_max=4, in_flight_max=4) as client:
        router.exchange_scripts.append(dying)
        async with client.exchange() as exchange:
            await observe_all(exchange, *[("ann", 5)] * 9)
            await exchange.durable()
            assert (exchange.num_users, exchange.lost, exchange.at_risk) == (0, 4, 0)
            call = asyncio.create_task(exchange.observe("ann", ids=[7], outcome=1.0))
            await asyncio.sleep(0)
            assert (exchange.num_users, exchange.lost) == (1, 4)
            assert (await call).lost == exchange.lost == 4
    assert learned(router) == [[5, 5, 5, 5, 5, 7]]


BAD_EVENTS: dict[str, tuple[dict[str, object], str]] = {
    "ids": ({"user_id": "ann", "ids": [1, 2]}, "ids"),
    "features": ({"user_id": "ann", "ids": [1], "features": [0.5]}, "features"),
    "outcome": ({"user_id": "ann", "ids": [1], "outcome": [0.5]}, "outcome"),
    "no user": ({"ids": [1]}, "user_id"),
    "an unknown key": ({"user_id": "ann", "idz": [1]}, "idz"),
}


@pytest.mark.parametrize(("bad", "field"), BAD_EVENTS.values(), ids=BAD_EVENTS.keys())
async def test_an_event_that_would_spoil_its_frame_is_refused_before_any_is_sent(
    bad: dict[str, object], field: str
) -> None:
    async with played() as router, client_of(router) as client, client.exchange() as exchange:
        with pytest.raises(InvalidRequest) as caught:
            await exchange.observe_many([event("bob", 5), bad])
        assert caught.value.field == field
        assert (await exchange.observe("bob", ids=[6], outcome=1.0)).seq == 1
    assert learned(router) == [[6]]


async def test_a_call_whose_time_is_up_says_so_and_its_observation_stays() -> None:
    async def slow(peer: ExchangePeer) -> None:
        await peer.open()
        await told.wait()
        while (frame := await peer.read()) is not None:
            await peer.answer(frame)

    told = asyncio.Event()
    async with played() as router, client_of(router) as client:
        router.exchange_scripts.append(slow)
        async with client.exchange() as exchange:
            with pytest.raises(DeadlineExceeded, match="the first 2 of 2 observations stay") as caught:
                await exchange.observe_many([event("ann", 5), event("ann", 6)], timeout_s=AT_ONCE_S)
            assert caught.value.may_be_applied
            told.set()
            assert (await exchange.observe("ann", ids=[7], outcome=1.0)).seq == 3
    assert learned(router) == [[5, 6, 7]]
