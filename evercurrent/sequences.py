"""Anytime-valid confidence sequences for paired differences of scores: what is looked at every second stays true.

The differences δ_1, δ_2, … of two forecasters' scores on the same events lie in [-h, h]. With Δ_t the mean of their
conditional expectations given the past, S_t = Σ (δ_i - E[δ_i | past]) is sub-exponential with scale c = 2h and variance
process V_t = Σ (δ_i - γ_i)², where γ_i in [-h, h] is any guess at δ_i that is made before it is known: the empirical
Bernstein argument (Howard, Ramdas, McAuliffe & Sekhon, Time-uniform, nonparametric, nonasymptotic confidence sequences,
Annals of Statistics 2021, Theorem 4; for sequential forecasters Choe & Ramdas, Comparing Sequential Forecasters,
Operations Research 2023, Theorem 2). So, with probability 1 - α, for all t at once,

    |mean of δ - Δ_t| < u(V_t) / t.

Nothing is assumed of how events depend on each other; what is covered is the mean so far, not the future. u is the
gamma-exponential mixture (the first paper, Proposition 9), in closed form but for one root (docs/adr/0016-verdict.md).
Sums of several workers are added up: in the order of time each γ_i was still made before its δ_i, as long as no score
has a say in who adds up what.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from evercurrent.v1 import models_pb2 as pb

Floats = NDArray[np.float64]

RHO = 3
"""What the mixture is of, in units of c²: u is tightest where V is some ten times as much, and a little wider far away.
"""
LOG_NORMALIZER = (
    RHO * math.log(RHO)
    - math.lgamma(RHO)
    - math.log1p(-sum(math.exp(-RHO) * RHO**k / math.factorial(k) for k in range(RHO)))
)
"""log of ρ^ρ / (Γ(ρ) P(ρ, ρ)), P being the regularized lower incomplete gamma function."""
NUM_STEPS = 4
"""Of Newton's, to all digits."""

STANDBY_WAYS = 4
"""A live version may be found to regress by scores, refused updates, errors or step time, each at a part of the level.
"""


class Running:
    """What one worker adds up of one paired difference."""

    __slots__ = ("count", "sum", "variance")

    def __init__(self) -> None:
        self.count = 0
        self.sum = 0.0
        self.variance = 0.0

    def add(self, differences: Floats) -> None:
        """Some more of them. The guess at each is the mean of those before this call."""
        guess = self.sum / self.count if self.count else 0.0
        self.count += len(differences)
        self.sum += float(differences.sum())
        away = differences - guess
        self.variance += float(away @ away)

    def add_zeros(self, num: int) -> None:
        """So many differences of 0."""
        if self.sum:
            self.variance += num * (self.sum / self.count) ** 2
        self.count += num

    def sums(self) -> pb.SequenceSums:
        """As it is sent."""
        return pb.SequenceSums(count=self.count, sum=self.sum, variance=self.variance)


def merged(parts: Iterable[pb.SequenceSums]) -> pb.SequenceSums:
    """What several workers have added up."""
    total = pb.SequenceSums()
    for part in parts:
        total.count += part.count
        total.sum += part.sum
        total.variance += part.variance
    return total


def boundary(variance: Floats | float, level: float, scale: float) -> Floats:
    """u(V): what S_t reaches with probability `level` at most, at any time (one side). `level` is at most a half.

    With a = V/c² + ρ and x = a + u/c, the mixture is ρ^ρ / (Γ(ρ) P(ρ, ρ)) · Γ(a) P(a, x) x^-a e^(x - ρ), and u is where
    it reaches 1/level. Γ is Stirling's, from below. P(a, x) ≥ 1 - e^-G by Chernoff, where G = a (y - log(1 + y)) and
    y = u/(ca), and the rest of the mixture is e^G times what it is at u = 0: so e^G - 1 is known, and u errs on the
    safe side.
    """
    a = np.asarray(variance, dtype=np.float64) / scale**2 + RHO
    stirling = (1 - 1 / (30 * a**2)) / (12 * a) - np.log(a / (2 * math.pi)) / 2
    growth = np.logaddexp(0.0, RHO - math.log(level) - LOG_NORMALIZER - stirling) / a
    y = growth + np.sqrt(2 * growth)
    for _ in range(NUM_STEPS):
        y -= (y - np.log1p(y) - growth) * (1 + y) / y
    bound: Floats = scale * a * y
    return bound


def radius(variance: Floats | float, count: Floats | float, level: float, half_range: float) -> Floats:
    """How far the mean of `count` differences in [-half_range, half_range] may lie from Δ, to either side."""
    return boundary(variance, level / 2, 2 * half_range) / count


def interval(sums: pb.SequenceSums, level: float, half_range: float) -> pb.Interval:
    """Where the mean lies, at all times at once, but with a chance of `level`. A range of 0 says that nothing can."""
    if not sums.count or not half_range:
        return pb.Interval(mean=0.0, low=-half_range, high=half_range)
    mean = sums.sum / sums.count
    away = float(radius(sums.variance, sums.count, level, half_range))
    return pb.Interval(mean=mean, low=max(-half_range, mean - away), high=min(half_range, mean + away))


def verdict(found: pb.Interval, margin: float = 0.0) -> pb.Verdict:
    """What an interval says of the one whose score was subtracted."""
    if found.low > margin:
        return pb.VERDICT_BETTER
    return pb.VERDICT_WORSE if found.high < -margin else pb.VERDICT_UNSPECIFIED


def compared(live: str, parts: Sequence[pb.VersionSums], level: float, score_range: float) -> pb.Comparison:
    """How a version compares with the live one, of what each worker added up; at least one part.

    A shadow's verdict takes all of the level, and its other intervals are for information. A standby's level is split
    over the ways in which the live version may be found to regress.
    """
    first = parts[0]
    num_users = sum(part.users for part in parts)
    sums = pb.VersionSums(version=first.version, role=first.role)
    weights = [part.users / num_users if num_users else 1 / len(parts) for part in parts]
    sums.fraction = sum(weight * part.fraction for weight, part in zip(weights, parts, strict=True))
    for name in _COUNTERS:
        setattr(sums, name, sum(getattr(part, name) for part in parts))
    for name in _SEQUENCES:
        getattr(sums, name).CopyFrom(merged(getattr(part, name) for part in parts))
    own = level / STANDBY_WAYS if first.role == pb.MODEL_ROLE_STANDBY else level
    score = interval(sums.score, own, score_range)
    return pb.Comparison(
        live=live,
        sums=sums,
        level=level,
        score=score,
        rejections=interval(sums.rejections, own, 1.0),
        failures=interval(sums.failures, own, 1.0),
        slowness=interval(sums.slowness, own, 0.5),
        verdict=verdict(score),
    )


_SEQUENCES = ("score", "rejections", "failures", "slowness")
_COUNTERS = (
    "users",
    "shed_users",
    "updates",
    "rejected",
    "errors",
    "backlog",
    "missed_events",
    "step_us",
    "steps",
    "score_sum",
    "live_score_sum",
)
