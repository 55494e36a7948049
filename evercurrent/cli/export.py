"""`evercurrent export`: what the store holds, as Parquet files that pandas, DuckDB, Spark or a trainer read.

It reads the store alone, while workers serve or after, and never changes it. The folder appears whole or not at all.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn

from evercurrent.cli.errors import CommandError
from evercurrent.cli.stores import check_url
from persistence import ObjectStore, StoreError, open_store
from persistence.columns import lists, ulid_texts
from persistence.events import NUM_BUCKETS, SCHEMA, list_days, read_events
from persistence.snapshot import States, read_states

T = TypeVar("T")

GROUP_ROWS = 65_536
"""Rows of a row group, more or less: what is held in memory before it is written."""

DAMAGED_SHOWN = 3

STATES_FILE = "states.parquet"
STATES_SCHEMA = pa.schema(
    [
        ("namespace", pa.string()),
        ("user_id", pa.string()),
        ("version", pa.uint64()),
        ("model", pa.string()),
        (
            "sessions",
            pa.list_(pa.struct([("session_id", pa.string()), ("last_seq", pa.uint64()), ("lost", pa.uint64())])),
        ),
        ("state", pa.list_(pa.float32())),
    ]
)


def export_events(url: str, out: Path, day: date | None) -> None:
    """Writes DIR/day=YYYY-MM-DD/bucket-NN.parquet. Raises CommandError; SettingsError for a URL that is none."""
    console = Console()
    num_events, num_days = _run(url, out, lambda store, folder: _events(store, folder, day, console))
    days = "1 day" if num_days == 1 else f"{num_days:,} days"
    console.print(
        f"Wrote {num_events:,} events of {days} to {out}. "
        f'Read them: pandas.read_parquet("{out}"); a user\'s are ordered by version.',
        soft_wrap=True,
    )


def export_states(url: str, out: Path) -> None:
    """Writes DIR/states.parquet. Raises CommandError, also when users are stored damaged, once all others are written;
    SettingsError for a URL that is none."""
    console = Console()
    num_users, damaged = _run(url, out, lambda store, folder: _states(store, folder, console))
    console.print(
        f'Wrote the states of {num_users:,} users to {out}. Read them: pandas.read_parquet("{out / STATES_FILE}").',
        soft_wrap=True,
    )
    if damaged:
        shown = ", ".join(name.replace("\0", "/") for name in damaged[:DAMAGED_SHOWN])
        more = ", …" if len(damaged) > DAMAGED_SHOWN else ""
        raise CommandError(f"{len(damaged)} users are stored damaged and are not among them: {shown}{more}")


def _run(url: str, out: Path, export: Callable[[ObjectStore, Path], Coroutine[Any, Any, T]]) -> T:
    """Has a store exported into a folder that becomes `out` once it is whole."""
    check_url(url)
    with _whole_folder(out) as folder:
        try:
            return asyncio.run(_with_store(url, folder, export))
        except StoreError as error:
            raise CommandError(str(error)) from error


async def _with_store(url: str, folder: Path, export: Callable[[ObjectStore, Path], Coroutine[Any, Any, T]]) -> T:
    async with open_store(url) as store:
        return await export(store, folder)


@contextmanager
def _whole_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its name in the end, and is gone if that end never comes."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CommandError(f"{out} is there already: name a new folder")
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.replace(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


async def _events(store: ObjectStore, folder: Path, day: date | None, console: Console) -> tuple[int, int]:
    """How many events of how many days."""
    days = await list_days(store)
    if not days:
        raise CommandError("the store has no event log: none was written yet, or the log is switched off")
    wanted = [each for each in days if day is None or each == day.isoformat()]
    if not wanted:
        raise CommandError(f"the event log has nothing of {day}: its days are {days[0]} to {days[-1]}")
    num_events = 0
    with _progress(console) as progress:
        bar = progress.add_task("events", total=len(wanted) * NUM_BUCKETS, found="")
        for at, each in enumerate(wanted):
            (folder / f"day={each}").mkdir()
            for bucket in range(NUM_BUCKETS):
                num_events += await _bucket(store, folder, each, bucket)
                found = f"{num_events:,} events, {each}"
                progress.update(bar, completed=at * NUM_BUCKETS + bucket + 1, found=found)
    return num_events, len(wanted)


async def _bucket(store: ObjectStore, folder: Path, day: str, bucket: int) -> int:
    """One bucket of one day; no file if it has no event."""
    with _Writer(folder / f"day={day}" / f"bucket-{bucket:02d}.parquet", SCHEMA) as writer:
        async for _, table in read_events(store, day, bucket):
            writer.add(table)
    return writer.num_rows


async def _states(store: ObjectStore, folder: Path, console: Console) -> tuple[int, list[str]]:
    """How many users, and who is stored damaged."""
    damaged = list[str]()
    with _Writer(folder / STATES_FILE, STATES_SCHEMA) as writer, _progress(console) as progress:
        bar = progress.add_task("states", total=None, found="")
        async for slot in read_states(store):
            for part in slot.states:
                writer.add(_table(part))
            damaged += slot.damaged
            progress.update(bar, found=f"{writer.num_rows:,} users")
        writer.flush()
    return writer.num_rows, damaged


def _table(states: States) -> pa.Table:
    """The columns of STATES_SCHEMA."""
    rows = states.rows
    keys = [user.partition("\0") for user in rows.users]
    offsets = np.concatenate([[0], np.cumsum(rows.num_sessions)]).astype(np.int32)
    sessions = pa.StructArray.from_arrays(
        [
            ulid_texts(rows.sessions[:, :2], np.zeros(len(rows.sessions), np.bool_)),
            pa.array(rows.sessions[:, 2]),
            pa.array(rows.sessions[:, 3]),
        ],
        ["session_id", "last_seq", "lost"],
    )
    columns = [
        pa.array([namespace for namespace, _, _ in keys], pa.string()),
        pa.array([user_id for _, _, user_id in keys], pa.string()),
        pa.array(rows.versions),
        pa.repeat(states.model, len(rows)),
        pa.ListArray.from_arrays(pa.array(offsets), sessions),
        lists(rows.states),
    ]
    return pa.table(columns, schema=STATES_SCHEMA)


class _Writer:
    """A Parquet file in row groups of a fair size. Made when there is a first row, or by `flush`."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.num_rows = 0
        self._path = path
        self._schema = schema
        self._file: pq.ParquetWriter | None = None
        self._tables: list[pa.Table] = []
        self._held_rows = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self._held_rows:
            self.flush()
        if self._file is not None:
            self._file.close()

    def add(self, table: pa.Table) -> None:
        """Append rows."""
        self._tables.append(table)
        self._held_rows += len(table)
        self.num_rows += len(table)
        if self._held_rows >= GROUP_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write what is held, even if that is nothing: then there is a file."""
        if self._file is None:
            self._file = pq.ParquetWriter(self._path, self._schema, compression="zstd")
        if self._held_rows:
            self._file.write_table(pa.concat_tables(self._tables).combine_chunks())
        self._tables, self._held_rows = [], 0


def _progress(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[found]}"),
        console=console,
    )
