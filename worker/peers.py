"""Slots from worker to worker: the client and the server side of Release (worker.proto).

What is handed over travels as segments without a number, at most a MiB each. The owner finishes a release that it has
begun, also when the asker has gone: what was not durable then is replayed by whoever feeds the users.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from typing import ParamSpec, TypeVar

import grpc
import grpc.aio
import numpy as np
from ulid import ULID

from evercurrent.channels import CHANNEL_OPTIONS
from evercurrent.security.dialing import PLAIN, Dialing
from evercurrent.v1 import worker_pb2, worker_pb2_grpc
from evercurrent.v1.storage_pb2 import SegmentFooter
from persistence.packing import part_messages
from persistence.rows import Rows
from persistence.segment import HANDED_OVER, SegmentWriter, read_segment
from worker.claims import Left
from worker.flows import AskRelease, Dead, Released, Unreachable

MESSAGE_BYTES_MAX = 1 << 20
ROW_BYTES = 160
"""What a row has beside its state, about."""
IN_PLACE_BYTES_MAX = 1 << 16
"""Rows of so many bytes are encoded and decoded on the loop, in less than half a millisecond: users wait meanwhile, and
a thread may take several to get its turn."""

P = ParamSpec("P")
T = TypeVar("T")

HandOverRows = Callable[[Rows], Awaitable[None]]
"""Takes rows that are handed over, once those before were taken."""

GONE = (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.UNIMPLEMENTED)
"""Statuses of an address where the incarnation that was asked for is no more."""


class WorkerPeers:
    """Asks other workers. One that says nothing for `silence_s` counts as unreachable."""

    def __init__(self, silence_s: float, dialing: Dialing = PLAIN) -> None:
        self._silence_s = silence_s
        self._dialing = dialing

    async def ask(self, ask: AskRelease) -> Released | Dead | Unreachable:
        """Have an incarnation release slots. Raises StoreError: what it handed over cannot be read."""
        request = worker_pb2.ReleaseRequest(incarnation=ask.incarnation)
        for slot, claim in ask.claims.items():
            request.slots.add(slot=slot, claim=str(ULID.from_int(claim)))
        try:
            name = ask.incarnation.partition("/")[0]
            async with self._dialing.channel(ask.address, name, CHANNEL_OPTIONS) as channel:
                return await self._receive(worker_pb2_grpc.WorkerServiceStub(channel).Release(request))
        except grpc.aio.AioRpcError as error:
            if error.code() in GONE:
                return Dead()
            return Dead() if await self._refuses(ask.address) else Unreachable()
        except TimeoutError:
            return Unreachable()

    async def _receive(self, call: grpc.aio.UnaryStreamCall) -> Released | Unreachable:
        rows: list[Rows] = []
        not_held: set[int] = set()
        kept: set[int] = set()
        while True:
            async with asyncio.timeout(self._silence_s):
                response = await call.read()
            if response is grpc.aio.EOF:
                return Unreachable()
            not_held.update(response.not_held)
            kept.update(response.kept)
            if response.rows:
                segment = await _apart(len(response.rows), read_segment, response.rows)
                if segment.damaged:
                    return Unreachable()
                rows.append(segment.rows)
            if response.complete:
                return Released(rows, frozenset(not_held), frozenset(kept))

    async def _refuses(self, address: str) -> bool:
        """Whether nobody listens there: then the owner is dead, and not merely out of reach."""
        host, _, port = address.rpartition(":")
        try:
            async with asyncio.timeout(self._silence_s):
                _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        except ConnectionRefusedError:
            return True
        except (OSError, TimeoutError):
            return False
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        return False


class HandingOver:
    """A release on its way to an asker, a message at a time; rows that come after the asker has gone are dropped."""

    def __init__(self) -> None:
        # Rows that wait and rows that are being encoded, by `_room` one of each at most; then the two that end it.
        self._messages: asyncio.Queue[worker_pb2.ReleaseResponse | None] = asyncio.Queue(4)
        self._room = asyncio.Semaphore(1)
        self._is_gone = False

    async def run(self, release: Callable[[HandOverRows], Awaitable[Left]]) -> None:
        """Have slots released, to the end whoever still asks for them."""
        try:
            left = await release(self._take)
            self._messages.put_nowait(
                worker_pb2.ReleaseResponse(not_held=sorted(left.not_held), kept=sorted(left.kept), complete=True)
            )
        finally:
            self._messages.put_nowait(None)

    async def messages(self) -> AsyncGenerator[worker_pb2.ReleaseResponse]:
        """What is to be sent, to its end; the last one is `complete`, unless the incarnation ended meanwhile."""
        try:
            while (message := await self._messages.get()) is not None:
                self._room.release()
                yield message
        finally:
            self._is_gone = True
            self._room.release()

    async def _take(self, rows: Rows) -> None:
        row_bytes = 4 * rows.states.shape[1] + ROW_BYTES
        per_message = max(1, MESSAGE_BYTES_MAX // row_bytes)
        for start in range(0, len(rows), per_message):
            await self._room.acquire()
            if self._is_gone:
                self._room.release()
                return
            part = rows.take(np.arange(start, min(start + per_message, len(rows))))
            body = await _apart(len(part) * row_bytes, _encoded, part)
            self._messages.put_nowait(worker_pb2.ReleaseResponse(rows=body))


async def _apart(num_bytes: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Have work done on a thread if it is much."""
    if num_bytes <= IN_PLACE_BYTES_MAX:
        return work(*args, **kwargs)
    return await asyncio.to_thread(work, *args, **kwargs)


def _encoded(rows: Rows) -> bytes:
    writer = SegmentWriter(rows.states.shape[1])
    writer.add(rows)
    return writer.finish(
        SegmentFooter(number=HANDED_OVER, model=rows.packing[0].version, parts=part_messages(rows.packing))
    )
