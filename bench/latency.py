"""Bench `latency`: what one update costs a client that waits for it, and what it costs under an open load.

Eight arms take turns in short blocks, each one session in a closed loop: the service through its router, the two-hop
echo on gRPC's defaults (the floor), the service once more for another user (what equal arms differ by), the echo with
the switches of gRPC core that our servers set, a service without a store; and the Python client in direct mode, for two
users, beside the one-hop echo. The model's step alone is timed between them. Then sessions that send at Poisson times,
to both services and to the echo in turns.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np

from bench import load, pacing, traffic
from bench.echo import MODEL, Echo, run_echo
from bench.open_loop import OPEN_LOOP_SESSIONS, Latencies, OpenLoopArm
from bench.pairs import Arm, interleave
from bench.report import Metric, interval, metrics_of, percentiles
from bench.run import Options, Watch, WrongReplyError, run
from bench.service import MODEL_NAME, NO_STORE, run_service
from bench.stats import paired_difference, paired_ratio, percentile
from bench.step import step_timer
from bench.traffic import Traffic
from evercurrent.cli.transport import CHOICES
from evercurrent.client import Client, Session, connect

STEP_IDLE_S = 0.001


@dataclass(frozen=True, slots=True)
class Sizes:
    """How long a run is."""

    num_pairs: int
    block_events: int
    warm_up_events: int
    open_loop_block_s: float


FULL = Sizes(num_pairs=25, block_events=400, warm_up_events=1000, open_loop_block_s=1.0)
QUICK = Sizes(num_pairs=15, block_events=20, warm_up_events=100, open_loop_block_s=0.1)


@dataclass(slots=True)
class SessionArm:
    """One session in a closed loop; a call is a block. Its requests are drawn and its replies checked off the clock."""

    stream: Any
    traffic: Traffic
    block_events: int
    next_seq: int = 1

    @classmethod
    async def open(cls, channel: grpc.aio.Channel, traffic_: Traffic, user_id: str, sizes: Sizes) -> SessionArm:
        """A warmed-up arm."""
        stream = await load.open_session(channel, traffic.session_open(user_id))
        arm = cls(stream, traffic_, sizes.block_events)
        await arm.events(sizes.warm_up_events)
        return arm

    async def __call__(self) -> Latencies:
        return await self.events(self.block_events)

    async def events(self, num_events: int) -> Latencies:
        """The latencies of so many events."""
        requests = self.traffic.session_requests(self.next_seq, num_events)
        replies = await load.closed_loop(self.stream, requests)
        load.check_session(replies, self.next_seq)
        self.next_seq += num_events
        return replies.latencies_ns


@dataclass(slots=True)
class DirectArm:
    """One session of the Python client in a closed loop; a call is a block. A latency is that of `observe`."""

    session: Session
    traffic: Traffic
    block_events: int

    @classmethod
    async def open(cls, session: Session, traffic_: Traffic, sizes: Sizes) -> DirectArm:
        """A warmed-up arm of a session that is open."""
        arm = cls(session, traffic_, sizes.block_events)
        await arm.events(sizes.warm_up_events)
        return arm

    async def __call__(self) -> Latencies:
        return await self.events(self.block_events)

    async def events(self, num_events: int) -> Latencies:
        """The latencies of so many events."""
        latencies_ns = np.empty(num_events, np.int64)
        results = []
        now = time.perf_counter_ns
        for i, observation in enumerate(self.traffic.observations(num_events)):
            start_ns = now()
            result = await self.session.observe(**observation)
            latencies_ns[i] = now() - start_ns
            results.append(result)
        for result in results:
            if not result.applied:
                raise WrongReplyError(f"the observation with seq {result.seq} was not applied: {result}")
        return latencies_ns


def measure(options: Options, watch: Watch, num_workers: int, rate_per_s: float) -> tuple[Metric, ...]:
    """Starts the services and the echoes, and measures them."""
    with (
        run_echo() as echo,
        run_echo(CHOICES) as switched,
        run_service(watch, num_workers) as cluster,
        run_service(watch, num_workers, NO_STORE) as storeless,
    ):
        return run(_measure(options, watch, cluster.address, storeless.address, echo, switched, rate_per_s))


async def _measure(
    options: Options, watch: Watch, service: str, storeless: str, echo: Echo, switched: Echo, rate_per_s: float
) -> tuple[Metric, ...]:
    rng = np.random.default_rng(options.seed)
    sizes = QUICK if options.quick else FULL
    async with (
        load.connect(service) as service_channel,
        load.connect(storeless) as storeless_channel,
        load.connect(echo.two_hops) as echo_channel,
        load.connect(switched.two_hops) as switched_channel,
        load.connect(echo.one_hop) as single_channel,
        connect(service, mode="direct") as direct,
    ):
        served = Traffic(await load.describe_model(service_channel), rng)
        echoed = Traffic(MODEL, rng)
        services = (service_channel, served), (storeless_channel, served)
        echoes = (echo_channel, echoed), (switched_channel, echoed)
        single = (single_channel, echoed)
        closed = await _closed_loop(options, watch, sizes, *services, *echoes, single, direct)
        opened = await _open_loop(options, watch, sizes, rate_per_s, [*services, echoes[0]])
    return metrics_of(closed, opened)


Target = tuple[grpc.aio.Channel, Traffic]


async def _closed_loop(
    options: Options,
    watch: Watch,
    sizes: Sizes,
    service: Target,
    storeless: Target,
    echo: Target,
    switched: Target,
    single: Target,
    direct: Client,
) -> list[Metric]:
    timer = step_timer(MODEL_NAME, options.seed)
    timer(sizes.warm_up_events, 0.0)
    sessions = [
        await SessionArm.open(*service, "one", sizes),
        await SessionArm.open(*echo, "one", sizes),
        await SessionArm.open(*service, "another", sizes),
        await SessionArm.open(*switched, "one", sizes),
        await SessionArm.open(*storeless, "one", sizes),
        await SessionArm.open(*single, "one", sizes),
    ]

    async def step() -> Latencies:
        return timer(sizes.block_events, 0.0)

    async def paced_step() -> Latencies:
        return timer(sizes.block_events // 4, STEP_IDLE_S)

    async with direct.session("direct") as direct_session, direct.session("direct again") as another_session:
        directs = [await DirectArm.open(each, service[1], sizes) for each in (direct_session, another_session)]
        arms: list[Arm[Latencies]] = [*sessions, *directs, step, paced_step]
        with watch.stage("one session, closed loop", sizes.num_pairs) as advance:
            blocks = await interleave(arms, sizes.num_pairs, advance)
    routed, echoed, again, switched_echoed, unstored, singles, directed, directed_again, steps, paced_steps = blocks
    for session in sessions:
        await load.close(session.stream)
    return [
        *_closed_loop_metrics(np.random.default_rng(options.seed), routed, echoed, again, steps),
        *_switched_metrics(np.random.default_rng(options.seed), routed, switched_echoed, steps),
        *_store_metrics(np.random.default_rng(options.seed), routed, again, unstored),
        *_direct_metrics(np.random.default_rng(options.seed), directed, singles, directed_again, steps),
        Metric(
            "step_paced_p50_ms",
            percentile(np.concatenate(paced_steps), 50) / 1e6,
            "the step alone after a pause as between a session's events: an idle core forgets",
        ),
    ]


def _closed_loop_metrics(
    rng: np.random.Generator,
    routed: list[Latencies],
    echoed: list[Latencies],
    again: list[Latencies],
    steps: list[Latencies],
) -> list[Metric]:
    routed_p50s, echoed_p50s, again_p50s = ([percentile(block, 50) for block in arm] for arm in (routed, echoed, again))
    step_p50_ns = percentile(np.concatenate(steps), 50)
    overhead = paired_difference(np.subtract(routed_p50s, step_p50_ns) / 1e3, np.divide(echoed_p50s, 1e3), rng)
    ratio = paired_ratio(routed_p50s, echoed_p50s, rng)
    equal_arms = paired_ratio(routed_p50s, again_p50s, rng)
    return [
        *percentiles("routed", np.concatenate(routed), "one session through the router, closed loop"),
        *percentiles("echo_routed", np.concatenate(echoed), "the same through the two-hop echo: the floor"),
        Metric("step_p50_ms", step_p50_ns / 1e6, "the model's step alone, one user, in process, one thread"),
        *interval("routed_overhead_us", overhead, None, "P50: routed minus echo minus step; median over pairs"),
        *interval("routed_over_echo_p50", ratio, equal_arms, "P50: routed over echo; median over pairs"),
        Metric("closed_loop_pairs", len(routed), "pairs of blocks"),
        Metric("closed_loop_block_events", len(routed[0]), "events a block"),
    ]


def _switched_metrics(
    rng: np.random.Generator, routed: list[Latencies], echoed: list[Latencies], steps: list[Latencies]
) -> list[Metric]:
    """The same against echo servers that are given what our servers give themselves (docs/adr/0007)."""
    routed_p50s, echoed_p50s = ([percentile(block, 50) for block in arm] for arm in (routed, echoed))
    step_p50_ns = percentile(np.concatenate(steps), 50)
    overhead = paired_difference(np.subtract(routed_p50s, step_p50_ns) / 1e3, np.divide(echoed_p50s, 1e3), rng)
    text = "against an echo with our servers' gRPC switches"
    return [
        Metric("echo_switched_p50_ms", percentile(np.concatenate(echoed), 50) / 1e6, "two-hop echo, our gRPC switches"),
        *interval("switched_overhead_us", overhead, None, f"P50: routed minus echo minus step, {text}"),
        *interval("switched_over_echo_p50", paired_ratio(routed_p50s, echoed_p50s, rng), None, f"P50: {text}"),
    ]


def _store_metrics(
    rng: np.random.Generator, routed: list[Latencies], again: list[Latencies], unstored: list[Latencies]
) -> list[Metric]:
    """What the store costs."""
    routed_p50s, again_p50s, unstored_p50s = (
        [percentile(block, 50) for block in arm] for arm in (routed, again, unstored)
    )
    ratio, equal_arms = paired_ratio(routed_p50s, unstored_p50s, rng), paired_ratio(routed_p50s, again_p50s, rng)
    return interval("routed_sqlite_over_memory_p50", ratio, equal_arms, "P50: on SQLite over without a store")


def _direct_metrics(
    rng: np.random.Generator,
    direct: list[Latencies],
    echoed: list[Latencies],
    again: list[Latencies],
    steps: list[Latencies],
) -> list[Metric]:
    """The Python client in direct mode against the one-hop echo, whose client sends and reads bytes."""
    direct_p50s, echoed_p50s, again_p50s = ([percentile(block, 50) for block in arm] for arm in (direct, echoed, again))
    step_p50_ns = percentile(np.concatenate(steps), 50)
    overhead = paired_difference(np.subtract(direct_p50s, step_p50_ns) / 1e3, np.divide(echoed_p50s, 1e3), rng)
    ratio, equal_arms = paired_ratio(direct_p50s, echoed_p50s, rng), paired_ratio(direct_p50s, again_p50s, rng)
    return [
        *percentiles("direct", np.concatenate(direct), "one session of the Python client in direct mode, closed loop"),
        *percentiles("echo_direct", np.concatenate(echoed), "a session through the one-hop echo: the floor"),
        *interval("direct_overhead_us", overhead, None, "P50: direct minus echo minus step; median over pairs"),
        *interval("direct_over_echo_p50", ratio, equal_arms, "P50: direct over echo; median over pairs"),
    ]


async def _open_loop(
    options: Options, watch: Watch, sizes: Sizes, rate_per_s: float, targets: Sequence[Target]
) -> list[Metric]:
    """`targets`: the service, the one without a store, the echo."""
    with pacing.precise_clock() as clock, watch.stage("open loop, Poisson", sizes.num_pairs) as advance:
        arms = [await OpenLoopArm.open(*target, rate_per_s, sizes.open_loop_block_s, clock) for target in targets]
        served, unstored, echoed = await interleave(arms, sizes.num_pairs, advance)
        for arm in arms:
            await arm.close()
    load_text = f"{OPEN_LOOP_SESSIONS} sessions, Poisson, from the intended send"
    p99s, unstored_p99s = ([percentile(block, 99) for block in arm] for arm in (served, unstored))
    ratio = paired_ratio(p99s, unstored_p99s, np.random.default_rng(options.seed))
    return [
        Metric("open_loop_offered_per_s", rate_per_s, "offered rate of the open loop, in all"),
        *percentiles("open_loop", np.concatenate(served), load_text),
        *percentiles("echo_open_loop", np.concatenate(echoed), "the same load on the two-hop echo"),
        *interval("open_loop_sqlite_over_memory_p99", ratio, None, "P99: on SQLite over without a store"),
    ]
