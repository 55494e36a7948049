"""Bench `throughput`: updates a second, client, router and workers on one machine, and updates a CPU second.

Four arms take turns in short blocks: the service, the two-hop echo (the floor), the service once more for other users
(what equal arms differ by), and a service without a store; first with Exchange frames, then with concurrent Session
streams. Last a worker by itself, fed with Link frames by the client.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
from ulid import ULID

from bench import load, traffic
from bench.echo import MODEL, Echo, run_echo
from bench.pairs import interleave
from bench.processes import cpu_by_name
from bench.report import Metric, interval, metrics_of
from bench.run import Options, Watch, run
from bench.service import NO_STORE, run_service
from bench.stats import Interval, paired_ratio
from bench.traffic import FRAME_EVENTS, Traffic
from evercurrent.cli.cluster import Cluster
from evercurrent.slots import NUM_SLOTS
from evercurrent.wire import Layout

NUM_USERS = 8192
NUM_STREAMS = 256
WINDOW_FRAMES = 8
"""Frames that the client keeps unanswered."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How long a run is. Warm-up touches every user once."""

    num_pairs: int
    block_frames: int
    block_rounds: int


FULL = Sizes(num_pairs=15, block_frames=128, block_rounds=24)
QUICK = Sizes(num_pairs=15, block_frames=16, block_rounds=2)


@dataclass(frozen=True, slots=True)
class Block:
    """What one block of one arm took."""

    num_updates: int
    elapsed_s: float
    cpu_s: Mapping[str, float]

    @property
    def updates_per_s(self) -> float:
        return self.num_updates / self.elapsed_s


@dataclass(slots=True)
class Meter:
    """Measures blocks: time and the CPU of the processes that take part."""

    pids: Mapping[str, int]
    _start_s: float = 0.0
    _start_cpu_s: Mapping[str, float] = field(default_factory=dict)

    def start(self) -> None:
        self._start_cpu_s = cpu_by_name(self.pids)
        self._start_s = time.perf_counter()

    def stop(self, num_updates: int) -> Block:
        elapsed_s = time.perf_counter() - self._start_s
        cpu_s = {name: now_s - self._start_cpu_s[name] for name, now_s in cpu_by_name(self.pids).items()}
        return Block(num_updates, elapsed_s, cpu_s)


