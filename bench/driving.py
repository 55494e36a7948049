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


EVENTS_A_PROBE = 10
"""For so many events there is a probe."""
PROBE_USER = "load-probe"


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of N events: `latencies_ns` [N] from the intended sends, and `stages_us` [N, 4] by STAGES.
    `held_us` [N]: how long each was held back for a frame; `probes_us` [N]: what the probe took that was sent next to
    it in time, NaN without probes."""

    latencies_ns: NDArray[np.int64]
    stages_us: NDArray[np.int64]
    held_us: NDArray[np.float64]
    probes_us: NDArray[np.float64]


@dataclass(slots=True)
class Probe:
    """A session on which the router is sent, at times of its own, what it refuses by itself, an observation that came
    before. That takes what an update takes outside the service: the client, the network, and both of the router's ends
    of a stream."""

    stream: Any
    request: bytes
    clock: Clock
    rng: np.random.Generator

    @classmethod
    async def open(cls, channel: grpc.aio.Channel, traffic_: Traffic, clock: Clock) -> Probe:
        """A probe that is ready."""
        stream = await load.open_session(channel, traffic.session_open(PROBE_USER))
        return cls(stream, traffic_.session_requests(0, 1)[0], clock, traffic_.rng)

    async def send(self, intended_ns: NDArray[np.int64]) -> NDArray[np.float64]:
        """What the nearest probe in time took, in microseconds [N], for events that are sent at these times [N]."""
        num_probes = max(1, len(intended_ns) // EVENTS_A_PROBE)
        times_ns = np.sort(self.rng.integers(intended_ns.min(), intended_ns.max() + 1, num_probes))
        replies = await load.open_loop(self.stream, [self.request] * num_probes, times_ns, self.clock)
        load.check_refused(replies, observation_pb2.REASON_SEQ_REGRESSION)
        nearest = np.searchsorted((times_ns[:-1] + times_ns[1:]) / 2, intended_ns)
        return replies.latencies_ns[nearest] / 1e3


class Driver(Protocol):
    """Sends the events of users who are open."""

    async def send(self, schedule: Schedule, drawn: Drawn) -> Sent:
        """Send events at their times from now on, and wait until all are answered."""


@dataclass(slots=True)
class SessionsDriver:
    """A Session stream a user."""

    streams: list[Any]
    probe: Probe
    traffic: Traffic
    clock: Clock
    next_seqs: NDArray[np.int64]

    async def send(self, schedule: Schedule, drawn: Drawn) -> Sent:
        order, starts, seqs = _by_user(schedule.users, self.next_seqs)
        requests = self.traffic.requests_of(drawn.take(order), seqs)
        intended_ns = self.clock.now_ns() + LEAD_NS + schedule.times_ns[order]
        cuts = list(zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True))
        busy = [number for number, (start, end) in enumerate(cuts) if end > start]
        async with asyncio.TaskGroup() as group:
            probing = group.create_task(self.probe.send(intended_ns))
            replies = await load.open_loops(
                [self.streams[number] for number in busy],
                [requests[slice(*cuts[number])] for number in busy],
                [intended_ns[slice(*cuts[number])] for number in busy],
                self.clock,
            )
        probes_us = np.empty(len(order))
        probes_us[order] = probing.result()
        latencies_ns, stages_us = np.empty(len(order), np.int64), np.empty((len(order), len(STAGES)), np.int64)
        for number, each in zip(busy, replies, strict=True):
            results = load.check_session(each, int(self.next_seqs[number]))
            at = order[slice(*cuts[number])]
            latencies_ns[at] = each.latencies_ns
            stages_us[at] = _stages_of(results)
            self.next_seqs[number] += len(results)
        return Sent(latencies_ns, stages_us, np.zeros(len(order)), probes_us)

    async def send_closed(self, duration_s: float) -> Sent:
        """Send for so long, each user's next event when the one before is answered; not open loop at all. Without
        probes, which would have no intended times."""
        end_ns = self.clock.now_ns() + round(duration_s * NS_PER_S)

        async def user(number: int) -> list[Sent]:
            parts = []
            while self.clock.now_ns() < end_ns:
                seq = int(self.next_seqs[number])
                requests = self.traffic.session_requests(seq, CLOSED_EVENTS)
                replies = await load.closed_loop(self.streams[number], requests)
                results = load.check_session(replies, seq)
                self.next_seqs[number] += len(results)
                unknown = np.full(len(results), np.nan)
                parts.append(Sent(replies.latencies_ns, _stages_of(results), np.zeros(len(results)), unknown))
            return parts

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(user(number)) for number in range(len(self.streams))]
        return together([part for task in tasks for part in task.result()])


@dataclass(slots=True)
class ExchangeDriver:
    """One Exchange stream for all users."""

    stream: Any
    probe: Probe
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
        held_us = np.empty(num_events)
        num_sent = num_answered = 0
        in_flight = np.zeros(len(starts) - 1, np.int64)
        room = asyncio.Event()

        async def write() -> None:
            nonlocal num_sent
            num_due, waiting, next_ns = 0, np.zeros(0, np.int64), 0
            while num_sent < num_events:
                until_ns = next_ns if len(waiting) else max(next_ns, int(intended_ns[num_due]))
                await self.clock.sleep_until(until_ns)
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
                # How late this wakes is the client's own, which probes meet as well.
                held_us[going] = np.maximum(until_ns - intended_ns[going], 0) / 1e3
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
            probing = group.create_task(self.probe.send(intended_ns))
        return Sent(latencies_ns, stages_us, held_us, probing.result())


@asynccontextmanager
async def sessions(
    channel: grpc.aio.Channel, traffic_: Traffic, users: Sequence[str], clock: Clock
) -> AsyncIterator[SessionsDriver]:
    """A driver with a stream a user, open while the context lasts."""
    streams = [await load.open_session(channel, traffic.session_open(user, timings=True)) for user in users]
    probe = await Probe.open(channel, traffic_, clock)
    yield SessionsDriver(streams, probe, traffic_, clock, np.ones(len(users), np.int64))
    for stream in (*streams, probe.stream):
        await load.close(stream)


@asynccontextmanager
async def exchange(
    channel: grpc.aio.Channel, traffic_: Traffic, users: Sequence[str], clock: Clock
) -> AsyncIterator[ExchangeDriver]:
    """A driver with one stream for all users, open while the context lasts."""
    stream = await load.open_exchange(channel, traffic.exchange_opens(users, timings=True), len(users))
    probe = await Probe.open(channel, traffic_, clock)
    yield ExchangeDriver(stream, probe, traffic_, clock, np.ones(len(users), np.int64))
    for each in (stream, probe.stream):
        await load.close(each)


def together(parts: Sequence[Sent]) -> Sent:
    """Of several one."""
    return Sent(
        np.concatenate([part.latencies_ns for part in parts]),
        np.concatenate([part.stages_us for part in parts]),
        np.concatenate([part.held_us for part in parts]),
        np.concatenate([part.probes_us for part in parts]),
    )


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
