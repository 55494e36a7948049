"""Slots move between workers that come, drain and die, while their users stream: nobody notices more than a pause."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import grpc.aio
import pytest

from evercurrent.settings import RouterSettings
from evercurrent.slots import slot_of, user_key
from evercurrent.v1.admin_pb2 import ListWorkersRequest
from persistence.keys import JOURNAL_PREFIX, SLOTS_PREFIX, journal_prefix
from persistence.memory import MemoryStore
from persistence.record import read_slot
from persistence.segment import read_footer
from persistence.store import ObjectStore, list_all
from tests.e2e.conversation import Conversation
from tests.e2e.gates import Chosen, Gate
from tests.e2e.learners import Class, Learner, class_of, learning
from tests.servers import Listings, Service, Worker, running_router, running_worker
from tests.toys import Counting
from worker.ownership import Timing

pytestmark = pytest.mark.timeout(40)

MS = 1000
TIMING = Timing(journal_interval_us=20 * MS, dead_after_us=500 * MS, hold_us=200 * MS)


class Scene:
    """A router whose members the test lists, over workers on one store."""

    def __init__(self, listings: Listings, service: Service) -> None:
        self.service = service
        self._listings = listings

    @asynccontextmanager
    async def joined(
        self, name: str, store: ObjectStore, *, timing: Timing = TIMING, address: str = "127.0.0.1:0"
    ) -> AsyncIterator[Worker]:
        """A worker comes, is listed and on the ring; in the end it drains, and stays listed."""
        async with running_worker(name, Counting(), store, timing=timing, address=address) as worker:
            self.service.workers[name] = worker
            self._listings.say(**self.service.workers)
            await self.until_on_ring(name)
            yield worker
        del self.service.workers[name]

    async def until_on_ring(self, *names: str) -> None:
        """Wait until the router has these workers on its ring, perhaps with others."""
        core = self.service.core
        await self.service.until(lambda: core.ring is not None and set(names) <= set(core.ring.names))

    async def until_settled(self, learners: Class) -> None:
        """Wait until each learner's slot is served by the worker that the ring gives it, and nowhere else."""
        workers = self.service.workers

        def is_settled() -> bool:
            return all(
                worker.incarnation.ownership.serves(slot_of_user(learner.user))
                == (name == self.service.name_of(learner.user))
                for learner in learners.learners
                for name, worker in workers.items()
            )

        await self.service.until(is_settled)

    async def until_owner(self, store: ObjectStore, worker: Worker) -> None:
        """Wait until every slot's record names this worker."""
        while await owners(store) != {worker.incarnation.name}:
            await self.service.admin.ListWorkers(ListWorkersRequest())


@asynccontextmanager
async def playing(settings: RouterSettings | None = None) -> AsyncIterator[Scene]:
    """A router that knows of no worker yet."""
    listings = Listings()
    async with (
        running_router({}, settings or RouterSettings(), wait_linked=False, source=listings) as (address, routing),
        grpc.aio.insecure_channel(address) as channel,
    ):
        yield Scene(listings, Service(address, routing.core, {}, channel))


def slot_of_user(user: str) -> int:
    return slot_of(user_key("", user))


async def owners(store: ObjectStore) -> set[str]:
    """The incarnations that own slots, as the store says."""
    names = set()
    async for entry in list_all(store, SLOTS_PREFIX):
        stored = await store.get(entry.key)
        assert stored is not None
        names.add(read_slot(stored.body).incarnation)
    return names


async def seals(store: ObjectStore, incarnation: str) -> list[str]:
    """Who sealed a journal, one for each seal in it."""
    sealed = []
    async for entry in list_all(store, journal_prefix(incarnation)):
        stored = await store.get(entry.key)
        assert stored is not None
        footer = read_footer(stored.body)
        if footer.seal:
            sealed.append(footer.incarnation)
    return sealed


@pytest.mark.parametrize("num_before", [1, 2])
async def test_streams_stay_open_when_a_worker_joins(num_before: int) -> None:
    store, learners = MemoryStore(), class_of()
    async with playing() as scene, AsyncExitStack() as stack:
        for number in range(num_before):
            await stack.enter_async_context(scene.joined(f"worker-{number}", store))
        async with learning(scene.service, learners):
            await learners.go_on()
            async with scene.joined(f"worker-{num_before}", store):
                await scene.until_settled(learners)
                assert {scene.service.name_of(one.user) for one in learners.learners} == set(scene.service.workers)
                await learners.go_on()
        await learners.check_remembered(scene.service)


