"""Which bars are for training and which for testing: of simulated instruments, or of one that was recorded.

A simulated market is split by instrument. A recorded one is split in time: its first part is cut into stretches, each a
user who begins anew; what follows is served to users of whom nothing was known.

Where a bar begins is chance, and a recording's trades are few: its bars are cut at PHASES places, each a user of its
own. They are the same trades, so the errors of what is measured on them are of blocks of all of them together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evercurrent.models.adaptive import EventLog, LogError
from examples.trading.bars import BAR_TRADES, Bars, Scale, bars_of, event_log, mirrored, scale_of
from examples.trading.market import Market, simulate
from examples.trading.ticks import Doubles, Ticks, autocorrelation, read_ticks

TRAINING_SHARE = 0.65
STRETCH_BARS = 200
TRADES_MIN = 220_000
PHASES = 8
VALIDATION_EVERY = 5
NIGHT_BARS = 100


@dataclass(frozen=True, slots=True)
class Parts:
    """`training` has all users to fit and those who choose the epoch, `tuning` those of them that do not overlap, for
    what has one parameter. `testing` is as it arrives. Beside both, the realised variance of the bar before each event,
    whose mean in training is 1. `is_one`: the users for testing are the same trades. `bounce`, `left`: autocorrelations
    of the returns of trades and of bars, means of instruments. `tick`: in the unit of outcomes, a mean of what is
    tested."""

    training: EventLog
    validation_users: frozenset[str]
    tuning: EventLog
    tuning_realised_N: Doubles
    testing: EventLog
    testing_realised_N: Doubles
    is_one: bool
    bounce: float
    left: float
    tick: float


def simulated(seed: int, quick: bool) -> Parts:
    """Instruments of a market, a third of them for testing."""
    num_training, num_testing, num_bars = (8, 4, 60) if quick else (60, 30, 300)
    market = simulate(Market(), num_training + num_testing, num_bars * BAR_TRADES, seed)
    bars = [bars_of(ticks) for ticks in market]
    of_each = [[each] for each in bars[:num_training]]
    return _parts(of_each, bars[num_training:], market)


def recorded(path: Path, quick: bool) -> Parts:
    """One instrument's earlier and later trades. Raises LogError."""
    ticks = read_ticks(path)
    if len(ticks) < TRADES_MIN or not ticks.tick_size > 0:
        raise LogError(f"{path} has {len(ticks)} trades: at least {TRADES_MIN} at changing prices are needed")
    cut = int(len(ticks) * TRAINING_SHARE)
    earlier, later = ticks.at(slice(0, cut)), ticks.at(slice(cut, None))
    firsts = range(0, BAR_TRADES, BAR_TRADES if quick else BAR_TRADES // PHASES)
    phases = [bars_of(earlier, first) for first in firsts]
    of_each = [
        [
            bars.at(slice(start, start + STRETCH_BARS), f"bars from {start}, phase {at}")
            for at, bars in enumerate(phases)
        ]
        for start in range(0, min(map(len, phases)) - STRETCH_BARS + 1, STRETCH_BARS)
    ]
    testing = [bars_of(later, first) for first in firsts]
    named = [bars.at(slice(None), f"later bars, phase {at}") for at, bars in enumerate(testing)]
    return _parts(of_each, named, [ticks], is_one=True)


def _parts(
    of_each: Sequence[Sequence[Bars]], testing: Sequence[Bars], market: Sequence[Ticks], is_one: bool = False
) -> Parts:
    """Of instruments or stretches for training, each at all its phases."""
    every = [bars for phases in of_each for bars in phases]
    chosen = [bars.name for phases in of_each[2::VALIDATION_EVERY] for bars in phases]
    scale = scale_of(every)
    training = mirrored(event_log(every, scale))
    tuning = [phases[0] for phases in of_each]
    tested = event_log(testing, scale)
    arrives_N = np.argsort(tested.order_N, kind="stable")
    return Parts(
        training=training,
        validation_users=frozenset(name for name in training.users if name.removesuffix(" mirrored") in chosen),
        tuning=event_log(tuning, scale),
        tuning_realised_N=_realised(tuning, scale),
        testing=tested.at(arrives_N),
        testing_realised_N=_realised(testing, scale)[arrives_N],
        is_one=is_one,
        bounce=float(np.mean([autocorrelation(np.diff(np.log(ticks.price_T))) for ticks in market])),
        left=float(np.mean([autocorrelation(bars_of(ticks).return_N) for ticks in market])),
        tick=float(np.concatenate([bars.tick_N for bars in testing]).mean() / scale.unit),
    )


def _realised(bars: Sequence[Bars], scale: Scale) -> Doubles:
    realised_N: Doubles = np.concatenate([each.realised_N[:-1] for each in bars])
    return realised_N / (scale.unit**2 * scale.realised)
