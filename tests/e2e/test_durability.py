"""What becomes durable and what outlives a worker: a stop, a death, a move, a fence, a memory too small."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import numpy as np
import pytest
import torch
from torch import Tensor
from ulid import ULID

from evercurrent.model import Batch
from evercurrent.settings import RouterSettings
from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1.admin_pb2 import ForgetUserRequest
from evercurrent.v1.session_pb2 import (
    ExchangeOpen,
    ExchangeRequest,
    ObserveRequest,
    SessionOpen,
    SessionRequest,
)
from persistence.errors import VersionExists
from persistence.keys import journal_prefix, segment_key, slot_key
from persistence.memory import MemoryStore
from persistence.segment import seal_body
from persistence.snapshot import read_states
from persistence.store import list_all
from tests.e2e.conversation import Conversation, observation
from tests.e2e.test_unary import refusal
from tests.servers import Service, Worker, running_router, running_service, running_worker
from tests.toys import Counting, next_hash
from worker.sweep import Sweep

SESSION = str(ULID.from_int(7))


def hash_of(num_events: int) -> int:
    """What `Counting` remembers of so many equal observations."""
    value = 0
    for _ in range(num_events):
        value = next_hash(value, 1, 2, True)
    return value


@asynccontextmanager
async def routed(**workers: Worker) -> AsyncIterator[Service]:
    """A router of these workers alone, by ring name."""
    named = {name.replace("_", "-"): worker for name, worker in workers.items()}
    addresses = {name: worker.address for name, worker in named.items()}
    async with (
        running_router(addresses, RouterSettings()) as (address, routing),
        grpc.aio.insecure_channel(address) as channel,
    ):
        yield Service(address, routing.core, named, channel)


async def observe_durably(conversation: Conversation, first: int, last: int) -> None:
    """Observe these seqs and wait until all are durable."""
    for seq in range(first, last + 1):
        await conversation.send(observation=observation(seq))
    durable = 0
    while durable < last:
        response = await conversation.reply()
        durable = response.watermark.durable_seq if response.HasField("watermark") else durable


async def remembered(service: Service, user: str) -> tuple[int, int]:
    """A user's version and the hash of its whole past."""
    async with asyncio.timeout(20):
        answer = await (await Conversation.opened(service, user)).ask()
    return answer.version, int(answer.predictions[0])


async def test_a_watermark_follows_and_results_say_what_is_at_risk(service: Service) -> None:
    conversation = await Conversation.opened(service, "ann", wait_durable=True)
    first = await conversation.observe(1)
    assert (first.applied_seq, first.durable_seq, first.at_risk) == (1, 0, 1)
    assert (await conversation.reply()).watermark.durable_seq == 1
    second = await conversation.observe(2)
    assert (second.applied_seq, second.durable_seq, second.at_risk) == (2, 1, 1)
    await conversation.send(skip=pb.Skip(**{"from": 3, "to": 9}))
    rest = await conversation.finish()
    assert rest[-1].watermark.durable_seq == 9


async def test_a_rejected_observation_becomes_durable_as_well(service: Service) -> None:
    conversation = await Conversation.opened(service, "ann", wait_durable=True)
    assert (await conversation.observe(1, ids=[99, 0])).status == pb.STATUS_REJECTED
    assert (await conversation.finish())[-1].watermark.durable_seq == 1


@pytest.mark.parametrize("session_id", ["", SESSION])
async def test_a_call_is_answered_when_it_is_durable(service: Service, session_id: str) -> None:
    request = ObserveRequest(
        user_id="ann",
        session_id=session_id,
        observation=observation(1 if session_id else 0),
        wait_for=pb.WAIT_FOR_DURABLE,
    )
    result = (await service.sessions.Observe(request)).result
    assert result.status == pb.STATUS_APPLIED
    assert (await remembered(service, "ann")) == (1, hash_of(1))
    assert service.engine_of("ann").residents.num_at_risk == 0


async def test_without_a_store_that_lasts_durability_is_refused() -> None:
    async with running_service(has_store=False) as service:
        request = ObserveRequest(user_id="ann", observation=observation(), wait_for=pb.WAIT_FOR_DURABLE)
        error = await refusal(service.sessions.Observe(request))
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert error.details().startswith("wait_for: ")
        for call, opening in (
            (service.sessions.Session(), SessionRequest(open=SessionOpen(user_id="ann", wait_durable=True))),
            (service.sessions.Exchange(), ExchangeRequest(open=ExchangeOpen(wait_durable=True))),
        ):
            await call.write(opening)
            assert await call.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert (await call.details()).startswith("open.wait_durable: ")
        assert service.core.num_feeds == len(service.core.sessions) == 0
        conversation = await Conversation.opened(service, "ann", SESSION)
        for seq in range(1, 4):
            result = await conversation.observe(seq)
            assert (result.durable_seq, result.at_risk) == (0, seq)
        await service.until(lambda: not service.engines[0].residents.num_at_risk)
        again = await Conversation(service).open("ann", SESSION)
        assert (again.applied_seq, again.durable_seq) == (3, 0)


