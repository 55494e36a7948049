"""Spans and metrics by OTLP over gRPC, as OpenTelemetry's SDK encodes and sends them, on threads of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    HistogramDataPoint,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.metrics.export import Histogram as OtlpHistogram
from opentelemetry.sdk.metrics.export import Metric as OtlpMetric
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, Status, StatusCode, TraceFlags
from opentelemetry.trace import SpanKind as OtlpSpanKind

from evercurrent.telemetry.latency import Distribution
from evercurrent.telemetry.logs import get_logger
from evercurrent.telemetry.metrics import BOUNDS_S, Kind, Metric, Reader
from evercurrent.telemetry.tracing import Context, Span, SpanKind, wall_offset_ns

SPANS_MAX = 8192
"""Spans that wait to be sent; more are dropped."""
SPANS_AT_ONCE = 128
"""Encoding holds the interpreter: few at a time, so that the serving loop gets its turns."""
SPANS_DELAY_MS = 500
TIMEOUT_S = 2.0
"""What cannot be sent for so long is given up; a stop may take as long twice when nobody takes what is left."""
METRICS_INTERVAL_S = 10.0

logger = get_logger(__name__)

_SCOPE = InstrumentationScope("evercurrent")
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_KINDS = {
    SpanKind.INTERNAL: OtlpSpanKind.INTERNAL,
    SpanKind.SERVER: OtlpSpanKind.SERVER,
    SpanKind.CLIENT: OtlpSpanKind.CLIENT,
}
_OK = Status()


class OtlpSpans:
    """A sink whose spans go to an endpoint, `http://host:port` or `https://host:port`."""

    def __init__(self, endpoint: str, resource: Resource) -> None:
        self._resource = resource
        exporter = OTLPSpanExporter(endpoint=endpoint, insecure=endpoint.startswith("http://"), timeout=TIMEOUT_S)
        self._processor = BatchSpanProcessor(
            exporter,
            max_queue_size=SPANS_MAX,
            max_export_batch_size=SPANS_AT_ONCE,
            schedule_delay_millis=SPANS_DELAY_MS,
        )

    def put(self, span: Span) -> None:
        offset_ns = wall_offset_ns()
        self._processor.on_end(
            ReadableSpan(
                name=span.name,
                context=_otlp_context(span.context, is_remote=False),
                parent=None if span.parent is None else _otlp_context(span.parent, is_remote=True),
                resource=self._resource,
                attributes=span.attributes,
                links=[Link(_otlp_context(link, is_remote=False)) for link in span.links],
                kind=_KINDS[span.kind],
                status=Status(StatusCode.ERROR, span.error) if span.error else _OK,
                start_time=span.start_us * 1000 + offset_ns,
                end_time=span.end_us * 1000 + offset_ns,
                instrumentation_scope=_SCOPE,
            )
        )

    def close(self) -> None:
        """Sends what is left. Blocks for TIMEOUT_S at most."""
        self._processor.force_flush(int(TIMEOUT_S * 1000))
        self._processor.shutdown()  # type: ignore[no-untyped-call]


def _otlp_context(context: Context, is_remote: bool) -> SpanContext:
    return SpanContext(context.trace_id, context.span_id, is_remote, _SAMPLED)


def resource_of(service: str, instance: str) -> Resource:
    """What is said of the process with all that it sends."""
    return Resource.create({"service.name": service, "service.instance.id": instance})


@asynccontextmanager
async def export_metrics(endpoint: str, resource: Resource, read: Reader) -> AsyncIterator[None]:
    """Sends all metrics every METRICS_INTERVAL_S meanwhile, and once more at the end."""
    exporter = OTLPMetricExporter(endpoint=endpoint, insecure=endpoint.startswith("http://"), timeout=TIMEOUT_S)
    began_ns = wall_offset_ns()

    async def send() -> None:
        try:
            data = metrics_data(read(), resource, began_ns)
            await asyncio.to_thread(exporter.export, data, TIMEOUT_S * 1000)
        except Exception:  # Whatever is wrong with metrics: users are served.
            logger.exception("metrics could not be sent", endpoint=endpoint)

    async def send_on() -> None:
        while True:
            await asyncio.sleep(METRICS_INTERVAL_S)
            await send()

    async with asyncio.TaskGroup() as tasks:
        sending = tasks.create_task(send_on())
        try:
            yield
        finally:
            sending.cancel()
    await send()
    await asyncio.to_thread(exporter.shutdown, TIMEOUT_S * 1000)


def metrics_data(metrics: Iterable[Metric], resource: Resource, began_ns: int) -> MetricsData:
    """Metrics as the SDK's exporter takes them; sums count from `began_ns` on."""
    now_ns = time.time_ns()
    found = [OtlpMetric(one.name, one.description, one.unit, _data(one, began_ns, now_ns)) for one in metrics]
    return MetricsData([ResourceMetrics(resource, [ScopeMetrics(_SCOPE, found, "")], "")])


def _data(metric: Metric, began_ns: int, now_ns: int) -> Sum | Gauge | OtlpHistogram:
    if metric.kind is Kind.HISTOGRAM:
        points = []
        for point in metric.points:
            found = point.value
            assert isinstance(found, Distribution), "a histogram's points are distributions"
            points.append(
                HistogramDataPoint(
                    attributes=dict(point.labels),
                    start_time_unix_nano=began_ns,
                    time_unix_nano=now_ns,
                    count=sum(found.counts),
                    sum=found.sum_s,
                    bucket_counts=found.counts,
                    explicit_bounds=BOUNDS_S,
                    # The protocol may leave them out; the SDK's type does not say so.
                    min=None,  # type: ignore[arg-type]
                    max=None,  # type: ignore[arg-type]
                )
            )
        return OtlpHistogram(points, AggregationTemporality.CUMULATIVE)
    numbers = [
        NumberDataPoint(
            attributes=dict(point.labels),
            start_time_unix_nano=began_ns if metric.kind is Kind.COUNTER else 0,
            time_unix_nano=now_ns,
            value=point.value,
        )
        for point in metric.points
        if not isinstance(point.value, Distribution)
    ]
    if metric.kind is Kind.COUNTER:
        return Sum(numbers, AggregationTemporality.CUMULATIVE, is_monotonic=True)
    return Gauge(numbers)
