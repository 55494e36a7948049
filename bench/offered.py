"""Bench `load`: what a load that is offered, whatever becomes of it, gets from any service.

Runs are repeated, and each figure is their median with the least and the greatest. `--ramp` doubles the rate until the
P99 of a run is above what it says, then closes in on the knee by bisection.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench import driving, load, pacing, schedules
from bench.driving import STAGES, Driver, Sent, SessionsDriver
from bench.metering import Costs, metered
from bench.pacing import NS_PER_S
from bench.report import Metric
from bench.run import RUN_TIMEOUT_S, Arrivals, Streams, Watch, WrongReplyError, run
from bench.schedules import Recording, Schedule
from bench.service import run_service
from bench.stats import percentile
from bench.traffic import Traffic

PERCENTS = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p999": 99.9, "max": 100.0}
GENERATOR_SHARE_MAX = 0.25
"""Of a P99: who sends as late as that measures itself."""
GENERATOR_CORES_MAX = 0.9
PATIENCE = 5
"""How many times as long as it was to last a load may take."""
EVENTS_MIN = 20
"""Of a run: fewer say nothing."""
RAMP_FACTOR = 2.0
RAMP_CLOSE = 1.1
"""The knee is known to within this factor."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What is offered. `recording`, a log and how many times faster its clock goes, takes the place of `rate_per_s`,
    `num_users`, `zipf` and `arrivals`."""

    rate_per_s: float
    duration_s: float
    num_users: int
    zipf: float
    arrivals: Arrivals
    streams: Streams
    recording: tuple[Path, float] | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """What one run gave."""

    offered_per_s: float
    sent: Sent
    costs: Costs

    def ms(self, percent: float) -> float:
        """A percentile of the latencies."""
        return percentile(self.sent.latencies_ns, percent) / 1e6

    @property
    def updates_per_s(self) -> float:
        """Updates that were answered, a second."""
        return len(self.sent.latencies_ns) / self.costs.elapsed_s

    @property
    def is_generators_own(self) -> bool:
        """Whether whoever sent was itself what was slow."""
        late = self.costs.lag_p99_ns > GENERATOR_SHARE_MAX * percentile(self.sent.latencies_ns, 99)
        return late or self.costs.cores("client") > GENERATOR_CORES_MAX


@dataclass(slots=True)
class Offering:
    """A service to offer loads to, with its users open."""

    driver: Driver
    traffic: Traffic
    clock: pacing.Clock
    pids: dict[str, int]
    offer: Offer
    recording: Recording | None = None
    _at_ns: int = 0

    async def run(self, rate_per_s: float, duration_s: float) -> Run:
        """Offer it for so long; of a recording, what comes next. A closed loop offers what it is answered."""
        rng = self.traffic.rng
        if self.offer.arrivals is Arrivals.CLOSED:
            assert isinstance(self.driver, SessionsDriver), "a closed loop is one of sessions"
            async with metered(self.pids, self.clock) as costs:
                sent = await self.driver.send_closed(duration_s)
            return Run(len(sent.latencies_ns) / costs.elapsed_s, sent, costs)
        if self.recording is not None:
            end_ns = self._at_ns + round(duration_s * NS_PER_S)
            schedule, drawn = self.recording.within(self._at_ns, end_ns)
            self._at_ns = end_ns
            if not len(schedule):
                raise WrongReplyError("the log ends before the runs do: let its clock go slower, or ask for less")
        else:
            draw = schedules.bursts if self.offer.arrivals is Arrivals.BURSTS else pacing.poisson
            times_ns = draw(rate_per_s, duration_s, rng)
            users = schedules.users_of(len(times_ns), self.offer.num_users, self.offer.zipf, rng)
            schedule, drawn = Schedule(times_ns, users), self.traffic.draw(len(times_ns))
        async with metered(self.pids, self.clock) as costs:
            sent = await self.driver.send(schedule, drawn)
        return Run(len(schedule) / duration_s, sent, costs)


@asynccontextmanager
async def offering(address: str, pids: dict[str, int], offer: Offer, seed: int) -> AsyncIterator[Offering]:
    """A service whose users are open while the context lasts. Raises WrongReplyError: a recording does not fit it."""
    async with AsyncExitStack() as stack:
        clock = stack.enter_context(pacing.precise_clock())
        channel = await stack.enter_async_context(load.connect(address))
        traffic_ = Traffic(await load.describe_model(channel), np.random.default_rng(seed))
        try:
            recording = None if offer.recording is None else schedules.recorded(*offer.recording, traffic_.model)
        except (OSError, ValueError) as error:
            raise WrongReplyError(str(error)) from error
        names = [f"load-{number}" for number in range(offer.num_users)] if recording is None else recording.names
        driver: Driver
        if offer.streams is Streams.SESSIONS:
            driver = await stack.enter_async_context(driving.sessions(channel, traffic_, names, clock))
        else:
            driver = await stack.enter_async_context(driving.exchange(channel, traffic_, names, clock))
        yield Offering(driver, traffic_, clock, pids, offer, recording)


def measure(
    watch: Watch,
    seed: int,
    offer: Offer,
    num_runs: int,
    warm_up_s: float,
    target: str | None,
    num_workers: int,
    model: str,
    ramp_p99_ms: float | None,
) -> tuple[Metric, ...]:
    """Offer a load to `target`, or to a service of its own."""

    async def offered(address: str, pids: dict[str, int]) -> list[Metric]:
        async with offering(address, pids, offer, seed) as opened:
            if warm_up_s:
                with watch.stage("warm up", 1) as advance:
                    await opened.run(offer.rate_per_s, warm_up_s)
                    advance()
            if ramp_p99_ms is not None:
                with watch.stage("ramp", 1) as advance:
                    found = await knee(opened, ramp_p99_ms)
                    advance()
                return knee_metrics(found, ramp_p99_ms)
            with watch.stage(f"{offer.streams}, {offer.arrivals}", num_runs) as advance:
                return metrics_of_runs([await _counted(opened, offer, advance) for _ in range(num_runs)])

    timeout_s = max(RUN_TIMEOUT_S, PATIENCE * (warm_up_s + num_runs * offer.duration_s))
    if target is not None:
        return tuple(run(offered(target, {}), timeout_s))
    with run_service(watch, num_workers, model=model) as cluster:
        return tuple(run(offered(cluster.address, cluster.pids), timeout_s))


async def _counted(opened: Offering, offer: Offer, advance: Callable[[], None]) -> Run:
    done = await opened.run(offer.rate_per_s, offer.duration_s)
    advance()
    return done


async def knee(opened: Offering, p99_ms: float) -> list[Run]:
    """Runs at rising rates, by the rate that was asked for, until that is known to within RAMP_CLOSE at which the P99
    goes above `p99_ms`; in ascending order of their rates."""
    runs: dict[float, Run] = {}

    async def holds(rate_per_s: float) -> bool:
        # A rate is given up when two runs in a row fail it: one may have met a pause of the machine.
        for _ in range(2):
            runs[rate_per_s] = await opened.run(rate_per_s, opened.offer.duration_s)
            if runs[rate_per_s].ms(99) <= p99_ms:
                return True
        return False

    low, high = 0.0, opened.offer.rate_per_s
    while await holds(high):
        low, high = high, high * RAMP_FACTOR
    while low == 0.0:
        high /= RAMP_FACTOR
        if high * opened.offer.duration_s < EVENTS_MIN:
            break
        if await holds(high):
            low, high = high, high * RAMP_FACTOR
    while low and high / low > RAMP_CLOSE:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if await holds(middle) else (low, middle)
    return [runs[rate] for rate in sorted(runs)]


def held(runs: Sequence[Run], p99_ms: float) -> Run | None:
    """The run at the highest rate that held the P99."""
    return next((each for each in reversed(runs) if each.ms(99) <= p99_ms), None)


def knee_metrics(runs: Sequence[Run], p99_ms: float) -> list[Metric]:
    """Latency against load, and where it bends."""
    best = held(runs, p99_ms)
    return [
        Metric("saturation_per_s", best.updates_per_s if best else 0.0, f"the highest rate with a P99 ≤ {p99_ms:g} ms"),
        *_knee_costs(best),
        *(
            Metric(f"at_{each.offered_per_s:.0f}_per_s_{name}_ms", each.ms(percent), "from the intended send")
            for each in runs
            for name, percent in PERCENTS.items()
            if name in ("p50", "p99")
        ),
    ]


def _knee_costs(best: Run | None) -> list[Metric]:
    if best is None:
        return []
    return [Metric("generator_bound", float(best.is_generators_own), _GENERATOR), *_costs([best])]


_GENERATOR = "1: whoever sent was itself what was slow; the service may do better"


def metrics_of_runs(runs: Sequence[Run]) -> list[Metric]:
    """What the runs gave, and where a P99 update spent its time."""
    metrics = [
        Metric("offered_per_s", _median([each.offered_per_s for each in runs]), f"updates, median of {len(runs)} runs"),
        Metric("updates_per_s", _median([each.updates_per_s for each in runs]), "answered, likewise"),
    ]
    for name, percent in PERCENTS.items():
        times_ms = [each.ms(percent) for each in runs]
        metrics += [
            Metric(f"{name}_ms", _median(times_ms), "from the intended send, median over runs"),
            Metric(f"{name}_ms_lo", min(times_ms), "the least of the runs"),
            Metric(f"{name}_ms_hi", max(times_ms), "the greatest"),
        ]
    sent = driving.together([each.sent for each in runs])
    bound = float(np.median([each.is_generators_own for each in runs]) >= 0.5)
    return [*metrics, *stage_metrics(sent), Metric("generator_bound", bound, _GENERATOR), *_costs(runs)]


def stage_metrics(sent: Sent) -> list[Metric]:
    """Where the time of all updates went, of those about the P50, and of those about the P99: means by stage. What they
    spend outside the service is measured by itself, by the probes nearest to them, so that a `rest` is left: about
    none of all updates that come at Poisson times, if the stages are right. The slowest are not slow for what probes
    meet, and the other way round: there `rest` is above or below zero. So it is of bursts, whose events wait for each
    other outside as well, where probes, which come at times of their own, seldom do."""
    metrics = []
    for name, low, high in (("mean", 0.0, 100.0), ("p50", 45.0, 55.0), ("p99", 98.5, 99.5)):
        about = _between(sent.latencies_ns, low, high)
        parts_us = dict(zip(STAGES, sent.stages_us[about].mean(axis=0).tolist(), strict=True))
        parts_us["held"] = sent.held_us[about].mean().item()
        if np.isfinite(sent.probes_us).all():
            parts_us["client"] = sent.probes_us[about].mean().item()
        whole_us = sent.latencies_ns[about].mean().item() / 1e3
        parts_us["rest"] = whole_us - sum(parts_us.values())
        of = "all updates" if name == "mean" else f"updates about the {name.upper()}"
        metrics += [
            *(
                Metric(f"{name}_{part}_ms", us / 1e3, f"mean of {of}: {_MEANINGS[part]}")
                for part, us in parts_us.items()
            ),
            Metric(f"{name}_whole_ms", whole_us / 1e3, "all of these together: from the intended send to the reply"),
            Metric(
                f"{name}_explained", 1 - parts_us["rest"] / whole_us, "what part of that is measured: all but `rest`"
            ),
        ]
    return metrics


_MEANINGS = {
    "route": "in the router, and both ways between it and the worker",
    "queue": "waiting for the batch before",
    "hydrate": "waiting for the user's state to be loaded",
    "step": "the batch's forward, backward, guard and scatter",
    "held": "held back by the client, to go in a frame with others",
    "client": "outside the service, by the nearest of the probes, which the router answers by itself",
    "rest": "the whole without these",
}


def _between(latencies_ns: NDArray[np.int64], low: float, high: float) -> NDArray[np.intp]:
    """Those whose latencies are between two percentiles."""
    bounds = [percentile(latencies_ns, percent) for percent in (low, high)]
    return np.flatnonzero((latencies_ns >= bounds[0]) & (latencies_ns <= bounds[1]))


def _costs(runs: Sequence[Run]) -> list[Metric]:
    metrics = [
        Metric("generator_lag_p99_ms", _median([each.costs.lag_p99_ns / 1e6 for each in runs]), "of the sending loop"),
        Metric("steal_s", sum(each.costs.steal_s for each in runs), "CPU seconds that a hypervisor gave to others"),
    ]
    for name in runs[0].costs.cpu_s:
        part = name.replace("-", "_")
        cores = _median([each.costs.cores(name) for each in runs])
        memory_mib = max(each.costs.memory_bytes[name] for each in runs) / 2**20
        metrics += [
            Metric(f"{part}_cores", cores, f"cores that {name} kept busy"),
            Metric(f"{part}_memory_mib", memory_mib, f"resident memory of {name}"),
        ]
    return metrics


def _median(values: Sequence[float]) -> float:
    return float(np.median(values))
