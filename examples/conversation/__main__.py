"""`make example-conversation`."""

from __future__ import annotations

import asyncio
from functools import partial

import numpy as np

from evercurrent.cli.evaluate import Service, serve
from evercurrent.models.adaptive import Adaptive, TrainerSettings, replay, split_users, train
from examples.common import Arguments, console, run_example, serving
from examples.conversation.live import AT_NIGHT, AT_ONCE, NEVER, converse
from examples.conversation.log import log_at_random, read_log
from examples.conversation.report import plot_predictions, plot_thumbs, tell_exchange, tell_predictions, tell_thumbs
from examples.conversation.simulator import Conversations, World, simulate

ABOUT = "Chooses replies by each user's thumbs."
WORLD_SEED = 2
SERVED, NIGHTLY = "as served", "state of last night"


def main(arguments: Arguments) -> None:
    """Trains on a log, serves what unseen users said, talks with simulated ones."""
    num_users, num_turns = (120, 40) if arguments.quick else (2_000, 100)
    world, rng = World.draw(WORLD_SEED), np.random.default_rng(arguments.seed)
    if arguments.data is None:
        log = log_at_random(simulate(world, rng, num_users, num_turns), rng)
    else:
        log = read_log(arguments.data)
    training, testing = split_users(log, seed=arguments.seed)
    labels = {log.users[user] for user in testing.active_users.tolist()}
    settings = TrainerSettings(epochs_max=3 if arguments.quick else 8, batch_users=32, learning_rate=6e-3)
    make = partial(Adaptive, features=[f"feature_{at}" for at in range(log.features_NF.shape[1])])
    model = train(
        make, log, arguments.out, seed=arguments.seed, test_users=labels, settings=settings, console=console
    ).model
    stream = testing.stream()
    with serving(model) as address:
        served_NP, _ = asyncio.run(serve(Service(address), stream, 1, console))
        predictions = {SERVED: served_NP[:, 0], NIGHTLY: replay(model, stream).batch_N}
        tell_predictions(stream, predictions, float(training.outcome_N.mean()))
        if arguments.data is not None:
            plot_predictions(stream, predictions, arguments.out / "seen.png")
        else:
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


if __name__ == "__main__":
    run_example("conversation", ABOUT, "a CSV log of conversations", main)
