"""Bench `capacity`: the highest steady load that a worker on one core holds under a P99, and what that means in sizes.

One worker, kept to a core of its own where the machine has more than one; router, client and a stand-in for S3 share
the others. The rate is found by bisection, for one Exchange stream of many users, as a server of an application sends,
and for a Session stream a user. From the rate that is held, the CPU time of router and worker for an update, the memory
of a user, and the requests and bytes that S3 sees for an update, follows what so many users take who are there all the
time and make so many events a minute.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bench.metering import Costs
from bench.offered import Offer, Run, held, knee, offering
from bench.processes import memory_bytes
from bench.report import Metric
from bench.run import Arrivals, Options, Streams, Watch, WrongReplyError, run
from bench.s3 import StandIn, run_stand_in, stand_in_credentials
from bench.schedules import Schedule
from bench.service import run_service

NUM_SESSIONS = 256
FIRST_RATE_PER_S = 4000.0
ROUTER_LOAD = 0.6
"""How much of its core a router is planned to use."""
BOUND_CORES = 0.9
"""Who keeps so much of a core busy is what bounds a load."""
S_PER_MONTH = 30 * 24 * 3600
OTHER_LOAD = 0.5
"""Of what is held: the load under which requests to S3 are counted."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How long a run is, and of how many users. What a user takes in memory is what `num_users_more` take more than
    `num_users`: the first of them bring what a worker takes anyway."""

    run_s: float
    steady_s: float
    num_users: int
    num_users_more: int


FULL = Sizes(run_s=3.0, steady_s=10.0, num_users=4096, num_users_more=20_480)
QUICK = Sizes(run_s=0.2, steady_s=0.5, num_users=512, num_users_more=2560)


@dataclass(frozen=True, slots=True)
class Asked:
    """So many users, so many events of each a minute, under this P99."""

    num_users: int
    events_per_minute: float
    p99_ms: float

    @property
    def events_per_s(self) -> float:
        """Of all of them."""
        return self.num_users * self.events_per_minute / 60


@dataclass(frozen=True, slots=True)
class Found:
    """What was measured: the best runs of both kinds of streams, bytes of memory of an empty worker and of each user,
    and PUTs a second and bytes an update that the store saw."""

    exchange: Run
    sessions: Run
    empty_bytes: float
    user_bytes: float
    puts_per_s: float
    bytes_per_update: float


def measure(options: Options, watch: Watch, asked: Asked, model: str) -> tuple[Metric, ...]:
    """Starts a service on a stand-in for S3, finds what it holds, and sizes what is asked for."""
    with (
        run_stand_in(options.seed) as store,
        stand_in_credentials(),
        run_service(watch, 1, store.url(), model=model) as cluster,
    ):
        worker, *_ = cluster.workers
        others = [pid for name, pid in cluster.pids.items() if name != worker]
        with _spread(cluster.pids[worker], others):
            return run(_measure(options, watch, asked, cluster.address, dict(cluster.pids), worker, store))


async def _measure(
    options: Options, watch: Watch, asked: Asked, address: str, pids: dict[str, int], worker: str, store: StandIn
) -> tuple[Metric, ...]:
    sizes = QUICK if options.quick else FULL
    offer = Offer(FIRST_RATE_PER_S, sizes.run_s, sizes.num_users, 0.0, Arrivals.POISSON, Streams.EXCHANGE)
    with watch.stage("Exchange: what is held", 1) as advance:
        async with offering(address, pids, offer, options.seed) as opened:
            await opened.run(FIRST_RATE_PER_S, sizes.run_s)
            exchange = _best(await knee(opened, asked.p99_ms), asked)
            advance()
            before = store.counts()
            steady = await opened.run(OTHER_LOAD * exchange.updates_per_s, sizes.steady_s)
            seen = store.counts() - before
    sessions_offer = replace(offer, rate_per_s=FIRST_RATE_PER_S / 4, num_users=NUM_SESSIONS, streams=Streams.SESSIONS)
    with watch.stage("Session streams: what is held", 1) as advance:
        async with offering(address, pids, sessions_offer, options.seed) as opened:
            await opened.run(sessions_offer.rate_per_s, sizes.run_s)
            sessions = _best(await knee(opened, asked.p99_ms), asked)
            advance()
    with watch.stage("what users take in memory", 1) as advance:
        before_bytes = memory_bytes(pids[worker])
        more = replace(offer, num_users=sizes.num_users_more)
        async with offering(address, pids, more, options.seed) as opened:
            each_once = Schedule(np.zeros(sizes.num_users_more, np.int64), np.arange(sizes.num_users_more))
            await opened.driver.send(each_once, opened.traffic.draw(len(each_once)))
            user_bytes = (memory_bytes(pids[worker]) - before_bytes) / (sizes.num_users_more - sizes.num_users)
        advance()
    num_puts = sum(count for name, count in seen.items() if name.startswith("PUT "))
    num_updates = len(steady.sent.latencies_ns)
    found = Found(
        exchange,
        sessions,
        before_bytes - sizes.num_users * user_bytes,
        user_bytes,
        num_puts / steady.costs.elapsed_s,
        seen["bytes PUT"] / num_updates,
    )
    routers = [name for name in pids if name != worker]
    return (*_held_metrics(found, worker, routers, asked), *_size_metrics(found, routers, asked))


def _best(runs: Sequence[Run], asked: Asked) -> Run:
    best = held(runs, asked.p99_ms)
    if best is None:
        slowest = runs[0]
        raise WrongReplyError(
            f"no load was held: at {slowest.offered_per_s:.0f} updates/s the P99 is {slowest.ms(99):.1f} ms, "
            f"above {asked.p99_ms:g}"
        )
    return best


def _held_metrics(found: Found, worker: str, routers: Sequence[str], asked: Asked) -> list[Metric]:
    metrics = []
    for name, best in (("exchange", found.exchange), ("sessions", found.sessions)):
        worker_cores, router_cores = best.costs.cores(worker), _cores(best.costs, routers)
        metrics += [
            Metric(f"{name}_held_per_s", best.updates_per_s, f"the highest load with a P99 ≤ {asked.p99_ms:g} ms"),
            Metric(f"{name}_p99_ms", best.ms(99), "of that load"),
            Metric(f"{name}_worker_cores", worker_cores, "cores that the worker kept busy"),
            Metric(f"{name}_router_cores", router_cores, "cores that the router kept busy"),
            Metric(f"{name}_client_cores", best.costs.cores("client"), "cores that the sender kept busy"),
            Metric(f"{name}_worker_bound", float(worker_cores > BOUND_CORES), "1: the worker's core was full"),
            Metric(f"{name}_generator_bound", float(best.is_generators_own), "1: the sender was what was slow"),
        ]
    return metrics


def _size_metrics(found: Found, routers: Sequence[str], asked: Asked) -> list[Metric]:
    """A worker is planned for what it held; a router for ROUTER_LOAD of a core of the CPU time that it took."""
    rate = asked.events_per_s
    num_workers = max(1, math.ceil(rate / found.exchange.updates_per_s))
    by_exchange, by_sessions = (
        max(1, math.ceil(rate * _cores(best.costs, routers) / best.updates_per_s / ROUTER_LOAD))
        for best in (found.exchange, found.sessions)
    )
    memory_bytes_each = found.empty_bytes + found.user_bytes * asked.num_users / num_workers
    return [
        Metric("size_users", asked.num_users, "users who are there all the time"),
        Metric("size_events_per_minute", asked.events_per_minute, "of each"),
        Metric("size_events_per_s", rate, "of all"),
        Metric("size_workers", num_workers, "workers, a core each"),
        Metric("size_routers_exchange", by_exchange, f"routers at {ROUTER_LOAD:.0%} of a core, if Exchange is used"),
        Metric("size_routers_sessions", by_sessions, "routers likewise, if each user has a Session stream"),
        Metric("size_memory_gib_a_worker", memory_bytes_each / 2**30, "resident, all users of it in memory"),
        Metric("user_bytes", found.user_bytes, "memory of a worker for each user"),
        Metric("s3_puts_a_month", found.puts_per_s * num_workers * S_PER_MONTH, "PUTs of all workers, 30 days"),
        Metric("s3_put_gib_a_month", found.bytes_per_update * rate * S_PER_MONTH / 2**30, "bytes of these"),
        Metric("s3_bytes_an_update", found.bytes_per_update, "as measured at half of the load that is held"),
    ]


def _cores(costs: Costs, names: Sequence[str]) -> float:
    return sum(costs.cores(name) for name in names)


@contextmanager
def _spread(worker_pid: int, other_pids: Sequence[int]) -> Iterator[None]:
    """Give the worker a core of its own, if there are two: the others, and this process for a while, have the rest."""
    cores = os.sched_getaffinity(0)
    *others, last = sorted(cores)
    if others:
        _keep_to(worker_pid, {last})
        for pid in [*other_pids, os.getpid()]:
            _keep_to(pid, set(others))
    try:
        yield
    finally:
        _keep_to(os.getpid(), cores)


def _keep_to(pid: int, cores: set[int]) -> None:
    """All threads of a process; those to come are where the one is that starts them."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        # A thread may end between its being listed and this.
        with suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread.name), cores)
