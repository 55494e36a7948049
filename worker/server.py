"""The worker process: a model, a store, a port, and one incarnation after the other."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch
from ulid import ULID

from evercurrent.model import Model
from evercurrent.security.cluster import Verifier, watched_secrets
from evercurrent.security.dialing import Dialing
from evercurrent.security.guard import Guard
from evercurrent.security.tls import server_credentials
from evercurrent.serving import bind, new_server, stop_signal
from evercurrent.settings import SettingsError, WorkerSettings
from evercurrent.telemetry.logs import get_logger
from evercurrent.telemetry.serving import metrics, tracing
from persistence.open import MemoryTarget, open_store, parse_url
from persistence.probe import probe
from persistence.registry import Registry
from persistence.s3 import S3Target
from persistence.thread import StoreThread
from worker.access import WorkerGate
from worker.acting import monotonic_us
from worker.incarnation import Incarnation, Plan
from worker.link import SERVICE, WorkerService
from worker.metrics import read_metrics
from worker.ownership import Timing
from worker.versions import Versions

SERVICE_NAME = "evercurrent-worker"
US_PER_MS = 1000
FLOAT_BYTES = 4

RESIDENT_BYTES = 400
"""What a resident takes beside its state: its key, its session and its cells of the arrays (`bench scale`)."""

STORE_CLOSE_TIMEOUT_S = 2.0
"""What is needed has been written by then, or has failed within the stop's own bound."""

STOP_GRACE_S = 1.0
"""What calls that were answered to the end may take to be written out; those that never end are broken off then."""

EMBEDDED_TIMING = Timing(journal_interval_us=50 * US_PER_MS, dead_after_us=500 * US_PER_MS)
S3_TIMING = Timing(journal_interval_us=200 * US_PER_MS, dead_after_us=2000 * US_PER_MS)

logger = get_logger(__name__)


def residents_within(settings: WorkerSettings, state_width: int) -> int:
    """How many users may be resident: the smaller of the bound in users and the bound in bytes.

    Raises:
        SettingsError: not one fits.
    """
    resident_bytes = FLOAT_BYTES * state_width + RESIDENT_BYTES
    if resident_bytes > settings.resident_bytes_max:
        raise SettingsError(
            f"worker: one resident takes {resident_bytes} bytes, above resident_bytes_max {settings.resident_bytes_max}"
        )
    return min(settings.residents_max, settings.resident_bytes_max // resident_bytes)


def timing_of(settings: WorkerSettings) -> Timing:
    """How often the journal is written and when an owner counts as dead: as set, else as suits the store.

    Raises:
        SettingsError: an owner would seem dead between two segments.
    """
    usual = S3_TIMING if isinstance(parse_url(settings.store), S3Target) else EMBEDDED_TIMING
    timing = Timing(
        journal_interval_us=(settings.journal_interval_ms or 0) * US_PER_MS or usual.journal_interval_us,
        dead_after_us=(settings.dead_after_ms or 0) * US_PER_MS or usual.dead_after_us,
    )
    if 4 * timing.journal_interval_us > timing.dead_after_us:
        raise SettingsError(
            f"worker: dead_after_ms ({timing.dead_after_us // US_PER_MS}) is below four times journal_interval_ms "
            f"({timing.journal_interval_us // US_PER_MS}): an owner would seem dead between two segments"
        )
    return timing


def guards_of(settings: WorkerSettings) -> list[Guard]:
    """What finds out who calls; nothing where nobody is asked. Raises SettingsError: the token cannot be read."""
    if settings.cluster_token_file is None and not settings.cluster_identities:
        return []
    verifier = None
    if settings.cluster_token_file is not None:
        verifier = Verifier(watched_secrets(settings.cluster_token_file).current, settings.name)
    return [Guard(WorkerGate(settings.cluster_identities, verifier))]


async def serve(settings: WorkerSettings, model: Model, ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT. `ready` is given the address bound.

    Raises:
        OSError: the address cannot be bound; the text names it.
        SettingsError: not one user's state fits, or the timings contradict each other.
        ValueError: the model's outputs have other shapes than it declares.
        ModelLoadError: the live version, which the store names, cannot run here.
        StoreError: the store cannot be opened or cannot arbitrate; or what was needed could not be written at the stop.
    """
    torch.set_num_threads(1)
    stop = stop_signal()
    residents_max = residents_within(settings, model.state_width)
    timing = timing_of(settings)
    credentials = server_credentials(settings)
    async with (
        tracing(settings, SERVICE_NAME, settings.name) as tracer,
        StoreThread(lambda: open_store(settings.store), close_timeout_s=STORE_CLOSE_TIMEOUT_S) as store,
    ):
        await probe(store, str(ULID()))
        server = await new_server([], [SERVICE], interceptors=guards_of(settings))
        address = bind(server, settings.address, credentials)
        plan = Plan(
            worker=settings.name,
            address=settings.advertised_address or address,
            residents_max=residents_max,
            batch_max=settings.batch_max,
            timing=timing,
            has_store=not isinstance(parse_url(settings.store), MemoryTarget),
            has_event_log=settings.event_log,
            stop_timeout_s=settings.stop_timeout_s,
            drain_timeout_s=settings.drain_timeout_s,
            weight=settings.weight,
            dialing=Dialing.of(settings),
        )
        versions = Versions(
            model,
            settings.model_version or model.name,
            Registry(store) if plan.has_store else None,
            lambda version, live: Incarnation(plan, version, live, store, monotonic_us, tracer),
        )
        await versions.open()
        service = WorkerService(versions, settings.name, settings.link_in_flight_max)
        server.add_generic_rpc_handlers((service.handler(),))
        # What was built so far lives as long as the process: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        async with metrics(settings, SERVICE_NAME, settings.name, lambda: read_metrics(service.incarnation)):
            await server.start()
            try:
                logger.info("worker serves", address=address, incarnation=service.incarnation.name)
                ready(address)
                await service.live(stop)
            finally:
                await server.stop(grace=STOP_GRACE_S)
