"""Trades, one by one: read, or made up. A log is a CSV file (may be .gz): timestamp_ms, price, volume.

Letters: N trades.
"""

from __future__ import annotations

import csv
import gzip
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from evercurrent.models.adaptive import LogError

COLUMNS = ("timestamp_ms", "price", "volume")
BEGIN_MS = 1_700_000_000_000
TICK = 0.25

Reals = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Ticks:
    """The trades of one instrument, in order."""

    name: str
    time_ms_N: npt.NDArray[np.int64]
    price_N: Reals
    volume_N: Reals

    def __len__(self) -> int:
        return self.price_N.size

    @property
    def tick(self) -> float:
        """The least step of the price: what crossing the spread once costs, and more where it is wider."""
        steps = np.abs(np.diff(self.price_N))
        return float(steps[steps > 0].min()) if (steps > 0).any() else math.nan


def read_ticks(path: Path) -> Ticks:
    """Raises LogError."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            rows = csv.reader(file)
            header = next(rows, [])
            missing = [name for name in COLUMNS if name not in header]
            if missing:
                raise LogError(f"{path} lacks the column {missing[0]}: its header must name {', '.join(COLUMNS)}")
            places = [header.index(name) for name in COLUMNS]
            trades = [_trade(path, line, row, places) for line, row in enumerate(rows, start=2)]
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as exc:
        raise LogError(f"{path} cannot be read as CSV: {exc}") from exc
    if not trades:
        raise LogError(f"{path} has no trades")
    trades_N3 = np.array(trades)
    return Ticks(path.name, trades_N3[:, 0].astype(np.int64), trades_N3[:, 1], trades_N3[:, 2])


def _trade(path: Path, line: int, row: list[str], places: list[int]) -> tuple[float, ...]:
    try:
        trade = tuple(float(row[place]) for place in places)
    except (IndexError, ValueError) as exc:
        raise LogError(f"{path} line {line}: {', '.join(COLUMNS)} must be numbers") from exc
    if not all(math.isfinite(value) for value in trade):
        raise LogError(f"{path} line {line}: {', '.join(COLUMNS)} must be numbers")
    return trade


def simulate(num_instruments: int, num_trades: int, seed: int) -> list[Ticks]:
    """Instruments whose volatility has a level of its own, moods that pass and others that last; trades at bid or ask,
    on a grid of TICK. Made up: figures on them say that the system works, nothing about markets."""
    rng = np.random.default_rng(seed)
    return [_instrument(rng, f"made-up-{seed}-{number}", num_trades) for number in range(num_instruments)]


def _instrument(rng: np.random.Generator, name: str, num_trades: int) -> Ticks:
    slow, fast = (_moods(rng, num_trades, memory) for memory in (20_000.0, 500.0))
    step_N = np.exp(rng.normal(-3.0, 0.4) + 0.5 * slow + 0.5 * fast)
    worth_N = 1000.0 + np.cumsum(step_N * rng.standard_t(6, num_trades))
    side_N = rng.choice((-0.5, 0.5), num_trades)
    price_N = TICK * np.round(worth_N / TICK + side_N)
    gap_ms_N = 1 + rng.exponential(400.0 * np.exp(-0.5 * fast), num_trades).astype(np.int64)
    return Ticks(name, BEGIN_MS + np.cumsum(gap_ms_N), price_N, rng.geometric(0.3, num_trades).astype(np.float64))


def _moods(rng: np.random.Generator, num_trades: int, memory: float) -> Reals:
    """A number of spread 1 that is forgotten over so many trades; drawn every fiftieth and led over in lines."""
    every = 50
    num_knots = num_trades // every + 2
    stays = math.exp(-every / memory)
    knots = np.empty(num_knots)
    knots[0] = rng.normal()
    for knot in range(1, num_knots):
        knots[knot] = stays * knots[knot - 1] + math.sqrt(1 - stays * stays) * rng.normal()
    return np.interp(np.arange(num_trades), every * np.arange(num_knots), knots)


def autocorrelation(return_N: Reals) -> float:
    """Of returns with the ones before: below zero where prices bounce between bid and ask."""
    return float(np.corrcoef(return_N[:-1], return_N[1:])[0, 1])
