"""What predictions are compared with, and how surely one is better than another.

Letters: N events.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evercurrent.models.adaptive import EventLog
from examples.trading.bars import recent
from examples.trading.ticks import Doubles, Ints

DECAYS = (0.5, 0.7, 0.8, 0.85, 0.9, 0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 0.985, 0.99, 0.995)
BLOCK_EVENTS = 20
NUM_DRAWS = 1_000
_HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)


def log_score(mean_N: npt.ArrayLike, std_N: npt.ArrayLike, outcome_N: npt.ArrayLike) -> Doubles:
    """The log of a Gaussian's density at what happened, nats: more is better."""
    mean, std, outcome = (np.asarray(each, np.float64) for each in (mean_N, std_N, outcome_N))
    score_N: Doubles = -0.5 * np.square((outcome - mean) / std) - np.log(std) - _HALF_LOG_TAU
    return score_N


@dataclass(frozen=True, slots=True)
class Prediction:
    """A Gaussian for each event's outcome."""

    mean_N: Doubles
    std_N: Doubles

    @classmethod
    def of(cls, prediction_NP: npt.ArrayLike) -> Prediction:
        """What a model with a Gaussian head predicted [N, 2]."""
        mean_N, std_N = np.asarray(prediction_NP, np.float64).T
        return cls(mean_N, std_N)

    def score(self, outcome_N: npt.ArrayLike) -> Doubles:
        """The log score of each event."""
        return log_score(self.mean_N, self.std_N, outcome_N)


def ewma_std(log: EventLog, decay: float) -> Doubles:
    """Each user's standard deviation [N] before each event, about a mean of zero: the root of the exponentially
    weighted mean of squared outcomes so far, which begins with one unit."""
    std_N = np.empty(len(log))
    for places in log.by_user():
        variance = 1.0
        for place in places.tolist():
            std_N[place] = math.sqrt(variance)
            variance = decay * variance + (1 - decay) * float(log.outcome_N[place]) ** 2
    return std_N


def realised_std(log: EventLog, realised_N: Doubles, decay: float) -> Doubles:
    """As `ewma_std`, of the realised variances [N] of the bars that closed as events began, in units squared."""
    std_N = np.empty(len(log))
    for places in log.by_user():
        std_N[places] = np.sqrt(recent(realised_N[places], decay, 1.0))
    return std_N


def tuned_decay(log: EventLog, std_of: Callable[[float], Doubles]) -> float:
    """The one of DECAYS by whose standard deviations [N] a log would have been predicted best."""
    return max(DECAYS, key=lambda decay: log_score(0.0, std_of(decay), log.outcome_N).mean())


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean and its standard error."""

    mean: float
    error: float

    @property
    def interval(self) -> tuple[float, float]:
        """Holds the true mean 95 times of 100."""
        return self.mean - 1.96 * self.error, self.mean + 1.96 * self.error


def blocks_of(log: EventLog, together: bool = False) -> Ints:
    """The number of each event's block [N]: BLOCK_EVENTS events of a user that follow each other, or, where users are
    the same trades cut otherwise and so belong `together`, those of all users at the same places."""
    block_N, num_blocks = np.empty(len(log), np.int64), 0
    for places in log.by_user():
        block_N[places] = np.arange(places.size) // BLOCK_EVENTS + num_blocks
        num_blocks = 0 if together else int(block_N[places[-1]]) + 1
    return block_N


def estimate(value_N: npt.ArrayLike, block_N: Ints, seed: int = 0) -> Estimate:
    """The mean of a value of each event, NaN where it has none, its error by a bootstrap of blocks, whose events are
    drawn together, for they are not independent (Künsch 1989, https://doi.org/10.1214/aos/1176347265)."""
    values = np.asarray(value_N, np.float64)
    has_N = ~np.isnan(values)
    sum_K = np.bincount(block_N[has_N], values[has_N])
    num_K = np.bincount(block_N[has_N])
    drawn_DK = np.random.default_rng(seed).integers(sum_K.size, size=(NUM_DRAWS, sum_K.size))
    means_D = sum_K[drawn_DK].sum(1) / np.maximum(num_K[drawn_DK].sum(1), 1)
    return Estimate(float(values[has_N].mean()), float(means_D.std()))
