"""One user's session: calls in, a Session stream that is opened again whenever it breaks, answers out.

What is sent, kept and sent again is decided by `evercurrent.client.feed`; this is the shell that carries it out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

from evercurrent.client.calls import Calls
from evercurrent.client.connection import Connection
from evercurrent.client.errors import Ending
from evercurrent.client.feed import Budget, Feed
from evercurrent.client.options import session_id_of
from evercurrent.client.producer import WENT_AWAY, Producer
from evercurrent.client.requests import Candidate, Outcome, request_of
from evercurrent.client.results import Answer, Ranked, Rejection, Result, Score, first_value, ranking
from evercurrent.client.spans import OBSERVE
from evercurrent.client.transport import Near, Stream, StreamEnded
from evercurrent.errors import EvercurrentError
from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1.session_pb2 import SessionOpen, SessionRequest, SessionResponse

SessionStream = Stream[SessionRequest, SessionResponse]


class Session(Producer):
    """One producer's ordered stream of observations for one user. Made by `Client.session`; used with `async with`.

    Calls may overlap: the order in which they are made is the order in which their observations are applied.
    """

    def __init__(self, connection: Connection, user_id: str, session_id: str | None) -> None:
        super().__init__(connection, f"the session of {user_id}")
        options = connection.options
        self.user_id = user_id
        self.session_id = session_id_of(session_id) if session_id else connection.parts.new_session_id()
        self._feed = Feed(
            Budget(options.replay_events_max, options.replay_bytes_max),
            keeps=True,
            window=options.in_flight_max,
            resumed=session_id is not None,
        )
        self._calls = Calls()
        self._idle: Near | None = None
        """The stream that is open, if it is near, while the task that writes has nothing to do for it."""

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
        with self._connection.parts.spans.span(OBSERVE, self.user_id) as traceparent:
            message.traceparent = traceparent
            size = message.ByteSize()
            timeout = self._options.timeout_s if timeout_s is None else timeout_s
            return await self._answer(
                size,
                lambda: self._calls.expect_result(self._feed.observe(message, size)),
                timeout,
                lambda: self._unanswered(timeout, message.seq),
            )

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

    async def _ask(self, candidates: Sequence[Candidate], event_time_us: int | None, timeout_s: float | None) -> Answer:
        query = self._checked().query(candidates, self._time_us(event_time_us))
        timeout = self._options.timeout_s if timeout_s is None else timeout_s
        return await self._answer(
            0,
            lambda: self._calls.expect_answer(self._feed.ask(query)),
            timeout,
            lambda: self._unanswered(timeout, None),
        )

    def _has_room(self, size: int) -> bool:
        return self._feed.num_unanswered < self._options.in_flight_max and self._make_room(self._feed, size)

    def _is_settled(self) -> bool:
        return self._feed.is_settled

    async def _wait_durable(self) -> None:
        seq = self._feed.last_seq
        await self._until(lambda: self._feed.durable_seq >= seq or not self._has_store)

    def _progress(self) -> str:
        feed = self._feed
        return f"{feed.num_unanswered} unanswered, durable up to {feed.durable_seq} of {feed.last_seq}"

    def _store_is_missing(self) -> None:
        self._feed.keep_answered_only()

    def _fail_calls(self, make: Callable[[], EvercurrentError]) -> None:
        self._calls.fail(make)

    async def _stream(self) -> Ending:
        stream = self._connection.transport.session()
        options = self._options
        request = SessionOpen(
            user_id=self.user_id,
            session_id=self.session_id,
            namespace=options.namespace,
            model=options.model,
            model_version=options.model_version,
            wait_durable=self._has_store,
            timings=options.timings,
        )
        try:
            first = await self._opened(stream, SessionRequest(open=request), _model_of)
            if isinstance(first, Ending):
                return first
            for result in self._feed.opened(first.opened.applied_seq, first.opened.durable_seq):
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

    async def _write(self, stream: SessionStream) -> None:
        """Write what the feed gives until the session finishes or the stream is left."""
        try:
            while not (self._is_leaving or (self._is_finishing and self._feed.is_settled)):
                self._wake.clear()
                message = self._feed.take()
                if message is not None:
                    await stream.write(request_of(message))
                elif self._feed.is_drained:
                    await self._connection.parts.sleep(self._feed.retry_after_ms / 1000)
                    self._calls.tell_refusals(self._feed.rewind())
                    self._moved.set()
                else:
                    self._idle = stream.near
                    await self._wake.wait()
                    self._idle = None
            await stream.done_writing()
        except StreamEnded:
            return
        finally:
            self._idle = None

    def _write_soon(self) -> None:
        """Write what there is at once where the stream can do that, or wake the task that writes."""
        stream = self._idle
        if stream is None or self._is_leaving or self._is_finishing or self._feed.is_drained:
            self._wake.set()
            return
        while stream.has_room and (message := self._feed.take()) is not None:
            stream.give(message)
        if not stream.has_room and self._feed.has_unsent:
            self._wake.set()

    async def _read(self, stream: SessionStream) -> Ending:
        """Take replies to the end of the stream, or, when it is to be left, to the last that is on the way."""
        if stream.near is not None:
            stream.near.listen(self._take_now)
        while (response := await stream.read()) is not None:
            self._take(response)
            self._go_on()
            if self._is_leaving and not self._feed.num_under_way:
                return WENT_AWAY
        return await stream.ending()

    def _take_now(self, result: Result) -> bool:
        """Take a result as it comes, while there is nothing to be done about it but that."""
        if self._is_leaving:
            return False
        self._take_result(result)
        self._go_on()
        return True

    def _go_on(self) -> None:
        """Something has come: more may be sent, and what is waited for may be true."""
        self._write_soon()
        self._moved.set()

    def _take(self, response: SessionResponse) -> None:
        which = response.WhichOneof("response")
        if which == "result":
            self._take_result(Result.of(response.result))
        elif which == "query_result":
            self._take_answer(response.query_result)
        elif which == "watermark":
            self._feed.watermark(response.watermark.durable_seq)
        elif which == "go_away":
            self._is_leaving = True
        elif which == "rejected":
            self._feed.refused_unnamed(Rejection.of(response.rejected))

    def _take_result(self, result: Result) -> None:
        self._has_progressed = True
        told = self._feed.result(result)
        if told is not None:
            self._calls.tell(told)

    def _take_answer(self, message: pb.QueryResult) -> None:
        self._has_progressed = True
        why = Rejection.of(message.rejection) if message.HasField("rejection") else None
        num_candidates = self._feed.num_candidates(message.query_id)
        if self._feed.answered(message.query_id, why):
            self._calls.tell_answer(message.query_id, why or Answer.of(message, num_candidates))


def _model_of(response: SessionResponse) -> str | None:
    return response.opened.model if response.HasField("opened") else None
