"""The thread that a store lives on, with an event loop of its own: the serving loop hands over and goes on.

Hydration, segments and records all go through here. What is outstanding is bounded in calls and in bytes to write; a
call beyond that is refused at once as StoreUnavailable and was not done, so that a store that hangs cannot fill memory.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Self, TypeVar

import uvloop

from persistence.errors import StoreUnavailable
from persistence.store import PAGE_KEYS_MAX, Etag, ObjectStore, Page, Stored

T = TypeVar("T")
Opening = Callable[[], AbstractAsyncContextManager[ObjectStore]]

OUTSTANDING_MAX = 4096
OUTSTANDING_BYTES_MAX = 256 << 20
CLOSE_TIMEOUT_S = 10.0
ABANDON_TIMEOUT_S = 5.0


class StoreThread:
    """An `ObjectStore` whose work happens on another thread. Open inside `async with`; safe to call from any loop.

    Cancelling a call cancels it over there too, and leaves a write in doubt. Leaving the context refuses new calls,
    waits up to `close_timeout_s` for those outstanding, ends the rest as StoreUnavailable, and closes the store.
    """

    def __init__(
        self,
        opening: Opening,
        *,
        outstanding_max: int = OUTSTANDING_MAX,
        outstanding_bytes_max: int = OUTSTANDING_BYTES_MAX,
        close_timeout_s: float = CLOSE_TIMEOUT_S,
    ) -> None:
        self._opening = opening
        self._budget = _Budget(outstanding_max, outstanding_bytes_max)
        self._close_timeout_s = close_timeout_s
        self._opened: Future[_Home] = Future()
        self._ended: Future[None] = Future()
        # A daemon: a store that hangs in a system call must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="evercurrent-store", daemon=True)

    async def __aenter__(self) -> Self:
        """Start the thread and open the store. Raises what opening raises."""
        self._thread.start()
        try:
            await asyncio.shield(asyncio.wrap_future(self._opened))
        except asyncio.CancelledError:
            self._opened.add_done_callback(_close_when_opened)
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close. Raises StoreUnavailable if the thread does not end within the bound; it is left to itself then."""
        self._budget.close()
        home = self._opened.result()
        home.close()
        bound_s = self._close_timeout_s + ABANDON_TIMEOUT_S
        try:
            async with asyncio.timeout(bound_s):
                await asyncio.shield(asyncio.wrap_future(self._ended))
        except TimeoutError as error:
            raise StoreUnavailable(f"the store's thread has not ended within {bound_s:g} s", maybe_done=True) from error

    @property
    def outstanding(self) -> int:
        """Calls handed over and not ended yet."""
        return self._budget.calls

    async def get(self, key: str, *, timeout_s: float | None = None) -> Stored | None:
        return await self._hand_over(lambda store: store.get(key, timeout_s=timeout_s))

    async def put(self, key: str, body: bytes, *, timeout_s: float | None = None) -> Etag:
        return await self._hand_over(lambda store: store.put(key, body, timeout_s=timeout_s), len(body))

    async def put_if_absent(self, key: str, body: bytes, *, timeout_s: float | None = None) -> Etag | None:
        return await self._hand_over(lambda store: store.put_if_absent(key, body, timeout_s=timeout_s), len(body))

    async def put_if_match(self, key: str, body: bytes, etag: Etag, *, timeout_s: float | None = None) -> Etag | None:
        return await self._hand_over(lambda store: store.put_if_match(key, body, etag, timeout_s=timeout_s), len(body))

    async def delete(self, *keys: str, timeout_s: float | None = None) -> None:
        return await self._hand_over(lambda store: store.delete(*keys, timeout_s=timeout_s))

    async def list(
        self, prefix: str = "", *, after: str = "", limit: int = PAGE_KEYS_MAX, timeout_s: float | None = None
    ) -> Page:
        return await self._hand_over(lambda store: store.list(prefix, after=after, limit=limit, timeout_s=timeout_s))

    async def _hand_over(self, call: Callable[[ObjectStore], Coroutine[Any, Any, T]], num_bytes: int = 0) -> T:
        assert self._opened.done(), "the thread of the store was not started"
        home = self._opened.result()
        result = self._budget.spend(num_bytes, lambda: home.submit(call, lambda: self._budget.give_back(num_bytes)))
        return await asyncio.wrap_future(result)

    def _run(self) -> None:
        """The thread: open, live until closed, close. Whoever waits is told how it went."""
        try:
            uvloop.run(self._live())
        except BaseException as error:
            if not self._opened.done():
                self._opened.set_exception(error)
            self._ended.set_exception(error)
        else:
            self._ended.set_result(None)

    async def _live(self) -> None:
        async with self._opening() as store, _home_of(store, self._close_timeout_s) as home:
            self._opened.set_result(home)
            await home.closing.wait()


