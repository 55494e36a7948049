"""Routers and workers for tests: real gRPC on loopback inside the test's own event loop, so that their insides show."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from ulid import ULID

from evercurrent.describe import describe
from evercurrent.model import Model
from evercurrent.serving import bind, new_server
from evercurrent.settings import RouterSettings
from evercurrent.v1 import admin_pb2, admin_pb2_grpc, session_pb2_grpc
from router.core import RoutingCore
from router.link import keep_link
from router.ring import build_ring
from router.server import monotonic_us
from router.service import ADMIN_SERVICE, SESSION_SERVICE, admin_handler, session_handler
from tests.toys import Counting
from worker.engine import Clock, Engine
from worker.link import SERVICE, WorkerService

RESIDENTS_MAX = 5000


@dataclass
class Service:
    """A router with its workers, and stubs that call it."""

    address: str
    core: RoutingCore
    engines: dict[str, Engine]
    channel: grpc.aio.Channel

    @property
    def sessions(self) -> session_pb2_grpc.SessionServiceStub:
        return session_pb2_grpc.SessionServiceStub(self.channel)

    @property
    def admin(self) -> admin_pb2_grpc.AdminServiceStub:
        return admin_pb2_grpc.AdminServiceStub(self.channel)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something holds, a round trip to the router at a time. The test's timeout bounds it."""
        while not condition():
            await self.admin.ListWorkers(admin_pb2.ListWorkersRequest())

    def engine_of(self, user_id: str, namespace: str = "") -> Engine:
        """The engine that has a user."""
        return self.engines[self.core.ring.names[self.core.worker_of(namespace, user_id)[1]]]

    def row_bytes(self, user_id: str) -> bytes:
        """The state of a user, bit for bit; empty for one who is not resident."""
        engine = self.engine_of(user_id)
        row = engine.slab.find(f"\0{user_id}")
        return b"" if row is None else bytes(engine.slab.state[row].tobytes())

    def user_of_worker(self, name: str, prefix: str = "user") -> str:
        """A user whom this worker serves."""
        number = 0
        while self.core.ring.names[self.core.worker_of("", f"{prefix}-{number}")[1]] != name:
            number += 1
        return f"{prefix}-{number}"


@asynccontextmanager
async def running(*coroutines: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Work that goes on meanwhile; what it raises is raised at the end. No task group: a fixture is entered in one task
    and left in another."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task


@asynccontextmanager
async def running_worker(engine: Engine, name: str, address: str = "127.0.0.1:0") -> AsyncIterator[str]:
    """A worker around an engine; its address."""
    service = WorkerService(engine, name, f"{name}/{ULID()}", describe(engine.model), 16_384)
    server = await new_server([service.handler()], [SERVICE])
    bound = bind(server, address)
    await server.start()
    async with running(service.run()):
        try:
            yield bound
        finally:
            await server.stop(grace=None)


@asynccontextmanager
async def running_router(
    addresses: dict[str, str], settings: RouterSettings, wait_linked: bool = True
) -> AsyncIterator[tuple[str, RoutingCore]]:
    """A router, that has reached its workers if not told otherwise; its address and its core."""
    core = RoutingCore(
        build_ring(list(addresses)),
        addresses,
        settings.in_flight_link_max,
        settings.in_flight_session_max,
        monotonic_us,
    )
    server = await new_server([session_handler(core, settings), admin_handler(core)], [SESSION_SERVICE, ADMIN_SERVICE])
    bound = bind(server, "127.0.0.1:0")
    await server.start()
    linked = [asyncio.Event() for _ in core.links]
    async with running(*(keep_link(core, worker, settings.name, event) for worker, event in enumerate(linked))):
        try:
            for event in linked if wait_linked else ():
                await event.wait()
            yield bound, core
        finally:
            core.stop()
            await server.stop(grace=None)


@asynccontextmanager
async def running_service(
    model: Callable[[], Model] = Counting,
    *,
    num_workers: int = 1,
    residents_max: int = RESIDENTS_MAX,
    clock_us: Clock = monotonic_us,
    settings: RouterSettings | None = None,
) -> AsyncIterator[Service]:
    """A router with workers, and a channel to it."""
    engines = {
        f"worker-{number}": Engine(model().requires_grad_(False), residents_max, 1024, clock_us)
        for number in range(num_workers)
    }
    async with AsyncExitStack() as stack:
        addresses = {
            name: await stack.enter_async_context(running_worker(engine, name)) for name, engine in engines.items()
        }
        address, core = await stack.enter_async_context(running_router(addresses, settings or RouterSettings()))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(address))
        yield Service(address, core, engines, channel)
