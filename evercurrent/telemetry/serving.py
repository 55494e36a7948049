"""What a server process tells others of itself while it serves: metrics to Prometheus and by OTLP, and its spans."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from random import Random

from evercurrent.settings import ServiceSettings
from evercurrent.telemetry.logs import get_logger
from evercurrent.telemetry.metrics import Reader
from evercurrent.telemetry.tracing import Tracer

logger = get_logger(__name__)


@asynccontextmanager
async def tracing(settings: ServiceSettings, service: str, name: str) -> AsyncIterator[Tracer | None]:
    """What traces events meanwhile; None: nothing is traced. What is left is sent at the end."""
    if settings.otlp_endpoint is None:
        yield None
        return
    from evercurrent.telemetry.otlp import OtlpSpans, resource_of

    spans = OtlpSpans(settings.otlp_endpoint, resource_of(service, name))
    try:
        yield Tracer(spans, settings.trace_ratio, Random())
    finally:
        await asyncio.to_thread(spans.close)


@asynccontextmanager
async def metrics(settings: ServiceSettings, service: str, name: str, read: Reader) -> AsyncIterator[None]:
    """Serves and sends metrics meanwhile, as far as the settings say where.

    Raises:
        OSError: the address of metrics cannot be bound; the text names it.
    """
    async with AsyncExitStack() as stack:
        if settings.otlp_endpoint is not None:
            from evercurrent.telemetry.otlp import export_metrics, resource_of

            resource = resource_of(service, name)
            await stack.enter_async_context(export_metrics(settings.otlp_endpoint, resource, read))
        if settings.metrics_address is not None:
            from evercurrent.security.tls import metrics_context
            from evercurrent.telemetry.prometheus import serve_metrics

            serving = serve_metrics(settings.metrics_address, read, metrics_context(settings))
            address = await stack.enter_async_context(serving)
            logger.info("metrics served", address=address)
        yield
