"""What two runs of benches differ by: only what is more than the runs' own spread counts as a change. Pure, but for the
reading of files.

A file is what a bench writes with --json, or the report.json of `python -m bench report`, which holds several; of one
bench there may be several runs. A metric's spread reaches from the least to the greatest of its runs and, where the
bench gives it one, of its own interval (x_lo to x_hi). A metric that was measured once and has no interval has no
spread, so nothing is said of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

PARTS = ("_lo", "_hi", "_aa")


@dataclass(frozen=True, slots=True)
class Spread:
    """A metric's median over runs, and between what it lay; `is_known`: whether that says anything."""

    median: float
    low: float
    high: float
    is_known: bool


@dataclass(frozen=True, slots=True)
class Change:
    """One metric in two files."""

    bench: str
    metric: str
    before: Spread
    after: Spread

    @property
    def verdict(self) -> str:
        """What is to be said of it."""
        if not (self.before.is_known and self.after.is_known):
            return "no spread"
        if self.after.low > self.before.high:
            return "higher"
        return "lower" if self.after.high < self.before.low else "same"


def runs_of(path: Path) -> list[Mapping[str, Any]]:
    """The runs in a file.

    Raises:
        ValueError: it is none of a bench.
    """
    found = json.loads(path.read_text())
    runs = found["runs"] if isinstance(found, dict) and "runs" in found else [found]
    for each in runs:
        if not isinstance(each, dict) or not {"name", "metrics"} <= set(each):
            raise ValueError(f"{path} is no file that a bench or a report wrote")
    return list(runs)


def spreads(runs: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], Spread]:
    """The metrics of runs, by bench and name."""
    values: dict[tuple[str, str], list[Mapping[str, float]]] = {}
    for each in runs:
        metrics: Mapping[str, float] = each["metrics"]
        for name in metrics:
            if not _is_part(name, metrics):
                values.setdefault((each.get("step", each["name"]), name), []).append(metrics)
    return {(bench, name): _spread(name, found) for (bench, name), found in values.items()}


def _is_part(name: str, metrics: Mapping[str, float]) -> bool:
    return any(name.endswith(part) and name.removesuffix(part) in metrics for part in PARTS)


def _spread(name: str, runs: Sequence[Mapping[str, float]]) -> Spread:
    values = [metrics[name] for metrics in runs]
    lows = [metrics.get(f"{name}_lo", metrics[name]) for metrics in runs]
    highs = [metrics.get(f"{name}_hi", metrics[name]) for metrics in runs]
    is_known = len(runs) > 1 or f"{name}_lo" in runs[0]
    return Spread(float(np.median(values)), min(lows), max(highs), is_known)


def changes(before: Iterable[Mapping[str, Any]], after: Iterable[Mapping[str, Any]]) -> Iterator[Change]:
    """What both have, in the order of the second."""
    old = spreads(before)
    for (bench, metric), spread in spreads(after).items():
        if (bench, metric) in old:
            yield Change(bench, metric, old[bench, metric], spread)
