"""Bars of trades as a log: what is known at the end of one, and how far the price goes in the next.

A bar is a fixed number of trades, many more than a bounce between bid and ask lasts.

Letters: N trades, T bars, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evercurrent.models.adaptive import EventLog, Ids
from examples.trading.ticks import Reals, Ticks

BAR_TRADES = 100
STRETCH_BARS = 400
"""Bars of a stretch to train on."""
DECAYS = (0.8, 0.94, 0.985)
FEATURES = ("last", "before", *(f"spread_{decay}" for decay in DECAYS), "pace", "volume")
SPREAD_LEAST = 0.05


@dataclass(frozen=True, slots=True)
class Bars:
    """Bars of one instrument: the price at the end of each, when that was, how long it took, what was traded."""

    price_T: Reals
    time_ms_T: npt.NDArray[np.int64]
    lasted_ms_T: Reals
    volume_T: Reals

    @property
    def return_T(self) -> Reals:
        """How far the price went in each bar; nothing in the first."""
        return np.diff(self.price_T, prepend=self.price_T[:1])

    def part(self, begin: int, end: int) -> Bars:
        """Some successive ones."""
        at = slice(begin, end)
        return Bars(self.price_T[at], self.time_ms_T[at], self.lasted_ms_T[at], self.volume_T[at])


def bars_of(ticks: Ticks, num_trades: int = BAR_TRADES) -> Bars:
    """What is left over at the end is no bar."""
    num_bars = len(ticks) // num_trades
    last_T = num_trades * np.arange(1, num_bars + 1) - 1
    volume_T = ticks.volume_N[: num_bars * num_trades].reshape(num_bars, num_trades).sum(1)
    time_ms_T = ticks.time_ms_N[last_T]
    lasted_ms_T = np.diff(time_ms_T, prepend=ticks.time_ms_N[:1]).astype(np.float64)
    return Bars(ticks.price_N[last_T], time_ms_T, lasted_ms_T, volume_T)


@dataclass(frozen=True, slots=True)
class Scale:
    """What a typical bar is, of those trained on: the spread of returns, its length, its volume."""

    spread: float
    lasted_ms: float
    volume: float

    @classmethod
    def of(cls, all_bars: Sequence[Bars]) -> Scale:
        """Of bars to train on, all together."""
        returns = np.concatenate([bars.return_T for bars in all_bars])
        lasted = np.concatenate([bars.lasted_ms_T for bars in all_bars])
        volumes = np.concatenate([bars.volume_T for bars in all_bars])
        return cls(float(returns.std()), float(np.median(lasted)) + 1.0, float(np.median(volumes)) + 1.0)


def known(bars: Bars, scale: Scale) -> npt.NDArray[np.float32]:
    """What is known at the end of each bar [T, F], from it and those before alone."""
    return_T = bars.return_T / scale.spread
    columns = [np.tanh(return_T / 3), np.tanh(np.concatenate(([0.0], return_T[:-1])) / 3)]
    columns += [np.log(moving_spread(return_T, decay) + SPREAD_LEAST) for decay in DECAYS]
    columns.append(np.log1p(bars.lasted_ms_T / scale.lasted_ms) - np.log(2))
    columns.append(np.log1p(bars.volume_T / scale.volume) - np.log(2))
    return np.stack(columns, axis=1).astype(np.float32)


def moving_spread(return_T: Reals, decay: float) -> Reals:
    """The standard deviation [T] that an exponentially weighted mean of squared returns, up to each one, gives; it
    begins at 1, a typical one (RiskMetrics 1996)."""
    variance_T, variance = np.empty(return_T.size), 1.0
    for t, square in enumerate((return_T**2).tolist()):
        variance = decay * variance + (1 - decay) * square
        variance_T[t] = variance
    return np.sqrt(variance_T)


def moving_spreads(all_bars: Sequence[Bars], scale: Scale, decay: float) -> Reals:
    """The same for each event [N] of a log of these bars: what was known before its outcome."""
    return np.concatenate([moving_spread(bars.return_T / scale.spread, decay)[:-1] for bars in all_bars])


def log_of(all_bars: Sequence[Bars], scale: Scale, stretch_bars: int | None = None) -> EventLog:
    """Bars as events. Features are of all bars up to an event's, the outcome is the return of the bar after it, in
    typical spreads. An instrument is a user; with `stretch_bars` each stretch of so many is one, who begins knowing
    nothing: more users to learn from."""
    parts = []
    for bars in all_bars:
        features_TF, outcome_T = known(bars, scale)[:-1], bars.return_T[1:] / scale.spread
        step = stretch_bars or outcome_T.size
        for begin in range(0, outcome_T.size, step):
            end = min(begin + step, outcome_T.size)
            parts.append((features_TF[begin:end], outcome_T[begin:end], bars.time_ms_T[begin:end]))
    lengths = [outcome.size for _, outcome, _ in parts]
    return EventLog(
        user_N=np.repeat(np.arange(len(parts)), lengths),
        order_N=np.concatenate([np.arange(length, dtype=np.float64) for length in lengths]),
        time_us_N=1000 * np.concatenate([time_ms for _, _, time_ms in parts]),
        ids_NK=np.zeros((sum(lengths), 0), np.int64),
        features_NF=np.concatenate([features for features, _, _ in parts]),
        outcome_N=np.concatenate([outcome for _, outcome, _ in parts]).astype(np.float32),
        users=tuple(f"stretch-{number}" for number in range(len(parts))),
        ids=Ids({}),
    )
