"""What a stop waits for: that routers have been written what there was for them, or are gone."""

from __future__ import annotations

import asyncio

from evercurrent.v1 import worker_pb2
from worker.outboxes import Outboxes

LINK = 1


class SlowStream:
    """A stream that takes a message when it is let."""

    def __init__(self) -> None:
        self.taken: list[object] = []
        self.room = asyncio.Event()

    async def read(self) -> object:
        raise AssertionError("nobody reads here")

    async def write(self, message: worker_pb2.LinkResponse) -> None:
        await self.room.wait()
        self.taken.append(message)


async def test_all_is_written_when_the_last_message_was_taken() -> None:
    outboxes, stream = Outboxes(lambda: None), SlowStream()
    box = outboxes.add(LINK)
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        sending = tasks.create_task(box.send(stream))
        await outboxes.all_written()
        outboxes.ended(LINK, [worker_pb2.LinkTagEnded(tag=7)], 0)
        written = tasks.create_task(outboxes.all_written())
        await asyncio.sleep(0)
        outboxes.put_status(worker_pb2.WorkerStatus(residents=3))
        await asyncio.sleep(0)
        assert not written.done()
        stream.room.set()
        await written
        assert len(stream.taken) == 2
        sending.cancel()


async def test_nobody_waits_for_a_link_that_has_ended() -> None:
    outboxes, stream = Outboxes(lambda: None), SlowStream()
    box = outboxes.add(LINK)
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        sending = tasks.create_task(box.send(stream))
        outboxes.put_status(worker_pb2.WorkerStatus(residents=3))
        written = tasks.create_task(outboxes.all_written())
        await asyncio.sleep(0)
        assert not written.done()
        sending.cancel()
        outboxes.remove(LINK)
        await written
        await outboxes.all_gone()
    assert stream.taken == []
