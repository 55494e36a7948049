"""Trades of an instrument as they were printed: reading them, and what bouncing between bid and ask leaves in them.

Letters: T trades.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from evercurrent.models.adaptive import LogError, log_name, read_number, read_rows

COLUMNS = ("timestamp_ms", "price", "volume")
_US_PER_MS = 1_000

Ints = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Ticks:
    """T trades of one instrument in their order. `time_us_T`: since the Unix epoch, never backwards."""

    name: str
    time_us_T: Ints
    price_T: Doubles
    volume_T: Doubles

    def __len__(self) -> int:
        return self.price_T.size

    def at(self, places: slice) -> Ticks:
        """Some of them in a row."""
        return Ticks(self.name, self.time_us_T[places], self.price_T[places], self.volume_T[places])

    @property
    def tick_size(self) -> float:
        """The smallest change of the price: what a round trip from bid to ask and back costs at least. NaN: none."""
        change_T = np.abs(np.diff(self.price_T))
        return float(change_T[change_T > 0].min(initial=math.inf)) if change_T.any() else math.nan


def read_ticks(path: Path) -> Ticks:
    """Reads a CSV file, plain or gzip, with the columns COLUMNS. Raises LogError."""
    row_TC = np.array(list(_trades(path))).reshape(-1, len(COLUMNS))
    if not len(row_TC):
        raise LogError(f"{path} has no trades")
    time_us_T = np.rint(row_TC[:, 0] * _US_PER_MS).astype(np.int64)
    return Ticks(log_name(path), time_us_T, row_TC[:, 1], row_TC[:, 2])


def autocorrelation(value_N: npt.ArrayLike, lag: int = 1) -> float:
    """Of values with those `lag` places before."""
    values = np.asarray(value_N, np.float64)
    return float(np.corrcoef(values[lag:], values[:-lag])[0, 1])


def _trades(path: Path) -> Iterator[list[float]]:
    before_ms = 0.0
    for line, cells in read_rows(path, COLUMNS):
        numbers = [
            read_number(path, line, name, cell, (math.ulp(0.0), math.inf), "a number above 0")
            for name, cell in zip(COLUMNS, cells, strict=True)
        ]
        if numbers[0] < before_ms:
            raise LogError(f"{path} line {line}: timestamp_ms is earlier than in the line before")
        before_ms = numbers[0]
        yield numbers
