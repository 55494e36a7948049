"""A process that writes until it is killed: `python -m tests.persistence.writer URL`. It prints what it wrote."""

from __future__ import annotations

import asyncio
import itertools
import sys

from persistence import open_store


async def write(url: str) -> None:
    """Write for ever."""
    async with open_store(url) as store:
        for number in itertools.count():
            key = f"k/{number:06}"
            assert await store.put_if_absent(key, key.encode() * 1000) is not None
            print(key, flush=True)


if __name__ == "__main__":
    asyncio.run(write(sys.argv[1]))
