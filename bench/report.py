"""The contract of every bench: flat numbers with the commit, machine and seed that they were measured with.

`{"name", "commit", "machine", "seed", "metrics": {name: number}}` as JSON for machines, a table for people.
"""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from bench.comparing import Change
from bench.stats import Interval, percentile

VERSIONS = ("grpcio", "protobuf", "numpy", "torch", "uvloop")


@dataclass(frozen=True, slots=True)
class Metric:
    """One number, and what it is in words for the table."""

    name: str
    value: float
    meaning: str


@dataclass(frozen=True, slots=True)
class Report:
    """What one run of one bench found."""

    name: str
    commit: str
    machine: str
    seed: int
    metrics: tuple[Metric, ...]

    def json(self) -> str:
        """The contract's text.

        Raises:
            ValueError: a metric is not finite, or two have one name.
        """
        numbers = {metric.name: metric.value for metric in self.metrics}
        if len(numbers) != len(self.metrics):
            raise ValueError("two metrics have one name")
        for name, value in numbers.items():
            if not math.isfinite(value):
                raise ValueError(f"{name} is {value}")
        return json.dumps(
            {
                "name": self.name,
                "commit": self.commit,
                "machine": self.machine,
                "seed": self.seed,
                "metrics": numbers,
            },
            indent=2,
        )

    def table(self) -> Table:
        """The metrics in words."""
        table = Table(title=f"bench {self.name}", caption=f"commit {self.commit} · seed {self.seed}\n{self.machine}")
        table.add_column("metric", no_wrap=True)
        table.add_column("value", justify="right", no_wrap=True)
        table.add_column("what it is")
        for metric in self.metrics:
            table.add_row(metric.name, display(metric.value), metric.meaning)
        return table


def changes_table(changes: Sequence[Change], with_all: bool) -> Table:
    """What has changed, and, if asked for, what has not."""
    told = [change for change in changes if with_all or change.verdict in ("higher", "lower")]
    counts = Counter(change.verdict for change in changes)
    caption = ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items())) or "nothing in common"
    table = Table(title="changes beyond the runs' own spread", caption=caption)
    for column in ("bench", "metric", "before", "after", ""):
        table.add_column(column, no_wrap=True, justify="right" if column in ("before", "after") else "left")
    for change in told:
        sides = (
            f"{display(each.median)} [{display(each.low)}, {display(each.high)}]"
            for each in (change.before, change.after)
        )
        table.add_row(change.bench, change.metric, *sides, change.verdict)
    return table


def display(value: float) -> str:
    """Four significant digits; whole numbers in groups of three."""
    if value == int(value) or abs(value) >= 1000:
        return f"{round(value):,}"
    return f"{value:.4g}"


def interval(name: str, value: Interval, equal_arms: Interval | None, meaning: str) -> list[Metric]:
    """A comparison of two arms: the median over pairs, its interval, and the same figure for two equal arms."""
    metrics = [
        Metric(name, value.median, meaning),
        Metric(f"{name}_lo", value.low, "95% bootstrap interval over the pairs: lower end"),
        Metric(f"{name}_hi", value.high, "upper end"),
    ]
    if equal_arms is not None:
        metrics.append(Metric(f"{name}_aa", equal_arms.median, "the same for two equal arms: what noise alone gives"))
    return metrics


def percentiles(name: str, latencies_ns: NDArray[np.int64], meaning: str) -> list[Metric]:
    """P50 and P99 of latencies, in milliseconds."""
    return [
        Metric(f"{name}_p50_ms", percentile(latencies_ns, 50) / 1e6, meaning),
        Metric(f"{name}_p99_ms", percentile(latencies_ns, 99) / 1e6, f"of {len(latencies_ns):,} events"),
    ]


def metrics_of(*groups: Sequence[Metric]) -> tuple[Metric, ...]:
    """All metrics, in order."""
    return tuple(metric for group in groups for metric in group)


def commit() -> str:
    """The commit of the code that runs, with `-dirty` where tracked files differ from it; `unknown` outside git."""
    head = _git("rev-parse", "HEAD")
    if head is None:
        return "unknown"
    return f"{head}-dirty" if _git("status", "--porcelain", "--untracked-files=no") else head


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def machine() -> str:
    """The machine and what ran on it, in one line."""
    cores = len(os.sched_getaffinity(0))
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = ", ".join(f"{name} {version(name)}" for name in VERSIONS)
    return (
        f"{cores} × {_processor()}, {memory_gib:.1f} GiB, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}, {versions}"
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
