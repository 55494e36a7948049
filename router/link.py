"""The shell of one link: finds out whether a worker serves, opens the stream, writes what the core has, reads what
comes.

A worker counts as reachable from the answer to the link's open until the stream breaks or its gRPC health says
otherwise; then its sessions end and this tries again, with the channel's own back-off.
"""

from __future__ import annotations

import asyncio
import logging
from typing import NoReturn

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from evercurrent.errors import EvercurrentError, Refused
from evercurrent.serving import CHANNEL_OPTIONS
from evercurrent.slots import NUM_SLOTS
from evercurrent.v1 import worker_pb2, worker_pb2_grpc
from router.core import Outbox, RoutingCore

PROTOCOL_VERSION = 1
SERVICE = "evercurrent.v1.WorkerService"
RETRY_S = 0.2

OPTIONS = [
    *CHANNEL_OPTIONS,
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
]

logger = logging.getLogger(__name__)


class _LinkLost(EvercurrentError):
    """The link ended; it is to be opened again."""


async def keep_link(core: RoutingCore, worker: int, router: str, linked: asyncio.Event) -> NoReturn:
    """Keep one worker linked, for ever. `linked` is set when it is for the first time."""
    link = core.links[worker]
    async with grpc.aio.insecure_channel(link.address, options=OPTIONS) as channel:
        while True:
            try:
                async with asyncio.TaskGroup() as tasks:
                    serving = asyncio.Event()
                    tasks.create_task(_watch_health(channel, serving))
                    await serving.wait()
                    await _serve(core, worker, router, channel, linked)
            except BaseExceptionGroup as group:
                lost, rest = group.split((_LinkLost, grpc.aio.AioRpcError, Refused))
                if rest is not None:
                    raise rest from group
                assert lost is not None
                # A task group that fails while it is being cancelled raises its errors and drops the cancellation.
                if _cancelling():
                    raise asyncio.CancelledError from group
                logger.warning("link lost worker=%s address=%s why=%s", link.name, link.address, _first(lost))
            finally:
                if link.outbox is not None:
                    core.link_lost(worker)
            await asyncio.sleep(RETRY_S)


async def _watch_health(channel: grpc.aio.Channel, serving: asyncio.Event) -> None:
    """Set `serving` when the worker serves.

    Raises:
        _LinkLost: it does not serve any more.
        grpc.aio.AioRpcError: it cannot be asked.
    """
    request = health_pb2.HealthCheckRequest(service=SERVICE)
    watch = health_pb2_grpc.HealthStub(channel).Watch(request, wait_for_ready=True)
    while (response := await watch.read()) is not grpc.aio.EOF:
        if response.status == health_pb2.HealthCheckResponse.SERVING:
            serving.set()
        elif serving.is_set():
            raise _LinkLost("its health is no longer SERVING")
    raise _LinkLost("its health watch ended")


async def _serve(
    core: RoutingCore, worker: int, router: str, channel: grpc.aio.Channel, linked: asyncio.Event
) -> NoReturn:
    call = worker_pb2_grpc.WorkerServiceStub(channel).Link()
    opening = worker_pb2.LinkOpen(protocol_version=PROTOCOL_VERSION, router=router, slots=NUM_SLOTS)
    await call.write(worker_pb2.LinkRequest(open=opening))
    response = await call.read()
    if response is grpc.aio.EOF or response.WhichOneof("response") != "opened":
        raise _LinkLost(f"it did not open the link: {await call.details()}")
    filled = asyncio.Event()
    outbox = core.link_opened(worker, response.opened, filled.set)
    linked.set()
    logger.info("link opened worker=%s incarnation=%s", response.opened.worker, response.opened.incarnation)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_send(call, outbox, filled))
        while (response := await call.read()) is not grpc.aio.EOF:
            core.receive(worker, response.frame)
        raise _LinkLost(f"the worker ended it: {await call.details()}")


async def _send(call: grpc.aio.StreamStreamCall, outbox: Outbox, filled: asyncio.Event) -> NoReturn:
    while True:
        await filled.wait()
        filled.clear()
        await call.write(outbox.take())


def _cancelling() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _first(group: BaseExceptionGroup[BaseException]) -> str:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"
    return str(error)
