"""Streams of paired score differences whose conditional expectations are known, of few users who depend on their past.

Letters: R runs, T events, U users.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

NUM_USERS = 5


class Streams(NamedTuple):
    """Runs of one experiment."""

    delta_RT: Floats
    """The live version's score minus the candidate's."""
    expected_RT: Floats
    """What it was to be, given all that happened before."""
    user_RT: NDArray[np.int64]


def equally_good(num_runs: int, num_events: int, seed: int) -> Streams:
    """Brier scores of p + ε·s and p - ε·s, where the sign s depends on the past: they differ, and neither is better."""
    rng = np.random.default_rng(seed)
    p_RT, outcome_RT, user_RT = _outcomes(rng, num_runs, num_events)
    sign_RT = np.where(np.roll(outcome_RT, 1, axis=1) == (user_RT % 2), 1.0, -1.0)
    delta_RT = (p_RT + 0.15 * sign_RT - outcome_RT) ** 2 - (p_RT - 0.15 * sign_RT - outcome_RT) ** 2
    return Streams(delta_RT, np.zeros_like(delta_RT), user_RT)


def of_unlike_users(num_runs: int, num_events: int, seed: int) -> Streams:
    """The live version is better for some users and worse for others, and who comes changes all the time."""
    rng = np.random.default_rng(seed)
    p_RT, outcome_RT, user_RT = _outcomes(rng, num_runs, num_events)
    phase_RT = np.arange(num_events) // 250 + rng.integers(0, NUM_USERS, (num_runs, 1))
    user_RT = np.where(rng.random(user_RT.shape) < 0.8, phase_RT % NUM_USERS, user_RT)
    error_RT = np.linspace(0.25, 0.05, NUM_USERS)[user_RT]
    delta_RT = (p_RT + error_RT - outcome_RT) ** 2 - (p_RT - 0.15 - outcome_RT) ** 2
    return Streams(delta_RT, error_RT**2 - 0.15**2, user_RT)


def _outcomes(rng: np.random.Generator, num_runs: int, num_events: int) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Whose event it is, how probable its outcome 1 is given that user's own last outcomes, and what it was."""
    user_RT = rng.integers(0, NUM_USERS, (num_runs, num_events))
    drawn_RT = rng.random((num_runs, num_events))
    p_RT, outcome_RT = np.empty_like(drawn_RT), np.empty_like(drawn_RT)
    memory_RU = np.full((num_runs, NUM_USERS), 0.5)
    runs = np.arange(num_runs)
    for t in range(num_events):
        users = user_RT[:, t]
        memory = memory_RU[runs, users]
        p_RT[:, t] = 0.3 + 0.4 * memory
        outcome_RT[:, t] = drawn_RT[:, t] < p_RT[:, t]
        memory_RU[runs, users] = 0.6 * memory + 0.4 * outcome_RT[:, t]
    return p_RT, outcome_RT, user_RT
