"""The event log's files: keys, columns, and that forgetting leaves each other event once, whatever comes in between."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from evercurrent.slots import slot_of, user_key
from persistence import ObjectStore, StoreUnavailable, list_all, open_store
from persistence.errors import Damaged
from persistence.events import (
    NUM_BUCKETS,
    SCHEMA,
    EventFile,
    bucket_of,
    decode_events,
    encode_events,
    file_name,
    file_of_key,
    forget_events,
    list_days,
    read_events,
)
from persistence.memory import MemoryStore
from persistence.store import Etag
from tests.persistence.servers import Server

DAYS = ("2026-01-31", "2026-02-01", "2026-11-05")
INCARNATION = "worker-0/01JD0000000000000000000000"


@pytest.fixture(params=["memory", "sqlite", "seaweedfs"])
async def store(request: pytest.FixtureRequest, tmp_path: Path, prefix: str) -> AsyncIterator[ObjectStore]:
    url = {"memory": "memory:", "sqlite": f"sqlite:{tmp_path / 'store.db'}"}.get(request.param)
    if url is None:
        server: Server = request.getfixturevalue(request.param)
        url = server.url(prefix, attempt_timeout_s=40, timeout_s=50)
    async with open_store(url) as opened:
        yield opened


def neighbours(count: int) -> list[str]:
    """Users of one bucket."""
    found = (user_key("default", f"u{number}") for number in range(100_000))
    return [user for user in found if bucket_of(slot_of(user)) == 3][:count]


def table_of(day: str, users: list[str], first: int) -> pa.Table:
    """An event of each of these users; `version` tells them apart."""
    rows = [
        {
            "namespace": user.partition("\0")[0],
            "user_id": user.partition("\0")[2],
            "slot": slot_of(user),
            "session_id": None,
            "seq": None,
            "version": first + at,
            "event_time": datetime.fromisoformat(day).replace(tzinfo=UTC),
            "ids": [1, 2],
            "features": [],
            "value": 0.5,
            "choice": None,
            "vector": None,
            "prediction": [0.25],
            "loss": 0.125,
            "model": "counting",
        }
        for at, user in enumerate(users)
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


async def write(store: ObjectStore, file: EventFile, table: pa.Table) -> None:
    assert await store.put_if_absent(file.key, encode_events(table)) is not None


async def fill(store: ObjectStore, users: list[str]) -> None:
    """Three days with two files each; each user has one event in each. And a file of another bucket."""
    for number in range(6):
        file = EventFile(DAYS[number // 2], 3, file_name(INCARNATION, number + 1))
        await write(store, file, table_of(file.day, users, first=100 * number))
        await write(store, replace(file, bucket=4), table_of(file.day, [user_key("default", "other")], first=1))


async def versions_of(store: ObjectStore, user: str, day: str | None = None) -> list[int]:
    found = []
    async for _, table in read_events(store, day):
        found += [row["version"] for row in table.to_pylist() if user_key(row["namespace"], row["user_id"]) == user]
    return found


def test_keys_name_their_files() -> None:
    file = EventFile("2026-01-31", 3, file_name("a.b/01JD0000000000000000000000", 7))
    assert file.key == "events/day=2026-01-31/bucket=03/a.b-01JD0000000000000000000000-00000007.parquet"
    for revision in (0, 1, 12):
        revised = replace(file, revision=revision)
        assert file_of_key(revised.key) == revised


@pytest.mark.parametrize("key", ["events/x", "events/day=2026-01-31/bucket=03/a.parquet", "events/day=1/bucket=03/a-1"])
def test_other_keys_are_named(key: str) -> None:
    with pytest.raises(Damaged, match=key):
        file_of_key(key)


def test_every_bucket_has_users() -> None:
    assert {bucket_of(slot_of(user_key("", str(number)))) for number in range(200)} == set(range(NUM_BUCKETS))


def test_a_body_that_is_no_log_is_named() -> None:
    with pytest.raises(Damaged, match="events/k"):
        decode_events(b"PAR1", "events/k")
    with pytest.raises(Damaged, match="other columns"):
        decode_events(encode_events(pa.table({"a": [1]})), "events/k")


async def test_what_is_written_is_read_by_day(store: ObjectStore) -> None:
    users = neighbours(3)
    assert await list_days(store) == []
    await fill(store, users)
    assert await list_days(store) == list(DAYS)
    assert await versions_of(store, users[1]) == [1, 101, 201, 301, 401, 501]
    assert await versions_of(store, users[1], "2026-02-01") == [201, 301]
    assert await versions_of(store, users[1], "2026-02-02") == []
    assert {file.bucket async for file, _ in read_events(store, bucket=4)} == {4}


async def test_a_forgotten_user_leaves_nothing_and_the_others_all(store: ObjectStore) -> None:
    users = neighbours(3)
    await fill(store, users)
    num_objects = len([entry async for entry in list_all(store)])
    assert await forget_events(store, users[1]) == 6
    assert await forget_events(store, users[1]) == 0
    assert await versions_of(store, users[1]) == []
    assert await versions_of(store, users[2]) == [2, 102, 202, 302, 402, 502]
    assert len([entry async for entry in list_all(store)]) == num_objects
    for entry in [entry async for entry in list_all(store)]:
        stored = await store.get(entry.key)
        assert stored is not None
        assert users[1].partition("\0")[2] not in decode_events(stored.body, entry.key)["user_id"].to_pylist()


async def test_a_file_whose_last_user_is_forgotten_stays_empty_against_late_writes() -> None:
    store = MemoryStore()
    (user,) = neighbours(1)
    file = EventFile(DAYS[0], 3, file_name(INCARNATION, 1))
    await write(store, file, table_of(file.day, [user], first=1))
    assert await forget_events(store, user) == 1
    await write(store, file, table_of(file.day, [user], first=1))
    assert await versions_of(store, user) == []
    assert await forget_events(store, user) == 0
    assert [entry.key async for entry in list_all(store)] == [replace(file, revision=1).key]


class Breaking(MemoryStore):
    """A store whose nth change is its last: it happens, or not, and nobody is told."""

    def __init__(self, changes: int, happens: bool) -> None:
        super().__init__()
        self.changes_left = changes
        self.happens = happens
        self.is_on = False

    async def put_if_absent(self, key: str, body: bytes, *, timeout_s: float | None = None) -> Etag | None:
        if self._breaks():
            if self.happens:
                await super().put_if_absent(key, body)
            raise StoreUnavailable("broken off", maybe_done=True)
        return await super().put_if_absent(key, body)

    async def delete(self, *keys: str, timeout_s: float | None = None) -> None:
        if self._breaks():
            if self.happens:
                await super().delete(*keys)
            raise StoreUnavailable("broken off", maybe_done=True)
        await super().delete(*keys)

    def _breaks(self) -> bool:
        self.changes_left -= self.is_on
        return self.is_on and self.changes_left == 0


@pytest.mark.parametrize("happens", [False, True])
@pytest.mark.parametrize("changes", range(1, 13))
async def test_a_crash_while_forgetting_doubles_and_loses_nothing(changes: int, happens: bool) -> None:
    users = neighbours(3)
    store = Breaking(changes, happens)
    await fill(store, users)
    store.is_on = True
    with pytest.raises(StoreUnavailable):
        await forget_events(store, users[1])
    assert await versions_of(store, users[2]) == [2, 102, 202, 302, 402, 502]
    versions = await versions_of(store, users[1])
    assert versions == sorted(set(versions))
    await forget_events(store, users[1])
    assert await versions_of(store, users[1]) == []
    assert await versions_of(store, users[2]) == [2, 102, 202, 302, 402, 502]
    assert len([entry async for entry in list_all(store)]) == 12


class Overtaking(MemoryStore):
    """A store in which others forget a user to the end right before the next change."""

    overtaker: str | None = None

    async def put_if_absent(self, key: str, body: bytes, *, timeout_s: float | None = None) -> Etag | None:
        user, self.overtaker = self.overtaker, None
        if user is not None:
            await forget_events(self, user)
        return await super().put_if_absent(key, body)


class OvertakingTwice(Overtaking):
    """As many others as it takes to have the revision free again that the late one is about to write."""

    second: str | None = None

    async def put_if_absent(self, key: str, body: bytes, *, timeout_s: float | None = None) -> Etag | None:
        if self.second is not None and self.overtaker is not None:
            first, self.overtaker = self.overtaker, None
            await forget_events(self, first)
            user, self.second = self.second, None
            await forget_events(self, user)
        return await super().put_if_absent(key, body)


@pytest.mark.parametrize("kind", [Overtaking, OvertakingTwice])
async def test_forgetting_at_once_forgets_all_of_them(kind: type[Overtaking]) -> None:
    users = neighbours(4)
    store = kind()
    await fill(store, users)
    forgotten = [users[1], users[2]]
    store.overtaker = users[2]
    if isinstance(store, OvertakingTwice):
        store.second = users[3]
        forgotten.append(users[3])
    assert await forget_events(store, users[1]) == 6
    for user in forgotten:
        assert await versions_of(store, user) == []
    assert await versions_of(store, users[0]) == [0, 100, 200, 300, 400, 500]
    assert len([entry async for entry in list_all(store)]) == 12


async def test_a_file_replaced_while_it_is_read_is_read_anew() -> None:
    users = neighbours(2)
    store = MemoryStore()
    await fill(store, users)
    versions = []
    async for file, table in read_events(store):
        versions += [row["version"] for row in table.to_pylist() if row["user_id"] == users[0].partition("\0")[2]]
        if len(versions) == 1 and file.bucket == 3:
            await forget_events(store, users[1])
    assert versions == [0, 100, 200, 300, 400, 500]
