"""An open load on any service: each event is sent when its time has come, whatever became of those before it.

Two ways to send: a Session stream a user, as clients have that each serve one; and one Exchange stream for all users,
as a server of an application has it, whose events that are due go as one frame. Latencies count from the intended
sends, as in `bench.load`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
import numpy as np
from numpy.typing import NDArray

from bench import load, traffic
from bench.open_loop import LEAD_NS
from bench.pacing import NS_PER_S, Clock
from bench.schedules import Schedule
from bench.traffic import FRAME_EVENTS, Drawn, Traffic
from evercurrent.v1 import observation_pb2, wire_pb2

FRAME_EVERY_NS = 1_000_000
"""Frames of an Exchange stream are so far apart: one costs whoever takes it as much as dozens of events do."""
CLOSED_EVENTS = 16
"""Events of a user that are drawn at a time in a closed loop, which ends with the last of them."""
UNANSWERED_MAX = 8192
"""Events that an Exchange stream has in flight at most, as a session has load.SESSION_UNANSWERED_MAX: what is due
beyond waits, and its latency counts on."""
STAGES = ("route", "queue", "hydrate", "step")
"""Of a reply's timings; together they are its total."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of N events: `latencies_ns` [N] from the intended sends, and `stages_us` [N, 4] by STAGES."""

    latencies_ns: NDArray[np.int64]
    stages_us: NDArray[np.int64]


class Driver(Protocol):
    """Sends the events of users who are open."""

    async def send(self, schedule: Schedule, drawn: Drawn) -> Sent:
        """Send events at their times from now on, and wait until all are answered."""


@dataclass(slots=True)
class SessionsDriver:
    """A Session stream a user."""

    streams: list[Any]
    traffic: Traffic
    clock: Clock
    next_seqs: NDArray[np.int64]

    async def send(self, schedule: Schedule, drawn: Drawn) -> Sent:
        order, starts, seqs = _by_user(schedule.users, self.next_seqs)
        requests = self.traffic.requests_of(drawn.take(order), seqs)
        intended_ns = self.clock.now_ns() + LEAD_NS + schedule.times_ns[order]
        cuts = list(zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True))
        busy = [number for number, (start, end) in enumerate(cuts) if end > start]
        replies = await load.open_loops(
            [self.streams[number] for number in busy],
            [requests[slice(*cuts[number])] for number in busy],
            [intended_ns[slice(*cuts[number])] for number in busy],
            self.clock,
        )
        latencies_ns, stages_us = np.empty(len(order), np.int64), np.empty((len(order), len(STAGES)), np.int64)
        for number, each in zip(busy, replies, strict=True):
            results = load.check_session(each, int(self.next_seqs[number]))
            at = order[slice(*cuts[number])]
            latencies_ns[at] = each.latencies_ns
            stages_us[at] = _stages_of(results)
            self.next_seqs[number] += len(results)
        return Sent(latencies_ns, stages_us)

    async def send_closed(self, duration_s: float) -> Sent:
        """Send for so long, each user's next event when the one before is answered; not open loop at all."""
        end_ns = self.clock.now_ns() + round(duration_s * NS_PER_S)

        async def user(number: int) -> list[Sent]:
            parts = []
            while self.clock.now_ns() < end_ns:
                seq = int(self.next_seqs[number])
                requests = self.traffic.session_requests(seq, CLOSED_EVENTS)
                replies = await load.closed_loop(self.streams[number], requests)
                results = load.check_session(replies, seq)
                self.next_seqs[number] += len(results)
                parts.append(Sent(replies.latencies_ns, _stages_of(results)))
            return parts

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(user(number)) for number in range(len(self.streams))]
        parts = [part for task in tasks for part in task.result()]
        return Sent(
            np.concatenate([part.latencies_ns for part in parts]), np.concatenate([part.stages_us for part in parts])
        )


