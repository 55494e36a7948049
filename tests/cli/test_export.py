"""What is exported is what the store holds, and the folder is whole or not there."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from ulid import ULID

from evercurrent.cli.errors import CommandError
from evercurrent.cli.export import GROUP_ROWS, export_events, export_states
from evercurrent.settings import SettingsError
from evercurrent.slots import slot_of
from persistence import ObjectStore, list_all, open_store
from persistence.events import EventFile, encode_events, file_name, forget_events
from persistence.keys import record_key, segment_key
from persistence.memory import MemoryStore
from tests.persistence.test_events import DAYS, INCARNATION, fill, neighbours, table_of
from tests.persistence.test_snapshot import ALICE, BOB, CAROL, HERE, claim, record, row, segment, spoil

USERS = neighbours(3)


def filled(path: Path, *stores: MemoryStore) -> str:
    """The URL of a store in a file with these stores' objects, or with three days of events."""

    async def fill_in() -> None:
        async with open_store(f"sqlite:{path}") as store:
            for one in stores:
                async for entry in list_all(one):
                    stored = await one.get(entry.key)
                    assert stored is not None
                    await store.put(entry.key, stored.body)
            if not stores:
                await fill(store, USERS)

    asyncio.run(fill_in())
    return f"sqlite:{path}"


def change(url: str, act: Callable[[ObjectStore], object]) -> None:
    """Does something to a store."""

    async def run() -> None:
        async with open_store(url) as store:
            await act(store)  # type: ignore[misc]

    asyncio.run(run())


def test_events_by_day(tmp_path: Path) -> None:
    url, out = filled(tmp_path / "store.db"), tmp_path / "new" / "events"
    change(url, lambda store: forget_events(store, USERS[2]))
    export_events(url, out, None)
    files = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert files == [f"day={day}/bucket-{bucket}.parquet" for day in DAYS for bucket in ("03", "04")]
    rows = pq.read_table(out).to_pylist()
    assert {str(row["day"]) for row in rows} == set(DAYS)
    of_user = [row["version"] for row in rows if row["user_id"] == USERS[1].partition("\0")[2]]
    assert sorted(of_user) == [1, 101, 201, 301, 401, 501]
    assert len(rows) == 6 * 3
    assert [path.name for path in out.parent.iterdir()] == ["events"]


def test_events_of_one_day_into_an_empty_folder(tmp_path: Path) -> None:
    url, out = filled(tmp_path / "store.db"), tmp_path / "events"
    out.mkdir()
    export_events(url, out, date(2026, 2, 1))
    assert [path.name for path in out.iterdir()] == ["day=2026-02-01"]
    assert len(pq.read_table(out)) == 8


def test_many_files_become_row_groups_of_a_fair_size(tmp_path: Path) -> None:
    url, out = filled(tmp_path / "store.db", MemoryStore()), tmp_path / "events"
    table = table_of(DAYS[0], USERS * 1000, 0)
    body = encode_events(table)
    num_files = GROUP_ROWS // len(table) + 2

    async def write_many(store: ObjectStore) -> None:
        file = EventFile(DAYS[0], 3, "")
        for number in range(num_files):
            await store.put_if_absent(replace(file, name=file_name(INCARNATION, number)).key, body)

    change(url, write_many)
    export_events(url, out, None)
    exported = pq.ParquetFile(out / f"day={DAYS[0]}" / "bucket-03.parquet")
    assert exported.metadata.num_row_groups == 2
    assert exported.metadata.num_rows == num_files * len(table)


def test_states_of_all_users(tmp_path: Path) -> None:
    store = MemoryStore()
    for user in (ALICE, BOB, CAROL):
        claim(store, user)
    segment(store, 1, row(ALICE, 5, 0.5), row(CAROL, 5, 0.5))
    segment(store, 2, row(CAROL, 6, 0.0, forgotten=True))
    record(store, row(BOB, 4, 0.25))
    url, out = filled(tmp_path / "store.db", store), tmp_path / "states"
    export_states(url, out)
    rows = sorted(pq.read_table(out / "states.parquet").to_pylist(), key=lambda row: row["user_id"])
    session = str(ULID.from_int((7 << 64) + 8))
    assert rows == [
        {
            "namespace": "shop",
            "user_id": user,
            "version": version,
            "model": "m",
            "sessions": [{"session_id": session, "last_seq": version, "lost": 0}],
            "state": [value, -value],
        }
        for user, version, value in (("alice", 5, 0.5), ("bob", 4, 0.25))
    ]


