"""Rock, paper, scissors: what beats what, and what a player is known to have done before a round.

Everything is told relative to the player's last move: a habit such as "the same again", or "what would have beaten what
I played", is then one habit and not three, one for each move. A model learns three times as much from a game so.

Letters: T rounds, K contexts.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

MOVES = ("rock", "paper", "scissors")
NUM_MOVES = len(MOVES)
"""A move is beaten by the next one, the last by the first."""

CONTEXTS = {"last_round": 10, "two_rounds": 82, "own_moves": 28, "other_moves": 28, "results": 28}
"""Id fields, and how many ids each has; 0: there were not so many rounds."""

Ints = npt.NDArray[np.int64]


def beats(move: int) -> int:
    """What beats a move."""
    return (move + 1) % NUM_MOVES


def result(own: int, other: int) -> int:
    """0: a draw; 1: won; 2: lost."""
    return (own - other) % NUM_MOVES


def bases(own_T: Ints) -> Ints:
    """What each round's moves are relative to [T]: the player's move before; rock in the first."""
    return np.concatenate(([0], own_T[:-1]))


def relative(own_T: Ints) -> Ints:
    """Each round's choice [T], relative: 0, the same again."""
    choice_T: Ints = (own_T - bases(own_T)) % NUM_MOVES
    return choice_T


def contexts(own_T: Ints, other_T: Ints) -> Ints:
    """What is known before each round [T, K], and before the one that comes after them all [T + 1, K]: ids of CONTEXTS,
    from the rounds before alone."""
    num_rounds = own_T.size
    ids_TK = np.zeros((num_rounds + 1, len(CONTEXTS)), np.int64)
    for t in range(1, num_rounds + 1):
        ids_TK[t] = context(own_T[:t], other_T[:t])
    return ids_TK


def context(own_T: Ints, other_T: Ints) -> tuple[int, ...]:
    """What is known [K] after these rounds."""
    if not own_T.size:
        return (0,) * len(CONTEXTS)
    base = own_T[-1]
    own = [int(move - base) % NUM_MOVES for move in own_T[:-4:-1]]
    other = [int(move - base) % NUM_MOVES for move in other_T[:-4:-1]]
    results = [result(mine, theirs) for mine, theirs in zip(own, other, strict=True)]
    last = 3 * own[0] + other[0]
    two = 0 if len(own) < 2 else 1 + 9 * last + 3 * own[1] + other[1]
    return (1 + last, two, *(_together(moves) for moves in (own, other, results)))


def _together(values: list[int]) -> int:
    """One id of three values."""
    if len(values) < 3:
        return 0
    return 1 + 9 * values[0] + 3 * values[1] + values[2]
