"""A report's plots and its page: from what benches wrote to PNG files and one HTML file that holds them all.

Runs are what benches wrote with --json, each with the `step` of the report that it is (`bench.reporting`).
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from bench.comparing import Spread, spreads
from bench.report import display

Runs = Sequence[Mapping[str, Any]]
Metrics = Mapping[str, Spread]

OURS, FLOOR, INK = "#2f6fde", "#9aa3b2", "#1b2433"
STAGE_COLORS = ("#2f6fde", "#8e5bd6", "#d65b8e", "#e08a2f", "#58a97c", "#c9ced6", "#e6e8ec")
TAIL = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p999": 99.9}
_AT = re.compile(r"at_(\d+)_per_s_(p50|p99)_ms")


def write_plots(folder: Path, runs: Runs) -> list[Path]:
    """The plots that these runs have the figures for, as PNG files."""
    by_step: dict[str, dict[str, Spread]] = {}
    for (step, metric), spread in spreads(runs).items():
        by_step.setdefault(step, {})[metric] = spread
    written = []
    for name, draw in PLOTS.items():
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        axes = figure.subplots()
        if draw(axes, by_step):
            written.append(folder / f"{name}.png")
            figure.savefig(written[-1], dpi=130)
    return written


def _load(axes: Axes, by_step: Mapping[str, Metrics]) -> bool:
    """Latency against load, with the knee."""
    drawn = False
    for step, color in (("knee-sessions", OURS), ("knee-exchange", STAGE_COLORS[3])):
        metrics = by_step.get(step, {})
        points = sorted(
            (int(found[1]), found[2], spread.median)
            for name, spread in metrics.items()
            if (found := _AT.fullmatch(name))
        )
        for percentile, style in (("p50", ":"), ("p99", "-")):
            line = [(rate, ms) for rate, which, ms in points if which == percentile]
            if line:
                axes.plot(
                    *zip(*line, strict=True), style, color=color, marker="o", label=f"{step[5:]}, {percentile.upper()}"
                )
                drawn = True
        if points:
            knee = metrics["saturation_per_s"].median
            axes.axvline(knee, color=color, linewidth=0.8, linestyle="--")
            axes.annotate(f"{knee:,.0f}/s", (knee, axes.get_ylim()[1]), color=color, ha="right", va="top", rotation=90)
    axes.set(xscale="log", yscale="log", xlabel="offered updates a second", ylabel="ms from the intended send")
    _plain(axes.xaxis)
    _plain(axes.yaxis)
    axes.set_title("Latency against load; dashed: the highest rate that holds the P99 asked for")
    if drawn:
        axes.legend()
    return drawn


def _tail(axes: Axes, by_step: Mapping[str, Metrics]) -> bool:
    """Percentile curves, each with what its runs differed by."""
    drawn = False
    for step, color in (("load-sessions", OURS), ("load-exchange", STAGE_COLORS[3])):
        metrics = by_step.get(step, {})
        if "p999_ms" not in metrics:
            continue
        at = [1 / (1 - percent / 100) for percent in TAIL.values()]
        found = [metrics[f"{name}_ms"] for name in TAIL]
        axes.plot(
            at,
            [each.median for each in found],
            color=color,
            marker="o",
            label=f"{step[5:]}, {metrics['offered_per_s'].median:,.0f}/s",
        )
        axes.fill_between(at, [each.low for each in found], [each.high for each in found], color=color, alpha=0.15)
        drawn = True
    axes.set(xscale="log", yscale="log", xlabel="percentile", ylabel="ms from the intended send")
    axes.set_xticks(
        [1 / (1 - percent / 100) for percent in TAIL.values()], [f"P{percent:g}" for percent in TAIL.values()]
    )
    axes.minorticks_off()
    _plain(axes.yaxis)
    axes.set_title("Percentiles of the update latency; shaded: least and greatest of the runs")
    if drawn:
        axes.legend()
    return drawn


def _stages(axes: Axes, by_step: Mapping[str, Metrics]) -> bool:
    """Where updates spend their time, all of them and those about the P50 and the P99."""
    bars = [
        (f"{step[5:]}\n{name.upper()}", by_step[step], name)
        for step in ("load-sessions", "load-exchange")
        for name in ("mean", "p50", "p99")
        if f"{name}_step_ms" in by_step.get(step, {})
    ]
    left = [0.0] * len(bars)
    stages = ("rest", "held", "client", "route", "queue", "hydrate", "step")
    for stage, color in zip(stages, reversed(STAGE_COLORS), strict=True):
        # A closed loop has no `client`, and what is measured may be more than the whole.
        found = [metrics.get(f"{name}_{stage}_ms") for _, metrics, name in bars]
        widths = [0.0 if each is None else max(0.0, each.median) for each in found]
        axes.barh([label for label, _, _ in bars], widths, left=left, color=color, label=stage)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.set(xlabel="ms", title="Where an update's time goes")
    axes.invert_yaxis()
    if bars:
        axes.legend(ncols=5, loc="lower center", bbox_to_anchor=(0.5, -0.32))
    return bool(bars)


def _peers(axes: Axes, by_step: Mapping[str, Metrics]) -> bool:
    """Ours over theirs, with the intervals over the pairs."""
    found = [(name, spread) for name, spread in by_step.get("peers", {}).items() if "_vs_" in name]
    for at, (name, spread) in enumerate(found):
        is_better = spread.median > 1 if "throughput" in name else spread.median < 1
        axes.barh(at, spread.median - 1, left=1, color=OURS if is_better else STAGE_COLORS[3])
        axes.plot([spread.low, spread.high], [at, at], color=INK, linewidth=1.5)
        axes.annotate(f" {display(spread.median)}×", (spread.high, at), va="center")
    axes.set_yticks(range(len(found)), [name.replace("_", " ") for name, _ in found])
    axes.axvline(1, color=INK, linewidth=0.8)
    axes.margins(x=0.2)
    axes.set(xscale="log", xlabel="ours over theirs", title="Beside what one would use instead; blue: ours is better")
    _plain(axes.xaxis)
    axes.invert_yaxis()
    return bool(found)


def _gaps(axes: Axes, by_step: Mapping[str, Metrics]) -> bool:
    """The longest pauses of users."""
    named = {
        ("rolling", "gap_p99_ms"): "worker restarted, P99",
        ("rolling", "gap_max_ms"): "worker restarted, longest",
        ("rolling", "router_gap_max_ms"): "router restarted, longest",
        ("failover", "recovery_p99_ms"): "worker killed, P99",
        ("failover", "zombie_recovery_p99_ms"): "worker hangs, P99",
    }
    found = [(label, by_step[step][name]) for (step, name), label in named.items() if name in by_step.get(step, {})]
    axes.barh([label for label, _ in found], [spread.median for _, spread in found], color=OURS)
    for at, (_, spread) in enumerate(found):
        axes.annotate(f" {display(spread.median)} ms", (spread.median, at), va="center")
    axes.margins(x=0.2)
    axes.set(xlabel="ms", title="How long users wait while the service changes or fails")
    axes.invert_yaxis()
    return bool(found)


def _plain(axis: Axis) -> None:
    """Numbers as they are said, on a logarithmic axis too: 1, 2 and 5 of each power of ten; of more than four powers,
    these alone."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1.0,) if high > 1e4 * low else (1.0, 2.0, 5.0)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter("{x:,g}")


