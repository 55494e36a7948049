"""A store in one SQLite file: the embedded default, safe for several processes on one machine.

WAL with synchronous=FULL: what was answered survives the loss of power. Each write is one statement, which makes both
conditions exact between processes, and those that wait together are one transaction, which makes one disk sync of many
(group commit). Two threads of the store's own, each with a connection: reads do not wait for the disk syncs of writes.
Not for network file systems: WAL needs shared memory.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Generic, Self, TypeVar

from persistence.errors import StoreDenied, StoreError, StoreMisconfigured, StoreUnavailable
from persistence.store import (
    PAGE_KEYS_MAX,
    Entry,
    Etag,
    Page,
    Stored,
    checked_body,
    checked_key,
    checked_listing,
    content_etag,
)

T = TypeVar("T")
Statement = Callable[[sqlite3.Connection], T]

APPLICATION_ID = 0x65766375
SCHEMA_VERSION = 1
CALLS_WAITING_MAX = 64
SWITCH_RETRY_S = 0.01
PAGE_BYTES = 16384
"""Of a new file: half the CPU of the usual 4096 for a segment of 800 kB, and none more for a slot's record."""
BUSY_SHARE = 0.9
"""Of a call's time, at most waited for the lock of another process: an answer that nothing was done beats a doubt."""

AFTER_ALL_KEYS = "\x7f"
"""Sorts after every character of a key."""

SCHEMA = "CREATE TABLE objects (key TEXT NOT NULL PRIMARY KEY, etag TEXT NOT NULL, body BLOB NOT NULL) STRICT"
GET = "SELECT body, etag FROM objects WHERE key = ?"
PUT = "INSERT INTO objects VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE SET etag = excluded.etag, body = excluded.body"
PUT_IF_ABSENT = "INSERT INTO objects VALUES (?, ?, ?) ON CONFLICT (key) DO NOTHING"
PUT_IF_MATCH = "UPDATE objects SET etag = ?, body = ? WHERE key = ? AND etag = ?"
DELETE = "DELETE FROM objects WHERE key = ?"
LIST = "SELECT key, etag, length(body) FROM objects WHERE key >= ? AND key > ? AND key < ? ORDER BY key LIMIT ?"

NOT_DONE = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_NOMEM)
DENIED = (sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_AUTH)
IN_DOUBT = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_INTERRUPT)


@dataclass(frozen=True, slots=True)
class SqliteTarget:
    """Which file, and how long a call may take."""

    path: Path
    timeout_s: float = 30.0


