"""What operators ask of one user: forget it, read all that is held of it. The worker's side (worker.proto)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import grpc
import grpc.aio
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from ulid import ULID

from evercurrent.errors import Refused, abort, refused, rejection
from evercurrent.naming import check_namespace, check_user_id
from evercurrent.slots import slot_of, user_key
from evercurrent.v1 import admin_pb2, worker_pb2
from evercurrent.v1 import observation_pb2 as pb
from persistence.errors import StoreError
from persistence.events import SCHEMA, bucket_of, forget_events, read_events
from worker.flows import Flow
from worker.incarnation import Incarnation
from worker.residency import refusal_of
from worker.slab import INITIAL_ROW

Q = TypeVar("Q")
R = TypeVar("R")
T = TypeVar("T")

Current = Callable[[], Incarnation]
"""The incarnation that serves. Raises Refused."""


def user_methods(current: Current) -> dict[str, grpc.RpcMethodHandler]:
    """Handlers of ForgetState, ForgetEvents, FlushEvents and ReadUser."""

    async def forget_state_of(request: worker_pb2.ForgetStateRequest) -> worker_pb2.ForgetStateResponse:
        user = checked_user(request.namespace, request.user_id, request.slot)
        return await forget_state(current(), user, request.slot)

    async def forget_events_of(request: worker_pb2.ForgetEventsRequest) -> worker_pb2.ForgetEventsResponse:
        user = checked_user(request.namespace, request.user_id)
        return worker_pb2.ForgetEventsResponse(events=await forget_events(current().store, user))

    async def flush_events(_: worker_pb2.FlushEventsRequest) -> worker_pb2.FlushEventsResponse:
        log = current().log
        if log is not None:
            await log.flush()
        return worker_pb2.FlushEventsResponse()

    async def read(
        request: worker_pb2.ReadUserRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[worker_pb2.ReadUserResponse]:
        try:
            user = checked_user(request.namespace, request.user_id, request.slot)
            async for part in read_user(current(), user, request.slot):
                yield worker_pb2.ReadUserResponse(part=part)
        except (Refused, StoreError) as error:
            await abort(context, _refusal(error))

    return {
        "ForgetState": unary_method(forget_state_of, worker_pb2.ForgetStateRequest),
        "ForgetEvents": unary_method(forget_events_of, worker_pb2.ForgetEventsRequest),
        "FlushEvents": unary_method(flush_events, worker_pb2.FlushEventsRequest),
        "ReadUser": grpc.unary_stream_rpc_method_handler(
            read, worker_pb2.ReadUserRequest.FromString, worker_pb2.ReadUserResponse.SerializeToString
        ),
    }


def checked_user(namespace: str, user_id: str, slot: int | None = None) -> str:
    """The key of whom a request names. Raises Refused: there can be no such user, or not in that slot."""
    check_user_id(user_id, "user_id")
    check_namespace(namespace, "namespace")
    user = user_key(namespace, user_id)
    if slot is not None and slot != slot_of(user):
        raise refused(pb.REASON_PROTOCOL, "slot", f"{slot} is not the user's, {slot_of(user)}")
    return user


async def forget_state(incarnation: Incarnation, user: str, slot: int) -> worker_pb2.ForgetStateResponse:
    """Make a user a tombstone, durably; its sessions end. One who has no state leaves none.

    Raises:
        Refused: the user cannot be served here now, or moved meanwhile.
    """

    def begin(row: int) -> tuple[worker_pb2.ForgetStateResponse, Flow[bool] | None]:
        slab, sessions = incarnation.residents.slab, incarnation.residents.sessions.of(row)
        version = slab.version.item(row)
        is_new = not sessions and np.array_equal(slab.state[row], slab.state[INITIAL_ROW])
        facts = worker_pb2.ForgetStateResponse(version=0 if is_new else version, sessions=len(sessions))
        incarnation.engine.end_user(row, rejection(pb.REASON_SESSION_FORGOTTEN, "user_id", "the user was forgotten"))
        # One who was forgotten before and only looked for now is here with a name: that goes again.
        return facts, incarnation.ownership.forget(row) if version or sessions else None

    try:
        facts, flow = await _when_here(incarnation, user, slot, begin)
    except Refused as error:
        if error.rejection.reason != pb.REASON_DATA_LOSS:
            raise
        facts, flow = worker_pb2.ForgetStateResponse(), incarnation.ownership.forget_damaged(user, slot)
    if flow is not None and not await asyncio.shield(incarnation.acting.beside(incarnation.acting.drive(flow))):
        raise Refused(rejection(pb.REASON_NOT_OWNER, "user_id", "the user moved meanwhile: ask again", 500))
    return facts


async def read_user(incarnation: Incarnation, user: str, slot: int) -> AsyncIterator[admin_pb2.UserPart]:
    """All that is held of a user, its state first.

    Raises:
        Refused: the user cannot be served here now.
        StoreError: the event log cannot be read.
    """
    state = await _when_here(incarnation, user, slot, lambda row: _state(incarnation, row))
    yield admin_pb2.UserPart(state=state)
    if incarnation.log is not None:
        await incarnation.log.flush()
    namespace, _, user_id = user.partition("\0")
    async for _, table in read_events(incarnation.store, bucket=bucket_of(slot_of(user))):
        of_user = pc.and_(pc.equal(table["namespace"], namespace), pc.equal(table["user_id"], user_id))
        for event in await asyncio.to_thread(_events, table, of_user):
            yield admin_pb2.UserPart(event=event)


async def _when_here(incarnation: Incarnation, user: str, slot: int, look: Callable[[int], T]) -> T:
    """What `look` makes of a user's row, at the moment when the user is here. Raises Refused."""
    found: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    def answer(row: int | pb.Rejection) -> None:
        if found.done():
            return
        if isinstance(row, int):
            found.set_result(look(row))
        else:
            found.set_exception(Refused(row))

    async def leave() -> None:
        await incarnation.leaving.wait()
        answer(rejection(pb.REASON_UNAVAILABLE, "", f"{incarnation.name} serves no more", 500))

    try:
        async with asyncio.TaskGroup() as tasks:
            leaving = tasks.create_task(leave())
            incarnation.engine.call(user, slot, answer)
            await asyncio.wait([found])
            leaving.cancel()
        return found.result()
    finally:
        found.cancel()


