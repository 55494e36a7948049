"""Bench `rolling`: what clients notice of a rolling restart.

Users of the SDK send under an open load to a service on SQLite. Then, one after the other, each worker is restarted, a
third one comes and goes again, and the router is restarted; all by SIGTERM, all while the load goes on. The model's
predictions and the store in the end show every update that was lost, doubled or swapped (`bench.accounts`).

A step is one change of the ring: from the signal, or from when a worker that was started is ready, until all that is to
move has. The gap of a user in a step is the longest latency of its updates that waited during the step, if the step
moved the user. What a process takes of the cores while it starts is apart.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from bench import load, pacing
from bench.accounts import Counts, judged, latencies_ns
from bench.crowd import Crowd, Errors, crowd, stored_views
from bench.members import Members, NotSettledError, Owners
from bench.report import Metric, metrics_of
from bench.run import Options, Watch, WrongReplyError, run
from bench.service import run_service
from bench.stats import percentile
from evercurrent.cli.cluster import Cluster, ClusterError

MODEL = "bench.counting:Counting"
WORKERS = ("worker-0", "worker-1")
THIRD = "worker-2"

WORKER_GRACE_S = 35.0
"""Above what its drain and its last writes may take by default, 20 and 10 s."""
ROUTER_GRACE_S = 10.0
"""Above what its clients get to leave by default, 5 s."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How long the quiet before is, which workers are restarted, and how often all is done."""

    steady_s: float
    restarted: tuple[str, ...]
    num_rounds: int


FULL = Sizes(steady_s=10.0, restarted=WORKERS, num_rounds=3)
QUICK = Sizes(steady_s=1.0, restarted=WORKERS[:1], num_rounds=1)


@dataclass(frozen=True, slots=True)
class Step:
    """One change of the ring: its time, and who was moved."""

    start_ns: int
    end_ns: int
    moved: set[str]
    num_slots: int


@dataclass(slots=True)
class Course:
    """What happened when, as pairs of moments where it took its time. `starts_ns`: while a worker started."""

    steady_ns: tuple[int, int] = (0, 0)
    starts_ns: list[tuple[int, int]] = field(default_factory=list)
    router_ns: list[tuple[int, int]] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    drains_s: list[float] = field(default_factory=list)
    num_moved_sessions: int = 0


@dataclass(slots=True)
class Operator:
    """Restarts what runs, and keeps account of it."""

    cluster: Cluster
    members: Members
    users: Crowd
    clock: pacing.Clock
    advance: Callable[[], None]
    owners: Owners
    course: Course = field(default_factory=Course)

    async def quiet(self, duration_s: float) -> None:
        """Let the load run."""
        start_ns = self.clock.now_ns()
        await self.clock.sleep_until(start_ns + int(duration_s * pacing.NS_PER_S))
        self.course.steady_ns = (start_ns, self.clock.now_ns())
        self.advance()

    async def restart_worker(self, name: str) -> None:
        """Two steps: its users leave, and come back."""
        others = [other for other in WORKERS if other != name]
        await self.remove(name, *others)
        await self._start(self.cluster.restart, name, *WORKERS)

    async def add(self, name: str) -> None:
        """A worker joins."""
        start = self.cluster.start if name in self.cluster.reserved else self.cluster.restart
        await self._start(start, name, *WORKERS, name)

    async def remove(self, name: str, *others: str) -> None:
        """A worker leaves to the others, by SIGTERM."""
        start_ns = self.clock.now_ns()
        await self._terminate(name, WORKER_GRACE_S)
        await self._settle(start_ns, *others)

    async def restart_router(self) -> None:
        """At its address. It is over when every user has been answered again, and then for an update sent after that:
        nothing is left that waited for the router, which is no gap of a move."""
        self.course.num_moved_sessions += (await self.members.workers()).router.moved_sessions
        start_ns = self.clock.now_ns()
        await self._terminate(self.cluster.router_name, ROUTER_GRACE_S)
        await asyncio.to_thread(self.cluster.restart, self.cluster.router_name)
        await self.members.settled(*WORKERS)
        for _ in range(2):
            await self.users.until_answered(self.owners.by_user.keys(), self.clock.now_ns())
        self.course.router_ns.append((start_ns, self.clock.now_ns()))
        self.advance()

    async def _terminate(self, name: str, grace_s: float) -> None:
        began_s = time.monotonic()
        await asyncio.to_thread(self.cluster.terminate, name, grace_s)
        self.course.drains_s.append(time.monotonic() - began_s)

    async def _start(self, start: Callable[[str], None], name: str, *names: str) -> None:
        start_ns = self.clock.now_ns()
        await asyncio.to_thread(start, name)
        ready_ns = self.clock.now_ns()
        self.course.starts_ns.append((start_ns, ready_ns))
        await self._settle(ready_ns, *names)

    async def _settle(self, start_ns: int, *names: str) -> None:
        """End a step when these workers share all users."""
        before = self.owners
        self.owners = await self.members.settled(*names)
        moved = before.moved(self.owners)
        step = Step(start_ns, self.clock.now_ns(), moved, len(self.members.slots_of(moved)))
        self.course.steps.append(step)
        self.advance()


