"""A Session stream by value: what happens between two turns of the event loop."""

from __future__ import annotations

import asyncio
from typing import cast

import grpc
import pytest

from evercurrent.errors import Refused
from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1 import worker_pb2
from evercurrent.v1.session_pb2 import SessionOpen, SessionResponse
from router.session_stream import SessionStream
from tests.router.playing import WORKER, core_of, link


class Context:
    """A stream whose client says nothing more."""

    def __init__(self) -> None:
        self.written: list[SessionResponse] = []

    async def read(self) -> bytes:
        await asyncio.Event().wait()
        raise AssertionError("nothing is said")

    async def write(self, raw: bytes) -> None:
        self.written.append(SessionResponse.FromString(raw))


async def test_a_session_that_ends_as_it_opens_is_told_of_both() -> None:
    core = core_of()
    outbox = link(core)
    stream, context = SessionStream(core, SessionOpen(user_id="ann"), 1 << 16), Context()
    (asked,) = outbox.take().frame.opens
    core.receive(WORKER, worker_pb2.LinkResults(opens=[worker_pb2.LinkTagOpened(tag=asked.tag, applied_seq=7)]))
    core.link_lost(WORKER)
    with pytest.raises(Refused) as ended:
        await stream.run(cast(grpc.aio.ServicerContext, context))
    assert ended.value.rejection.reason == pb.REASON_UNAVAILABLE
    assert [response.opened.applied_seq for response in context.written] == [7]
    assert core.is_idle
