"""How well distributions of the next return were, and what a volatility by moving average would have said.

Letters: N events.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from evercurrent.models.adaptive import EventLog
from examples.trading.ticks import Reals

DECAYS = (0.8, 0.9, 0.94, 0.97, 0.985, 0.99, 0.995)
BLOCK_EVENTS = 50
NUM_RESAMPLES = 1000


def log_scores(outcome_N: npt.ArrayLike, mean_N: npt.ArrayLike, std_N: npt.ArrayLike) -> Reals:
    """The log of the normal density at each outcome, nats; greater is better."""
    std: Reals = np.asarray(std_N, np.float64)
    sigmas = (np.asarray(outcome_N, np.float64) - np.asarray(mean_N, np.float64)) / std
    scores: Reals = -0.5 * sigmas**2 - np.log(std) - 0.5 * math.log(2 * math.pi)
    return scores


def moving_spread(log: EventLog, decay: float) -> Reals:
    """The standard deviation [N] that an exponentially weighted mean of squared outcomes before each event gives; every
    user begins at 1, a typical one (RiskMetrics 1996)."""
    std_N = np.empty(len(log))
    for places in log.by_user():
        variance = 1.0
        for place in places.tolist():
            std_N[place] = math.sqrt(variance)
            variance = decay * variance + (1 - decay) * float(log.outcome_N[place]) ** 2
    return std_N


def best_decay(log: EventLog) -> float:
    """The one of DECAYS that scores best on a log."""
    return max(DECAYS, key=lambda decay: log_scores(log.outcome_N, 0.0, moving_spread(log, decay)).mean())


def mean_with_error(value_N: Reals, seed: int, places: Sequence[npt.NDArray[np.int64]]) -> tuple[float, float]:
    """The mean and its standard error, by resampling blocks of BLOCK_EVENTS of a user's successive events."""
    blocks = [
        value_N[user[begin : begin + BLOCK_EVENTS]] for user in places for begin in range(0, user.size, BLOCK_EVENTS)
    ]
    sums, counts = np.array([block.sum() for block in blocks]), np.array([block.size for block in blocks])
    drawn = np.random.default_rng(seed).integers(len(blocks), size=(NUM_RESAMPLES, len(blocks)))
    return float(value_N.mean()), float((sums[drawn].sum(1) / counts[drawn].sum(1)).std())
