"""The watch of the control object belongs to the worker's life."""

from __future__ import annotations

import asyncio

import pytest

from persistence.memory import MemoryStore
from tests.servers import running_worker
from tests.toys import Counting
from worker.versions import Versions


async def test_a_worker_that_can_follow_no_more_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would go on with a version that may not be live any more."""
    failed = asyncio.Event()

    async def watch(_: Versions) -> None:
        failed.set()
        raise LookupError("a fault of ours")

    monkeypatch.setattr(Versions, "watch", watch)

    async def serve() -> None:
        async with running_worker("worker-0", Counting(), MemoryStore()) as worker:
            await failed.wait()
            await asyncio.wait_for(worker.incarnation.leaving.wait(), 30)

    with pytest.raises(LookupError, match="a fault of ours"):
        await serve()
