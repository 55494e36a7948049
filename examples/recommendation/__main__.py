"""`make example-recommendation`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from evercurrent.models.adaptive import EventLog, Ranking, TrainerSettings, by_events_seen, split_users, train
from evercurrent.models.adaptive.data import Ints
from examples.common import Arguments, console, plot_seen, print_table, run_example, seen_bounds, serving
from examples.recommendation.ratings import read_log
from examples.recommendation.recommending import (
    by_item_knn,
    by_model,
    by_nightly_model,
    by_popularity,
    num_candidates,
    places,
)
from examples.recommendation.served import serve
from examples.recommendation.viewers import World, simulate

ABOUT = "Recommends the next item, and learns from each click."
HITS_WITHIN = 10
STATE_SIZE = 62
OURS = "ours"
QUESTION = f"Is the next liked item among the first {HITS_WITHIN}?"


def main(arguments: Arguments) -> None:
    """Trains, serves viewers whom training never saw, ranks for them, compares."""
    num_users, num_events, num_asked = (300, 30, 50) if arguments.quick else (1_000, 60, 500)
    if arguments.data is None:
        log = simulate(World.draw(num_items=400, num_tastes=10, seed=1), num_users, num_events, arguments.seed)
    else:
        log = read_log(arguments.data, arguments.seed)
    training, testing = split_users(log, seed=arguments.seed)
    testing = testing.stream()
    model = _train(arguments, log, testing)
    liked = np.flatnonzero(testing.outcome_N > 0)
    drawn = np.random.default_rng(arguments.seed).permutation(liked)
    asked = np.sort(drawn[:num_asked])
    with serving(model) as address:
        served = asyncio.run(serve(address, testing, asked.tolist()))
    scorers = {
        OURS: by_model(model),
        "ours, by the state of last night": by_nightly_model(model),
        "item-kNN of late likes": by_item_knn(training, keeps=0.8),
        "item-kNN": by_item_knn(training),
        "popularity": by_popularity(training),
    }
    place_N = {name: places(testing, scorer) for name, scorer in scorers.items()}
    _tell(testing, liked, asked, np.array([served[at] for at in asked.tolist()]), place_N)
    _plot(testing, place_N, arguments.out / "seen.png")


def _train(arguments: Arguments, log: EventLog, testing: EventLog) -> Ranking:
    settings = TrainerSettings(
        epochs_max=8 if arguments.quick else 25,
        batch_users=16 if arguments.quick else 32,
        learning_rate=4e-3,
        meets_once=True,
    )
    return train(
        lambda sizes: Ranking(sizes, state_size=STATE_SIZE, uses_time=True, unliked_loss=0.3),
        log,
        arguments.out,
        seed=arguments.seed,
        test_users={log.users[user] for user in testing.active_users.tolist()},
        settings=settings,
        console=console,
    ).model


def _tell(testing: EventLog, liked: Ints, asked: Ints, served_M: Ints, place_N: Mapping[str, Ints]) -> None:
    """A row for each, of the events that were asked about and of all that were liked."""
    chance_N = HITS_WITHIN / num_candidates(testing)
    rows = [("ours, as served", f"{(served_M < HITS_WITHIN).mean():.3f}", "")]
    for name, place in place_N.items():
        is_hit = place < HITS_WITHIN
        rows.append((name, f"{is_hit[asked].mean():.3f}", f"{is_hit[liked].mean():.3f}"))
    rows.append(("chance", f"{chance_N[asked].mean():.3f}", f"{chance_N[liked].mean():.3f}"))
    agree = (served_M == place_N[OURS][asked]).mean()
    about = (
        f"{testing.active_users.size:,} viewers never trained on; of {liked.size:,} items that they liked "
        f"{served_M.size:,} were ranked by the service, {agree:.1%} at the very place as offline"
    )
    columns = ("", f"{served_M.size:,} asked about", f"all {liked.size:,}")
    print_table(f"{QUESTION} Hit rate@{HITS_WITHIN}", columns, rows, about)


def _plot(testing: EventLog, place_N: Mapping[str, Ints], path: Path) -> None:
    bounds = seen_bounds(max(at_T.size for at_T in testing.by_user()), 2)
    share_liked = by_events_seen(testing, testing.outcome_N, bounds)
    curves = {
        name: by_events_seen(testing, (place < HITS_WITHIN) * testing.outcome_N, bounds) / share_liked
        for name, place in place_N.items()
    }
    plot_seen(bounds, curves, path, QUESTION, f"hit rate@{HITS_WITHIN}")


if __name__ == "__main__":
    run_example("recommendation", ABOUT, "a CSV log of ratings", main)
