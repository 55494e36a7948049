"""Bench `durability`: what a store that is slow or gone does to updates, what being durable costs, how far it lags.

Four services, each on a stand-in for S3 of its own, take turns in short blocks of the same open Poisson load: one whose
store answers at once, one more like it (what equal arms differ by), one whose store is as slow as S3 is published to
be, and one whose store is down: in one block it refuses connections, in the next it hangs. Users are opened before the
store goes; between blocks it stays gone.

Then, on the slow store, PUTs are counted under the same load and while sessions come, and the lag from the send of an
observation to its watermark is measured there and on SQLite. Last the store that was down comes back, and all of its
users become durable.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import grpc
import numpy as np

from bench import load, pacing, traffic
from bench.open_loop import OPEN_LOOP_SESSIONS, Latencies, OpenLoopArm, Plan, users
from bench.pairs import Arm, interleave
from bench.processes import entered_together
from bench.report import Metric, interval, metrics_of, percentiles
from bench.run import Options, Watch, run
from bench.s3 import Mode, StandIn, run_stand_in, stand_in_credentials
from bench.service import run_service
from bench.stats import paired_ratio, percentile
from bench.traffic import Traffic

NUM_ARMS = 4
NUM_WORKERS = 1


@dataclass(frozen=True, slots=True)
class Sizes:
    """How long a run is. `user_sessions`: new sessions of each user while PUTs are counted; a state holds 16."""

    num_pairs: int
    block_s: float
    window_s: float
    user_sessions: int


FULL = Sizes(num_pairs=25, block_s=1.0, window_s=10.0, user_sessions=8)
QUICK = Sizes(num_pairs=15, block_s=0.05, window_s=0.5, user_sessions=1)


@dataclass(frozen=True, slots=True)
class Bench:
    """What every measurement here takes."""

    sizes: Sizes
    seed: int
    rate_per_s: float
    clock: pacing.Clock
    watch: Watch


@dataclass(frozen=True, slots=True)
class Target:
    """A service on a stand-in of its own."""

    channel: grpc.aio.Channel
    traffic: Traffic
    store: StandIn


def measure(options: Options, watch: Watch, rate_per_s: float) -> tuple[Metric, ...]:
    """Starts services and stand-ins, and measures them."""
    with entered_together([run_stand_in(options.seed + number) for number in range(NUM_ARMS)]) as stores:
        urls = [*(store.url() for store in stores), None]
        with (
            stand_in_credentials(),
            entered_together([run_service(watch, NUM_WORKERS, url) for url in urls]) as clusters,
        ):
            *services, sqlite = [cluster.address for cluster in clusters]
            return run(_measure(options, watch, rate_per_s, list(zip(services, stores, strict=True)), sqlite))


@asynccontextmanager
async def _connected(options: Options, services: Sequence[tuple[str, StandIn]]) -> AsyncIterator[list[Target]]:
    async with AsyncExitStack() as channels:
        targets = []
        for address, store in services:
            channel = await channels.enter_async_context(load.connect(address))
            model = await load.describe_model(channel)
            targets.append(Target(channel, Traffic(model, np.random.default_rng(options.seed)), store))
        yield targets


async def _measure(
    options: Options, watch: Watch, rate_per_s: float, services: Sequence[tuple[str, StandIn]], sqlite: str
) -> tuple[Metric, ...]:
    sizes = QUICK if options.quick else FULL
    with pacing.precise_clock() as clock:
        bench = Bench(sizes, options.seed, rate_per_s, clock, watch)
        async with _connected(options, services) as targets, load.connect(sqlite) as embedded:
            _, _, slow, down = targets
            ratios = await _ratios(bench, targets)
            costs = await _costs(bench, slow)
            lags = [
                *await _lag(bench, "durable_lag", slow.channel, slow.traffic, "on the slow store"),
                *await _lag(bench, "durable_lag_sqlite", embedded, slow.traffic, "on SQLite"),
            ]
            back = await _catch_up(bench, down)
    return metrics_of(ratios, costs, lags, back)


async def _ratios(bench: Bench, targets: Sequence[Target]) -> list[Metric]:
    sizes = bench.sizes
    arms = [
        await OpenLoopArm.open(target.channel, target.traffic, bench.rate_per_s, sizes.block_s, bench.clock)
        for target in targets
    ]
    for arm in arms:
        await arm()
    down_arm, down_store = arms[3], targets[3].store
    failures = itertools.cycle([Mode.REFUSING, Mode.HANGING])

    async def down() -> Latencies:
        down_store.turn(next(failures))
        return await down_arm()

    targets[2].store.turn(Mode.SLOW)
    blocks: list[Arm[Latencies]] = [*arms[:3], down]
    with bench.watch.stage("store normal, slow, down", sizes.num_pairs) as advance:
        normal, again, slow, gone = await interleave(blocks, sizes.num_pairs, advance)
    for arm in arms:
        await arm.close()
    return [
        Metric("offered_per_s", bench.rate_per_s, f"offered rate, Poisson, {OPEN_LOOP_SESSIONS} sessions, one worker"),
        Metric("pairs", sizes.num_pairs, f"pairs of blocks of {sizes.block_s:g} s"),
        *percentiles("store_normal", np.concatenate(normal), "updates, the store answers at once"),
        *percentiles("store_slow", np.concatenate(slow), "updates, the store takes published S3 times"),
        *percentiles("store_down", np.concatenate(gone), "updates, the store refuses or hangs"),
        *_ratio("p99_ratio_slow_store", bench.seed, slow, normal, again, "P99: slow store over normal"),
        *_ratio("p99_ratio_store_down", bench.seed, gone, normal, again, "P99: store down over normal"),
        Metric("at_risk_max_store_down", down_arm.at_risk_max, "updates of one user not durable, the store down"),
    ]


def _ratio(
    name: str, seed: int, arm: list[Latencies], normal: list[Latencies], again: list[Latencies], meaning: str
) -> list[Metric]:
    p99s, normal_p99s, again_p99s = ([percentile(block, 99) for block in blocks] for blocks in (arm, normal, again))
    ratio = paired_ratio(p99s, normal_p99s, np.random.default_rng(seed))
    equal_arms = paired_ratio(again_p99s, normal_p99s, np.random.default_rng(seed))
    return interval(name, ratio, equal_arms, f"{meaning}; median over pairs")


async def _costs(bench: Bench, target: Target) -> list[Metric]:
    """Requests to the slow store under load, and for sessions of users who are resident."""
    arm = await OpenLoopArm.open(target.channel, target.traffic, bench.rate_per_s, bench.sizes.block_s, bench.clock)
    with bench.watch.stage("requests to the slow store", 2) as advance:
        before, began_s = target.store.counts(), time.monotonic()
        await arm.block(bench.sizes.window_s)
        asked, elapsed_s = target.store.counts() - before, time.monotonic() - began_s
        advance()
        await arm.close()
        before = target.store.counts()
        num_sessions = await _sessions(target, bench.sizes.user_sessions)
        opened = target.store.counts() - before
        advance()
    per_session = (_total(opened, "PUT") - opened["PUT journal"]) / num_sessions
    rate = NUM_WORKERS * elapsed_s
    return [
        Metric("puts_per_s_per_worker", _total(asked, "PUT") / rate, "PUTs to the slow store, under the same load"),
        Metric("gets_per_s_per_worker", _total(asked, "GET") / rate, "GETs and lists, likewise"),
        Metric("deletes_per_s_per_worker", _total(asked, "DELETE") / rate, "deletes, likewise"),
        Metric("puts_per_session", per_session, f"PUTs but the journal's for {num_sessions} sessions of residents"),
    ]


async def _sessions(target: Target, user_sessions: int) -> int:
    """Opens new sessions of resident users one after another, each of one update; how many."""
    opens = [traffic.session_open(user) for user in users() * user_sessions]
    for opening in opens:
        stream = await load.open_session(target.channel, opening)
        load.check_session(await load.closed_loop(stream, target.traffic.session_requests(1, 1)), 1)
        await load.close(stream)
    return len(opens)


def _total(counts: Counter[str], method: str) -> int:
    return sum(count for name, count in counts.items() if name.startswith(f"{method} "))


async def _lag(bench: Bench, name: str, channel: grpc.aio.Channel, traffic_: Traffic, where: str) -> list[Metric]:
    opens = [traffic.session_open(user, wait_durable=True) for user in users()]
    streams = [await load.open_session(channel, opening) for opening in opens]
    with bench.watch.stage(f"from send to durable, {where}", 1) as advance:
        plan = Plan.drawn(traffic_, [1] * len(streams), bench.rate_per_s, bench.sizes.window_s, bench.clock)
        loads = zip(streams, plan.requests, plan.intended_ns, strict=True)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(load.durable_lags(*each, bench.clock)) for each in loads]
        advance()
    lags_ns = np.concatenate([task.result() for task in tasks])
    return percentiles(name, lags_ns, f"from the intended send to the watermark, {where}")


async def _catch_up(bench: Bench, target: Target) -> list[Metric]:
    """The store that was down comes back: how long until an update of each user, and so all before it, is durable."""
    opens = [traffic.session_open(user, wait_durable=True) for user in users()]
    streams = [await load.open_session(target.channel, opening) for opening in opens]
    with bench.watch.stage("the store comes back", 1) as advance:
        target.store.turn(Mode.NORMAL)
        began_s = time.monotonic()
        requests = [target.traffic.session_requests(1, 1) for _ in streams]
        now_ns = np.array([bench.clock.now_ns()])
        async with asyncio.TaskGroup() as group:
            for each in zip(streams, requests, strict=True):
                group.create_task(load.durable_lags(*each, now_ns, bench.clock))
        advance()
    elapsed_s = time.monotonic() - began_s
    return [Metric("catch_up_s", elapsed_s, f"until all {len(streams)} users are durable when the store is back")]
