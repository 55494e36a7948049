"""What a caller gets who sends what nobody should, at the router's port and at a worker's: its own fault, by name."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.message import Message
from ulid import ULID

from evercurrent.slots import NUM_SLOTS, slot_of, user_key
from evercurrent.v1 import admin_pb2, session_pb2, worker_pb2, worker_pb2_grpc
from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1.columns_pb2 import (
    EVENT_KIND_OBSERVATION,
    EVENT_KIND_QUERY,
    EVENT_KIND_REFUSED,
    EVENT_KIND_SKIP,
    IndexedRejection,
)
from evercurrent.v1.worker_pb2 import LinkFrame, LinkOpen, LinkRequest, LinkResponse, LinkTagOpen
from evercurrent.wire import SEQ_MAX
from tests.e2e.conversation import observation
from tests.servers import Service

OPENING = LinkOpen(protocol_version=1, router="hostile", slots=NUM_SLOTS)
LONG = "x" * 100_000


@pytest.fixture
async def worker(service: Service) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to one of the workers."""
    async with grpc.aio.insecure_channel(service.workers["worker-0"].address) as channel:
        yield channel


async def ending(channel: grpc.aio.Channel, method: str, *messages: bytes | Message) -> grpc.aio.StreamStreamCall:
    """A call of these messages, half-closed and read to its end."""
    call = channel.stream_stream(f"/evercurrent.v1.{method}")()
    try:
        for message in messages:
            await call.write(message if isinstance(message, bytes) else message.SerializeToString())
        await call.done_writing()
        while await call.read() is not grpc.aio.EOF:
            pass
    except (grpc.aio.AioRpcError, grpc.aio.UsageError):
        pass
    return call


def tag_open(user: str, **fields: Any) -> LinkTagOpen:
    """An open as a router sends it."""
    return LinkTagOpen(**{"tag": 1, "user_id": user, "slot": slot_of(user_key("", user)), **fields})


async def linked(channel: grpc.aio.Channel, *frames: LinkFrame) -> list[LinkResponse]:
    """What a worker answers to these frames, with a status that is OK."""
    call = worker_pb2_grpc.WorkerServiceStub(channel).Link()
    await call.write(LinkRequest(open=OPENING))
    responses = [await call.read()]
    for frame in frames:
        await call.write(LinkRequest(frame=frame))
        responses.append(await call.read())
        while not (responses[-1].frame.opens or responses[-1].frame.results):
            responses.append(await call.read())
    await call.done_writing()
    while (response := await call.read()) is not grpc.aio.EOF:
        responses.append(response)
    assert await call.code() is grpc.StatusCode.OK
    return responses


@pytest.mark.parametrize("raw", [b"\x0a\xff", b"", LinkRequest(frame=LinkFrame()).SerializeToString()])
@pytest.mark.parametrize("before", [(), (LinkRequest(open=OPENING).SerializeToString(),)])
async def test_a_link_ends_at_what_is_no_frame(
    worker: grpc.aio.Channel, before: Sequence[bytes], raw: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    call = await ending(worker, "WorkerService/Link", *before, raw)
    is_frame = bool(before) and len(raw) > 0 and raw != b"\x0a\xff"
    assert await call.code() is (grpc.StatusCode.OK if is_frame else grpc.StatusCode.INVALID_ARGUMENT)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"slot": NUM_SLOTS + 7}, pb.REASON_PROTOCOL),
        ({"slot": 0}, pb.REASON_PROTOCOL),
        ({"user_id": ""}, pb.REASON_USER_ID),
        ({"user_id": LONG}, pb.REASON_USER_ID),
        ({"namespace": "a\0b"}, pb.REASON_MODEL),
        ({"session_id": "not a ulid"}, pb.REASON_SESSION_ID),
        ({"session_id": "8" + "Z" * 25}, pb.REASON_SESSION_ID),
    ],
)
async def test_a_worker_opens_nobody_who_cannot_be(
    service: Service, worker: grpc.aio.Channel, wrong: dict[str, Any], reason: int
) -> None:
    responses = await linked(worker, LinkFrame(opens=[tag_open("ann", **wrong)]))
    assert [opened.rejection.reason for opened in responses[-1].frame.opens] == [reason]
    assert all(len(engine.slab) == 0 for engine in service.engines)


def packed(service: Service, *events: tuple[int, int]) -> bytes:
    """Event records of tag 1, of kinds and seqs."""
    layout = service.engines[0].layout
    return b"".join(layout.pack(seq, 1, 0, (1, 2), 0, 1, 0, (0.5, -1.0), (0.5,), kind) for kind, seq in events)


