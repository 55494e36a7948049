"""The driver of flows on the serving loop: carries out what they yield and goes on with the answer (worker.flows).

Store calls happen on the store's own thread, and what takes long to encode or decode on a thread of the pool. A flow
that meets a StoreError has it thrown into it; any other error is a fault of ours and ends the incarnation.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

from persistence.errors import StoreError, StoreUnavailable
from persistence.segment import Segment, read_segment
from persistence.store import ObjectStore, Stored, list_all
from worker.flows import (
    AskRelease,
    Dead,
    Delete,
    Effect,
    Flow,
    Get,
    HandOver,
    ListKeys,
    Offload,
    Pause,
    PutIfAbsent,
    PutIfMatch,
    ReadSegment,
    Released,
    Together,
    Unreachable,
    Wait,
)
from worker.peers import HandOverRows

T = TypeVar("T")

US_PER_S = 1_000_000

READS_MAX = 48
"""Reads of the store at once: many users may come in one frame. Fewer than S3Target.concurrency_max, so that segments
never wait for reads."""

TURN_TIMEOUT_S = 30.0


class Peers(Protocol):
    """The other workers."""

    async def ask(self, ask: AskRelease) -> Released | Dead | Unreachable: ...


def monotonic_us() -> int:
    return time.monotonic_ns() // 1000


class Acting:
    """Drives the flows of one incarnation, each a task of the group that `begin` is given."""

    def __init__(self, store: ObjectStore, peers: Peers) -> None:
        self._store = store
        self._peers = peers
        self._tasks: asyncio.TaskGroup | None = None
        self._turns = asyncio.Semaphore(READS_MAX)
        self.written: Callable[[str, int, int, int], None] | None = None
        """Told of each object put: its key, its bytes, and from when to when."""

    def begin(self, tasks: asyncio.TaskGroup) -> None:
        """Flows belong to this group from now on."""
        self._tasks = tasks

    def start(self, flow: Flow[None]) -> None:
        """Drive a flow beside the others."""
        self.beside(self.drive(flow))

    def beside(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Have work done beside the flows, to its end whoever waits for it. Raises RuntimeError: the incarnation
        ends."""
        assert self._tasks is not None, "the incarnation has not begun"
        try:
            return self._tasks.create_task(work)
        except RuntimeError:
            work.close()
            raise

    async def drive(self, flow: Flow[T], hand_over: HandOverRows | None = None) -> T:
        """Drive a flow to its end; `hand_over` takes the rows that it gives."""
        try:
            effect = next(flow)
            while True:
                try:
                    answer = await self._act(effect, hand_over)
                except StoreError as error:
                    effect = flow.throw(error)
                else:
                    effect = flow.send(answer)
        except StopIteration as end:
            result: T = end.value
            return result
        finally:
            flow.close()

    async def _act(self, effect: Effect, hand_over: HandOverRows | None) -> Any:
        match effect:
            case Pause():
                await asyncio.sleep(0)
                return None
            case Wait():
                return await _wait(effect)
            case Offload(work):
                return await asyncio.to_thread(work)
            case AskRelease():
                return await self._peers.ask(effect)
            case HandOver(rows):
                assert hand_over is not None, "nobody was named who takes the rows"
                await hand_over(rows)
                return None
            case Together(effects):
                return await asyncio.gather(*(self._call_or_error(one) for one in effects))
            case _:
                return await self._call(effect)

    async def _call(
        self, effect: Get | PutIfAbsent | PutIfMatch | Delete | ListKeys | ReadSegment
    ) -> object | list[str] | Segment | None:
        match effect:
            case Get(key):
                return await self._get(key)
            case PutIfAbsent(key, body):
                began_us = monotonic_us()
                etag = await self._store.put_if_absent(key, body)
                if self.written is not None:
                    self.written(key, len(body), began_us, monotonic_us())
                return etag
            case PutIfMatch(key, body, etag):
                return await self._store.put_if_match(key, body, etag)
            case Delete(keys):
                await self._store.delete(*keys)
                return None
            case ListKeys(prefix):
                return [entry.key async for entry in list_all(self._store, prefix)]
            case ReadSegment(key):
                stored = await self._get(key)
                return None if stored is None else await asyncio.to_thread(read_segment, stored.body)

    async def _get(self, key: str) -> Stored | None:
        """Read an object, when it is this one's turn. Writes never wait for reads."""
        try:
            async with asyncio.timeout(TURN_TIMEOUT_S):
                await self._turns.acquire()
        except TimeoutError:
            raise StoreUnavailable(f"{READS_MAX} reads were before this one and did not end") from None
        try:
            return await self._store.get(key)
        finally:
            self._turns.release()

    async def _call_or_error(self, effect: Get | PutIfAbsent | PutIfMatch | ReadSegment) -> object:
        try:
            return await self._call(effect)
        except StoreError as error:
            return error


async def _wait(wait: Wait) -> bool:
    """Until the signal is set or the time has passed; whether it was set."""
    if wait.signal.is_set:
        return True
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[bool] = loop.create_future()

    def end(was_set: bool) -> None:
        if not ended.done():
            ended.set_result(was_set)

    unsubscribe = wait.signal.subscribe(lambda: end(True))
    timer = None if wait.timeout_us is None else loop.call_later(wait.timeout_us / US_PER_S, end, False)
    try:
        return await ended
    finally:
        unsubscribe()
        if timer is not None:
            timer.cancel()
