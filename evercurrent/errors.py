"""What can go wrong, and the one table that says it in gRPC.

    EvercurrentError
    └── Refused            a request that was not taken; `rejection` names the field and what to do

A refusal inside a stream is a `Rejection` message and the stream goes on; the same refusal of a whole call ends it with
the status that STATUSES gives, with ErrorInfo, BadRequest and RetryInfo details (AIP-193).
"""

from __future__ import annotations

import asyncio
from typing import NoReturn, Protocol

import grpc
import grpc.aio
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from evercurrent.v1 import observation_pb2 as pb

DOMAIN = "evercurrent"

TEXT_BYTES_MAX = 512

STATUSES: dict[int, grpc.StatusCode] = {
    pb.REASON_SEQ_GAP: grpc.StatusCode.ABORTED,
    pb.REASON_SEQ_REGRESSION: grpc.StatusCode.ABORTED,
    pb.REASON_SESSION_FORGOTTEN: grpc.StatusCode.ABORTED,
    pb.REASON_SESSION_TAKEN: grpc.StatusCode.ABORTED,
    pb.REASON_DEADLINE: grpc.StatusCode.DEADLINE_EXCEEDED,
    pb.REASON_OVERLOADED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    pb.REASON_NOT_OWNER: grpc.StatusCode.ABORTED,
    pb.REASON_DATA_LOSS: grpc.StatusCode.DATA_LOSS,
    pb.REASON_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    pb.REASON_NO_STORE: grpc.StatusCode.FAILED_PRECONDITION,
    pb.REASON_VERSION: grpc.StatusCode.FAILED_PRECONDITION,
    pb.REASON_SCHEMA: grpc.StatusCode.FAILED_PRECONDITION,
    pb.REASON_MODEL_ERROR: grpc.StatusCode.INTERNAL,
    pb.REASON_MODEL_CHANGE: grpc.StatusCode.FAILED_PRECONDITION,
    pb.REASON_NOT_QUARANTINED: grpc.StatusCode.NOT_FOUND,
    pb.REASON_REVISION: grpc.StatusCode.ABORTED,
    pb.REASON_UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    pb.REASON_TOKEN_EXPIRED: grpc.StatusCode.UNAUTHENTICATED,
    pb.REASON_PERMISSION: grpc.StatusCode.PERMISSION_DENIED,
}
"""Statuses of the reasons that are not INVALID_ARGUMENT."""


class EvercurrentError(Exception):
    """Base of all errors raised here."""


class Refused(EvercurrentError):
    """A request was not taken. `rejection` is what the caller is told."""

    def __init__(self, rejection: pb.Rejection) -> None:
        super().__init__(rejection.message)
        self.rejection = rejection


def rejection(reason: pb.Reason, field: str, message: str, retry_after_ms: int = 0, owner: str = "") -> pb.Rejection:
    """The wire form of a refusal."""
    return pb.Rejection(reason=reason, field=field, message=message, retry_after_ms=retry_after_ms, owner=owner)


def refused(reason: pb.Reason, field: str, message: str, retry_after_ms: int = 0) -> Refused:
    """The exception form of a refusal."""
    return Refused(rejection(reason, field, message, retry_after_ms))


def sole_refusal(group: BaseExceptionGroup[BaseException]) -> Refused:
    """The refusal that ended a stream's group of tasks. Raises the group again if it holds anything else.

    Raises:
        CancelledError: the peer was gone when it was written to; gRPC is about to cancel the call for that reason.
    """
    gone, others = group.split(grpc.aio.InternalError)
    if gone is not None and others is None:
        raise asyncio.CancelledError from group
    refusals, rest = group.split(Refused)
    if refusals is None or rest is not None:
        raise group
    first: BaseException = refusals
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    assert isinstance(first, Refused)
    return first


def status_code(reason: int) -> grpc.StatusCode:
    """The status that ends a call refused for this reason."""
    return STATUSES.get(reason, grpc.StatusCode.INVALID_ARGUMENT)


class Abortable(Protocol):
    """The part of a gRPC servicer context that ends a call."""

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: tuple[tuple[str, bytes], ...] = ()
    ) -> NoReturn: ...


async def abort(context: Abortable, why: pb.Rejection) -> NoReturn:
    """End a call because of a refusal, with details that a program can read. Never returns.

    Raises:
        CancelledError: the peer is gone already; gRPC is about to cancel the call for that reason.
    """
    why = rejection(why.reason, _clipped(why.field), _clipped(why.message), why.retry_after_ms)
    code = status_code(why.reason)
    reason = pb.Reason.Name(why.reason).removeprefix("REASON_")
    status = status_pb2.Status(code=code.value[0], message=f"{why.field}: {why.message}" if why.field else why.message)
    metadata = {"field": why.field} if why.field else {}
    _attach(status, error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=metadata))
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        violation = error_details_pb2.BadRequest.FieldViolation(field=why.field, description=why.message, reason=reason)
        _attach(status, error_details_pb2.BadRequest(field_violations=[violation]))
    if why.retry_after_ms:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(why.retry_after_ms)
        _attach(status, error_details_pb2.RetryInfo(retry_delay=delay))
    await end(context, code, status.message, (("grpc-status-details-bin", status.SerializeToString()),))


async def end(
    context: Abortable, code: grpc.StatusCode, details: str, metadata: tuple[tuple[str, bytes], ...] = ()
) -> NoReturn:
    """End a call. Never returns. Raises as `abort`."""
    try:
        await context.abort(code, details, metadata)
    except grpc.aio.InternalError as error:
        raise asyncio.CancelledError from error


async def pass_on(context: Abortable, error: grpc.aio.AioRpcError) -> NoReturn:
    """End a call as another call ended that was made for it, with its details. Never returns."""
    await end(context, error.code(), error.details() or "", tuple(error.trailing_metadata() or ()))


def _clipped(text: str) -> str:
    """A text that trailing metadata has room for: gRPC refuses more than 8 KiB, and this goes there three times."""
    return text.encode()[:TEXT_BYTES_MAX].decode(errors="ignore")


def _attach(
    status: status_pb2.Status,
    detail: error_details_pb2.ErrorInfo | error_details_pb2.BadRequest | error_details_pb2.RetryInfo,
) -> None:
    packed = any_pb2.Any()
    packed.Pack(detail)
    status.details.append(packed)
