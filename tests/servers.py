"""Routers and workers for tests: real gRPC on loopback inside the test's own event loop, so that their insides show."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import grpc
import grpc.aio

from evercurrent.model import Model
from evercurrent.serving import bind, new_server
from evercurrent.settings import Member, RouterSettings
from evercurrent.slots import slot_of, user_key
from evercurrent.v1 import admin_pb2, admin_pb2_grpc, session_pb2_grpc
from persistence.memory import MemoryStore
from persistence.registry import Registry
from persistence.store import ObjectStore
from router.core import RoutingCore
from router.discovery import Source, StaticSource
from router.membership import Listed, Listing
from router.models import Models
from router.routing import Routing, bounds_of, monotonic_us
from router.service import ADMIN_SERVICE, SESSION_SERVICE, admin_handler, session_handler
from router.streams import Door
from tests.toys import Counting
from worker.engine import Clock, Engine
from worker.incarnation import Incarnation, Plan
from worker.link import SERVICE, WorkerService
from worker.ownership import Timing
from worker.server import EMBEDDED_TIMING
from worker.versions import Versions

RESIDENTS_MAX = 5000

TIMING = replace(EMBEDDED_TIMING, hold_us=0)
"""Slots may move at once."""

LINK_SILENCE_S = 60.0
"""No test is about a machine that is slow."""

DRAIN_TIMEOUT_S = 50.0
"""A drain that takes as long fails its test, whose timeout is below."""


@dataclass
class Service:
    """A router with its workers, and stubs that call it."""

    address: str
    core: RoutingCore
    workers: dict[str, Worker]
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
        return self.workers[self.name_of(user_id, namespace)].incarnation.engine

    def name_of(self, user_id: str, namespace: str = "") -> str:
        """The worker that the ring gives a user."""
        ring = self.core.ring
        assert ring is not None, "the ring stands"
        return ring.names[int(ring.owners[slot_of(user_key(namespace, user_id))])]

    @property
    def engines(self) -> list[Engine]:
        """All workers' engines."""
        return [worker.incarnation.engine for worker in self.workers.values()]

    def row_bytes(self, user_id: str) -> bytes:
        """The state of a user, bit for bit; empty for one who is not resident."""
        engine = self.engine_of(user_id)
        row = engine.slab.find(f"\0{user_id}")
        return b"" if row is None else bytes(engine.slab.state[row].tobytes())

    def user_of_worker(self, name: str, prefix: str = "user") -> str:
        """A user whom this worker serves."""
        number = 0
        while self.name_of(f"{prefix}-{number}") != name:
            number += 1
        return f"{prefix}-{number}"


class Listings:
    """A source that lists what a test says."""

    def __init__(self, **workers: Worker) -> None:
        self._listing: Listing = {}
        self._is_changed = asyncio.Event()
        self.say(**workers)

    def say(self, **workers: Worker) -> None:
        """From now on these workers are listed, and no others: by name, with `_` for `-`."""
        self._listing = {name.replace("_", "-"): Listed(worker.address) for name, worker in workers.items()}
        self._is_changed.set()

    async def listings(self) -> AsyncGenerator[Listing, None]:
        while True:
            self._is_changed.clear()
            yield self._listing
            await self._is_changed.wait()


@dataclass
class Worker:
    """A worker. `is_dead`: it is to end without another write."""

    address: str
    service: WorkerService
    stop: asyncio.Event
    is_dead: bool = False

    @property
    def incarnation(self) -> Incarnation:
        return self.service.incarnation


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
async def running_worker(
    name: str,
    model: Model,
    store: ObjectStore,
    *,
    residents_max: int = RESIDENTS_MAX,
    clock_us: Clock = monotonic_us,
    address: str = "127.0.0.1:0",
    has_store: bool = True,
    has_event_log: bool = False,
    stop_timeout_s: float = 10.0,
    drain_timeout_s: float = DRAIN_TIMEOUT_S,
    timing: Timing = TIMING,
) -> AsyncIterator[Worker]:
    """A worker, which is stopped cleanly in the end unless it `is_dead`."""
    server = await new_server([], [SERVICE])
    bound = bind(server, address)
    plan = Plan(
        name,
        bound,
        residents_max,
        batch_max=1024,
        timing=timing,
        has_store=has_store,
        has_event_log=has_event_log,
        stop_timeout_s=stop_timeout_s,
        drain_timeout_s=drain_timeout_s,
    )
    model.requires_grad_(False)
    versions = Versions(
        model,
        model.name,
        Registry(store) if has_store else None,
        lambda version, live: Incarnation(plan, version, live, store, clock_us),
    )
    await versions.open()
    service = WorkerService(versions, name, 16_384)
    server.add_generic_rpc_handlers((service.handler(),))
    await server.start()
    worker = Worker(bound, service, asyncio.Event())
    living = asyncio.create_task(service.live(worker.stop))
    try:
        yield worker
    finally:
        worker.stop.set()
        if worker.is_dead:
            living.cancel()
        try:
            with suppress(asyncio.CancelledError):
                await living
        finally:
            await server.stop(grace=None)


@asynccontextmanager
async def running_router(
    addresses: dict[str, str], settings: RouterSettings, wait_linked: bool = True, source: Source | None = None
) -> AsyncIterator[tuple[str, Routing]]:
    """A router, that sends users to all of its workers if not told otherwise; its address."""
    members = [Member(name=name, address=address) for name, address in addresses.items()]
    routing = Routing(source or StaticSource(members), settings.name, bounds_of(settings), LINK_SILENCE_S)
    models = Models(routing.core)
    handlers = [session_handler(routing.core, settings, Door()), admin_handler(routing.core, settings.name, models)]
    server = await new_server(handlers, [SESSION_SERVICE, ADMIN_SERVICE])
    bound = bind(server, "127.0.0.1:0")
    await server.start()
    async with running(routing.run(), models.keep_policy()):
        try:
            if wait_linked:
                await routing.ready.wait()
            yield bound, routing
        finally:
            routing.core.stop()
            await server.stop(grace=None)


@asynccontextmanager
async def running_service(
    model: Callable[[], Model] = Counting,
    *,
    num_workers: int = 1,
    residents_max: int = RESIDENTS_MAX,
    clock_us: Clock = monotonic_us,
    settings: RouterSettings | None = None,
    has_store: bool = True,
) -> AsyncIterator[Service]:
    """A router with workers on one store in memory, and a channel to it."""
    store = MemoryStore()
    workers: dict[str, Worker] = {}
    async with AsyncExitStack() as stack:
        for name in (f"worker-{number}" for number in range(num_workers)):
            workers[name] = await stack.enter_async_context(
                running_worker(
                    name, model(), store, residents_max=residents_max, clock_us=clock_us, has_store=has_store
                )
            )
        addresses = {name: worker.address for name, worker in workers.items()}
        address, routing = await stack.enter_async_context(running_router(addresses, settings or RouterSettings()))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(address))
        yield Service(address, routing.core, workers, channel)
