"""The console's charts, as ECharts takes them. Pure."""

from __future__ import annotations

from typing import Any

from evercurrent.console.history import STAGES, History
from evercurrent.console.ring import COLORS

Options = dict[str, Any]

INK, FAINT = "#c9d4e8", "#33415c"


def latency(history: History) -> Options:
    """Percentiles of the update latency over time."""
    looks = history.looks
    return _over_time(
        history,
        "ms",
        [
            _line("P50", COLORS[2], [look.p50_ms for look in looks]),
            _line("P99", COLORS[0], [look.p99_ms for look in looks], width=3),
            _line("P99.9", COLORS[1], [look.p999_ms for look in looks]),
        ],
    )


def stages(history: History) -> Options:
    """The P99 of each stage over time."""
    lines = [
        _line(stage, COLORS[at], [look.stages_p99_ms[at] for look in history.looks], area=0.15)
        for at, stage in enumerate(STAGES)
    ]
    return _over_time(history, "ms", lines)


def durability(history: History) -> Options:
    """How far what is durable is behind what is applied, over time."""
    looks = history.looks
    lag = _line("journal lag, ms", COLORS[3], [look.lag_ms for look in looks], area=0.15)
    at_risk = _line("updates at risk", COLORS[4], [look.at_risk for look in looks])
    at_risk["yAxisIndex"] = 1
    options = _over_time(history, "ms", [lag, at_risk])
    options["yAxis"] = [_axis("ms"), {**_axis("updates"), "splitLine": {"show": False}}]
    return options


def sequences(history: History) -> Options:
    """How much better than the live version each other was so far, and between what it is for sure."""
    series: list[Options] = []
    for at, (version, line) in enumerate(history.sequences.items()):
        color = COLORS[at % len(COLORS)]
        low = {**_line(f"{version} at least", color, _pairs(line.events, line.low)), "stack": version}
        band = [high - low for high, low in zip(line.high, line.low, strict=True)]
        high = {**_line(f"{version} at most", color, _pairs(line.events, band), area=0.25), "stack": version}
        for bound in (low, high):
            bound["lineStyle"] = {"width": 0}
            # A band that reaches over zero is one band: ECharts would stack its parts apart.
            bound["stackStrategy"] = "all"
        series += [low, high, _line(version, color, _pairs(line.events, line.mean), width=3)]
    if series:
        series[-1]["markLine"] = {
            "silent": True,
            "symbol": "none",
            "label": {"show": False},
            "lineStyle": {"color": INK, "type": "dashed"},
            "data": [{"yAxis": 0}],
        }
    options = _basis(series)
    options["legend"]["data"] = list(history.sequences)
    options["xAxis"] = {**_axis("events compared"), "nameLocation": "middle", "nameGap": 26, "scale": True}
    options["yAxis"] = _axis("better by")
    del options["tooltip"]
    return options


def _pairs(xs: list[int], ys: list[float]) -> list[list[float]]:
    return [[x, y] for x, y in zip(xs, ys, strict=True)]


def _over_time(history: History, unit: str, series: list[Options]) -> Options:
    options = _basis(series)
    options["xAxis"] = {
        "type": "category",
        "data": [look.clock for look in history.looks],
        "axisLabel": {"color": INK},
        "axisLine": {"lineStyle": {"color": FAINT}},
    }
    options["yAxis"] = _axis(unit)
    return options


def _basis(series: list[Options]) -> Options:
    return {
        "animation": False,
        "grid": {"left": 56, "right": 56, "top": 44, "bottom": 44},
        "legend": {"textStyle": {"color": INK}, "top": 4},
        "tooltip": {"trigger": "axis"},
        "series": series,
    }


def _axis(name: str) -> Options:
    return {
        "type": "value",
        "name": name,
        "nameTextStyle": {"color": INK},
        "axisLabel": {"color": INK},
        "splitLine": {"lineStyle": {"color": FAINT}},
    }


def _line(name: str, color: str, data: list[Any], width: int = 2, area: float = 0.0) -> Options:
    line: Options = {
        "name": name,
        "type": "line",
        "showSymbol": False,
        "data": data,
        "itemStyle": {"color": color},
        "lineStyle": {"width": width},
    }
    if area:
        line["areaStyle"] = {"opacity": area}
    return line
