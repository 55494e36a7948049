"""One user as operators see it: all that is held of it, and nothing once it was forgotten."""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import pytest
from ulid import ULID

from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1.admin_pb2 import (
    ExportUserRequest,
    ForgetUserRequest,
    ForgetUserResponse,
    ListWorkersRequest,
    LoggedEvent,
    UserState,
)
from evercurrent.v1.session_pb2 import ObserveRequest, SessionOpen
from persistence.events import read_events
from persistence.keys import record_key
from persistence.memory import MemoryStore
from persistence.record import read_record
from persistence.snapshot import read_states
from persistence.store import Stored
from tests.e2e.conversation import Conversation, observation
from tests.e2e.test_durability import hash_of, observe_durably, remembered, routed
from tests.e2e.test_unary import refusal
from tests.servers import Service, running_worker
from tests.toys import HUGE_GRADIENT, Counting

SESSION = str(ULID.from_int(77))


@asynccontextmanager
async def logged(store: MemoryStore) -> AsyncIterator[Service]:
    """A router and two workers that log what they serve."""
    async with (
        running_worker("worker-0", Counting(), store, has_event_log=True) as one,
        running_worker("worker-1", Counting(), store, has_event_log=True) as other,
        routed(worker_0=one, worker_1=other) as service,
    ):
        yield service


async def held(service: Service, user: str) -> tuple[UserState, list[LoggedEvent]]:
    """All that is held of a user; its events by version."""
    first, *parts = [response.part async for response in service.admin.ExportUser(ExportUserRequest(user_id=user))]
    return first.state, sorted((part.event for part in parts), key=lambda event: event.version)


async def forget(service: Service, user: str) -> ForgetUserResponse:
    response = await service.admin.ForgetUser(ForgetUserRequest(user_id=user))
    assert isinstance(response, ForgetUserResponse)
    return response


async def names_in(store: MemoryStore) -> set[str]:
    """Users of whom the store holds a state or an event."""
    states = {
        user.removeprefix("\0") async for slot in read_states(store) for part in slot.states for user in part.rows.users
    }
    return states | {user async for _, table in read_events(store) for user in table["user_id"].to_pylist()}


async def test_all_that_is_held_of_a_user_is_given() -> None:
    async with logged(MemoryStore()) as service:
        conversation = await Conversation.opened(service, "ann", SESSION, wait_durable=True)
        await observe_durably(conversation, 1, 3)
        await conversation.send(observation=observation(4, deed=HUGE_GRADIENT))
        await conversation.send(observation=pb.Observation(seq=5, ids=[1, 2], features=[0.5, -1.0]))
        await conversation.finish()
        await service.sessions.Observe(ObserveRequest(user_id="bob", observation=observation()))
        state, events = await held(service, "ann")
        assert (state.version, state.durable_version, state.model) == (4, 4, "counting")
        assert [(one.session_id, one.last_seq, one.durable_seq) for one in state.sessions] == [(SESSION, 5, 5)]
        assert state.state[0] == 4
        assert [(event.version, event.seq, event.session_id) for event in events] == [
            (1, 1, SESSION),
            (2, 2, SESSION),
            (3, 3, SESSION),
            (4, 5, SESSION),
        ]
        assert [int(event.prediction[0]) for event in events] == [hash_of(number) for number in range(4)]
        assert [event.HasField("value") for event in events] == [True, True, True, False]
        assert all(math.isfinite(event.loss) for event in events[:3])
        assert not events[3].HasField("loss")
        assert list(events[0].ids) == [1, 2]


async def test_a_user_who_was_never_here_has_the_initial_state_and_nothing_to_forget() -> None:
    async with logged(MemoryStore()) as service:
        state, events = await held(service, "eve")
        assert (state.version, list(state.sessions), events) == (0, [], [])
        assert await forget(service, "eve") == ForgetUserResponse()


