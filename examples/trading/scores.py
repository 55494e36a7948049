"""How well distributions of the next return were, and what a volatility by moving average would have said.

Letters: N events.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from examples.trading.bars import Bars, Scale, moving_spreads
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


def best_decay(bars: Sequence[Bars], scale: Scale, outcome_N: npt.ArrayLike) -> float:
    """The one of DECAYS whose moving average scores best on the events of these bars."""
    return max(DECAYS, key=lambda decay: log_scores(outcome_N, 0.0, moving_spreads(bars, scale, decay)).mean())


def mean_with_error(value_N: Reals, seed: int, places: Sequence[npt.NDArray[np.int64]]) -> tuple[float, float]:
    """The mean and its standard error, by resampling blocks of BLOCK_EVENTS of a user's successive events."""
    blocks = [
        value_N[user[begin : begin + BLOCK_EVENTS]] for user in places for begin in range(0, user.size, BLOCK_EVENTS)
    ]
    sums, counts = np.array([block.sum() for block in blocks]), np.array([block.size for block in blocks])
    drawn = np.random.default_rng(seed).integers(len(blocks), size=(NUM_RESAMPLES, len(blocks)))
    return float(value_N.mean()), float((sums[drawn].sum(1) / counts[drawn].sum(1)).std())
