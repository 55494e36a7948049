"""The client for programs that are not async: the async one on the loop of a thread of its own. No logic is here.

Every object may be used from any thread; calls of several threads overlap as async calls do. Ctrl-C in a call cancels
that call alone, so the `with` blocks around it end as they should.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from evercurrent.client.client import Client, WaitFor, connect
from evercurrent.client.errors import SessionClosed
from evercurrent.client.exchange import Exchange
from evercurrent.client.producer import Producer
from evercurrent.client.requests import Candidate, Outcome
from evercurrent.client.results import Answer, Ranked, Result, Score, first_value
from evercurrent.client.session import Session

P = ParamSpec("P")
T = TypeVar("T")


class Loop:
    """An event loop on a thread that ends with the program, or before with `stop`."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="evercurrent", daemon=True)
        self._thread.start()

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine, which is cancelled if the wait for it is interrupted.

        Raises:
            SessionClosed: the loop has stopped.
        """
        if not self._thread.is_alive():
            call.close()
            raise SessionClosed("the client was closed: connect again")
        future: Future[T] = asyncio.run_coroutine_threadsafe(call, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def stop(self) -> None:
        """End the thread and what is left on it. Idempotent."""
        if self._thread.is_alive():
            self.run(_cancel_others())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


class _SyncProducer:
    """What SyncSession and SyncExchange do alike; each method as the async one of its name."""

    def __init__(self, loop: Loop, producer: Producer) -> None:
        self._loop = loop
        self._producer = producer

    def __enter__(self) -> Self:
        self._loop.run(self._producer.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._loop.run(self._producer.__aexit__(kind, error, traceback))

    @property
    def has_store(self) -> bool:
        return self._producer.has_store

    def open(self, timeout_s: float | None = None) -> None:
        self._loop.run(self._producer.open(timeout_s))

    def durable(self, timeout_s: float | None = None) -> None:
        self._loop.run(self._producer.durable(timeout_s))

    def close(self, timeout_s: float | None = None) -> None:
        self._loop.run(self._producer.close(timeout_s))


class SyncSession(_SyncProducer):
    """`Session` without `await`."""

    def __init__(self, loop: Loop, session: Session) -> None:
        super().__init__(loop, session)
        self._session = session

    @property
    def user_id(self) -> str:
        return self._session.user_id

    @property
    def session_id(self) -> str:
        return self._session.session_id

    @property
    def last_seq(self) -> int:
        return self._session.last_seq

    @property
    def durable_seq(self) -> int:
        return self._session.durable_seq

    @property
    def at_risk(self) -> int:
        return self._session.at_risk

    @property
    def lost(self) -> int:
        return self._session.lost

    @property
    def num_kept(self) -> int:
        return self._session.num_kept

    def observe(
        self,
        *,
        ids: Iterable[int] = (),
        features: Iterable[float] = (),
        outcome: Outcome = None,
        event_time_us: int | None = None,
        observation_id: str = "",
        timeout_s: float | None = None,
    ) -> Result:
        call = self._session.observe(
            ids=ids,
            features=features,
            outcome=outcome,
            event_time_us=event_time_us,
            observation_id=observation_id,
            timeout_s=timeout_s,
        )
        return self._loop.run(call)

    def predict(
        self,
        *,
        ids: Iterable[int] = (),
        features: Iterable[float] = (),
        event_time_us: int | None = None,
        timeout_s: float | None = None,
    ) -> Answer:
        call = self._session.predict(ids=ids, features=features, event_time_us=event_time_us, timeout_s=timeout_s)
        return self._loop.run(call)

    def rank(
        self,
        candidates: Sequence[Candidate],
        *,
        score: Score = first_value,
        event_time_us: int | None = None,
        timeout_s: float | None = None,
    ) -> list[Ranked]:
        call = self._session.rank(candidates, score=score, event_time_us=event_time_us, timeout_s=timeout_s)
        return self._loop.run(call)


class SyncExchange(_SyncProducer):
    """`Exchange` without `await`."""

    def __init__(self, loop: Loop, exchange: Exchange) -> None:
        super().__init__(loop, exchange)
        self._exchange = exchange

    @property
    def num_users(self) -> int:
        return self._exchange.num_users

    @property
    def at_risk(self) -> int:
        return self._exchange.at_risk

    @property
    def lost(self) -> int:
        return self._exchange.lost

    @property
    def num_kept(self) -> int:
        return self._exchange.num_kept

    def observe(
        self,
        user_id: str,
        *,
        ids: Iterable[int] = (),
        features: Iterable[float] = (),
        outcome: Outcome = None,
        event_time_us: int | None = None,
        timeout_s: float | None = None,
    ) -> Result:
        call = self._exchange.observe(
            user_id, ids=ids, features=features, outcome=outcome, event_time_us=event_time_us, timeout_s=timeout_s
        )
        return self._loop.run(call)

    def observe_many(self, events: Iterable[Mapping[str, Any]], *, timeout_s: float | None = None) -> list[Result]:
        return self._loop.run(self._exchange.observe_many(events, timeout_s=timeout_s))

    def predict(
        self,
        user_id: str,
        *,
        ids: Iterable[int] = (),
        features: Iterable[float] = (),
        event_time_us: int | None = None,
        timeout_s: float | None = None,
    ) -> Answer:
        call = self._exchange.predict(
            user_id, ids=ids, features=features, event_time_us=event_time_us, timeout_s=timeout_s
        )
        return self._loop.run(call)

    def rank(
        self,
        user_id: str,
        candidates: Sequence[Candidate],
        *,
        score: Score = first_value,
        event_time_us: int | None = None,
        timeout_s: float | None = None,
    ) -> list[Ranked]:
        call = self._exchange.rank(user_id, candidates, score=score, event_time_us=event_time_us, timeout_s=timeout_s)
        return self._loop.run(call)


class SyncClient:
    """`Client` without `await`. Made by `connect_sync`; used with `with`."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._loop: Loop | None = None

    def __enter__(self) -> Self:
        self._loop = Loop()
        self._loop.run(self._client.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end(lambda: self._client.__aexit__(kind, error, traceback))

    def close(self, timeout_s: float | None = None) -> None:
        """As `Client.close`; the thread ends. Idempotent."""
        self._end(lambda: self._client.close(timeout_s))

    def _end(self, end: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if self._loop is not None:
            loop, self._loop = self._loop, None
            try:
                loop.run(end())
            finally:
                loop.stop()

    def session(self, user_id: str, *, session_id: str | None = None) -> SyncSession:
        loop = self._running()
        return SyncSession(loop, loop.run(_made(lambda: self._client.session(user_id, session_id=session_id))))

    def exchange(self) -> SyncExchange:
        loop = self._running()
        return SyncExchange(loop, loop.run(_made(self._client.exchange)))

    def observe(
        self,
        user_id: str,
        *,
        ids: Iterable[int] = (),
        features: Iterable[float] = (),
        outcome: Outcome = None,
        event_time_us: int | None = None,
        observation_id: str = "",
        wait_for: WaitFor = "applied",
        timeout_s: float | None = None,
    ) -> Result:
        loop = self._running()
        call = self._client.observe(
            user_id,
            ids=ids,
            features=features,
            outcome=outcome,
            event_time_us=event_time_us,
            observation_id=observation_id,
            wait_for=wait_for,
            timeout_s=timeout_s,
        )
        return loop.run(call)

    def predict(
        self,
        user_id: str,
        *,
        ids: Iterable[int] = (),
        features: Iterable[float] = (),
        event_time_us: int | None = None,
        timeout_s: float | None = None,
    ) -> Answer:
        loop = self._running()
        call = self._client.predict(
            user_id, ids=ids, features=features, event_time_us=event_time_us, timeout_s=timeout_s
        )
        return loop.run(call)

    def rank(
        self,
        user_id: str,
        candidates: Sequence[Candidate],
        *,
        score: Score = first_value,
        event_time_us: int | None = None,
        timeout_s: float | None = None,
    ) -> list[Ranked]:
        loop = self._running()
        call = self._client.rank(user_id, candidates, score=score, event_time_us=event_time_us, timeout_s=timeout_s)
        return loop.run(call)

    def _running(self) -> Loop:
        if self._loop is None:
            raise SessionClosed("the client is not connected: use it within `with`")
        return self._loop


async def _made(make: Callable[[], T]) -> T:
    """Something whose parts belong to the loop that they are made in."""
    return make()


def _sync(connected: Callable[P, Client]) -> Callable[P, SyncClient]:
    def made(*given: P.args, **options: P.kwargs) -> SyncClient:
        return SyncClient(connected(*given, **options))

    return made


connect_sync = _sync(connect)
"""As `connect`, with the same options; used with `with`."""
