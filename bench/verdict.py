"""Bench `verdict`: how often verdicts are false, and after how many events there is one. Simulated; nothing is served.

Few users, whose chance of outcome 1 depends on their own last outcomes, and two forecasters who know that chance but
for an error, each scored by Brier. Intervals are those of the service, looked at after every event.

*Equally good*: p + ε·s and p - ε·s, where the sign s is drawn before the outcome. The difference of their scores is
4εs(p - outcome): not 0, and 0 on average whatever happened before.

*Truly different by d*: p + e_A and p + e_B, where errors are drawn for each event by themselves, uniform, and e_A has a
root mean square of 0.1 and e_B² is greater by d on average. p is in [0.3, 0.7], so that no prediction leaves [0, 1].

Letters: R runs, T events of a block, U users.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bench.report import Metric
from bench.run import Options, Watch
from bench.stats import percentile
from evercurrent.sequences import radius

Floats = NDArray[np.float64]

LEVEL = 0.05
HALF_RANGE = 1.0
"""Of the difference of two Brier scores."""
NUM_USERS = 5
BLOCK_EVENTS = 500
ERROR_RMS = 0.1
CENTRAL_LIMIT_FROM = 100
"""Events before which the central limit is not asked."""
SD_OF_LEVEL = 1.96


@dataclass(frozen=True, slots=True)
class Pair:
    """Forecasters who differ by so much, and how many runs of how many events they get."""

    difference: float
    num_runs: int
    num_events: int

    @property
    def name(self) -> str:
        return f"{self.difference:g}".replace("0.", "d")


PAIRS = (Pair(0.002, 400, 200_000), Pair(0.005, 500, 40_000), Pair(0.02, 1000, 8_000))
QUICK_PART = 10
"""--quick divides the runs by it."""


@dataclass(slots=True)
class Sums:
    """What Running adds up of one event after the other, of all runs at once; and when each run first had a verdict."""

    num_runs: int
    count: int = 0
    sum_R: Floats = field(init=False)
    variance_R: Floats = field(init=False)
    better_at_R: Floats = field(init=False)
    worse_at_R: Floats = field(init=False)
    central_limit_R: NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        self.sum_R, self.variance_R = np.zeros(self.num_runs), np.zeros(self.num_runs)
        self.better_at_R, self.worse_at_R = np.full(self.num_runs, np.inf), np.full(self.num_runs, np.inf)
        self.central_limit_R = np.zeros(self.num_runs, np.bool_)

    def add(self, delta_TR: Floats) -> None:
        """A block of events of each run, looked at after every one."""
        count_T1 = self.count + np.arange(1.0, len(delta_TR) + 1)[:, None]
        sum_TR = self.sum_R + delta_TR.cumsum(axis=0)
        guess_TR = (sum_TR - delta_TR) / np.maximum(count_T1 - 1, 1)
        variance_TR = self.variance_R + ((delta_TR - guess_TR) ** 2).cumsum(axis=0)
        mean_TR = sum_TR / count_T1
        radius_TR = radius(variance_TR, count_T1, LEVEL, HALF_RANGE)
        _note_first(self.better_at_R, mean_TR > radius_TR, self.count)
        _note_first(self.worse_at_R, mean_TR < -radius_TR, self.count)
        late_TR = (count_T1 > CENTRAL_LIMIT_FROM) & (np.abs(sum_TR) > SD_OF_LEVEL * np.sqrt(variance_TR))
        self.central_limit_R |= late_TR.any(axis=0)
        self.count += len(delta_TR)
        self.sum_R, self.variance_R = sum_TR[-1], variance_TR[-1]


def _note_first(at_R: Floats, is_there_TR: NDArray[np.bool_], num_before: int) -> None:
    first_R = num_before + 1.0 + is_there_TR.argmax(axis=0)
    np.copyto(at_R, first_R, where=is_there_TR.any(axis=0) & np.isinf(at_R))


def measure(options: Options, watch: Watch, num_runs: int, num_events: int) -> tuple[Metric, ...]:
    """Simulates all of it."""
    part = QUICK_PART if options.quick else 1
    rng = np.random.default_rng(options.seed)
    metrics = _equally_good(rng, watch, max(num_runs // part, 1), num_events)
    for pair in PAIRS:
        metrics += _different(rng, watch, Pair(pair.difference, pair.num_runs // part, pair.num_events))
    return tuple(metrics)


def _equally_good(rng: np.random.Generator, watch: Watch, num_runs: int, num_events: int) -> list[Metric]:
    sums = Sums(num_runs)
    with watch.stage("equally good forecasters", math.ceil(num_events / BLOCK_EVENTS)) as advance:
        for p_TR, outcome_TR in outcomes(rng, num_runs, num_events):
            sign_TR = rng.choice((-ERROR_RMS, ERROR_RMS), p_TR.shape)
            sums.add(_brier(p_TR + sign_TR, outcome_TR) - _brier(p_TR - sign_TR, outcome_TR))
            advance()
    num_false = int((np.isfinite(sums.better_at_R) | np.isfinite(sums.worse_at_R)).sum())
    central_limit = float(sums.central_limit_R.mean())
    return [
        Metric("level", LEVEL, "the chance of a false verdict that is accepted"),
        Metric("runs", num_runs, "runs of equally good forecasters"),
        Metric("events", num_events, "events of each, looked at after every one"),
        Metric("false_verdicts", num_false, "runs in which one was ever found to be better"),
        Metric("false_verdict_rate", num_false / num_runs, "the same as a share: at most the level"),
        Metric("central_limit_rate", central_limit, f"of 1.96 standard errors, from event {CENTRAL_LIMIT_FROM} on"),
    ]


def _different(rng: np.random.Generator, watch: Watch, pair: Pair) -> list[Metric]:
    sums = Sums(pair.num_runs)
    bound_a, bound_b = (math.sqrt(3 * square) for square in (ERROR_RMS**2, ERROR_RMS**2 + pair.difference))
    with watch.stage(f"different by {pair.difference:g}", math.ceil(pair.num_events / BLOCK_EVENTS)) as advance:
        for p_TR, outcome_TR in outcomes(rng, pair.num_runs, pair.num_events):
            better_TR = _brier(p_TR + rng.uniform(-bound_a, bound_a, p_TR.shape), outcome_TR)
            live_TR = _brier(p_TR + rng.uniform(-bound_b, bound_b, p_TR.shape), outcome_TR)
            sums.add(live_TR - better_TR)
            advance()
    what = f"of {pair.num_runs:,} runs, better by {pair.difference:g}"
    at_most_R = np.minimum(sums.better_at_R, pair.num_events)
    return [
        Metric(f"{pair.name}_p50_events", percentile(at_most_R, 50), f"events to the verdict, {what}: median"),
        Metric(f"{pair.name}_p90_events", percentile(at_most_R, 90), f"P90; without one: all {pair.num_events:,}"),
        Metric(f"{pair.name}_reached", float(np.isfinite(sums.better_at_R).mean()), "the share that got the verdict"),
        Metric(f"{pair.name}_wrong", int(np.isfinite(sums.worse_at_R).sum()), "runs that ever got the opposite one"),
    ]


def outcomes(rng: np.random.Generator, num_runs: int, num_events: int) -> Iterator[tuple[Floats, Floats]]:
    """Blocks of chances of outcome 1, and of outcomes. Whose event it is is drawn; their past makes the chance."""
    memory_UR = np.full((NUM_USERS, num_runs), 0.5)
    runs = np.arange(num_runs)
    for start in range(0, num_events, BLOCK_EVENTS):
        shape = min(BLOCK_EVENTS, num_events - start), num_runs
        users_TR, drawn_TR = rng.integers(0, NUM_USERS, shape), rng.random(shape)
        p_TR, outcome_TR = np.empty(shape), np.empty(shape)
        for t, users_R in enumerate(users_TR):
            memory_R = memory_UR[users_R, runs]
            p_TR[t] = 0.3 + 0.4 * memory_R
            outcome_TR[t] = drawn_TR[t] < p_TR[t]
            memory_UR[users_R, runs] = 0.7 * memory_R + 0.3 * outcome_TR[t]
        yield p_TR, outcome_TR


def _brier(prediction_TR: Floats, outcome_TR: Floats) -> Floats:
    return (prediction_TR - outcome_TR) ** 2
