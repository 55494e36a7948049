"""The game opponent: what it knows before a round, what it plays, made-up players, and a whole run."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evercurrent.models.adaptive import LogError
from examples.opponent.games import Game, apart, log_of, read_games, simulate, split_games, turned_round
from examples.opponent.moves import CONTEXTS, MOVES, beats, context, contexts, points
from examples.opponent.play import COUNTED_BEFORE, best_before, best_reply, counted, last_round, own_two, played_by
from tests.examples.running import RUN_TIMEOUT_S, row_of, run_quick

HEADER = "user_id,timestamp,game_id,round,move,opponent_move\n"


def a_game(own: list[int], other: list[int]) -> Game:
    return Game("g", "p", np.array(own), np.array(other), np.arange(len(own)) * 1_000_000)


def test_rock_paper_scissors() -> None:
    assert [MOVES[beats(MOVES.index(move))] for move in MOVES] == ["paper", "scissors", "rock"]
    assert points(MOVES.index("paper"), [MOVES.index(move) for move in MOVES]).tolist() == [1, 0, -1]
    for move in range(3):
        assert points(beats(move), move) == 1
        assert points(move, beats(move)) == -1


def test_what_is_known_before_a_round_is_the_two_rounds_before() -> None:
    """Against the words of the moves, looked up one by one; a client asks with the rounds so far and gets the same."""
    rng = np.random.default_rng(1)
    own_T, other_T = rng.integers(3, size=(2, 40))
    known_TK = contexts(own_T, other_T)
    pairs = [None, *((mine, theirs) for mine in MOVES for theirs in MOVES)]
    for t in range(40):
        rounds = [(MOVES[own_T[at]], MOVES[other_T[at]]) if at >= 0 else None for at in (t - 1, t - 2)]
        assert known_TK[t].tolist() == [pairs.index(each) for each in rounds]
        assert context(own_T[:t].tolist(), other_T[:t].tolist()) == tuple(known_TK[t].tolist())
    assert (known_TK < np.array(list(CONTEXTS.values()))).all()


@pytest.mark.parametrize("num_rounds", [1, 2])
def test_a_game_of_hardly_a_round_has_contexts_too(num_rounds: int) -> None:
    moves_T = np.zeros(num_rounds, np.int64)
    assert contexts(moves_T, moves_T).tolist() == [[0, 0], [1, 0]][:num_rounds]


def test_nothing_of_a_round_or_a_later_one_is_known_before_it() -> None:
    rng = np.random.default_rng(2)
    own_T, other_T = rng.integers(3, size=(2, 12))
    known_TK = contexts(own_T, other_T)
    for t in range(12):
        later_own, later_other = own_T.copy(), other_T.copy()
        later_own[t:], later_other[t:] = (own_T[t:] + 1) % 3, (other_T[t:] + 2) % 3
        later_TK = contexts(later_own, later_other)
        assert np.array_equal(later_TK[: t + 1], known_TK[: t + 1])
        assert (later_TK[t + 1 : t + 2, 0] != known_TK[t + 1 : t + 2, 0]).all()


@pytest.mark.parametrize(
    ("chances", "reply"),
    [
        ((0.8, 0.1, 0.1), "paper"),
        ((0.1, 0.8, 0.1), "scissors"),
        ((0.1, 0.1, 0.8), "rock"),
        ((0.45, 0.45, 0.1), "paper"),
        ((0.4, 0.0, 0.6), "rock"),
    ],
)
def test_the_reply_has_the_most_points_to_expect(chances: tuple[float, ...], reply: str) -> None:
    """Rock and paper alike: paper never loses to them, and what beats paper loses to rock."""
    assert MOVES[best_reply(chances)] == reply


def test_points_and_nats_are_of_what_was_played() -> None:
    game = a_game([0, 0, 1], [0, 1, 2])
    played = played_by(game, [[0.5, 0.25, 0.25], [0.1, 0.1, 0.8], [0.8, 0.1, 0.1]])
    assert played.reply_T.tolist() == [1, 0, 1]
    assert played.points_T.tolist() == [1, 0, 0]
    assert played.was_likeliest_T.tolist() == [1, 0, 0]
    assert played.nats_T == pytest.approx(-np.log([0.5, 0.1, 0.1]))


def test_counting_adds_one_for_each_move_after_the_same() -> None:
    game = a_game([0, 0, 0, 1], [0, 1, 0, 0])
    assert counted(game, last_round, 1.0).chance_TP.tolist() == [
        pytest.approx([1 / 3] * 3),
        pytest.approx([1 / 3] * 3),
        pytest.approx([1 / 3] * 3),
        pytest.approx([2 / 4, 1 / 4, 1 / 4]),
    ]
    assert own_two(game).tolist() == [0, 1, 1, 1]
    assert counted(game, own_two, 3.0).chance_TP[3] == pytest.approx([5 / 11, 3 / 11, 3 / 11])


def test_counting_begins_with_what_did_best() -> None:
    rng = np.random.default_rng(6)
    steady, without_habits = a_game([0] * 30, [0] * 30), a_game(*rng.integers(3, size=(2, 300)).tolist())
    assert best_before([steady], last_round) == min(COUNTED_BEFORE)
    assert best_before([without_habits], last_round) == max(COUNTED_BEFORE)


def test_made_up_players_stay_after_winning_and_shift_after_losing() -> None:
    games = simulate(num_games=60, num_rounds=200, seed=3)
    assert len(games) == 120
    assert all(np.array_equal(a.own_T, b.other_T) for a, b in zip(games[::2], games[1::2], strict=True))
    same, worth = [], []
    for game in games:
        same.append(game.own_T[1:] == game.own_T[:-1])
        worth.append(points(game.own_T, game.other_T)[:-1])
    stays = {each: np.concatenate(same)[np.concatenate(worth) == each].mean() for each in (1, 0, -1)}
    assert stays[1] > stays[0] + 0.05 > stays[-1] + 0.1
    shares = np.bincount(np.concatenate([game.own_T for game in games])) / (120 * 200)
    assert shares == pytest.approx([1 / 3] * 3, abs=0.04)


def test_made_up_players_have_habits_of_their_own_that_drift() -> None:
    """What a player does after the same last round is unlike chance, and unlike the same player much later."""
    games = simulate(num_games=60, num_rounds=900, seed=4)
    nats = np.concatenate([counted(game, last_round, 1.0).nats_T[200:300] for game in games])
    assert nats.mean() < np.log(3) - 0.1
    early, middle, late = (
        np.array([_stays(game, slice(start, start + 150)) for game in games]) for start in (0, 150, 750)
    )
    assert np.corrcoef(early, middle)[0, 1] > np.corrcoef(early, late)[0, 1] + 0.1


def _stays(game: Game, rounds: slice) -> float:
    """How often the same is played again."""
    return float((game.own_T[1:] == game.own_T[:-1])[rounds].mean())


def test_one_seed_makes_up_one_log() -> None:
    games, again, other = simulate(4, 50, 3), simulate(4, 50, 3), simulate(4, 50, 4)
    assert all(np.array_equal(a.own_T, b.own_T) for a, b in zip(games, again, strict=True))
    assert not np.array_equal(games[0].own_T, other[0].own_T)


def test_a_log_turned_round_is_that_of_games_with_other_names_of_the_moves() -> None:
    games = simulate(20, 8, 5)
    log = turned_round(log_of(games), np.random.default_rng(1))
    seen = set()
    for at, (game, places) in enumerate(zip(games, log.by_user(), strict=True)):
        by = int(log.outcome_N[places[0]] - game.own_T[0]) % 3
        seen.add(by)
        other_names = log_of([replace(game, own_T=(game.own_T + by) % 3, other_T=(game.other_T + by) % 3)])
        assert log.users[at] == game.side
        assert np.array_equal(log.outcome_N[places], other_names.outcome_N)
        assert np.array_equal(log.ids_NK[places], other_names.ids_NK)
    assert seen == {0, 1, 2}


def test_a_log_is_read_by_game_and_player(tmp_path: Path) -> None:
    rows = "b,2000,7,2,rock,paper\na,1000,7,1,paper,scissors\nb,1000,7,1,scissors,paper\na,2000,7,2,paper,rock\n"
    (tmp_path / "games.csv.gz").write_bytes(gzip.compress((HEADER + rows + "a,3000,7,3,none,rock\n").encode()))
    games = read_games(tmp_path / "games.csv.gz")
    assert [(game.player, game.own_T.tolist(), game.other_T.tolist()) for game in games] == [
        ("a", [1, 1], [2, 0]),
        ("b", [2, 0], [1, 1]),
    ]
    log = log_of(games)
    assert log.outcome_N.tolist() == [1, 1, 2, 0]
    assert log.ids_NK.tolist() == [[0, 0], [6, 0], [0, 0], [8, 0]]
    assert log.users == ("a in 7", "b in 7")
    assert log.time_us_N.tolist() == [1_000_000, 2_000_000] * 2


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("user_id,timestamp\n", "lacks the column game_id"),
        (HEADER, "no rounds with two moves"),
        (HEADER + 2 * "a,1,7,1,rock,paper\n", "a round of user a in game 7 twice"),
        (HEADER + "a,1,7,one,rock,paper\n", "line 2: round and timestamp are whole numbers"),
    ],
)
def test_bad_logs_are_told(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "games.csv").write_text(content)
    with pytest.raises(LogError, match=says):
        read_games(tmp_path / "games.csv")


def test_nobody_is_in_training_and_testing() -> None:
    training, testing = split_games(simulate(10, 5, 1), 0.2, seed=5)
    assert (len(training), len(testing)) == (16, 4)
    assert not {game.name for game in training} & {game.name for game in testing}
    games = [replace(game, player=player) for game, player in zip(simulate(3, 5, 1), "abbcde", strict=True)]
    training, testing = apart(games, {"game-0"})
    assert [game.player for game in testing] == ["a", "b"]
    assert [game.player for game in training] == ["d", "e"]
    with pytest.raises(LogError, match="games of their own"):
        split_games(simulate(1, 5, 1), 0.2, seed=5)


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> str:
    return run_quick("opponent", tmp_path_factory.mktemp("opponent"))


@pytest.mark.timeout(RUN_TIMEOUT_S)
def test_a_whole_run_tells_what_it_was_of(printed: str) -> None:
    assert "4 sides of games never trained on, 240 rounds" in printed
    assert row_of(printed, "any move")[1] == "1.0986"


@pytest.mark.parametrize("name", ["as served", "the same, never learning", "counting after the last round"])
def test_a_whole_run_tells_how_everybody_did(printed: str, name: str) -> None:
    nats, predicted, won, drawn, lost, worth = map(float, row_of(printed, name)[1:])
    assert 0 < nats < 3
    assert 0 < predicted < 1
    assert won + drawn + lost == pytest.approx(1, abs=0.002)
    assert won - lost == pytest.approx(worth, abs=0.002)
