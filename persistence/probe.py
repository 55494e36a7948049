"""Whether a store truly arbitrates: asked at start, since several S3 look-alikes take conditions and ignore them.

A store passes if it refuses a second put-if-absent, a stale put-if-match and one on a missing key, if of several
contenders at once exactly one wins, and if reads and lists show what was written. All else in DESIGN.md, section 5,
rests on that. A pass is evidence and no proof: a race may be lost by luck.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from persistence.errors import StoreError, StoreMisconfigured
from persistence.store import Etag, ObjectStore

CONTENDERS = 3
CLEANUP_TIMEOUT_S = 10.0


async def probe(store: ObjectStore, nonce: str, *, contenders: int = CONTENDERS) -> None:
    """Try the store's conditions on keys under `probe/<nonce>/`, which are removed again.

    `nonce` is part of a key and never used twice, such as an incarnation's ulid.

    Raises:
        StoreMisconfigured: the store does not enforce a condition; the text says which.
        StoreError: it could not be tried.
    """
    trial = _Trial(store, f"probe/{nonce}")
    try:
        etag = await trial.refuses_second_put_if_absent()
        await trial.refuses_stale_put_if_match(etag)
        await trial.refuses_put_if_match_on_missing_key()
        await trial.has_one_winner_of_put_if_absent(contenders)
        await trial.has_one_winner_of_put_if_match(contenders)
        await trial.lists_what_was_written()
    except BaseException:
        await trial.clean_up(is_failing=True)
        raise
    await trial.clean_up(is_failing=False)


class _Trial:
    """The questions to one store. Each body is written once, so what is read tells who wrote it."""

    def __init__(self, store: ObjectStore, folder: str) -> None:
        self._store = store
        self._folder = folder
        self._alone = f"{folder}/alone"
        self._missing = f"{folder}/missing"
        self._race_absent = f"{folder}/race-absent"
        self._race_match = f"{folder}/race-match"

    async def refuses_second_put_if_absent(self) -> Etag:
        """Returns the etag of the object that stands."""
        etag = await self._store.put_if_absent(self._alone, b"first")
        _require(etag is not None, "put-if-absent refuses to write a new key")
        assert etag is not None
        second = await self._store.put_if_absent(self._alone, b"second")
        _require(second is None, "put-if-absent (If-None-Match: *) is not enforced: it wrote over an object")
        await self._require_body(self._alone, b"first", "put-if-absent")
        return etag

    async def refuses_stale_put_if_match(self, etag: Etag) -> None:
        """`etag` is that of the object that stands."""
        newer = await self._store.put_if_match(self._alone, b"third", etag)
        _require(newer is not None, "put-if-match refuses the current etag")
        stale = await self._store.put_if_match(self._alone, b"fourth", etag)
        _require(stale is None, "put-if-match (If-Match) is not enforced: it wrote over a newer object")
        await self._require_body(self._alone, b"third", "put-if-match")

    async def refuses_put_if_match_on_missing_key(self) -> None:
        await self._store.put(self._missing, b"fifth")
        stood = await self._store.get(self._missing)
        _require(stood is not None, "reads are not consistent: an object that was written is not there")
        assert stood is not None
        await self._store.delete(self._missing)
        written = await self._store.put_if_match(self._missing, b"sixth", stood.etag)
        gone = await self._store.get(self._missing)
        _require(
            written is None and gone is None, "put-if-match (If-Match) is not enforced: it wrote a key that was deleted"
        )

    async def has_one_winner_of_put_if_absent(self, contenders: int) -> None:
        key = self._race_absent
        await self._race(key, contenders, lambda body: self._store.put_if_absent(key, body), "put-if-absent")

    async def has_one_winner_of_put_if_match(self, contenders: int) -> None:
        key = self._race_match
        etag = await self._store.put(key, b"start")
        await self._race(key, contenders, lambda body: self._store.put_if_match(key, body, etag), "put-if-match")

    async def lists_what_was_written(self) -> None:
        page = await self._store.list(f"{self._folder}/")
        found = [entry.key for entry in page.entries]
        expected = [self._alone, self._race_absent, self._race_match]
        _require(found == expected, f"lists are not consistent: {found} instead of {expected}")

    async def clean_up(self, *, is_failing: bool) -> None:
        """Remove what was written. While the probe fails anyway, a store that fails here too adds nothing to it."""
        for key in (self._alone, self._missing, self._race_absent, self._race_match):
            try:
                await self._store.delete(key, timeout_s=CLEANUP_TIMEOUT_S)
            except StoreError:
                if not is_failing:
                    raise

    async def _race(
        self, key: str, contenders: int, put: Callable[[bytes], Awaitable[Etag | None]], condition: str
    ) -> None:
        bodies = [b"contender %d" % number for number in range(contenders)]
        etags = await asyncio.gather(*(put(body) for body in bodies))
        winners = [body for body, etag in zip(bodies, etags, strict=True) if etag is not None]
        _require(
            len(winners) == 1, f"{condition} is not enforced in a race: {len(winners)} of {contenders} at once won"
        )
        await self._require_body(key, winners[0], f"{condition} in a race")

    async def _require_body(self, key: str, body: bytes, condition: str) -> None:
        stored = await self._store.get(key)
        _require(stored is not None, "reads are not consistent: an object that was written is not there")
        assert stored is not None
        _require(stored.body == body, f"{condition} is not enforced: it was refused and yet written")


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise StoreMisconfigured(f"this store cannot arbitrate: {otherwise}")
