"""ForgetUser and ExportUser: the user's worker is asked, and all workers where the event log is concerned."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import grpc
import grpc.aio

from evercurrent.channels import CHANNEL_OPTIONS
from evercurrent.errors import refused
from evercurrent.v1 import admin_pb2, worker_pb2, worker_pb2_grpc
from evercurrent.v1 import observation_pb2 as pb
from router.core import RETRY_AFTER_MS, RoutingCore
from router.outbox import Link
from router.requests import check_namespace, check_user_id

TIMEOUT_S = 60.0
"""Of each question to a worker; one that hangs is told to whoever asked."""


async def forget_user(core: RoutingCore, request: admin_pb2.ForgetUserRequest) -> admin_pb2.ForgetUserResponse:
    """Remove a user everywhere. The state goes first, so that no event of it is logged any more; then every worker
    writes what it has logged, and the log is rewritten.

    Raises:
        Refused: the request is wrong, or a worker is not reachable; what was done stays done, call again.
        grpc.aio.AioRpcError: a worker's own refusal.
    """
    slot, link = _owner(core, request.user_id, request.namespace)
    for each in _everybody(core):
        _check_reachable(each)
    async with stub_of(core, link) as owner:
        state = await owner.ForgetState(
            worker_pb2.ForgetStateRequest(user_id=request.user_id, namespace=request.namespace, slot=slot),
            timeout=TIMEOUT_S,
        )
        await _flush_all(core)
        events = await owner.ForgetEvents(
            worker_pb2.ForgetEventsRequest(user_id=request.user_id, namespace=request.namespace),
            timeout=TIMEOUT_S,
        )
    return admin_pb2.ForgetUserResponse(version=state.version, sessions=state.sessions, events=events.events)


async def export_user(
    core: RoutingCore, request: admin_pb2.ExportUserRequest
) -> AsyncGenerator[admin_pb2.ExportUserResponse]:
    """All that is held of a user. Raises as `forget_user`."""
    slot, link = _owner(core, request.user_id, request.namespace)
    await _flush_all(core)
    asked = worker_pb2.ReadUserRequest(user_id=request.user_id, namespace=request.namespace, slot=slot)
    async with stub_of(core, link) as owner:
        async for response in owner.ReadUser(asked):
            yield admin_pb2.ExportUserResponse(part=response.part)


@contextmanager
def first_error() -> Iterator[None]:
    """Of a group of errors of workers the first."""
    try:
        yield
    except BaseExceptionGroup as group:
        errors, rest = group.split(grpc.aio.AioRpcError)
        if errors is None or rest is not None:
            raise
        first: BaseException = errors
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None


async def _flush_all(core: RoutingCore) -> None:
    """Have every worker write what of the event log it holds; a user may have been anywhere."""
    async with asyncio.TaskGroup() as tasks:
        for link in _everybody(core):
            _check_reachable(link)
            tasks.create_task(_flush(core, link))


async def _flush(core: RoutingCore, link: Link) -> None:
    async with stub_of(core, link) as worker:
        await worker.FlushEvents(worker_pb2.FlushEventsRequest(), timeout=TIMEOUT_S)


def _everybody(core: RoutingCore) -> list[Link]:
    """Who serves users, or may have served some a moment ago."""
    on_ring = core.ring.names if core.ring is not None else ()
    return [link for link in core.links.values() if link.outbox is not None or link.name in on_ring]


def _owner(core: RoutingCore, user_id: str, namespace: str) -> tuple[int, Link]:
    check_user_id(user_id, "user_id")
    check_namespace(namespace, "namespace")
    slot, worker = core.worker_of(namespace, user_id)
    link = core.links.get(worker)
    if link is None:
        raise refused(pb.REASON_UNAVAILABLE, "", "the user's worker is not reachable", RETRY_AFTER_MS)
    _check_reachable(link)
    return slot, link


def _check_reachable(link: Link) -> None:
    if link.outbox is None:
        raise refused(pb.REASON_UNAVAILABLE, "", f"{link.name} is not reachable", RETRY_AFTER_MS)


@asynccontextmanager
async def stub_of(core: RoutingCore, link: Link) -> AsyncIterator[worker_pb2_grpc.WorkerServiceStub]:
    """A channel of its own to a worker, for as long as a question takes."""
    async with core.dialing.channel(link.address, link.name, CHANNEL_OPTIONS) as channel:
        yield worker_pb2_grpc.WorkerServiceStub(channel)
