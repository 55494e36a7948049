"""A store in memory: for tests, and for a service whose states may go with the process. Never shared.

Used on one event loop. No call waits, so none can fail or be in doubt.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

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


class MemoryStore:
    """An `ObjectStore` that is a dictionary."""

    def __init__(self) -> None:
        self._objects: dict[str, Stored] = {}

    async def get(self, key: str, *, timeout_s: float | None = None) -> Stored | None:
        return self._objects.get(checked_key(key))

    async def put(self, key: str, body: bytes, *, timeout_s: float | None = None) -> Etag:
        stored = Stored(checked_body(body), content_etag(body))
        self._objects[checked_key(key)] = stored
        return stored.etag

    async def put_if_absent(self, key: str, body: bytes, *, timeout_s: float | None = None) -> Etag | None:
        return None if checked_key(key) in self._objects else await self.put(key, body)

    async def put_if_match(self, key: str, body: bytes, etag: Etag, *, timeout_s: float | None = None) -> Etag | None:
        stored = self._objects.get(checked_key(key))
        return await self.put(key, body) if stored is not None and stored.etag == etag else None

    async def delete(self, *keys: str, timeout_s: float | None = None) -> None:
        for key in [checked_key(key) for key in keys]:
            self._objects.pop(key, None)

    async def list(
        self, prefix: str = "", *, after: str = "", limit: int = PAGE_KEYS_MAX, timeout_s: float | None = None
    ) -> Page:
        checked_listing(prefix, after, limit)
        keys = sorted(key for key in self._objects if key.startswith(prefix) and key > after)
        found = [(key, self._objects[key]) for key in keys[:limit]]
        return Page(tuple(Entry(key, stored.etag, len(stored.body)) for key, stored in found), len(keys) > limit)


@asynccontextmanager
async def open_memory() -> AsyncIterator[MemoryStore]:
    """A new, empty store."""
    yield MemoryStore()
