"""Users who observe all the time and check every reply by value.

`Counting` predicts the hash of all that it has learned: a reply shows whether anything before it was lost, doubled or
out of order.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from ulid import ULID

from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1.session_pb2 import ObserveRequest, TagOpen
from tests.e2e.conversation import Conversation, Frames, columns, observation
from tests.servers import Service
from tests.toys import NAN_LOSS, next_hash

BURST = 4
"""Observations of one user that are under way at once."""


@dataclass
class Learner:
    """One user, whom nobody else feeds. `num_told` observations were answered, each as it had to be.

    It `may_miss` replies: a worker may die between an update and its reply; then the update is known as a duplicate.
    """

    user: str
    may_miss: bool = False
    in_session: bool = False
    """Whether its calls, if it makes calls, are of one session: then none is lost with a worker."""
    num_told: int = 0
    hash: int = 0
    _is_told: asyncio.Event = field(default_factory=asyncio.Event)

    def deed(self, seq: int) -> int:
        """What it observes then."""
        return (5 * seq) % NAN_LOSS

    def check(self, seq: int, status: int, version: int, prediction: Sequence[float], why: object) -> None:
        """The next reply."""
        expected = (self.num_told + 1, pb.STATUS_APPLIED, self.num_told + 1, [self.hash])
        told = (seq, status, version, [int(part) for part in prediction[:1]])
        is_missed = self.may_miss and (seq, status) == (self.num_told + 1, pb.STATUS_DUPLICATE)
        assert told == expected or is_missed, f"{self.user} was told {told}, not {expected}; {why}"
        self.hash = next_hash(self.hash, self.deed(seq), 2, has_outcome=True)
        self.num_told += 1
        self._is_told.set()

    def check_result(self, result: pb.ObservationResult) -> None:
        """The next reply, of a Session stream."""
        self.check(result.seq, result.status, result.version, result.prediction, result.rejection)

    async def reach(self, num_told: int) -> None:
        """Wait until so many were answered."""
        while self.num_told < num_told:
            self._is_told.clear()
            await self._is_told.wait()


@dataclass
class Class:
    """Learners by the way in which they are served."""

    on_sessions: Sequence[Learner] = ()
    on_exchange: Sequence[Learner] = ()
    by_calls: Sequence[Learner] = ()

    @property
    def learners(self) -> list[Learner]:
        return [*self.on_sessions, *self.on_exchange, *self.by_calls]

    async def go_on(self, num_more: int = 8) -> None:
        """Wait until each has been answered so many more."""
        for learner, num_told in [(one, one.num_told + num_more) for one in self.learners]:
            await learner.reach(num_told)

    async def check_remembered(self, service: Service) -> None:
        """What the workers know of each is what it was told."""
        for learner in self.learners:
            answer = await (await Conversation.opened(service, learner.user)).ask()
            assert (answer.version, int(answer.predictions[0])) == (learner.num_told, learner.hash), learner.user


def class_of(num_sessions: int = 16, num_tags: int = 8, num_callers: int = 4, may_miss: bool = False) -> Class:
    """So many learners of each kind."""
    return Class(
        [Learner(f"session-{number}", may_miss) for number in range(num_sessions)],
        [Learner(f"tag-{number}", may_miss) for number in range(num_tags)],
        [Learner(f"caller-{number}", may_miss, in_session=number % 2 == 1) for number in range(num_callers)],
    )


@asynccontextmanager
async def learning(service: Service, *classes: Class) -> AsyncIterator[None]:
    """Learners at work; in the end each finishes what it began, and its stream ends well."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        for one in classes:
            for learner in one.on_sessions:
                tasks.create_task(learn_on_session(service, learner, stop))
            if one.on_exchange:
                tasks.create_task(learn_on_exchange(service, one.on_exchange, stop))
            for learner in one.by_calls:
                tasks.create_task(learn_by_calls(service, learner, stop, str(ULID()) if learner.in_session else ""))
        yield
        stop.set()


async def learn_on_session(service: Service, learner: Learner, stop: asyncio.Event) -> None:
    """Observe on one Session stream until told to stop."""
    conversation = await Conversation.opened(service, learner.user)
    while not stop.is_set():
        seqs = range(learner.num_told + 1, learner.num_told + 1 + BURST)
        for seq in seqs:
            await conversation.send(observation=observation(seq, learner.deed(seq)))
        for _ in seqs:
            result = (await conversation.reply()).result
            learner.check_result(result)
    assert await conversation.finish() == []


async def learn_on_exchange(service: Service, learners: Sequence[Learner], stop: asyncio.Event) -> None:
    """Observe on one Exchange stream, a frame of all learners at a time, until told to stop."""
    frames = Frames(service)
    await frames.open()
    await frames.send(opens=[TagOpen(tag=tag, user_id=one.user) for tag, one in enumerate(learners)])
    while not stop.is_set():
        seqs = [one.num_told + 1 for one in learners]
        deeds = [one.deed(seq) for one, seq in zip(learners, seqs, strict=True)]
        await frames.send(columns(*enumerate(seqs), deeds=deeds))
        for told in await frames.answers(len(learners)):
            learners[told.tag].check(told.seq, told.status, told.version, told.prediction, told.rejection)
    assert await frames.finish() == []
    assert not any(opened.HasField("rejection") for opened in frames.opens.values())


async def learn_by_calls(service: Service, learner: Learner, stop: asyncio.Event, session_id: str) -> None:
    """Observe by one unary call after the other until told to stop."""
    while not stop.is_set():
        seq = learner.num_told + 1
        sent = observation(seq if session_id else 0, learner.deed(seq))
        request = ObserveRequest(user_id=learner.user, session_id=session_id, observation=sent)
        result = (await service.sessions.Observe(request)).result
        learner.check(result.seq or seq, result.status, result.version, result.prediction, result.rejection)
