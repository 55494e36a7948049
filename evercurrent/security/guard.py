"""What stands before a server's methods: who calls is found out before anything of a call is read."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import grpc
import grpc.aio

from evercurrent.accepting import written_out
from evercurrent.errors import Refused, abort, rejection
from evercurrent.security.identity import Identity, caller
from evercurrent.v1 import observation_pb2 as pb

OPEN_TO_ALL = ("/grpc.health.v1.Health/",)
"""Probes and load balancers have no credentials, and learn nothing of users."""


class Gate(Protocol):
    """Finds out who calls."""

    async def enter(self, method: str, context: grpc.aio.ServicerContext) -> Identity | None:
        """Who calls a method `/service/name`; None: anybody. Raises Refused."""


class Guard(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Asks a gate before each call. A call ends when its caller's credentials do."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        """Called by gRPC."""
        handler = await continuation(details)
        if handler is None or details.method.startswith(OPEN_TO_ALL):
            return handler
        return self._guarded(details.method, handler)

    def _guarded(self, method: str, handler: grpc.RpcMethodHandler) -> grpc.RpcMethodHandler:
        sides = (handler.request_streaming, handler.response_streaming)
        kind = "_".join("stream" if is_streaming else "unary" for is_streaming in sides)
        inner = getattr(handler, kind)
        if inspect.isasyncgenfunction(inner):
            inner = written_out(inner)
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        return make(self._calling(method, inner), handler.request_deserializer, handler.response_serializer)

    def _calling(
        self, method: str, inner: Callable[[Any, Any], Awaitable[Any]]
    ) -> Callable[[Any, Any], Awaitable[Any]]:
        async def call(request: Any, context: grpc.aio.ServicerContext) -> Any:
            identity = await self._enter(method, context)
            try:
                async with asyncio.timeout(_time_left_s(identity)) as bound:
                    return await inner(request, context)
            except TimeoutError:
                if not bound.expired():
                    raise
                text = "the token has expired: come back with a new one"
                await abort(context, rejection(pb.REASON_TOKEN_EXPIRED, "authorization", text))

        return call

    async def _enter(self, method: str, context: grpc.aio.ServicerContext) -> Identity | None:
        try:
            identity = await self._gate.enter(method, context)
        except Refused as error:
            await abort(context, error.rejection)
        caller.set(identity)
        return identity


def metadata_of(context: grpc.aio.ServicerContext, key: str) -> str | None:
    """One entry of a call's metadata."""
    for name, value in context.invocation_metadata() or ():
        if name == key and isinstance(value, str):
            return value
    return None


def _time_left_s(identity: Identity | None) -> float | None:
    if identity is None or identity.expires_s is None:
        return None
    return identity.expires_s - time.time()
