"""The contract of every bench's numbers."""

from __future__ import annotations

import io
import json
import math
import re

import pytest
from rich.console import Console

from bench import report
from bench.report import Metric, Report
from bench.stats import Interval

METRICS = (Metric("speed_per_s", 60_123.4, "how fast"), Metric("wait_ms", 0.75, "how long"))


def test_the_numbers_are_flat_and_stand_with_what_they_were_measured_on() -> None:
    text = Report("latency", "abc", "2 × a processor", 7, METRICS).json()
    assert json.loads(text) == {
        "name": "latency",
        "commit": "abc",
        "machine": "2 × a processor",
        "seed": 7,
        "metrics": {"speed_per_s": 60_123.4, "wait_ms": 0.75},
    }


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_none_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="wait_ms"):
        Report("latency", "abc", "m", 1, (Metric("wait_ms", value, ""),)).json()


def test_two_metrics_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="one name"):
        Report("latency", "abc", "m", 1, (*METRICS, METRICS[0])).json()


def test_a_comparison_comes_with_its_interval_and_its_equal_arms() -> None:
    metrics = report.interval("x", Interval(1.5, 1.4, 1.6), Interval(1.01, 0.9, 1.1), "a ratio")
    assert {metric.name: metric.value for metric in metrics} == {"x": 1.5, "x_lo": 1.4, "x_hi": 1.6, "x_aa": 1.01}


def test_the_table_shows_every_metric_and_where_it_was_measured() -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(Report("latency", "abc", "2 × a processor", 7, METRICS).table())
    text = console.export_text()
    for part in ("speed_per_s", "60,123", "wait_ms", "0.75", "how long", "abc", "2 × a processor", "seed 7"):
        assert part in text


def test_the_commit_is_that_of_the_checkout() -> None:
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?|unknown", report.commit())


def test_the_machine_is_one_line_that_names_what_ran() -> None:
    machine = report.machine()
    assert "\n" not in machine
    assert all(name in machine for name in ("GiB", "Python", *report.VERSIONS))
