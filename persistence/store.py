"""The store: keys, bytes and two conditions. The only arbiter of who owns what (DESIGN.md, section 5).

Every implementation is strongly consistent: a read or list that starts after a write was answered sees it. Both
conditional writes are exact, from any number of processes: of several contenders one wins, the others get None.

Keys are ASCII paths, `journal/worker-0/01J…/000042`, at most KEY_BYTES_MAX long; no key is a folder of another (`a` and
`a/b`), since some servers keep folders. An etag names contents: equal bodies may have equal etags, so whoever must tell
two writes apart puts something never used twice into the body.

Deadlines: each call takes `timeout_s` (None: the store's own), which includes waiting for a turn. An unanswered write
is in doubt (`StoreError.maybe_done`) and may land later: `put` and `delete`, which have no condition, suit only keys
that are never used again for something else.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import NewType, Protocol

KEY_BYTES_MAX = 512
PAGE_KEYS_MAX = 1000
BODY_BYTES_MAX = 64 << 20

Etag = NewType("Etag", str)

_KEY = re.compile(r"[A-Za-z0-9._=-]+(/[A-Za-z0-9._=-]+)*")
_PREFIX = re.compile(r"([A-Za-z0-9._=-]+/)*[A-Za-z0-9._=-]*")


@dataclass(frozen=True, slots=True)
class Stored:
    """An object as it was read."""

    body: bytes
    etag: Etag


@dataclass(frozen=True, slots=True)
class Entry:
    """An object as it is listed. `size` in bytes."""

    key: str
    etag: Etag
    size: int


@dataclass(frozen=True, slots=True)
class Page:
    """Some objects, in the store's order. `more`: there are others after the last of these."""

    entries: tuple[Entry, ...]
    more: bool


class ObjectStore(Protocol):
    """What every store does. All calls raise StoreError; a key outside the alphabet above is ValueError."""

    async def get(self, key: str, *, timeout_s: float | None = None) -> Stored | None:
        """The object, or None if there is none."""
        ...

    async def put(self, key: str, body: bytes, *, timeout_s: float | None = None) -> Etag:
        """Write whatever is there now. Idempotent as long as nobody else writes the key."""
        ...

    async def put_if_absent(self, key: str, body: bytes, *, timeout_s: float | None = None) -> Etag | None:
        """Write if there is no such object. None: there was one, and it is as it was."""
        ...

    async def put_if_match(self, key: str, body: bytes, etag: Etag, *, timeout_s: float | None = None) -> Etag | None:
        """Write if the object still has this etag. None: it has another, or is gone; nothing was written."""
        ...

    async def delete(self, *keys: str, timeout_s: float | None = None) -> None:
        """Remove objects, not as one. Idempotent: one that is not there is no error; after an error some may be gone.

        `timeout_s` bounds each removal where the store takes them one by one.
        """
        ...

    async def list(
        self, prefix: str = "", *, after: str = "", limit: int = PAGE_KEYS_MAX, timeout_s: float | None = None
    ) -> Page:
        """At most `limit` (1 to PAGE_KEYS_MAX) objects whose keys begin with `prefix` and come after the key `after`.

        The keys of one folder ascend by their bytes; the folders themselves come in an order that is fixed but the
        store's own, where the name of one begins another's (`a/` and `a.b/`: S3 sorts whole keys, SeaweedFS folders).
        Pages of one listing are not one snapshot: what is written meanwhile may or may not be seen.
        """
        ...


async def list_all(store: ObjectStore, prefix: str = "", *, timeout_s: float | None = None) -> AsyncIterator[Entry]:
    """All objects under a prefix, page by page. `timeout_s` is that of a page."""
    page = await store.list(prefix, timeout_s=timeout_s)
    while True:
        for entry in page.entries:
            yield entry
        if not page.more:
            return
        page = await store.list(prefix, after=page.entries[-1].key, timeout_s=timeout_s)


def content_etag(body: bytes) -> Etag:
    """The etag that stores of ours give, as weak as those of S3: of the contents alone."""
    return Etag(blake2b(body, digest_size=16).hexdigest())


def checked_key(key: str) -> str:
    """The key, if it is one. Raises ValueError."""
    if len(key) > KEY_BYTES_MAX or not _KEY.fullmatch(key) or _has_dot_segment(key):
        raise ValueError(f"not a key of a store: {key!r}")
    return key


def checked_body(body: bytes) -> bytes:
    """The body, if it is small enough to be one. Raises ValueError."""
    if len(body) > BODY_BYTES_MAX:
        raise ValueError(f"a body of {len(body)} bytes is over {BODY_BYTES_MAX}")
    return body


def checked_listing(prefix: str, after: str, limit: int) -> None:
    """Raises ValueError unless these can be listed by."""
    if (
        len(prefix) > KEY_BYTES_MAX
        or not _PREFIX.fullmatch(prefix)
        or _has_dot_segment(prefix[: prefix.rfind("/") + 1])
    ):
        raise ValueError(f"not a prefix of a key of a store: {prefix!r}")
    if after:
        checked_key(after)
    if not 1 <= limit <= PAGE_KEYS_MAX:
        raise ValueError(f"limit is {limit}, not 1 to {PAGE_KEYS_MAX}")


def _has_dot_segment(path: str) -> bool:
    """Whether HTTP libraries and proxies would take the path for another one."""
    return any(part in {".", ".."} for part in path.split("/"))
