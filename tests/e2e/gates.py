"""Stores in memory that several workers share, each through a gate of its own that the test closes and opens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from persistence.memory import MemoryStore
from persistence.store import PAGE_KEYS_MAX, Etag, Page, Stored

Chosen = Callable[[str, str], bool]
"""Whether a call is held back, by what it does (get, put, list, delete) and its key or prefix."""


class Gate(MemoryStore):
    """One worker's way to a store. `is_waiting` is set once a call is held back."""

    def __init__(self, store: MemoryStore) -> None:
        self._objects = store._objects
        self.is_waiting = asyncio.Event()
        self._is_open = asyncio.Event()
        self._is_open.set()
        self._chosen: Chosen = lambda _, __: True

    @contextmanager
    def closed(self, chosen: Chosen = lambda _, __: True) -> Iterator[None]:
        """Hold back the chosen calls meanwhile, and then let all of them pass."""
        self._chosen = chosen
        self._is_open.clear()
        self.is_waiting.clear()
        try:
            yield
        finally:
            self._is_open.set()

    async def get(self, key: str, *, timeout_s: float | None = None) -> Stored | None:
        await self._pass("get", key)
        return await super().get(key)

    async def put(self, key: str, body: bytes, *, timeout_s: float | None = None) -> Etag:
        await self._pass("put", key)
        return await super().put(key, body)

    async def put_if_absent(self, key: str, body: bytes, *, timeout_s: float | None = None) -> Etag | None:
        await self._pass("put", key)
        return await super().put_if_absent(key, body)

    async def put_if_match(self, key: str, body: bytes, etag: Etag, *, timeout_s: float | None = None) -> Etag | None:
        await self._pass("put", key)
        return await super().put_if_match(key, body, etag)

    async def delete(self, *keys: str, timeout_s: float | None = None) -> None:
        for key in keys:
            await self._pass("delete", key)
        await super().delete(*keys)

    async def list(
        self, prefix: str = "", *, after: str = "", limit: int = PAGE_KEYS_MAX, timeout_s: float | None = None
    ) -> Page:
        await self._pass("list", prefix)
        return await super().list(prefix, after=after, limit=limit)

    async def _pass(self, deed: str, key: str) -> None:
        while not self._is_open.is_set() and self._chosen(deed, key):
            self.is_waiting.set()
            await self._is_open.wait()
