"""What a Session and an Exchange do alike: one task, one stream after the other, and who waits for what.

`Producer` knows when to open a stream again, how long a call waits and how a close ends. What goes over a stream is its
heirs' business, and what is sent again is `evercurrent.client.feed`'s.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc

from evercurrent.client.connection import Connection, after
from evercurrent.client.errors import (
    DeadlineExceeded,
    Ending,
    NoStore,
    SessionClosed,
    SessionTaken,
    Unavailable,
    error_of,
    is_transient,
)
from evercurrent.client.feed import Feed, Overtaken
from evercurrent.client.requests import Encoder
from evercurrent.client.transport import CallFailed, Stream, StreamEnded
from evercurrent.errors import EvercurrentError

Q = TypeVar("Q")
R = TypeVar("R")
T = TypeVar("T")

WENT_AWAY = Ending(grpc.StatusCode.UNAVAILABLE, "the router asked the stream to go elsewhere")


class Producer(ABC):
    """Opened once, used, closed."""

    def __init__(self, connection: Connection, what: str) -> None:
        self._connection = connection
        self._options = connection.options
        self._what = what
        self._turn = asyncio.Lock()
        self._num_entering = 0
        """Who has the turn or waits for it."""
        self._wake = asyncio.Event()
        """Set when there may be something to write."""
        self._moved = asyncio.Event()
        """Set when something may be true that is waited for."""
        self._encoder: Encoder | None = None
        self._running: asyncio.Task[None] | None = None
        self._failure: Callable[[], EvercurrentError] | None = None
        self._last_ending: Ending | None = None
        self._is_closing = self._is_finishing = False
        self._is_leaving = self._has_progressed = False
        self._has_store = True

    @property
    def has_store(self) -> bool:
        """Whether anything becomes durable."""
        return self._has_store

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None and not isinstance(error, Exception):
            await self._end()
            return
        try:
            await self.close()
        except EvercurrentError as failure:
            if error is None:
                raise
            error.add_note(f"and {self._what} did not close well: {failure}")

    async def open(self, timeout_s: float | None = None) -> None:
        """Open it; `async with` does. Returns when the service has answered.

        Raises:
            Unavailable: the service was not reached in time.
            SessionForgotten: the id given is of a session that the service no longer knows.
        """
        assert self._running is None, "it is opened once"
        timeout_s = self._options.timeout_s if timeout_s is None else timeout_s
        self._running = asyncio.create_task(self._run())
        try:
            async with self._within(timeout_s, lambda: self._not_opened(timeout_s)):
                await self._until(lambda: self._encoder is not None)
        except BaseException:
            await self._end()
            raise

    async def durable(self, timeout_s: float | None = None) -> None:
        """Returns when everything observed so far survives the loss of any process or machine.

        Raises:
            NoStore: nothing becomes durable on this service.
            DeadlineExceeded: it has not become durable in time.
        """
        self._checked()
        timeout_s = self._options.timeout_s if timeout_s is None else timeout_s
        async with self._within(timeout_s, lambda: self._late(f"not durable within {timeout_s:g} s")):
            await self._wait_durable()
        if not self._has_store:
            raise NoStore("the service has no store, so nothing becomes durable: run it with one (--store)")

    async def close(self, timeout_s: float | None = None) -> None:
        """Wait until everything is answered and, with a store, durable; then end the stream. Idempotent.

        Raises:
            DeadlineExceeded: that was not so in time. It has ended all the same.
        """
        if self._running is None or self._is_closing:
            return
        self._is_closing = True
        timeout_s = self._options.close_timeout_s if timeout_s is None else timeout_s
        try:
            async with self._within(timeout_s, lambda: self._late(f"not done {timeout_s:g} s after its close")):
                await self._wait_durable()
                await self._until(self._is_settled)
                self._is_finishing = True
                self._wake.set()
                await asyncio.wait([self._running])
        except DeadlineExceeded:
            if not self._is_settled():
                raise
        finally:
            await self._end()

    async def _answer(
        self,
        size: int,
        enter: Callable[[], asyncio.Future[T]],
        timeout_s: float,
        late: Callable[[], EvercurrentError],
    ) -> T:
        """Take in a message of this size when it is its turn and there is room, and wait for its answer.

        Raises:
            EvercurrentError: what `late` gives, when there was no answer in time.
        """
        if not self._num_entering and self._has_room(size):
            answer = enter()
            self._write_soon()
            return await _in_time(answer, timeout_s, late)
        async with self._within(timeout_s, late):
            async with self._entering():
                answer = await self._enter(size, enter)
            return await answer

    @asynccontextmanager
    async def _entering(self) -> AsyncIterator[None]:
        """Messages are taken in by turns, in the order in which they were given."""
        self._num_entering += 1
        try:
            async with self._turn:
                yield
        finally:
            self._num_entering -= 1

    async def _enter(self, size: int, enter: Callable[[], T]) -> T:
        """Take in a message of this size when there is room."""
        await self._until(lambda: self._has_room(size))
        self._checked()
        entered = enter()
        self._write_soon()
        return entered

    def _write_soon(self) -> None:
        """There is something to write."""
        self._wake.set()

    @abstractmethod
    def _has_room(self, size: int) -> bool:
        """Whether one more message may be taken in now; may make room."""

    @abstractmethod
    def _is_settled(self) -> bool:
        """Whether nothing is unanswered, and all is durable where anything becomes durable."""

    @abstractmethod
    async def _wait_durable(self) -> None:
        """Until all that was observed before is durable, or there is no store."""

    @abstractmethod
    def _progress(self) -> str:
        """How far it is, for the text of an error."""

    @abstractmethod
    def _store_is_missing(self) -> None:
        """The service has no store: keep only what is unanswered."""

    @abstractmethod
    def _fail_calls(self, make: Callable[[], EvercurrentError]) -> None:
        """Every call that waits ends with an error."""

    @abstractmethod
    async def _stream(self) -> Ending:
        """One stream, from its open to its end."""

    @asynccontextmanager
    async def _within(self, timeout_s: float, error: Callable[[], EvercurrentError]) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(timeout_s):
                yield
        except TimeoutError as late:
            if isinstance(late, EvercurrentError):
                raise
            raise error() from None

    async def _until(self, condition: Callable[[], bool]) -> None:
        """Wait until something holds. Raises what all failed with."""
        while True:
            if self._failure is not None:
                raise self._failure()
            if condition():
                return
            self._moved.clear()
            await self._moved.wait()

    def _checked(self) -> Encoder:
        if self._failure is not None:
            raise self._failure()
        if self._encoder is None or self._is_closing:
            raise SessionClosed(f"{self._what} is not open: use it within `async with`")
        return self._encoder

    def _time_us(self, given: int | None) -> int:
        return self._connection.parts.now_us() if given is None else given

    def _unanswered(self, timeout_s: float, seq: int | None) -> DeadlineExceeded:
        """What a call is told whose time is up. `seq` is that of its observation, 0 if it has none yet, None if it is a
        query."""
        text, heard = f"no answer within {timeout_s:g} s", after(self._last_ending)
        if seq is None:
            return DeadlineExceeded(f"{text}{heard}")
        if not seq:
            return DeadlineExceeded(f"{text}: there was no room, and the observation was not taken in{heard}")
        text = f"{text}: observation {seq} stays in the session and may still be applied{heard}"
        return DeadlineExceeded(text, seq=seq, may_be_applied=True)

    def _late(self, what: str) -> DeadlineExceeded:
        text = f"{self._what} is {what}: {self._progress()}{after(self._last_ending)}"
        return DeadlineExceeded(text, may_be_applied=True)

    def _not_opened(self, timeout_s: float) -> Unavailable:
        return Unavailable(f"{self._what} was not opened within {timeout_s:g} s{after(self._last_ending)}")

    async def _end(self) -> None:
        """End the task, whatever it is at; everything that still waits is told."""
        self._is_closing = True
        running = self._running
        assert running is not None, "it was opened"
        running.cancel()
        await asyncio.wait([running])
        self._fail(lambda: SessionClosed(f"{self._what} was closed"))
        if not running.cancelled():
            running.result()

    def _fail(self, make: Callable[[], EvercurrentError]) -> None:
        if self._failure is None:
            self._failure = make
        self._fail_calls(self._failure)
        self._moved.set()

    async def _run(self) -> None:
        try:
            await self._run_streams()
        except Exception:
            self._fail(lambda: SessionClosed(f"{self._what} broke by a fault of the client; its close tells which"))
            raise

    async def _run_streams(self) -> None:
        """One stream after the other until all is finished or has failed."""
        transport, attempt = self._connection.transport, 0
        while not (self._is_finishing and self._is_settled()):
            router = transport.current
            self._is_leaving = self._has_progressed = False
            try:
                ending = await self._stream()
            except Overtaken as error:
                self._fail(partial(SessionTaken, f"{self._what} is used by somebody else: {error}"))
                return
            self._last_ending = ending
            if self._has_store and ending.reason == "NO_STORE":
                self._has_store = False
                self._store_is_missing()
                continue
            if not is_transient(ending):
                self._fail(partial(error_of, ending))
                return
            transport.turn(router)
            attempt = 1 if self._has_progressed else attempt + 1
            if not ((self._is_leaving and self._has_progressed) or self._is_finishing):
                await self._connection.backoff(attempt, ending)

    async def _opened(self, stream: Stream[Q, R], request: Q, model_of: Callable[[R], str | None]) -> R | Ending:
        """The answer to an open. The model that it names is known then; with none it is no answer to an open."""
        timeout_s = self._options.open_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                await stream.write(request)
                first = await stream.read()
                if first is None:
                    return await stream.ending()
                model = model_of(first)
                if model is None:
                    return WENT_AWAY
                self._encoder = await self._connection.encoder_of(model)
                return first
        except TimeoutError:
            text = f"the stream was not opened within {timeout_s:g} s"
            return Ending(grpc.StatusCode.DEADLINE_EXCEEDED, text)
        except StreamEnded:
            while await stream.read() is not None:
                pass
            return await stream.ending()
        except CallFailed as error:
            return error.ending

    def _make_room(self, feed: Feed, size: int) -> bool:
        """Whether the replay buffer takes one more; the oldest of a feed are given up if they may be."""
        while not feed.budget.fits(size):
            if self._options.on_full == "block" or not feed.give_up_oldest():
                return False
        return True


class _Late(Exception):
    """There is no answer yet, and it is waited for no longer."""


async def _in_time(answer: asyncio.Future[T], timeout_s: float, late: Callable[[], EvercurrentError]) -> T:
    """An answer that comes within so long. As `asyncio.timeout`, at a third of its cost: it is paid for every event."""
    timer = asyncio.get_running_loop().call_later(timeout_s, _give_up, answer)
    try:
        return await answer
    except _Late:
        raise late() from None
    finally:
        timer.cancel()


def _give_up(answer: asyncio.Future[Any]) -> None:
    if not answer.done():
        answer.set_exception(_Late())
