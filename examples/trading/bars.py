"""Bars of trades, what is known when one closes, and the log that a model learns from.

A bar is BAR_TRADES trades: well beyond the bounce, of which its return keeps next to nothing. At the close of a bar all
that is known is features, and the return of the bar that begins then is the outcome: `tests/examples` hold that no
feature changes by a later trade. What sizes are usual (Scale) is computed from bars for training alone.

Letters: N bars or events, T trades, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from evercurrent.models.adaptive import EventLog, Ids
from examples.trading.ticks import Doubles, Ints, Ticks

BAR_TRADES = 200
SPARSE_TRADES = 25
"""So many trades apart, prices bounce little: their squares, added up, are a bar's realised variance (Zhang, Mykland
and Aït-Sahalia 2005, https://doi.org/10.1198/016214505000000169)."""
NEAR_TRADES, FAR_TRADES = 10, 50
DECAY_LATELY, DECAY_LONG = 0.8, 0.95
SIGNED = ("return", "above the last trades", "above the trades before")
SIZED = ("realised", "realised lately", "realised for long", "jumps", "volume", "squares lately", "squares for long")
FEATURES = (*SIGNED, *SIZED)
FEATURE_MAX = 4.0
_FLOOR = 0.05
"""Of a variance, in units squared: a bar whose price stood still is not infinitely calm."""


@dataclass(frozen=True, slots=True)
class Bars:
    """N bars of one instrument, each known at its close. `above_near_N`, `above_far_N`: the last price less the mean of
    the last NEAR_TRADES or FAR_TRADES, as log returns; `realised_N`, `jumps_N`: sums of squared log returns,
    SPARSE_TRADES apart and from trade to trade. `tick_N`: a tick as a log return."""

    name: str
    close_us_N: Ints
    return_N: Doubles
    above_near_N: Doubles
    above_far_N: Doubles
    realised_N: Doubles
    jumps_N: Doubles
    volume_N: Doubles
    tick_N: Doubles

    def __len__(self) -> int:
        return self.return_N.size

    def at(self, places: slice, name: str) -> Bars:
        """Some of them in a row, under another name."""
        columns = {field: getattr(self, field)[places] for field in self.__slots__ if field != "name"}
        return Bars(name, **columns)


def bars_of(ticks: Ticks, first: int = 0) -> Bars:
    """Cuts trades from number `first` on into bars; what is left at the end is none. The first bar is dropped, for no
    price before it is known."""
    num_bars = (len(ticks) - first) // BAR_TRADES
    used = slice(first, first + num_bars * BAR_TRADES)
    log_NT = np.log(ticks.price_T[used]).reshape(num_bars, BAR_TRADES)
    close_N = log_NT[:, -1]
    flat = log_NT.ravel()

    def squares(apart: int) -> Doubles:
        square_T: Doubles = np.zeros_like(flat)
        square_T[apart:] = np.square(flat[apart:] - flat[:-apart]) / apart
        sum_N: Doubles = square_T.reshape(num_bars, BAR_TRADES).sum(1)
        return sum_N

    bars = Bars(
        name=ticks.name,
        close_us_N=ticks.time_us_T[used].reshape(num_bars, BAR_TRADES)[:, -1],
        return_N=np.diff(close_N, prepend=np.nan),
        above_near_N=close_N - log_NT[:, -NEAR_TRADES:].mean(1),
        above_far_N=close_N - log_NT[:, -FAR_TRADES:].mean(1),
        realised_N=squares(SPARSE_TRADES),
        jumps_N=squares(1),
        volume_N=ticks.volume_T[used].reshape(num_bars, BAR_TRADES).sum(1),
        tick_N=ticks.tick_size / np.exp(close_N),
    )
    return bars.at(slice(1, None), ticks.name)


def recent(value_N: Doubles, decay: float, before: float) -> Doubles:
    """The exponentially weighted mean of each value and those before it, as if `before` had been the one until then."""
    mean_N, mean = np.empty_like(value_N), before
    for at, value in enumerate(value_N.tolist()):
        mean = decay * mean + (1 - decay) * value
        mean_N[at] = mean
    return mean_N