def measure(options: Options, watch: Watch, num_users: int, rate_per_s: float) -> tuple[Metric, ...]:
    """Starts the service, changes it under load, and compares what clients and store know."""
    sizes = QUICK if options.quick else FULL
    with TemporaryDirectory(prefix="evercurrent-bench-") as folder:
        store = f"sqlite:{Path(folder) / 'store.db'}"
        with run_service(watch, len(WORKERS), store, model=MODEL, num_reserved=1) as cluster:
            bench = _drive(cluster, watch, sizes, num_users, rate_per_s, options.seed)
            try:
                people, client_errors, course = run(bench)
            except (ClusterError, NotSettledError) as error:
                raise WrongReplyError(str(error)) from error
        counts = judged(people.accounts, run(stored_views(store)))
    return metrics_of(
        [Metric("offered_per_s", rate_per_s, f"offered rate, Poisson, {num_users} users of the SDK, two workers")],
        _counted(people, client_errors, counts),
        _gaps(people, course),
    )


async def _drive(
    cluster: Cluster, watch: Watch, sizes: Sizes, num_users: int, rate_per_s: float, seed: int
) -> tuple[Crowd, Errors, Course]:
    names = [f"rolling-{number}" for number in range(num_users)]
    num_steps = 1 + sizes.num_rounds * (2 * len(sizes.restarted) + 3)
    with pacing.precise_clock() as clock, watch.stage("restarts under load", num_steps) as advance:
        async with load.connect(cluster.address) as channel:
            people = crowd(cluster.address, names, [], rate_per_s, seed, clock)
            members = Members(channel, names)
            async with people as (users, client_errors, _):
                operator = Operator(cluster, members, users, clock, advance, await members.settled(*WORKERS))
                async with users.sending():
                    await operator.quiet(sizes.steady_s)
                    for _ in range(sizes.num_rounds):
                        for name in sizes.restarted:
                            await operator.restart_worker(name)
                        await operator.add(THIRD)
                        await operator.remove(THIRD, *WORKERS)
                        await operator.restart_router()
    return users, client_errors, operator.course


def _counted(people: Crowd, client_errors: Errors, counts: Counts) -> list[Metric]:
    num_updates = sum(len(account.updates) for account in people.accounts)
    return [
        Metric("updates", num_updates, "updates that were sent"),
        client_errors.metric("client_errors", "errors out of the SDK's observe or close, updates that it has refused"),
        Metric("lost", counts.lost, "updates that later replies or the store in the end do not show"),
        Metric("duplicated", counts.duplicated, "updates that they show twice"),
        Metric("misordered", counts.misordered, "times that they show another order than that of the calls"),
        Metric("duplicate_replies", counts.duplicate_replies, "applied once, and the reply was lost with a stream"),
    ]


def _gaps(people: Crowd, course: Course) -> list[Metric]:
    accounts = people.accounts
    by_step = [
        [
            gap_ns
            for account in accounts
            if account.user in step.moved
            if (gap_ns := account.longest_ns(step.start_ns, step.end_ns)) is not None
        ]
        for step in course.steps
    ]
    gaps_ns = np.concatenate(by_step)
    router_ns = [latency_ns for times in course.router_ns for latency_ns in latencies_ns(accounts, *times)]
    starting_ns = [latency_ns for times in course.starts_ns for latency_ns in latencies_ns(accounts, *times)]
    steady_ns = latencies_ns(accounts, *course.steady_ns)
    num_slots = sum(step.num_slots for step in course.steps)
    return [
        Metric("steady_p99_ms", percentile(steady_ns, 99) / 1e6, f"of {len(steady_ns):,} updates before any change"),
        Metric("starting_p99_ms", percentile(starting_ns, 99) / 1e6, "while a worker starts on the same cores"),
        Metric("gap_p50_ms", percentile(gaps_ns, 50) / 1e6, "longest latency of a user in a step that moves it"),
        Metric("gap_p99_ms", percentile(gaps_ns, 99) / 1e6, f"of {len(gaps_ns)} moves of users"),
        Metric("gap_max_ms", gaps_ns.max() / 1e6, "likewise"),
        Metric("router_gap_max_ms", max(router_ns) / 1e6, "longest latency while the router is restarted"),
        Metric("drain_s_max", max(course.drains_s), "longest from SIGTERM to exit 0, of workers and router"),
        Metric("steps", len(course.steps), "changes of the ring"),
        Metric("moved_slots", num_slots, "slots with users that a change moved, all changes together"),
        Metric("moved_sessions", course.num_moved_sessions, "sessions that the routers have moved"),
    ]
