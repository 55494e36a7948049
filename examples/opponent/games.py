"""Games of rock, paper, scissors: read, or made up.

A log is a CSV file (may be .gz) with a row for each player and round: user_id, timestamp (milliseconds), game_id,
round, move, opponent_move.

Letters: T rounds, G games, S their sides, R results of the round before, M moves.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from evercurrent.models.adaptive import EventLog, Ids, LogError, read_rows
from examples.opponent.moves import CONTEXTS, MOVES, NUM_MOVES, Ints, contexts, turned

COLUMNS = ("user_id", "timestamp", "game_id", "round", "move", "opponent_move")
BEGIN_US, ROUND_US = 1_700_000_000_000_000, 3_000_000

AFTER_RESULT_RM = np.array([[0.0, 0.0, 0.0], [0.6, 0.0, 0.0], [-0.4, 0.4, 0.0]])
"""What made-up players have in common, log-odds: after a draw, a win (stay), a loss (shift); of the same again, what
beats it, what it beats. Their own habits come on top, and drift."""
HABIT_SPREAD, FAVOURITE_SPREAD = 0.8, 0.3
HABIT_DRIFT, FAVOURITE_DRIFT = 0.05, 0.015


@dataclass(frozen=True, slots=True)
class Game:
    """One player's side of a game: the moves of both, by round."""

    name: str
    player: str
    own_T: Ints
    other_T: Ints
    time_us_T: Ints

    @property
    def side(self) -> str:
        """Who is predicted, as a user of the service."""
        return f"{self.player} in {self.name}"


def log_of(games: Sequence[Game]) -> EventLog:
    """The sides of games as a log: each is a user of its own, in the order given; what is to be predicted is the
    move."""
    lengths = [game.own_T.size for game in games]
    time_us_N = np.concatenate([game.time_us_T for game in games])
    return EventLog(
        user_N=np.repeat(np.arange(len(games)), lengths),
        order_N=np.concatenate([np.arange(length, dtype=np.float64) for length in lengths]),
        time_us_N=time_us_N,
        ids_NK=np.concatenate([contexts(game.own_T, game.other_T) for game in games]),
        features_NF=np.zeros((len(time_us_N), 0), np.float32),
        outcome_N=np.concatenate([game.own_T for game in games]),
        users=tuple(game.side for game in games),
        ids=Ids(dict(CONTEXTS), choices=MOVES),
    )


def turned_round(log: EventLog, rng: np.random.Generator) -> EventLog:
    """The log with the names of the moves turned round for each side of a game, by none, one or two: to the rules it is
    all the same, and a model learns habits rather than who favoured what."""
    by_N = rng.integers(NUM_MOVES, size=len(log.users))[log.user_N]
    return replace(log, ids_NK=turned(log.ids_NK, by_N), outcome_N=(log.outcome_N + by_N) % NUM_MOVES)


def read_games(path: Path) -> list[Game]:
    """The sides of the games of a log; rounds without a move are left out. Raises LogError."""
    found: dict[tuple[str, str], list[tuple[int, int, int, int]]] = defaultdict(list)
    for line, (player, timestamp, game, number, own, other) in read_rows(path, COLUMNS):
        if own not in MOVES or other not in MOVES:
            continue
        try:
            order = int(number), int(timestamp)
        except ValueError as exc:
            raise LogError(f"{path} line {line}: round and timestamp are whole numbers") from exc
        found[game, player].append((*order, MOVES.index(own), MOVES.index(other)))
    if not found:
        raise LogError(f"{path} has no rounds with two moves")
    return [_side(path, game, player, rounds) for (game, player), rounds in sorted(found.items())]


def _side(path: Path, game: str, player: str, rounds: Iterable[tuple[int, int, int, int]]) -> Game:
    rounds_T4 = np.array(sorted(rounds), np.int64)
    if (np.diff(rounds_T4[:, 0]) == 0).any():
        raise LogError(f"{path} has a round of user {player} in game {game} twice")
    return Game(game, player, rounds_T4[:, 2], rounds_T4[:, 3], 1000 * rounds_T4[:, 1])


def simulate(num_games: int, num_rounds: int, seed: int) -> list[Game]:
    """Both sides of games between players with habits, which drift: how likely each is, after a draw, a win, a loss, to
    play the same again, what beats it, what it beats; and a favourite move. Made up: figures on them say that the
    system works, nothing about people."""
    rng = np.random.default_rng(seed)
    habit_GSRM = AFTER_RESULT_RM + HABIT_SPREAD * rng.normal(size=(num_games, 2, 3, NUM_MOVES))
    favourite_GSM = FAVOURITE_SPREAD * rng.normal(size=(num_games, 2, NUM_MOVES))
    moves_TGS = rng.integers(NUM_MOVES, size=(num_rounds, num_games, 2))
    for before_GS, now_GS in pairwise(moves_TGS):
        result_GS = (before_GS - before_GS[:, ::-1]) % NUM_MOVES
        habit_GSM = np.take_along_axis(habit_GSRM, result_GS[..., None, None], 2)[..., 0, :]
        relative_GSM = (np.arange(NUM_MOVES) - before_GS[..., None]) % NUM_MOVES
        log_odds_GSM = np.take_along_axis(habit_GSM, relative_GSM, 2) + favourite_GSM
        now_GS[:] = (log_odds_GSM + rng.gumbel(size=log_odds_GSM.shape)).argmax(2)
        habit_GSRM += HABIT_DRIFT * rng.normal(size=habit_GSRM.shape)
        favourite_GSM += FAVOURITE_DRIFT * rng.normal(size=favourite_GSM.shape)
    time_us_T = BEGIN_US + ROUND_US * np.arange(num_rounds)
    return [
        Game(f"game-{game}", f"player-{2 * game + side}", moves_TS[:, side], moves_TS[:, 1 - side], time_us_T)
        for game, moves_TS in enumerate(moves_TGS.swapaxes(0, 1))
        for side in (0, 1)
    ]


def split_games(games: Sequence[Game], fraction: float, seed: int) -> tuple[list[Game], list[Game]]:
    """Games to test on are drawn by seed, both sides of each; games to train on are those where nobody plays who plays
    in one of them. Raises LogError when either would be empty."""
    names = sorted({game.name for game in games})
    drawn = np.random.default_rng(seed).permutation(names)
    test = set(drawn[: max(1, round(fraction * len(names)))].tolist())
    return apart(games, test)


def some_sides(games: Sequence[Game], fraction: float, seed: int) -> frozenset[str]:
    """Both sides of games drawn by seed: who chooses the epoch, so that nobody's opponent is fitted."""
    names = sorted({game.name for game in games})
    drawn = set(np.random.default_rng(seed).permutation(names)[: max(1, round(fraction * len(names)))].tolist())
    return frozenset(game.side for game in games if game.name in drawn)


def apart(games: Sequence[Game], test: Collection[str]) -> tuple[list[Game], list[Game]]:
    """As `split_games`, with the names of the games to test on given."""
    testing = [game for game in games if game.name in test]
    players = {game.player for game in testing}
    met = {game.name for game in games if game.player in players}
    training = [game for game in games if game.name not in met]
    if not training or not testing:
        raise LogError("training and testing need games of their own, with players of their own")
    return training, testing