def _state(incarnation: Incarnation, row: int) -> admin_pb2.UserState:
    residents = incarnation.residents
    sessions = residents.sessions
    return admin_pb2.UserState(
        version=residents.slab.version.item(row),
        durable_version=residents.durable_version.item(row),
        model=incarnation.engine.live.version,
        state=residents.slab.state[row].tolist(),
        sessions=[
            admin_pb2.UserSession(
                session_id=str(ULID.from_int(sessions.session_id(entry))),
                last_seq=sessions.last_seq.item(entry),
                durable_seq=sessions.durable_seq.item(entry),
                lost=sessions.lost.item(entry),
            )
            for entry in sessions.of(row)
        ],
    )


def _events(table: pa.Table, chosen: pa.ChunkedArray) -> list[admin_pb2.LoggedEvent]:
    """The chosen events of a file."""
    rows = table.filter(chosen)
    times_us = rows["event_time"].to_numpy().astype("datetime64[us]").astype(np.int64).tolist()
    names = [name for name in SCHEMA.names if name not in ("namespace", "user_id", "slot", "event_time")]
    return [
        admin_pb2.LoggedEvent(event_time_us=time_us, **{name: row[name] for name in names if row[name] is not None})
        for time_us, row in zip(times_us, rows.select(names).to_pylist(), strict=True)
    ]


def unary_method(answer: Callable[[Q], Awaitable[R]], request: type[Q]) -> grpc.RpcMethodHandler:
    """The handler of a unary call, whose answer may raise Refused or StoreError."""

    async def call(message: Q, context: grpc.aio.ServicerContext) -> R:
        try:
            return await answer(message)
        except (Refused, StoreError) as error:
            await abort(context, _refusal(error))

    from_string: Any = request
    return grpc.unary_unary_rpc_method_handler(
        call, from_string.FromString, lambda response: response.SerializeToString()
    )


def _refusal(error: Refused | StoreError) -> pb.Rejection:
    return error.rejection if isinstance(error, Refused) else refusal_of(error)
