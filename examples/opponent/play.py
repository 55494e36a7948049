"""Playing against recorded players through the service: each move is predicted, answered, and then learned from.

Letters: T rounds, P = 3 relative choices.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

import evercurrent
from evercurrent.client import Client
from examples.opponent.games import Game
from examples.opponent.moves import NUM_MOVES, Ints, bases, beats, contexts, relative, result

AT_ONCE = 32
"""Games that are played side by side."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Played:
    """One side of a game against us: the chances that we gave each relative choice [T, P], and our moves [T]."""

    game: Game
    chance_TP: Floats
    reply_T: Ints

    @property
    def nats_T(self) -> Floats:
        """Minus the log of the chance that we gave what was played."""
        chosen_T = relative(self.game.own_T)
        nats_T: Floats = -np.log(np.clip(self.chance_TP[np.arange(chosen_T.size), chosen_T], 1e-9, 1.0))
        return nats_T

    @property
    def points_T(self) -> Ints:
        """1 where we won the round, -1 where we lost it."""
        results = [result(ours, theirs) for ours, theirs in zip(self.reply_T.tolist(), self.game.own_T, strict=True)]
        return np.array([(0, 1, -1)[each] for each in results])


def best_reply(chance_P: Sequence[float], base: int) -> int:
    """The move with the most points to expect against chances of relative choices."""
    chances = [chance_P[(move - base) % NUM_MOVES] for move in range(NUM_MOVES)]
    return max(range(NUM_MOVES), key=lambda ours: chances[(ours - 1) % NUM_MOVES] - chances[beats(ours)])


async def play_all(address: str, games: Sequence[Game]) -> list[Played]:
    """Plays all these sides of games, each as a user of the service, some at once."""
    room = asyncio.Semaphore(AT_ONCE)
    async with evercurrent.connect(address) as client, asyncio.TaskGroup() as tasks:
        playing = [tasks.create_task(_play(client, game, room)) for game in games]
        await asyncio.gather(*playing)
    return [each.result() for each in playing]


async def _play(client: Client, game: Game, room: asyncio.Semaphore) -> Played:
    chance_TP = np.empty((game.own_T.size, NUM_MOVES))
    reply_T = np.empty(game.own_T.size, np.int64)
    rounds = zip(
        contexts(game.own_T, game.other_T).tolist(),
        bases(game.own_T).tolist(),
        relative(game.own_T).tolist(),
        game.time_us_T.tolist(),
        strict=False,
    )
    async with room, client.session(f"{game.player} in {game.name}") as session:
        for t, (ids, base, choice, time_us) in enumerate(rounds):
            answer = await session.predict(ids=ids, event_time_us=time_us)
            chance_TP[t] = answer.predictions[0]
            reply_T[t] = best_reply(answer.predictions[0], base)
            told = await session.observe(ids=ids, outcome=choice, event_time_us=time_us)
            told.raise_for_rejection()
    return Played(game, chance_TP, reply_T)


def played_by(game: Game, chance_TP: npt.ArrayLike) -> Played:
    """What comes of a game against whoever gives these chances."""
    chances: Floats = np.asarray(chance_TP, np.float64)
    replies = [
        best_reply(chance_P, base) for chance_P, base in zip(chances.tolist(), bases(game.own_T).tolist(), strict=True)
    ]
    return Played(game, chances, np.array(replies))


def counted(game: Game) -> Floats:
    """The chances [T, P] that counting gives: how often the player chose what after the same last round, one more of
    each."""
    counts = np.ones((10, NUM_MOVES))
    chance_TP = np.empty((game.own_T.size, NUM_MOVES))
    chosen_T = relative(game.own_T)
    for t, last in enumerate(contexts(game.own_T, game.other_T)[:-1, 0].tolist()):
        chance_TP[t] = counts[last] / counts[last].sum()
        counts[last, chosen_T[t]] += 1
    return chance_TP
