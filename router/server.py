"""The router process: routing (router.routing), and a port.

At SIGTERM it takes nobody new, asks every stream in band to leave (a long stream does not heed HTTP/2 GOAWAY), and ends
when all have left and what they sent is durable, or when `drain_timeout_s` has passed.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import grpc.aio

from evercurrent.security.dialing import Dialing
from evercurrent.security.guard import Guard
from evercurrent.security.tls import server_credentials
from evercurrent.security.tokens import tokens_of
from evercurrent.serving import Health, bind, new_health, new_server, stop_signal
from evercurrent.settings import RouterSettings
from evercurrent.telemetry.logs import get_logger
from evercurrent.telemetry.serving import metrics, tracing
from router.access import RouterGate
from router.core import RoutingCore
from router.discovery import make_source
from router.metrics import read_metrics
from router.models import Models
from router.quotas import Limits, Quotas
from router.routing import Routing, bounds_of
from router.service import ADMIN_SERVICE, SESSION_SERVICE, admin_handler, session_handler
from router.streams import Door
from router.traces import Traces

SERVICE_NAME = "evercurrent-router"
READY_GRACE_S = 5.0
STOP_GRACE_S = 1.0

logger = get_logger(__name__)


async def serve(settings: RouterSettings, ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT. `ready` is given the address bound, when users can be sent to workers or
    READY_GRACE_S has passed: whoever starts this and then calls it finds the workers that are there.

    Raises:
        OSError: the address cannot be bound; the text names it.
        ValueError: there are no workers.
    """
    stop = stop_signal()
    routing = Routing(make_source(settings), settings.name, bounds_of(settings), settings.link_silence_ms / 1000)
    credentials = server_credentials(settings)
    tokens = tokens_of(settings)
    health, door = new_health(), Door(settings.streams_max, settings.open_timeout_s)
    core = routing.core
    models = Models(core)
    core.dialing = Dialing.of(settings)
    guards = []
    if tokens is not None or settings.tls_client_ca is not None:
        guards.append(Guard(RouterGate(tokens)))
        limits = Limits(
            settings.identity_sessions_max, settings.identity_events_per_s_max, settings.identity_bytes_per_s_max
        )
        core.quotas = None if limits.are_none else Quotas(limits, core.clock_us)
    handlers = [session_handler(core, settings, door), admin_handler(core, settings.name, models)]
    server = await new_server(handlers, [SESSION_SERVICE, ADMIN_SERVICE], health, guards)
    address = bind(server, settings.address, credentials)
    gc.collect()
    gc.freeze()
    async with (
        tracing(settings, SERVICE_NAME, settings.name) as tracer,
        metrics(settings, SERVICE_NAME, settings.name, partial(read_metrics, core, models)),
        asyncio.TaskGroup() as tasks,
    ):
        if tracer is not None:
            core.traces = Traces(tracer, core.clock_us, core.user_of)
        await server.start()
        logger.info("router serves", address=address)
        working = [
            *([tasks.create_task(tokens.run())] if tokens is not None else []),
            tasks.create_task(routing.run()),
            tasks.create_task(models.keep_policy()),
            tasks.create_task(_announce(address, routing.ready, ready)),
        ]
        await stop.wait()
        door.close()
        await drain(server, health, core, settings.drain_timeout_s)
        for task in working:
            task.cancel()
    logger.info("router stopped")


async def drain(server: grpc.aio.Server, health: Health, core: RoutingCore, timeout_s: float) -> None:
    """Let the clients go, and stop."""
    await health.enter_graceful_shutdown()
    stopping = asyncio.create_task(server.stop(grace=timeout_s + STOP_GRACE_S))
    try:
        core.go_away("the router is stopping", int(timeout_s * 1000))
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await _idle(core)
        if not core.is_idle:
            logger.warning("clients stayed", feeds=core.num_feeds, sessions=len(core.sessions))
        core.stop()
    finally:
        await stopping


async def _idle(core: RoutingCore) -> None:
    """Wait until every stream has ended and every session is durable."""
    idle = asyncio.Event()
    core.when_idle(idle.set)
    await idle.wait()


async def _announce(address: str, linked: asyncio.Event, ready: Callable[[str], None]) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(READY_GRACE_S):
            await linked.wait()
    ready(address)
