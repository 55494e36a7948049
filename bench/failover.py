"""Bench `failover`: what clients notice when a worker dies, or lies still for so long that others take its users over.

Half of the users are of the SDK, half are stub clients that never send anything again; all send under an open load to
two workers on SQLite. A worker is killed, its users are served by the other, it is started again; that a few times.
Then one is stopped (SIGSTOP) for longer than anybody waits for it, and goes on: it must notice that it owns nothing any
more, and come back as a new incarnation. The model's predictions and the store in the end show every update that was
lost, doubled or swapped (`bench.accounts`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from bench import load, pacing
from bench.accounts import Account, Counts, judged, latencies_ns
from bench.crowd import Crowd, Errors, crowd, stored_views
from bench.members import Members, NotSettledError
from bench.report import Metric, metrics_of
from bench.run import Options, Watch, WrongReplyError, run
from bench.service import run_service
from bench.stats import percentile
from evercurrent.cli.cluster import Cluster, ClusterError

MODEL = "bench.counting:Counting"
WORKERS = ("worker-0", "worker-1")


@dataclass(frozen=True, slots=True)
class Sizes:
    """How long the quiet before is, who is killed one after the other, how long one lies still."""

    steady_s: float
    killed: tuple[str, ...]
    still_s: float


FULL = Sizes(steady_s=10.0, killed=3 * WORKERS, still_s=35.0)
QUICK = Sizes(steady_s=1.0, killed=WORKERS[1:], still_s=3.0)


@dataclass(frozen=True, slots=True)
class Loss:
    """When a worker was lost, and whose worker it was."""

    at_ns: int
    users: set[str]


@dataclass(slots=True)
class Course:
    """What happened when."""

    steady_ns: tuple[int, int] = (0, 0)
    kills: list[Loss] = field(default_factory=list)
    stills: list[Loss] = field(default_factory=list)
    returns_s: list[float] = field(default_factory=list)
    """From the moment at which a worker that lay still goes on to its new incarnation's full share."""


@dataclass(slots=True)
class Saboteur:
    """Has workers die and lie still, and keeps account of it."""

    cluster: Cluster
    members: Members
    users: Crowd
    clock: pacing.Clock
    advance: Callable[[], None]
    course: Course = field(default_factory=Course)

    async def quiet(self, duration_s: float) -> None:
        """Let the load run."""
        start_ns = self.clock.now_ns()
        await self.clock.sleep_until(start_ns + int(duration_s * pacing.NS_PER_S))
        self.course.steady_ns = (start_ns, self.clock.now_ns())
        self.advance()

    async def kill(self, name: str) -> None:
        """A worker dies, its users go on elsewhere, it comes back."""
        affected = (await self.members.owners()).of(name)
        loss = Loss(self.clock.now_ns(), affected)
        self.course.kills.append(loss)
        await asyncio.to_thread(self.cluster.kill, name)
        await self.users.until_answered(affected, loss.at_ns)
        await asyncio.to_thread(self.cluster.restart, name)
        await self.members.settled(*WORKERS)
        self.advance()

    async def lie_still(self, name: str, duration_s: float) -> None:
        """A worker does nothing for a while, and goes on as if it still had users."""
        affected = (await self.members.owners()).of(name)
        incarnation = await self.members.incarnation(name)
        with self.cluster.paused(name):
            loss = Loss(self.clock.now_ns(), affected)
            self.course.stills.append(loss)
            await self.users.until_answered(affected, loss.at_ns)
            await self.clock.sleep_until(loss.at_ns + int(duration_s * pacing.NS_PER_S))
        awake_ns = self.clock.now_ns()
        await self.members.settled(*WORKERS, but_for=incarnation)
        self.course.returns_s.append((self.clock.now_ns() - awake_ns) / pacing.NS_PER_S)
        self.advance()


