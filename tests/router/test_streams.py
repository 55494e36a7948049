"""Who comes to a router that is stopping is turned away, and may come back."""

from __future__ import annotations

from typing import NoReturn, cast

import grpc
import pytest

from evercurrent.v1.session_pb2 import SessionOpen, SessionRequest
from router.core import RoutingCore
from router.session_stream import serve_session
from router.streams import Door


class Aborted(Exception):
    """The stream has ended with a status."""


class Context:
    """A stream on which a client opens a session."""

    async def read(self) -> bytes:
        return SessionRequest(open=SessionOpen(user_id="ann")).SerializeToString()

    async def abort(self, code: grpc.StatusCode, details: str, trailing_metadata: object = ()) -> NoReturn:
        raise Aborted(code, details)


async def test_a_closed_door_lets_nobody_in() -> None:
    door = Door()
    with door.passing():
        pass
    door.close()
    with pytest.raises(Aborted) as ended:
        await serve_session(cast(RoutingCore, None), 1024, cast(grpc.aio.ServicerContext, Context()), door)
    assert ended.value.args == (grpc.StatusCode.UNAVAILABLE, "the router is stopping")
