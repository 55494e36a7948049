"""The client's side of every bench: what it sends when, and what it makes of the replies.

It shares the machine's cores with what it measures, so it is as light as Python allows: requests are serialised
beforehand, replies stay bytes until the clock has stopped (Exchange and Link frames, one for hundreds of events, are
read as they come), and streams are driven by `read()` and `write()`: at 256 streams a round trip costs the client
about 64 µs so, and 73 µs with async generators.

Every reply is checked: an event that was not applied ends the bench (`WrongReplyError`). Slow replies are never
excused: an open-loop latency counts from the moment the event was to be sent, not from when the stream took it
(coordinated omission; Tene, "How NOT to Measure Latency").
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
import numpy as np
from numpy.typing import NDArray

from bench.pacing import Clock
from bench.run import WrongReplyError
from bench.traffic import FRAME_EVENTS, OPENS_A_FRAME
from evercurrent.v1 import admin_pb2, columns_pb2, description_pb2, observation_pb2, session_pb2, wire_pb2, worker_pb2
from evercurrent.wire import Layout

READY_TIMEOUT_S = 30.0
MESSAGE_BYTES_MAX = 8 * 2**20
SESSION_UNANSWERED_MAX = 250
"""A service refuses what a session sends beyond 256 that are not answered; a client that knows that waits."""

Metadata = tuple[tuple[str, str], ...]
"""What goes ahead of a call's messages, for whoever routes by it."""


class Stream(Protocol):
    """What the load needs of a bidirectional call whose messages are bytes. `read` gives `grpc.aio.EOF` at the end."""

    async def write(self, request: bytes) -> None: ...
    async def read(self) -> Any: ...


@dataclass(frozen=True, slots=True)
class Replies:
    """What came back from one stream: a latency a reply, in order, and the replies as bytes."""

    latencies_ns: NDArray[np.int64]
    raw: list[bytes]


Check = Callable[[Replies, int], list[observation_pb2.ObservationResult]]
"""Reads the replies of a session whose first seq is this, and raises where one is not the applied update asked for."""


@asynccontextmanager
async def connect(address: str) -> AsyncIterator[grpc.aio.Channel]:
    """A channel of its own connection that is ready."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        await asyncio.wait_for(channel.channel_ready(), READY_TIMEOUT_S)
        yield channel


async def describe_model(channel: grpc.aio.Channel) -> description_pb2.ModelDescription:
    """What the service serves."""
    method = channel.unary_unary(
        "/evercurrent.v1.AdminService/DescribeModel",
        request_serializer=admin_pb2.DescribeModelRequest.SerializeToString,
        response_deserializer=admin_pb2.DescribeModelResponse.FromString,
    )
    response: admin_pb2.DescribeModelResponse = await method(
        admin_pb2.DescribeModelRequest(), timeout=READY_TIMEOUT_S, wait_for_ready=True
    )
    return response.model


async def open_session(channel: grpc.aio.Channel, open_request: bytes, metadata: Metadata = ()) -> Any:
    """A Session stream whose open was answered."""
    call = _call(channel, "SessionService/Session", metadata)
    await call.write(open_request)
    response = session_pb2.SessionResponse.FromString(await read(call))
    if response.WhichOneof("response") != "opened":
        raise WrongReplyError(f"a session was not opened: {response}")
    return call


async def open_exchange(
    channel: grpc.aio.Channel, opens: Sequence[bytes], num_tags: int, metadata: Metadata = ()
) -> Any:
    """An Exchange stream on which all tags are open. `opens` is `traffic.exchange_opens`."""
    return await _open_tags(_call(channel, "SessionService/Exchange", metadata), opens, num_tags, _exchange_opens)


async def begin_link(channel: grpc.aio.Channel, opening: bytes) -> tuple[Any, description_pb2.ModelDescription]:
    """A Link stream to a worker that has answered the link's own open, and what it serves."""
    call = _call(channel, "WorkerService/Link")
    await call.write(opening)
    return call, worker_pb2.LinkResponse.FromString(await read(call)).opened.model


async def open_link(channel: grpc.aio.Channel, opens: Iterable[bytes], num_tags: int, metadata: Metadata = ()) -> Any:
    """A Link stream to a worker on which all tags are open. `opens` is `traffic.link_opens`."""
    return await _open_tags(_call(channel, "WorkerService/Link", metadata), opens, num_tags, _link_opens)


async def _open_tags(call: Any, opens: Iterable[bytes], num_tags: int, opened: Callable[[bytes], Sequence[Any]]) -> Any:
    """Sends each message when all tags of those before are open. A worker bounds how many wait for their users."""
    num_opened = 0
    for number, message in enumerate(opens):
        await call.write(message)
        is_answered = False
        while not is_answered:
            tags = opened(await read(call))
            refused = [tag.rejection for tag in tags if tag.HasField("rejection")]
            if refused:
                raise WrongReplyError(f"a session was not opened: {refused[0]}")
            num_opened += len(tags)
            is_answered = num_opened >= min(number * OPENS_A_FRAME, num_tags)
    return call


