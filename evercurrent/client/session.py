"""One user's session: calls in, a Session stream that is opened again whenever it breaks, answers out.

What is sent, kept and sent again is decided by `evercurrent.client.feed`; this is the shell that carries it out. A
session owns one task, which has one stream at a time; `close` ends it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from types import TracebackType
from typing import Self, TypeVar

import grpc

from evercurrent.client.calls import Calls
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
from evercurrent.client.feed import Budget, Feed, Overtaken
from evercurrent.client.options import session_id_of
from evercurrent.client.requests import Candidate, Encoder, Outcome
from evercurrent.client.results import Answer, Ranked, Rejection, Result, Score, first_value, ranking
from evercurrent.client.transport import CallFailed, Stream, StreamEnded
from evercurrent.errors import EvercurrentError
from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1.session_pb2 import SessionOpen, SessionOpened, SessionRequest, SessionResponse

T = TypeVar("T")

SessionStream = Stream[SessionRequest, SessionResponse]

WENT_AWAY = Ending(grpc.StatusCode.UNAVAILABLE, "the router asked the stream to go elsewhere")


class Session:
    """One producer's ordered stream of observations for one user. Made by `Client.session`; used with `async with`.

    Calls may overlap: the order in which they are made is the order in which their observations are applied.
    """

    def __init__(self, connection: Connection, user_id: str, session_id: str | None) -> None:
        options = connection.options
        self.user_id = user_id
        self.session_id = session_id_of(session_id) if session_id else connection.parts.new_session_id()
        self._connection = connection
        self._options = options
        self._feed = Feed(
            Budget(options.replay_events_max, options.replay_bytes_max),
            keeps=True,
            window=options.in_flight_max,
            resumed=session_id is not None,
        )
        self._calls = Calls()
        self._turn = asyncio.Lock()
        self._wake = asyncio.Event()
        self._moved = asyncio.Event()
        self._encoder: Encoder | None = None
        self._running: asyncio.Task[None] | None = None
        self._failure: Callable[[], EvercurrentError] | None = None
        self._last_ending: Ending | None = None
        self._is_closing = self._is_finishing = False
        self._is_leaving = self._has_progressed = False

    @property
    def last_seq(self) -> int:
        """The seq of the newest observation."""
        return self._feed.last_seq

    @property
    def durable_seq(self) -> int:
        """The last seq that is known to be durable."""
        return self._feed.durable_seq

    @property
    def at_risk(self) -> int:
        """Observations that are no longer kept here and not known to be durable: a worker's death would lose them."""
        return self._feed.at_risk

    @property
    def lost(self) -> int:
        """Observations of this session that were given up and that the service does not have."""
        return self._feed.lost

    @property
    def num_kept(self) -> int:
        """Observations kept here to be sent again."""
        return self._feed.num_kept

    @property
    def has_store(self) -> bool:
        """Whether anything becomes durable."""
        return self._feed.keeps

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
            error.add_note(f"and the session did not close well: {failure}")

    async def open(self, timeout_s: float | None = None) -> None:
        """Open the session; `async with` does. Returns when the service has answered.

        Raises:
            Unavailable: the service was not reached in time.
            SessionForgotten: the id given is of a session that the service no longer knows.
        """
        assert self._running is None, "a session is opened once"
        timeout_s = self._options.timeout_s if timeout_s is None else timeout_s
        self._running = asyncio.create_task(self._run())
        try:
            async with asyncio.timeout(timeout_s):
                await self._until(lambda: self._encoder is not None)
        except TimeoutError as error:
            await self._end()
            if isinstance(error, EvercurrentError):
                raise
            text = f"the session of {self.user_id} was not opened within {timeout_s:g} s{after(self._last_ending)}"
            raise Unavailable(text) from None
        except BaseException:
            await self._end()
            raise

    async def observe(
        self,
        *,
        ids: Iterable[int] = (),
        features: Iterable[float] = (),
        outcome: Outcome = None,
        event_time_us: int | None = None,
        observation_id: str = "",
        timeout_s: float | None = None,
    ) -> Result:
        """Predict, then learn from one observation.

        A result may say `rejected` (nothing was learned; see `Result.raise_for_rejection`) or `duplicate`. Cancelling
        the call does not take the observation back.

        Raises:
            InvalidRequest: a value is of another type than its field.
            DeadlineExceeded: no answer in time; see `may_be_applied`.
        """
        message = self._checked().observation(ids, features, outcome, self._time_us(event_time_us), observation_id)
        size = message.ByteSize()

        def enter() -> asyncio.Future[Result]:
            return self._calls.expect_result(self._feed.observe(message, size))

        return await self._call(enter, size, timeout_s, message)

    async def predict(
        self,
        *,
        ids: Iterable[int] = (),
        features: Iterable[float] = (),
        event_time_us: int | None = None,
        timeout_s: float | None = None,
    ) -> Answer:
        """What the model predicts after every observation made before this call. Changes nothing.

        Raises:
            InvalidRequest: the model does not take this.
            DeadlineExceeded: no answer in time.
        """
        candidate = {"ids": ids, "features": features}
        return await self._ask([candidate], event_time_us, timeout_s)

    async def rank(
        self,
        candidates: Sequence[Candidate],
        *,
        score: Score = first_value,
        event_time_us: int | None = None,
        timeout_s: float | None = None,
    ) -> list[Ranked]:
        """Candidates by what is predicted for them, best first: greatest `score(prediction)`. Raises as `predict`."""
        answer = await self._ask(candidates, event_time_us, timeout_s)
        return ranking(candidates, answer, score)

    async def durable(self, timeout_s: float | None = None) -> None:
        """Returns when everything observed so far survives the loss of any process or machine.

        Raises:
            NoStore: nothing becomes durable on this service.
            DeadlineExceeded: it has not become durable in time.
        """
        self._checked()
        seq = self._feed.last_seq
        timeout_s = self._options.timeout_s if timeout_s is None else timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                await self._until(lambda: self._feed.durable_seq >= seq or not self.has_store)
        except TimeoutError as error:
            if isinstance(error, EvercurrentError):
                raise
            raise self._late(f"not durable within {timeout_s:g} s") from None
        if not self.has_store:
            raise NoStore("the service has no store, so nothing becomes durable: run it with one (--store)")

    async def close(self, timeout_s: float | None = None) -> None:
        """Wait until everything is answered and, with a store, durable; then end the session's stream. Idempotent.

        Raises:
            DeadlineExceeded: that was not so in time. The session has ended all the same.
        """
        if self._running is None or self._is_closing:
            return
        self._is_closing = True
        timeout_s = self._options.close_timeout_s if timeout_s is None else timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                await self._until(lambda: self._feed.is_settled)
                self._is_finishing = True
                self._wake.set()
                await asyncio.wait([self._running])
        except TimeoutError as error:
            if isinstance(error, EvercurrentError):
                raise
            if not self._feed.is_settled:
                raise self._late(f"closed after {timeout_s:g} s with observations open") from None
        finally:
            await self._end()

    async def _ask(self, candidates: Sequence[Candidate], event_time_us: int | None, timeout_s: float | None) -> Answer:
        query = self._checked().query(candidates, self._time_us(event_time_us))
        return await self._call(lambda: self._calls.expect_answer(self._feed.ask(query)), 0, timeout_s, None)

    async def _call(
        self,
        enter: Callable[[], asyncio.Future[T]],
        size: int,
        timeout_s: float | None,
        observation: pb.Observation | None,
    ) -> T:
        """Take in a message when it is its turn and there is room; its answer."""
        timeout_s = self._options.timeout_s if timeout_s is None else timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                async with self._turn:
                    await self._until(lambda: self._has_room(size))
                    answer = enter()
                self._wake.set()
                return await answer
        except TimeoutError as error:
            if isinstance(error, EvercurrentError):
                raise
            raise self._unanswered(timeout_s, observation) from None

    def _has_room(self, size: int) -> bool:
        if self._feed.num_unanswered >= self._options.in_flight_max:
            return False
        while not self._feed.budget.fits(size):
            if self._options.on_full == "block" or not self._feed.give_up_oldest():
                return False
        return True

    async def _until(self, condition: Callable[[], bool]) -> None:
        """Wait until something holds. Raises what the session failed with."""
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
            raise SessionClosed(f"the session of {self.user_id} is not open: use it within `async with`")
        return self._encoder

    def _time_us(self, given: int | None) -> int:
        return self._connection.parts.now_us() if given is None else given

    def _unanswered(self, timeout_s: float, observation: pb.Observation | None) -> DeadlineExceeded:
        text = f"no answer within {timeout_s:g} s"
        if observation is None:
            return DeadlineExceeded(f"{text}{after(self._last_ending)}")
        if not observation.seq:
            text = f"{text}: the session was full, and the observation did not enter it{after(self._last_ending)}"
            return DeadlineExceeded(text)
        text = (
            f"{text}: observation {observation.seq} stays in the session and may still be applied"
            f"{after(self._last_ending)}"
        )
        return DeadlineExceeded(text, seq=observation.seq, may_be_applied=True)

    def _late(self, what: str) -> DeadlineExceeded:
        feed = self._feed
        text = (
            f"{what}: {feed.num_unanswered} unanswered, durable up to {feed.durable_seq} of {feed.last_seq}"
            f"{after(self._last_ending)}"
        )
        return DeadlineExceeded(text, seq=feed.last_seq, may_be_applied=True)

    async def _end(self) -> None:
        """End the task, whatever it is at; everything that still waits is told."""
        self._is_closing = True
        running = self._running
        assert running is not None, "it was opened"
        running.cancel()
        await asyncio.wait([running])
        self._fail(lambda: SessionClosed(f"the session of {self.user_id} was closed"))
        if not running.cancelled():
            running.result()

    def _fail(self, make: Callable[[], EvercurrentError]) -> None:
        if self._failure is None:
            self._failure = make
        self._calls.fail(self._failure)
        self._moved.set()

    async def _run(self) -> None:
        """One stream after the other until the session is finished or has failed."""
        try:
            await self._run_streams()
        except Exception:
            self._fail(lambda: SessionClosed("the session broke by a fault of the client: see its traceback"))
            raise

    async def _run_streams(self) -> None:
        transport, attempt = self._connection.transport, 0
        while not (self._is_finishing and self._feed.is_settled):
            router = transport.current
            self._is_leaving = self._has_progressed = False
            try:
                ending = await self._stream()
            except Overtaken as error:
                text = f"session {self.session_id} is used by somebody else: {error}"
                self._fail(partial(SessionTaken, text))
                return
            self._last_ending = ending
            if self._feed.keeps and ending.reason == "NO_STORE":
                self._feed.keep_answered_only()
                continue
            if not is_transient(ending):
                self._fail(partial(error_of, ending))
                return
            transport.turn(router)
            attempt = 1 if self._has_progressed else attempt + 1
            if not ((self._is_leaving and self._has_progressed) or self._is_finishing):
                await self._connection.backoff(attempt, ending)

    async def _stream(self) -> Ending:
        """One stream, from its open to its end."""
        stream = self._connection.transport.session()
        try:
            opened = await self._opened(stream)
            if isinstance(opened, Ending):
                return opened
            for result in self._feed.opened(opened.applied_seq, opened.durable_seq):
                self._calls.tell(result)
            self._moved.set()
            async with asyncio.TaskGroup() as tasks:
                writing = tasks.create_task(self._write(stream))
                ending = await self._read(stream)
                writing.cancel()
            return ending
        finally:
            stream.cancel()
            self._feed.left()

    async def _opened(self, stream: SessionStream) -> SessionOpened | Ending:
        """The answer to the open, and the model that it names known."""
        options = self._options
        request = SessionOpen(
            user_id=self.user_id,
            session_id=self.session_id,
            namespace=options.namespace,
            model=options.model,
            wait_durable=self._feed.keeps,
            timings=options.timings,
        )
        try:
            async with asyncio.timeout(options.open_timeout_s):
                await stream.write(SessionRequest(open=request))
                first = await stream.read()
                if first is None:
                    return await stream.ending()
                if first.WhichOneof("response") == "go_away":
                    return WENT_AWAY
                self._encoder = await self._connection.encoder_of(first.opened.model)
                return first.opened
        except TimeoutError:
            text = f"the stream was not opened within {options.open_timeout_s:g} s"
            return Ending(grpc.StatusCode.DEADLINE_EXCEEDED, text)
        except StreamEnded:
            while await stream.read() is not None:
                pass
            return await stream.ending()
        except CallFailed as error:
            return error.ending

    async def _write(self, stream: SessionStream) -> None:
        """Write what the feed gives until the session finishes or the stream is left."""
        try:
            while not (self._is_leaving or (self._is_finishing and self._feed.is_settled)):
                self._wake.clear()
                message = self._feed.take()
                if message is not None:
                    await stream.write(_request(message))
                elif self._feed.is_drained:
                    await self._connection.parts.sleep(self._feed.retry_after_ms / 1000)
                    self._calls.tell_refusals(self._feed.rewind())
                    self._moved.set()
                else:
                    await self._wake.wait()
            await stream.done_writing()
        except StreamEnded:
            return

    async def _read(self, stream: SessionStream) -> Ending:
        """Take replies to the end of the stream, or, when it is to be left, to the last that is on the way."""
        while (response := await stream.read()) is not None:
            self._take(response)
            self._wake.set()
            self._moved.set()
            if self._is_leaving and not self._feed.num_under_way:
                return WENT_AWAY
        return await stream.ending()

    def _take(self, response: SessionResponse) -> None:
        which = response.WhichOneof("response")
        if which == "result":
            self._has_progressed = True
            told = self._feed.result(Result.of(response.result))
            if told is not None:
                self._calls.tell(told)
        elif which == "query_result":
            self._take_answer(response.query_result)
        elif which == "watermark":
            self._feed.watermark(response.watermark.durable_seq)
        elif which == "go_away":
            self._is_leaving = True
        elif which == "rejected":
            self._feed.refused_unnamed(Rejection.of(response.rejected))

    def _take_answer(self, message: pb.QueryResult) -> None:
        self._has_progressed = True
        why = Rejection.of(message.rejection) if message.HasField("rejection") else None
        num_candidates = self._feed.num_candidates(message.query_id)
        if self._feed.answered(message.query_id, why):
            self._calls.tell_answer(message.query_id, why or Answer.of(message, num_candidates))


def _request(message: pb.Observation | pb.Query | pb.Skip) -> SessionRequest:
    if isinstance(message, pb.Observation):
        return SessionRequest(observation=message)
    if isinstance(message, pb.Query):
        return SessionRequest(query=message)
    return SessionRequest(skip=message)
