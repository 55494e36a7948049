"""Streams learners through a router: a Session stream each, one observation at a time, and keeps what comes back.

Each learner waits for the answer before it sends its next observation. Learners are dealt to lanes; a lane sends the
observations of its learners one by one in the order of the log, so as many are under way at once as there are lanes,
however many learners have a stream open.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import grpc
import grpc.aio
import numpy as np

from evercurrent.models.adaptive.data import EventLog, Floats, Ints
from evercurrent.v1 import observation_pb2, session_pb2
from evercurrent.v1.session_pb2_grpc import SessionServiceStub

NUM_LANES = 16
RECENT = 4096


@dataclass
class Tally:
    """What came back so far. `prediction_N` is NaN where nothing did; latencies are in the order of the answers."""

    prediction_N: Floats
    latency_ms_N: Floats
    num_sent: int = 0
    num_answered: int = 0
    num_applied: int = 0
    num_rejected: int = 0
    broken: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, num_events: int) -> Tally:
        """For that many events, none sent yet."""
        return cls(np.full(num_events, np.nan, np.float32), np.zeros(num_events, np.float32))

    @property
    def num_lost(self) -> int:
        """Observations that were sent and never answered."""
        return self.num_sent - self.num_answered

    @property
    def answered_ms(self) -> Floats:
        """Latencies of all answers."""
        return self.latency_ms_N[: self.num_answered]

    def percentiles_ms(self, recent: bool = False) -> tuple[float, float]:
        """P50 and P99 of all answers, or of the last few; NaN before the first."""
        latency_ms = self.answered_ms[-RECENT:] if recent else self.answered_ms
        if not len(latency_ms):
            return np.nan, np.nan
        p50, p99 = np.percentile(latency_ms, [50, 99])
        return float(p50), float(p99)

    def add(self, event: int, latency_ms: float, response: session_pb2.SessionResponse) -> None:
        """Takes the answer to an event."""
        self.latency_ms_N[self.num_answered] = latency_ms
        self.num_answered += 1
        if response.result.status == observation_pb2.STATUS_APPLIED:
            self.num_applied += 1
            self.prediction_N[event] = response.result.prediction[0]
        else:
            self.num_rejected += 1


class Learner:
    """One learner's Session stream."""

    def __init__(self, stub: SessionServiceStub, user_id: str) -> None:
        self.call = stub.Session()
        self.user_id = user_id
        self.next_seq = 1

    async def open(self) -> None:
        """To be called first, once."""
        await self.call.write(session_pb2.SessionRequest(open=session_pb2.SessionOpen(user_id=self.user_id)))
        await self._read("opened")

    async def observe(self, ids_K: Sequence[int], outcome: float) -> session_pb2.SessionResponse:
        """Sends an observation and waits for its answer."""
        observation = observation_pb2.Observation(seq=self.next_seq, ids=ids_K, value=outcome)
        await self.call.write(session_pb2.SessionRequest(observation=observation))
        response = await self._read("result", "rejected")
        if response.HasField("result"):
            self.next_seq = response.result.applied_seq + 1
        return response

    async def close(self) -> None:
        """Half-closes and waits for the end."""
        await self.call.done_writing()
        while await self.call.read() is not grpc.aio.EOF:
            pass

    async def ending(self) -> str:
        """Why the stream ended, for people."""
        return f"{self.user_id}: {(await self.call.code()).name}: {await self.call.details()}"

    async def _read(self, *kinds: str) -> session_pb2.SessionResponse:
        while True:
            response: session_pb2.SessionResponse = await self.call.read()
            if response is grpc.aio.EOF:
                raise EOFError("the router ended the stream")
            if response.WhichOneof("response") in kinds:
                return response


async def stream_learners(address: str, log: EventLog, tally: Tally, num_lanes: int = NUM_LANES) -> None:
    """Streams a log's events; done when every learner has its last answer, or no more can come."""
    async with grpc.aio.insecure_channel(address) as channel, asyncio.TaskGroup() as tasks:
        stub = SessionServiceStub(channel)
        for lane in deal(log.user_N, num_lanes):
            tasks.create_task(_run_lane(stub, log, lane, tally))


def deal(user_N: Ints, num_lanes: int) -> list[Ints]:
    """Event numbers by lane, in order; all of a user's in one lane, and the lanes as even as that allows."""
    users, counts = np.unique(user_N, return_counts=True)
    load = np.zeros(num_lanes, np.int64)
    lane_of = np.zeros(users.max(initial=-1) + 1, np.int64)
    for user, count in sorted(zip(users.tolist(), counts.tolist(), strict=True), key=lambda pair: -pair[1]):
        lane_of[user] = load.argmin()
        load[lane_of[user]] += count
    lane_N = lane_of[user_N]
    return [np.flatnonzero(lane_N == lane) for lane in range(num_lanes) if load[lane]]


async def _run_lane(stub: SessionServiceStub, log: EventLog, lane: Ints, tally: Tally) -> None:
    """Sends the events of some learners one by one. A learner whose stream breaks sends no more; the others go on."""
    learners: dict[int, Learner] = {}
    broken: set[int] = set()
    last_event_of = dict(zip(log.user_N[lane].tolist(), lane.tolist(), strict=True))
    for event in lane.tolist():
        user = int(log.user_N[event])
        if user in broken:
            continue
        learner = learners.get(user) or Learner(stub, log.users[user])
        try:
            if user not in learners:
                learners[user] = learner
                await learner.open()
            await _send(learner, log, event, tally)
            if last_event_of[user] == event:
                await learner.close()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError, EOFError):
            broken.add(user)
            tally.broken.append(await learner.ending())


async def _send(learner: Learner, log: EventLog, event: int, tally: Tally) -> None:
    ids_K, outcome = log.ids_NK[event].tolist(), float(log.outcome_N[event])
    tally.num_sent += 1
    sent_at = time.perf_counter()
    response = await learner.observe(ids_K, outcome)
    tally.add(event, (time.perf_counter() - sent_at) * 1e3, response)
