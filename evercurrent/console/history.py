"""What the console has seen, for its charts. Pure; bounded in time."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from evercurrent.console.overview import Overview

LOOKS_MAX = 900
"""A quarter of an hour of looks a second apart."""
SEQUENCE_MAX = 2000
"""Points of a version's sequence; when there are more, every other one goes."""

STAGES = ("route", "queue", "hydrate", "step", "reply")


@dataclass(frozen=True, slots=True)
class Look:
    """One look in numbers; `clock` is the time of day. None where nothing was measured."""

    clock: str
    p50_ms: float | None
    p99_ms: float | None
    p999_ms: float | None
    stages_p99_ms: tuple[float | None, ...]
    updates_per_s: float
    at_risk: int
    lag_ms: float


@dataclass(slots=True)
class Sequence:
    """A version beside the live one: by events compared, how much better it was, at least and at most."""

    events: list[int] = field(default_factory=list)
    mean: list[float] = field(default_factory=list)
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)

    def add(self, events: int, mean: float, low: float, high: float) -> None:
        """The next point; the same number of events as before, or fewer, adds none."""
        if not events or (self.events and events <= self.events[-1]):
            return
        self.events.append(events)
        self.mean.append(mean)
        self.low.append(low)
        self.high.append(high)
        if len(self.events) > SEQUENCE_MAX:
            del self.events[1:-1:2], self.mean[1:-1:2], self.low[1:-1:2], self.high[1:-1:2]


class History:
    """Looks, oldest first, and the sequences of the versions that run beside the live one now."""

    def __init__(self) -> None:
        self.looks: deque[Look] = deque(maxlen=LOOKS_MAX)
        self.sequences: dict[str, Sequence] = {}
        self._live = ""

    def add(self, seen: Overview, clock: str) -> None:
        """One more look."""
        total = seen.latency.get("total")
        is_measured = total is not None and total.count > 0
        self.looks.append(
            Look(
                clock,
                total.p50_ms if total is not None and is_measured else None,
                total.p99_ms if total is not None and is_measured else None,
                total.p999_ms if total is not None and is_measured else None,
                tuple(seen.latency[stage].p99_ms if is_measured else None for stage in STAGES),
                sum(seen.updates_per_s.values()),
                seen.updates_at_risk,
                seen.journal_lag_ms,
            )
        )
        if seen.live != self._live:
            self.sequences.clear()
            self._live = seen.live
        running = {one.sums.version: one for one in seen.comparisons}
        self.sequences = {version: self.sequences.get(version, Sequence()) for version in running}
        for version, one in running.items():
            self.sequences[version].add(one.sums.score.count, one.score.mean, one.score.low, one.score.high)