async def test_a_worker_that_drains_leaves_its_slots_to_others_and_nothing_to_seal() -> None:
    store, learners = MemoryStore(), class_of()
    async with playing() as scene, scene.joined("worker-0", store) as staying:
        async with learning(scene.service, learners):
            async with scene.joined("worker-1", store) as leaving:
                await scene.until_settled(learners)
                await learners.go_on()
                left = leaving.incarnation
            assert left.ownership.num_served == 0
            assert await seals(store, left.name) == [left.name]
            await learners.go_on()
            await scene.until_owner(store, staying)
        await scene.service.until(lambda: not len(scene.service.core.sessions))
        await learners.check_remembered(scene.service)


async def test_a_slot_whose_claim_does_not_stand_yet_is_left_to_others_as_well() -> None:
    store = MemoryStore()
    gate = Gate(store)
    async with playing() as scene, scene.joined("worker-0", store):
        async with scene.joined("worker-1", gate) as leaving:
            with gate.closed(lambda deed, key: deed == "put" and key.startswith(SLOTS_PREFIX)):
                learner = Learner(scene.service.user_of_worker("worker-1"))
                conversation = await Conversation.opened(scene.service, learner.user)
                await gate.is_waiting.wait()
                leaving.stop.set()
                for seq in range(1, 100):
                    learner.check_result(await conversation.observe(seq, deed=learner.deed(seq)))
        await Class([learner]).check_remembered(scene.service)
        assert await conversation.finish() == []


async def test_the_only_worker_stops_at_once_and_its_streams_wait_for_it_to_come_back() -> None:
    store, learners = MemoryStore(), class_of(num_callers=0)
    async with playing() as scene, AsyncExitStack() as stack:
        worker = await stack.enter_async_context(scene.joined("worker-0", store))
        async with AsyncExitStack() as again:
            async with learning(scene.service, learners):
                await learners.go_on()
                await stack.aclose()
                await again.enter_async_context(scene.joined("worker-0", store, address=worker.address))
                await learners.go_on()
            await learners.check_remembered(scene.service)


@pytest.mark.parametrize("num_others", [1, 2])
async def test_what_was_answered_and_not_durable_outlives_a_worker_that_dies(num_others: int) -> None:
    store, learners = MemoryStore(), class_of(num_callers=0, may_miss=True)
    gate = Gate(store)
    async with playing() as scene, AsyncExitStack() as stack:
        for number in range(num_others):
            await stack.enter_async_context(scene.joined(f"worker-{number}", store))
        async with learning(scene.service, learners):
            async with AsyncExitStack() as joined:
                doomed = await joined.enter_async_context(scene.joined("doomed", gate))
                await scene.until_settled(learners)
                with gate.closed(lambda deed, key: deed == "put" and key.startswith(JOURNAL_PREFIX)):
                    await gate.is_waiting.wait()
                    await learners.go_on()
                    assert doomed.incarnation.residents.num_at_risk > 0
                    doomed.is_dead = True
                    await joined.aclose()
            await learners.go_on()
        await learners.check_remembered(scene.service)


HELD_BACK: dict[str, Chosen] = {
    "whose the slots are": lambda deed, key: deed == "get" and key.startswith(SLOTS_PREFIX),
    "which slots there are": lambda deed, key: deed == "list" and key == SLOTS_PREFIX,
    "their rows in the journal": lambda deed, key: deed == "put" and key.startswith(JOURNAL_PREFIX),
    "their claims": lambda deed, key: deed == "put" and key.startswith(SLOTS_PREFIX),
    "everything that a running worker asks for": lambda _, key: not key.startswith("models/"),
}


@pytest.mark.parametrize("chosen", HELD_BACK.values(), ids=HELD_BACK.keys())
async def test_who_stays_is_served_while_moves_are_held_back(chosen: Chosen) -> None:
    store, learners = MemoryStore(), class_of()
    gate = Gate(store)
    async with playing() as scene, scene.joined("worker-0", store):
        async with learning(scene.service, learners):
            await learners.go_on()
            async with AsyncExitStack() as joined:
                with gate.closed(chosen):
                    await joined.enter_async_context(scene.joined("worker-1", gate))
                    await gate.is_waiting.wait()
                    staying = [one for one in learners.learners if scene.service.name_of(one.user) == "worker-0"]
                    assert staying
                    await Class(staying).go_on()
                await scene.until_settled(learners)
                await learners.go_on()
        await learners.check_remembered(scene.service)