class _Budget:
    """What is outstanding, and how much may be. Used by both threads."""

    def __init__(self, calls_max: int, bytes_max: int) -> None:
        self.calls = 0
        self.bytes = 0
        self._calls_max = calls_max
        self._bytes_max = bytes_max
        self._is_closed = False
        self._lock = threading.Lock()

    def spend(self, num_bytes: int, begin: Callable[[], T]) -> T:
        """Reserve a call and begin it: as one step, so that none begins after `close`. Raises StoreUnavailable."""
        with self._lock:
            if self._is_closed:
                raise StoreUnavailable("the store is closed")
            if self.calls >= self._calls_max:
                raise StoreUnavailable(f"{self.calls} calls to the store are outstanding already")
            if self.calls and self.bytes + num_bytes > self._bytes_max:
                raise StoreUnavailable(f"{self.bytes} bytes on their way to the store are outstanding already")
            self.calls += 1
            self.bytes += num_bytes
            return begin()

    def give_back(self, num_bytes: int) -> None:
        """Return what was reserved for a call that has ended."""
        with self._lock:
            self.calls -= 1
            self.bytes -= num_bytes

    def close(self) -> None:
        """Let nothing more begin."""
        with self._lock:
            self._is_closed = True


class _Home:
    """The store on its own loop, with the tasks that call it."""

    def __init__(self, store: ObjectStore) -> None:
        self.closing = asyncio.Event()
        self.tasks: set[asyncio.Task[Any]] = set()
        self._store = store
        self._loop = asyncio.get_running_loop()

    def submit(self, call: Callable[[ObjectStore], Coroutine[Any, Any, T]], ended: Callable[[], None]) -> Future[T]:
        """Have a call made, from any thread. `ended` is called once it is over, also when nobody waits any more."""
        result: Future[T] = Future()
        self._loop.call_soon_threadsafe(self._begin, call, result, ended)
        return result

    def close(self) -> None:
        """Begin to close, from any thread."""
        self._loop.call_soon_threadsafe(self.closing.set)

    async def end(self, timeout_s: float) -> None:
        """Wait for the calls, then cancel those that are left."""
        if self.tasks:
            await asyncio.wait(self.tasks, timeout=timeout_s)
        left = list(self.tasks)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def _begin(
        self, call: Callable[[ObjectStore], Coroutine[Any, Any, T]], result: Future[T], ended: Callable[[], None]
    ) -> None:
        # The task is owned by `tasks`, which `end` empties.
        task = self._loop.create_task(call(self._store))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        task.add_done_callback(lambda _: ended())
        task.add_done_callback(lambda done: _settle(result, done))
        result.add_done_callback(lambda done: self._cancel_with(done, task))

    def _cancel_with(self, result: Future[T], task: asyncio.Task[T]) -> None:
        """Whoever waited has gone: so does the call."""
        if result.cancelled() and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(task.cancel)


def _settle(result: Future[T], task: asyncio.Task[T]) -> None:
    """Hand the end of a task to who waits for it. A task that we cancelled is no cancellation over there."""
    if not result.set_running_or_notify_cancel():
        return
    if task.cancelled():
        result.set_exception(StoreUnavailable("the store was closed meanwhile", maybe_done=True))
    elif (error := task.exception()) is not None:
        result.set_exception(error)
    else:
        result.set_result(task.result())


def _close_when_opened(opened: Future[_Home]) -> None:
    if opened.exception() is None:
        opened.result().close()


@asynccontextmanager
async def _home_of(store: ObjectStore, close_timeout_s: float) -> AsyncIterator[_Home]:
    home = _Home(store)
    try:
        yield home
    finally:
        await home.end(close_timeout_s)
