"""`evercurrent hot`: which users cost most lately, asked of a router."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from evercurrent.cli.routers import Router
from evercurrent.v1 import admin_pb2

if TYPE_CHECKING:
    from evercurrent.cli.app import HotBy

TIMEOUT_S = 10.0
"""Longer than the router gives its workers."""

ORDERS = {"events": admin_pb2.TOP_USERS_ORDER_EVENTS, "time": admin_pb2.TOP_USERS_ORDER_STEP_TIME}


def show_hot_users(by: HotBy, num: int, router: Router) -> None:
    """Prints a table. Raises CommandError."""
    request = admin_pb2.GetTopUsersRequest(num=num, order=ORDERS[by])
    with router.admin() as stub:
        top = stub.GetTopUsers(request, timeout=TIMEOUT_S)
    console = Console()
    if top.users:
        console.print(_table(top))
    else:
        console.print("No user sends events.")
    if top.missing_workers:
        console.print(f"Not reached, their users are missing: {', '.join(top.missing_workers)}.", markup=False)


def _table(top: admin_pb2.GetTopUsersResponse) -> Table:
    table = Table(caption=f"What is {top.half_life_s:g} s old counts half.", caption_justify="left")
    has_namespaces = any(user.namespace for user in top.users)
    table.add_column("user", overflow="fold")
    if has_namespaces:
        table.add_column("namespace", overflow="fold")
    table.add_column("worker")
    for name in ("slot", "events/s", "step ms/s", "of its worker's"):
        table.add_column(name, justify="right")
    for user in top.users:
        names = [user.user_id, user.namespace, user.worker] if has_namespaces else [user.user_id, user.worker]
        figures = f"{user.slot}", f"{user.events_per_s:,.1f}", f"{user.step_ms_per_s:,.2f}", f"{user.step_share:.1%}"
        table.add_row(*(Text(name) for name in names), *figures)
    return table
