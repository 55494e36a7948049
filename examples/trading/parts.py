"""Which bars are for training and which for testing: of simulated instruments, or of one that was recorded.

A simulated market is split by instrument. A recorded one is split in time: its first part is cut into stretches, each a
user who begins anew, and all that follows is one user of whom nothing was known.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evercurrent.models.adaptive import EventLog, LogError
from examples.trading.bars import BAR_TRADES, Bars, bars_of, event_log, mirrored, scale_of
from examples.trading.market import Market, simulate
from examples.trading.ticks import Ticks, autocorrelation, read_ticks

TRAINING_SHARE = 0.65
STRETCH_BARS = 100
PHASES = 8
NIGHT_BARS = 100


@dataclass(frozen=True, slots=True)
class Parts:
    """`training` has all users to fit, `tuning` those of them that do not overlap, for what has one parameter.
    `bounce`, `left`: autocorrelations of returns of trades and of bars, means of instruments. `tick`: in the unit of
    outcomes, a mean of what is tested. `epochs`: at most so many to train."""

    training: EventLog
    tuning: EventLog
    testing: EventLog
    bounce: float
    left: float
    tick: float
    epochs: int


def simulated(seed: int, quick: bool) -> Parts:
    """Instruments of a market, a third of them for testing."""
    num_training, num_testing, num_bars = (8, 4, 60) if quick else (60, 30, 300)
    market = simulate(Market(), num_training + num_testing, num_bars * BAR_TRADES, seed)
    bars = [bars_of(ticks) for ticks in market]
    return _parts(bars[:num_training], bars[:num_training], bars[num_training:], market, epochs=12)


def recorded(path: Path) -> Parts:
    """One instrument's earlier and later trades. Bars for training are cut at PHASES places, for where a bar begins is
    chance. Raises LogError."""
    ticks = read_ticks(path)
    cut = int(len(ticks) * TRAINING_SHARE)
    least = 4 * STRETCH_BARS * BAR_TRADES
    if cut < least or not ticks.tick_size > 0:
        raise LogError(f"{path} has {len(ticks)} trades: at least {int(least / TRAINING_SHARE) + 1} at changing prices")
    earlier, later = ticks.at(slice(0, cut)), ticks.at(slice(cut, None))
    phases = [bars_of(earlier, phase * BAR_TRADES // PHASES) for phase in range(PHASES)]
    stretches = [_stretches(bars, f"phase {phase}") for phase, bars in enumerate(phases)]
    every = [stretch for of_phase in stretches for stretch in of_phase]
    return _parts(every, stretches[0], [bars_of(later)], [ticks], epochs=8)


def _stretches(bars: Bars, name: str) -> list[Bars]:
    starts = range(0, len(bars) - STRETCH_BARS + 1, STRETCH_BARS)
    return [bars.at(slice(start, start + STRETCH_BARS), f"{name}, bar {start}") for start in starts]


def _parts(training: list[Bars], tuning: list[Bars], testing: list[Bars], market: list[Ticks], epochs: int) -> Parts:
    scale = scale_of(training)
    return Parts(
        training=mirrored(event_log(training, scale)),
        tuning=event_log(tuning, scale),
        testing=event_log(testing, scale),
        bounce=float(np.mean([autocorrelation(np.diff(np.log(ticks.price_T))) for ticks in market])),
        left=float(np.mean([autocorrelation(bars_of(ticks).return_N) for ticks in market])),
        tick=float(np.concatenate([bars.tick_N for bars in testing]).mean() / scale.unit),
        epochs=epochs,
    )
