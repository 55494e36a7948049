"""Two routers that see different workers: what they serve is right all the same, and slots do not fly to and fro."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import grpc.aio
import pytest

from evercurrent.settings import RouterSettings
from persistence.keys import SLOTS_PREFIX
from persistence.memory import MemoryStore
from persistence.record import read_slot
from persistence.store import ObjectStore, list_all
from tests.e2e.conversation import Conversation
from tests.e2e.learners import Class, Learner, learning
from tests.e2e.test_moves import TIMING, slot_of_user
from tests.servers import Listings, Service, Worker, running_router, running_worker
from tests.toys import Counting

pytestmark = pytest.mark.timeout(60)

HOLDING = replace(TIMING, hold_us=500_000)
NUM_MOVES = 4
"""Of one slot, before the routers agree."""


@asynccontextmanager
async def viewing(listings: Listings, workers: dict[str, Worker]) -> AsyncIterator[Service]:
    """A router with a view of its own."""
    async with (
        running_router({}, RouterSettings(), source=listings) as (address, routing),
        grpc.aio.insecure_channel(address) as channel,
    ):
        yield Service(address, routing.core, workers, channel)


async def epochs(store: ObjectStore) -> dict[str, int]:
    """How often each slot was claimed."""
    found = {}
    async for entry in list_all(store, SLOTS_PREFIX):
        stored = await store.get(entry.key)
        assert stored is not None
        found[entry.key] = read_slot(stored.body).epoch
    return found


def neighbours(user: str, prefix: str, num: int) -> list[str]:
    """Users of the same slot."""
    found: list[str] = []
    number = 0
    while len(found) < num:
        if slot_of_user(f"{prefix}-{number}") == slot_of_user(user):
            found.append(f"{prefix}-{number}")
        number += 1
    return found


def users_of(service: Service, name: str, num: int) -> Sequence[str]:
    """Users whom this router sends to a worker."""
    return [service.user_of_worker(name, f"user-{number}") for number in range(num)]


async def test_routers_that_disagree_serve_every_user_right_and_move_a_slot_once_in_a_while() -> None:
    store = MemoryStore()
    async with (
        running_worker("worker-0", Counting(), store, timing=HOLDING) as first,
        running_worker("worker-1", Counting(), store, timing=HOLDING) as second,
    ):
        workers = {"worker-0": first, "worker-1": second}
        partial = Listings(worker_1=second)
        async with viewing(Listings(**workers), workers) as whole, viewing(partial, workers) as part:
            contested = users_of(whole, "worker-0", 4)
            # A stream stays where its user is; each call asks the worker that its router's ring gives anew.
            here = Class([Learner(user) for user in contested[1:]], by_calls=[Learner(contested[0], in_session=True)])
            others = [Learner(neighbours(user, "there", 1)[0], in_session=True) for user in contested]
            there = Class(others[1:], by_calls=others[:1])
            shared = contested[0] + "-shared"
            one, other = [await Conversation.opened(service, shared) for service in (whole, part)]
            async with learning(whole, here), learning(part, there):
                await here.go_on()
                await there.go_on()
                before, began_us, num_moves, seq = await epochs(store), time.monotonic_ns() // 1000, 0, 0
                while num_moves < NUM_MOVES:
                    seq += 1
                    assert (await one.observe(seq)).version == 2 * seq - 1
                    assert (await other.observe(seq)).version == 2 * seq
                    await here.go_on(2)
                    await there.go_on(2)
                    num_moves = max(epoch - before.get(key, 0) for key, epoch in (await epochs(store)).items())
                assert (num_moves - 1) * HOLDING.hold_us <= time.monotonic_ns() // 1000 - began_us

                partial.say(**workers)
                await part.until(lambda: part.core.ring is not None and part.core.ring.names == whole_names(whole))
                await whole.until(
                    lambda: all(first.incarnation.ownership.serves(slot_of_user(user)) for user in contested)
                )
                await here.go_on()
                await there.go_on()
            await here.check_remembered(part)
            await there.check_remembered(whole)


def whole_names(service: Service) -> tuple[str, ...]:
    assert service.core.ring is not None, "it stands"
    return service.core.ring.names
