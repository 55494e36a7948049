"""A stand-in for S3: keeps objects in memory, answers conditions exactly, and is as slow or as absent as it is told.

GET, PUT with `If-None-Match: *` or `If-Match`, DELETE and ListObjectsV2, path style; signatures are not checked. It is
a process of its own (`python -m bench.s3 SEED`), so that it takes no time of the client's loop, and is steered through
a second port, which always answers. How it takes requests:

- NORMAL: it answers at once.
- SLOW: each takes a time drawn from published S3 figures (as the issue of this bench gives them), reads and lists from
  those of GET, writes and deletes from those of PUT. A write is there when that time is over.
- REFUSING: nobody listens and standing connections are broken, as when its machine is gone.
- HANGING: it takes them and never answers, as when a network drops what is sent.
"""

from __future__ import annotations

import asyncio
import enum
import hashlib
import http.client
import json
import math
import os
import signal
import socket
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from unittest.mock import patch
from xml.sax.saxutils import escape

import uvloop
from aiohttp import web

from bench.processes import run_server, standard_input_ends

BUCKET = "bench"
LIST_KEYS_MAX = 1000
CONTROL_TIMEOUT_S = 10.0

GET_MS = ((0.5, 63.0), (0.99, 78.0), (0.999, 118.0))
PUT_MS = ((0.5, 100.0), (0.99, 195.0), (0.999, 274.0))
"""Published latencies of S3 in milliseconds, by quantile."""

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "bench",
    "AWS_SECRET_ACCESS_KEY": "bench",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}
"""Nobody's: they keep those of a shell from being sent here."""


class Mode(enum.Enum):
    """How requests are taken."""

    NORMAL = "normal"
    SLOW = "slow"
    REFUSING = "refusing"
    HANGING = "hanging"


def latency_ms(quantiles: Sequence[tuple[float, float]], share: float) -> float:
    """The latency that this share of requests, 0 to below 1, does not exceed.

    The logarithm of the latency is linear in that of the share of requests which take longer, as tails are drawn:
    between the published quantiles, and beyond them as in the piece beside.
    """
    points = [(-math.log(1 - quantile), math.log(value_ms)) for quantile, value_ms in quantiles]
    at = -math.log(1 - share)
    (left, low), (right, high) = next(
        (piece for piece in pairwise(points) if at <= piece[1][0]), (points[-2], points[-1])
    )
    return math.exp(low + (high - low) * (at - left) / (right - left))


class Objects:
    """What is stored, by key: bodies and etags. A request is decided in one go, so of several contenders one wins."""

    def __init__(self) -> None:
        self._objects: dict[str, tuple[bytes, str]] = {}

    def get(self, key: str) -> tuple[bytes, str] | None:
        """Body and etag."""
        return self._objects.get(key)

    def put(self, key: str, body: bytes, *, if_none_match: str | None, if_match: str | None) -> tuple[int, str]:
        """Status and etag. `If-Match` on a key that is not there is 404, as on AWS."""
        stored = self._objects.get(key)
        if stored is None and if_match is not None:
            return 404, ""
        if stored is not None and (if_none_match is not None or if_match not in (None, stored[1])):
            return 412, ""
        etag = f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'
        self._objects[key] = (body, etag)
        return 200, etag

    def delete(self, key: str) -> None:
        """Remove what is there."""
        self._objects.pop(key, None)

    def list(self, prefix: str, after: str, limit: int) -> tuple[list[tuple[str, str, int]], bool]:
        """Key, etag and size of so many objects after a key, and whether there are more."""
        keys = sorted(key for key in self._objects if key.startswith(prefix) and key > after)
        page = [(key, self._objects[key][1], len(self._objects[key][0])) for key in keys[:limit]]
        return page, len(keys) > limit