PLOTS: dict[str, Callable[[Axes, Mapping[str, Metrics]], bool]] = {
    "load": _load,
    "percentiles": _tail,
    "stages": _stages,
    "peers": _peers,
    "gaps": _gaps,
}


def page(runs: Runs, failures: Mapping[str, str], plots: Iterable[Path], commit: str, machine: str) -> str:
    """The page. It needs no other file."""
    body = [f"<h1>evercurrent benches</h1><p>commit {html.escape(commit)}<br>{html.escape(machine)}</p>"]
    for plot in plots:
        encoded = base64.b64encode(plot.read_bytes()).decode()
        body.append(f'<img alt="{html.escape(plot.stem)}" src="data:image/png;base64,{encoded}">')
    body += [
        f"<h2>{html.escape(step)}</h2><p class=bad>did not run: {html.escape(why)}</p>"
        for step, why in failures.items()
    ]
    found: dict[str, list[str]] = {}
    for (step, metric), spread in spreads(runs).items():
        between = f"{display(spread.low)} to {display(spread.high)}" if spread.is_known else ""
        found.setdefault(step, []).append(f"<tr><td>{html.escape(metric)}<td>{display(spread.median)}<td>{between}")
    for step, rows in found.items():
        columns = "<tr><th>metric<th>value<th>between"
        body.append(f"<h2>{html.escape(step)}</h2><table>{columns}{''.join(rows)}</table>")
    head = f"<meta charset=utf-8><title>evercurrent benches</title>{_STYLE}"
    return f"<!doctype html><html lang=en>{head}{''.join(body)}</html>\n"


_STYLE = (
    "<style>body{font:15px/1.5 system-ui;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b2433}"
    "img{max-width:100%;display:block;margin:1.5rem 0}table{border-collapse:collapse}"
    "td,th{padding:.15rem .8rem;border-bottom:1px solid #e3e6ec;text-align:left}"
    "td+td{text-align:right;font-variant-numeric:tabular-nums}.bad{color:#b3261e}</style>"
)
