"""What the example prints: what the bounce leaves, how well returns are predicted, what the mean is worth.

Letters: N events.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from evercurrent.models.adaptive import EventLog, by_events_seen
from examples.common import plot_seen, print_table, seen_bounds
from examples.trading.bars import BAR_TRADES
from examples.trading.scores import Estimate, Prediction, estimate
from examples.trading.ticks import Doubles, Ints


def tell_bounce(trades: float, bars: float) -> None:
    """Prints autocorrelations."""
    rows = [("from trade to trade", f"{trades:+.3f}"), (f"from bar to bar of {BAR_TRADES}", f"{bars:+.3f}")]
    print_table("What the bounce between bid and ask leaves", ("", "autocorrelation of returns"), rows)


def tell_scores(log: EventLog, predictions: Mapping[str, Prediction], ewma: Prediction, block_N: Ints) -> None:
    """Prints how well each predicts a log, and how often it was as sure as it should be."""
    outcome_N, rows = log.outcome_N, []
    for name, each in predictions.items():
        score_N = each.score(outcome_N)
        gain = estimate(score_N - ewma.score(outcome_N), block_N)
        sigmas_N = np.abs((outcome_N - each.mean_N) / each.std_N)
        within = [f"{np.mean(sigmas_N < sigmas):.1%}" for sigmas in (1, 2)]
        rows.append((name, f"{score_N.mean():.4f}", f"{gain.mean:+.4f} ±{gain.error:.4f}", *within))
    rows.append(("a true Gaussian", "", "", "68.3%", "95.4%"))
    about = (
        f"Nats a bar, more is better: {len(log):,} bars of {BAR_TRADES} trades, {log.active_users.size} users that "
        "training never met. ± one standard error."
    )
    columns = ("", "log score", "gain over EWMA", "< 1 std", "< 2 std")
    print_table("How far will the price move in the next bar?", columns, rows, about)


def tell_costs(outcome_N: Doubles, mean_N: Doubles, block_N: Ints) -> None:
    """Prints what following the mean of each bar would bring before costs, and the least of these. Both in ticks."""
    right = estimate(np.where(outcome_N == 0, np.nan, np.sign(mean_N) == np.sign(outcome_N)), block_N)
    followed = estimate(np.sign(mean_N) * outcome_N, block_N)
    rows = [
        ("moves whose direction the mean has right", _interval(right, ".1%")),
        ("return that is predicted, either way, ticks", f"{np.abs(mean_N).mean():.3f}"),
        ("return in the direction predicted, ticks", _interval(followed, ".3f")),
        ("a round trip costs, by the spread alone, ticks", "1"),
    ]
    about = "Means of all bars, with 95 % intervals. No claim of profit: fees, queues, delay and impact come on top."
    print_table("What the mean is worth", ("", ""), rows, about)


def plot_gains(log: EventLog, predictions: Mapping[str, Prediction], ewma: Prediction, path: Path) -> None:
    """Writes gains over an EWMA against the bars seen before as PNG."""
    bounds = seen_bounds(max(places.size for places in log.by_user()), 8)
    ewma_N = ewma.score(log.outcome_N)
    curves = {
        name: by_events_seen(log, each.score(log.outcome_N) - ewma_N, bounds) for name, each in predictions.items()
    }
    title, seen = "Gain over an EWMA of squared returns", "bars of the instrument before"
    plot_seen(bounds, curves, path, title, "log score gain, nats a bar", seen)


def _interval(found: Estimate, form: str) -> str:
    low, high = found.interval
    return f"{found.mean:{form}} [{low:{form}} to {high:{form}}]"