def measure(options: Options, watch: Watch, num_users: int, rate_per_s: float) -> tuple[Metric, ...]:
    """Starts the service, disturbs it under load, and compares what clients and store know."""
    sizes = QUICK if options.quick else FULL
    with TemporaryDirectory(prefix="evercurrent-bench-") as folder:
        store = f"sqlite:{Path(folder) / 'store.db'}"
        with run_service(watch, len(WORKERS), store, model=MODEL) as cluster:
            bench = _drive(cluster, watch, sizes, num_users, rate_per_s, options.seed)
            try:
                people, client_errors, stub_errors, course = run(bench)
            except (ClusterError, NotSettledError) as error:
                raise WrongReplyError(str(error)) from error
        counts = judged(people.accounts, run(stored_views(store)))
    text = f"offered rate, Poisson, {num_users} users, half of them of the SDK, two workers"
    return metrics_of(
        [Metric("offered_per_s", rate_per_s, text)],
        _counted(people.accounts, client_errors, stub_errors, counts),
        _times(people.accounts, course),
    )


async def _drive(
    cluster: Cluster, watch: Watch, sizes: Sizes, num_users: int, rate_per_s: float, seed: int
) -> tuple[Crowd, Errors, Errors, Course]:
    names = [f"failover-{number}" for number in range(num_users)]
    num_steps = 2 + len(sizes.killed)
    with pacing.precise_clock() as clock, watch.stage("workers die under load", num_steps) as advance:
        async with load.connect(cluster.address) as channel:
            members = Members(channel, names)
            async with crowd(cluster.address, names[::2], names[1::2], rate_per_s, seed, clock) as opened:
                users, client_errors, stub_errors = opened
                saboteur = Saboteur(cluster, members, users, clock, advance)
                await members.settled(*WORKERS)
                async with users.sending():
                    await saboteur.quiet(sizes.steady_s)
                    for name in sizes.killed:
                        await saboteur.kill(name)
                    await saboteur.lie_still(WORKERS[0], sizes.still_s)
    return users, client_errors, stub_errors, saboteur.course


def _counted(accounts: list[Account], client_errors: Errors, stub_errors: Errors, counts: Counts) -> list[Metric]:
    return [
        Metric("updates", sum(len(account.updates) for account in accounts), "updates that were sent"),
        client_errors.metric("client_errors", "errors out of the SDK's observe or close, updates that it has refused"),
        stub_errors.metric("stub_errors", "streams of stub clients that ended with a status, updates refused"),
        Metric("lost", counts.lost, "updates that later replies or the store in the end do not show"),
        Metric("duplicated", counts.duplicated, "updates that they show twice"),
        Metric("misordered", counts.misordered, "times that they show another order than that of the calls"),
        Metric("duplicate_replies", counts.duplicate_replies, "applied once, and the reply was lost with a stream"),
    ]


def _times(accounts: list[Account], course: Course) -> list[Metric]:
    steady_ns = latencies_ns(accounts, *course.steady_ns)
    return [
        Metric("steady_p99_ms", percentile(steady_ns, 99) / 1e6, f"of {len(steady_ns):,} updates before any loss"),
        *_recovery("recovery", accounts, course.kills, "from SIGKILL"),
        *_recovery("zombie_recovery", accounts, course.stills, "from SIGSTOP"),
        Metric("zombie_return_s", max(course.returns_s), "from SIGCONT to the full share of the new incarnation"),
    ]


def _recovery(name: str, accounts: list[Account], losses: list[Loss], what: str) -> list[Metric]:
    """Percentiles over all users of lost workers.

    Raises:
        WrongReplyError: one of them never had a correct reply again.
    """
    found_ns = [
        account.recovery_ns(loss.at_ns) for loss in losses for account in accounts if account.user in loss.users
    ]
    recoveries_ns = [found for found in found_ns if found is not None]
    if len(recoveries_ns) < len(found_ns):
        raise WrongReplyError(f"{len(found_ns) - len(recoveries_ns)} users never had a correct reply again")
    text = f"{what} to the first correct reply to what was to be sent after it, by user"
    return [
        Metric(f"{name}_p50_ms", percentile(recoveries_ns, 50) / 1e6, text),
        Metric(f"{name}_p99_ms", percentile(recoveries_ns, 99) / 1e6, f"of {len(recoveries_ns)} users of lost workers"),
        Metric(f"{name}_max_ms", np.max(recoveries_ns) / 1e6, "likewise"),
    ]