async def test_users_leave_a_full_memory_and_come_back_as_they_left() -> None:
    async with running_service(residents_max=3) as service:
        sessions = {f"user-{number}": str(ULID()) for number in range(12)}
        for round_ in range(1, 4):
            for user, session_id in sessions.items():
                request = ObserveRequest(
                    user_id=user,
                    session_id=session_id,
                    observation=observation(round_),
                    wait_for=pb.WAIT_FOR_DURABLE,
                    timings=True,
                )
                result = (await service.sessions.Observe(request)).result
                assert (result.version, int(result.prediction[0])) == (round_, hash_of(round_ - 1))
                assert (result.timings.hydrate_us > 0) or round_ == 1
        assert len(service.engines[0].slab) <= 3
        again = ObserveRequest(user_id="user-0", session_id=sessions["user-0"], observation=observation(3))
        assert (await service.sessions.Observe(again)).result.status == pb.STATUS_DUPLICATE


async def test_a_worker_that_stops_leaves_everything_to_the_next() -> None:
    store = MemoryStore()
    async with running_worker("worker-0", Counting(), store) as worker, routed(worker_0=worker) as service:
        conversation = await Conversation.opened(service, "ann")
        for seq in range(1, 6):
            await conversation.observe(seq)
    async with running_worker("worker-0", Counting(), store) as worker, routed(worker_0=worker) as service:
        assert await remembered(service, "ann") == (5, hash_of(5))


async def test_a_worker_that_dies_leaves_what_is_durable_to_another() -> None:
    store, session_id = MemoryStore(), str(ULID())
    async with running_worker("worker-0", Counting(), store) as worker, routed(worker_0=worker) as service:
        conversation = await Conversation.opened(service, "ann", session_id, wait_durable=True)
        await observe_durably(conversation, 1, 7)
        worker.is_dead = True
    async with running_worker("worker-1", Counting(), store) as worker, routed(worker_1=worker) as service:
        conversation = Conversation(service)
        opened = await conversation.open("ann", session_id)
        assert (opened.applied_seq, opened.durable_seq, opened.version) == (7, 7, 7)
        assert int((await conversation.observe(8)).prediction[0]) == hash_of(7)


async def test_a_user_moves_to_the_worker_that_is_asked_with_what_was_not_durable() -> None:
    store = MemoryStore()
    async with (
        running_worker("worker-0", Counting(), store) as old,
        running_worker("worker-1", Counting(), store) as new,
        routed(worker_0=old) as before,
        routed(worker_1=new) as after,
    ):
        conversation = await Conversation.opened(before, "ann")
        others = [await Conversation.opened(before, f"user-{number}") for number in range(40)]
        for other in (conversation, *others):
            await other.observe(1)
        for seq in range(2, 6):
            await conversation.observe(seq)
        assert await remembered(after, "ann") == (5, hash_of(5))
        assert (await conversation.observe(6)).version == 6
        for number in range(40):
            assert await remembered(after, f"user-{number}") == (1, hash_of(1))
        assert await remembered(before, "ann") == (6, hash_of(6))
        assert not new.incarnation.ownership.serves(before.core.worker_of("", "ann")[0])


async def test_a_worker_whose_journal_was_sealed_begins_anew() -> None:
    store = MemoryStore()
    async with running_worker("worker-0", Counting(), store) as worker, routed(worker_0=worker) as service:
        conversation = await Conversation.opened(service, "ann", wait_durable=True)
        await observe_durably(conversation, 1, 3)
        first = worker.incarnation
        number = first.ownership.landed + 1
        while await store.put_if_absent(segment_key(first.name, number), seal_body(first.name, number)) is None:
            number += 1
        assert (await conversation.observe(4)).version == 4
        await service.until(lambda: service.core.links[1].incarnation not in ("", first.name))
        assert await remembered(service, "ann") == (4, hash_of(4))


async def test_two_of_one_user_that_come_at_once_find_the_same_state() -> None:
    store = MemoryStore()
    async with running_worker("worker-0", Counting(), store) as worker, routed(worker_0=worker) as service:
        await Conversation.opened(service, "ann")
        await service.sessions.Observe(ObserveRequest(user_id="ann", observation=observation()))
    async with running_worker("worker-0", Counting(), store) as worker, routed(worker_0=worker) as service:
        requests = [ObserveRequest(user_id="ann", observation=observation()) for _ in range(10)]
        answers = await asyncio.gather(*(service.sessions.Observe(request) for request in requests))
        assert sorted(answer.result.version for answer in answers) == list(range(2, 12))
        assert worker.incarnation.engine.num_arrivals == 0


