"""One of several processes that count in one store: `python -m tests.persistence.contender URL TIMES`.

It opens the store, says so, waits for a line on stdin, adds to `count` as often as asked, one condition at a time, and
each time makes one of `takes/…`, for which all contend. It prints how many of those it made.
"""

from __future__ import annotations

import asyncio
import sys

from persistence import ObjectStore, open_store


async def count_once(store: ObjectStore) -> None:
    """Add one to `count`, however often the race for it is lost."""
    while True:
        stored = await store.get("count")
        assert stored is not None
        if await store.put_if_match("count", b"%d" % (int(stored.body) + 1), stored.etag) is not None:
            return


async def contend(url: str, times: int) -> int:
    """How many of the objects that all contend for were made here."""
    taken = 0
    async with open_store(url) as store:
        print("open", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        for number in range(times):
            await count_once(store)
            taken += await store.put_if_absent(f"takes/{number:04}", b"x") is not None
    return taken


if __name__ == "__main__":
    print(asyncio.run(contend(sys.argv[1], int(sys.argv[2]))), flush=True)
