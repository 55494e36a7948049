"""What every channel and server of ours tells gRPC core."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

MESSAGE_BYTES_MAX = 16 << 20

CHANNEL_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
]

Metadata = tuple[tuple[str, str], ...]


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches "host:port"."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class WithMetadata:
    """What stubs need of a channel, with metadata in every call of a method `/service/name`."""

    def __init__(self, channel: Any, metadata: Callable[[str], Metadata] | None) -> None:
        self._channel = channel
        self._metadata = metadata

    async def __aenter__(self) -> WithMetadata:
        await self._channel.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._channel.__aexit__(*error)

    async def close(self) -> None:
        await self._channel.close()

    def unary_unary(self, method: str, *given: Any, **options: Any) -> Any:
        return self._with(method, self._channel.unary_unary(method, *given, **options))

    def unary_stream(self, method: str, *given: Any, **options: Any) -> Any:
        return self._with(method, self._channel.unary_stream(method, *given, **options))

    def stream_unary(self, method: str, *given: Any, **options: Any) -> Any:
        return self._with(method, self._channel.stream_unary(method, *given, **options))

    def stream_stream(self, method: str, *given: Any, **options: Any) -> Any:
        return self._with(method, self._channel.stream_stream(method, *given, **options))

    def _with(self, method: str, call: Any) -> Any:
        find = self._metadata
        if find is None:
            return call

        def calling(*given: Any, metadata: Metadata = (), **options: Any) -> Any:
            return call(*given, metadata=(*metadata, *find(method)), **options)

        return calling
