"""`make example-adaptive-learning`."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np

from evercurrent.cli.evaluate import Service, serve
from evercurrent.metrics import auc, log_loss
from evercurrent.models.adaptive import EventLog, by_events_seen, replay, split_users
from evercurrent.models.knowledge_tracing import default_world, read_log, simulate, train
from evercurrent.models.knowledge_tracing.training import SETTINGS
from examples.adaptive_learning.pupils import NUM_CHOICES, SUCCESS, at_random, teach, within_reach
from examples.common import Arguments, console, plot_seen, print_table, run_example, seen_bounds, serving

ABOUT = "Predicts learners' answers, and picks each pupil's next question."


def main(arguments: Arguments) -> None:
    """Trains, serves unseen learners, teaches simulated pupils."""
    num_users, num_events = (200, 40) if arguments.quick else (1_200, 100)
    world = default_world()
    log = simulate(world, num_users, num_events, arguments.seed) if arguments.data is None else read_log(arguments.data)
    training, testing = split_users(log, seed=arguments.seed)
    settings = replace(SETTINGS, epochs_max=2 if arguments.quick else 12)
    labels = {log.users[user] for user in testing.active_users.tolist()}
    model = train(log, arguments.out, seed=arguments.seed, test_users=labels, settings=settings, console=console).model
    stream = testing.stream()
    offline = replay(model, stream)
    with serving(model) as address:
        served_NP, _ = asyncio.run(serve(Service(address), stream, 1, console))
        _tell_predictions(stream, served_NP[:, 0], offline.batch_N, float(training.outcome_N.mean()))
        if arguments.data is None:
            num_pupils, num_questions = (10, 10) if arguments.quick else (60, 60)
            lessons = {
                choose: asyncio.run(teach(address, world, num_pupils, num_questions, arguments.seed, choose))
                for choose in (at_random, within_reach)
            }
            rows = [
                (choose.__name__.replace("_", " "), f"{each.right_TU.mean():.3f}", f"{each.gain_U.mean():.3f}")
                for choose, each in lessons.items()
            ]
            caption = (
                f"{num_pupils} pupils, {num_questions} questions each, of {NUM_CHOICES} every time; aim: {SUCCESS}"
            )
            print_table("Choosing the next question", ("", "right", "mastery gained"), rows, caption)
    _plot(stream, served_NP[:, 0], offline.batch_N, arguments.out / "seen.png")


def _tell_predictions(stream: EventLog, served_N: np.ndarray, nightly_N: np.ndarray, mean: float) -> None:
    outcome_N = stream.outcome_N
    rows = [
        (name, f"{auc(outcome_N, each):.4f}", f"{log_loss(outcome_N, each):.4f}")
        for name, each in (
            ("as served", served_N),
            ("state of last night", nightly_N),
            ("the mean of all", np.full(len(stream), mean)),
        )
    ]
    about = f"{len(stream):,} answers of {stream.active_users.size:,} learners never trained on"
    print_table("Will the next answer be right?", ("", "AUC", "log loss"), rows, about)


def _plot(stream: EventLog, served_N: np.ndarray, nightly_N: np.ndarray, path: Path) -> None:
    longest = max(places.size for places in stream.by_user())
    bounds = seen_bounds(longest, 2)
    curves = {}
    for name, each in (("as served", served_N), ("state of last night", nightly_N)):
        right = np.where(stream.outcome_N > 0.5, each, 1 - each)
        curves[name] = by_events_seen(stream, -np.log(np.clip(right, 1e-7, 1)), bounds)
    plot_seen(bounds, curves, path, "The more answers, the better the next prediction", "log loss, nats")


if __name__ == "__main__":
    run_example("adaptive_learning", ABOUT, "a CSV log of answers", main)
