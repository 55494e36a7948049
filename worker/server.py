"""The worker process: a model, an engine, a port."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import Callable

import torch
from ulid import ULID

from evercurrent.describe import describe
from evercurrent.model import Model
from evercurrent.serving import bind, new_server, stop_signal
from evercurrent.settings import WorkerSettings
from worker.engine import Engine
from worker.link import SERVICE, WorkerService

FLOAT_BYTES = 4

logger = logging.getLogger(__name__)


def monotonic_us() -> int:
    return time.monotonic_ns() // 1000


def residents_within(settings: WorkerSettings, state_width: int) -> int:
    """How many users may be resident: the smaller of the bound in users and the bound in bytes of their rows.

    Raises:
        ValueError: not one fits.
    """
    row_bytes = FLOAT_BYTES * state_width
    if row_bytes > settings.resident_bytes_max:
        raise ValueError(
            f"one user's state has {row_bytes} bytes, above resident_bytes_max {settings.resident_bytes_max}"
        )
    return min(settings.residents_max, settings.resident_bytes_max // row_bytes)


async def serve(settings: WorkerSettings, model: Model, ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT. `ready` is given the address bound.

    Raises:
        OSError: the address cannot be bound; the text names it.
        ValueError: not one user's state fits; the model's outputs have other shapes than it declares.
    """
    torch.set_num_threads(1)
    stop = stop_signal()
    engine = Engine(model, residents_within(settings, model.state_width), settings.batch_max, monotonic_us)
    incarnation = f"{settings.name}/{ULID()}"
    service = WorkerService(engine, settings.name, incarnation, describe(model), settings.link_in_flight_max)
    server = await new_server([service.handler()], [SERVICE])
    address = bind(server, settings.address)
    # What was built so far lives as long as the process: the collector need not look at it again.
    gc.collect()
    gc.freeze()
    await server.start()
    logger.info("worker serves address=%s incarnation=%s model=%s", address, incarnation, model.name)
    ready(address)
    async with asyncio.TaskGroup() as tasks:
        stepping = tasks.create_task(service.run())
        await stop.wait()
        await server.stop(grace=None)
        stepping.cancel()
    logger.info("worker stopped updates=%d rejected=%d", engine.num_updates, engine.num_rejected)
