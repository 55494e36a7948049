"""`make example-trading`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from evercurrent.cli.evaluate import Service, serve
from evercurrent.models.adaptive import Adaptive, EventLog, TrainerSettings, by_events_seen, replay, train
from examples.common import Arguments, console, plot_seen, print_table, run_example, seen_bounds, serving
from examples.trading.bars import BAR_TRADES, FEATURES
from examples.trading.parts import NIGHT_BARS, Parts, recorded, simulated
from examples.trading.scores import Estimate, blocks_of, estimate, ewma_std, log_score, tuned_decay
from examples.trading.ticks import Doubles, Ints

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
    stream = parts.testing.stream()
    with serving(model) as address:
        served, _ = asyncio.run(serve(Service(address), stream, model.prediction_width, console))
    served_NP = served.astype(np.float64)
    night_NP = replay(model, stream, NIGHT_BARS).batch_NP.astype(np.float64)
    never_NP = replay(model, stream, len(stream)).batch_NP.astype(np.float64)
    decay = tuned_decay(parts.tuning)
    zero_N = np.zeros(len(stream))
    predictions: dict[str, tuple[Doubles, Doubles]] = {
        "as served": (served_NP[:, 0], served_NP[:, 1]),
        "its mean as zero": (zero_N, served_NP[:, 1]),
        "state of last night": (night_NP[:, 0], night_NP[:, 1]),
        "never taught": (never_NP[:, 0], never_NP[:, 1]),
        f"EWMA, decay {decay:g}": (zero_N, ewma_std(stream, decay)),
        "constant": (zero_N, zero_N + 1.0),
    }
    score = {name: log_score(mean_N, std_N, stream.outcome_N) for name, (mean_N, std_N) in predictions.items()}
    ewma_N = score[f"EWMA, decay {decay:g}"]
    _tell_bounce(parts)
    block_N = blocks_of(stream, parts.is_one)
    _tell_scores(stream, predictions, score, ewma_N, block_N)
    _tell_costs(stream.outcome_N / parts.tick, served_NP[:, 0] / parts.tick, block_N)
    bounds = seen_bounds(max(places.size for places in stream.by_user()), 8)
    curves = {name: by_events_seen(stream, score[name] - ewma_N, bounds) for name in list(predictions)[:4:2]}
    title, seen = "Gain over an EWMA of squared returns", "bars of the instrument before"
    plot_seen(bounds, curves, arguments.out / "seen.png", title, "log score gain, nats a bar", seen)


def untrained(sizes: Mapping[str, int]) -> Adaptive:
    """The family with a Gaussian head on FEATURES."""
    return Adaptive(sizes, FEATURES, "gaussian", state_size=16, embedding_size=16, hidden_size=8, uses_time=True)


def _tell_bounce(parts: Parts) -> None:
    rows = [("from trade to trade", f"{parts.bounce:+.3f}"), (f"from bar to bar of {BAR_TRADES}", f"{parts.left:+.3f}")]
    print_table("What the bounce between bid and ask leaves", ("", "autocorrelation of returns"), rows)


def _tell_scores(
    stream: EventLog,
    predictions: Mapping[str, tuple[Doubles, Doubles]],
    score: Mapping[str, Doubles],
    ewma_N: Doubles,
    block_N: Ints,
) -> None:
    rows = []
    for name, (mean_N, std_N) in predictions.items():
        sigmas_N = np.abs((stream.outcome_N - mean_N) / std_N)
        gain = estimate(score[name] - ewma_N, block_N)
        within = [f"{np.mean(sigmas_N < sigmas):.1%}" for sigmas in (1, 2)]
        rows.append((name, f"{score[name].mean():.4f}", f"{gain.mean:+.4f} ±{gain.error:.4f}", *within))
    rows.append(("a true Gaussian", "", "", "68.3%", "95.4%"))
    columns = ("", "log score", "gain over EWMA", "< 1 std", "< 2 std")
    about = (
        f"Nats a bar, more is better: {len(stream):,} bars of {BAR_TRADES} trades of {stream.active_users.size} users"
        " whom training never met. ± one standard error."
    )
    print_table("How far will the price move in the next bar?", columns, rows, about)


def _tell_costs(outcome_N: Doubles, mean_N: Doubles, block_N: Ints) -> None:
    """Both in ticks."""
    right = estimate(np.where(outcome_N == 0, np.nan, np.sign(mean_N) == np.sign(outcome_N)), block_N)
    followed = estimate(np.sign(mean_N) * outcome_N, block_N)
    rows = [
        ("moves whose direction the mean has right", _interval(right, ".1%")),
        ("mean return that is predicted, either way, ticks", f"{np.abs(mean_N).mean():.3f}"),
        ("mean return in the direction predicted, ticks", _interval(followed, ".3f")),
        ("what a round trip costs by the spread alone, ticks", "1"),
    ]
    about = "In brackets: 95 % intervals. No claim of profit: fees, queues, delay and impact come on top of the spread."
    print_table("What the mean is worth", ("", ""), rows, about)


def _interval(found: Estimate, form: str) -> str:
    low, high = found.interval
    return f"{found.mean:{form}} [{low:{form}} to {high:{form}}]"


if __name__ == "__main__":
    run_example("trading", ABOUT, "a CSV file of one instrument's trades: timestamp_ms,price,volume", main)
