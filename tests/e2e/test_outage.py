"""A store that is down: who is here is served, what is not durable is told and kept, nobody leaves unsaved."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import pytest

from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1.admin_pb2 import ListWorkersRequest
from evercurrent.v1.session_pb2 import ObserveRequest
from persistence.errors import StoreUnavailable
from persistence.memory import MemoryStore
from persistence.store import PAGE_KEYS_MAX, Etag, Page, Stored
from tests.e2e.conversation import Conversation, observation
from tests.e2e.test_durability import hash_of, observe_durably, remembered, routed
from tests.e2e.test_unary import refusal
from tests.servers import Service, running_worker
from tests.toys import Counting

pytestmark = pytest.mark.timeout(60)


class Outage(MemoryStore):
    """A store in memory that refuses every call while it `is_down`."""

    is_down = False

    def _check(self) -> None:
        if self.is_down:
            raise StoreUnavailable("down", maybe_done=True)

    async def get(self, key: str, *, timeout_s: float | None = None) -> Stored | None:
        self._check()
        return await super().get(key)

    async def put(self, key: str, body: bytes, *, timeout_s: float | None = None) -> Etag:
        self._check()
        return await super().put(key, body)

    async def put_if_absent(self, key: str, body: bytes, *, timeout_s: float | None = None) -> Etag | None:
        self._check()
        return await super().put_if_absent(key, body)

    async def put_if_match(self, key: str, body: bytes, etag: Etag, *, timeout_s: float | None = None) -> Etag | None:
        self._check()
        return await super().put_if_match(key, body, etag)

    async def delete(self, *keys: str, timeout_s: float | None = None) -> None:
        self._check()
        await super().delete(*keys)

    async def list(
        self, prefix: str = "", *, after: str = "", limit: int = PAGE_KEYS_MAX, timeout_s: float | None = None
    ) -> Page:
        self._check()
        return await super().list(prefix, after=after, limit=limit)


@asynccontextmanager
async def served(store: Outage, residents_max: int = 100) -> AsyncIterator[Service]:
    async with (
        running_worker("worker-0", Counting(), store, residents_max=residents_max) as worker,
        routed(worker_0=worker) as service,
    ):
        try:
            yield service
        finally:
            store.is_down = False


async def test_updates_go_on_and_durability_catches_up() -> None:
    store = Outage()
    async with served(store) as service:
        conversation = await Conversation.opened(service, "ann", wait_durable=True)
        await observe_durably(conversation, 1, 2)
        store.is_down = True
        results = [await conversation.observe(seq) for seq in range(3, 40)]
        assert [result.at_risk for result in results] == list(range(1, 38))
        assert {result.durable_seq for result in results} == {2}
        while (await service.admin.ListWorkers(ListWorkersRequest())).workers[0].updates_at_risk != 37:
            pass
        store.is_down = False
        while (response := await conversation.reply()).watermark.durable_seq < 39:
            assert response.HasField("watermark")
    async with served(store) as service:
        assert await remembered(service, "ann") == (39, hash_of(39))


async def test_who_is_not_here_cannot_come_and_says_so() -> None:
    store = Outage()
    async with served(store) as service:
        await Conversation.opened(service, "ann")
        store.is_down = True
        slot = service.core.worker_of("", "ann")[0]
        number = 0
        while service.core.worker_of("", f"user-{number}")[0] == slot:
            number += 1
        request = ObserveRequest(user_id=f"user-{number}", observation=observation())
        error = await refusal(service.sessions.Observe(request))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert "the store fails" in error.details()
        ann = ObserveRequest(user_id="ann", observation=observation())
        assert (await service.sessions.Observe(ann)).result.status == pb.STATUS_APPLIED
        store.is_down = False
        assert (await service.sessions.Observe(request)).result.status == pb.STATUS_APPLIED


async def test_a_full_memory_evicts_nobody_unsaved() -> None:
    store = Outage()
    async with served(store, residents_max=2) as service:
        slot = service.core.worker_of("", "user-0")[0]
        numbers = (number for number in range(1, 1_000_000) if service.core.worker_of("", f"user-{number}")[0] == slot)
        users = ["user-0", *(f"user-{next(numbers)}" for _ in range(2))]
        requests = [ObserveRequest(user_id=user, observation=observation()) for user in users]
        durable = ObserveRequest(user_id=users[0], observation=observation(), wait_for=pb.WAIT_FOR_DURABLE)
        await service.sessions.Observe(durable)
        store.is_down = True
        for request in requests[:2]:
            assert (await service.sessions.Observe(request)).result.status == pb.STATUS_APPLIED
        error = await refusal(service.sessions.Observe(requests[2]))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert len(service.engines[0].slab) == 2
        for request in requests[:2]:
            assert (await service.sessions.Observe(request)).result.status == pb.STATUS_APPLIED
        store.is_down = False
        await service.until(lambda: not service.engines[0].residents.num_at_risk)
        assert (await service.sessions.Observe(requests[2])).result.version == 1
        assert await remembered(service, users[0]) == (3, hash_of(3))
        assert await remembered(service, users[1]) == (2, hash_of(2))


async def stop_with_two_at_risk() -> None:
    """Serve, lose the store, serve on, stop."""
    store = Outage()
    async with (
        running_worker("worker-0", Counting(), store, stop_timeout_s=0.1) as worker,
        routed(worker_0=worker) as service,
    ):
        conversation = await Conversation.opened(service, "ann", wait_durable=True)
        await observe_durably(conversation, 1, 1)
        store.is_down = True
        for seq in (2, 3):
            await conversation.observe(seq)


async def test_a_stop_that_cannot_save_what_is_left_says_how_much() -> None:
    with pytest.raises(StoreUnavailable, match="2 updates are not durable"):
        await stop_with_two_at_risk()