class SqliteStore:
    """An `ObjectStore` in a SQLite file. Made by `open_sqlite`."""

    def __init__(self, target: SqliteTarget, reads: _Lane, writes: _Lane) -> None:
        self._timeout_s = target.timeout_s
        self._reads = reads
        self._writes = writes

    async def get(self, key: str, *, timeout_s: float | None = None) -> Stored | None:
        checked_key(key)
        row = await self._reads.run(f"get {key}", self._limit(timeout_s), lambda db: db.execute(GET, (key,)).fetchone())
        return None if row is None else Stored(row[0], Etag(row[1]))

    async def put(self, key: str, body: bytes, *, timeout_s: float | None = None) -> Etag:
        etag = await self._write(key, timeout_s, body, PUT, lambda tag: (key, tag, body))
        assert etag is not None
        return etag

    async def put_if_absent(self, key: str, body: bytes, *, timeout_s: float | None = None) -> Etag | None:
        return await self._write(key, timeout_s, body, PUT_IF_ABSENT, lambda tag: (key, tag, body))

    async def put_if_match(self, key: str, body: bytes, etag: Etag, *, timeout_s: float | None = None) -> Etag | None:
        return await self._write(key, timeout_s, body, PUT_IF_MATCH, lambda tag: (tag, body, key, etag))

    async def delete(self, *keys: str, timeout_s: float | None = None) -> None:
        rows = [(checked_key(key),) for key in keys]
        what = f"delete {', '.join(keys)}"
        await self._writes.run(what, self._limit(timeout_s), lambda db: db.executemany(DELETE, rows).rowcount)

    async def list(
        self, prefix: str = "", *, after: str = "", limit: int = PAGE_KEYS_MAX, timeout_s: float | None = None
    ) -> Page:
        checked_listing(prefix, after, limit)
        bounds = (prefix, after, prefix + AFTER_ALL_KEYS, limit + 1)
        rows = await self._reads.run(
            f"list {prefix}", self._limit(timeout_s), lambda db: db.execute(LIST, bounds).fetchall()
        )
        return Page(tuple(Entry(key, Etag(etag), size) for key, etag, size in rows[:limit]), len(rows) > limit)

    async def _write(
        self,
        key: str,
        timeout_s: float | None,
        body: bytes,
        sql: str,
        values: Callable[[Etag], tuple[str | bytes, ...]],
    ) -> Etag | None:
        """Run a statement that writes one row or none. The hash is taken on the thread, not on the loop."""
        checked_key(key)
        checked_body(body)

        def write(db: sqlite3.Connection) -> Etag | None:
            etag = content_etag(body)
            return etag if db.execute(sql, values(etag)).rowcount == 1 else None

        return await self._writes.run(f"put {key}", self._limit(timeout_s), write)

    def _limit(self, timeout_s: float | None) -> float:
        return self._timeout_s if timeout_s is None else timeout_s


@dataclass(frozen=True, slots=True)
class _Call(Generic[T]):
    """A statement that waits for its turn. `deadline` in seconds of the monotonic clock."""

    what: str
    deadline: float
    statement: Statement[T]
    result: Future[T]


