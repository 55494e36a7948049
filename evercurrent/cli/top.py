"""`evercurrent top`: the service at a glance, again and again."""

from __future__ import annotations

import time

import grpc
from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from evercurrent.cli.routers import Router
from evercurrent.cli.shadow import VERDICTS
from evercurrent.console.overview import Observer, Overview
from evercurrent.v1 import admin_pb2

STATES = {
    admin_pb2.WORKER_STATE_UP: Text("up", "green"),
    admin_pb2.WORKER_STATE_DOWN: Text("down", "bold red"),
    admin_pb2.WORKER_STATE_DRAINING: Text("draining", "yellow"),
}
BAR_WIDTH = 24


def show_top(router: Router, interval_s: float, num_users: int, once: bool) -> None:
    """Shows it until Ctrl-C, or once. Raises CommandError."""
    console = Console()
    with router.admin() as stub:
        observer = Observer(stub, num_users)
        seen = observer.look()
        if once:
            time.sleep(interval_s)
            console.print(view(observer.look(), router.address))
            return
        with Live(view(seen, router.address), console=console, auto_refresh=False, screen=console.is_terminal) as live:
            try:
                while True:
                    time.sleep(interval_s)
                    live.update(_again(observer, router.address), refresh=True)
            except KeyboardInterrupt:
                return


def _again(observer: Observer, address: str) -> RenderableType:
    """What is seen now; that a router is away for a moment ends nothing."""
    try:
        return view(observer.look(), address)
    except grpc.RpcError as error:
        return Text(f"{address} does not answer: {error.code().name}: {error.details()}. Trying again.", "bold red")


def view(seen: Overview, address: str) -> Group:
    """One look, as tables."""
    parts: list[RenderableType] = [_headline(seen, address), _latency(seen), _workers(seen)]
    if seen.users:
        parts.append(_users(seen))
    if seen.comparisons:
        parts.append(_versions(seen))
    return Group(*parts)


def _headline(seen: Overview, address: str) -> Text:
    router = seen.router
    total = seen.latency.get("total")
    rate = sum(seen.updates_per_s.values())
    p99 = f"P99 {total.p99_ms:.2f} ms" if total is not None and total.count else "no updates in the last minute"
    text = Text()
    text.append(f"{router.name} at {address}  ", "bold")
    text.append(f"{p99}  ", "bold cyan")
    text.append(
        f"{rate:,.0f} updates/s  {router.sessions:,} sessions  ring {seen.ring.digest[:8]}  live {seen.live or '-'}"
    )
    text.append(f"\n{seen.updates_at_risk:,} updates at risk, journal {seen.journal_lag_ms:,.0f} ms behind; ")
    text.append(f"{router.replay_events:,} events ({router.replay_bytes / 2**20:,.1f} MiB) kept for replay; ")
    text.append(f"{router.moving_sessions:,} sessions move, {router.moved_sessions:,} have moved")
    if router.replay_dropped:
        text.append(f"; {router.replay_dropped:,} events given up", "bold red")
    return text


def _latency(seen: Overview) -> Table:
    table = Table("stage", title="update latency, ms, last minute", title_justify="left", box=box.SIMPLE_HEAD)
    for name in ("P50", "P99", "P99.9", "max"):
        table.add_column(name, justify="right")
    table.add_column("P99", width=BAR_WIDTH)
    most = max((summary.p99_ms for summary in seen.latency.values()), default=0.0)
    for stage, summary in seen.latency.items():
        bar = "█" * round(BAR_WIDTH * summary.p99_ms / most) if most else ""
        figures = (summary.p50_ms, summary.p99_ms, summary.p999_ms, summary.max_ms)
        table.add_row(
            stage, *(f"{figure:,.2f}" for figure in figures), Text(bar, "cyan"), style="bold" * (stage == "total")
        )
    return table


def _workers(seen: Overview) -> Table:
    table = Table(title="workers", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("worker", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for name in ("slots", "share", "updates/s", "residents", "sessions", "waiting", "at risk", "lag ms"):
        table.add_column(name, justify="right")
    on_ring = {member.name: member for member in seen.ring.members}
    for worker in seen.workers:
        member = on_ring.get(worker.name)
        share = member.num_slots / seen.ring.num_slots if member is not None else 0.0
        table.add_row(
            Text(worker.name),
            STATES.get(worker.state, Text("?")),
            f"{worker.owned_slots:,}",
            f"{share:.1%}",
            f"{seen.updates_per_s.get(worker.name, 0.0):,.0f}",
            f"{worker.residents:,}",
            f"{worker.open_sessions:,}",
            f"{worker.in_flight_events:,}",
            f"{worker.updates_at_risk:,}",
            f"{worker.journal_lag_ms:,.0f}",
        )
    return table


def _users(seen: Overview) -> Table:
    table = Table("user", "worker", title="hot users", title_justify="left", box=box.SIMPLE_HEAD)
    for name in ("events/s", "step ms/s", "of its worker's"):
        table.add_column(name, justify="right")
    for user in seen.users:
        figures = f"{user.events_per_s:,.1f}", f"{user.step_ms_per_s:,.2f}", f"{user.step_share:.1%}"
        table.add_row(Text(user.user_id), Text(user.worker), *figures)
    return table


def _versions(seen: Overview) -> Table:
    table = Table("version", "verdict", title=f"beside {seen.live}", title_justify="left", box=box.SIMPLE_HEAD)
    for name in ("better by", "at least", "at most", "events"):
        table.add_column(name, justify="right")
    for one in seen.comparisons:
        figures = (f"{figure:+.5f}" for figure in (one.score.mean, one.score.low, one.score.high))
        verdict = VERDICTS.get(one.verdict, "none yet")
        table.add_row(Text(one.sums.version), verdict, *figures, f"{one.sums.score.count:,}")
    return table