@dataclass(slots=True)
class ExchangeDriver:
    """One Exchange stream for all users."""

    stream: Any
    traffic: Traffic
    clock: Clock
    next_seqs: NDArray[np.int64]

    async def send(self, schedule: Schedule, drawn: Drawn) -> Sent:
        num_events = len(schedule)
        order, starts, seqs_by_user = _by_user(schedule.users, self.next_seqs)
        seqs = np.empty(num_events, np.int64)
        seqs[order] = seqs_by_user
        first_seqs = self.next_seqs.copy()
        self.next_seqs += np.diff(starts)
        intended_ns = self.clock.now_ns() + LEAD_NS + schedule.times_ns
        latencies_ns, stages_us = np.empty(num_events, np.int64), np.empty((num_events, len(STAGES)), np.int64)
        num_sent = num_answered = 0
        in_flight = np.zeros(len(starts) - 1, np.int64)
        room = asyncio.Event()

        async def write() -> None:
            nonlocal num_sent
            num_due, waiting, next_ns = 0, np.zeros(0, np.int64), 0
            while num_sent < num_events:
                await self.clock.sleep_until(next_ns if len(waiting) else max(next_ns, int(intended_ns[num_due])))
                start, num_due = num_due, int(np.searchsorted(intended_ns, self.clock.now_ns(), side="right"))
                waiting = np.append(waiting, np.arange(start, num_due))
                most = min(FRAME_EVENTS, UNANSWERED_MAX - int(in_flight.sum()))
                users = schedule.users[waiting]
                at = np.flatnonzero(_ranks(users) < load.SESSION_UNANSWERED_MAX - in_flight[users])[:most]
                if not len(at):
                    room.clear()
                    await room.wait()
                    continue
                going, waiting = waiting[at], np.delete(waiting, at)
                next_ns = self.clock.now_ns() + FRAME_EVERY_NS
                np.add.at(in_flight, schedule.users[going], 1)
                num_sent += len(going)
                await self.stream.write(
                    self.traffic.exchange_request(schedule.users[going], seqs[going], drawn.take(going))
                )

        async def read() -> None:
            nonlocal num_answered
            while num_answered < num_events:
                raw = await load.read(self.stream)
                now_ns = self.clock.now_ns()
                num_answered += load.applied_of_exchange(raw)
                results = wire_pb2.WireExchangeResponse.FromString(raw).frame.results
                tags = np.frombuffer(results.tags, "<u4").astype(np.int64)
                np.subtract.at(in_flight, tags, 1)
                room.set()
                nth = np.frombuffer(results.seqs, "<u8").astype(np.int64) - first_seqs[tags]
                at = order[starts[tags] + nth]
                latencies_ns[at] = now_ns - intended_ns[at]
                stages_us[at] = _stages_us(results)

        async with asyncio.TaskGroup() as group:
            group.create_task(write())
            group.create_task(read())
        return Sent(latencies_ns, stages_us)


@asynccontextmanager
async def sessions(
    channel: grpc.aio.Channel, traffic_: Traffic, users: Sequence[str], clock: Clock
) -> AsyncIterator[SessionsDriver]:
    """A driver with a stream a user, open while the context lasts."""
    streams = [await load.open_session(channel, traffic.session_open(user, timings=True)) for user in users]
    yield SessionsDriver(streams, traffic_, clock, np.ones(len(users), np.int64))
    for stream in streams:
        await load.close(stream)


@asynccontextmanager
async def exchange(
    channel: grpc.aio.Channel, traffic_: Traffic, users: Sequence[str], clock: Clock
) -> AsyncIterator[ExchangeDriver]:
    """A driver with one stream for all users, open while the context lasts."""
    stream = await load.open_exchange(channel, traffic.exchange_opens(users, timings=True), len(users))
    yield ExchangeDriver(stream, traffic_, clock, np.ones(len(users), np.int64))
    await load.close(stream)


def _stages_of(results: Sequence[observation_pb2.ObservationResult]) -> NDArray[np.int64]:
    """Times [N, 4] by STAGES of replies of sessions."""
    return np.array([[getattr(result.timings, f"{stage}_us") for stage in STAGES] for result in results], np.int64)


def _stages_us(results: wire_pb2.WireResultColumns) -> NDArray[np.int64]:
    """The same of a frame's."""

    def column(raw: bytes) -> NDArray[np.int64]:
        # A column of zeros alone is left out.
        return np.frombuffer(raw or bytes(4 * len(results.statuses)), "<u4").astype(np.int64)

    queue, hydrate, step = column(results.queue_us), column(results.hydrate_us), column(results.step_us)
    route = np.maximum(column(results.total_us) - queue - hydrate - step, 0)
    return np.stack([route, queue, hydrate, step], axis=1)


def _by_user(
    users: NDArray[np.int64], next_seqs: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Events [N] user by user, each user's in order; where each user's begin [U + 1]; and the seqs of these [N]."""
    order = np.argsort(users, kind="stable")
    owners = users[order]
    starts = np.searchsorted(owners, np.arange(len(next_seqs) + 1))
    return order, starts, next_seqs[owners] + np.arange(len(users)) - starts[owners]


def _ranks(users: NDArray[np.int64]) -> NDArray[np.int64]:
    """The how manieth event of its user each is, from 0 on."""
    order, _, seqs = _by_user(users, np.zeros(int(users.max(initial=-1)) + 1, np.int64))
    ranks = np.empty(len(users), np.int64)
    ranks[order] = seqs
    return ranks
