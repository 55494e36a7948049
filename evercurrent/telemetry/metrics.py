"""Metrics as values, read when somebody asks: recording costs nothing but what the service counts anyway.

Names are OpenTelemetry's (`evercurrent.update.latency`, in s); Prometheus knows them by its own rules
(`evercurrent_update_latency_seconds`). No label ever holds a user.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from evercurrent.telemetry.latency import BOUNDS_US, Distribution

BOUNDS_S = tuple(bound / 1e6 for bound in BOUNDS_US)
"""Upper bounds of the buckets of every histogram of times, from 64 µs to 16.8 s, two to each power of two."""

_SUFFIXES = {"s": "_seconds", "By": "_bytes"}


class Kind(Enum):
    """What a metric's numbers mean: a sum that only grows, how something is now, or times by bucket."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Point:
    """One number, or one distribution of times in seconds, and its labels."""

    value: float | Distribution
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Metric:
    """A name and what is measured under it. `unit` as in UCUM: s, By, or "" for things that are counted."""

    name: str
    kind: Kind
    description: str
    points: tuple[Point, ...]
    unit: str = ""

    @property
    def prometheus_name(self) -> str:
        """By the rules of OpenTelemetry's compatibility with Prometheus."""
        total = "_total" if self.kind is Kind.COUNTER else ""
        return self.name.replace(".", "_") + _SUFFIXES.get(self.unit, "") + total


Reader = Callable[[], Iterable[Metric]]
"""Reads all metrics of a process. To be called where the process serves, on its event loop."""


def counter(name: str, description: str, value: float, unit: str = "") -> Metric:
    """A sum without labels."""
    return Metric(name, Kind.COUNTER, description, (Point(value),), unit)


def gauge(name: str, description: str, value: float, unit: str = "") -> Metric:
    """A number without labels."""
    return Metric(name, Kind.GAUGE, description, (Point(value),), unit)


def labelled(
    kind: Kind, name: str, description: str, label: str, values: Mapping[str, float], unit: str = ""
) -> Metric:
    """A number for each value of one label."""
    return Metric(name, kind, description, tuple(Point(value, {label: key}) for key, value in values.items()), unit)


def times(name: str, description: str, label: str, distributions: Mapping[str, Distribution]) -> Metric:
    """Times for each value of one label."""
    points = tuple(Point(found, {label: key}) for key, found in distributions.items())
    return Metric(name, Kind.HISTOGRAM, description, points, "s")
