"""The router process: the core, a link to every worker, a port."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from evercurrent.serving import bind, new_server, stop_signal
from evercurrent.settings import RouterSettings
from router.core import RoutingCore
from router.link import keep_link
from router.ring import build_ring
from router.service import ADMIN_SERVICE, SESSION_SERVICE, admin_handler, session_handler

LINK_GRACE_S = 5.0

logger = logging.getLogger(__name__)


def monotonic_us() -> int:
    return time.monotonic_ns() // 1000


async def serve(settings: RouterSettings, ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT. `ready` is given the address bound, when all workers are linked or
    LINK_GRACE_S has passed: whoever starts this and then calls it finds the workers that are there.

    Raises:
        OSError: the address cannot be bound; the text names it.
        ValueError: there are no workers.
    """
    stop = stop_signal()
    addresses = {member.name: member.address for member in settings.workers}
    core = RoutingCore(
        build_ring(dict.fromkeys(addresses, 1)),
        addresses,
        settings.in_flight_link_max,
        settings.in_flight_session_max,
        monotonic_us,
    )
    server = await new_server([session_handler(core, settings), admin_handler(core)], [SESSION_SERVICE, ADMIN_SERVICE])
    address = bind(server, settings.address)
    gc.collect()
    gc.freeze()
    await server.start()
    logger.info("router serves address=%s ring=%s workers=%d", address, core.ring.digest, len(core.links))
    async with asyncio.TaskGroup() as tasks:
        linked = [asyncio.Event() for _ in core.links]
        links = [
            tasks.create_task(keep_link(core, worker, settings.name, event)) for worker, event in enumerate(linked)
        ]
        announcing = tasks.create_task(_announce(address, linked, ready))
        await stop.wait()
        core.stop()
        await server.stop(grace=1.0)
        for task in (announcing, *links):
            task.cancel()
    logger.info("router stopped")


async def _announce(address: str, linked: Sequence[asyncio.Event], ready: Callable[[str], None]) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(LINK_GRACE_S):
            for event in linked:
                await event.wait()
    ready(address)
