"""One session's memory: what was sent, what was answered, what is durable, what goes next. Pure: no I/O, no clock.

A feed gives seqs to observations and keeps each until it is answered and, where there is a store, durable. Whoever owns
a feed opens streams for it, writes what `take` gives, tells it every reply, and tells it when a stream is gone:

    CLOSED ──opened──▶ OPEN ──a refusal that consumed nothing──▶ REWINDING ──all answered, then rewind──▶ OPEN
       ▲                 └──────────────────── left ────────────────┘
       └─────────────────────────────────────────┘

What a stream consumed is told by `opened`: what is above is taken again in order, answered or not, and the answers to
what was answered before are swallowed. A refusal that consumed no seq leaves a gap in which everything after it is
refused too; so nothing is sent until all that is on the way is answered, and then everything from the gap on is sent
again (go-back-N). Replies are told apart by seq or query id, not by place: a router answers some itself, out of turn.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from evercurrent.client.requests import Message
from evercurrent.client.results import Rejection, Result, Status
from evercurrent.v1 import observation_pb2 as pb

AGAIN = frozenset({"OVERLOADED", "UNAVAILABLE", "SEQ_GAP", "NOT_OWNER", "TAG"})
"""Refusals that consume nothing and may go well another time."""


class Overtaken(Exception):
    """The service has consumed more of a session than was ever sent here: somebody else uses its id."""


@dataclass(slots=True)
class Budget:
    """How much is kept, of one feed or of several that share a bound."""

    events_max: int
    bytes_max: int
    num_events: int = 0
    num_bytes: int = 0

    def fits(self, num_bytes: int) -> bool:
        """Whether one more of this size does."""
        return self.num_events < self.events_max and (
            self.num_bytes + num_bytes <= self.bytes_max or not self.num_events
        )


@dataclass(slots=True)
class _Kept:
    message: pb.Observation
    num_bytes: int
    is_answered: bool = False
    is_refused: bool = False
    """Refused for good without its seq: a skip is sent in its place."""


@dataclass(slots=True)
class _Question:
    message: pb.Query
    after_seq: int


@dataclass(frozen=True, slots=True)
class Refusals:
    """What was refused for good and has no reply of its own: observations by seq, queries by id."""

    results: list[Result] = field(default_factory=list)
    queries: list[tuple[int, Rejection]] = field(default_factory=list)


class Feed:
    """The state machine of one session.

    `keeps`: until durable, and not only until answered. `window`: events that may be unanswered on a stream at once. A
    `resumed` feed begins where the first `opened` says.
    """

    def __init__(self, budget: Budget, *, keeps: bool, window: int, last_seq: int = 0, resumed: bool = False) -> None:
        self.keeps = keeps
        self.window = window
        self.last_seq = last_seq
        """The last that was given to an observation."""
        self.durable_seq = last_seq
        self.lost = 0
        """Observations that were given up and that the service has not, as it said last."""
        self.num_unanswered = 0
        """Observations and queries that nobody has been answered."""
        self.retry_after_ms = 0
        self.is_open = False
        self.is_rewinding = False
        self.hold_after: int | None = None
        """No observation after this seq is sent while it is set."""
        self._is_resumed = resumed
        self.budget = budget
        self._kept: dict[int, _Kept] = {}
        self._questions: dict[int, _Question] = {}
        self._last_question = 0
        self._first_seq = last_seq + 1
        self._next_seq = last_seq + 1
        self._next_question = 1
        self._sent_seq = last_seq
        self._consumed_seq = last_seq
        self._seqs_under_way: dict[int, None] = {}
        self._questions_under_way: dict[int, int] = {}
        self._num_under_way = 0
        self._unnamed: list[Rejection] = []

    @property
    def num_kept(self) -> int:
        """Observations that would be sent again."""
        return len(self._kept)

    @property
    def num_under_way(self) -> int:
        """Events that were sent on this stream and are not answered."""
        return self._num_under_way

    @property
    def at_risk(self) -> int:
        """Observations that are kept no more and not known to be durable: their worker's death loses them."""
        return max(0, self._first_seq - 1 - self.durable_seq)

    @property
    def is_durable(self) -> bool:
        """Whether all that was ever observed is."""
        return self.durable_seq >= self.last_seq

    @property
    def is_settled(self) -> bool:
        """Whether nothing is waited for."""
        return not self.num_unanswered and (self.is_durable or not self.keeps)

    @property
    def needs_stream(self) -> bool:
        """Whether there is anything to send, or to learn from an `opened`."""
        return bool(self.num_unanswered or self._kept)

    @property
    def has_unsent(self) -> bool:
        """Whether anything is still to be sent on this stream, now or later."""
        return self._next_seq <= self.last_seq or self._next_question <= self._last_question

    @property
    def is_drained(self) -> bool:
        """Whether `rewind` is due, after `retry_after_ms`."""
        return self.is_rewinding and len(self._seqs_under_way) + len(self._questions_under_way) <= len(self._unnamed)

    def num_candidates(self, query_id: int) -> int:
        """How many a query has; 0 for one that is not waited for."""
        question = self._questions.get(query_id)
        return len(question.message.candidates) if question is not None else 0

    def observe(self, message: pb.Observation, num_bytes: int) -> int:
        """Take in an observation, which gets the next seq. The budget is the caller's to ask."""
        self.last_seq += 1
        message.seq = self.last_seq
        self._kept[self.last_seq] = _Kept(message, num_bytes)
        self.budget.num_events += 1
        self.budget.num_bytes += num_bytes
        self.num_unanswered += 1
        return self.last_seq

    def ask(self, message: pb.Query) -> int:
        """Take in a query, to be answered by the state after every observation so far; its id."""
        self._last_question += 1
        message.query_id = self._last_question
        self._questions[self._last_question] = _Question(message, self.last_seq)
        self.num_unanswered += 1
        return self._last_question

    def give_up_oldest(self) -> bool:
        """Keep the oldest observation no more, if it was answered. It is at risk until it is durable."""
        kept = self._kept.get(self._first_seq)
        if kept is None or not kept.is_answered:
            return False
        self._drop_first()
        return True

    def keep_answered_only(self) -> None:
        """There is no store: what is answered is kept no more."""
        self.keeps = False
        self._settle()

    def abandon(self) -> None:
        """Keep nothing any more: the session is over."""
        self.left()
        while self._kept:
            self._drop_first()
        self._questions.clear()
        self.num_unanswered = 0

    def opened(self, applied_seq: int, durable_seq: int) -> list[Result]:
        """A stream is open. Gives the results of observations that were consumed and whose replies were lost.

        Raises:
            Overtaken: more was consumed than was ever sent.
        """
        if self._is_resumed:
            self._is_resumed = False
            self.last_seq = self._sent_seq = applied_seq
            self._first_seq = applied_seq + 1
        if applied_seq > self._sent_seq:
            raise Overtaken(f"{applied_seq} were consumed where {self._sent_seq} were sent")
        self.left()
        self.is_open = True
        self._consumed_seq = applied_seq
        self._next_seq = applied_seq + 1
        self.durable_seq = max(self.durable_seq, durable_seq)
        unknown = [seq for seq, kept in self._kept.items() if seq <= applied_seq and not kept.is_answered]
        results = [
            Result(seq, Status.DUPLICATE, applied_seq=applied_seq, durable_seq=self.durable_seq) for seq in unknown
        ]
        for seq in unknown:
            self._answer(seq)
        self._settle()
        return results

    def left(self) -> None:
        """The stream is gone, and with it the replies that were on the way."""
        self.is_open = self.is_rewinding = False
        self.retry_after_ms = 0
        self._seqs_under_way.clear()
        self._questions_under_way.clear()
        self._num_under_way = 0
        self._unnamed.clear()
        self._next_question = self._first_question()

    def take(self) -> Message | None:
        """What is to be written next, which counts as written; None if nothing is or may be."""
        if not self.is_open or self.is_rewinding or self._num_under_way >= self.window:
            return None
        question = self._due_question()
        if question is not None:
            return self._ask(question) if self._has_room_for(question) else None
        seq = self._next_seq
        if seq > self.last_seq or (self.hold_after is not None and seq > self.hold_after):
            return None
        if seq < self._first_seq:
            return self._skip(seq, self._first_seq - 1)
        kept = self._kept[seq]
        if kept.is_refused:
            return self._skip(seq, seq)
        self._sent(seq)
        return kept.message

    def result(self, result: Result) -> Result | None:
        """A reply to an observation or a skip; what the caller is to be told, if it is still to be told anything."""
        if result.seq in self._seqs_under_way:
            del self._seqs_under_way[result.seq]
            self._num_under_way -= 1
        self.durable_seq = max(self.durable_seq, result.durable_seq)
        self.lost = max(self.lost, result.lost)
        kept = self._kept.get(result.seq)
        if not result.is_consumed:
            assert result.rejection is not None, "a rejection says why"
            told = self._refuse(result, result.rejection)
        else:
            self._consumed_seq = max(self._consumed_seq, result.seq)
            told = None
            if kept is not None and not kept.is_answered:
                self._answer(result.seq)
                told = result
            # Another stream of this session, which broke, delivered it after this one was opened.
            if told is not None and told.rejection is not None and told.rejection.reason == "SEQ_REGRESSION":
                told = told.as_duplicate()
        self._settle()
        return told

    def answered(self, query_id: int, rejection: Rejection | None) -> bool:
        """A reply to a query; whether the caller is to be told it. If not, it will be asked again."""
        self._num_under_way -= self._questions_under_way.pop(query_id, 0)
        question = self._questions.get(query_id)
        if question is None:
            return False
        again = rejection is not None and rejection.reason in AGAIN
        if again or question.after_seq > self._consumed_seq:
            self._go_back(rejection.retry_after_ms if rejection else 0)
            return False
        self._forget_question(query_id)
        return True

    def refused_unnamed(self, rejection: Rejection) -> None:
        """A message was refused that could not be read, so the refusal does not name it. It is known once everything
        else is answered; `rewind` tells."""
        self._unnamed.append(rejection)
        self._go_back(0)

    def watermark(self, durable_seq: int) -> None:
        """So much is durable."""
        self.durable_seq = max(self.durable_seq, durable_seq)
        self._settle()

    def rewind(self) -> Refusals:
        """Send again from the first that was not consumed on. For when `is_drained`, after `retry_after_ms`."""
        assert self.is_drained, "what is on the way would be answered twice"
        refusals = Refusals()
        unnamed = iter(self._unnamed)
        for seq in self._seqs_under_way:
            why = next(unnamed)
            told = self._refuse(Result(seq, Status.REJECTED, applied_seq=seq - 1, rejection=why), why)
            if told is not None:
                refusals.results.append(told)
        for query_id in self._questions_under_way:
            refusals.queries.append((query_id, next(unnamed)))
            self._forget_question(query_id)
        self._seqs_under_way.clear()
        self._questions_under_way.clear()
        self._num_under_way = 0
        self._unnamed.clear()
        self._next_seq = self._consumed_seq + 1
        self._next_question = self._first_question()
        self.is_rewinding = False
        self.retry_after_ms = 0
        return refusals

    def _refuse(self, result: Result, why: Rejection) -> Result | None:
        """A refusal that consumed nothing: again later, or for good."""
        self._go_back(why.retry_after_ms)
        kept = self._kept.get(result.seq)
        if why.reason in AGAIN or kept is None or kept.is_answered:
            return None
        kept.is_refused = True
        self._answer(result.seq)
        return result

    def _go_back(self, retry_after_ms: int) -> None:
        self.is_rewinding = True
        self.retry_after_ms = max(self.retry_after_ms, retry_after_ms)

    def _due_question(self) -> int | None:
        """The next query whose observations have all been sent."""
        while self._next_question <= self._last_question:
            question = self._questions.get(self._next_question)
            if question is not None:
                return self._next_question if question.after_seq < self._next_seq else None
            self._next_question += 1
        return None

    def _first_question(self) -> int:
        return next(iter(self._questions), self._last_question + 1)

    def _has_room_for(self, query_id: int) -> bool:
        num_candidates = len(self._questions[query_id].message.candidates)
        return not self._num_under_way or self._num_under_way + num_candidates <= self.window

    def _ask(self, query_id: int) -> pb.Query:
        message = self._questions[query_id].message
        self._questions_under_way[query_id] = len(message.candidates)
        self._num_under_way += len(message.candidates)
        self._next_question = query_id + 1
        return message

    def _skip(self, first: int, to: int) -> pb.Skip:
        self._sent(to)
        return pb.Skip(**{"from": first, "to": to})

    def _sent(self, seq: int) -> None:
        self._seqs_under_way[seq] = None
        self._num_under_way += 1
        self._next_seq = seq + 1
        self._sent_seq = max(self._sent_seq, seq)

    def _answer(self, seq: int) -> None:
        self._kept[seq].is_answered = True
        self.num_unanswered -= 1

    def _forget_question(self, query_id: int) -> None:
        del self._questions[query_id]
        self.num_unanswered -= 1

    def _settle(self) -> None:
        """Keep no more what is answered and durable, or answered where nothing becomes durable."""
        while (kept := self._kept.get(self._first_seq)) is not None and kept.is_answered:
            if self.keeps and self._first_seq > self.durable_seq:
                return
            self._drop_first()

    def _drop_first(self) -> None:
        kept = self._kept.pop(self._first_seq)
        self.budget.num_events -= 1
        self.budget.num_bytes -= kept.num_bytes
        self._first_seq += 1
