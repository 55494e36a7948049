"""`make example-conversation`."""

from __future__ import annotations

import asyncio
from functools import partial

import numpy as np

from evercurrent.cli.evaluate import Service, serve
from evercurrent.metrics import auc, log_loss
from evercurrent.models.adaptive import Adaptive, EventLog, TrainerSettings, replay, split_users, train
from examples.common import Arguments, console, print_table, run_example, serving
from examples.conversation.live import AT_NIGHT, AT_ONCE, NEVER, converse
from examples.conversation.log import log_at_random, read_log
from examples.conversation.report import plot_thumbs, tell_exchange, tell_thumbs
from examples.conversation.simulator import Conversations, World, simulate

ABOUT = "Chooses replies by each user's thumbs."
WORLD_SEED = 2
SERVED, NIGHTLY = "as served", "state of last night"


def main(arguments: Arguments) -> None:
    """Trains on a log, serves what unseen users said, talks with simulated ones."""
    num_users, num_turns = (120, 40) if arguments.quick else (1_500, 100)
    world, rng = World.draw(WORLD_SEED), np.random.default_rng(arguments.seed)
    if arguments.data is None:
        log = log_at_random(simulate(world, rng, num_users, num_turns), rng)
    else:
        log = read_log(arguments.data)
    training, testing = split_users(log, seed=arguments.seed)
    labels = {log.users[user] for user in testing.active_users.tolist()}
    settings = TrainerSettings(epochs_max=3 if arguments.quick else 10, batch_users=32, learning_rate=6e-3)
    make = partial(Adaptive, features=[f"feature_{at}" for at in range(log.features_NF.shape[1])])
    model = train(
        make, log, arguments.out, seed=arguments.seed, test_users=labels, settings=settings, console=console
    ).model
    stream = testing.stream()
    with serving(model) as address:
        served_NP, _ = asyncio.run(serve(Service(address), stream, 1, console))
        _tell_predictions(stream, served_NP[:, 0], replay(model, stream).batch_N, float(training.outcome_N.mean()))
        if arguments.data is None:
            conversations = simulate(world, rng, 20 if arguments.quick else 150, num_turns)
            _talk(address, conversations, rng, arguments)


def _talk(address: str, conversations: Conversations, rng: np.random.Generator, arguments: Arguments) -> None:
    replies = {
        name: asyncio.run(converse(address, conversations, f"{name}-{arguments.seed}", learn_after))
        for name, learn_after in (
            (SERVED, AT_ONCE),
            (NIGHTLY, AT_NIGHT),
            ("initial state", NEVER),
        )
    }
    chosen = {name: each.chosen_TU for name, each in replies.items()}
    chosen["chance"] = rng.integers(conversations.chance_TUC.shape[2], size=conversations.kind_TU.shape)
    chosen["taste known"] = conversations.chance_TUC.argmax(axis=2)
    tell_thumbs(conversations, chosen)
    tell_exchange(conversations, replies[SERVED])
    plot_thumbs(conversations, chosen, arguments.out / "seen.png")


def _tell_predictions(stream: EventLog, served_N: np.ndarray, nightly_N: np.ndarray, mean: float) -> None:
    outcome_N = stream.outcome_N
    rows = [
        (name, f"{auc(outcome_N, each):.4f}", f"{log_loss(outcome_N, each):.4f}")
        for name, each in (
            (SERVED, served_N),
            (NIGHTLY, nightly_N),
            ("the mean of all", np.full(len(stream), mean)),
        )
    ]
    about = f"{len(stream):,} logged thumbs of {stream.active_users.size:,} users never trained on"
    print_table("Will the thumb go up?", ("", "AUC", "log loss"), rows, about)


if __name__ == "__main__":
    run_example("conversation", ABOUT, "a CSV log of conversations", main)
