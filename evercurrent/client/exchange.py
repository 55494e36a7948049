"""Many users over one Exchange stream, each with a session of its own and all that a `Session` promises.

One task writes: each frame holds whatever is ready, of however many users. What a session sends, keeps and sends again
is decided by its `evercurrent.client.feed`. A session has a tag while it is open on the stream:

    CLOSED ─▶ OPENING ─▶ OPEN ─▶ CLOSING ─▶ CLOSED        and from each of them, when the service ends it, ─▶ CLOSED

An Exchange tells how far users are durable with their results only. For who is idle it closes the tag, which is
answered when all is durable: when `durable` asks for it, when more users are open than may be, and when what is kept
gets much.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import partial
from typing import Any

import grpc

from evercurrent.client.calls import Calls
from evercurrent.client.connection import Connection, after
from evercurrent.client.errors import (
    DeadlineExceeded,
    Ending,
    InvalidRequest,
    SessionTaken,
    ending_of_refusal,
    error_of,
    is_transient,
    reason_name,
)
from evercurrent.client.feed import Budget, Feed, Overtaken
from evercurrent.client.frames import FrameEvents, Row, frame_events_max, rows_of
from evercurrent.client.producer import WENT_AWAY, Producer
from evercurrent.client.requests import Candidate, Outcome
from evercurrent.client.results import Answer, Ranked, Result, Score, first_value, ranking
from evercurrent.client.spans import OBSERVE_MANY
from evercurrent.client.transport import Stream, StreamEnded
from evercurrent.errors import EvercurrentError
from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1.columns_pb2 import EVENT_KIND_CLOSE, EVENT_KIND_QUERY
from evercurrent.v1.session_pb2 import (
    ExchangeFrame,
    ExchangeOpen,
    ExchangeOpened,
    ExchangeRequest,
    ExchangeResponse,
    TagOpen,
    TagOpened,
)

ExchangeStream = Stream[ExchangeRequest, ExchangeResponse]

TAG_MAX = 1 << 20
"""Tags are below this."""

RELIEF = 256
"""Users that are closed at a time to make what is kept of them durable."""

SHARE = 64
"""All users are gone through each time when a part of what may be kept was taken in: one of so many."""

EVENT_FIELDS = frozenset({"user_id", "ids", "features", "outcome", "event_time_us"})


class _Place(Enum):
    """Where a session is on the stream."""

    CLOSED = auto()
    OPENING = auto()
    OPEN = auto()
    CLOSING = auto()


@dataclass(frozen=True, slots=True)
class _Parted:
    session_id: str
    last_seq: int = 0
    lost: int = 0


@dataclass(slots=True, eq=False)
class _User:
    user_id: str
    session_id: str
    feed: Feed
    calls: Calls = field(default_factory=Calls)
    place: _Place = _Place.CLOSED
    tag: int = -1
    attempt: int = 0
    is_queued: bool = False
    is_waiting: bool = False
    """Until it may be opened or rewound again."""
    rows: list[Row] = field(default_factory=list)
    """Of a query whose other candidates are not answered yet."""

    @property
    def is_idle(self) -> bool:
        """Whether it is open and nobody waits for anything of it."""
        return self.place is _Place.OPEN and not self.feed.num_unanswered and not self.feed.num_under_way

    @property
    def wants_close(self) -> bool:
        """Whether its tag is to be closed as soon as what was sent is answered."""
        return self.feed.hold_after is not None


class Exchange(Producer):
    """Sessions of many users on one stream. Made by `Client.exchange`; used with `async with`.

    Calls of one user are applied in the order in which they are made; those of different users in any.
    """

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection, "the exchange")
        options = self._options
        self._budget = Budget(options.replay_events_max, options.replay_bytes_max)
        self._users: OrderedDict[str, _User] = OrderedDict()
        """The one that was idle longest first."""
        self._parted: OrderedDict[str, _Parted] = OrderedDict()
        """Where the sessions are of users that are durable and closed."""
        self._closing: set[_User] = set()
        """Whose tags are to be closed, or are being."""
        self._relieved_at = 0
        self._num_unanswered = 0
        self._lost = 0
        self._limits = ExchangeOpened()
        self._by_tag: dict[int, _User] = {}
        self._free_tags: list[int] = []
        self._next_tag = 0
        self._queue: deque[_User] = deque()
        """Users that may have something to write."""

    @property
    def num_users(self) -> int:
        """Users that are open or have something that is not durable."""
        return len(self._users)

    @property
    def at_risk(self) -> int:
        """Observations that are no longer kept here and not known to be durable."""
        return sum(user.feed.at_risk for user in self._users.values())

    @property
    def lost(self) -> int:
        """Observations that were given up and that the service does not have."""
        open_lost = sum(user.feed.lost for user in self._users.values())
        return self._lost + open_lost + sum(parted.lost for parted in self._parted.values())

    @property
    def num_kept(self) -> int:
        """Observations kept here to be sent again."""
        return self._budget.num_events

    async def observe(
        self,
        user_id: str,
        *,
        ids: Iterable[int] = (),
        features: Iterable[float] = (),
        outcome: Outcome = None,
        event_time_us: int | None = None,
        timeout_s: float | None = None,
    ) -> Result:
        """As `Session.observe`, for a user."""
        event = {"ids": ids, "features": features, "outcome": outcome, "event_time_us": event_time_us}
        (result,) = await self.observe_many([{"user_id": user_id, **event}], timeout_s=timeout_s)
        return result

    async def observe_many(
        self, events: Iterable[Mapping[str, Any]], *, timeout_s: float | None = None
    ) -> list[Result]:
        """Observations of any users, `{"user_id": "ann", "ids": [3, 7], "outcome": 1.0}`; results in their order.

        Raises:
            InvalidRequest: one does not fit; then none is sent.
            DeadlineExceeded: not all were answered in time.
        """
        messages = [self._message(event) for event in events]
        timeout = self._options.timeout_s if timeout_s is None else timeout_s
        entered: list[asyncio.Future[Result]] = []
        with self._connection.parts.spans.span(OBSERVE_MANY, "") as traceparent:
            async with self._within(timeout, lambda: self._unanswered_many(timeout, [one for _, one in messages])):
                async with self._entering():
                    for user_id, message in messages:
                        message.traceparent = traceparent
                        size = message.ByteSize()
                        entered.append(await self._enter(size, partial(self._observe, user_id, message, size)))
                return await asyncio.gather(*entered)

    async def predict(
        self,
        user_id: str,
        *,
        ids: Iterable[int] = (),
        features: Iterable[float] = (),
        event_time_us: int | None = None,
        timeout_s: float | None = None,
    ) -> Answer:
        """As `Session.predict`, for a user."""
        return await self._ask(user_id, [{"ids": ids, "features": features}], event_time_us, timeout_s)

    async def rank(
        self,
        user_id: str,
        candidates: Sequence[Candidate],
        *,
        score: Score = first_value,
        event_time_us: int | None = None,
        timeout_s: float | None = None,
    ) -> list[Ranked]:
        """As `Session.rank`, for a user."""
        return ranking(candidates, await self._ask(user_id, candidates, event_time_us, timeout_s), score)

    async def _ask(
        self, user_id: str, candidates: Sequence[Candidate], event_time_us: int | None, timeout_s: float | None
    ) -> Answer:
        encoder = self._checked()
        query = encoder.query(candidates, self._time_us(event_time_us))
        for candidate in query.candidates:
            encoder.check_widths(candidate)
        if len(candidates) > self._window:
            text = f"{len(candidates)} candidates were given; {self._window} are taken on an exchange"
            raise InvalidRequest(text, field="candidates", reason="CANDIDATES")
        timeout = self._options.timeout_s if timeout_s is None else timeout_s

        def enter() -> asyncio.Future[Answer]:
            user = self._touched(user_id)
            return self._entered(user, user.calls.expect_answer(user.feed.ask(query)))

        async with self._within(timeout, lambda: self._unanswered(timeout, None)):
            async with self._entering():
                answer = await self._enter(0, enter)
            return await answer

    def _unanswered_many(self, timeout_s: float, messages: Sequence[pb.Observation]) -> DeadlineExceeded:
        if len(messages) == 1:
            return self._unanswered(timeout_s, messages[0].seq)
        num_entered = sum(message.seq > 0 for message in messages)
        text = (
            f"not all answered within {timeout_s:g} s: the first {num_entered} of {len(messages)} observations stay in "
            f"their sessions and may still be applied{after(self._last_ending)}"
        )
        return DeadlineExceeded(text, may_be_applied=num_entered > 0)

    def _message(self, event: Mapping[str, Any]) -> tuple[str, pb.Observation]:
        encoder = self._checked()
        unknown = event.keys() - EVENT_FIELDS
        if unknown or not event.get("user_id"):
            text = f"an event has {sorted(event)}; it needs user_id and may have {sorted(EVENT_FIELDS - {'user_id'})}"
            raise InvalidRequest(text, field=min(unknown, default="user_id"))
        message = encoder.observation(
            event.get("ids", ()),
            event.get("features", ()),
            event.get("outcome"),
            self._time_us(event.get("event_time_us")),
        )
        encoder.check_widths(message)
        return str(event["user_id"]), message

    def _observe(self, user_id: str, message: pb.Observation, size: int) -> asyncio.Future[Result]:
        user = self._touched(user_id)
        return self._entered(user, user.calls.expect_result(user.feed.observe(message, size)))

    def _entered(self, user: _User, answer: asyncio.Future[Any]) -> asyncio.Future[Any]:
        self._num_unanswered += 1
        self._queue_up(user)
        return answer

    def _touched(self, user_id: str) -> _User:
        """A user's session, a new one if need be; it is the one used last now."""
        user = self._users.get(user_id)
        if user is None:
            parted = self._parted.pop(user_id, None) or _Parted(self._connection.parts.new_session_id())
            feed = Feed(self._budget, keeps=self._has_store, window=self._window, last_seq=parted.last_seq)
            feed.lost = parted.lost
            user = self._users[user_id] = _User(user_id, parted.session_id, feed)
            self._close_idle(len(self._users) - self._options.exchange_users_max)
        else:
            self._users.move_to_end(user_id)
        return user

    @property
    def _window(self) -> int:
        return self._limits.in_flight_session_max or self._options.in_flight_max

    def _has_room(self, size: int) -> bool:
        if self._num_unanswered >= self._options.exchange_in_flight_max:
            return False
        self._relieve()
        if not self._budget.fits(size) and self._options.on_full == "give_up":
            self._give_up(size)
        return self._budget.fits(size)

    def _give_up(self, size: int) -> None:
        """Keep some of the oldest that were answered no more: more than are needed, so that it is done now and then."""
        num_left = self._budget.events_max - self._budget.events_max // SHARE
        for user in self._users.values():
            while self._budget.num_events > num_left or not self._budget.fits(size):
                if not user.feed.give_up_oldest():
                    break

    def _close_idle(self, num: int) -> None:
        """Close those that were idle longest, if there are any."""
        for user in self._users.values() if num > 0 else ():
            if num <= 0:
                return
            num -= user.wants_close or user.place is _Place.CLOSING
            if user.is_idle and not user.wants_close:
                self._ask_close(user)
                num -= 1

    def _relieve(self) -> None:
        """When more than half of what may be is kept, make that of idle users durable, some users at a time."""
        budget = self._budget
        if 2 * budget.num_events <= budget.events_max and 2 * budget.num_bytes <= budget.bytes_max:
            self._relieved_at = 0
            return
        if self._closing or budget.num_events < self._relieved_at + budget.events_max // SHARE:
            return
        self._relieved_at = budget.num_events
        idle = [user for user in self._users.values() if user.is_idle and user.feed.num_kept]
        for user in idle[:RELIEF]:
            self._ask_close(user)

    def _ask_close(self, user: _User) -> None:
        """Have a user's tag closed once everything until now is answered."""
        user.feed.hold_after = user.feed.last_seq
        self._closing.add(user)
        self._queue_up(user)
        self._wake.set()

    def _is_settled(self) -> bool:
        return all(user.feed.is_settled for user in self._users.values())

    async def _wait_durable(self) -> None:
        waiting = {user: user.feed.last_seq for user in self._users.values() if not user.feed.is_durable}

        def is_done() -> bool:
            for user, seq in list(waiting.items()):
                if user.feed.durable_seq >= seq or user.user_id not in self._users:
                    del waiting[user]
                elif not user.wants_close and user.place is not _Place.CLOSING:
                    self._ask_close(user)
            return not waiting or not self._has_store

        await self._until(is_done)

    def _progress(self) -> str:
        num_open = sum(not user.feed.is_durable for user in self._users.values())
        return f"{self._num_unanswered} unanswered, {num_open} users not durable"

    def _store_is_missing(self) -> None:
        for user in self._users.values():
            user.feed.keep_answered_only()

    def _fail_calls(self, make: Callable[[], EvercurrentError]) -> None:
        for user in self._users.values():
            user.calls.fail(make)

    def _queue_up(self, user: _User) -> None:
        if not user.is_queued:
            user.is_queued = True
            self._queue.append(user)

    async def _stream(self) -> Ending:
        stream = self._connection.transport.exchange()
        options = self._options
        request = ExchangeOpen(
            namespace=options.namespace,
            model=options.model,
            model_version=options.model_version,
            wait_durable=self._has_store,
            timings=options.timings,
        )
        try:
            first = await self._opened(stream, ExchangeRequest(open=request), _model_of)
            if isinstance(first, Ending):
                return first
            self._begin(first.opened)
            async with asyncio.TaskGroup() as tasks:
                writing = tasks.create_task(self._write(stream))
                pauses: set[asyncio.Task[None]] = set()
                ending = await self._read(stream, partial(self._pause, tasks, pauses))
                for task in (writing, *pauses):
                    task.cancel()
            return ending
        finally:
            stream.cancel()
            self._left_stream()

    def _begin(self, limits: ExchangeOpened) -> None:
        """A stream is open: users that have anything to send or to learn are opened on it."""
        self._limits = limits
        self._moved.set()
        for user in list(self._users.values()):
            user.feed.window = self._window
            if user.feed.needs_stream:
                self._queue_up(user)
            else:
                self._part(user)

    def _left_stream(self) -> None:
        for user in self._users.values():
            user.feed.left()
            user.feed.hold_after = None
            user.place, user.tag, user.is_waiting, user.is_queued = _Place.CLOSED, -1, False, False
            user.rows.clear()
        self._closing.clear()
        self._queue.clear()
        self._by_tag.clear()
        self._free_tags.clear()
        self._next_tag = 0

    async def _write(self, stream: ExchangeStream) -> None:
        """Write frames of what is ready until all is finished or the stream is left."""
        try:
            while not (self._is_leaving or (self._is_finishing and self._is_settled())):
                self._wake.clear()
                frame = self._frame()
                if frame is None:
                    await self._wake.wait()
                else:
                    await stream.write(ExchangeRequest(frame=frame))
            await stream.done_writing()
        except StreamEnded:
            return

    def _frame(self) -> ExchangeFrame | None:
        """Opens, events and closes of whoever is ready; None if nobody is."""
        assert self._encoder is not None, "the stream is open"
        events_max = frame_events_max(self._encoder.model, self._limits.frame_events_max)
        events = FrameEvents(self._encoder.model)
        opens: list[TagOpen] = []
        closes: list[int] = []
        limit = max(events_max, self._window)
        while self._queue and len(events) + self._window <= limit and max(len(opens), len(closes)) < limit:
            user = self._queue.popleft()
            user.is_queued = False
            if user.is_waiting:
                continue
            if user.place is _Place.CLOSED:
                opens.append(self._tagged(user))
            elif user.place is _Place.OPEN:
                while len(events) < events_max and (message := user.feed.take()) is not None:
                    events.add(user.tag, message)
                if len(events) >= events_max:
                    self._queue_up(user)
                elif user.wants_close and not user.feed.num_under_way and not user.feed.is_rewinding:
                    user.place = _Place.CLOSING
                    closes.append(user.tag)
        if not (events or opens or closes):
            return None
        return ExchangeFrame(opens=opens, events=events.columns() if events else None, closes=closes)

    def _tagged(self, user: _User) -> TagOpen:
        if self._free_tags:
            user.tag = self._free_tags.pop()
        else:
            user.tag = self._next_tag
            self._next_tag += 1
        user.place = _Place.OPENING
        self._by_tag[user.tag] = user
        return TagOpen(tag=user.tag, user_id=user.user_id, session_id=user.session_id)

    async def _read(self, stream: ExchangeStream, pause: Callable[[_User, float], None]) -> Ending:
        """Take replies to the end of the stream, or, when it is to be left, to the last that is on the way."""
        while (response := await stream.read()) is not None:
            which = response.WhichOneof("response")
            if which == "frame":
                for opened in response.frame.opens:
                    self._take_opened(opened, pause)
                for row in rows_of(response.frame.results):
                    self._take(row, pause)
            elif which == "go_away":
                self._is_leaving = True
            elif which == "rejected":
                self._connection.forget_model()
                text = f"a frame was refused: {reason_name(response.rejected.reason)}: {response.rejected.message}"
                return Ending(grpc.StatusCode.INTERNAL, text)
            self._wake.set()
            self._moved.set()
            if self._is_leaving and not any(user.feed.num_under_way for user in self._by_tag.values()):
                return WENT_AWAY
            if self._next_tag >= TAG_MAX:
                return Ending(grpc.StatusCode.UNAVAILABLE, "all tags of the stream are used up")
        return await stream.ending()

    def _take_opened(self, message: TagOpened, pause: Callable[[_User, float], None]) -> None:
        user = self._by_tag.get(message.tag)
        if user is None:
            return
        if not message.HasField("rejection"):
            user.place = _Place.OPEN
            try:
                results = user.feed.opened(message.opened.applied_seq, message.opened.durable_seq)
            except Overtaken as error:
                text = f"session {user.session_id} of {user.user_id} is used by somebody else: {error}"
                self._drop(user, partial(SessionTaken, text))
                return
            for result in results:
                self._tell(user, result)
            self._queue_up(user)
            return
        # Events that named it may still be answered: its tag is not given to another on this stream.
        del self._by_tag[message.tag]
        user.place, user.tag = _Place.CLOSED, -1
        user.feed.left()
        user.rows.clear()
        ending = ending_of_refusal(message.rejection)
        if not is_transient(ending):
            self._drop(user, partial(error_of, ending))
            return
        self._last_ending = ending
        user.attempt += 1
        delay_s = self._options.retry.delay_s(user.attempt, ending.retry_after_s, self._connection.parts.chance())
        pause(user, delay_s)

    def _take(self, row: Row, pause: Callable[[_User, float], None]) -> None:
        user = self._by_tag.get(row.tag)
        if user is None:
            return
        self._has_progressed = True
        user.attempt = 0
        if row.kind == EVENT_KIND_CLOSE:
            self._take_closed(user)
            return
        if row.kind == EVENT_KIND_QUERY:
            self._take_answer(user, row)
        else:
            told = user.feed.result(row.result)
            if told is not None:
                self._tell(user, told)
        if user.feed.is_drained and not user.is_waiting:
            pause(user, user.feed.retry_after_ms / 1000)
        else:
            self._queue_up(user)

    def _take_closed(self, user: _User) -> None:
        """A tag is closed, and with a store everything of it durable."""
        del self._by_tag[user.tag]
        self._free_tags.append(user.tag)
        user.place, user.tag = _Place.CLOSED, -1
        user.feed.left()
        if self._has_store and user.feed.hold_after is not None:
            user.feed.watermark(user.feed.hold_after)
        user.feed.hold_after = None
        self._closing.discard(user)
        if user.feed.needs_stream:
            self._queue_up(user)
        else:
            self._part(user)

    def _take_answer(self, user: _User, row: Row) -> None:
        """One candidate's part of an answer."""
        user.rows.append(row)
        query_id = row.result.seq
        num_candidates = user.feed.num_candidates(query_id)
        if len(user.rows) < num_candidates:
            return
        rows = [one.result for one in user.rows]
        user.rows.clear()
        why = next((one.rejection for one in rows if one.rejection is not None), None)
        if user.feed.answered(query_id, why):
            self._num_unanswered -= 1
            answer = Answer(
                rows[0].version, tuple(one.prediction for one in rows), rows[-1].timings, rows[0].model_version
            )
            user.calls.tell_answer(query_id, why or answer)

    def _tell(self, user: _User, result: Result) -> None:
        self._num_unanswered -= 1
        user.calls.tell(result)

    def _drop(self, user: _User, make: Callable[[], EvercurrentError]) -> None:
        """A user's session is over: its calls end with an error, and its next one begins a new session."""
        self._num_unanswered -= user.feed.num_unanswered
        user.calls.fail(make)
        user.feed.abandon()
        self._lost += user.feed.lost
        self._by_tag.pop(user.tag, None)
        self._forget(user)

    def _part(self, user: _User) -> None:
        """Keep of a user only where its session is."""
        self._forget(user)
        self._parted[user.user_id] = _Parted(user.session_id, user.feed.last_seq, user.feed.lost)
        if len(self._parted) > self._options.exchange_users_max:
            self._lost += self._parted.popitem(last=False)[1].lost

    def _forget(self, user: _User) -> None:
        del self._users[user.user_id]
        self._closing.discard(user)

    def _pause(self, tasks: asyncio.TaskGroup, pauses: set[asyncio.Task[None]], user: _User, delay_s: float) -> None:
        """Open or rewind a user's session after a while. One at a time each, so they are as many as users at most."""
        user.is_waiting = True
        task = tasks.create_task(self._come_back(user, delay_s))
        pauses.add(task)
        task.add_done_callback(pauses.discard)

    async def _come_back(self, user: _User, delay_s: float) -> None:
        await self._connection.parts.sleep(delay_s)
        user.is_waiting = False
        if user.feed.is_drained:
            user.feed.rewind()
        self._queue_up(user)
        self._wake.set()


def _model_of(response: ExchangeResponse) -> str | None:
    return response.opened.model if response.HasField("opened") else None
