"""The probe finds the condition that a store does not enforce, and leaves nothing behind."""

from __future__ import annotations

import asyncio

import pytest

from persistence import (
    Entry,
    Etag,
    ObjectStore,
    Page,
    StoreMisconfigured,
    StoreUnavailable,
    list_all,
    open_store,
    probe,
)
from persistence.memory import MemoryStore
from persistence.store import PAGE_KEYS_MAX
from tests.persistence.servers import Server

NONCE = "01JD0000000000000000000000"


class IgnoresAbsent(MemoryStore):
    async def put_if_absent(self, key: str, body: bytes, *, timeout_s: float | None = None) -> Etag | None:
        return await self.put(key, body)


class RefusesAbsentButWrites(MemoryStore):
    async def put_if_absent(self, key: str, body: bytes, *, timeout_s: float | None = None) -> Etag | None:
        is_there = await self.get(key) is not None
        etag = await self.put(key, body)
        return None if is_there else etag


class IgnoresMatch(MemoryStore):
    async def put_if_match(self, key: str, body: bytes, etag: Etag, *, timeout_s: float | None = None) -> Etag | None:
        return await self.put(key, body)


class MakesMissing(MemoryStore):
    async def put_if_match(self, key: str, body: bytes, etag: Etag, *, timeout_s: float | None = None) -> Etag | None:
        is_there = await self.get(key) is not None
        return await (super().put_if_match(key, body, etag) if is_there else self.put(key, body))


class RefusesAllMatches(MemoryStore):
    async def put_if_match(self, key: str, body: bytes, etag: Etag, *, timeout_s: float | None = None) -> Etag | None:
        return None


class RacesAbsent(MemoryStore):
    async def put_if_absent(self, key: str, body: bytes, *, timeout_s: float | None = None) -> Etag | None:
        is_there = await self.get(key) is not None
        await asyncio.sleep(0)
        return None if is_there else await self.put(key, body)


class RacesMatch(MemoryStore):
    async def put_if_match(self, key: str, body: bytes, etag: Etag, *, timeout_s: float | None = None) -> Etag | None:
        stored = await self.get(key)
        await asyncio.sleep(0)
        return await self.put(key, body) if stored is not None and stored.etag == etag else None


class ListsLate(MemoryStore):
    async def list(
        self, prefix: str = "", *, after: str = "", limit: int = PAGE_KEYS_MAX, timeout_s: float | None = None
    ) -> Page:
        page = await super().list(prefix, after=after, limit=limit)
        return Page(page.entries[:-1], page.more)


BROKEN: list[tuple[type[MemoryStore], str]] = [
    (IgnoresAbsent, r"put-if-absent \(If-None-Match: \*\) is not enforced: it wrote over"),
    (RefusesAbsentButWrites, "put-if-absent is not enforced: it was refused and yet written"),
    (IgnoresMatch, r"put-if-match \(If-Match\) is not enforced: it wrote over a newer"),
    (MakesMissing, r"put-if-match \(If-Match\) is not enforced: it wrote a key that was deleted"),
    (RefusesAllMatches, "put-if-match refuses the current etag"),
    (RacesAbsent, "put-if-absent is not enforced in a race: 3 of 3"),
    (RacesMatch, "put-if-match is not enforced in a race: 3 of 3"),
    (ListsLate, "lists are not consistent"),
]


async def entries_of(store: ObjectStore) -> list[Entry]:
    return [entry async for entry in list_all(store)]


@pytest.mark.parametrize(("kind", "message"), BROKEN, ids=lambda value: getattr(value, "__name__", ""))
async def test_what_is_not_enforced_is_named(kind: type[MemoryStore], message: str) -> None:
    store = kind()
    with pytest.raises(StoreMisconfigured, match=message):
        await probe(store, NONCE)
    assert await entries_of(store) == []


async def test_a_server_that_ignores_conditions_is_refused(rclone: Server, prefix: str) -> None:
    async with open_store(rclone.url(prefix)) as store:
        with pytest.raises(StoreMisconfigured, match=r"put-if-absent \(If-None-Match: \*\) is not enforced"):
            await probe(store, NONCE)
        assert await entries_of(store) == []


class EndsAfter(MemoryStore):
    """A store that is there for some calls only."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self._left = calls

    async def put(self, key: str, body: bytes, *, timeout_s: float | None = None) -> Etag:
        self._count()
        return await super().put(key, body)

    async def delete(self, *keys: str, timeout_s: float | None = None) -> None:
        self._count()
        await super().delete(*keys)

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise StoreUnavailable("it has gone")


@pytest.mark.parametrize("calls", range(10))
async def test_a_store_that_goes_meanwhile_is_no_verdict(calls: int) -> None:
    with pytest.raises(StoreUnavailable, match="it has gone"):
        await probe(EndsAfter(calls), NONCE)


async def test_a_store_that_stays_passes() -> None:
    await probe(EndsAfter(100), NONCE)
