"""Nobody holds up anybody else, and who disappears leaves nothing behind."""

from __future__ import annotations

import asyncio
import logging

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from evercurrent.settings import RouterSettings
from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1.columns_pb2 import EVENT_KIND_QUERY
from evercurrent.v1.session_pb2 import ObserveRequest, TagOpen
from persistence.memory import MemoryStore
from router.exchange_stream import ExchangeStream
from router.requests import CANDIDATES_MAX
from router.session_stream import SessionStream
from tests.e2e.conversation import Conversation, Frames, columns, observation, query
from tests.servers import Service, running_router, running_service, running_worker
from tests.toys import Counting, Wide

NUM_ABORTED = 1000
AT_ONCE = 100
NUM_FLOODING = 1600
"""Replies of `Wide` that no connection takes ahead of its reader: 25 MiB."""


def is_clean(service: Service) -> bool:
    """Whether nothing is open, on the way or remembered that learned nothing."""
    return (
        service.core.num_feeds == 0
        and len(service.core.sessions) == 0
        and all(link.num_in_flight == 0 for link in service.core.links.values())
        and all(
            engine.num_tags == 0 and engine.num_waiting == 0 and not engine.slab.num_tags.any()
            for engine in service.engines
        )
    )


def num_unanswered(service: Service) -> int:
    """Requests or events of the fullest stream whose answers are not written."""
    streams = (feed for feed in service.core._feeds.values() if isinstance(feed, SessionStream | ExchangeStream))
    return max(stream._num_pending for stream in streams)


async def abort_session(service: Service, number: int) -> None:
    """A Session stream that is dropped at one of several moments."""
    conversation = Conversation(service)
    moment = number % 4
    await conversation.send(open={"user_id": f"session-{number}"})
    if moment >= 1:
        await conversation.reply()
    if moment >= 2:
        await conversation.send(observation=observation(1))
    if moment == 3:
        await conversation.send(query=query(num_candidates=20))
    conversation.call.cancel()


async def abort_exchange(service: Service, number: int) -> None:
    """An Exchange stream that is dropped at one of several moments."""
    frames = Frames(service)
    await frames.open()
    moment = number % 4
    opens = [TagOpen(tag=tag, user_id=f"exchange-{number}-{tag}") for tag in range(3)]
    if moment == 1:
        await frames.send(opens=opens)
    if moment == 2:
        await frames.send(columns((0, 1), (1, 1), (1, 2)), opens, closes=[1])
    if moment == 3:
        await frames.send(columns((0, 1), (1, 1)), opens)
        await frames.answers(1)
    frames.call.cancel()


