"""The event log in the store: what was observed, predicted and learned, as Parquet, to retrain and evaluate from.

    events/day=YYYY-MM-DD/bucket=NN/<incarnation>-<number>[.r<revision>].parquet

The day is that of the event (UTC); the bucket one of 16 by the user's slot, so that forgetting a user rewrites one
sixteenth of the log. A file is never changed: a rewrite is its next revision, put if absent, and of a file's revisions
only the highest counts. So rewriters that race and ones that die before they delete what they replaced leave no event
twice. The highest revision is never deleted, even when it is empty: so a late write of an older one counts for nothing.

The columns are the same for every model. This module knows keys and tables; who writes when is the worker's affair.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from evercurrent.slots import slot_of
from persistence.errors import Damaged, StoreError
from persistence.store import ObjectStore, list_all

EVENTS_PREFIX = "events/"
NUM_BUCKETS = 16
FILES_AT_ONCE = 16
"""Files that are looked through at a time when a user is forgotten: on S3 most of that is waiting."""

SCHEMA = pa.schema(
    [
        ("namespace", pa.string()),
        ("user_id", pa.string()),
        ("slot", pa.uint16()),
        # The ULID and the place in the session; null without a session.
        ("session_id", pa.string()),
        ("seq", pa.uint64()),
        # Of the state after the update: orders a user's events.
        ("version", pa.uint64()),
        ("event_time", pa.timestamp("us", tz="UTC")),
        ("ids", pa.list_(pa.int64())),
        ("features", pa.list_(pa.float32())),
        # The outcome stands in the column of the model's kind; all three are null without one.
        ("value", pa.float32()),
        ("choice", pa.int64()),
        ("vector", pa.list_(pa.float32())),
        # Made before the update, and its loss; null without an outcome.
        ("prediction", pa.list_(pa.float32())),
        ("loss", pa.float32()),
        ("model", pa.string()),
    ]
)

_LAST_DAY = int(np.datetime64("9999-12-31", "D").astype(np.int64))
# Above every character that may follow a day in a key, so that a listing goes on with the next day.
_PAST = "z"
_FILE = re.compile(
    rf"{EVENTS_PREFIX}day=(\d{{4}}-\d\d-\d\d)/bucket=(\d\d)/([A-Za-z0-9._-]+-\d{{8,}})(?:\.r(\d+))?\.parquet"
)


@dataclass(frozen=True, slots=True)
class EventFile:
    """One file of the log."""

    day: str
    bucket: int
    name: str
    revision: int = 0

    @property
    def key(self) -> str:
        revision = f".r{self.revision}" if self.revision else ""
        return f"{self.stem}{revision}.parquet"

    @property
    def stem(self) -> str:
        """What the keys of all its revisions begin with; a dot follows."""
        return f"{bucket_prefix(self.day, self.bucket)}{self.name}"


def bucket_of(slot: int) -> int:
    """The bucket of a slot's users. Fixed for ever: a user's events are found by it."""
    return slot % NUM_BUCKETS


def day_prefix(day: str) -> str:
    """All files of a day, YYYY-MM-DD."""
    return f"{EVENTS_PREFIX}day={day}/"


def bucket_prefix(day: str, bucket: int) -> str:
    """All files of a bucket of a day."""
    return f"{day_prefix(day)}bucket={bucket:02d}/"


def file_name(incarnation: str, number: int) -> str:
    """The name of the files of an incarnation's nth write; each bucket of a day has at most one."""
    return f"{incarnation.replace('/', '-')}-{number:08d}"


def file_of_key(key: str) -> EventFile:
    """The file that a key names. Raises Damaged: this is no key of the log."""
    match = _FILE.fullmatch(key)
    if match is None:
        raise Damaged(f"{key} is no file of the event log")
    day, bucket, name, revision = match.groups()
    return EventFile(day, int(bucket), name, int(revision or 0))


def encode_events(table: pa.Table) -> bytes:
    """A file's body."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue().to_pybytes())


def decode_events(body: bytes, key: str, columns: Sequence[str] = SCHEMA.names) -> pa.Table:
    """A file's events, or some columns of them. Raises Damaged, which names the key."""
    try:
        file = pq.ParquetFile(pa.BufferReader(body))
        if file.schema_arrow != SCHEMA:
            raise Damaged(f"{key} has other columns")
        return file.read(columns=list(columns))
    except (pa.ArrowException, OSError) as error:
        raise Damaged(f"{key} cannot be read: {type(error).__name__}") from error


