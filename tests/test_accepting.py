"""A server outlives requests that are none, and says what is wrong with a message that cannot be read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from evercurrent.accepting import checked
from evercurrent.serving import bind, new_server
from tests.fuzz.raw import DATA, END_HEADERS, END_STREAM, HEADERS, PREFACE, SETTINGS, frame, grpc_message, header

JUNK = b"\x0a\xff"


@pytest.fixture
async def address() -> AsyncIterator[str]:
    """A server of health and reflection alone."""
    server = await new_server([], [])
    bound = bind(server, "127.0.0.1:0")
    await server.start()
    try:
        yield bound
    finally:
        await server.stop(grace=None)


async def call_path(address: str, path: bytes) -> bytes:
    """Call a method by its raw path; what comes back first."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    names = {b":method": b"POST", b":scheme": b"http", b":path": path, b":authority": b"a", b"te": b"trailers"}
    block = b"".join(header(*pair) for pair in [*names.items(), (b"content-type", b"application/grpc")])
    writer.write(PREFACE + frame(SETTINGS, 0, 0, b"") + frame(HEADERS, END_HEADERS, 1, block))
    writer.write(frame(DATA, END_STREAM, 1, grpc_message(b"")))
    received = b""
    while b"grpc-status" not in received:
        part = await reader.read(1 << 16)
        assert part, received
        received += part
    writer.close()
    await writer.wait_closed()
    return received


@pytest.mark.parametrize("path", [b"/\xff\xfe/\xff", b"\0", b"", b"/evercurrent.v1.SessionService/\xff", "/é".encode()])
async def test_a_path_that_is_none_is_unimplemented_and_the_server_goes_on(address: str, path: bytes) -> None:
    assert b"12" in await call_path(address, path)
    async with grpc.aio.insecure_channel(address) as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize(
    "method",
    [
        "grpc.health.v1.Health/Check",
        "grpc.health.v1.Health/Watch",
        "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ],
)
async def test_a_message_that_cannot_be_read_is_an_invalid_argument(
    address: str, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.stream_stream(f"/{method}")()
        await call.write(JUNK)
        await call.done_writing()
        assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert not caplog.records


async def test_a_list_of_all_health_is_unimplemented_without_an_error(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health_pb2_grpc.HealthStub(channel).List(health_pb2.HealthListRequest())
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert not caplog.records


async def test_a_generator_is_closed_at_once_when_its_call_is_cancelled() -> None:
    is_writing, closed = asyncio.Event(), []

    async def answers(_: object, __: object) -> AsyncIterator[bytes]:
        try:
            yield b""
        finally:
            closed.append(True)

    class Context:
        async def write(self, _: bytes) -> None:
            is_writing.set()
            await asyncio.Event().wait()

    handler = checked(grpc.unary_stream_rpc_method_handler(answers, bytes))
    call = asyncio.create_task(handler.unary_stream(b"", Context()))
    await is_writing.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert closed