def _exchange_opens(raw: bytes) -> Sequence[Any]:
    response = wire_pb2.WireExchangeResponse.FromString(raw)
    if response.WhichOneof("response") not in ("opened", "frame"):
        raise WrongReplyError(f"an Exchange stream was not opened: {response}")
    return response.frame.opens


def _link_opens(raw: bytes) -> Sequence[Any]:
    return worker_pb2.LinkResponse.FromString(raw).frame.opens


def _call(channel: grpc.aio.Channel, method: str, metadata: Metadata = ()) -> Any:
    """A bidirectional call that takes and gives bytes."""
    return channel.stream_stream(f"/evercurrent.v1.{method}")(metadata=metadata)


async def read(call: Any) -> bytes:
    """The next reply.

    Raises:
        WrongReplyError: the stream ended instead.
    """
    try:
        reply = await call.read()
    except grpc.aio.AioRpcError as error:
        raise WrongReplyError(f"a stream broke: {error.code().name}: {error.details()}") from error
    if reply is grpc.aio.EOF:
        raise WrongReplyError("a stream ended before its last reply")
    received: bytes = reply
    return received


async def close(call: Any, num_answered: Callable[[bytes], int] | None = None) -> None:
    """Half-close and wait for the stream to end with OK. What comes meanwhile is no answer: a worker says unasked how
    it is, which `num_answered` tells."""
    await call.done_writing()
    while (reply := await call.read()) is not grpc.aio.EOF:
        if num_answered is None or num_answered(reply):
            raise WrongReplyError(f"a reply came that nothing asked for: {reply!r}")


async def closed_loop(stream: Stream, requests: Sequence[bytes]) -> Replies:
    """Sends each request when the one before is answered."""
    latencies_ns = np.empty(len(requests), np.int64)
    raw: list[bytes] = []
    now = time.perf_counter_ns
    for i, request in enumerate(requests):
        start_ns = now()
        await stream.write(request)
        reply = await read(stream)
        latencies_ns[i] = now() - start_ns
        raw.append(reply)
    return Replies(latencies_ns, raw)


