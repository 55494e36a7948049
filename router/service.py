"""SessionService and AdminService on a gRPC server: each method's bytes in, the core's answers out."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import TypeVar

import grpc
import grpc.aio

from evercurrent.errors import Refused, abort, pass_on
from evercurrent.settings import RouterSettings
from evercurrent.v1 import admin_pb2, session_pb2
from router.admin import Admin
from router.core import RoutingCore
from router.exchange_stream import serve_exchange
from router.models import Models
from router.session_stream import serve_session
from router.streams import Door
from router.top_users import get_top_users
from router.unary import Turns, observe, predict
from router.users import export_user, first_error, forget_user

SESSION_SERVICE = "evercurrent.v1.SessionService"
ADMIN_SERVICE = "evercurrent.v1.AdminService"

Q = TypeVar("Q")
R = TypeVar("R")


def session_handler(core: RoutingCore, settings: RouterSettings, door: Door) -> grpc.GenericRpcHandler:
    """SessionService, whose streams come in by `door`. They are given raw bytes: they look at a message's size before
    they parse it."""
    turns = Turns()

    async def session(_: object, context: grpc.aio.ServicerContext) -> None:
        await serve_session(core, settings.observation_bytes_max, context, door)

    async def exchange(_: object, context: grpc.aio.ServicerContext) -> None:
        await serve_exchange(core, settings, context, door)

    async def observe_one(
        request: session_pb2.ObserveRequest, context: grpc.aio.ServicerContext
    ) -> session_pb2.ObserveResponse:
        if core.traces is not None and not request.observation.traceparent:
            request.observation.traceparent = _traceparent_of(context)
        result = await _or_abort(context, observe(core, turns, request, context.time_remaining()))
        return session_pb2.ObserveResponse(result=result)

    async def predict_one(
        request: session_pb2.PredictRequest, context: grpc.aio.ServicerContext
    ) -> session_pb2.PredictResponse:
        result = await _or_abort(context, predict(core, request, context.time_remaining()))
        return session_pb2.PredictResponse(result=result)

    return grpc.method_handlers_generic_handler(
        SESSION_SERVICE,
        {
            "Session": grpc.stream_stream_rpc_method_handler(session),
            "Exchange": grpc.stream_stream_rpc_method_handler(exchange),
            "Observe": _unary(observe_one, session_pb2.ObserveRequest, session_pb2.ObserveResponse),
            "Predict": _unary(predict_one, session_pb2.PredictRequest, session_pb2.PredictResponse),
        },
    )


def admin_handler(core: RoutingCore, router: str, models: Models) -> grpc.GenericRpcHandler:
    """AdminService of the router of this name."""
    admin = Admin(core, router)

    def asking(answer: Callable[[Q], Awaitable[R]], request: type[Q], response: type[R]) -> grpc.RpcMethodHandler:
        async def call(message: Q, context: grpc.aio.ServicerContext) -> R:
            try:
                with first_error():
                    return await answer(message)
            except Refused as error:
                await abort(context, error.rejection)
            except grpc.aio.AioRpcError as error:
                await pass_on(context, error)

        return _unary(call, request, response)

    def streaming(
        answers: Callable[[Q], AsyncGenerator[R]], request: type[Q], response: type[R]
    ) -> grpc.RpcMethodHandler:
        async def call(message: Q, context: grpc.aio.ServicerContext) -> AsyncIterator[R]:
            try:
                with first_error():
                    async with aclosing(answers(message)) as found:
                        async for answer in found:
                            yield answer
            except Refused as error:
                await abort(context, error.rejection)
            except grpc.aio.AioRpcError as error:
                await pass_on(context, error)

        return grpc.unary_stream_rpc_method_handler(call, request.FromString, response.SerializeToString)  # type: ignore[attr-defined]

    def method(answer: Callable[[Q], R], request: type[Q], response: type[R]) -> grpc.RpcMethodHandler:
        async def call(message: Q, context: grpc.aio.ServicerContext) -> R:
            try:
                return answer(message)
            except Refused as error:
                await abort(context, error.rejection)

        return _unary(call, request, response)

    return grpc.method_handlers_generic_handler(
        ADMIN_SERVICE,
        {
            "GetRing": method(admin.get_ring, admin_pb2.GetRingRequest, admin_pb2.GetRingResponse),
            "ListWorkers": method(admin.list_workers, admin_pb2.ListWorkersRequest, admin_pb2.ListWorkersResponse),
            "DescribeModel": method(
                admin.describe_model, admin_pb2.DescribeModelRequest, admin_pb2.DescribeModelResponse
            ),
            "GetLatency": method(admin.get_latency, admin_pb2.GetLatencyRequest, admin_pb2.GetLatencyResponse),
            "GetTopUsers": asking(
                partial(get_top_users, core), admin_pb2.GetTopUsersRequest, admin_pb2.GetTopUsersResponse
            ),
            "ForgetUser": asking(partial(forget_user, core), admin_pb2.ForgetUserRequest, admin_pb2.ForgetUserResponse),
            "ExportUser": streaming(
                partial(export_user, core), admin_pb2.ExportUserRequest, admin_pb2.ExportUserResponse
            ),
            "ListModels": asking(models.list_models, admin_pb2.ListModelsRequest, admin_pb2.ListModelsResponse),
            "ChangeModels": asking(models.change, admin_pb2.ChangeModelsRequest, admin_pb2.ChangeModelsResponse),
            "WatchComparison": streaming(
                models.watch, admin_pb2.WatchComparisonRequest, admin_pb2.WatchComparisonResponse
            ),
            "ListModelChanges": asking(
                models.list_changes, admin_pb2.ListModelChangesRequest, admin_pb2.ListModelChangesResponse
            ),
            "ListQuarantined": asking(
                models.list_quarantined, admin_pb2.ListQuarantinedRequest, admin_pb2.ListQuarantinedResponse
            ),
            "ReleaseQuarantined": asking(
                models.release_quarantined, admin_pb2.ReleaseQuarantinedRequest, admin_pb2.ReleaseQuarantinedResponse
            ),
        },
    )


def _traceparent_of(context: grpc.aio.ServicerContext) -> str:
    """The caller's span, as its metadata names it; "" if it does not."""
    for key, value in context.invocation_metadata() or ():
        if key == "traceparent" and isinstance(value, str):
            return value
    return ""


async def _or_abort(context: grpc.aio.ServicerContext, answer: Awaitable[R]) -> R:
    try:
        return await answer
    except Refused as error:
        await abort(context, error.rejection)


def _unary(call: object, request: type, response: type) -> grpc.RpcMethodHandler:
    return grpc.unary_unary_rpc_method_handler(call, request.FromString, response.SerializeToString)  # type: ignore[attr-defined]
