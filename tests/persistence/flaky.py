"""A proxy in front of an S3 server that does, request by request, what networks and busy servers do."""

from __future__ import annotations

import asyncio
import enum
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tests.persistence.servers import BUCKET, Server


class Fault(enum.Enum):
    """What becomes of a request."""

    LOSE_REQUEST = "never arrives; the connection breaks"
    LOSE_ANSWER = "is carried out; the connection breaks before the answer"
    RESET_ANSWER = "is carried out; the connection is reset before the answer"
    HANG = "is carried out; the answer never comes"
    CUT_ANSWER = "is carried out; the connection breaks within the answer"


@dataclass(frozen=True)
class Answer:
    """The proxy answers by itself. The server sees nothing."""

    status: int
    code: str = ""


@dataclass
class Flaky:
    """The proxy. `plan`: what becomes of the next requests; None and those after them pass."""

    endpoint: str
    plan: deque[Fault | Answer | None] = field(default_factory=deque)
    methods: list[str] = field(default_factory=list)
    """Of all requests that came."""

    num_connections: int = 0
    """That were ever opened."""

    open_connections: set[asyncio.Task[None]] = field(default_factory=set)
    hanging: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once a request hangs."""

    def url(self, prefix: str, **parameters: object) -> str:
        """The URL of a store behind it."""
        return Server(self.endpoint, 0).url(prefix, **parameters)


@asynccontextmanager
async def flaky(server: Server) -> AsyncIterator[Flaky]:
    """A proxy in front of this server."""
    upstream = urlsplit(server.endpoint)
    assert upstream.hostname is not None
    assert upstream.port is not None
    host, port = upstream.hostname, upstream.port
    proxy = Flaky("")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        proxy.num_connections += 1
        proxy.open_connections.add(task)
        try:
            while await _serve_one(proxy, host, port, reader, writer):
                pass
        except ConnectionError:
            pass  # The client has gone, as clients do.
        finally:
            proxy.open_connections.discard(task)
            writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    proxy.endpoint = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        listener.close()
        tasks = list(proxy.open_connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _serve_one(
    proxy: Flaky, host: str, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> bool:
    """Take one request through. Whether the connection stands."""
    try:
        request = await _read_message(reader)
    except asyncio.IncompleteReadError:
        return False
    proxy.methods.append(request.split(b" ", 1)[0].decode())
    fate = proxy.plan.popleft() if proxy.plan else None
    if isinstance(fate, Answer):
        writer.write(_error_response(fate))
        await writer.drain()
        return True
    if fate is Fault.LOSE_REQUEST:
        return False
    response = await _forward(host, port, request)
    match fate:
        case Fault.LOSE_ANSWER:
            return False
        case Fault.RESET_ANSWER:
            writer.transport.abort()
            return False
        case Fault.HANG:
            proxy.hanging.set()
            await reader.read()
            return False
        case Fault.CUT_ANSWER:
            writer.write(response[:-1])
            await writer.drain()
            return False
        case None:
            writer.write(response)
            await writer.drain()
            return True


async def _forward(host: str, port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(request)
        await writer.drain()
        # That server closes each connection and says so. Those of S3 stay open, and so do those of the proxy.
        return (await _read_message(reader)).replace(b"\r\nConnection: close", b"", 1)
    finally:
        writer.close()
        await writer.wait_closed()


async def _read_message(reader: asyncio.StreamReader) -> bytes:
    """A request or a response with its body, whose length it gives. A DELETE's 204 has none."""
    head = await reader.readuntil(b"\r\n\r\n")
    fields = [line.partition(b":") for line in head.lower().split(b"\r\n")[1:]]
    length = next((int(value) for name, _, value in fields if name == b"content-length"), 0)
    return head + await reader.readexactly(length)


def _error_response(answer: Answer) -> bytes:
    body = f"<Error><Code>{answer.code}</Code><Message>{BUCKET}</Message></Error>".encode() if answer.code else b""
    head = f"HTTP/1.1 {answer.status} Injected\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body
