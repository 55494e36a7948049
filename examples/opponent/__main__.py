"""`make example-opponent`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from evercurrent.models.adaptive import Adaptive, TrainerSettings, by_events_seen, replay, train
from examples.common import Arguments, console, plot_seen, print_table, run_example, seen_bounds, serving
from examples.opponent.games import log_of, read_games, simulate, split_games
from examples.opponent.moves import NUM_MOVES
from examples.opponent.play import Played, counted, play_all, played_by

ABOUT = "Predicts a player's next move in rock, paper, scissors, and plays what beats it."
SETTINGS = TrainerSettings(
    batch_users=16, epochs_max=40, patience_epochs=5, learning_rate=3e-3, validation_fraction=0.15
)


def untrained(sizes: Mapping[str, int]) -> Adaptive:
    """A model of three relative choices."""
    return Adaptive(sizes, head="categorical", num_choices=NUM_MOVES, state_size=32, embedding_size=16, hidden_size=8)


def main(arguments: Arguments) -> None:
    """Trains on some games, plays the others."""
    num_games, num_rounds = (12, 60) if arguments.quick else (60, 300)
    data = arguments.data
    games = simulate(num_games, num_rounds, arguments.seed) if data is None else read_games(data)
    training, testing = split_games(games, 0.2, arguments.seed)
    log = log_of(training)
    settings = TrainerSettings(epochs_max=2, batch_users=16) if arguments.quick else SETTINGS
    model = train(untrained, log, arguments.out, seed=arguments.seed, settings=settings, console=console).model
    with serving(model) as address:
        served = asyncio.run(play_all(address, testing))
    stream = log_of(testing)
    nightly = replay(model, stream, night_events=1 << 30)
    edges = np.cumsum([game.own_T.size for game in testing])[:-1]
    versus = {
        "as served": served,
        "the same for everybody": [
            played_by(game, chance_TP)
            for game, chance_TP in zip(testing, np.split(nightly.batch_NP, edges), strict=True)
        ],
        "counting after each round": [played_by(game, counted(game)) for game in testing],
        "any move": [played_by(game, np.full((game.own_T.size, NUM_MOVES), 1 / NUM_MOVES)) for game in testing],
    }
    print_table(
        "Later half of each game",
        ("", "nats a move", "predicted", "won", "lost", "points a round"),
        [(name, *_told(played)) for name, played in versus.items()],
        f"{len(testing)} sides of games never trained on, {len(stream):,} rounds, played against somebody else",
    )
    _plot(versus, testing[0].own_T.size, arguments.out / "seen.png")


def _told(played: Sequence[Played]) -> tuple[str, ...]:
    halves = [each.game.own_T.size // 2 for each in played]
    nats = np.concatenate([each.nats_T[half:] for each, half in zip(played, halves, strict=True)])
    points = np.concatenate([each.points_T[half:] for each, half in zip(played, halves, strict=True)])
    right = np.concatenate(
        [(each.reply_T - each.game.own_T)[half:] % NUM_MOVES == 1 for each, half in zip(played, halves, strict=True)]
    )
    won, lost = np.mean(points > 0), np.mean(points < 0)
    return f"{nats.mean():.4f}", f"{right.mean():.3f}", f"{won:.3f}", f"{lost:.3f}", f"{points.mean():+.3f}"


def _plot(versus: Mapping[str, Sequence[Played]], num_rounds: int, path: Path) -> None:
    bounds = seen_bounds(num_rounds, 5)
    curves = {}
    for name, played in versus.items():
        log = log_of([each.game for each in played])
        curves[name] = by_events_seen(log, np.concatenate([each.nats_T for each in played]), bounds)
    plot_seen(
        bounds, curves, path, "The longer it plays, the better it knows its opponent", "nats a move", "rounds before"
    )


if __name__ == "__main__":
    run_example("opponent", ABOUT, "a CSV log of games", main)
