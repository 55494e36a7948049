"""A stand-in for an OTLP collector: takes spans and metrics, counts them, and says how many there were when asked."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import grpc
import grpc.aio
import uvloop
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from bench.processes import run_server, standard_input_ends

TRACES = "opentelemetry.proto.collector.trace.v1.TraceService"
METRICS = "opentelemetry.proto.collector.metrics.v1.MetricsService"
ASKED = "bench.Sink"
ASK_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Sink:
    """A sink that runs."""

    endpoint: str
    address: str

    def num_spans(self) -> int:
        """How many spans it has."""
        with grpc.insecure_channel(self.address) as channel:
            raw: bytes = channel.unary_unary(f"/{ASKED}/NumSpans")(b"", timeout=ASK_TIMEOUT_S)
        return int(raw)


@contextmanager
def run_sink() -> Iterator[Sink]:
    """One as a child process, which ends with the context."""
    with run_server("bench.sink") as server:
        yield Sink(f"http://{server.addresses[0]}", server.addresses[0])


class _Counting:
    def __init__(self) -> None:
        self.num_spans = 0

    async def take_spans(self, raw: bytes, _: object) -> bytes:
        request = ExportTraceServiceRequest.FromString(raw)
        self.num_spans += sum(len(scope.spans) for of in request.resource_spans for scope in of.scope_spans)
        return ExportTraceServiceResponse().SerializeToString()

    async def take_metrics(self, _: bytes, __: object) -> bytes:
        return ExportMetricsServiceResponse().SerializeToString()

    async def say(self, _: bytes, __: object) -> bytes:
        return str(self.num_spans).encode()


async def serve() -> None:
    """Serve until standard input ends; prints the address when it listens."""
    counting = _Counting()
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        tuple(
            grpc.method_handlers_generic_handler(service, {method: grpc.unary_unary_rpc_method_handler(answer)})
            for service, method, answer in (
                (TRACES, "Export", counting.take_spans),
                (METRICS, "Export", counting.take_metrics),
                (ASKED, "NumSpans", counting.say),
            )
        )
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await standard_input_ends()
    await server.stop(None)


if __name__ == "__main__":
    # Ctrl-C goes to the whole process group; this server's life hangs on its standard input alone.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    uvloop.install()
    asyncio.run(serve())
