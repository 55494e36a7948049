"""An OTLP receiver in this process: takes what is sent, and gives it back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span

PATIENCE_S = 60.0


@dataclass(frozen=True)
class Found:
    """A span, by the service and instance that sent it."""

    service: str
    instance: str
    span: Span

    @property
    def name(self) -> str:
        return self.span.name

    def __getitem__(self, key: str) -> object:
        return attributes_of(self.span.attributes)[key]


class Receiver:
    """What has come so far, from any number of processes."""

    def __init__(self) -> None:
        self.address = ""
        self.spans: list[Found] = []
        self.metrics: dict[str, dict[str, Metric]] = {}
        """The newest, by service and name."""
        self._changed = threading.Condition()

    def until(self, holds: Callable[[Receiver], bool]) -> None:
        """Wait for it."""
        with self._changed:
            assert self._changed.wait_for(lambda: holds(self), PATIENCE_S), [found.name for found in self.spans]

    def named(self, name: str) -> list[Found]:
        return [found for found in self.spans if found.name == name]

    def Export(self, request: object, _: grpc.ServicerContext) -> object:
        with self._changed:
            if isinstance(request, trace_service_pb2.ExportTraceServiceRequest):
                answer: object = self._take_spans(request)
            else:
                assert isinstance(request, metrics_service_pb2.ExportMetricsServiceRequest)
                answer = self._take_metrics(request)
            self._changed.notify_all()
            return answer

    def _take_spans(self, request: trace_service_pb2.ExportTraceServiceRequest) -> object:
        for of_resource in request.resource_spans:
            said = attributes_of(of_resource.resource.attributes)
            service, instance = str(said["service.name"]), str(said.get("service.instance.id", ""))
            self.spans += [Found(service, instance, span) for scope in of_resource.scope_spans for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()

    def _take_metrics(self, request: metrics_service_pb2.ExportMetricsServiceRequest) -> object:
        for of_resource in request.resource_metrics:
            service = str(attributes_of(of_resource.resource.attributes)["service.name"])
            for scope in of_resource.scope_metrics:
                self.metrics.setdefault(service, {}).update({metric.name: metric for metric in scope.metrics})
        return metrics_service_pb2.ExportMetricsServiceResponse()


def attributes_of(pairs: Sequence[KeyValue]) -> dict[str, object]:
    """Attributes as plain values."""
    return {pair.key: _plain(pair.value) for pair in pairs}


def _plain(value: AnyValue) -> object:
    which = value.WhichOneof("value")
    assert which is not None
    plain: object = getattr(value, which)
    return plain


@contextmanager
def otlp_receiver() -> Iterator[Receiver]:
    """Listens on a port of its own meanwhile."""
    receiver = Receiver()
    server = grpc.server(ThreadPoolExecutor(4))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(receiver, server)  # type: ignore[no-untyped-call]
    metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(receiver, server)  # type: ignore[no-untyped-call]
    receiver.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield receiver
    finally:
        server.stop(None).wait()


def tree_of(spans: list[Found], trace_id: bytes) -> list[str]:
    """A trace as text: a line a span, each under its parent, in the order of their beginnings."""
    own = sorted((one for one in spans if one.span.trace_id == trace_id), key=lambda one: one.span.start_time_unix_nano)
    known = {one.span.span_id for one in own}
    lines: list[str] = []

    def put(parent: bytes, depth: int) -> None:
        for one in own:
            is_child = one.span.parent_span_id == parent if parent else one.span.parent_span_id not in known
            if is_child:
                lines.append(f"{'  ' * depth}{one.service} {one.name}")
                put(one.span.span_id, depth + 1)

    put(b"", 0)
    return lines
