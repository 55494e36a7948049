"""What Session and Exchange streams do alike: they read raw bytes, whose size is known before they are parsed, and
their first message is an `open`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

import grpc.aio
from google.protobuf.message import DecodeError

from evercurrent.errors import Refused, abort, refused
from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1.session_pb2 import SessionRequest
from evercurrent.v1.wire_pb2 import WireExchangeRequest
from evercurrent.wire import ResultRecord

Message = pb.Observation | pb.Query | pb.Skip

CROWDED_RETRY_MS = 1000
REOPEN_AFTER_MS = 100
"""When whoever was turned away at the door may come back: to another router, or to this one's successor."""


class Near(Protocol):
    """The client of a Session stream where it lives in this process. What it sends need not be packed, nor wait for a
    task to read it; nor need what it is answered most."""

    def listen(self, take: Callable[[Message], bool]) -> None:
        """Have what the client sends given to `take` from now on, while nothing waits to be read. What it says no to
        waits so."""

    def answer(self, result: ResultRecord, model_version: str, now_us: int | None) -> bool:
        """Give the client the result of an observation that was applied, with the timings up to now if that is said.
        False: it is to be written, for others wait, or the client takes none now."""


Request = TypeVar("Request", SessionRequest, WireExchangeRequest)


class Door:
    """Whether streams are taken in: so many at once. One that comes while the others are asked to leave would never be
    asked. `open_timeout_s`: how long one may take to say what it is for."""

    def __init__(self, streams_max: int = 100_000, open_timeout_s: float = 10.0) -> None:
        self.open_timeout_s = open_timeout_s
        self._streams_max = streams_max
        self._num_streams = 0
        self._is_closed = False

    def close(self) -> None:
        """Take in nobody from now on."""
        self._is_closed = True

    @contextmanager
    def passing(self) -> Iterator[None]:
        """Somebody is in meanwhile.

        Raises:
            Refused: REASON_UNAVAILABLE, nobody comes in any more; REASON_OVERLOADED, too many are in.
        """
        if self._is_closed:
            raise refused(pb.REASON_UNAVAILABLE, "", "the router is stopping", REOPEN_AFTER_MS)
        if self._num_streams >= self._streams_max:
            raise refused(pb.REASON_OVERLOADED, "", f"{self._num_streams} streams are open here", CROWDED_RETRY_MS)
        self._num_streams += 1
        try:
            yield
        finally:
            self._num_streams -= 1


async def serve(
    context: grpc.aio.ServicerContext, door: Door, kind: type[Request], run: Callable[[Request], Awaitable[None]]
) -> None:
    """Read the `open`, serve the stream to its end, and end it with a status if it is refused."""
    try:
        with door.passing():
            first = await _first(context, door.open_timeout_s)
            request = kind() if first is grpc.aio.EOF else parse(kind, first)
            if request.WhichOneof("request") != "open":
                raise refused(pb.REASON_PROTOCOL, "open", "the first message of a stream is its open")
            await run(request)
    except Refused as error:
        await abort(context, error.rejection)


async def _first(context: grpc.aio.ServicerContext, timeout_s: float) -> bytes:
    """The first message. Raises Refused: REASON_DEADLINE, it did not come in time.

    The read is not cancelled for that: gRPC would cancel the call, and its client never be told why."""
    reading = asyncio.ensure_future(context.read())
    done, _ = await asyncio.wait({reading}, timeout=timeout_s)
    if not done:
        reading.add_done_callback(_retrieved)
        raise refused(pb.REASON_DEADLINE, "open", f"did not come within {timeout_s:g} s")
    first: bytes = reading.result()
    return first


def _retrieved(reading: asyncio.Future[bytes]) -> None:
    """How a read ends whose call was ended is of no interest."""
    if not reading.cancelled():
        reading.exception()


def parse(kind: type[Request], raw: bytes) -> Request:
    """A request of its bytes.

    Raises:
        Refused: REASON_PROTOCOL, they are none.
    """
    try:
        return kind.FromString(raw)
    except DecodeError as error:
        name = kind.__name__.removeprefix("Wire")
        raise refused(pb.REASON_PROTOCOL, "request", f"is not a message of the type {name}") from error


def unix_us() -> int:
    """Microseconds since the Unix epoch: stamped on events that have no time of their own."""
    return time.time_ns() // 1000
