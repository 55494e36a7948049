"""The transport over gRPC: a channel a router, and every foreign exception turned into an `Ending` here, once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from evercurrent.channels import CHANNEL_OPTIONS, WithMetadata
from evercurrent.client.errors import Ending
from evercurrent.client.options import Options
from evercurrent.client.transport import CallFailed, Stream, StreamEnded, register_transport
from evercurrent.v1 import admin_pb2, admin_pb2_grpc, description_pb2, session_pb2_grpc
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

R = TypeVar("R")

OPTIONS = [
    *CHANNEL_OPTIONS,
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
]
"""Reconnecting is bounded by the client's own retries, so gRPC's backoff is kept below them."""

_DETAILS_KEY = "grpc-status-details-bin"


class GrpcStream:
    """A stream of grpc.aio as a `Stream`."""

    def __init__(self, call: grpc.aio.StreamStreamCall) -> None:
        self._call = call

    async def write(self, request: Any) -> None:
        try:
            await self._call.write(request)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            raise StreamEnded from error
        except asyncio.CancelledError:
            self._raise_if_ended()
            raise

    @property
    def near(self) -> None:
        return None

    async def done_writing(self) -> None:
        if not self._call.done():
            await self._call.done_writing()

    async def read(self) -> Any:
        try:
            response = await self._call.read()
        except grpc.aio.AioRpcError:
            return None
        except asyncio.CancelledError:
            if not self._call.cancelled() or _is_cancelling():
                raise
            return None
        return None if response is grpc.aio.EOF else response

    async def ending(self) -> Ending:
        code, details = await self._call.code(), await self._call.details()
        return ending_of(code, details or "", await self._call.trailing_metadata())

    def cancel(self) -> None:
        self._call.cancel()

    def _raise_if_ended(self) -> None:
        """grpc.aio raises CancelledError to who writes to a call that was cancelled, as if it were the task that is."""
        if self._call.cancelled() and not _is_cancelling():
            raise StreamEnded


class Channels:
    """A channel to each router, made when it is first used."""

    def __init__(self, addresses: tuple[str, ...], options: Options) -> None:
        self._addresses = addresses
        self._credentials = options.credentials
        self._channels: dict[int, WithMetadata] = {}
        self._current = 0

    async def open(self) -> None:
        """There is nothing to begin."""

    @property
    def current(self) -> int:
        return self._current

    def turn(self, failed: int) -> None:
        if failed == self._current:
            self._current = (failed + 1) % len(self._addresses)

    def session(self) -> Stream[SessionRequest, SessionResponse]:
        return GrpcStream(self._sessions.Session())

    def exchange(self) -> Stream[ExchangeRequest, ExchangeResponse]:
        return GrpcStream(self._sessions.Exchange())

    async def observe(self, request: ObserveRequest, timeout_s: float) -> ObserveResponse:
        return await _answered(self._sessions.Observe(request, timeout=timeout_s))

    async def predict(self, request: PredictRequest, timeout_s: float) -> PredictResponse:
        return await _answered(self._sessions.Predict(request, timeout=timeout_s))

    async def describe(self, timeout_s: float) -> description_pb2.ModelDescription:
        stub = admin_pb2_grpc.AdminServiceStub(self._channel)
        request = admin_pb2.DescribeModelRequest()
        response: admin_pb2.DescribeModelResponse = await _answered(stub.DescribeModel(request, timeout=timeout_s))
        return response.model

    async def list_workers(self, timeout_s: float) -> admin_pb2.ListWorkersResponse:
        """The workers that the current router knows of. Raises CallFailed."""
        stub = admin_pb2_grpc.AdminServiceStub(self._channel)
        request = admin_pb2.ListWorkersRequest()
        response: admin_pb2.ListWorkersResponse = await _answered(stub.ListWorkers(request, timeout=timeout_s))
        return response

    async def close(self, timeout_s: float) -> None:
        for channel in self._channels.values():
            await channel.close()

    @property
    def _channel(self) -> WithMetadata:
        if self._current not in self._channels:
            address = self._addresses[self._current]
            self._channels[self._current] = self._credentials.channel(address, OPTIONS)
        return self._channels[self._current]

    @property
    def _sessions(self) -> session_pb2_grpc.SessionServiceStub:
        return session_pb2_grpc.SessionServiceStub(self._channel)


def ending_of(code: grpc.StatusCode, message: str, metadata: Any) -> Ending:
    """An ending with what its status details say (AIP-193)."""
    raw = dict(metadata or ()).get(_DETAILS_KEY)
    if not isinstance(raw, bytes):
        return Ending(code, message)
    try:
        details = status_pb2.Status.FromString(raw).details
    except DecodeError:
        return Ending(code, message)
    reason, field, retry_after_s = "", "", 0.0
    for detail in details:
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            reason, field = info.reason, info.metadata.get("field", "")
        elif detail.Unpack(retry):
            retry_after_s = retry.retry_delay.ToTimedelta().total_seconds()
    return Ending(code, message, reason, field, retry_after_s)


async def _answered(call: Awaitable[R]) -> R:
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        ending = ending_of(error.code(), error.details() or "", error.trailing_metadata())
        raise CallFailed(ending) from error


def _is_cancelling() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


register_transport("router", Channels)
