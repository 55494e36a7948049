"""The streams of direct mode by themselves: bounded, in order, ended once."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from evercurrent.client.transport import StreamEnded
from evercurrent.direct.pipe import BYTES_MAX, MESSAGES_MAX, Pipe
from evercurrent.direct.stream import CANCELLED, Context, DirectStream
from evercurrent.errors import abort, rejection
from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1.session_pb2 import SessionRequest, SessionResponse, Watermark

Served = DirectStream[SessionRequest, SessionResponse]


@pytest.mark.parametrize(("message", "num_max"), [(b"x", MESSAGES_MAX), (bytes(BYTES_MAX // 4), 4)])
async def test_who_writes_waits_for_who_reads(message: bytes, num_max: int) -> None:
    pipe, num_written = Pipe(), 0

    async def write() -> None:
        nonlocal num_written
        for _ in range(3 * num_max):
            assert await pipe.write(message)
            num_written += 1
        pipe.end()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(write())
        for num_read in range(3 * num_max):
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert num_written <= num_read + num_max
            assert await pipe.read() == message
    assert await pipe.read() is None


async def test_an_ended_pipe_gives_what_is_in_it_and_takes_no_more() -> None:
    pipe = Pipe()
    await pipe.write(b"one")
    pipe.end()
    pipe.end()
    assert not await pipe.write(b"two")
    assert [await pipe.read(), await pipe.read()] == [b"one", None]


async def test_the_end_wakes_who_waits() -> None:
    empty, full = Pipe(), Pipe()
    for _ in range(MESSAGES_MAX):
        await full.write(b"x")
    async with asyncio.TaskGroup() as tasks:
        reading, writing = tasks.create_task(empty.read()), tasks.create_task(full.write(b"x"))
        await asyncio.sleep(0)
        empty.end()
        full.end()
    assert (reading.result(), writing.result()) == (None, False)


async def test_what_is_given_overtakes_nothing() -> None:
    pipe: Pipe = Pipe()
    taken: list[object] = []
    has_room = True

    def take(message: object) -> bool:
        if has_room:
            taken.append(message)
        return has_room

    assert not pipe.give("nobody listens")
    pipe.listen(take)
    assert pipe.give("one")
    pipe.write_now(b"two")
    assert not pipe.give("three")
    assert await pipe.read() == b"two"
    has_room = False
    assert not pipe.give("three")
    has_room = True
    assert pipe.give("three")
    assert taken == ["one", "three"]
    pipe.end()
    assert not pipe.give("four")


async def echo(context: Context) -> None:
    """Answers each message with a watermark, until none comes."""
    while isinstance(raw := await context.read(), bytes):
        seq = SessionRequest.FromString(raw).observation.seq
        await context.write(SessionResponse(watermark=Watermark(durable_seq=seq)).SerializeToString())


async def test_a_stream_from_its_first_message_to_its_half_close() -> None:
    stream = Served(SessionResponse)
    async with asyncio.TaskGroup() as tasks:
        stream.served_by(tasks.create_task(stream.serve(echo)), lambda: CANCELLED)
        await stream.write(SessionRequest(observation=pb.Observation(seq=7)))
        response = await stream.read()
        assert response is not None
        assert response.watermark.durable_seq == 7
        assert stream.has_room
        stream.give(pb.Observation(seq=8))
        await stream.done_writing()
        response = await stream.read()
        assert response is not None
        assert response.watermark.durable_seq == 8
        assert await stream.read() is None
    assert (await stream.ending()).code is grpc.StatusCode.OK
    with pytest.raises(StreamEnded):
        await stream.write(SessionRequest())
    assert not stream.has_room


async def test_a_refusal_ends_it_with_its_details() -> None:
    async def refuse(context: Context) -> None:
        await context.write(SessionResponse().SerializeToString())
        await abort(context, rejection(pb.REASON_OVERLOADED, "", "not now", 250))

    stream = Served(SessionResponse)
    await stream.serve(refuse)
    assert await stream.read() is not None
    assert await stream.read() is None
    ending = await stream.ending()
    assert (ending.code, ending.reason, ending.retry_after_s) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "OVERLOADED",
        0.25,
    )


async def test_cancelling_ends_the_other_side_even_before_it_began() -> None:
    for has_begun in (False, True):
        stream = Served(SessionResponse)
        async with asyncio.TaskGroup() as tasks:
            serving = tasks.create_task(stream.serve(echo))
            stream.served_by(serving, lambda: CANCELLED)
            if has_begun:
                await asyncio.sleep(0)
            stream.cancel()
            stream.cancel()
            assert await stream.read() is None
            assert await stream.ending() == CANCELLED
        assert serving.cancelled()
