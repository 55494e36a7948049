"""A gRPC server that takes no harm from requests that are none.

`grpc.aio` decodes the path of a call to a method that it does not know in the loop that accepts all calls. A path that
is not UTF-8 raises there: the loop ends, and the server with it, whoever sent it. Paths of methods that are registered
are compared by gRPC core and never decoded; so here all methods are registered, and the others are answered without a
look. This is about internals of gRPC: where they are not as they are known here, the server is gRPC's own.

And a message that cannot be read is INVALID_ARGUMENT here, where gRPC takes it for an error of the handler's.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing
from typing import Any, NamedTuple, NoReturn

import grpc
import grpc.aio
from google.protobuf.descriptor_pool import Default
from google.protobuf.message import DecodeError
from grpc._cython import cygrpc
from grpc.aio._server import Server

from evercurrent.errors import abort, rejection
from evercurrent.telemetry.logs import get_logger
from evercurrent.v1 import observation_pb2 as pb

NAMES = ("_handle_rpc", "_schedule_rpc_coro", "_MethodResolver")
METHODS = ("_make_request_call_future", "_request_call", "add_registered_method_handlers")

logger = get_logger(__name__)


class _Details(NamedTuple):
    """Of a call that may come (grpc.HandlerCallDetails)."""

    method: str
    invocation_metadata: Sequence[tuple[str, str]] = ()


class _Acceptor(cygrpc.AioServer):  # type: ignore[misc]
    """Takes calls in. What gRPC takes for the next call to a method that is not registered never comes."""

    _answers: set[asyncio.Task[None]]
    """Calls that are being turned away; of a task that nobody holds the loop may lose sight."""

    def _make_request_call_future(self, method: bytes | None) -> asyncio.Future[Any]:
        if method is not None:
            registered: asyncio.Future[Any] = super()._make_request_call_future(method)
            return registered
        return asyncio.get_running_loop().create_task(self._turn_away())

    async def _turn_away(self) -> NoReturn:
        """Answer whatever calls a method that is not registered: UNIMPLEMENTED."""
        loop, nobody = asyncio.get_running_loop(), cygrpc._MethodResolver([], {})
        while True:
            call = await self._request_call()
            answer = cygrpc._handle_rpc("", nobody, (), call, loop, False)
            task = loop.create_task(cygrpc._schedule_rpc_coro(answer, call, loop, ""))
            self._answers.add(task)
            task.add_done_callback(self._answers.discard)


class _Server(Server):  # type: ignore[misc]
    """`grpc.aio.Server` around an acceptor."""

    def __init__(
        self, services: Iterable[str], options: Sequence[tuple[str, int]], interceptors: Sequence[Any]
    ) -> None:
        self._loop = cygrpc.get_working_loop()
        self._server = _Acceptor(self._loop, None, (), tuple(interceptors), tuple(options), None)
        self._server._answers = set()
        self._services = tuple(services)
        self._handlers: list[grpc.GenericRpcHandler] = []

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        self._handlers += generic_rpc_handlers

    async def start(self) -> None:
        methods = {}
        for service in self._services:
            for method in Default().FindServiceByName(service).methods:
                path = f"/{service}/{method.name}"
                found = (handler.service(_Details(path)) for handler in self._handlers)
                if (handler := next(filter(None, found), None)) is not None:
                    methods[path] = checked(handler)
        self._server.add_registered_method_handlers(methods)
        await super().start()


def accepting_server(
    services: Iterable[str], options: Sequence[tuple[str, int]], interceptors: Sequence[Any] = ()
) -> grpc.aio.Server:
    """A server for the methods of these services, whose handlers are added before it starts."""
    if all(hasattr(cygrpc, name) for name in NAMES) and all(hasattr(cygrpc.AioServer, name) for name in METHODS):
        return _Server(services, options, interceptors)
    logger.warning("gRPC is not as known: a path that is not UTF-8 may end this server", version=grpc.__version__)
    return grpc.aio.server(options=options, interceptors=interceptors)


def checked(handler: grpc.RpcMethodHandler) -> grpc.RpcMethodHandler:
    """A handler that is given no message that cannot be read: such a call ends with INVALID_ARGUMENT. One that reads
    its messages from the context parses them by itself."""
    parse = handler.request_deserializer
    if parse is None:
        return handler
    if handler.unary_unary is not None:
        return handler._replace(request_deserializer=None, unary_unary=_unary(handler.unary_unary, parse))
    if inspect.isasyncgenfunction(handler.unary_stream):
        return handler._replace(request_deserializer=None, unary_stream=_generating(handler.unary_stream, parse))
    if handler.unary_stream is not None:
        return handler._replace(request_deserializer=None, unary_stream=_unary(handler.unary_stream, parse))
    if inspect.isasyncgenfunction(handler.stream_stream):
        return handler._replace(request_deserializer=None, stream_stream=_streaming(handler.stream_stream, parse))
    return handler


def _unary(answer: Any, parse: Callable[[bytes], Any]) -> Callable[[bytes, grpc.aio.ServicerContext], Any]:
    async def call(raw: bytes, context: grpc.aio.ServicerContext) -> Any:
        return await answer(await _parsed(raw, parse, context), context)

    return call


def written_out(answers: Any) -> Callable[[Any, grpc.aio.ServicerContext], Any]:
    """A generator of answers as a coroutine that writes them: gRPC leaves a generator, and what that holds, to the
    garbage collector when its call is cancelled."""

    async def call(request: Any, context: grpc.aio.ServicerContext) -> None:
        async with aclosing(answers(request, context)) as found:
            async for answer in found:
                await context.write(answer)

    return call


def _generating(answers: Any, parse: Callable[[bytes], Any]) -> Callable[[bytes, grpc.aio.ServicerContext], Any]:
    return _unary(written_out(answers), parse)


def _streaming(answers: Any, parse: Callable[[bytes], Any]) -> Callable[[Any, grpc.aio.ServicerContext], Any]:
    writing = written_out(answers)

    async def call(raws: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
        async def requests() -> AsyncIterator[Any]:
            async for raw in raws:
                yield await _parsed(raw, parse, context)

        await writing(requests(), context)

    return call


async def _parsed(raw: bytes, parse: Callable[[bytes], Any], context: grpc.aio.ServicerContext) -> Any:
    try:
        return parse(raw)
    except DecodeError:
        await abort(context, rejection(pb.REASON_PROTOCOL, "request", "is not a message of the type that is asked for"))