def test_a_store_without_users_gives_an_empty_file(tmp_path: Path) -> None:
    url, out = filled(tmp_path / "store.db"), tmp_path / "states"
    export_states(url, out)
    assert len(pq.read_table(out / "states.parquet")) == 0


def test_damaged_users_are_named_and_the_others_written(tmp_path: Path) -> None:
    store = MemoryStore()
    for user in (ALICE, BOB, CAROL):
        claim(store, user)
    segment(store, 1, row(ALICE, 5, 0.123), row(CAROL, 5, 0.5))
    record(store, row(BOB, 4, 0.456))
    spoil(store, segment_key(HERE, 1), 0.123)
    spoil(store, record_key(slot_of(BOB), BOB), 0.456)
    url, out = filled(tmp_path / "store.db", store), tmp_path / "states"
    with pytest.raises(CommandError, match=r"2 users are stored damaged and are not among them: ") as raised:
        export_states(url, out)
    assert "shop/alice" in str(raised.value)
    assert record_key(slot_of(BOB), BOB) in str(raised.value)
    assert pq.read_table(out / "states.parquet")["user_id"].to_pylist() == ["carol"]


def test_a_log_that_cannot_be_read_leaves_no_folder(tmp_path: Path) -> None:
    url, out = filled(tmp_path / "store.db"), tmp_path / "events"
    key = EventFile(DAYS[2], 3, file_name(INCARNATION, 9)).key
    change(url, lambda store: store.put(key, b"nothing"))
    with pytest.raises(CommandError, match=key):
        export_events(url, out, None)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


@pytest.mark.parametrize(
    ("url", "error", "text"),
    [
        ("nowhere", SettingsError, "--store: .*begins with none of"),
        ("memory:", SettingsError, "--store: a store in memory"),
        ("sqlite:{}/absent.db", CommandError, r"there is no store at .*absent\.db"),
    ],
)
def test_a_store_that_is_none_is_said(url: str, error: type[Exception], text: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=text):
        export_events(url.format(tmp_path), tmp_path / "out", None)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    url, out = filled(tmp_path / "store.db"), tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("x")
    with pytest.raises(CommandError, match="is there already"):
        export_events(url, out, None)
    assert [path.name for path in out.iterdir()] == ["mine"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"}
    command = [sys.executable, "-P", "-m", "evercurrent.cli", "export", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_the_command_writes_and_says_what(tmp_path: Path) -> None:
    url, out = filled(tmp_path / "store.db"), tmp_path / "events"
    ended = run("--what", "events", "--store", url, "--out", str(out), "--day", "2026-02-01")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert f"Wrote 8 events of 1 day to {out}" in ended.stdout
    again = run("--what", "events", "--store", url, "--out", str(tmp_path / "none"), "--day", "2026-02-02")
    text = "the event log has nothing of 2026-02-02: its days are 2026-01-31 to 2026-11-05"
    assert (again.returncode, again.stderr) == (1, f"evercurrent: {text}\n")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            ["--what", "states", "--store", "sqlite:x", "--out", "x", "--day", "2026-02-01"],
            "--day: states have none",
        ),
        (["--what", "weights", "--store", "sqlite:x", "--out", "x"], "--what"),
        (["--what", "events", "--store", "sqlite:x", "--out", "x", "--day", "today"], "--day"),
        (["--what", "events", "--out", "x"], "--store"),
    ],
)
def test_wrong_usage_is_named(arguments: list[str], text: str) -> None:
    ended = run(*arguments)
    assert ended.returncode == 2
    assert text in ended.stderr


def test_help_teaches() -> None:
    shown = run("--help").stdout
    for word in ("events", "states", "--day", "bucket-NN.parquet", "sqlite:", "s3://", "states.parquet"):
        assert word in shown
