"""`evercurrent shadow`, `promote`, `rollback` and `quarantine`: versions beside each other, asked of a router."""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Callable
from getpass import getuser
from importlib.util import find_spec
from pathlib import Path
from socket import gethostname
from typing import TypeVar

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from evercurrent.cli.errors import CommandError
from evercurrent.cli.routers import Router
from evercurrent.v1 import admin_pb2, models_pb2

TIMEOUT_S = 90.0
"""Longer than the router gives its workers."""

STARTS = {"migrated": models_pb2.SHADOW_START_MIGRATED, "initial": models_pb2.SHADOW_START_INITIAL}
MODES = {"manual": models_pb2.POLICY_MODE_MANUAL, "auto": models_pb2.POLICY_MODE_AUTO}
SCORES = {"brier": models_pb2.SCORE_BRIER, "log": models_pb2.SCORE_LOG, "model": models_pb2.SCORE_MODEL}
ROLES = {models_pb2.MODEL_ROLE_SHADOW: "shadow", models_pb2.MODEL_ROLE_STANDBY: "standby"}
VERDICTS = {models_pb2.VERDICT_BETTER: "better", models_pb2.VERDICT_WORSE: "worse"}

R = TypeVar("R")
Points = dict[str, list[tuple[int, float, float, float]]]
"""By version: events, mean, low, high."""


def change_models(router: Router, who: str | None, why: str, **change: object) -> None:
    """Has the router make one change, and says what runs now."""
    request = admin_pb2.ChangeModelsRequest(who=who or user_name(), why=why, **change)  # type: ignore[arg-type]
    with router.admin() as stub:
        response: admin_pb2.ChangeModelsResponse = stub.ChangeModels(request, timeout=TIMEOUT_S)
    console = Console()
    console.print(f"{response.control.change.what}: revision {response.control.revision}", markup=False)
    took = f"{len(response.workers)} workers follow after {response.change_ms:.1f} ms"
    console.print(f"{took} (made ready in {response.prepare_ms:.1f} ms); live is {response.control.live}", markup=False)
    if response.missing_workers:
        missing = ", ".join(response.missing_workers)
        console.print(f"Not reached, they follow when they see it in the store: {missing}.", markup=False)


def user_name() -> str:
    """Whoever runs this, for the audit trail."""
    return f"{getuser()}@{gethostname()}"


def watch(
    router: Router, version: str, interval_s: float, plot: Path | None, json_file: Path | None, until_verdict: bool
) -> None:
    """Shows how versions compare, until Ctrl-C or, if asked, until each has a verdict. Then writes the plot."""
    if plot is not None and find_spec("matplotlib") is None:
        raise CommandError("--plot needs matplotlib: pip install 'evercurrent[plot]'")
    request = admin_pb2.WatchComparisonRequest(version=version, interval_ms=round(1000 * interval_s))
    points: Points = defaultdict(list)
    console = Console()
    try:
        with router.admin() as stub, Live(console=console, refresh_per_second=4) as live:
            for seen in stub.WatchComparison(request):
                live.update(_view(seen))
                _note(points, seen)
                verdicts = [one.verdict for one in seen.comparisons]
                if until_verdict and verdicts and all(verdicts):
                    break
    except KeyboardInterrupt:
        pass
    finally:
        if json_file is not None:
            rows = {name: [list(point) for point in line] for name, line in points.items()}
            json_file.write_text(json.dumps(rows))
        if plot is not None:
            _plot(points, plot)
            console.print(f"plot: {plot}", markup=False)


def show_quarantined(router: Router) -> None:
    """Prints a table."""
    with router.admin() as stub:
        listed: admin_pb2.ListQuarantinedResponse = stub.ListQuarantined(
            admin_pb2.ListQuarantinedRequest(), timeout=TIMEOUT_S
        )
    console = Console()
    if listed.users:
        table = Table("user", "namespace", "worker", "version")
        for user in listed.users:
            table.add_row(Text(user.user_id), Text(user.namespace), Text(user.worker), f"{user.version}")
        console.print(table)
    else:
        console.print("Nobody is quarantined.")
    if listed.missing_workers:
        console.print(f"Not reached, their users are missing: {', '.join(listed.missing_workers)}.", markup=False)