async def closed_loops(streams: Sequence[Stream], requests: Sequence[Sequence[bytes]]) -> list[Replies]:
    """One closed loop a stream, all at once."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(closed_loop(*each)) for each in zip(streams, requests, strict=True)]
    return [task.result() for task in tasks]


async def open_loop(stream: Stream, requests: Sequence[bytes], intended_ns: NDArray[np.int64], clock: Clock) -> Replies:
    """Sends each request at its intended time, or as soon after it as the stream has taken the one before; waits for no
    reply but where SESSION_UNANSWERED_MAX are owed. Latencies count from the intended times."""
    latencies_ns = np.empty(len(requests), np.int64)
    raw: list[bytes] = []
    room = asyncio.Semaphore(SESSION_UNANSWERED_MAX)

    async def send() -> None:
        for request, at_ns in zip(requests, intended_ns.tolist(), strict=True):
            await clock.sleep_until(at_ns)
            await room.acquire()
            await stream.write(request)

    async def receive() -> None:
        for i, at_ns in enumerate(intended_ns.tolist()):
            raw.append(await read(stream))
            latencies_ns[i] = clock.now_ns() - at_ns
            room.release()

    async with asyncio.TaskGroup() as group:
        group.create_task(send())
        group.create_task(receive())
    return Replies(latencies_ns, raw)


async def open_loop_of_frames(
    stream: Stream,
    requests: Sequence[bytes],
    intended_ns: NDArray[np.int64],
    clock: Clock,
    numbers: Callable[[bytes], NDArray[np.int64]],
) -> NDArray[np.int64]:
    """As `open_loop`, on a stream whose replies answer several requests, in any order: `numbers` tells which."""
    latencies_ns = np.empty(len(requests), np.int64)

    async def send() -> None:
        for request, at_ns in zip(requests, intended_ns.tolist(), strict=True):
            await clock.sleep_until(at_ns)
            await stream.write(request)

    async def receive() -> None:
        num_answered = 0
        while num_answered < len(requests):
            raw = await read(stream)
            now_ns = clock.now_ns()
            answered = numbers(raw)
            latencies_ns[answered] = now_ns - intended_ns[answered]
            num_answered += len(answered)

    async with asyncio.TaskGroup() as group:
        group.create_task(send())
        group.create_task(receive())
    return latencies_ns


async def durable_lags(
    stream: Any, requests: Sequence[bytes], intended_ns: NDArray[np.int64], clock: Clock
) -> NDArray[np.int64]:
    """Sends as `open_loop`, on a new session with `wait_durable`, and half-closes it: how long after its intended time
    each observation, seq 1 and up, was told to be durable.

    Raises:
        WrongReplyError: the stream ended before all of them were, or one was not applied.
    """
    told: list[tuple[int, bytes]] = []

    async def send() -> None:
        for request, at_ns in zip(requests, intended_ns.tolist(), strict=True):
            await clock.sleep_until(at_ns)
            await stream.write(request)
        await stream.done_writing()

    async def receive() -> None:
        while (reply := await stream.read()) is not grpc.aio.EOF:
            told.append((clock.now_ns(), reply))

    async with asyncio.TaskGroup() as group:
        group.create_task(send())
        group.create_task(receive())
    return _durable_ns(told, len(requests)) - intended_ns


def _durable_ns(told: Sequence[tuple[int, bytes]], num_events: int) -> NDArray[np.int64]:
    """When each event of a session became known to be durable, from its replies and when they came."""
    durable_ns = np.zeros(num_events, np.int64)
    num_applied, num_durable = 0, 0
    for at_ns, raw in told:
        response = session_pb2.SessionResponse.FromString(raw)
        if response.HasField("watermark"):
            durable_ns[num_durable : response.watermark.durable_seq] = at_ns
            num_durable = response.watermark.durable_seq
        else:
            num_applied += 1
            _applied(response, num_applied)
    if not num_durable == num_applied == num_events:
        raise WrongReplyError(f"of {num_events} observations {num_applied} were applied and {num_durable} are durable")
    return durable_ns


async def open_loops(
    streams: Sequence[Stream],
    requests: Sequence[Sequence[bytes]],
    intended_ns: Sequence[NDArray[np.int64]],
    clock: Clock,
) -> list[Replies]:
    """One open loop a stream, all at once."""
    loads = zip(streams, requests, intended_ns, strict=True)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(open_loop(*each, clock)) for each in loads]
    return [task.result() for task in tasks]


async def pump(stream: Stream, frames: Sequence[bytes], window: int, applied: Callable[[bytes], int]) -> None:
    """Sends frames of FRAME_EVENTS events, at most `window` frames' worth of them unanswered, until all are answered.

    `applied` tells how many events a reply answers and raises where one was not applied; replies need not be cut as the
    frames were.
    """
    unanswered = 0
    room = asyncio.Event()

    async def send() -> None:
        nonlocal unanswered
        for frame in frames:
            while unanswered > (window - 1) * FRAME_EVENTS:
                room.clear()
                await room.wait()
            unanswered += FRAME_EVENTS
            await stream.write(frame)

    async def receive() -> None:
        nonlocal unanswered
        remaining = len(frames) * FRAME_EVENTS
        while remaining > 0:
            num_events = applied(await read(stream))
            remaining -= num_events
            unanswered -= num_events
            room.set()
        if remaining:
            raise WrongReplyError(f"{-remaining} more results than events")

    async with asyncio.TaskGroup() as group:
        group.create_task(send())
        group.create_task(receive())


def check_session(replies: Replies, first_seq: int) -> list[observation_pb2.ObservationResult]:
    """Every reply of a session is an applied update, in order: these.

    Raises:
        WrongReplyError: one is not.
    """
    responses = [session_pb2.SessionResponse.FromString(raw) for raw in replies.raw]
    return [_applied(response, seq) for seq, response in enumerate(responses, first_seq)]


def _applied(response: session_pb2.SessionResponse, seq: int) -> observation_pb2.ObservationResult:
    result = response.result
    if result.status != observation_pb2.STATUS_APPLIED or result.seq != seq:
        raise WrongReplyError(f"the observation with seq {seq} was not applied: {response}")
    return result


def check_refused(replies: Replies, reason: observation_pb2.Reason) -> None:
    """Every reply of a session is a result that was rejected for this reason.

    Raises:
        WrongReplyError: one is not.
    """
    for raw in replies.raw:
        response = session_pb2.SessionResponse.FromString(raw)
        if response.result.rejection.reason != reason:
            raise WrongReplyError(f"what was to be refused was answered otherwise: {response}")


def applied_of_exchange(raw: bytes) -> int:
    """How many events an Exchange reply answers.

    Raises:
        WrongReplyError: one of them was not applied, or the reply is none to events.
    """
    response = wire_pb2.WireExchangeResponse.FromString(raw)
    results = response.frame.results
    if results.statuses.count(observation_pb2.STATUS_APPLIED) != len(results.statuses) or not results.statuses:
        raise WrongReplyError(f"an event of a frame was not applied: {_why(response.frame, results.rejections)}")
    return len(results.statuses)


def applied_of_link(layout: Layout) -> Callable[[bytes], int]:
    """The same for a worker's reply."""

    def applied(raw: bytes) -> int:
        response = worker_pb2.LinkResponse.FromString(raw)
        results = layout.results(response.frame.results)
        if not len(results) and response.frame.HasField("status"):
            return 0
        if not len(results) or (results["status"] != observation_pb2.STATUS_APPLIED).any():
            raise WrongReplyError(
                f"an event of a frame was not applied: {_why(response.frame, response.frame.rejections)}"
            )
        return len(results)

    return applied


def _why(frame: Any, rejections: Sequence[columns_pb2.IndexedRejection]) -> object:
    """What to show of a frame that is wrong: the first rejection of an event or a tag, or that there is none."""
    refused = [each.rejection for each in (*rejections, *frame.opens) if each.HasField("rejection")]
    return refused[0] if refused else "the reply has no results"
