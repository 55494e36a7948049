"""Games of rock, paper, scissors: read, or made up.

A log is a CSV file (may be .gz) with a row for each player and round: user_id, timestamp (milliseconds), game_id,
round, move, opponent_move.

Letters: T rounds.
"""

from __future__ import annotations

import csv
import gzip
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evercurrent.models.adaptive import EventLog, Ids, LogError
from examples.opponent.moves import CONTEXTS, MOVES, NUM_MOVES, Ints, contexts, relative, result

COLUMNS = ("user_id", "timestamp", "game_id", "round", "move", "opponent_move")
BEGIN_US, ROUND_US = 1_700_000_000_000_000, 3_000_000


@dataclass(frozen=True, slots=True)
class Game:
    """One player's side of a game: the moves of both, by round."""

    name: str
    player: str
    own_T: Ints
    other_T: Ints
    time_us_T: Ints


def log_of(games: Sequence[Game]) -> EventLog:
    """The sides of games as a log: each is a user of its own, in the order given; what is to be predicted is the move,
    relative to the last."""
    lengths = [game.own_T.size for game in games]
    time_us_N = np.concatenate([game.time_us_T for game in games])
    return EventLog(
        user_N=np.repeat(np.arange(len(games)), lengths),
        order_N=np.concatenate([np.arange(length, dtype=np.float64) for length in lengths]),
        time_us_N=time_us_N,
        ids_NK=np.concatenate([contexts(game.own_T, game.other_T)[:-1] for game in games]),
        features_NF=np.zeros((len(time_us_N), 0), np.float32),
        outcome_N=np.concatenate([relative(game.own_T) for game in games]),
        users=tuple(f"{game.player} in {game.name}" for game in games),
        ids=Ids(dict(CONTEXTS), choices=("the same", "what beats it", "what it beats")),
    )


def read_games(path: Path) -> list[Game]:
    """The sides of the games of a log; rounds without a move are left out. Raises LogError."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            rows = csv.DictReader(file)
            missing = [name for name in COLUMNS if name not in (rows.fieldnames or ())]
            if missing:
                raise LogError(f"{path} lacks the column {missing[0]}: its header must name {', '.join(COLUMNS)}")
            sides = _sides(path, rows)
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as exc:
        raise LogError(f"{path} cannot be read as CSV: {exc}") from exc
    if not sides:
        raise LogError(f"{path} has no rounds with two moves")
    return sides


def _sides(path: Path, rows: Iterable[dict[str, str]]) -> list[Game]:
    found: dict[tuple[str, str], list[tuple[int, int, int, int]]] = defaultdict(list)
    for line, row in enumerate(rows, start=2):
        if row["move"] not in MOVES or row["opponent_move"] not in MOVES:
            continue
        try:
            order = int(row["round"]), int(row["timestamp"])
        except (TypeError, ValueError) as exc:
            raise LogError(f"{path} line {line}: round and timestamp are whole numbers") from exc
        moves = MOVES.index(row["move"]), MOVES.index(row["opponent_move"])
        found[row["game_id"], row["user_id"]].append((*order, *moves))
    sides = []
    for (game, player), rounds in sorted(found.items()):
        rounds_T4 = np.array(sorted(rounds), np.int64)
        sides.append(Game(game, player, rounds_T4[:, 2], rounds_T4[:, 3], 1000 * rounds_T4[:, 1]))
    return sides


def simulate(num_games: int, num_rounds: int, seed: int) -> list[Game]:
    """Both sides of games between players with habits: after a draw, a win, a loss, how likely each is to play the same
    again, what beats it, what it beats; and a favourite move. Some change their habits in the middle. Made up: figures
    on them say that the system works, nothing about people."""
    rng = np.random.default_rng(seed)
    games = []
    for game in range(num_games):
        habits = [_habits(rng), _habits(rng)]
        change_at = int(rng.integers(num_rounds // 3, 2 * num_rounds))
        moves_2T = rng.integers(NUM_MOVES, size=(2, num_rounds))
        for t in range(1, num_rounds):
            if t == change_at:
                habits[int(rng.integers(2))] = _habits(rng)
            for side in (0, 1):
                own, other = moves_2T[side, t - 1], moves_2T[1 - side, t - 1]
                chances = np.roll(habits[side][0][result(own, other)], own) * habits[side][1]
                moves_2T[side, t] = rng.choice(NUM_MOVES, p=chances / chances.sum())
        time_us_T = BEGIN_US + ROUND_US * np.arange(num_rounds)
        for side in (0, 1):
            player = f"player-{seed}-{2 * game + side}"
            games.append(Game(f"game-{game}", player, moves_2T[side], moves_2T[1 - side], time_us_T))
    return games


def _habits(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Chances of each relative move after a draw, a win, a loss [3, 3]; factors of the moves [3]."""
    return rng.dirichlet((0.9, 0.7, 0.7), size=3) + 0.05, rng.dirichlet((6.0, 6.0, 6.0))


def split_games(games: Sequence[Game], fraction: float, seed: int) -> tuple[list[Game], list[Game]]:
    """Games to train on and to test on; both sides of one are on the same side. Raises LogError."""
    names = sorted({game.name for game in games})
    if len(names) < 2:
        raise LogError("there is one game: training and testing need one each")
    drawn = np.random.default_rng(seed).permutation(names)
    test = set(drawn[: max(1, round(fraction * len(names)))].tolist())
    return [game for game in games if game.name not in test], [game for game in games if game.name in test]
