"""The console's page and the server behind it. One observer looks at the router, however many browsers look at it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from html import escape

import grpc
from nicegui import app, background_tasks, ui

from evercurrent.console import charts
from evercurrent.console.history import History
from evercurrent.console.overview import Observer, Overview
from evercurrent.console.ring import color_of, ring_svg
from evercurrent.v1 import admin_pb2, models_pb2

INTERVAL_S = 1.0

STATES = {
    admin_pb2.WORKER_STATE_UP: "up",
    admin_pb2.WORKER_STATE_DOWN: "down",
    admin_pb2.WORKER_STATE_DRAINING: "draining",
}
VERDICTS = {models_pb2.VERDICT_BETTER: "provably better", models_pb2.VERDICT_WORSE: "provably worse"}

STYLE = """
body { background: #0d1420; color: #c9d4e8; }
.panel { background: #141d2e; border: 1px solid #22304a; border-radius: 10px; padding: 14px 16px; }
.panel h2 { font-size: .8rem; line-height: 1.4; font-weight: 600; margin: 0 0 6px; color: #8fa2c4; }
.figure { font-size: 2.1rem; font-weight: 650; line-height: 1.1; color: #fff; }
.figure-name { font-size: .78rem; color: #8fa2c4; }
.ring-number { fill: #fff; font-size: 30px; font-weight: 650; }
.ring-unit { fill: #8fa2c4; font-size: 13px; }
.trouble { background: #5c1f2a; color: #fff; border-radius: 8px; padding: 8px 14px; }
table.plain { border-collapse: collapse; width: 100%; font-size: .86rem; font-variant-numeric: tabular-nums; }
table.plain th { text-align: right; font-weight: 500; color: #8fa2c4; padding: 3px 8px; }
table.plain td { text-align: right; padding: 3px 8px; border-top: 1px solid #22304a; }
table.plain th:first-child, table.plain td:first-child { text-align: left; }
.chip { display: inline-block; width: 10px; height: 10px; border-radius: 3px; margin-right: 8px; }
"""


class Watcher:
    """Looks every INTERVAL_S and keeps what it saw. `trouble` says why there is nothing new."""

    def __init__(self, observer: Observer) -> None:
        self.history = History()
        self.seen: Overview | None = None
        self.trouble = ""
        self._observer = observer

    async def watch(self) -> None:
        """For ever."""
        while True:
            try:
                self.seen = await asyncio.to_thread(self._observer.look)
                self.trouble = ""
                self.history.add(self.seen, time.strftime("%H:%M:%S"))
            except grpc.RpcError as error:
                self.trouble = f"The router does not answer ({error.code().name}: {error.details()}). Trying again."
            await asyncio.sleep(INTERVAL_S)


def serve(observer: Observer, router: str, host: str, port: int) -> None:
    """Serves the page until Ctrl-C or SIGTERM."""
    watcher = Watcher(observer)

    def begin() -> None:
        # NiceGUI keeps the task, logs what it fails with, and ends it with the server.
        background_tasks.create(watcher.watch(), name="watch the router")

    app.on_startup(begin)

    @ui.page("/")
    def _page() -> None:
        _build(watcher, router)

    ui.run(host=host, port=port, title="evercurrent", dark=True, show=False, reload=False, show_welcome_message=False)


def _build(watcher: Watcher, router: str) -> None:
    """One browser's page; it is brought up to date while it is open."""
    ui.add_css(STYLE)
    updates: list[Callable[[Overview], None]] = []
    with ui.column().classes("w-full gap-4 p-4"):
        with ui.row().classes("items-baseline gap-3"):
            ui.label("evercurrent").classes("text-xl font-bold text-white")
            ui.label(f"router {router}").classes("figure-name")
        trouble = ui.label().classes("trouble")
        with ui.row().classes("w-full gap-4 no-wrap"):
            updates.append(_figures())
        with ui.row().classes("w-full gap-4 no-wrap items-stretch"):
            updates.append(_chart("Update latency, last minute", lambda: charts.latency(watcher.history)))
            updates.append(_chart("P99 by stage", lambda: charts.stages(watcher.history)))
        with ui.row().classes("w-full gap-4 no-wrap items-stretch"):
            updates.append(_ring())
            updates.append(_workers())
        with ui.row().classes("w-full gap-4 no-wrap items-stretch"):
            updates.append(_chart("Durability", lambda: charts.durability(watcher.history)))
            updates.append(_versions(watcher.history))

    def refresh() -> None:
        trouble.set_text(watcher.trouble)
        trouble.set_visibility(bool(watcher.trouble))
        if watcher.seen is not None:
            for update in updates:
                update(watcher.seen)

    refresh()
    ui.timer(INTERVAL_S, refresh)


def _figures() -> Callable[[Overview], None]:
    shown = {}
    for name in ("P99 update latency", "P50", "updates/s", "sessions", "updates at risk", "journal lag"):
        with ui.element("div").classes("panel grow"):
            shown[name] = ui.label("–").classes("figure")
            ui.label(name).classes("figure-name")

    def update(seen: Overview) -> None:
        total = seen.latency.get("total")
        if total is not None and total.count:
            shown["P99 update latency"].set_text(f"{total.p99_ms:.2f} ms")
            shown["P50"].set_text(f"{total.p50_ms:.2f} ms")
        shown["updates/s"].set_text(f"{sum(seen.updates_per_s.values()):,.0f}")
        shown["sessions"].set_text(f"{seen.router.sessions:,}")
        shown["updates at risk"].set_text(f"{seen.updates_at_risk:,}")
        shown["journal lag"].set_text(f"{seen.journal_lag_ms:,.0f} ms")

    return update


def _panel(title: str) -> ui.element:
    panel = ui.element("div").classes("panel grow basis-0 min-w-0")
    with panel:
        ui.html(f"<h2>{title}</h2>", sanitize=False)
    return panel


def _chart(title: str, options: Callable[[], charts.Options]) -> Callable[[Overview], None]:
    with _panel(title):
        chart = ui.echart(options()).classes("w-full h-64")

    def update(_: Overview) -> None:
        chart.options.clear()
        chart.options.update(options())
        chart.update()

    return update


def _ring() -> Callable[[Overview], None]:
    with ui.element("div").classes("panel").style("width: 360px"):
        ui.html("<h2>Ring: slots outside, load inside</h2>", sanitize=False)
        shown = ui.html("", sanitize=False)
        digest = ui.label().classes("figure-name")

    def update(seen: Overview) -> None:
        names = [member.name for member in seen.ring.members]
        shown.set_content(ring_svg(names, seen.ring.slots, seen.updates_per_s))
        digest.set_text(f"digest {seen.ring.digest}")

    return update


def _workers() -> Callable[[Overview], None]:
    with _panel("Workers"):
        workers = ui.html("", sanitize=False)
        ui.html("<h2 style='margin-top: 18px'>Hot users</h2>", sanitize=False)
        users = ui.html("", sanitize=False)

    def update(seen: Overview) -> None:
        members = {member.name: (at, member) for at, member in enumerate(seen.ring.members)}
        rows = []
        for worker in seen.workers:
            at, member = members.get(worker.name, (0, None))
            chip = color_of(at) if member is not None else "transparent"
            share = member.num_slots / seen.ring.num_slots if member is not None else 0.0
            rows.append(
                [
                    f'<span class="chip" style="background:{chip}"></span>{escape(worker.name)}',
                    STATES.get(worker.state, "?"),
                    f"{share:.1%}",
                    f"{seen.updates_per_s.get(worker.name, 0.0):,.0f}",
                    f"{worker.residents:,}",
                    f"{worker.open_sessions:,}",
                    f"{worker.updates_at_risk:,}",
                    f"{worker.journal_lag_ms:,.0f}",
                ]
            )
        heads = ("worker", "state", "share", "updates/s", "residents", "sessions", "at risk", "lag ms")
        workers.set_content(_table(heads, rows))
        users.set_content(
            _table(
                ("user", "worker", "events/s", "step ms/s"),
                [
                    [
                        escape(user.user_id),
                        escape(user.worker),
                        f"{user.events_per_s:,.1f}",
                        f"{user.step_ms_per_s:,.2f}",
                    ]
                    for user in seen.users
                ],
            )
        )

    return update


def _versions(history: History) -> Callable[[Overview], None]:
    with _panel("Versions beside the live one: better by, with bounds that hold at all times"):
        said = ui.html("", sanitize=False)
        chart = ui.echart(charts.sequences(history)).classes("w-full h-52")

    def update(seen: Overview) -> None:
        rows = [
            [
                escape(one.sums.version),
                VERDICTS.get(one.verdict, "no verdict yet"),
                f"{one.score.mean:+.5f}",
                f"{one.score.low:+.5f}",
                f"{one.score.high:+.5f}",
                f"{one.sums.score.count:,}",
            ]
            for one in seen.comparisons
        ]
        heads = (f"beside {escape(seen.live or 'the live version')}", "verdict", "mean", "low", "high", "events")
        said.set_content(_table(heads, rows) if rows else "Nothing runs beside the live version.")
        chart.options.clear()
        chart.options.update(charts.sequences(history))
        chart.set_visibility(bool(rows))
        chart.update()

    return update


def _table(heads: tuple[str, ...], rows: list[list[str]]) -> str:
    head = "".join(f"<th>{name}</th>" for name in heads)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<table class="plain"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
