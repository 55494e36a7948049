"""Playing against recorded players through the service: each move is predicted, answered, and then learned from.

Letters: T rounds, P = 3 moves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

import evercurrent
from evercurrent.client import Client
from examples.opponent.games import Game
from examples.opponent.moves import NUM_MOVES, Ints, context, contexts, points

AT_ONCE = 32
"""Games that are played side by side."""
COUNTED_BEFORE = (1.0, 3.0, 10.0)
"""Counting begins with so many of each move: whichever did best on the games trained on."""

Floats = npt.NDArray[np.float64]
Memory = Callable[[Game], Ints]
"""What counting remembers before each round [T]: a number of a few."""


@dataclass(frozen=True, slots=True)
class Played:
    """One side of a game against us: the chances that we gave each move [T, P], and our moves [T]."""

    game: Game
    chance_TP: Floats
    reply_T: Ints

    @property
    def nats_T(self) -> Floats:
        """Minus the log of the chance that we gave what was played."""
        chance_T = self.chance_TP[np.arange(self.game.own_T.size), self.game.own_T]
        nats_T: Floats = -np.log(np.clip(chance_T, 1e-9, 1.0))
        return nats_T

    @property
    def points_T(self) -> Ints:
        """1 where we won the round, -1 where we lost it."""
        return points(self.reply_T, self.game.own_T)

    @property
    def was_likeliest_T(self) -> Ints:
        """1 where the likeliest move came."""
        was_likeliest_T: Ints = (self.chance_TP.argmax(1) == self.game.own_T).astype(np.int64)
        return was_likeliest_T


def best_reply(chance_P: Sequence[float]) -> int:
    """The move with the most points to expect against these chances."""
    return max(range(NUM_MOVES), key=lambda ours: np.dot(chance_P, points(ours, range(NUM_MOVES))))


async def play_all(address: str, games: Sequence[Game]) -> list[Played]:
    """Plays all these sides of games, each as a user of the service, some at once."""
    room = asyncio.Semaphore(AT_ONCE)
    async with evercurrent.connect(address) as client, asyncio.TaskGroup() as tasks:
        playing = [tasks.create_task(_play(client, game, room)) for game in games]
    return [each.result() for each in playing]


async def _play(client: Client, game: Game, room: asyncio.Semaphore) -> Played:
    own, other = game.own_T.tolist(), game.other_T.tolist()
    chance_TP = np.empty((len(own), NUM_MOVES))
    reply_T = np.empty(len(own), np.int64)
    async with room, client.session(game.side) as session:
        for t, time_us in enumerate(game.time_us_T.tolist()):
            ids = context(own[:t], other[:t])
            answer = await session.predict(ids=ids, event_time_us=time_us)
            chance_TP[t], reply_T[t] = answer.predictions[0], best_reply(answer.predictions[0])
            told = await session.observe(ids=ids, outcome=own[t], event_time_us=time_us)
            told.raise_for_rejection()
    return Played(game, chance_TP, reply_T)


def played_by(game: Game, chance_TP: npt.ArrayLike) -> Played:
    """What comes of a game against whoever gives these chances."""
    chances: Floats = np.asarray(chance_TP, np.float64)
    return Played(game, chances, np.array([best_reply(chance_P) for chance_P in chances.tolist()]))


def counted(game: Game, memory: Memory, before: float) -> Played:
    """What comes of counting how often the player chose what after the same of what is remembered, from `before` of
    each move on."""
    remembered_T = memory(game)
    counts = np.full((int(remembered_T.max()) + 1, NUM_MOVES), before)
    chance_TP = np.empty((remembered_T.size, NUM_MOVES))
    for t, (remembered, move) in enumerate(zip(remembered_T.tolist(), game.own_T.tolist(), strict=True)):
        chance_TP[t] = counts[remembered] / counts[remembered].sum()
        counts[remembered, move] += 1
    return played_by(game, chance_TP)


def best_before(games: Sequence[Game], memory: Memory) -> float:
    """Of COUNTED_BEFORE, what counting had best begun with in these games."""
    return min(
        COUNTED_BEFORE,
        key=lambda before: np.concatenate([counted(game, memory, before).nats_T for game in games]).mean(),
    )


def last_round(game: Game) -> Ints:
    """To remember what both played last."""
    return contexts(game.own_T, game.other_T)[:, 0]


def own_two(game: Game) -> Ints:
    """To remember the player's last two moves: a Markov chain of second order."""
    before_T = np.concatenate(([0], game.own_T[:-1]))
    return contexts(game.own_T, before_T)[:, 0]
