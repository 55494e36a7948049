"""As much of a Kubernetes API server as a watch of EndpointSlices meets: lists in pages, watches by version, bookmarks,
410 both ways, tokens, and faults on demand. Real HTTP on 127.0.0.1."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path
from typing import Any

from aiohttp import web

NAMESPACE, SERVICE = "prod", "workers"
TOKEN = "token-1"
PATH = f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices"


class Fault(Enum):
    """What the next request meets instead of an answer. `CUT` and `HANG` come after the answer's head."""

    RESET = auto()
    CUT = auto()
    HANG = auto()


@dataclass(frozen=True)
class Seen:
    """A request as it came."""

    is_watch: bool
    version: str | None
    token: str
    after: str | None


def status(code: int, reason: str = "", message: str = "no") -> dict[str, Any]:
    return {"kind": "Status", "apiVersion": "v1", "code": code, "reason": reason, "message": message}


@dataclass
class ApiServer:
    """`plan`: what the next requests meet, one each: a fault, a status code, the page of a proxy that failed, or none
    of them. `page_size` bounds the pages of lists."""

    page_size: int = 500
    tokens: set[str] = field(default_factory=lambda: {TOKEN})
    plan: deque[Fault | int | bytes | None] = field(default_factory=deque)
    seen: list[Seen] = field(default_factory=list)
    url: str = ""
    version: int = 100
    oldest: int = 0
    slices: dict[str, dict[str, Any]] = field(default_factory=dict)
    history: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    streams: list[asyncio.Queue[bytes | Fault | None]] = field(default_factory=list)
    _arrived: asyncio.Condition = field(default_factory=asyncio.Condition)

    def put(self, name: str, found: dict[str, Any]) -> None:
        """Create or change a slice, and tell the watches."""
        kind = "MODIFIED" if name in self.slices else "ADDED"
        self.slices[name] = self._stamped(name, found)
        self._tell(kind, self.slices[name])

    def delete(self, name: str) -> None:
        self._tell("DELETED", self._stamped(name, self.slices.pop(name)))

    def bookmark(self) -> None:
        """Time passes, and other objects change."""
        self.version += 10
        metadata = {"resourceVersion": str(self.version), "creationTimestamp": None}
        self.say({"type": "BOOKMARK", "object": {"kind": "EndpointSlice", "metadata": metadata}})

    def compact(self) -> None:
        """Versions before this moment are known no more."""
        self.version += 10
        self.oldest = self.version

    def say(self, event: dict[str, Any] | bytes) -> None:
        """Send a line to all watches, whatever it is."""
        line = event if isinstance(event, bytes) else json.dumps(event).encode()
        for stream in self.streams:
            stream.put_nowait(line + b"\n")

    def end(self, fault: Fault | None = None) -> None:
        """End all watches, as a timeout does, or by a fault."""
        for stream in self.streams:
            stream.put_nowait(fault)
        self.streams.clear()

    async def has_seen(self, holds: Callable[[list[Seen]], bool]) -> None:
        """Wait until what was asked so far is so."""
        async with self._arrived:
            await self._arrived.wait_for(lambda: holds(self.seen))

    async def watched(self, num: int = 1) -> None:
        """Wait until so many watches were asked for, in all."""
        await self.has_seen(lambda seen: sum(request.is_watch for request in seen) >= num)

    def _stamped(self, name: str, found: dict[str, Any]) -> dict[str, Any]:
        self.version += 1
        labels = {"kubernetes.io/service-name": SERVICE}
        return found | {"metadata": {"name": name, "labels": labels, "resourceVersion": str(self.version)}}

    def _tell(self, kind: str, found: dict[str, Any]) -> None:
        event = {"type": kind, "object": found}
        self.history.append((self.version, event))
        self.say(event)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        query = request.query
        is_watch = query.get("watch") in ("1", "true", "True")
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        seen = Seen(is_watch, query.get("resourceVersion"), token, query.get("continue"))
        stream: asyncio.Queue[bytes | Fault | None] = asyncio.Queue()
        planned = self.plan.popleft() if self.plan else None
        if is_watch and planned is None:
            self.streams.append(stream)
        async with self._arrived:
            self.seen.append(seen)
            self._arrived.notify_all()
        if planned is Fault.RESET:
            _reset(request)
            return web.Response()
        if isinstance(planned, bytes):
            return web.Response(status=502, body=planned)
        if isinstance(planned, int):
            return web.json_response(status(planned), status=planned)
        if query.get("labelSelector") != f"kubernetes.io/service-name={SERVICE}":
            return web.json_response(status(400, "BadRequest", "wrong selector"), status=400)
        if token not in self.tokens:
            return web.json_response(status(401, "Unauthorized"), status=401)
        if isinstance(planned, Fault):
            stream.put_nowait(planned)
        return await self._watch(request, stream) if is_watch else self._list(query.get("continue"), query["limit"])

    def _list(self, after: str | None, limit: str) -> web.Response:
        version, _, start = (after or f"{self.version}:0").partition(":")
        if int(version) < self.oldest:
            return web.json_response(status(410, "Expired", "the continue token is too old"), status=410)
        end = int(start) + min(self.page_size, int(limit))
        items = list(self.slices.values())
        metadata = {"resourceVersion": version} | ({"continue": f"{version}:{end}"} if end < len(items) else {})
        return web.json_response({"kind": "EndpointSliceList", "metadata": metadata, "items": items[int(start) : end]})

    async def _watch(self, request: web.Request, stream: asyncio.Queue[bytes | Fault | None]) -> web.StreamResponse:
        version = int(request.query["resourceVersion"])
        if request.query.get("allowWatchBookmarks") != "True" or int(request.query["timeoutSeconds"]) < 1:
            return web.json_response(status(400, "BadRequest", "no bookmarks or no timeout asked for"), status=400)
        if version < self.oldest:
            return web.json_response(status(410, "Expired", "too old resource version"), status=410)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        for at, event in self.history:
            if at > version and stream in self.streams:
                await response.write(json.dumps(event).encode() + b"\n")
        while (line := await stream.get()) is not None:
            match line:
                case bytes():
                    await response.write(line)
                case Fault.HANG:
                    await asyncio.Event().wait()
                case _:
                    await response.write(b'{"type":"MODIFIED","object":{"metad')
                    _reset(request)
                    break
        return response


def _reset(request: web.Request) -> None:
    assert request.transport is not None
    request.transport.abort()


@asynccontextmanager
async def running_api(tls: ssl.SSLContext | None = None) -> AsyncIterator[ApiServer]:
    api = ApiServer()
    app = web.Application()
    app.router.add_get(PATH, api.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    try:
        await site.start()
        port = runner.addresses[0][1]
        api.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
        yield api
    finally:
        api.end()
        await runner.cleanup()


def write_kubeconfig(path: Path, url: str, token: str = TOKEN, namespace: str | None = NAMESPACE) -> Path:
    """A kubeconfig with a right context, which is the current one, and a wrong one."""
    context = {"cluster": "here", "user": "router"} | ({"namespace": namespace} if namespace else {})
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "right",
        "contexts": [
            {"name": "right", "context": context},
            {"name": "wrong", "context": context | {"user": "nobody"}},
        ],
        "clusters": [{"name": "here", "cluster": {"server": url}}],
        "users": [
            {"name": "router", "user": {"token": token}},
            {"name": "nobody", "user": {"token": "wrong"}},
        ],
    }
    path.write_text(json.dumps(config))
    return path
