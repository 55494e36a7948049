"""The game opponent: what it knows before a round, what it plays, made-up players, and a whole run."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from evercurrent.models.adaptive import LogError
from examples.opponent.games import Game, log_of, read_games, simulate, split_games
from examples.opponent.moves import CONTEXTS, MOVES, beats, contexts, relative, result
from examples.opponent.play import best_reply, counted, played_by
from tests.examples.running import RUN_TIMEOUT_S, row_of, run_quick

HEADER = "user_id,timestamp,game_id,round,move,opponent_move\n"


def a_game(own: list[int], other: list[int]) -> Game:
    return Game("g", "p", np.array(own), np.array(other), np.arange(len(own)) * 1_000_000)


def test_rock_paper_scissors() -> None:
    assert [MOVES[beats(MOVES.index(move))] for move in MOVES] == ["paper", "scissors", "rock"]
    assert [result(MOVES.index("paper"), MOVES.index(move)) for move in MOVES] == [1, 0, 2]


def test_what_is_known_before_a_round_is_of_the_rounds_before_alone() -> None:
    rng = np.random.default_rng(1)
    own_T, other_T = rng.integers(3, size=(2, 12))
    known_TK = contexts(own_T, other_T)
    assert known_TK.shape == (13, len(CONTEXTS))
    for t in range(12):
        later_own, later_other = own_T.copy(), other_T.copy()
        later_own[t:], later_other[t:] = (own_T[t:] + 1) % 3, (other_T[t:] + 2) % 3
        assert np.array_equal(contexts(later_own, later_other)[: t + 1], known_TK[: t + 1])
        assert not np.array_equal(contexts(later_own, later_other)[t + 1], known_TK[t + 1])
    assert known_TK[0].tolist() == [0] * 5
    assert (known_TK < np.array(list(CONTEXTS.values()))).all()
    assert (known_TK[3:] > 0).all()


def test_contexts_are_the_same_for_a_game_with_other_names_of_the_moves() -> None:
    rng = np.random.default_rng(2)
    own_T, other_T = rng.integers(3, size=(2, 20))
    turned_own, turned_other = (own_T + 1) % 3, (other_T + 1) % 3
    assert np.array_equal(contexts(own_T, other_T), contexts(turned_own, turned_other))
    assert np.array_equal(relative(own_T)[1:], relative(turned_own)[1:])
    assert not np.array_equal(contexts(own_T, other_T), contexts(own_T, turned_other))


@pytest.mark.parametrize(
    ("chances", "base", "reply"),
    [
        ((0.8, 0.1, 0.1), 0, 1),
        ((0.8, 0.1, 0.1), 2, 0),
        ((0.1, 0.8, 0.1), 0, 2),
        ((0.45, 0.45, 0.1), 0, 1),
        ((0.4, 0.0, 0.6), 0, 0),
    ],
)
def test_the_reply_has_the_most_points_to_expect(chances: tuple[float, ...], base: int, reply: int) -> None:
    """Rock and paper alike: paper never loses to them, and what beats paper loses to rock."""
    assert best_reply(chances, base) == reply


def test_points_and_nats_are_of_what_was_played() -> None:
    game = a_game([0, 0, 1], [0, 1, 2])
    played = played_by(game, [[0.5, 0.25, 0.25], [0.8, 0.1, 0.1], [0.8, 0.1, 0.1]])
    assert played.reply_T.tolist() == [1, 1, 1]
    assert played.points_T.tolist() == [1, 1, 0]
    assert played.nats_T == pytest.approx(-np.log([0.5, 0.8, 0.1]))


def test_counting_adds_one_for_each_choice_after_the_same_round() -> None:
    game = a_game([0, 0, 0, 1], [0, 0, 0, 0])
    assert counted(game).tolist() == [
        pytest.approx([1 / 3] * 3),
        pytest.approx([1 / 3] * 3),
        pytest.approx([2 / 4, 1 / 4, 1 / 4]),
        pytest.approx([3 / 5, 1 / 5, 1 / 5]),
    ]


def test_made_up_players_have_habits_that_counting_finds() -> None:
    games = simulate(num_games=8, num_rounds=400, seed=3)
    again, other = simulate(8, 400, 3), simulate(8, 400, 4)
    assert len(games) == 16
    assert all(np.array_equal(a.own_T, b.own_T) for a, b in zip(games, again, strict=True))
    assert not np.array_equal(games[0].own_T, other[0].own_T)
    assert all(np.array_equal(a.own_T, b.other_T) for a, b in zip(games[::2], games[1::2], strict=True))
    nats = np.concatenate([played_by(game, counted(game)).nats_T[200:] for game in games])
    assert nats.mean() < np.log(3) - 0.05
    shares = np.bincount(np.concatenate([game.own_T for game in games])) / (16 * 400)
    assert shares == pytest.approx([1 / 3] * 3, abs=0.06)


def test_a_log_is_read_by_game_and_player(tmp_path: Path) -> None:
    rows = "b,2000,7,2,rock,paper\na,1000,7,1,paper,scissors\nb,1000,7,1,scissors,paper\na,2000,7,2,paper,rock\n"
    (tmp_path / "games.csv.gz").write_bytes(gzip.compress((HEADER + rows + "a,3000,7,3,none,rock\n").encode()))
    games = read_games(tmp_path / "games.csv.gz")
    assert [(game.player, game.own_T.tolist(), game.other_T.tolist()) for game in games] == [
        ("a", [1, 1], [2, 0]),
        ("b", [2, 0], [1, 1]),
    ]
    log = log_of(games)
    assert log.outcome_N.tolist() == [1, 0, 2, 1]
    assert log.users == ("a in 7", "b in 7")
    assert log.time_us_N.tolist() == [1_000_000, 2_000_000] * 2


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("user_id,timestamp\n", "lacks the column game_id"),
        (HEADER, "no rounds with two moves"),
        (HEADER + "a,1,7,one,rock,paper\n", "line 2: round and timestamp are whole numbers"),
    ],
)
def test_bad_logs_are_told(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "games.csv").write_text(content)
    with pytest.raises(LogError, match=says):
        read_games(tmp_path / "games.csv")


def test_both_sides_of_a_game_are_on_one_side_of_the_split() -> None:
    training, testing = split_games(simulate(10, 5, 1), 0.2, seed=5)
    assert len(testing) == 4
    assert not {game.name for game in training} & {game.name for game in testing}
    with pytest.raises(LogError, match="one game"):
        split_games(simulate(1, 5, 1), 0.2, seed=5)


@pytest.mark.timeout(RUN_TIMEOUT_S)
def test_a_whole_run(tmp_path: Path) -> None:
    printed = run_quick("opponent", tmp_path)
    assert row_of(printed, "any move")[1] == "1.0986"
    assert 0 < float(row_of(printed, "as served")[1]) < 3
    assert "4 sides of games never trained on, 240 rounds" in printed
