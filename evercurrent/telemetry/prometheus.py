"""Metrics for Prometheus: rendered by its client library, served over HTTP at /metrics."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from itertools import accumulate
from ssl import SSLContext

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from evercurrent.telemetry.latency import Distribution
from evercurrent.telemetry.metrics import BOUNDS_S, Kind, Metric, Point, Reader

STOP_TIMEOUT_S = 1.0

_EDGES = (*(f"{bound:g}" for bound in BOUNDS_S), "+Inf")


def render(metrics: Iterable[Metric]) -> bytes:
    """In Prometheus's text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected([_family(metric) for metric in metrics]))
    return generate_latest(registry)


class _Collected:
    """Metrics that were read already."""

    def __init__(self, families: list[Family]) -> None:
        self._families = families

    def collect(self) -> Iterator[Family]:
        yield from self._families


def _family(metric: Metric) -> Family:
    name, labels = metric.prometheus_name, list(metric.points[0].labels) if metric.points else []
    if metric.kind is Kind.HISTOGRAM:
        histogram = HistogramMetricFamily(name, metric.description, labels=labels)
        for point in metric.points:
            found = _distribution(point)
            buckets = list(zip(_EDGES, accumulate(found.counts), strict=True))
            histogram.add_metric(list(point.labels.values()), buckets, found.sum_s)
        return histogram
    family = CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily
    numbers = family(name, metric.description, labels=labels)
    for point in metric.points:
        assert not isinstance(point.value, Distribution), "only a histogram's points are distributions"
        numbers.add_metric(list(point.labels.values()), point.value)
    return numbers


def _distribution(point: Point) -> Distribution:
    assert isinstance(point.value, Distribution), "a histogram's points are distributions"
    return point.value


@asynccontextmanager
async def serve_metrics(address: str, read: Reader, tls: SSLContext | None = None) -> AsyncIterator[str]:
    """Serves /metrics on "host:port" meanwhile, over TLS if there is a context; gives the address bound.

    Raises:
        OSError: the address cannot be bound; the text names it.
    """

    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=render(read()), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.router.add_get("/metrics", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=STOP_TIMEOUT_S)
    await runner.setup()
    host, _, port = address.rpartition(":")
    try:
        try:
            await web.TCPSite(runner, host.strip("[]"), int(port), ssl_context=tls).start()
        except OSError as error:
            raise OSError(f"cannot serve metrics on {address}: {error.strerror or error}") from error
        yield f"{host}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
