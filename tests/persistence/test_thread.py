"""The thread of a store: it does not hold the serving loop, is bounded, passes errors on, and ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from persistence import Etag, ObjectStore, Stored, StoreMisconfigured, StoreThread, StoreUnavailable, open_store
from persistence.memory import MemoryStore
from persistence.thread import Opening

SOON_S = 0.05


class Gated(MemoryStore):
    """A store whose reads wait until the gate opens. What it notes can be read from any thread."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.loop = asyncio.get_running_loop()
        self.threads: set[int] = set()
        self.begun = threading.Semaphore(0)
        self.cancelled = threading.Semaphore(0)
        self.is_closed = False

    async def get(self, key: str, *, timeout_s: float | None = None) -> Stored | None:
        self.threads.add(threading.get_ident())
        self.begun.release()
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled.release()
            raise
        return await super().get(key)

    def open_gate(self) -> None:
        """Let all reads end, from any thread."""
        self.loop.call_soon_threadsafe(self.gate.set)


class Bed:
    """Where a test finds the store that its thread has opened."""

    store: Gated

    @asynccontextmanager
    async def opening(self) -> AsyncIterator[ObjectStore]:
        self.store = Gated()
        try:
            yield self.store
        finally:
            self.store.is_closed = True


def failing(at_close: bool) -> Opening:
    """An opening that fails, or a closing."""

    @asynccontextmanager
    async def opening() -> AsyncIterator[ObjectStore]:
        if not at_close:
            raise StoreMisconfigured("no such place")
        yield MemoryStore()
        raise StoreMisconfigured("no way out")

    return opening


@pytest.fixture
def bed() -> Bed:
    return Bed()


async def begun(store: Gated, count: int = 1) -> None:
    """Wait until this many more reads have begun."""
    for _ in range(count):
        assert await asyncio.to_thread(store.begun.acquire, timeout=30)


async def test_calls_run_on_the_thread_of_the_store(bed: Bed) -> None:
    async with StoreThread(bed.opening) as thread:
        bed.store.open_gate()
        etag = await thread.put("k", b"x")
        assert await thread.get("k") == Stored(b"x", etag)
        assert threading.get_ident() not in bed.store.threads
        assert len(bed.store.threads) == 1
        assert thread.outstanding == 0
    assert bed.store.is_closed
    for each in threading.enumerate():
        if each.name == "evercurrent-store":
            await asyncio.to_thread(each.join, 30)  # It ends a moment after it says so.
            assert not each.is_alive()


async def test_a_store_that_blocks_its_loop_does_not_hold_ours() -> None:
    release = threading.Event()

    class Blocking(MemoryStore):
        async def get(self, key: str, *, timeout_s: float | None = None) -> Stored | None:
            assert release.wait(30)
            return Stored(b"late", Etag("e"))

    @asynccontextmanager
    async def opening() -> AsyncIterator[ObjectStore]:
        yield Blocking()

    async with StoreThread(opening) as thread, asyncio.TaskGroup() as group:
        late = group.create_task(thread.get("k"))
        await asyncio.sleep(0)
        release.set()  # Only a loop that is not held comes here.
        assert await late == Stored(b"late", Etag("e"))


async def test_errors_come_back(bed: Bed) -> None:
    async with StoreThread(bed.opening) as thread:
        with pytest.raises(ValueError, match="not a key"):
            await thread.put("/", b"")
        assert thread.outstanding == 0


async def test_opening_that_fails_says_so() -> None:
    with pytest.raises(StoreMisconfigured, match="no such place"):
        async with StoreThread(failing(at_close=False)):
            pass


async def test_closing_that_fails_says_so() -> None:
    with pytest.raises(StoreMisconfigured, match="no way out"):
        async with StoreThread(failing(at_close=True)):
            pass


async def test_more_calls_than_allowed_are_refused_at_once(bed: Bed) -> None:
    async with StoreThread(bed.opening, outstanding_max=2) as thread, asyncio.TaskGroup() as group:
        reads = [group.create_task(thread.get("k")) for _ in range(2)]
        await begun(bed.store, 2)
        assert thread.outstanding == 2
        with pytest.raises(StoreUnavailable, match="2 calls") as raised:
            await thread.put("k", b"x")
        assert not raised.value.maybe_done
        bed.store.open_gate()
        assert await asyncio.gather(*reads) == [None, None]
        await thread.put("k", b"x")


async def test_more_bytes_than_allowed_are_refused_at_once(bed: Bed) -> None:
    async with StoreThread(bed.opening, outstanding_bytes_max=10) as thread, asyncio.TaskGroup() as group:
        await thread.put("alone", bytes(100))
        group.create_task(thread.get("k"))
        await begun(bed.store)
        await thread.put("k", bytes(10))
        with pytest.raises(StoreUnavailable, match="bytes on their way"):
            await thread.put("k", bytes(11))
        bed.store.open_gate()


async def test_a_call_that_is_cancelled_ends_over_there(bed: Bed) -> None:
    async with StoreThread(bed.opening, outstanding_max=1) as thread:
        read = asyncio.create_task(thread.get("k"))
        await begun(bed.store)
        read.cancel()
        with pytest.raises(asyncio.CancelledError):
            await read
        assert await asyncio.to_thread(bed.store.cancelled.acquire, timeout=30)
    assert thread.outstanding == 0


async def test_closing_waits_for_calls(bed: Bed) -> None:
    thread = StoreThread(bed.opening)
    async with asyncio.TaskGroup() as group:
        async with thread:
            read = group.create_task(thread.get("k"))
            await begun(bed.store)
            bed.store.loop.call_soon_threadsafe(bed.store.loop.call_later, SOON_S, bed.store.gate.set)
        assert await read is None
    assert bed.store.is_closed


async def test_closing_ends_calls_that_do_not_end(bed: Bed) -> None:
    thread = StoreThread(bed.opening, close_timeout_s=SOON_S)
    async with thread:
        reads = [asyncio.create_task(thread.get("k")) for _ in range(3)]
        await begun(bed.store, 3)
    for read in reads:
        with pytest.raises(StoreUnavailable, match="closed meanwhile") as raised:
            await read
        assert raised.value.maybe_done
    assert bed.store.is_closed


async def test_a_closed_thread_takes_nothing(bed: Bed) -> None:
    async with StoreThread(bed.opening) as thread:
        pass
    with pytest.raises(StoreUnavailable, match="closed") as raised:
        await thread.put("k", b"x")
    assert not raised.value.maybe_done


async def test_several_loops_may_call(bed: Bed) -> None:
    async with StoreThread(lambda: open_store("memory:")) as thread:

        async def count(name: str) -> None:
            for number in range(50):
                assert await thread.put_if_absent(f"{name}/{number}", b"x") is not None

        await asyncio.gather(*(asyncio.to_thread(asyncio.run, count(name)) for name in "abc"))
        assert len((await thread.list()).entries) == 150
        assert thread.outstanding == 0
