"""A service of one session in memory, that does to a feed what routers and workers may do to it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from evercurrent.client.feed import Feed
from evercurrent.client.requests import Message
from evercurrent.client.results import Rejection, Result, Status
from evercurrent.v1 import observation_pb2 as pb

OVERLOADED = Rejection("OVERLOADED", retry_after_ms=50)
SEQ_GAP = Rejection("SEQ_GAP")
TOO_LARGE = Rejection("TOO_LARGE")

Reply = Callable[[Feed], Result | tuple[int, int] | None]
"""Gives a reply to a feed; what the feed tells its caller: a result, or the id of a query and the state it saw."""


@dataclass
class Worker:
    """What is applied of the session: `learned` by seq, of which the first `durable_seq` survive a death."""

    learned: list[int] = field(default_factory=list)
    seqs: list[int] = field(default_factory=list)
    last_seq: int = 0
    durable_seq: int = 0
    lost: int = 0

    def apply(self, message: Message) -> Result:
        """Learn from an observation, or jump over a skip."""
        if isinstance(message, pb.Skip):
            if message.to > self.last_seq:
                self.lost += message.to - self.last_seq
                self.last_seq = message.to
            return self._result(message.to, Status.SKIPPED)
        assert isinstance(message, pb.Observation)
        if message.seq <= self.last_seq:
            return self._result(message.seq, Status.DUPLICATE)
        if message.seq > self.last_seq + 1:
            return self._result(message.seq, Status.REJECTED, SEQ_GAP)
        self.last_seq = message.seq
        self.learned.append(message.ids[0])
        self.seqs.append(message.seq)
        return self._result(message.seq, Status.APPLIED)

    def die(self) -> None:
        """Forget what is not durable."""
        while self.seqs and self.seqs[-1] > self.durable_seq:
            self.seqs.pop()
            self.learned.pop()
        self.last_seq = self.durable_seq

    def _result(self, seq: int, status: Status, why: Rejection | None = None) -> Result:
        return Result(
            seq, status, applied_seq=self.last_seq, durable_seq=self.durable_seq, rejection=why, lost=self.lost
        )


class Router:
    """One stream at a time. What it admits waits for the worker; what it answers itself may overtake that. One of
    `large` observations is too large for it; with 0 none is."""

    def __init__(self, worker: Worker, large: int = 0) -> None:
        self.worker = worker
        self._large = large
        self.next_seq = 1
        self.resumed_at = 0
        self.admitted: deque[Message] = deque()
        self.late: deque[Message] = deque()
        """Admitted on a stream that broke; still on the way to the worker."""
        self.replies: deque[Reply] = deque()
        self.own_replies: deque[Reply] = deque()

    def open(self, feed: Feed) -> list[Result]:
        self.next_seq = self.worker.last_seq + 1
        self.resumed_at = self.worker.last_seq
        return feed.opened(self.worker.last_seq, self.worker.durable_seq)

    def leave(self, feed: Feed) -> None:
        """The stream breaks: nothing that was to be said on it is."""
        self.late.extend(message for message in self.admitted if not isinstance(message, pb.Query))
        self.admitted.clear()
        self.replies.clear()
        self.own_replies.clear()
        feed.left()

    def take(self, message: Message, refusal: Rejection | None = None) -> None:
        """Read one message, and refuse it if told to and if it would be taken otherwise."""
        if isinstance(message, pb.Query):
            self.admitted.append(message)
            return
        first = message.seq if isinstance(message, pb.Observation) else getattr(message, "from")
        seq = message.seq if isinstance(message, pb.Observation) else message.to
        if isinstance(message, pb.Observation) and self.is_large(seq):
            self.own_replies.append(_unnamed)
        elif seq <= self.resumed_at:
            self._answer(Result(seq, Status.DUPLICATE, applied_seq=self.next_seq - 1))
        elif first > self.next_seq:
            self._answer(Result(seq, Status.REJECTED, applied_seq=self.next_seq - 1, rejection=SEQ_GAP))
        elif seq < self.next_seq:
            raise AssertionError(f"{seq} was sent twice on one stream")
        elif refusal is OVERLOADED:
            self._answer(Result(seq, Status.REJECTED, applied_seq=self.next_seq - 1, rejection=OVERLOADED))
        else:
            self.next_seq = seq + 1
            self.admitted.append(message)

    def is_large(self, seq: int) -> bool:
        """Whether this observation is refused without being read, whenever it comes."""
        return self._large > 0 and seq % self._large == 0

    def work(self) -> None:
        """The worker takes the next of what waits."""
        message = self.admitted.popleft()
        if isinstance(message, pb.Query):
            seen = len(self.worker.learned)
            query_id = message.query_id
            self.replies.append(lambda feed: (query_id, seen) if feed.answered(query_id, None) else None)
            return
        result = self.worker.apply(message)
        if not result.is_consumed:
            self.next_seq = min(self.next_seq, result.applied_seq + 1)
        self.replies.append(lambda feed: feed.result(result))

    def _answer(self, result: Result) -> None:
        self.own_replies.append(lambda feed: feed.result(result))


def _unnamed(feed: Feed) -> None:
    feed.refused_unnamed(TOO_LARGE)