async def test_a_skip_beyond_all_seqs_is_refused_and_the_session_can_be_opened(
    service: Service, worker: grpc.aio.Channel
) -> None:
    user = next(name for name in map(str, range(100)) if service.name_of(name) == "worker-0")
    session_id = str(ULID())
    opens = [tag_open(user, session_id=session_id)]
    raw = packed(service, (EVENT_KIND_SKIP, SEQ_MAX + 1), (EVENT_KIND_OBSERVATION, 1))
    responses = await linked(worker, LinkFrame(opens=opens, events=raw), LinkFrame(events=raw))
    rejected = [one.rejection.reason for response in responses for one in response.frame.rejections]
    assert pb.REASON_SEQ_GAP in rejected
    answer = await service.sessions.Observe(
        session_pb2.ObserveRequest(user_id=user, session_id=session_id, observation=observation(2))
    )
    assert answer.result.applied_seq == 2


@pytest.mark.parametrize(
    ("kinds", "indices"),
    [((EVENT_KIND_OBSERVATION,), (0,)), ((EVENT_KIND_QUERY,), (0,)), ((EVENT_KIND_REFUSED,) * 2, (0, 0))],
)
async def test_a_refusal_that_nothing_will_ask_for_ends_the_link(
    service: Service, worker: grpc.aio.Channel, kinds: Sequence[int], indices: Sequence[int]
) -> None:
    refusals = [IndexedRejection(index=index, rejection=pb.Rejection(reason=pb.REASON_IDS_COUNT)) for index in indices]
    raw = packed(service, *((kind, 1 + at) for at, kind in enumerate(kinds)))
    frame = LinkFrame(opens=[tag_open("ann")], events=raw, refusals=refusals)
    call = await ending(worker, "WorkerService/Link", LinkRequest(open=OPENING), LinkRequest(frame=frame))
    assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "frame.refusals" in await call.details()


async def test_who_is_only_looked_for_leaves_nothing(service: Service) -> None:
    opening = session_pb2.SessionRequest(open=session_pb2.SessionOpen(user_id="ann", model_version="none"))
    call = await ending(service.channel, "SessionService/Session", opening)
    assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
    async for _ in service.admin.ExportUser(admin_pb2.ExportUserRequest(user_id="ann")):
        pass
    assert (await service.admin.ForgetUser(admin_pb2.ForgetUserRequest(user_id="ann"))).version == 0
    assert all(len(engine.slab) == 0 for engine in service.engines)


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("TopUsers", worker_pb2.TopUsersRequest()),
        ("TopUsers", worker_pb2.TopUsersRequest(num=101)),
        ("ReadUser", worker_pb2.ReadUserRequest(user_id="ann", slot=NUM_SLOTS)),
        ("ForgetState", worker_pb2.ForgetStateRequest(user_id="ann", slot=1 << 31)),
        ("ForgetEvents", worker_pb2.ForgetEventsRequest()),
        ("Unquarantine", worker_pb2.UnquarantineRequest(user_id=LONG)),
    ],
)
async def test_a_worker_refuses_by_name_what_a_router_would_have(
    worker: grpc.aio.Channel, method: str, request_: Message
) -> None:
    call = await ending(worker, f"WorkerService/{method}", request_)
    assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_seq_beyond_all_is_a_gap_of_observe(service: Service) -> None:
    for seq in (SEQ_MAX + 1, (1 << 64) - 1):
        request = session_pb2.ObserveRequest(user_id="ann", session_id=str(ULID()), observation=observation(seq))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service.sessions.Observe(request)
        assert caught.value.code() is grpc.StatusCode.ABORTED


@pytest.mark.parametrize(
    ("method", "opening"),
    [
        ("Session", session_pb2.SessionRequest(open=session_pb2.SessionOpen(user_id="ann", model=LONG))),
        ("Session", session_pb2.SessionRequest(open=session_pb2.SessionOpen(user_id="ann", model_version=LONG))),
        ("Exchange", session_pb2.ExchangeRequest(open=session_pb2.ExchangeOpen(model="é" * 50_000))),
        ("Exchange", session_pb2.ExchangeRequest(open=session_pb2.ExchangeOpen(model_version=LONG))),
    ],
)
async def test_a_refusal_of_what_is_long_is_short(service: Service, method: str, opening: Message) -> None:
    call = await ending(service.channel, f"SessionService/{method}", opening)
    assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert len(await call.details()) < 1024
