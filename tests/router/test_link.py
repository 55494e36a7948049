"""How a link's writer ends: by letting the worker go, or with a stream that has ended, which is no fault of its own."""

from __future__ import annotations

import asyncio

import pytest

from evercurrent.v1 import worker_pb2
from router.link import GATHER_FROM, GATHER_TURNS, _send
from router.outbox import Link, Outbox


class Call:
    """The writing side of a stream."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.written: list[worker_pb2.LinkRequest] = []
        self.has_written = asyncio.Event()
        self.is_half_closed = False
        self._failure = failure

    async def write(self, request: worker_pb2.LinkRequest) -> None:
        if self._failure is not None:
            raise self._failure
        self.written.append(request)
        self.has_written.set()

    async def done_writing(self) -> None:
        self.is_half_closed = True


async def test_a_worker_that_is_let_go_is_written_no_more() -> None:
    call, filled, is_let_go = Call(), asyncio.Event(), asyncio.Event()
    outbox = Outbox(filled.set)
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        sending = tasks.create_task(_send(call, Link("w", ""), outbox, filled, is_let_go))
        outbox.tell_slots([1])
        await call.has_written.wait()
        outbox.tell_slots([])
        is_let_go.set()
        await sending
    assert (len(call.written), call.is_half_closed) == (1, True)


@pytest.mark.parametrize(("num_in_flight", "events"), [(GATHER_FROM, [b"onetwo"]), (GATHER_FROM - 1, [b"one", b"two"])])
async def test_a_frame_waits_for_what_comes_where_much_is_under_way(num_in_flight: int, events: list[bytes]) -> None:
    call, filled, is_let_go = Call(), asyncio.Event(), asyncio.Event()
    outbox, link = Outbox(filled.set), Link("w", "")
    link.num_in_flight = num_in_flight
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        sending = tasks.create_task(_send(call, link, outbox, filled, is_let_go))
        outbox.send(b"one", 1)
        for _ in range(GATHER_TURNS):
            await asyncio.sleep(0)
        outbox.send(b"two", 1)
        while len(call.written) < len(events):
            call.has_written.clear()
            await call.has_written.wait()
        for _ in range(2 * GATHER_TURNS):
            await asyncio.sleep(0)
        sending.cancel()
    assert [request.frame.events for request in call.written] == events


async def test_a_stream_that_has_ended_is_told_to_who_reads() -> None:
    call, filled = Call(asyncio.InvalidStateError("RPC already finished.")), asyncio.Event()
    Outbox(filled.set).tell_slots([1])
    async with asyncio.timeout(5):
        await _send(call, Link("w", ""), Outbox(filled.set), filled, asyncio.Event())


async def test_another_error_is_none_of_the_stream() -> None:
    call, filled = Call(ValueError("ours")), asyncio.Event()
    filled.set()
    with pytest.raises(ValueError, match="ours"):
        await _send(call, Link("w", ""), Outbox(filled.set), filled, asyncio.Event())