class _Lane:
    """A thread with a connection of its own, and the calls that wait for it. It takes all that wait at once."""

    def __init__(self, target: SqliteTarget, *, writes: bool) -> None:
        self._target = target
        self._writes = writes
        self._turn = asyncio.Semaphore(CALLS_WAITING_MAX)
        self._thread = ThreadPoolExecutor(1, f"evercurrent-sqlite-{'writes' if writes else 'reads'}")
        self._waiting: SimpleQueue[_Call[Any]] = SimpleQueue()
        self._connection: sqlite3.Connection | None = None

    async def __aenter__(self) -> Self:
        """Connect. Raises StoreError."""
        deadline = time.monotonic() + self._target.timeout_s
        try:
            await asyncio.wrap_future(self._thread.submit(self._connect, deadline))
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Wait for the statement that runs, and disconnect."""
        try:
            await asyncio.wrap_future(self._thread.submit(self._disconnect))
        finally:
            self._thread.shutdown(wait=False)

    async def run(self, what: str, timeout_s: float, statement: Statement[T]) -> T:
        """Run a statement on the thread. Raises StoreError."""
        deadline = time.monotonic() + timeout_s
        call = _Call(what, deadline, statement, Future[T]())
        try:
            async with asyncio.timeout(timeout_s), self._turn:
                self._waiting.put(call)
                self._thread.submit(self._execute_waiting)
                return await asyncio.wrap_future(call.result)
        except TimeoutError as error:
            has_begun = not call.result.cancel()
            message = f"{what}: not done within {timeout_s:g} s"
            raise StoreUnavailable(message, maybe_done=self._writes and has_begun) from error

    def _connect(self, deadline: float) -> None:
        self._connection = _connect(self._target.path, deadline)

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def _execute_waiting(self) -> None:
        """Execute all that wait, and tell who waits for them how it went. Those of a turn are often taken before it."""
        calls = self._take()
        if not calls:
            return
        try:
            outcomes = self._execute(calls)
        except Exception as error:
            outcomes = [error] * len(calls)
        for call, outcome in zip(calls, outcomes, strict=True):
            if isinstance(outcome, sqlite3.Error):
                call.result.set_exception(translated(call.what, outcome, writes=self._writes))
            elif isinstance(outcome, Exception):
                call.result.set_exception(outcome)
            else:
                call.result.set_result(outcome)

    def _take(self) -> list[_Call[Any]]:
        """The calls that wait, without those given up or too late."""
        now = time.monotonic()
        calls = []
        while not self._waiting.empty():
            call = self._waiting.get()
            if not call.result.set_running_or_notify_cancel():
                continue
            if call.deadline <= now:
                call.result.set_exception(StoreUnavailable(f"{call.what}: its time was up before its turn came"))
            else:
                calls.append(call)
        return calls

    def _execute(self, calls: Sequence[_Call[Any]]) -> list[object]:
        """What each statement gives, or the error that ended it alone. Raises what ended them all."""
        assert self._connection is not None
        remaining_s = min(call.deadline for call in calls) - time.monotonic()
        self._connection.execute(f"PRAGMA busy_timeout = {max(1, int(remaining_s * 1000 * BUSY_SHARE))}")
        with _transaction(self._connection) if self._writes else nullcontext():
            return [self._outcome(call) for call in calls]

    def _outcome(self, call: _Call[Any]) -> object:
        assert self._connection is not None
        try:
            return call.statement(self._connection)
        except Exception as error:
            if self._writes and not self._connection.in_transaction:
                raise
            return error


def translated(what: str, error: sqlite3.Error, *, writes: bool) -> StoreError:
    """What a SQLite error is here. Extended result codes count as their primary one."""
    code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    message = f"{what}: {error}"
    if code in NOT_DONE:
        return StoreUnavailable(message)
    if code in IN_DOUBT:
        return StoreUnavailable(message, maybe_done=writes)
    return StoreDenied(message) if code in DENIED else StoreMisconfigured(message)


def _connect(path: Path, deadline: float) -> sqlite3.Connection:
    try:
        connection = sqlite3.connect(path, isolation_level=None, timeout=max(0.0, deadline - time.monotonic()))
    except sqlite3.Error as error:
        raise translated(f"open {path}", error, writes=False) from error
    try:
        _prepare(connection, path, deadline)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path, deadline: float) -> None:
    try:
        _check_ours(connection, path)
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        _switch_to_wal(connection, path, deadline)
        connection.execute("PRAGMA synchronous = FULL")
        _create_schema(connection)
    except sqlite3.Error as error:
        raise translated(f"open {path}", error, writes=False) from error


def _check_ours(connection: sqlite3.Connection, path: Path) -> None:
    """Leave a database of another program, or of another schema, untouched. One snapshot: it may be made just now."""
    connection.execute("BEGIN")
    application, version, tables = (
        connection.execute(sql).fetchone()[0]
        for sql in ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_schema")
    )
    connection.execute("COMMIT")
    if (application, version) != (APPLICATION_ID, SCHEMA_VERSION) and (application or version or tables):
        raise StoreMisconfigured(f"{path} is a database of another program or of another version of this one")


def _switch_to_wal(connection: sqlite3.Connection, path: Path, deadline: float) -> None:
    """WAL for good. The switch answers BUSY at once while another process makes it, whatever the busy timeout."""
    while True:
        try:
            mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(SWITCH_RETRY_S)
            continue
        if mode != "wal":
            raise StoreMisconfigured(f"{path}: its file system gives {mode} instead of WAL")
        return


def _create_schema(connection: sqlite3.Connection) -> None:
    with _transaction(connection):
        if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
            connection.execute(SCHEMA)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Statements that stand together or not at all; other processes write before or after."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


@asynccontextmanager
async def open_sqlite(target: SqliteTarget) -> AsyncIterator[SqliteStore]:
    """The store in this file, which is made if it is not there; its folder is not.

    Raises:
        StoreMisconfigured: the file cannot be opened or is not ours.
    """
    async with _Lane(target, writes=True) as writes, _Lane(target, writes=False) as reads:
        yield SqliteStore(target, reads, writes)