@dataclass(frozen=True, slots=True)
class Scale:
    """What is usual: the standard deviation of a bar's return, which is the unit of outcomes; means, of sums of squares
    in that unit, and of volumes; mean and standard deviation of each feature, signed ones' means zero."""

    unit: float
    realised: float
    jumps: float
    volume: float
    mean_F: Doubles
    std_F: Doubles


def scale_of(bars: Sequence[Bars]) -> Scale:
    """Of bars for training."""

    def mean_of(column: str) -> float:
        return float(np.concatenate([getattr(each, column) for each in bars]).mean())

    unit = float(np.sqrt(np.square(np.concatenate([each.return_N for each in bars])).mean()))
    zero_F, one_F = np.zeros(len(FEATURES)), np.ones(len(FEATURES))
    raw = Scale(unit, mean_of("realised_N") / unit**2, mean_of("jumps_N") / unit**2, mean_of("volume_N"), zero_F, one_F)
    feature_NF = np.concatenate([_features(each, raw) for each in bars])
    mean_F = feature_NF.mean(0)
    mean_F[: len(SIGNED)] = 0.0
    return replace(raw, mean_F=mean_F, std_F=np.sqrt(np.square(feature_NF - mean_F).mean(0)))


def event_log(bars: Sequence[Bars], scale: Scale) -> EventLog:
    """A user of each instrument or stretch, an event at each close but the last: features known then, and the return of
    the bar that begins, in units."""
    lengths = [len(each) - 1 for each in bars]
    time_us_N = np.concatenate([each.close_us_N[:-1] for each in bars])
    return EventLog(
        user_N=np.repeat(np.arange(len(bars)), lengths),
        order_N=time_us_N.astype(np.float64),
        time_us_N=time_us_N,
        ids_NK=np.zeros((time_us_N.size, 0), np.int64),
        features_NF=np.concatenate([features_of(each, scale)[:-1] for each in bars]),
        outcome_N=np.concatenate([each.return_N[1:] / scale.unit for each in bars]).astype(np.float32),
        users=tuple(each.name for each in bars),
        ids=Ids({}),
    )


def mirrored(log: EventLog) -> EventLog:
    """The same events and, by users of their own, their mirror images, where what rose falls: who learns from both
    learns no trend of the time it was taught in."""
    signs_F = np.array([-1.0 if name in SIGNED else 1.0 for name in FEATURES], np.float32)
    return replace(
        log,
        user_N=np.concatenate((log.user_N, log.user_N + len(log.users))),
        order_N=np.tile(log.order_N, 2),
        time_us_N=np.tile(log.time_us_N, 2),
        ids_NK=np.tile(log.ids_NK, (2, 1)),
        features_NF=np.concatenate((log.features_NF, log.features_NF * signs_F)),
        outcome_N=np.concatenate((log.outcome_N, -log.outcome_N)),
        users=(*log.users, *(f"{name} mirrored" for name in log.users)),
    )


def features_of(bars: Bars, scale: Scale) -> np.ndarray:
    """What is known at each close [N, F], float32 of about unit size."""
    feature_NF = (_features(bars, scale) - scale.mean_F) / scale.std_F
    return feature_NF.clip(-FEATURE_MAX, FEATURE_MAX).astype(np.float32)


def _features(bars: Bars, scale: Scale) -> Doubles:
    unit = scale.unit
    realised_N, square_N = bars.realised_N / unit**2, np.square(bars.return_N / unit)
    columns = {
        "return": bars.return_N / unit,
        "above the last trades": bars.above_near_N / unit,
        "above the trades before": bars.above_far_N / unit,
        "realised": _log_std(realised_N),
        "realised lately": _log_std(recent(realised_N, DECAY_LATELY, scale.realised)),
        "realised for long": _log_std(recent(realised_N, DECAY_LONG, scale.realised)),
        "jumps": _log_std(bars.jumps_N / unit**2),
        "volume": np.log(bars.volume_N / scale.volume),
        "squares lately": _log_std(recent(square_N, DECAY_LATELY, 1.0)),
        "squares for long": _log_std(recent(square_N, DECAY_LONG, 1.0)),
    }
    return np.stack([columns[name] for name in FEATURES], axis=1)


def _log_std(variance_N: Doubles) -> Doubles:
    log_N: Doubles = 0.5 * np.log(variance_N + _FLOOR)
    return log_N
