"""What the SQLite store owes beyond the suite of all: several processes, sudden death, files that are not ours."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Awaitable
from pathlib import Path

import pytest

from persistence import ObjectStore, StoreDenied, StoreError, StoreMisconfigured, StoreUnavailable, list_all, open_store
from persistence.sqlite import SqliteStore, Statement, translated
from persistence.store import content_etag
from tests.persistence.servers import ROOT

PROCESSES = 4
TIMES = 25
SLOW_S = 50.0


def start(module: str, *arguments: str) -> subprocess.Popen[str]:
    """A module of these tests as a process."""
    command = [sys.executable, "-m", f"tests.persistence.{module}", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def line_of(process: subprocess.Popen[str]) -> str:
    """The next line that a process says."""
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


async def on_thread_of_writes(store: ObjectStore, statement: Statement[object]) -> object:
    """Run something on the connection that writes, outside of any transaction, after what runs there."""
    assert isinstance(store, SqliteStore)
    connection = store._writes._connection
    assert connection is not None
    return await asyncio.wrap_future(store._writes._thread.submit(statement, connection))


def make_foreign(path: Path) -> bytes:
    """A database of another program, and its bytes."""
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE theirs (x)")
    other.close()
    return path.read_bytes()


def is_still(path: Path, contents: bytes) -> bool:
    """Whether a file holds these bytes."""
    return path.read_bytes() == contents


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


async def test_many_may_make_the_file_at_once(tmp_path: Path) -> None:
    async def open_one(path: Path) -> None:
        async with open_store(f"sqlite:{path}") as store:
            assert await store.get("k") is None

    for number in range(20):
        await asyncio.gather(*(open_one(tmp_path / f"{number}.db") for _ in range(4)))


async def test_processes_count_exactly(path: Path) -> None:
    url = f"sqlite:{path}"
    processes = [start("contender", url, str(TIMES)) for _ in range(PROCESSES)]  # They make the file, all at once.
    assert [line_of(process) for process in processes] == ["open"] * PROCESSES
    async with open_store(url) as store:
        await store.put("count", b"0")
        said = [process.stdin.write("go\n") for process in processes if process.stdin is not None]
        assert len(said) == PROCESSES
        taken = [int(process.communicate(timeout=SLOW_S)[0]) for process in processes]
        assert [process.returncode for process in processes] == [0] * PROCESSES
        count = await store.get("count")
        assert count is not None
        assert int(count.body) == PROCESSES * TIMES
        assert sum(taken) == TIMES == len([entry async for entry in list_all(store, "takes/")])


async def test_what_was_answered_survives_the_death_of_the_process(path: Path) -> None:
    url = f"sqlite:{path}"
    with start("writer", url) as process:
        written = [line_of(process) for _ in range(50)]
        process.kill()
        written += process.communicate(timeout=SLOW_S)[0].split()
    async with open_store(url) as store:
        for key in written:
            stored = await store.get(key)
            assert stored is not None
            assert stored.body == key.encode() * 1000


async def test_writes_are_synced(path: Path) -> None:
    async with open_store(f"sqlite:{path}") as store:
        mode = await on_thread_of_writes(store, lambda db: db.execute("PRAGMA journal_mode").fetchone())
        synchronous = await on_thread_of_writes(store, lambda db: db.execute("PRAGMA synchronous").fetchone())
    assert (mode, synchronous) == (("wal",), (2,))


async def test_a_lock_held_by_another_bounds_the_wait(path: Path) -> None:
    async with open_store(f"sqlite:{path}") as store:
        await store.put("k", b"x")
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable):
            await store.put("k", b"y", timeout_s=0.1)
        await on_thread_of_writes(store, lambda _: None)  # The write has ended there, too, while the lock is held.
        stored = await store.get("k")
        other.execute("ROLLBACK")
        other.close()
        assert stored is not None
        assert stored.body == b"x"
        assert await store.put_if_match("k", b"z", stored.etag) is not None


async def test_a_call_whose_turn_never_comes_is_surely_not_done(path: Path) -> None:
    release = threading.Event()
    async with open_store(f"sqlite:{path}") as store, asyncio.TaskGroup() as group:
        group.create_task(on_thread_of_writes(store, lambda _: release.wait(SLOW_S)))
        await asyncio.sleep(0)
        with pytest.raises(StoreUnavailable) as raised:
            await store.put("k", b"x", timeout_s=0.05)
        release.set()
        assert not raised.value.maybe_done
        await store.put("other", b"x")
        assert await store.get("k") is None


async def test_writes_that_wait_together_are_one_transaction_and_answered_each(path: Path) -> None:
    release = threading.Event()
    statements: list[str] = []
    async with open_store(f"sqlite:{path}") as store:
        await store.put("there", b"x")
        await on_thread_of_writes(store, lambda db: db.set_trace_callback(statements.append))
        async with asyncio.TaskGroup() as group:
            group.create_task(on_thread_of_writes(store, lambda _: release.wait(SLOW_S)))
            await asyncio.sleep(0)
            tasks = [
                group.create_task(store.put_if_absent("new", b"first")),
                group.create_task(store.put_if_absent("new", b"second")),
                group.create_task(store.put_if_absent("there", b"y")),
                group.create_task(store.put_if_match("there", b"y", content_etag(b"x"))),
            ]
            await asyncio.sleep(0)
            release.set()
        first, second, absent, match = (task.result() for task in tasks)
        assert (first, second, absent, match) == (content_etag(b"first"), None, None, content_etag(b"y"))
        assert [word for word in statements if word in {"BEGIN IMMEDIATE", "COMMIT"}] == ["BEGIN IMMEDIATE", "COMMIT"]
        stored = await store.get("new")
        assert stored is not None
        assert stored.body == b"first"


async def test_a_statement_that_fails_alone_fails_nobody_else(path: Path) -> None:
    release = threading.Event()
    async with open_store(f"sqlite:{path}") as store:
        assert isinstance(store, SqliteStore)
        await on_thread_of_writes(store, lambda db: db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 1000))
        async with asyncio.TaskGroup() as group:
            group.create_task(on_thread_of_writes(store, lambda _: release.wait(SLOW_S)))
            await asyncio.sleep(0)
            small = group.create_task(store.put("small", b"x"))
            large = group.create_task(outcome_of(store.put("large", bytes(2000))))
            other = group.create_task(store.put("other", b"x"))
            await asyncio.sleep(0)
            release.set()
        assert isinstance(large.result(), Exception)
        assert small.result() == other.result()
        assert [entry.key async for entry in list_all(store)] == ["other", "small"]


async def test_what_ends_a_transaction_ends_all_of_it(path: Path) -> None:
    release = threading.Event()
    async with open_store(f"sqlite:{path}") as store:
        assert isinstance(store, SqliteStore)
        async with asyncio.TaskGroup() as group:
            group.create_task(on_thread_of_writes(store, lambda _: release.wait(SLOW_S)))
            await asyncio.sleep(0)
            one = group.create_task(outcome_of(store.put("one", b"x")))
            end = group.create_task(outcome_of(store._writes.run("end", SLOW_S, end_transaction)))
            await asyncio.sleep(0)
            release.set()
        assert isinstance(one.result(), StoreError)
        assert isinstance(end.result(), StoreError)
        assert await store.get("one") is None
        await store.put("one", b"x")


async def outcome_of(call: Awaitable[object]) -> object:
    """What a call gives, or its error."""
    try:
        return await call
    except Exception as error:
        return error


def end_transaction(db: sqlite3.Connection) -> None:
    """As a full disk does it: the statement fails, and with it all before it."""
    db.execute("ROLLBACK")
    raise sqlite3.OperationalError("database or disk is full")


async def test_a_database_of_another_program_is_left_alone(path: Path) -> None:
    before = make_foreign(path)
    with pytest.raises(StoreMisconfigured, match="another program"):
        async with open_store(f"sqlite:{path}"):
            pass
    assert is_still(path, before)


async def test_a_later_schema_is_refused(path: Path) -> None:
    async with open_store(f"sqlite:{path}"):
        pass
    other = sqlite3.connect(path)
    other.execute("PRAGMA user_version = 2")
    other.close()
    with pytest.raises(StoreMisconfigured, match="another version"):
        async with open_store(f"sqlite:{path}"):
            pass


@pytest.fixture
def text_file(path: Path) -> Path:
    path.write_bytes(b"no database at all" * 100)
    return path


async def test_what_is_no_database_is_named(text_file: Path) -> None:
    with pytest.raises(StoreMisconfigured, match="not a database"):
        async with open_store(f"sqlite:{text_file}"):
            pass


async def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreMisconfigured, match=r"missing/store\.db: unable to open"):
        async with open_store(f"sqlite:{tmp_path / 'missing' / 'store.db'}"):
            pass


@pytest.mark.parametrize(
    ("code", "error", "maybe_done"),
    [
        (sqlite3.SQLITE_BUSY, StoreUnavailable, False),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, StoreUnavailable, False),
        (sqlite3.SQLITE_FULL, StoreUnavailable, False),
        (sqlite3.SQLITE_IOERR_FSYNC, StoreUnavailable, True),
        (sqlite3.SQLITE_READONLY, StoreDenied, False),
        (sqlite3.SQLITE_CANTOPEN, StoreMisconfigured, False),
        (sqlite3.SQLITE_CORRUPT, StoreMisconfigured, False),
    ],
)
def test_errors_are_translated(code: int, error: type[StoreError], maybe_done: bool) -> None:
    foreign = sqlite3.OperationalError("text")
    foreign.sqlite_errorcode = code
    ours = translated("put k", foreign, writes=True)
    assert type(ours) is error
    assert ours.maybe_done == maybe_done
    assert not translated("get k", foreign, writes=False).maybe_done
