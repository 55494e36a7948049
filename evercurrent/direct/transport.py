"""The transport of direct mode: a router's routing and its RPCs' code, in the client's process and on its event loop.

One task is its life: it runs the routing and owns the server's end of every stream. `close` ends it and all of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

import grpc
from google.protobuf.message import Message
from ulid import ULID

from evercurrent.client.credentials import Credentials
from evercurrent.client.errors import CLIENT_CLOSED, Ending, ending_of_refusal
from evercurrent.client.options import Options
from evercurrent.client.transport import CallFailed, Stream
from evercurrent.direct.members import RouterSource, members_of
from evercurrent.direct.stream import CANCELLED, Context, DirectStream
from evercurrent.errors import Refused, abort, refused
from evercurrent.security.dialing import Dialing
from evercurrent.settings import RouterSettings
from evercurrent.v1 import description_pb2
from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1.session_pb2 import (
    ExchangeRequest,
    ExchangeResponse,
    ObserveRequest,
    ObserveResponse,
    PredictRequest,
    PredictResponse,
    SessionRequest,
    SessionResponse,
)
from router.core import RETRY_AFTER_MS
from router.discovery import StaticSource
from router.exchange_stream import serve_exchange
from router.routing import Routing, bounds_of
from router.session_stream import serve_session
from router.streams import Door
from router.traces import Traces
from router.unary import Turns, observe, predict

Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)
T = TypeVar("T")

READY_PATIENCE_S = 2.0
"""How long a stream or call waits for the first ring before it is refused, so that its caller hears why."""

CLOSED = Ending(grpc.StatusCode.CANCELLED, "the client was closed: connect again", CLIENT_CLOSED)


def _dialing_of(credentials: Credentials) -> Dialing:
    """How workers are called."""
    tls, token = credentials.tls, credentials.cluster_token
    return Dialing(
        None if tls is None else tls.credentials,
        "" if tls is None else tls.server_name,
        None if token is None else lambda: (token.encode(),),
    )


class DirectTransport:
    """A `Transport` to workers. `addresses` are theirs, with their names, or those of routers that know them."""

    def __init__(self, addresses: tuple[str, ...], options: Options) -> None:
        self._settings = RouterSettings(name=f"direct-{ULID()}", workers=members_of(addresses))
        self._dialing = _dialing_of(options.credentials)
        self._routers: RouterSource | None = None
        if self._settings.workers:
            self._source: RouterSource | StaticSource = StaticSource(self._settings.workers)
            self._routing = self._made()
        else:
            self._source = self._routers = RouterSource(addresses, options)
            self._routing = self._made(self._routers.ask_soon)
        self._turns = Turns()
        self._door = Door()
        self._tasks = asyncio.TaskGroup()
        self._streams: set[asyncio.Task[None]] = set()
        self._living: asyncio.Task[None] | None = None
        self._is_open = asyncio.Event()
        self._ended: Ending | None = None
        """How everything ends that is begun from now on."""

    async def open(self) -> None:
        self._living = asyncio.create_task(self._live())
        try:
            await self._is_open.wait()
        except BaseException:
            self._living.cancel()
            raise

    @property
    def current(self) -> int:
        return 0

    def turn(self, failed: int) -> None:
        """There is one router, this one; those that are asked for workers are turned by who asks."""

    def session(self) -> Stream[SessionRequest, SessionResponse]:
        core, bytes_max = self._routing.core, self._settings.observation_bytes_max
        return self._stream(
            SessionResponse, lambda context: serve_session(core, bytes_max, context, self._door, near=context)
        )

    def exchange(self) -> Stream[ExchangeRequest, ExchangeResponse]:
        core, settings = self._routing.core, self._settings
        return self._stream(ExchangeResponse, lambda context: serve_exchange(core, settings, context, self._door))

    async def observe(self, request: ObserveRequest, timeout_s: float) -> ObserveResponse:
        # The call shortens its timeouts, and the caller may send it again.
        own = ObserveRequest()
        own.CopyFrom(request)
        core = self._routing.core
        return ObserveResponse(result=await self._call(lambda: observe(core, self._turns, own, timeout_s), timeout_s))

    async def predict(self, request: PredictRequest, timeout_s: float) -> PredictResponse:
        own = PredictRequest()
        own.CopyFrom(request)
        core = self._routing.core
        return PredictResponse(result=await self._call(lambda: predict(core, own, timeout_s), timeout_s))

    async def describe(self, timeout_s: float) -> description_pb2.ModelDescription:
        async def model() -> description_pb2.ModelDescription:
            return self._routing.core.model

        return await self._call(model, timeout_s)

    async def close(self, timeout_s: float) -> None:
        living = self._living
        assert living is not None, "it was opened"
        self._ended = self._ended or CLOSED
        try:
            if not living.done():
                await self._drain(timeout_s)
        finally:
            living.cancel()
            (outcome,) = await asyncio.gather(living, return_exceptions=True)
            if self._routers is not None:
                await self._routers.close()
        if isinstance(outcome, Exception):
            raise outcome

    def _made(self, lost: Callable[[], None] | None = None) -> Routing:
        settings = self._settings
        routing = Routing(self._source, settings.name, bounds_of(settings), settings.link_silence_ms / 1000, lost)
        # The client's own spans are those of this hop: workers go on with them.
        routing.core.dialing = self._dialing
        routing.core.traces = Traces(None, routing.core.clock_us, routing.core.user_of)
        return routing

    async def _live(self) -> None:
        async with self._tasks:
            self._is_open.set()
            try:
                await self._routing.run()
            except Exception as error:
                self._ended = Ending(
                    grpc.StatusCode.UNKNOWN, f"the client broke, and its close tells by what: {error!r}"
                )
                raise

    async def _drain(self, timeout_s: float) -> None:
        """End the streams, and wait until what was sent is durable: it would be replayed by nobody else."""
        core = self._routing.core
        core.stop()
        for task in self._streams:
            task.cancel()
        idle = asyncio.Event()
        core.when_idle(idle.set)
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await idle.wait()

    def _stream(self, response: type[R], serve: Callable[[Context], Awaitable[None]]) -> DirectStream[Q, R]:
        stream: DirectStream[Q, R] = DirectStream(response)
        if self._ended is not None:
            stream.end(self._ended)
            return stream

        async def run(context: Context) -> None:
            try:
                await self._ready()
            except Refused as error:
                await abort(context, error.rejection)
            await serve(context)

        task = self._tasks.create_task(stream.serve(run))
        self._streams.add(task)
        task.add_done_callback(self._streams.discard)
        stream.served_by(task, lambda: self._ended or CANCELLED)
        return stream

    async def _call(self, call: Callable[[], Awaitable[T]], timeout_s: float) -> T:
        """The answer of a single call. Raises CallFailed."""
        if self._ended is not None:
            raise CallFailed(self._ended)
        try:
            async with asyncio.timeout(timeout_s):
                await self._ready()
                return await call()
        except Refused as error:
            raise CallFailed(ending_of_refusal(error.rejection)) from error
        except TimeoutError as error:
            ending = Ending(grpc.StatusCode.DEADLINE_EXCEEDED, f"no answer within {timeout_s:g} s")
            raise CallFailed(ending) from error

    async def _ready(self) -> None:
        """Wait a moment for the first ring.

        Raises:
            Refused: REASON_UNAVAILABLE, there is none.
        """
        try:
            async with asyncio.timeout(READY_PATIENCE_S):
                await self._routing.ready.wait()
        except TimeoutError as error:
            raise refused(pb.REASON_UNAVAILABLE, "", self._why_not_ready(), RETRY_AFTER_MS) from error

    def _why_not_ready(self) -> str:
        if self._routers is not None and self._routers.trouble:
            return self._routers.trouble
        links = self._routing.core.links.values()
        return f"no worker has been reached of {', '.join(f'{link.name}={link.address}' for link in links)}"
