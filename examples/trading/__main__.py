"""`make example-trading`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from evercurrent.cli.evaluate import Service, serve
from evercurrent.models.adaptive import Adaptive, TrainerSettings, replay, train
from examples.common import Arguments, console, run_example, serving
from examples.trading.bars import FEATURES
from examples.trading.parts import NIGHT_BARS, recorded, simulated
from examples.trading.report import plot_gains, tell_bounce, tell_costs, tell_scores
from examples.trading.scores import Prediction, blocks_of, ewma_std, realised_std, tuned_decay

ABOUT = "Predicts the distribution of an instrument's next return. No claim of profit."
SETTINGS = TrainerSettings(epochs_max=12, batch_users=16, learning_rate=4e-3, weight_decay=1.0)
"""For few bars: of a recording there are some thousands, and the weights are about as many."""


def main(arguments: Arguments) -> None:
    """Trains, serves bars that came later or of unseen instruments, compares with simpler volatilities."""
    quick = arguments.quick
    parts = simulated(arguments.seed, quick) if arguments.data is None else recorded(arguments.data, quick)
    model = train(
        untrained,
        parts.training,
        arguments.out,
        seed=arguments.seed,
        validation_users=parts.validation_users,
        settings=replace(SETTINGS, epochs_max=2) if quick else SETTINGS,
        console=console,
    ).model
    stream = parts.testing
    with serving(model) as address:
        served_NP, _ = asyncio.run(serve(Service(address), stream, model.prediction_width, console))
    decay = tuned_decay(parts.tuning, partial(ewma_std, parts.tuning))
    realised_decay = tuned_decay(parts.tuning, partial(realised_std, parts.tuning, parts.tuning_realised_N))
    zero_N = np.zeros(len(stream))
    served = Prediction.of(served_NP)
    ewma = Prediction(zero_N, ewma_std(stream, decay))
    predictions = {
        "as served": served,
        "its mean as zero": Prediction(zero_N, served.std_N),
        "state of last night": Prediction.of(replay(model, stream, NIGHT_BARS).batch_NP),
        "never taught": Prediction.of(replay(model, stream, len(stream)).batch_NP),
        f"EWMA, decay {decay:g}": ewma,
        f"of realised, {realised_decay:g}": Prediction(
            zero_N, realised_std(stream, parts.testing_realised_N, realised_decay)
        ),
        "constant": Prediction(zero_N, np.ones(len(stream))),
    }
    block_N = blocks_of(stream, parts.is_one)
    tell_bounce(parts.bounce, parts.left)
    tell_scores(stream, predictions, ewma, block_N)
    tell_costs(stream.outcome_N / parts.tick, served.mean_N / parts.tick, block_N)
    plot_gains(stream, dict(list(predictions.items())[:4:2]), ewma, arguments.out / "seen.png")


def untrained(sizes: Mapping[str, int]) -> Adaptive:
    """The family with a Gaussian head on FEATURES."""
    return Adaptive(sizes, FEATURES, "gaussian", state_size=16, embedding_size=16, hidden_size=8, uses_time=True)


if __name__ == "__main__":
    run_example("trading", ABOUT, "a CSV file of one instrument's trades: timestamp_ms,price,volume", main)
