"""Bench `tracing`: what it costs an update that the service is watched.

Five services of one worker take turns in short blocks of the same open Poisson load: two that tell nobody anything
(what equal arms differ by), one whose metrics are scraped every second, and two whose spans go to a collector, of one
update in a hundred and of every one. After each block all wait until what is left to be sent has been: no arm pays for
another. Client, services, scraper and collector share the machine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass

import aiohttp
import numpy as np

from bench import load, pacing
from bench.open_loop import OPEN_LOOP_SESSIONS, Latencies, OpenLoopArm
from bench.pairs import interleave
from bench.processes import entered_together, free_ports
from bench.report import Metric, interval, metrics_of, percentiles
from bench.run import Options, Watch, run
from bench.service import run_service
from bench.sink import Sink, run_sink
from bench.stats import paired_ratio, percentile
from bench.traffic import Traffic

NUM_WORKERS = 1
SCRAPE_S = 1.0
"""Fifteen times as often as is usual."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How long a run is. `left_s`: after each block; spans wait for half a second before they are sent."""

    num_pairs: int
    block_s: float
    left_s: float


FULL = Sizes(num_pairs=30, block_s=1.0, left_s=0.6)
QUICK = Sizes(num_pairs=15, block_s=0.05, left_s=0.01)


def measure(options: Options, watch: Watch, rate_per_s: float) -> tuple[Metric, ...]:
    """Starts services and a collector, and measures them."""
    sizes = QUICK if options.quick else FULL
    with ExitStack() as running:
        some, all_ = (running.enter_context(run_sink()) for _ in range(2))
        ports = free_ports(2)
        scraped = "".join(
            f'[{role}]\nmetrics_address = "127.0.0.1:{port}"\n'
            for role, port in zip(("worker", "router"), ports, strict=True)
        )
        settings = ("", "", scraped, _traced(some, 0.01), _traced(all_, 1.0))
        services = [run_service(watch, NUM_WORKERS, settings=text) for text in settings]
        clusters = running.enter_context(entered_together(services))
        addresses = [cluster.address for cluster in clusters]
        blocks = run(_measure(options, watch, sizes, rate_per_s, addresses, ports))
        counts = some.num_spans(), all_.num_spans()
    return metrics_of(
        [
            Metric("offered_per_s", rate_per_s, f"offered rate, Poisson, {OPEN_LOOP_SESSIONS} sessions, one worker"),
            Metric("pairs", sizes.num_pairs, f"pairs of blocks of {sizes.block_s:g} s"),
        ],
        _compared(options.seed, blocks),
        [
            Metric("spans_1pct", counts[0], f"spans of router and worker, of {_num_updates(blocks[3]):,} updates"),
            Metric("spans_100pct", counts[1], f"likewise, of {_num_updates(blocks[4]):,} updates"),
        ],
    )


def _traced(sink: Sink, ratio: float) -> str:
    return "".join(
        f'[{role}]\notlp_endpoint = "{sink.endpoint}"\ntrace_ratio = {ratio}\n' for role in ("worker", "router")
    )


def _num_updates(blocks: Sequence[Latencies]) -> int:
    return sum(map(len, blocks))


async def _measure(
    options: Options, watch: Watch, sizes: Sizes, rate_per_s: float, addresses: Sequence[str], ports: Sequence[int]
) -> list[list[Latencies]]:
    with pacing.precise_clock() as clock:
        async with AsyncExitStack() as stack:
            channels = [await stack.enter_async_context(load.connect(address)) for address in addresses]
            model = await load.describe_model(channels[0])
            arms = [
                await OpenLoopArm.open(
                    channel, Traffic(model, np.random.default_rng(options.seed)), rate_per_s, sizes.block_s, clock
                )
                for channel in channels
            ]
            client = await stack.enter_async_context(aiohttp.ClientSession())
            for arm in arms:
                await arm()
            taking = [_then_idle(arm, clock, sizes.left_s) for arm in arms]
            taking[2] = _scraped(taking[2], client, ports)
            with watch.stage("nothing, metrics, traces", sizes.num_pairs) as advance:
                blocks = await interleave(taking, sizes.num_pairs, advance)
            for arm in arms:
                await arm.close()
    return blocks


def _then_idle(arm: OpenLoopArm, clock: pacing.Clock, left_s: float) -> Callable[[], Awaitable[Latencies]]:
    async def block() -> Latencies:
        latencies = await arm()
        await clock.sleep_until(clock.now_ns() + int(left_s * pacing.NS_PER_S))
        return latencies

    return block


def _scraped(
    block: Callable[[], Awaitable[Latencies]], client: aiohttp.ClientSession, ports: Sequence[int]
) -> Callable[[], Awaitable[Latencies]]:
    """The same while router and worker are scraped."""

    async def scrape() -> None:
        while True:
            for port in ports:
                async with client.get(f"http://127.0.0.1:{port}/metrics", raise_for_status=True) as response:
                    await response.read()
            await asyncio.sleep(SCRAPE_S)

    async def both() -> Latencies:
        async with asyncio.TaskGroup() as tasks:
            scraping = tasks.create_task(scrape())
            latencies = await block()
            scraping.cancel()
        return latencies

    return both


def _compared(seed: int, blocks: Sequence[list[Latencies]]) -> list[Metric]:
    base, again, *others = ([percentile(block, 99) for block in arm] for arm in blocks)
    aa = paired_ratio(again, base, np.random.default_rng(seed))
    metrics = [*percentiles("untold", np.concatenate(blocks[0]), "updates, nobody is told anything")]
    for name, what, arm, p99s in zip(
        ("metrics", "traced_1pct", "traced_100pct"),
        ("metrics are scraped every second", "one update in 100 is traced", "every update is traced"),
        blocks[2:],
        others,
        strict=True,
    ):
        ratio = paired_ratio(p99s, base, np.random.default_rng(seed))
        metrics += percentiles(name, np.concatenate(arm), f"updates, {what}")
        metrics += interval(f"p99_ratio_{name}", ratio, aa, f"P99: {what}, over nothing")
    return metrics
