"""`make example-trading`."""

from __future__ import annotations

import asyncio

import numpy as np

from evercurrent.cli.evaluate import Service, serve
from evercurrent.models.adaptive import Adaptive, LogError, TrainerSettings, by_events_seen, replay, train
from examples.common import Arguments, console, plot_seen, print_table, run_example, seen_bounds, serving
from examples.trading.bars import BAR_TRADES, FEATURES, STRETCH_BARS, Bars, Scale, bars_of, log_of, moving_spreads
from examples.trading.scores import best_decay, log_scores, mean_with_error
from examples.trading.ticks import Ticks, autocorrelation, read_ticks, simulate

ABOUT = "Predicts the distribution of the next return on ticks, and scores it. No claim of profit."
SETTINGS = TrainerSettings(
    batch_users=4, epochs_max=60, patience_epochs=8, learning_rate=1e-3, validation_fraction=0.2, weight_decay=0.01
)
TEST_FRACTION = 0.3


def untrained(_: object) -> Adaptive:
    """A mean and a standard deviation of features and time."""
    return Adaptive({}, FEATURES, "gaussian", state_size=16, embedding_size=16, hidden_size=8)


def main(arguments: Arguments) -> None:
    """Trains on the earlier part of each instrument, serves the later."""
    num_instruments, num_trades = (3, 120_000) if arguments.quick else (8, 240_000)
    if arguments.data is None:
        instruments = simulate(num_instruments, num_trades, arguments.seed)
    else:
        instruments = [read_ticks(arguments.data)]
    earlier, later = zip(*(_cut(bars_of(ticks)) for ticks in instruments), strict=True)
    scale = Scale.of(earlier)
    training, testing = log_of(earlier, scale, STRETCH_BARS), log_of(later, scale)
    settings = TrainerSettings(epochs_max=2, batch_users=16) if arguments.quick else SETTINGS
    model = train(untrained, training, arguments.out, seed=arguments.seed, settings=settings, console=console).model
    with serving(model) as address:
        served_NP, _ = asyncio.run(serve(Service(address), testing, 2, console))
    still_NP = replay(model, testing, night_events=1 << 30).batch_NP
    outcome_N = testing.outcome_N
    moving_N = moving_spreads(later, scale, best_decay(earlier, scale, training.outcome_N))
    scores = {
        "as served": log_scores(outcome_N, served_NP[:, 0], served_NP[:, 1]),
        "a state that never learns": log_scores(outcome_N, still_NP[:, 0], still_NP[:, 1]),
        "moving average of squares": log_scores(outcome_N, 0.0, moving_N),
        "always the same spread": log_scores(outcome_N, 0.0, float(training.outcome_N.std())),
    }
    places = testing.by_user()
    rows = []
    for name, score_N in scores.items():
        gain, error = mean_with_error(score_N - scores["moving average of squares"], arguments.seed, places)
        rows.append((name, f"{score_N.mean():.4f}", f"{gain:+.4f}", f"{error:.4f}"))
    caption = f"{len(testing):,} bars of {BAR_TRADES} trades, later than all that was trained on"
    print_table("Log score of the next return, nats a bar", ("", "score", "gain", "± error"), rows, caption)
    _tell_worth(instruments, scale, served_NP, outcome_N)
    bounds = seen_bounds(max(user.size for user in places), 20)
    gains = {
        name: by_events_seen(testing, score_N - scores["moving average of squares"], bounds)
        for name, score_N in scores.items()
        if name in ("as served", "a state that never learns")
    }
    path = arguments.out / "seen.png"
    plot_seen(bounds, gains, path, "Beside a moving average", "gain in log score, nats", "bars before")


def _cut(bars: Bars) -> tuple[Bars, Bars]:
    """The earlier part, and the later. Raises LogError."""
    at = int((1 - TEST_FRACTION) * bars.price_T.size)
    if at < 2 * STRETCH_BARS:
        raise LogError(f"{bars.price_T.size} bars of {BAR_TRADES} trades are too few")
    return bars.part(0, at), bars.part(at, bars.price_T.size)


def _tell_worth(instruments: list[Ticks], scale: Scale, served_NP: np.ndarray, outcome_N: np.ndarray) -> None:
    """What the figures do not mean."""
    ticks = instruments[0]
    bounce = autocorrelation(np.diff(ticks.price_N))
    beyond = autocorrelation(bars_of(ticks).return_T[1:])
    inside = [float((np.abs(outcome_N - served_NP[:, 0]) < k * served_NP[:, 1]).mean()) for k in (1, 2)]
    told = float(np.abs(served_NP[:, 0]).mean()) * scale.spread
    console.print(
        f"Returns correlate by {bounce:+.2f} from trade to trade (prices bounce between bid and ask), "
        f"by {beyond:+.2f} from bar to bar.\n"
        f"Within one and two predicted spreads: {inside[0]:.1%} and {inside[1]:.1%} (normal: 68.3%, 95.4%).\n"
        f"The mean predicted move is {told:.4f}; to cross the spread once costs {ticks.tick:g} or more, "
        "both ways twice that, and fees.\nNothing here is a claim of profit.",
        soft_wrap=True,
    )


if __name__ == "__main__":
    run_example("trading", ABOUT, "a CSV log of trades", main)
