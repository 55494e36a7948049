"""Spans and metrics by OTLP over gRPC: OpenTelemetry's SDK keeps, batches and sends them, on threads of its own.

A span is encoded when it is over, on the serving loop: 10 µs each. The SDK encodes when it sends, 25 µs each, a whole
batch at once; its thread holds the interpreter for that long, which is what a P99 shows (docs/adr/0020).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.resource.v1 import resource_pb2
from opentelemetry.proto.trace.v1 import trace_pb2
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
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, TraceFlags

from evercurrent.telemetry.latency import Distribution
from evercurrent.telemetry.logs import get_logger
from evercurrent.telemetry.metrics import BOUNDS_S, Kind, Metric, Reader
from evercurrent.telemetry.tracing import Span, SpanKind, wall_offset_ns

SPANS_MAX = 8192
"""Spans that wait to be sent; more are dropped."""
SPANS_AT_ONCE = 256
"""In one request."""
SPANS_DELAY_MS = 500
TIMEOUT_S = 2.0
"""What cannot be sent for so long is given up; a stop may take as long twice when nobody takes what is left."""
METRICS_INTERVAL_S = 10.0

logger = get_logger(__name__)

_SCOPE = InstrumentationScope("evercurrent")
_SAMPLED_CONTEXT = SpanContext(1, 1, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))
_FLAGS = int(TraceFlags.SAMPLED) | trace_pb2.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK
_KINDS = {
    SpanKind.SERVER: trace_pb2.Span.SPAN_KIND_SERVER,
    SpanKind.CLIENT: trace_pb2.Span.SPAN_KIND_CLIENT,
}


@dataclass(frozen=True, slots=True)
class _Encoded:
    """What the SDK's processor takes for a span: it asks whether the context is sampled, and no more."""

    message: trace_pb2.Span

    @property
    def context(self) -> SpanContext:
        return _SAMPLED_CONTEXT


class _Exporter(OTLPSpanExporter):
    """The SDK's exporter of spans that are encoded already."""

    def __init__(self, endpoint: str, resource: Resource) -> None:
        super().__init__(endpoint=endpoint, insecure=endpoint.startswith("http://"), timeout=TIMEOUT_S)
        self._of = resource_pb2.Resource(attributes=_pairs({k: str(v) for k, v in resource.attributes.items()}))

    def _translate_data(self, data: Sequence[Any]) -> ExportTraceServiceRequest:
        spans = [encoded.message for encoded in data]
        scope = trace_pb2.ScopeSpans(scope=common_pb2.InstrumentationScope(name=_SCOPE.name), spans=spans)
        return ExportTraceServiceRequest(
            resource_spans=[trace_pb2.ResourceSpans(resource=self._of, scope_spans=[scope])]
        )


class OtlpSpans:
    """A sink whose spans go to an endpoint, `http://host:port` or `https://host:port`."""

    def __init__(self, endpoint: str, resource: Resource) -> None:
        exporter = _Exporter(endpoint, resource)
        self._processor = BatchSpanProcessor(
            exporter,
            max_queue_size=SPANS_MAX,
            max_export_batch_size=SPANS_AT_ONCE,
            schedule_delay_millis=SPANS_DELAY_MS,
        )

    def put(self, span: Span) -> None:
        self._processor.on_end(_Encoded(_encoded(span)))  # type: ignore[arg-type]

    def close(self) -> None:
        """Sends what is left. Blocks for TIMEOUT_S at most."""
        self._processor.force_flush(int(TIMEOUT_S * 1000))
        self._processor.shutdown()  # type: ignore[no-untyped-call]


def _encoded(span: Span) -> trace_pb2.Span:
    offset_ns = wall_offset_ns()
    message = trace_pb2.Span(
        trace_id=span.context.trace_id.to_bytes(16, "big"),
        span_id=span.context.span_id.to_bytes(8, "big"),
        name=span.name,
        kind=_KINDS[span.kind],
        start_time_unix_nano=span.start_us * 1000 + offset_ns,
        end_time_unix_nano=span.end_us * 1000 + offset_ns,
        attributes=_pairs(span.attributes),
        links=[
            trace_pb2.Span.Link(trace_id=link.trace_id.to_bytes(16, "big"), span_id=link.span_id.to_bytes(8, "big"))
            for link in span.links
        ],
        flags=_FLAGS,
    )
    if span.parent is not None:
        message.parent_span_id = span.parent.span_id.to_bytes(8, "big")
    if span.error:
        message.status.code = trace_pb2.Status.STATUS_CODE_ERROR
        message.status.message = span.error
    return message


def _pairs(attributes: Mapping[str, str | int]) -> list[common_pb2.KeyValue]:
    return [
        common_pb2.KeyValue(
            key=key,
            value=common_pb2.AnyValue(string_value=value)
            if isinstance(value, str)
            else common_pb2.AnyValue(int_value=value),
        )
        for key, value in attributes.items()
    ]


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
