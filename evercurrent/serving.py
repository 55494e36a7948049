"""What every server process of ours does alike: bind, announce, wait for a signal, end.

Options are those of gRPC core: no port is shared (`so_reuseport`), so a taken one is an error and not a silent sibling.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from typing import Protocol

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from evercurrent.accepting import accepting_server
from evercurrent.channels import CHANNEL_OPTIONS

STREAMS_PER_CONNECTION_MAX = 20_000
METADATA_BYTES_MAX = 32 << 10
"""Room for a token, and for nothing that would hurt."""

SERVER_OPTIONS: list[tuple[str, int]] = [
    *CHANNEL_OPTIONS,
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.max_concurrent_streams", STREAMS_PER_CONNECTION_MAX),
    ("grpc.max_metadata_size", METADATA_BYTES_MAX),
]


class Health(Protocol):
    """What a server says of itself (grpc.health.v1)."""

    async def set(self, service: str, status: int) -> None:
        """How a service is."""

    async def enter_graceful_shutdown(self) -> None:
        """No service takes anybody new, from now on."""


class _Health(health.aio.HealthServicer):  # type: ignore[misc]
    """That of the library lacks a method, and raises when it is called."""

    async def List(self, _: health_pb2.HealthListRequest, context: grpc.aio.ServicerContext) -> None:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "ask for a service by its name")


def new_health() -> Health:
    """Health of which nothing is known yet."""
    servicer: Health = _Health()
    return servicer


async def new_server(
    handlers: Sequence[grpc.GenericRpcHandler],
    services: Sequence[str],
    servicer: Health | None = None,
    interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
) -> grpc.aio.Server:
    """A server with these handlers, health (all services SERVING, told by `servicer`) and reflection."""
    served = (*services, health.SERVICE_NAME, reflection.SERVICE_NAME)
    server = accepting_server(served, SERVER_OPTIONS, interceptors)
    server.add_generic_rpc_handlers(tuple(handlers))
    servicer = servicer or new_health()
    for name in ("", *services):
        await servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    reflection.enable_server_reflection(served, server)
    return server


def bind(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials | None = None) -> str:
    """Listen on "host:port" (port 0: any free one), with TLS if there are credentials; the address bound.

    Raises:
        OSError: the address is taken or not ours; the text names it.
    """
    try:
        if credentials is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise OSError(f"cannot listen on {address}: it is taken or not an address of this machine") from error
    return f"{address.rpartition(':')[0]}:{port}"


def stop_signal() -> asyncio.Event:
    """An event set by SIGTERM or SIGINT from now on."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop
