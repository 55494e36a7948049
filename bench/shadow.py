"""Bench `shadow`: what versions beside the live one cost it, what a swap costs users, how soon a bad version is gone.

Four services of one worker take turns in short blocks of the same open Poisson load, at half of the rate that saturates
one: two without a shadow (what equal arms differ by), one with one shadow of all users, one with three.

Then users of the SDK send under an open load to two workers on SQLite while a version goes live and is rolled back,
again and again, at last one that makes its step thirty times. The model's predictions and the store in the end, which
has the states of both versions, show every update that is missing anywhere (`bench.accounts`).

Last, bad versions (`bench.planted`) are promoted under the load of simulated learners, with the policy `auto`, which is
to roll them back. The audit trail says how live and old version compared at that time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc
import numpy as np

from bench import load, pacing
from bench.accounts import judged, latencies_ns
from bench.counting import Counting
from bench.crowd import Crowd, Errors, crowd, stored_views
from bench.open_loop import OPEN_LOOP_SESSIONS, Latencies, OpenLoopArm
from bench.pairs import interleave
from bench.planted import Slow, SlowCounting, SoonNaN, WrongSign
from bench.processes import entered_together
from bench.report import Metric, interval, metrics_of, percentiles
from bench.run import Options, Watch, WrongReplyError, run
from bench.service import MODEL_NAME, run_service
from bench.stats import bootstrap_median, paired_ratio, percentile
from bench.traffic import Traffic
from evercurrent.cli.learners import Tally, stream_learners
from evercurrent.model import Model
from evercurrent.models.adaptive import EventLog
from evercurrent.models.knowledge_tracing import default_world, simulate
from evercurrent.models.knowledge_tracing.model import KnowledgeTracing
from evercurrent.models.loading import load_model
from evercurrent.models.versions import version_of
from evercurrent.v1 import admin_pb2, admin_pb2_grpc, models_pb2
from evercurrent.v1.models_pb2 import Comparison, Policy, Promote, Rollback, StartShadow
from persistence.open import open_store
from persistence.registry import Registry

COUNTING = "bench.counting:Counting"
SHADOWS = (0, 0, 1, 3)
"""How many run beside the live version, by arm."""
PLANTED: dict[str, type[KnowledgeTracing]] = {"wrong-sign": WrongSign, "soon-nan": SoonNaN, "slow": Slow}
ROLLED_BACK_WITHIN_S = 60.0
LOOK_S = 0.05
FIRST_RATE_PER_S = 400.0
RATE_STEP = 1.15
SATURATION_TRIES = 3
"""Blocks of a rate, of which one must show that it is sustained."""
SATURATED_MS = 50.0
"""A service whose P99 is above it has a queue that grows."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How long a run is. `dwell_s`: from one swap to the next; `learner_events`: of each simulated learner."""

    num_pairs: int
    block_s: float
    num_swaps: int
    dwell_s: float
    num_learners: int
    learner_events: int


FULL = Sizes(num_pairs=25, block_s=1.0, num_swaps=5, dwell_s=2.0, num_learners=1000, learner_events=300)
QUICK = Sizes(num_pairs=15, block_s=0.05, num_swaps=1, dwell_s=0.3, num_learners=500, learner_events=300)


@dataclass(slots=True)
class Swaps:
    """What the swaps took, and what the standby had missed before each rollback."""

    promotes_ms: list[float] = field(default_factory=list)
    rollbacks_ms: list[float] = field(default_factory=list)
    prepares_ms: list[float] = field(default_factory=list)
    slow_rollback_ms: float = 0.0
    missed: int = 0
    times_ns: list[tuple[int, int]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Incident:
    """A bad version that was live for a while."""

    name: str
    rolled_back_s: float
    comparison: Comparison
    why: str


class Operator:
    """Asks a router for changes."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._admin = admin_pb2_grpc.AdminServiceStub(channel)

    async def change(
        self,
        *,
        start_shadow: StartShadow | None = None,
        promote: Promote | None = None,
        rollback: Rollback | None = None,
        policy: Policy | None = None,
    ) -> admin_pb2.ChangeModelsResponse:
        """One change, which every worker follows."""
        request = admin_pb2.ChangeModelsRequest(
            start_shadow=start_shadow, promote=promote, rollback=rollback, policy=policy, who="bench"
        )
        response: admin_pb2.ChangeModelsResponse = await self._admin.ChangeModels(
            request, timeout=load.READY_TIMEOUT_S, wait_for_ready=True
        )
        if response.missing_workers:
            raise WrongReplyError(f"workers do not follow: {response.missing_workers}")
        return response

    async def compare(self) -> Sequence[Comparison]:
        """How the versions compare now."""
        async for seen in self._admin.WatchComparison(admin_pb2.WatchComparisonRequest()):
            found: Sequence[Comparison] = seen.comparisons
            return found
        raise WrongReplyError("the router compares nothing")

    async def live(self) -> str:
        """Which version is live."""
        listed = await self._admin.ListModels(admin_pb2.ListModelsRequest(), timeout=load.READY_TIMEOUT_S)
        return str(listed.control.live)

    async def last_change(self) -> models_pb2.ModelChange:
        """Which was made last."""
        request = admin_pb2.ListModelChangesRequest(num=1)
        listed = await self._admin.ListModelChanges(request, timeout=load.READY_TIMEOUT_S)
        last: models_pb2.ModelChange = listed.changes[0]
        return last


def measure(options: Options, watch: Watch, num_users: int, rate_per_s: float) -> tuple[Metric, ...]:
    """Starts services, runs versions beside each other, and measures what that does to the live one."""
    sizes = QUICK if options.quick else FULL
    with TemporaryDirectory(prefix="evercurrent-bench-") as folder:
        stores = [f"sqlite:{folder}/arm-{arm}.db" for arm in range(len(SHADOWS))]
        for store in stores:
            run(_push(store, {f"v{number}": load_model(MODEL_NAME) for number in range(1, max(SHADOWS) + 1)}))
        with entered_together([run_service(watch, 1, store) for store in stores]) as clusters:
            costs = run(_costs(options, watch, sizes, [cluster.address for cluster in clusters]))
        swaps = _swaps(options, watch, sizes, f"sqlite:{Path(folder) / 'swaps.db'}", num_users, rate_per_s)
        incidents = _incidents(watch, sizes, f"sqlite:{Path(folder) / 'incidents.db'}")
    return metrics_of(costs, swaps, incidents)


async def _push(store: str, models: dict[str, Model]) -> None:
    async with open_store(store) as opened:
        for version, model in models.items():
            await Registry(opened).push(*version_of(model, version, "bench", "", time.time_ns() // 1000))


# --- what shadows cost ----------------------------------------------------------------------------------------------


async def _costs(options: Options, watch: Watch, sizes: Sizes, addresses: Sequence[str]) -> list[Metric]:
    with pacing.precise_clock() as clock:
        async with AsyncExitStack() as channels:
            opened = [await channels.enter_async_context(load.connect(address)) for address in addresses]
            for channel, num_shadows in zip(opened, SHADOWS, strict=True):
                for number in range(1, num_shadows + 1):
                    await Operator(channel).change(start_shadow=StartShadow(version=f"v{number}"))
            model = await load.describe_model(opened[0])
            traffics = [Traffic(model, np.random.default_rng(options.seed)) for _ in opened]
            with watch.stage("saturation", 1) as advance:
                saturation_per_s = await _saturation(opened[0], traffics[0], clock, sizes.block_s)
                advance()
            rate_per_s = saturation_per_s / 2
            arms = [
                await OpenLoopArm.open(channel, traffic_, rate_per_s, sizes.block_s, clock)
                for channel, traffic_ in zip(opened, traffics, strict=True)
            ]
            for arm in arms:
                await arm()
            with watch.stage("no shadow, one, three", sizes.num_pairs) as advance:
                none, again, one, three = await interleave(arms, sizes.num_pairs, advance)
            for arm in arms:
                await arm.close()
            beside = [await Operator(channel).compare() for channel in opened[2:]]
    return [
        Metric("saturation_per_s", saturation_per_s, f"the last rate with a P99 below {SATURATED_MS:g} ms, one worker"),
        Metric("offered_per_s", rate_per_s, f"half of it, Poisson, {OPEN_LOOP_SESSIONS} sessions"),
        *_compared(options.seed, none, again, one, three, beside),
    ]


async def _saturation(channel: grpc.aio.Channel, traffic_: Traffic, clock: pacing.Clock, block_s: float) -> float:
    """The highest rate of a rising open load at which the P99 of a block stays below SATURATED_MS."""
    arm = await OpenLoopArm.open(channel, traffic_, FIRST_RATE_PER_S, block_s, clock)
    await arm()
    sustained_per_s = arm.rate_per_s
    while min([percentile(await arm(), 99) for _ in range(SATURATION_TRIES)]) < SATURATED_MS * 1e6:
        sustained_per_s = arm.rate_per_s
        arm.rate_per_s *= RATE_STEP
    await arm.close()
    return sustained_per_s


def _compared(
    seed: int,
    none: list[Latencies],
    again: list[Latencies],
    one: list[Latencies],
    three: list[Latencies],
    beside: Sequence[Sequence[Comparison]],
) -> list[Metric]:
    p99s = [np.array([percentile(block, 99) for block in arm]) for arm in (none, again, one, three)]
    base, equal, with_one, with_three = p99s
    sums = [comparison.sums for comparisons in beside for comparison in comparisons]
    step_ns = 1000 * sum(each.step_us for each in sums) / sum(each.steps for each in sums)
    rng = np.random.default_rng(seed)
    added = bootstrap_median((with_one - base) / step_ns, rng)
    equal_added = bootstrap_median((equal - base) / step_ns, rng)
    aa = paired_ratio(equal, base, rng)
    return [
        *percentiles("live_no_shadow", np.concatenate(none), "updates, nothing beside the live version"),
        *percentiles("live_1_shadow", np.concatenate(one), "updates, one shadow of all users"),
        *percentiles("live_3_shadows", np.concatenate(three), "updates, three shadows of all users"),
        Metric("shadow_step_ms", step_ns / 1e6, f"mean step of a shadow, of {sum(each.steps for each in sums):,}"),
        *interval("shadow_added_p99_steps", added, equal_added, "P99 that one shadow adds, in steps of it"),
        *interval("live_p99_ratio_1_shadow", paired_ratio(with_one, base, rng), aa, "P99: one shadow over none"),
        *interval("live_p99_ratio_3_shadows", paired_ratio(with_three, base, rng), aa, "P99: three shadows over none"),
        Metric("shadow_updates", sum(each.updates for each in sums), "events that the four shadows learned from"),
        Metric("shadow_shed_users", sum(each.shed_users for each in sums), "users that they shed"),
        Metric("shadow_backlog", sum(each.backlog for each in sums), "events that wait for them in the end"),
    ]


# --- what a swap costs ----------------------------------------------------------------------------------------------


def _swaps(options: Options, watch: Watch, sizes: Sizes, store: str, num_users: int, rate_per_s: float) -> list[Metric]:
    run(_push(store, {"v2": Counting(), "slow": SlowCounting()}))
    with run_service(watch, 2, store, model=COUNTING) as cluster:
        people, errors, swaps = run(_swap(cluster.address, watch, sizes, num_users, rate_per_s, options.seed))
    counts = judged(people.accounts, run(stored_views(store)))
    by_change = [latencies_ns(people.accounts, *times) for times in swaps.times_ns]
    gaps_ns, slow_gaps_ns = (np.concatenate(some) for some in (by_change[:-2], by_change[-2:]))
    num_updates = sum(len(account.updates) for account in people.accounts)
    return [
        Metric("swap_updates", num_updates, f"updates meanwhile, {num_users} users of the SDK, two workers"),
        Metric("promote_ms", max(swaps.promotes_ms), f"longest of {len(swaps.promotes_ms)}: change to all workers"),
        Metric("rollback_ms", max(swaps.rollbacks_ms), f"longest of {len(swaps.rollbacks_ms)}, likewise"),
        Metric("slow_rollback_ms", swaps.slow_rollback_ms, "of the version that makes its step thirty times"),
        Metric("prepare_ms", max(swaps.prepares_ms), "longest that the workers took to get ready before a promotion"),
        Metric("max_gap_ms", gaps_ns.max() / 1e6, f"longest of {len(gaps_ns):,} updates sent while versions change"),
        Metric("slow_max_gap_ms", slow_gaps_ns.max() / 1e6, "likewise, to the version of thirty steps and back"),
        Metric("rollback_missed_events", swaps.missed, "events that the standby had missed before a rollback"),
        errors.metric("client_errors", "errors out of the SDK's observe or close, updates that it has refused"),
        Metric("lost", counts.lost, "updates that later replies, or either version's stored states, do not show"),
        Metric("duplicated", counts.duplicated, "updates that they show twice"),
        Metric("misordered", counts.misordered, "times that they show another order than that of the calls"),
    ]


async def _swap(
    address: str, watch: Watch, sizes: Sizes, num_users: int, rate_per_s: float, seed: int
) -> tuple[Crowd, Errors, Swaps]:
    swaps = Swaps()
    names = [f"shadow-{number}" for number in range(num_users)]
    versions = [*["v2"] * sizes.num_swaps, "slow"]
    with pacing.precise_clock() as clock, watch.stage("promote, roll back", 2 * len(versions)) as advance:
        async with load.connect(address) as channel, crowd(address, names, [], rate_per_s, seed, clock) as each:
            people, errors, _ = each
            operator = Operator(channel)
            async with people.sending():
                for version in versions:
                    began_ns = clock.now_ns()
                    promoted = await operator.change(promote=Promote(version=version))
                    swaps.times_ns.append((began_ns, clock.now_ns()))
                    swaps.promotes_ms.append(promoted.change_ms)
                    swaps.prepares_ms.append(promoted.prepare_ms)
                    advance()
                    await clock.sleep_until(clock.now_ns() + int(sizes.dwell_s * pacing.NS_PER_S))
                    swaps.missed += sum(one.sums.missed_events for one in await operator.compare())
                    began_ns = clock.now_ns()
                    back = await operator.change(rollback=Rollback(drop=version == "slow"))
                    swaps.times_ns.append((began_ns, clock.now_ns()))
                    swaps.rollbacks_ms.append(back.change_ms)
                    advance()
                    await clock.sleep_until(clock.now_ns() + int(sizes.dwell_s * pacing.NS_PER_S))
                swaps.slow_rollback_ms = swaps.rollbacks_ms[-1]
    return people, errors, swaps


# --- how soon a bad version is gone ---------------------------------------------------------------------------------


def _incidents(watch: Watch, sizes: Sizes, store: str) -> list[Metric]:
    shipped = load_model(MODEL_NAME)
    assert isinstance(shipped, KnowledgeTracing), "the shipped model is one"
    planted: dict[str, Model] = {}
    for name, kind in PLANTED.items():
        planted[name] = kind(**shipped.config())  # type: ignore[arg-type]
        planted[name].load_state_dict(shipped.state_dict())
    run(_push(store, planted))
    log = simulate(default_world(), sizes.num_learners, sizes.learner_events, seed=1)
    with run_service(watch, 2, store) as cluster:
        incidents = run(_plant(cluster.address, watch, log))
    return [metric for incident in incidents for metric in _told(incident)]


async def _plant(address: str, watch: Watch, log: EventLog) -> list[Incident]:
    incidents = []
    tally = Tally.of(len(log))
    async with load.connect(address) as channel:
        operator = Operator(channel)
        await operator.change(policy=Policy(mode=models_pb2.POLICY_MODE_AUTO))
        learning = asyncio.create_task(stream_learners(address, log, tally))
        try:
            with watch.stage("bad versions", len(PLANTED)) as advance:
                for name in PLANTED:
                    incidents.append(await _incident(operator, name, learning))
                    advance()
        finally:
            learning.cancel()
            await asyncio.gather(learning, return_exceptions=True)
    return incidents


async def _incident(operator: Operator, name: str, learning: asyncio.Task[None]) -> Incident:
    """Promote a bad version, and wait until it is gone."""
    await operator.change(promote=Promote(version=name))
    began_s = time.monotonic()
    while await operator.live() == name:
        if learning.done():
            raise WrongReplyError(f"the learners' log ended before {name} was rolled back")
        if time.monotonic() - began_s > ROLLED_BACK_WITHIN_S:
            raise WrongReplyError(f"{name} was not rolled back within {ROLLED_BACK_WITHIN_S:g} s")
        await asyncio.sleep(LOOK_S)
    elapsed_s = time.monotonic() - began_s
    change = await operator.last_change()
    if change.who != "auto" or not change.comparisons:
        raise WrongReplyError(f"{name} was not rolled back by the policy: {change}")
    return Incident(name, elapsed_s, change.comparisons[0], change.why)


def _told(incident: Incident) -> list[Metric]:
    name, sums = incident.name.replace("-", "_"), incident.comparison.sums
    count = max(1, sums.score.count)
    return [
        Metric(f"{name}_rolled_back_s", incident.rolled_back_s, f"from promotion until gone: {incident.why}"),
        Metric(f"{name}_live_brier", sums.live_score_sum / count, f"its Brier score over {sums.score.count:,} events"),
        Metric(f"{name}_old_brier", sums.score_sum / count, "the old version's on the same events, beside it"),
    ]