async def test_what_others_put_into_the_store_is_left_alone() -> None:
    store = MemoryStore()
    for key in ("slots/README", "slots/99999", "journal/notes/x/README", "journal/README"):
        await store.put(key, b"not ours")
    async with running_worker("worker-0", Counting(), store) as worker, routed(worker_0=worker) as service:
        await service.sessions.Observe(ObserveRequest(user_id="ann", observation=observation()))
        await worker.incarnation.acting.drive(Sweep(worker.incarnation.ownership._me).sweep_once())
        assert await remembered(service, "ann") == (1, hash_of(1))
        await store.put(f"journal/{worker.incarnation.name}/README", b"not ours")
    assert sum([len(slot.states) async for slot in read_states(store)]) == 1


async def test_a_slots_record_that_is_damaged_is_told_and_stops_nobody() -> None:
    store = MemoryStore()
    async with running_worker("worker-0", Counting(), store) as worker, routed(worker_0=worker) as service:
        slot = service.core.worker_of("", "ann")[0]
        await store.put(slot_key(slot), b"\xff\xff")
        error = await refusal(service.sessions.Observe(ObserveRequest(user_id="ann", observation=observation())))
        assert error.code() is grpc.StatusCode.DATA_LOSS
        other = next(f"user-{at}" for at in range(99) if service.core.worker_of("", f"user-{at}")[0] != slot)
        assert (
            await service.sessions.Observe(ObserveRequest(user_id=other, observation=observation()))
        ).result.version == 1


class Wider(Counting):
    """Another model of the same name."""

    state_shapes = {**Counting.state_shapes, "more": (3,)}  # noqa: RUF012

    def learn(self, state_BD: Tensor, gradient_BD: Tensor, batch: Batch) -> Tensor:
        learned_BD = Counting().learn(state_BD[:, :5], gradient_BD[:, :5], batch)
        return torch.cat([learned_BD, state_BD[:, 5:]], dim=1)


async def test_a_worker_with_another_model_under_a_registered_version_does_not_start() -> None:
    store = MemoryStore()
    async with running_worker("worker-0", Counting(), store):
        pass
    with pytest.raises(VersionExists, match="'counting' is registered with another class path"):
        async with running_worker("worker-0", Wider(), store):
            pass


async def test_states_of_another_width_are_refused_and_stay() -> None:
    async def forget_versions() -> None:
        await store.delete(*[entry.key async for entry in list_all(store, "models/")])

    store = MemoryStore()
    request = ObserveRequest(user_id="ann", observation=observation())
    async with running_worker("worker-0", Counting(), store) as worker, routed(worker_0=worker) as service:
        await service.sessions.Observe(request)
    await forget_versions()
    async with running_worker("worker-0", Wider(), store) as worker, routed(worker_0=worker) as service:
        error = await refusal(service.sessions.Observe(request))
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "'counting' with 5 numbers; this worker runs 'counting', whose state has 8" in error.details()
    await forget_versions()
    async with running_worker("worker-0", Counting(), store) as worker, routed(worker_0=worker) as service:
        assert await remembered(service, "ann") == (1, hash_of(1))


async def test_damage_is_told_in_every_later_life_until_the_user_is_forgotten() -> None:
    store = MemoryStore()
    async with running_worker("worker-0", Counting(), store) as worker, routed(worker_0=worker) as service:
        conversation = await Conversation.opened(service, "ann", wait_durable=True)
        await observe_durably(conversation, 1, 3)
        first = worker.incarnation.name
        worker.is_dead = True
    for key in [entry.key async for entry in list_all(store, journal_prefix(first))]:
        stored = await store.get(key)
        assert stored is not None
        at = stored.body.find(np.float32(3).tobytes())
        if at >= 0:
            await store.put(key, stored.body[:at] + b"\x01" + stored.body[at + 1 :])
    request = ObserveRequest(user_id="ann", observation=observation())
    for _ in range(2):
        async with running_worker("worker-0", Counting(), store) as worker, routed(worker_0=worker) as service:
            error = await refusal(service.sessions.Observe(request))
            assert error.code() is grpc.StatusCode.DATA_LOSS
    async with running_worker("worker-0", Counting(), store) as worker, routed(worker_0=worker) as service:
        await service.admin.ForgetUser(ForgetUserRequest(user_id="ann"))
        assert int((await service.sessions.Observe(request)).result.prediction[0]) == 0
    async with running_worker("worker-0", Counting(), store) as worker, routed(worker_0=worker) as service:
        assert (await remembered(service, "ann"))[1] == hash_of(1)
