"""`make example-opponent`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from evercurrent.models.adaptive import Adaptive, TrainerSettings, by_events_seen, replay, train
from examples.common import Arguments, console, plot_seen, print_table, run_example, seen_bounds, serving
from examples.opponent.games import Game, log_of, read_games, simulate, some_sides, split_games, turned_round
from examples.opponent.moves import NUM_MOVES
from examples.opponent.play import Memory, Played, best_before, counted, last_round, own_two, play_all, played_by

ABOUT = "Predicts a player's next move in rock, paper, scissors, and plays what beats it."
SETTINGS = TrainerSettings(batch_users=16, epochs_max=24, patience_epochs=5, learning_rate=1e-2)
COLUMNS = ("", "nats a move", "predicted", "won", "drawn", "lost", "points a round")


def untrained(sizes: Mapping[str, int]) -> Adaptive:
    """A model of three moves."""
    return Adaptive(sizes, head="categorical", num_choices=NUM_MOVES, state_size=40, embedding_size=16, hidden_size=8)


def main(arguments: Arguments) -> None:
    """Trains on some games, plays the others."""
    num_games, num_rounds = (12, 60) if arguments.quick else (60, 300)
    data = arguments.data
    games = simulate(num_games, num_rounds, arguments.seed) if data is None else read_games(data)
    training, testing = split_games(games, 0.2, arguments.seed)
    settings = TrainerSettings(epochs_max=2, batch_users=16) if arguments.quick else SETTINGS
    model = train(
        untrained,
        log_of(training),
        arguments.out,
        seed=arguments.seed,
        validation_users=some_sides(training, 0.15, arguments.seed),
        settings=settings,
        vary=turned_round,
        console=console,
    ).model
    with serving(model) as address:
        served = asyncio.run(play_all(address, testing))
    versus = {
        "as served": served,
        "the same, never learning": _frozen(model, testing),
        "counting after the last round": _counting(training, testing, last_round),
        "counting after two own moves": _counting(training, testing, own_two),
        "any move": [played_by(game, np.full((game.own_T.size, NUM_MOVES), 1 / NUM_MOVES)) for game in testing],
    }
    caption = f"{len(testing)} sides of games never trained on, {sum(game.own_T.size for game in testing):,} rounds, "
    caption += "played against somebody else"
    rows = [(name, *_told(played)) for name, played in versus.items()]
    print_table("Later half of each game", COLUMNS, rows, caption)
    _plot(versus, testing, arguments.out / "seen.png")


def _frozen(model: Adaptive, games: Sequence[Game]) -> list[Played]:
    """What comes of the initial state, which every player has at first."""
    chance_NP = replay(model, log_of(games), night_events=1 << 30).batch_NP
    ends = np.cumsum([game.own_T.size for game in games])[:-1]
    return [played_by(game, chance_TP) for game, chance_TP in zip(games, np.split(chance_NP, ends), strict=True)]


def _counting(training: Sequence[Game], testing: Sequence[Game], memory: Memory) -> list[Played]:
    before = best_before(training, memory)
    return [counted(game, memory, before) for game in testing]


def _told(played: Sequence[Played]) -> tuple[str, ...]:
    """A row of the table, of the later half of each game."""
    halves = [each.game.own_T.size // 2 for each in played]
    nats_N, points_N, predicted_N = (
        np.concatenate([getattr(each, name)[half:] for each, half in zip(played, halves, strict=True)])
        for name in ("nats_T", "points_T", "was_likeliest_T")
    )
    won, drawn, lost = (f"{np.mean(points_N == worth):.3f}" for worth in (1, 0, -1))
    return f"{nats_N.mean():.4f}", f"{predicted_N.mean():.3f}", won, drawn, lost, f"{points_N.mean():+.3f}"


def _plot(versus: Mapping[str, Sequence[Played]], games: Sequence[Game], path: Path) -> None:
    log = log_of(games)
    bounds = seen_bounds(max(game.own_T.size for game in games), 5)
    curves = {
        name: by_events_seen(log, np.concatenate([each.nats_T for each in played]), bounds)
        for name, played in versus.items()
    }
    title = "The longer it plays, the better it knows its opponent"
    plot_seen(bounds, curves, path, title, "nats a move", "rounds before")


if __name__ == "__main__":
    run_example("opponent", ABOUT, "a CSV log of games", main)
