"""`evercurrent models`: the registered versions of a store, and which of them run."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from google.protobuf.json_format import MessageToDict
from rich.console import Console
from rich.table import Table
from rich.text import Text

from evercurrent.cli.errors import CommandError
from evercurrent.cli.shadow import user_name
from evercurrent.cli.stores import check_url
from evercurrent.describe import describe
from evercurrent.matching import mismatch
from evercurrent.models.loading import ModelLoadError, load_model
from evercurrent.models.versions import version_of
from evercurrent.v1.models_pb2 import ModelControl, ModelVersion
from evercurrent.wire import Layout
from persistence.errors import StoreError
from persistence.open import open_store
from persistence.registry import Registry
from worker.learner import probe

T = TypeVar("T")


def push(store: str, version: str, spec: str, weights: Path | None, who: str | None, why: str) -> None:
    """Registers a version. Raises CommandError."""
    try:
        model = load_model(spec, weights)
        probe(model, Layout.of(describe(model)))
    except (ModelLoadError, ValueError) as error:
        raise CommandError(str(error)) from error
    found, raw = version_of(model, version, who or user_name(), why, time.time_ns() // 1000)

    async def act(registry: Registry) -> ModelVersion:
        control = await registry.control()
        live = None if control is None else await registry.version(control.live)
        if live is not None and (unlike := mismatch(live.description, describe(model))):
            raise CommandError(f"{spec} cannot stand in for what is served, {live.version!r}: {unlike}")
        return await registry.push(found, raw)

    pushed = _with_registry(store, act, may_be_new=True)
    Console().print(f"{pushed.version}: {pushed.class_path}, {pushed.weights_bytes:,} bytes of weights", markup=False)


def list_versions(store: str, as_json: bool) -> None:
    """Prints a table, or JSON. Raises CommandError."""

    async def act(registry: Registry) -> tuple[ModelControl | None, list[ModelVersion]]:
        return await registry.control(), await registry.versions()

    control, versions = _with_registry(store, act)
    if as_json:
        print(json.dumps([{**_as_dict(one), "role": role_of(control, one.version)} for one in versions]))
        return
    console = Console()
    if not versions:
        console.print("No version is registered: evercurrent models push, or start a worker.")
        return
    table = Table("version", "role", "pushed")
    for name in ("class", "why"):
        table.add_column(name, overflow="fold")
    for one in versions:
        names = (one.version, role_of(control, one.version), _when(one.pushed_us), one.class_path, one.why)
        table.add_row(*map(Text, names))
    console.print(table)


def show(store: str, version: str | None, as_json: bool) -> None:
    """Prints all that is known of a version or, without one, of what runs. Raises CommandError."""

    async def act(registry: Registry) -> tuple[ModelControl | None, ModelVersion | None]:
        return await registry.control(), await registry.version(version) if version else None

    control, found = _with_registry(store, act)
    if version is not None and found is None:
        raise CommandError(f"no version {version!r} is registered: see evercurrent models list")
    if found is not None:
        facts = {"role": role_of(control, found.version), **_as_dict(found)}
    elif control is not None:
        facts = _as_dict(control)
    else:
        raise CommandError("no worker has begun on this store yet, so nothing runs")
    if as_json:
        print(json.dumps(facts))
    else:
        Console().print_json(json.dumps(facts))


def log(store: str, num: int) -> None:
    """Prints the audit trail, newest first. Raises CommandError."""
    changes = _with_registry(store, lambda registry: registry.changes(num))
    table = Table("revision", "when", "who", "what", "why", "compared")
    for change in changes:
        seen = "; ".join(
            f"{one.sums.version} {one.score.mean:+.4f} [{one.score.low:+.4f}, {one.score.high:+.4f}] "
            f"over {one.sums.score.count:,}"
            for one in change.comparisons
        )
        texts = (Text(text, overflow="fold") for text in (change.who, change.what, change.why, seen))
        table.add_row(f"{change.revision}", _when(change.time_us), *texts)
    Console().print(table)


def role_of(control: ModelControl | None, version: str) -> str:
    """What a version is, in a word."""
    if control is None:
        return ""
    if version == control.live:
        return "live"
    if version == control.standby:
        return "standby"
    plans = [plan for plan in control.shadows if plan.version == version]
    return f"shadow {plans[0].fraction:.4g}" if plans else ""


def _as_dict(message: ModelControl | ModelVersion) -> dict[str, object]:
    found: dict[str, object] = MessageToDict(message, preserving_proto_field_name=True)
    return found


def _when(time_us: int) -> str:
    return datetime.fromtimestamp(time_us / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _with_registry(url: str, act: Callable[[Registry], Awaitable[T]], may_be_new: bool = False) -> T:
    check_url(url, may_be_new)

    async def run() -> T:
        async with open_store(url) as store:
            return await act(Registry(store))

    try:
        return asyncio.run(run())
    except (StoreError, ValueError) as error:
        raise CommandError(str(error)) from error