@dataclass(slots=True)
class FramesArm:
    """Frames of FRAME_EVENTS events of as many users on streams of one kind, Exchange or Link; a call is a block. The
    users' frames go to the streams in turns, so each stream has as many tags as any other."""

    streams: Sequence[Any]
    make_frame: Callable[[int, int], bytes]
    applied: Callable[[bytes], int]
    meter: Meter
    num_frames: int
    num_sent: int = 0

    async def __call__(self) -> Block:
        return await self.frames(self.num_frames)

    async def frames(self, num_frames: int) -> Block:
        """Sends so many frames, going round all users. They are drawn off the clock."""
        groups = NUM_USERS // FRAME_EVENTS
        shares: list[list[bytes]] = [[] for _ in self.streams]
        for number in range(self.num_sent, self.num_sent + num_frames):
            turn, index = divmod(number % groups, len(self.streams))
            shares[index].append(self.make_frame(turn * FRAME_EVENTS, number // groups + 1))
        self.num_sent += num_frames
        window = WINDOW_FRAMES // len(self.streams)
        self.meter.start()
        async with asyncio.TaskGroup() as group:
            for stream, frames in zip(self.streams, shares, strict=True):
                group.create_task(load.pump(stream, frames, window, self.applied))
        return self.meter.stop(num_frames * FRAME_EVENTS)

    async def close(self) -> None:
        """Close all streams."""
        for stream in self.streams:
            await load.close(stream, self.applied)


@dataclass(slots=True)
class SessionsArm:
    """Concurrent Session streams, each in a closed loop; a call is a block. Replies are checked off the clock."""

    streams: Sequence[Any]
    traffic: Traffic
    meter: Meter
    num_rounds: int
    next_seq: int = 1
    check: load.Check = load.check_session

    async def __call__(self) -> Block:
        requests = [self.traffic.session_requests(self.next_seq, self.num_rounds) for _ in self.streams]
        self.meter.start()
        replies = await load.closed_loops(self.streams, requests)
        block = self.meter.stop(len(self.streams) * self.num_rounds)
        for each in replies:
            self.check(each, self.next_seq)
        self.next_seq += self.num_rounds
        return block

    async def close(self) -> None:
        """Close all streams."""
        for stream in self.streams:
            await load.close(stream)


Target = tuple[grpc.aio.Channel, Traffic, Mapping[str, int]]


def measure(options: Options, watch: Watch, num_workers: int) -> tuple[Metric, ...]:
    """Starts the services and the echo and measures them; then a worker by itself."""
    sizes = QUICK if options.quick else FULL
    with run_echo() as echo:
        with run_service(watch, num_workers) as cluster, run_service(watch, num_workers, NO_STORE) as storeless:
            routed = run(_routed(options, watch, sizes, cluster, storeless, echo))
        with run_service(watch, num_workers=1) as cluster:
            alone = run(_worker_alone(options, watch, sizes, cluster, echo))
    return metrics_of([Metric("num_workers", num_workers, "workers behind the router")], routed, alone)


async def _routed(
    options: Options, watch: Watch, sizes: Sizes, cluster: Cluster, storeless: Cluster, echo: Echo
) -> list[Metric]:
    rng = np.random.default_rng(options.seed)
    async with (
        load.connect(cluster.address) as service_channel,
        load.connect(storeless.address) as storeless_channel,
        load.connect(echo.two_hops) as echo_channel,
    ):
        served = Traffic(await load.describe_model(service_channel), rng)
        service = service_channel, served, _with_client(cluster.pids)
        without = storeless_channel, served, _with_client(storeless.pids)
        floor = echo_channel, Traffic(MODEL, rng), _with_client(echo.pids)
        exchange = await _exchange(watch, sizes, service, floor, without)
        sessions = await _sessions(watch, sizes, service, floor, without)
    return [
        *_exchange_metrics(exchange, cluster, options.seed),
        *_sessions_metrics(sessions, cluster, options.seed),
    ]


Blocks = list[list[Block]]


async def _exchange(watch: Watch, sizes: Sizes, service: Target, floor: Target, without: Target) -> Blocks:
    arms = [
        await _exchange_arm(service, "exchange", sizes),
        await _exchange_arm(floor, "exchange", sizes),
        await _exchange_arm(service, "exchange-again", sizes),
        await _exchange_arm(without, "exchange", sizes),
    ]
    with watch.stage("Exchange, frames of 256", sizes.num_pairs) as advance:
        blocks = await interleave(arms, sizes.num_pairs, advance)
    for arm in arms:
        await arm.close()
    return blocks


async def _exchange_arm(target: Target, prefix: str, sizes: Sizes) -> FramesArm:
    channel, traffic_, pids = target
    opens = traffic.exchange_opens([f"{prefix}-{i}" for i in range(NUM_USERS)])
    stream = await load.open_exchange(channel, opens, NUM_USERS)
    arm = FramesArm([stream], traffic_.exchange_frame, load.applied_of_exchange, Meter(pids), sizes.block_frames)
    await arm.frames(NUM_USERS // FRAME_EVENTS)
    return arm


async def _sessions(watch: Watch, sizes: Sizes, service: Target, floor: Target, without: Target) -> Blocks:
    arms = [
        await _sessions_arm(service, "session", sizes),
        await _sessions_arm(floor, "session", sizes),
        await _sessions_arm(service, "session-again", sizes),
        await _sessions_arm(without, "session", sizes),
    ]
    with watch.stage(f"{NUM_STREAMS} Session streams", sizes.num_pairs) as advance:
        blocks = await interleave(arms, sizes.num_pairs, advance)
    for arm in arms:
        await arm.close()
    return blocks


async def _sessions_arm(target: Target, prefix: str, sizes: Sizes) -> SessionsArm:
    channel, traffic_, pids = target
    opens = [traffic.session_open(f"{prefix}-{i}") for i in range(NUM_STREAMS)]
    arm = SessionsArm(
        [await load.open_session(channel, each) for each in opens], traffic_, Meter(pids), sizes.block_rounds
    )
    await arm()
    return arm


async def _worker_alone(options: Options, watch: Watch, sizes: Sizes, cluster: Cluster, echo: Echo) -> list[Metric]:
    rng = np.random.default_rng(options.seed)
    ((worker, address),) = cluster.workers.items()
    async with load.connect(cluster.address) as router, load.connect(address) as channel:
        model = await load.describe_model(router)
        async with load.connect(echo.link) as echo_channel:
            arms = [
                await _link_arm((channel, Traffic(model, rng), {"served": cluster.pids[worker]}), sizes),
                await _link_arm((echo_channel, Traffic(MODEL, rng), {"served": echo.pids["backend"]}), sizes),
            ]
            with watch.stage("a worker by itself, frames of 256", sizes.num_pairs) as advance:
                served, echoed = await interleave(arms, sizes.num_pairs, advance)
            for arm in arms:
                await arm.close()
    return [
        Metric("worker_updates_per_cpu_s", _per_cpu_s(served, ["served"]), "a worker alone, Link frames of 256"),
        Metric("worker_alone_updates_per_s", per_s(served), "the same by the wall clock"),
        Metric("echo_link_updates_per_cpu_s", _per_cpu_s(echoed, ["served"]), "an echo in its place: the floor"),
    ]


async def _link_arm(target: Target, sizes: Sizes) -> FramesArm:
    channel, traffic_, pids = target
    users = [(f"alone-{i}", str(ULID())) for i in range(NUM_USERS)]
    stream = await load.open_link(channel, traffic.link_opens(users, NUM_SLOTS), NUM_USERS)
    applied = load.applied_of_link(Layout.of(traffic_.model))
    arm = FramesArm([stream], traffic_.link_frame, applied, Meter(pids), sizes.block_frames)
    await arm.frames(NUM_USERS // FRAME_EVENTS)
    return arm


def _exchange_metrics(blocks: Blocks, cluster: Cluster, seed: int) -> list[Metric]:
    served, echoed, again, _ = blocks
    return [
        Metric("exchange_updates_per_s", per_s(served), f"Exchange, frames of 256, {WINDOW_FRAMES} in flight"),
        Metric("echo_exchange_updates_per_s", per_s(echoed), "the same through the two-hop echo: the floor"),
        *_ratios("exchange", blocks, seed),
        Metric("router_updates_per_cpu_s", _per_cpu_s(served, _routers(cluster)), "the router, in the Exchange load"),
        Metric("echo_router_updates_per_cpu_s", _per_cpu_s(echoed, ["front"]), "the echo in its place: the floor"),
        *_cores("exchange", [*served, *again], cluster),
    ]


def _sessions_metrics(blocks: Blocks, cluster: Cluster, seed: int) -> list[Metric]:
    served, echoed, again, _ = blocks
    name = f"sessions_{NUM_STREAMS}"
    return [
        Metric(f"{name}_updates_per_s", per_s(served), f"{NUM_STREAMS} Session streams, closed loop"),
        Metric(f"echo_{name}_updates_per_s", per_s(echoed), "the same through the two-hop echo: the floor"),
        *_ratios(name, blocks, seed),
        *_cores(name, [*served, *again], cluster),
    ]


def _ratios(name: str, blocks: Blocks, seed: int) -> list[Metric]:
    served, echoed, again, unstored = ([block.updates_per_s for block in arm] for arm in blocks)

    def ratio(others: Sequence[float]) -> Interval:
        return paired_ratio(served, others, np.random.default_rng(seed))

    return [
        *interval(f"{name}_over_echo", ratio(echoed), ratio(again), "updates/s over the echo's; median over pairs"),
        *interval(f"{name}_sqlite_over_memory", ratio(unstored), ratio(again), "updates/s: on SQLite over storeless"),
    ]


def _cores(name: str, blocks: Sequence[Block], cluster: Cluster) -> list[Metric]:
    """How much of a core each process kept busy."""
    parts = {"client": ["client"], "router": _routers(cluster), "workers": list(cluster.workers)}
    elapsed_s = sum(block.elapsed_s for block in blocks)
    return [
        Metric(f"{name}_{part}_cores", _cpu_s(blocks, names) / elapsed_s, f"cores that the {part} kept busy")
        for part, names in parts.items()
    ]


def _routers(cluster: Cluster) -> list[str]:
    return [name for name in cluster.pids if name not in cluster.workers]


def _with_client(pids: Mapping[str, int]) -> dict[str, int]:
    return {**pids, "client": os.getpid()}


def per_s(blocks: Sequence[Block]) -> float:
    """Updates a second of all of these."""
    return sum(block.num_updates for block in blocks) / sum(block.elapsed_s for block in blocks)


def _per_cpu_s(blocks: Sequence[Block], names: Sequence[str]) -> float:
    return sum(block.num_updates for block in blocks) / _cpu_s(blocks, names)


def _cpu_s(blocks: Sequence[Block], names: Sequence[str]) -> float:
    return sum(block.cpu_s[name] for block in blocks for name in names)
