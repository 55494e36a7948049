"""The shell of one link: finds out whether a worker serves, opens the stream, writes what the core has, reads what
comes.

A worker counts as reachable from the answer to the link's open until the stream breaks, its gRPC health says otherwise,
or nothing came from it for long, though it says several times a second how it is; then this tries again, with the
channel's own back-off. A worker that is about to stop and has given all its slots away is let go: this half-closes the
stream, and the worker ends it.
"""

from __future__ import annotations

import asyncio
import traceback
from contextlib import suppress
from typing import NoReturn, Protocol

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from evercurrent.channels import CHANNEL_OPTIONS, WithMetadata
from evercurrent.errors import EvercurrentError, Refused
from evercurrent.slots import NUM_SLOTS
from evercurrent.telemetry.logs import get_logger
from evercurrent.v1 import worker_pb2, worker_pb2_grpc
from router.core import RoutingCore
from router.outbox import Link, Outbox

PROTOCOL_VERSION = 1
SERVICE = "evercurrent.v1.WorkerService"
RETRY_S = 0.2
REDIAL_S = 10.0
GATHER_FROM, GATHER_TURNS = 8, 4
"""With so many events under way, a frame waits for so many turns of the event loop for more."""

LOOKS = 4
"""How often a link is looked at within the time after which it is lost."""

OPTIONS = [
    *CHANNEL_OPTIONS,
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
]

logger = get_logger(__name__)


class _LinkLost(EvercurrentError):
    """The link ended; it is to be opened again."""


class Members(Protocol):
    """Who keeps account of the workers."""

    def up(self, name: str, opened: worker_pb2.LinkOpened) -> None:
        """A worker's link is open."""

    def down(self, name: str) -> None:
        """It is lost."""

    def drain(self, name: str) -> None:
        """The worker said that it is about to stop."""


async def keep_link(core: RoutingCore, worker: int, router: str, silence_s: float, members: Members) -> NoReturn:
    """Keep one worker linked, for ever. After `silence_s` without a message its link is taken for lost."""
    link = core.links[worker]
    while True:
        async with core.dialing.channel(link.address, link.name, OPTIONS) as channel:
            await _keep_channel(core, worker, router, channel, silence_s, members)


async def _keep_channel(
    core: RoutingCore, worker: int, router: str, channel: WithMetadata, silence_s: float, members: Members
) -> None:
    """As `keep_link`, by one channel; over TLS until it is lost: the next one shows and knows the newest
    certificates."""
    link = core.links[worker]
    while True:
        try:
            async with asyncio.TaskGroup() as tasks:
                serving = asyncio.Event()
                tasks.create_task(_watch_health(channel, serving))
                await _until(serving, REDIAL_S if core.dialing.has_tls else None)
                await _serve(core, worker, router, channel, silence_s, members)
        except BaseExceptionGroup as group:
            lost, rest = group.split((_LinkLost, grpc.aio.AioRpcError, Refused))
            if rest is not None:
                raise rest from group
            assert lost is not None
            # A task group that fails while it is being cancelled raises its errors and drops the cancellation.
            if _cancelling():
                raise asyncio.CancelledError from group
            logger.warning("link lost", worker=link.name, address=link.address, why=_first(lost))
        except asyncio.CancelledError as error:
            # Its frames and it hold each other, and they the connection, until the garbage collector finds them.
            traceback.clear_frames(error.__traceback__)
            raise
        finally:
            if link.outbox is not None:
                core.link_lost(worker)
                members.down(link.name)
        await asyncio.sleep(RETRY_S)
        if core.dialing.has_tls:
            return


async def _until(serving: asyncio.Event, timeout_s: float | None) -> None:
    """Raises _LinkLost: it does not serve for so long, or is not known by the certificates that there were."""
    try:
        async with asyncio.timeout(timeout_s):
            await serving.wait()
    except TimeoutError as error:
        raise _LinkLost(f"no answer over TLS for {timeout_s:g} s") from error


async def _watch_health(channel: WithMetadata, serving: asyncio.Event) -> None:
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
    core: RoutingCore, worker: int, router: str, channel: WithMetadata, silence_s: float, members: Members
) -> NoReturn:
    call = worker_pb2_grpc.WorkerServiceStub(channel).Link()
    opening = worker_pb2.LinkOpen(protocol_version=PROTOCOL_VERSION, router=router, slots=NUM_SLOTS)
    await call.write(worker_pb2.LinkRequest(open=opening))
    response = await call.read()
    if response is grpc.aio.EOF or response.WhichOneof("response") != "opened":
        raise _LinkLost(f"it did not open the link: {await call.details()}")
    filled, is_let_go = asyncio.Event(), asyncio.Event()
    outbox = core.link_opened(worker, response.opened, filled.set)
    link = core.links[worker]
    members.up(link.name, response.opened)
    heard = _Heard()
    logger.info("link opened", worker=response.opened.worker, incarnation=response.opened.incarnation)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_send(call, link, outbox, filled, is_let_go))
        tasks.create_task(heard.until_silent(silence_s))
        was_draining = False
        while (response := await call.read()) is not grpc.aio.EOF:
            heard.anything = True
            core.receive(worker, response.frame)
            if not link.num_in_flight:
                # Who was answered goes on, before this asks for what is not on its way.
                await asyncio.sleep(0)
            if response.frame.status.draining and not was_draining:
                was_draining = True
                members.drain(link.name)
            if was_draining and response.frame.HasField("status") and not response.frame.status.owned_slots:
                is_let_go.set()
                filled.set()
        raise _LinkLost(f"the worker ended it: {await call.details()}")


async def _send(
    call: grpc.aio.StreamStreamCall, link: Link, outbox: Outbox, filled: asyncio.Event, is_let_go: asyncio.Event
) -> None:
    """Write until the worker is let go, and then half-close: who writes to a stream that has ended loses what came on
    it and was not read yet. How it has ended, if it has, is told to who reads. Where much is under way, what else has
    come is read first, so that fewer frames go with more in each (docs/adr/0025)."""
    with suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):
        while True:
            await filled.wait()
            if link.num_in_flight >= GATHER_FROM:
                for _ in range(GATHER_TURNS):
                    await asyncio.sleep(0)
            # Not before: what has come by now goes in this frame, and an empty one would follow.
            filled.clear()
            if is_let_go.is_set():
                break
            await call.write(outbox.take())
        await call.done_writing()


class _Heard:
    """Whether anything came from the worker lately."""

    def __init__(self) -> None:
        self.anything = True

    async def until_silent(self, silence_s: float) -> NoReturn:
        """Wait until nothing came for so long. Several looks in a row must have found nothing: after a pause of our own
        there is one, and then what waited is read.

        Raises:
            _LinkLost: always.
        """
        num_silent = 0
        while num_silent < LOOKS:
            await asyncio.sleep(silence_s / LOOKS)
            num_silent = 0 if self.anything else num_silent + 1
            self.anything = False
        raise _LinkLost(f"nothing came from it for {silence_s:g} s")


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