async def test_a_thousand_aborted_streams_leave_nothing(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    for start in range(0, NUM_ABORTED // 2, AT_ONCE):
        numbers = range(start, start + AT_ONCE)
        await asyncio.gather(
            *(abort_session(service, number) for number in numbers),
            *(abort_exchange(service, number) for number in numbers),
        )
    await service.until(lambda: is_clean(service))
    for engine in service.engines:
        learned = [key for key in engine.slab if engine.slab.version[engine.slab.find(key)] > 0]
        assert sorted(engine.slab) == sorted(learned)
    assert service.row_bytes("session-0") == b""
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []
    survivor = await Conversation.opened(service, "session-3")
    assert (await survivor.observe(1)).status == pb.STATUS_APPLIED


async def test_a_client_that_does_not_read_holds_up_nobody_and_loses_nothing() -> None:
    bounds = RouterSettings(in_flight_session_max=64)
    async with running_service(Wide, settings=bounds) as service:
        slow, other = await Conversation.opened(service, "slow"), await Conversation.opened(service, "other")

        async def flood() -> None:
            for seq in range(1, NUM_FLOODING + 1):
                await slow.send(observation=observation(seq))

        flooding = asyncio.create_task(flood())
        await service.until(lambda: num_unanswered(service) >= bounds.in_flight_session_max)
        for seq in range(1, 51):
            assert (await other.observe(seq)).status == pb.STATUS_APPLIED
            assert num_unanswered(service) <= bounds.in_flight_session_max
        results = [(await slow.reply()).result for _ in range(NUM_FLOODING)]
        await flooding
        assert [result.version for result in results] == list(range(1, NUM_FLOODING + 1))


async def test_a_backend_that_does_not_read_holds_up_nobody_and_loses_nothing() -> None:
    bounds = RouterSettings(in_flight_exchange_max=64, in_flight_session_max=64, frame_events_max=64)
    num_tags = 8
    async with running_service(Wide, settings=bounds) as service:
        slow = await Frames.opened(service, **{f"u{tag}": f"slow-{tag}" for tag in range(num_tags)})
        other = await Conversation.opened(service, "other")

        async def flood() -> None:
            for seq in range(1, NUM_FLOODING // num_tags + 1):
                await slow.send(columns(*[(tag, seq) for tag in range(num_tags)]))

        flooding = asyncio.create_task(flood())
        await service.until(lambda: num_unanswered(service) >= bounds.in_flight_exchange_max)
        for seq in range(1, 51):
            assert (await other.observe(seq)).status == pb.STATUS_APPLIED
            assert num_unanswered(service) < bounds.in_flight_exchange_max + num_tags
        told = await slow.answers(NUM_FLOODING)
        await flooding
        assert {one.status for one in told} == {pb.STATUS_APPLIED}
        for tag in range(num_tags):
            assert [one.seq for one in told if one.tag == tag] == list(range(1, NUM_FLOODING // num_tags + 1))


async def test_who_goes_while_written_to_leaves_nothing_but_a_line(caplog: pytest.LogCaptureFixture) -> None:
    async with running_service(Wide) as service:
        going = [await Conversation.opened(service, f"user-{number}") for number in range(20)]
        for conversation in going:
            for number in range(50):
                await conversation.send(query=query(number, 2))
        await service.until(lambda: not service.engines[0].num_waiting)
        for conversation in going:
            conversation.call.cancel()
        await service.until(lambda: is_clean(service))
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_one_sessions_queries_leave_room_for_others() -> None:
    bounds = RouterSettings(in_flight_link_max=2048, in_flight_session_max=64)
    async with running_service(settings=bounds) as service:
        greedy = await Conversation.opened(service, "greedy")
        other = await Conversation.opened(service, "other")
        num_queries = 200

        async def flood() -> None:
            for number in range(num_queries):
                await greedy.send(query=query(number, CANDIDATES_MAX))

        flooding = asyncio.create_task(flood())
        for seq in range(1, 51):
            assert (await other.observe(seq)).status == pb.STATUS_APPLIED
        for number in range(num_queries):
            answer = (await greedy.reply()).query_result
            assert (answer.query_id, answer.status) == (number, pb.STATUS_ANSWERED)
        await flooding


async def test_one_tags_events_leave_room_for_others() -> None:
    bounds = RouterSettings(in_flight_link_max=2048, in_flight_session_max=64)
    async with running_service(settings=bounds) as service:
        frames = await Frames.opened(service, a="greedy", b="other")
        flood = [(0, seq) for seq in range(1, 3001)]
        await frames.send(columns(*flood, (1, 1), kinds=bytes([EVENT_KIND_QUERY] * 3000 + [1])))
        await frames.send(columns(*flood, (1, 2)))
        told = await frames.answers(6002)
        assert [(one.seq, one.status) for one in told if one.tag == 1] == [
            (1, pb.STATUS_APPLIED),
            (2, pb.STATUS_APPLIED),
        ]
        refused = [one.reason for one in told if one.status == pb.STATUS_REJECTED]
        assert set(refused) <= {pb.REASON_OVERLOADED, pb.REASON_SEQ_GAP}


async def test_a_router_that_goes_closes_what_it_had_open() -> None:
    async with running_worker("worker-0", Counting(), MemoryStore()) as worker:
        engine = worker.incarnation.engine
        async with (
            running_router({"worker-0": worker.address}, RouterSettings()) as (address, routing),
            grpc.aio.insecure_channel(address) as channel,
        ):
            service = Service(address, routing.core, {"worker-0": worker}, channel)
            streams = [await Conversation.opened(service, f"user-{number}") for number in range(20)]
            await streams[0].observe(1)
            routing.core.stop()
            for stream in streams:
                assert await stream.ended() == (grpc.StatusCode.UNAVAILABLE, "the router is stopping")
        async with grpc.aio.insecure_channel(worker.address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            while engine.num_tags or engine.slab.num_tags.any():
                await health.Check(health_pb2.HealthCheckRequest())
        assert list(engine.slab) == ["\0user-0"]


async def test_a_call_that_is_cancelled_while_it_waits_leaves_nothing(service: Service) -> None:
    calls = [
        service.sessions.Observe(ObserveRequest(user_id=f"user-{number}", observation=observation()))
        for number in range(50)
    ]
    for call in calls:
        call.cancel()
    for call in calls:
        with pytest.raises(asyncio.CancelledError):
            await call
    await service.until(lambda: is_clean(service))