def release_quarantined(router: Router, user: str, namespace: str) -> None:
    """Has a user learn again."""
    with router.admin() as stub:
        request = admin_pb2.ReleaseQuarantinedRequest(user_id=user, namespace=namespace)
        stub.ReleaseQuarantined(request, timeout=TIMEOUT_S)
    Console().print(f"{user} learns again.", markup=False)


FACTS: dict[str, Callable[[models_pb2.Comparison], str]] = {
    "role": lambda one: ROLES.get(one.sums.role, "") + _part(one.sums),
    "verdict": lambda one: VERDICTS.get(one.verdict, "none yet"),
    "better by": lambda one: f"{one.score.mean:+.5f}",
    "  at least": lambda one: f"{one.score.low:+.5f}",
    "  at most": lambda one: f"{one.score.high:+.5f}",
    "level": lambda one: f"{one.level:.3g}",
    "events compared": lambda one: f"{one.sums.score.count:,}",
    "mean score": lambda one: _mean(one.sums.score_sum, one.sums.score.count),
    "  of the live one": lambda one: _mean(one.sums.live_score_sum, one.sums.score.count),
    "users": lambda one: f"{one.sums.users:,}",
    "updates": lambda one: f"{one.sums.updates:,}",
    "  refused": lambda one: f"{one.sums.rejected:,}",
    "  errors": lambda one: f"{one.sums.errors:,}",
    "step, ms": lambda one: _mean(one.sums.step_us / 1000, one.sums.steps, 3),
    "events waiting": lambda one: f"{one.sums.backlog:,}",
    "users shed": lambda one: f"{one.sums.shed_users:,}",
    "events missed": lambda one: f"{one.sums.missed_events:,}",
}
"""What the table says of a version, a line each."""


def _view(seen: admin_pb2.WatchComparisonResponse) -> Group:
    if not seen.comparisons:
        return Group(Text(f"Nothing runs beside {seen.live}. Ctrl-C ends."))
    table = Table(f"beside {seen.live}")
    for one in seen.comparisons:
        table.add_column(Text(one.sums.version), justify="right", overflow="fold")
    for name, said in FACTS.items():
        table.add_row(name, *(said(one) for one in seen.comparisons))
    return Group(table, Text("The bounds hold at all times at once, but for a chance of level. Ctrl-C ends."))


def _part(sums: models_pb2.VersionSums) -> str:
    return f" {sums.fraction:.1%}" if sums.role == models_pb2.MODEL_ROLE_SHADOW else ""


def _mean(total: float, count: int, digits: int = 5) -> str:
    return f"{total / count:.{digits}f}" if count else "-"


def _note(points: Points, seen: admin_pb2.WatchComparisonResponse) -> None:
    for one in seen.comparisons:
        line = points[one.sums.version]
        if one.sums.score.count and (not line or line[-1][0] != one.sums.score.count):
            line.append((one.sums.score.count, one.score.mean, one.score.low, one.score.high))


def _plot(points: Points, path: Path) -> None:
    """The sequence of each version, narrowing with its events."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 5), layout="constrained")
    top = 0.0
    for name, line in points.items():
        counts, means, lows, highs = zip(*line, strict=True)
        (drawn,) = axes.plot(counts, means, label=name)
        axes.fill_between(counts, lows, highs, alpha=0.2, color=drawn.get_color())
        late = [max(abs(low), abs(high)) for low, high in list(zip(lows, highs, strict=True))[len(lows) // 4 :]]
        top = max(top, *late)
    axes.axhline(0, color="black", linewidth=0.8)
    if 0 < top < math.inf:
        axes.set_ylim(-1.1 * top, 1.1 * top)
    axes.set_xlabel("events compared")
    axes.set_ylabel("better than the live version by (score)")
    axes.set_title(f"confidence sequences, {time.strftime('%Y-%m-%d %H:%M')}")
    if points:
        axes.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