class Server:
    """The requests and the port they come in at. `counts` says how many came, by method and folder: `PUT journal`;
    and the bytes in them: `bytes PUT`."""

    def __init__(self, random: Random) -> None:
        self.mode = Mode.NORMAL
        self.counts: Counter[str] = Counter()
        self._random = random
        self._objects = Objects()
        self._handling = web.Server(self._handle, access_log=None, handler_cancellation=True)
        self._listening: asyncio.Server | None = None
        # Never listens: it keeps the port from being given to another while nobody else does.
        self._reserved = _bound_socket(0)

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self._reserved.getsockname()[1]
        return port

    async def listen(self) -> None:
        """Take connections."""
        self._listening = await asyncio.get_running_loop().create_server(self._handling, sock=_bound_socket(self.port))

    async def turn(self, mode: Mode) -> None:
        """Take requests this way from now on. Those that hang are broken off."""
        if mode is Mode.REFUSING or self.mode is Mode.HANGING:
            await self._break_off()
        self.mode = mode
        if mode is not Mode.REFUSING and self._listening is None:
            await self.listen()

    async def _break_off(self) -> None:
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        for connection in self._handling.connections:
            connection.force_close()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        bucket, _, key = request.path.removeprefix("/").partition("/")
        query = request.query
        named = key or query.get("prefix", "")
        self.counts[f"{request.method} {_folder(named)}"] += 1
        body = await request.content.read()
        self.counts[f"bytes {request.method}"] += len(body)
        await self._take_time(request.method)
        if bucket != BUCKET:
            return _error(404, "NoSuchBucket")
        match request.method:
            case "GET" if key:
                return self._get(key)
            case "GET":
                return self._list(query)
            case "PUT":
                return self._put(key, body, request.headers)
            case "DELETE":
                self._objects.delete(key)
                return web.Response(status=204)
        return _error(501, "NotImplemented")

    async def _take_time(self, method: str) -> None:
        match self.mode:
            case Mode.HANGING:
                await asyncio.Event().wait()
            case Mode.SLOW:
                quantiles = PUT_MS if method in ("PUT", "DELETE") else GET_MS
                await asyncio.sleep(latency_ms(quantiles, self._random.random()) / 1000)
            case Mode.NORMAL | Mode.REFUSING:
                pass

    def _get(self, key: str) -> web.Response:
        stored = self._objects.get(key)
        if stored is None:
            return _error(404, "NoSuchKey")
        body, etag = stored
        return web.Response(body=body, headers={"ETag": etag})

    def _put(self, key: str, body: bytes, headers: Mapping[str, str]) -> web.Response:
        status, etag = self._objects.put(
            key, body, if_none_match=headers.get("If-None-Match"), if_match=headers.get("If-Match")
        )
        if status == 200:
            return web.Response(headers={"ETag": etag})
        return _error(status, "PreconditionFailed" if status == 412 else "NoSuchKey")

    def _list(self, query: Mapping[str, str]) -> web.Response:
        after = query.get("continuation-token") or query.get("start-after", "")
        limit = min(int(query.get("max-keys", LIST_KEYS_MAX)), LIST_KEYS_MAX)
        page, more = self._objects.list(query.get("prefix", ""), after, limit)
        contents = "".join(
            f"<Contents><Key>{escape(key)}</Key><ETag>{escape(etag)}</ETag><Size>{size}</Size></Contents>"
            for key, etag, size in page
        )
        rest = f"<NextContinuationToken>{escape(page[-1][0])}</NextContinuationToken>" if more else ""
        return _xml(
            200,
            f"<ListBucketResult><Name>{BUCKET}</Name><KeyCount>{len(page)}</KeyCount>"
            f"<IsTruncated>{str(more).lower()}</IsTruncated>{rest}{contents}</ListBucketResult>",
        )

    async def steer(self, request: web.BaseRequest) -> web.StreamResponse:
        """The second port: `PUT /MODE` sets how requests are taken; every answer tells the counts."""
        if request.method == "PUT":
            await self.turn(Mode(request.path.removeprefix("/")))
        return web.json_response(self.counts)


def _folder(key: str) -> str:
    """The folder of our keys (persistence.keys) that a key lies in, whatever prefix the store has."""
    return next((part for part in key.split("/") if part in ("slots", "journal", "users")), "other")


def _error(status: int, code: str) -> web.Response:
    return _xml(status, f"<Error><Code>{code}</Code><Message>{code}</Message></Error>")


def _xml(status: int, text: str) -> web.Response:
    return web.Response(
        status=status, text=f'<?xml version="1.0" encoding="UTF-8"?>{text}', content_type="application/xml"
    )


def _bound_socket(port: int) -> socket.socket:
    """A socket with a port of loopback that others of ours may share."""
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(("127.0.0.1", port))
    return bound


@dataclass(frozen=True, slots=True)
class StandIn:
    """A running stand-in, as seen from its bench."""

    endpoint: str
    control: str

    def url(self, prefix: str = "", **parameters: object) -> str:
        """The URL of a store in its bucket."""
        extra = "".join(f"&{name}={value}" for name, value in parameters.items())
        return f"s3://{BUCKET}/{prefix}?endpoint={self.endpoint}&region=us-east-1&path_style=true{extra}"

    def turn(self, mode: Mode) -> None:
        """Have it take requests this way. Blocks for a round trip."""
        self._ask("PUT", f"/{mode.value}")

    def counts(self) -> Counter[str]:
        """As `Server.counts`. Blocks for a round trip."""
        return self._ask("GET", "/")

    def _ask(self, method: str, path: str) -> Counter[str]:
        connection = http.client.HTTPConnection(self.control, timeout=CONTROL_TIMEOUT_S)
        try:
            connection.request(method, path)
            response = connection.getresponse()
            text = response.read()
            if response.status != 200:
                raise RuntimeError(f"the stand-in for S3 answers {response.status} to {method} {path}")
            return Counter(json.loads(text))
        finally:
            connection.close()


@contextmanager
def run_stand_in(seed: int) -> Iterator[StandIn]:
    """A stand-in in NORMAL mode as a child process, which ends with the context."""
    with run_server("bench.s3", str(seed)) as server:
        served, control = server.addresses
        yield StandIn(f"http://{served}", control)


@contextmanager
def stand_in_credentials() -> Iterator[None]:
    """What child processes that start meanwhile sign with."""
    with patch.dict(os.environ, CREDENTIALS):
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION"):
            os.environ.pop(name, None)
        yield


async def serve(seed: int) -> None:
    """Serve until standard input ends; prints both addresses when it listens."""
    server = Server(Random(seed))
    await server.listen()
    steering = web.Server(server.steer, access_log=None)
    control = await asyncio.get_running_loop().create_server(steering, "127.0.0.1", 0)
    print(f"127.0.0.1:{server.port} 127.0.0.1:{control.sockets[0].getsockname()[1]}", flush=True)
    await standard_input_ends()


if __name__ == "__main__":
    # Ctrl-C goes to the whole process group; this server's life hangs on its standard input alone.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    uvloop.run(serve(int(sys.argv[1])))
