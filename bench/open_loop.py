"""Session streams that send at Poisson times, whatever the service does with what came before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from bench import load, pacing, traffic
from bench.traffic import Traffic

OPEN_LOOP_SESSIONS = 64
LEAD_NS = 5_000_000
"""From the making of a plan to its first send."""

Latencies = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Plan:
    """What each stream sends and when: serialised observations and ascending times in ns."""

    requests: list[list[bytes]]
    intended_ns: list[NDArray[np.int64]]

    @classmethod
    def drawn(
        cls, traffic_: Traffic, next_seqs: list[int], rate_per_s: float, duration_s: float, clock: pacing.Clock
    ) -> Plan:
        """A Poisson process over all streams together, from now on; `next_seqs` are those of each stream."""
        arrivals = pacing.poisson_arrivals(rate_per_s, duration_s, len(next_seqs), traffic_.rng)
        requests = [
            traffic_.session_requests(seq, len(times_ns)) for seq, times_ns in zip(next_seqs, arrivals, strict=True)
        ]
        start_ns = clock.now_ns() + LEAD_NS
        return cls(requests, [start_ns + times_ns for times_ns in arrivals])


@dataclass(slots=True)
class OpenLoopArm:
    """Sessions that send at Poisson times; a call is a block of `block_s`, over when all of it is answered."""

    streams: list[Any]
    traffic: Traffic
    rate_per_s: float
    block_s: float
    clock: pacing.Clock
    next_seqs: list[int]
    check: load.Check = load.check_session
    at_risk_max: int = 0
    """The most updates of one user that were applied and not durable, as replies told."""

    @classmethod
    async def open(
        cls, channel: grpc.aio.Channel, traffic_: Traffic, rate_per_s: float, block_s: float, clock: pacing.Clock
    ) -> OpenLoopArm:
        """An arm whose sessions are open."""
        streams = [await load.open_session(channel, traffic.session_open(user)) for user in users()]
        return cls(streams, traffic_, rate_per_s, block_s, clock, [1] * len(streams))

    async def __call__(self) -> Latencies:
        return await self.block(self.block_s)

    async def block(self, duration_s: float) -> Latencies:
        """The latencies of so long a load."""
        plan = Plan.drawn(self.traffic, self.next_seqs, self.rate_per_s, duration_s, self.clock)
        replies = await load.open_loops(self.streams, plan.requests, plan.intended_ns, self.clock)
        for index, each in enumerate(replies):
            results = self.check(each, self.next_seqs[index])
            self.next_seqs[index] += len(results)
            self.at_risk_max = max([self.at_risk_max, *(result.at_risk for result in results)])
        return np.concatenate([each.latencies_ns for each in replies])

    async def close(self) -> None:
        """Close all sessions."""
        for stream in self.streams:
            await load.close(stream)


def users() -> list[str]:
    """One for each session."""
    return [f"open-loop-{i}" for i in range(OPEN_LOOP_SESSIONS)]