async def test_a_forgotten_user_is_nowhere_and_begins_anew() -> None:
    store = MemoryStore()
    async with logged(store) as service:
        conversation = await Conversation.opened(service, "ann", SESSION, wait_durable=True)
        await observe_durably(conversation, 1, 6)
        await service.sessions.Observe(ObserveRequest(user_id="bob", observation=observation()))
        assert await forget(service, "ann") == ForgetUserResponse(version=6, sessions=1, events=6)
        code, details = await conversation.ended()
        assert (code, details) == (grpc.StatusCode.ABORTED, "user_id: the user was forgotten")
        assert await names_in(store) == {"bob"}
        slot = service.core.worker_of("", "ann")[0]
        tombstone = await store.get(record_key(slot, "\0ann"))
        assert tombstone is not None
        assert read_record(tombstone.body, "\0ann", slot).forgotten.tolist() == [True]
        assert await forget(service, "ann") == ForgetUserResponse()

        old = Conversation(service)
        await old.send(open=SessionOpen(user_id="ann", session_id=SESSION))
        code, details = await old.ended()
        assert code is grpc.StatusCode.ABORTED
        assert "newer sessions took its place" in details
        again = Conversation(service)
        assert (await again.open("ann")).applied_seq == 0
        result = await again.observe(1)
        assert (int(result.prediction[0]), result.version > 6) == (0, True)
    async with logged(store) as service:
        assert (await remembered(service, "ann"))[1] == hash_of(1)


async def test_forgetting_needs_every_worker() -> None:
    store = MemoryStore()
    async with logged(store) as service:
        service.core.link_lost(2)
        error = await refusal(service.admin.ForgetUser(ForgetUserRequest(user_id="ann")))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert "worker-1 is not reachable" in error.details()
        error = await refusal(service.admin.ForgetUser(ForgetUserRequest(user_id="")))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_the_command_says_what_was_removed() -> None:
    async with logged(MemoryStore()) as service:
        conversation = await Conversation.opened(service, "ann", SESSION)
        await conversation.observe(1)
        said = [await _run(service.address, "ann") for _ in range(2)]
    assert said[0] == (0, "Removed the state of ann (version 1, 1 sessions) and 1 logged events.\n", "")
    assert said[1] == (0, "Nothing was held of ann.\n", "")
    code, _, error = await _run(service.address, "ann")
    assert code == 1
    assert error.startswith("evercurrent: UNAVAILABLE: ")


async def _run(address: str, user: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "evercurrent.cli", "forget", user, "--address", address),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, error = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), error.decode()


class Silent(MemoryStore):
    """A store that never answers a read, once a worker has begun."""

    async def get(self, key: str, *, timeout_s: float | None = None) -> Stored | None:
        if not key.startswith("models/"):
            await asyncio.Event().wait()
        return await super().get(key, timeout_s=timeout_s)


async def test_who_asks_for_a_user_is_told_when_the_incarnation_ends() -> None:
    async with running_worker("worker-0", Counting(), Silent()) as worker, routed(worker_0=worker) as service:
        calls = [
            service.admin.ForgetUser(ForgetUserRequest(user_id="ann")),
            service.admin.ExportUser(ExportUserRequest(user_id="ann")),
        ]
        await service.until(lambda: worker.incarnation.engine.num_arrivals == len(calls))
        worker.incarnation.leaving.set()
        for call in calls:
            assert await call.code() is grpc.StatusCode.UNAVAILABLE
            assert "serves no more" in await call.details()
        worker.is_dead = True


async def test_workers_tell_how_they_are(service: Service) -> None:
    await service.sessions.Observe(
        ObserveRequest(user_id="ann", observation=observation(), wait_for=pb.WAIT_FOR_DURABLE)
    )

    async def told() -> tuple[int, int, int, bool]:
        workers = (await service.admin.ListWorkers(ListWorkersRequest())).workers
        facts = [(one.residents, one.updates_at_risk, one.owned_slots) for one in workers]
        residents, at_risk, slots = (sum(column) for column in zip(*facts, strict=True))
        return residents, at_risk, slots, any(one.segments for one in workers)

    while await told() != (1, 0, 1, True):
        pass


pytestmark = pytest.mark.timeout(60)
