"""What Session and Exchange streams do alike: they read raw bytes, whose size is known before they are parsed, and
their first message is an `open`."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc.aio
from google.protobuf.message import DecodeError

from evercurrent.errors import Refused, abort, refused
from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1.session_pb2 import SessionRequest
from evercurrent.v1.wire_pb2 import WireExchangeRequest

REOPEN_AFTER_MS = 100
"""When whoever was turned away at the door may come back: to another router, or to this one's successor."""

Request = TypeVar("Request", SessionRequest, WireExchangeRequest)


class Door:
    """Whether streams are taken in. One that comes while the others are asked to leave would never be asked."""

    def __init__(self) -> None:
        self._is_closed = False

    def close(self) -> None:
        """Take in nobody from now on."""
        self._is_closed = True

    def enter(self) -> None:
        """Somebody comes in.

        Raises:
            Refused: REASON_UNAVAILABLE, nobody does.
        """
        if self._is_closed:
            raise refused(pb.REASON_UNAVAILABLE, "", "the router is stopping", REOPEN_AFTER_MS)


async def serve(
    context: grpc.aio.ServicerContext, kind: type[Request], run: Callable[[Request], Awaitable[None]]
) -> None:
    """Read the `open`, serve the stream to its end, and end it with a status if it is refused."""
    try:
        first = await context.read()
        request = kind() if first is grpc.aio.EOF else parse(kind, first)
        if request.WhichOneof("request") != "open":
            raise refused(pb.REASON_PROTOCOL, "open", "the first message of a stream is its open")
        await run(request)
    except Refused as error:
        await abort(context, error.rejection)


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
