"""Rock, paper, scissors: what beats what, and what is known of a player before a round.

Letters: T rounds, K contexts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

MOVES = ("rock", "paper", "scissors")
NUM_MOVES = len(MOVES)
"""A move is beaten by the next one, the last by the first."""

CONTEXTS = {"last_round": 10, "round_before": 10}
"""Id fields, and how many ids each has: 1 and more for what both played, 0: there was no such round."""

Ints = npt.NDArray[np.int64]


def beats(move: int) -> int:
    """What beats a move."""
    return (move + 1) % NUM_MOVES


def points(own: npt.ArrayLike, other: npt.ArrayLike) -> Ints:
    """What moves are worth against others, element by element: 1 won, 0 a draw, -1 lost."""
    apart: Ints = (np.asarray(own) - np.asarray(other)) % NUM_MOVES
    return np.array([0, 1, -1])[apart]


def context(own: Sequence[int], other: Sequence[int]) -> tuple[int, ...]:
    """What is known [K] after these rounds: ids of CONTEXTS."""
    rounds = [1 + NUM_MOVES * mine + theirs for mine, theirs in zip(own[-2:], other[-2:], strict=True)]
    return (*reversed(rounds), *[0] * (len(CONTEXTS) - len(rounds)))


def contexts(own_T: Ints, other_T: Ints) -> Ints:
    """What is known before each round [T, K], from the rounds before it alone."""
    round_T = 1 + NUM_MOVES * own_T + other_T
    ids_TK = np.zeros((own_T.size, len(CONTEXTS)), np.int64)
    for at in range(len(CONTEXTS)):
        ids_TK[at + 1 :, at] = round_T[: -1 - at]
    return ids_TK


def turned(ids_NK: Ints, by_N: Ints) -> Ints:
    """What is known [N, K] had the moves so many [N] other names: 1, rock is called paper, paper scissors, scissors
    rock."""
    own_NK, other_NK = np.divmod(ids_NK - 1, NUM_MOVES)
    turned_NK: Ints = 1 + NUM_MOVES * ((own_NK + by_N[:, None]) % NUM_MOVES) + (other_NK + by_N[:, None]) % NUM_MOVES
    return np.where(ids_NK > 0, turned_NK, 0)