def split_events(table: pa.Table, name: str) -> list[tuple[EventFile, pa.Table]]:
    """Events by the file of that name that each belongs to, in their order. Not empty."""
    day_N = table["event_time"].to_numpy().astype("datetime64[D]").astype(np.int64)
    place_N = np.minimum(day_N, _LAST_DAY) * NUM_BUCKETS + table["slot"].to_numpy() % NUM_BUCKETS
    order_N = np.argsort(place_N, kind="stable")
    places, starts = np.unique(place_N[order_N], return_index=True)
    ordered = table.take(pa.array(order_N))
    parts = []
    for place, start, end in zip(places.tolist(), starts.tolist(), [*starts[1:].tolist(), len(table)], strict=True):
        day, bucket = divmod(place, NUM_BUCKETS)
        parts.append((EventFile(str(np.datetime64(day, "D")), bucket, name), ordered.slice(start, end - start)))
    return parts


async def list_days(store: ObjectStore) -> list[str]:
    """The days that have events. One listing a day, whatever the number of files."""
    days = list[str]()
    after = ""
    while (page := await store.list(EVENTS_PREFIX, after=after, limit=1)).entries:
        days.append(file_of_key(page.entries[0].key).day)
        after = f"{EVENTS_PREFIX}day={days[-1]}{_PAST}"
    return days


async def list_files(store: ObjectStore, prefix: str) -> list[EventFile]:
    """The files under a prefix, each at its highest revision."""
    newest = dict[str, EventFile]()
    async for entry in list_all(store, prefix):
        file = file_of_key(entry.key)
        if file.revision >= newest.get(file.stem, file).revision:
            newest[file.stem] = file
    return list(newest.values())


async def read_file(store: ObjectStore, file: EventFile) -> pa.Table:
    """A file's events; those of a newer revision if that has replaced it meanwhile. Decoded in a thread."""
    while (stored := await store.get(file.key)) is None:
        revisions = await _revisions(store, file)
        if not revisions or revisions[-1].revision <= file.revision:
            raise Damaged(f"{file.key} is gone")
        file = revisions[-1]
    return await asyncio.to_thread(decode_events, stored.body, file.key)


async def read_events(
    store: ObjectStore, day: str | None = None, bucket: int | None = None
) -> AsyncIterator[tuple[EventFile, pa.Table]]:
    """The log, or that of a day (YYYY-MM-DD) or a bucket, file by file, day by day, bucket by bucket; each event once.

    Within a user `version` gives the order. Raises Damaged: a file cannot be read.
    """
    for each in [day] if day is not None else await list_days(store):
        for one in [bucket] if bucket is not None else range(NUM_BUCKETS):
            for file in await list_files(store, bucket_prefix(each, one)):
                yield file, await read_file(store, file)


async def forget_events(store: ObjectStore, user: str) -> int:
    """Remove a user (by `user_key`) from the log; how many events that were. Idempotent: after an error call it again.

    What a worker has not written yet is not there to be removed: call `EventLog.flush` before.
    """
    bucket = bucket_of(slot_of(user))
    files = [file for day in await list_days(store) for file in await list_files(store, bucket_prefix(day, bucket))]
    left, removed = iter(files), 0

    async def forget() -> None:
        nonlocal removed
        for file in left:
            count = await _forget_in(store, file, user)
            removed += count

    try:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(FILES_AT_ONCE):
                tasks.create_task(forget())
    except* StoreError as group:
        raise group.exceptions[0] from None
    return removed


async def _forget_in(store: ObjectStore, newest: EventFile, user: str) -> int:
    """Rewrite one file, of which this was the newest, until its highest revision is without the user, then delete those
    below."""
    namespace, _, user_id = user.partition("\0")
    revisions = [newest] if not newest.revision else await _revisions(store, newest)
    removed = 0
    while True:
        if not revisions:
            raise Damaged(f"{newest.key} is gone")
        newest = revisions[-1]
        stored = await store.get(newest.key)
        if stored is not None:
            kept, count = await asyncio.to_thread(_without, stored.body, newest.key, namespace, user_id)
            removed = max(removed, count)
            if not count:
                for older in revisions[:-1]:
                    await store.delete(older.key)
                return removed
            # Whoever loses a race, or has written below a revision that overtook it, sees so by looking again.
            await store.put_if_absent(replace(newest, revision=newest.revision + 1).key, kept)
        revisions = await _revisions(store, newest)


def _without(body: bytes, key: str, namespace: str, user_id: str) -> tuple[bytes, int]:
    """A file's body without a user and how many events less; empty if that is none."""
    whose = decode_events(body, key, ["namespace", "user_id"])
    of_user = pc.and_(pc.equal(whose["namespace"], namespace), pc.equal(whose["user_id"], user_id))
    if not (count := pc.sum(of_user).as_py()):
        return b"", 0
    return encode_events(decode_events(body, key).filter(pc.invert(of_user))), count


async def _revisions(store: ObjectStore, file: EventFile) -> list[EventFile]:
    """All revisions of a file that are there, the highest last."""
    found = [file_of_key(entry.key) async for entry in list_all(store, f"{file.stem}.")]
    return sorted(found, key=lambda one: one.revision)
