"""What a caller of the client can be told, one class for each thing that there is to do.

    EvercurrentError
    ├── InvalidRequest       what was asked cannot be: fix `field`
    ├── ObservationRejected  an observation was not learned from; raised by `Result.raise_for_rejection` alone
    ├── DeadlineExceeded     no answer in time (also a TimeoutError): `may_be_applied` says what is known; go on or wait
    ├── Unavailable          the service was not reached in time (also a TimeoutError): come back later
    ├── SessionForgotten     newer sessions took its place, or the user was forgotten: open a new session
    ├── SessionTaken         somebody else uses this session id: open a session of one's own
    ├── SessionClosed        used after its end: open a new one
    ├── NoStore              durability was asked of a service that has no store: run it with one, or do not ask
    ├── DataLoss             what is stored of the user is damaged: an operator has to act, or to forget the user
    ├── AccessDenied         no or wrong credentials: authenticate
    └── ServiceFailed        the service cannot do this as it is; `code` and `reason` go into the report

Endings of calls and streams become one of these in `error_of`, by the table ERRORS, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import grpc

from evercurrent.errors import EvercurrentError, status_code
from evercurrent.v1 import observation_pb2 as pb


@dataclass(frozen=True, slots=True)
class Ending:
    """How a call or a stream ended. `reason` is a Reason without its prefix, empty if the service named none."""

    code: grpc.StatusCode
    message: str = ""
    reason: str = ""
    field: str = ""
    retry_after_s: float = 0.0

    def __str__(self) -> str:
        return f"{self.code.name}: {self.message}" if self.message else self.code.name


class InvalidRequest(EvercurrentError):
    """What was asked cannot be done: fix the `field` at fault."""

    def __init__(self, message: str, *, field: str = "", reason: str = "") -> None:
        super().__init__(message)
        self.field = field
        self.reason = reason


class ObservationRejected(EvercurrentError):
    """Nothing was learned from an observation; the state is as it was and the session goes on."""

    def __init__(self, message: str, *, seq: int, reason: str, field: str) -> None:
        super().__init__(message)
        self.seq = seq
        self.reason = reason
        self.field = field


class DeadlineExceeded(EvercurrentError, TimeoutError):
    """No answer came in time. The session is in order and usable. With `may_be_applied` the observation is in it as
    `seq`, and is or will be applied once; without, it never entered."""

    def __init__(self, message: str, *, seq: int = 0, may_be_applied: bool = False) -> None:
        super().__init__(message)
        self.seq = seq
        self.may_be_applied = may_be_applied


class Unavailable(EvercurrentError, TimeoutError):
    """The service was not reached in time: come back later. A single observation `may_be_applied` all the same."""

    def __init__(self, message: str, *, may_be_applied: bool = False) -> None:
        super().__init__(message)
        self.may_be_applied = may_be_applied


class SessionForgotten(EvercurrentError):
    """The service knows the session no more: open a new one."""


class SessionTaken(EvercurrentError):
    """Somebody else uses this session id: open a session of one's own."""


class SessionClosed(EvercurrentError):
    """Used after its end: open a new one."""


class NoStore(EvercurrentError):
    """Nothing becomes durable on a service without a store: run it with one, or do not ask."""


class DataLoss(EvercurrentError):
    """What is stored of the user is damaged: an operator has to act, or to forget the user."""


class AccessDenied(EvercurrentError):
    """No or wrong credentials: authenticate."""


class ServiceFailed(EvercurrentError):
    """The service cannot do this as it is. `code` and `reason` go into the report."""

    def __init__(self, message: str, *, code: str, reason: str) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason


RETRIED = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.OK,
    }
)
"""Codes of endings after which a stream is opened again. OK: the service ended it without being asked."""

RETRIED_UNEXPLAINED = frozenset({grpc.StatusCode.INTERNAL, grpc.StatusCode.DEADLINE_EXCEEDED})
"""As RETRIED where no reason is given: the transport's own endings and those of what stands between."""

CLIENT_CLOSED = "CLIENT_CLOSED"
"""The reason of what a client ends itself: no Reason of the contract."""

RETRIED_REASONS = frozenset({"TOKEN_EXPIRED"})
"""Retried whatever their code: whoever gives tokens gives another one."""

FINAL_REASONS = frozenset({"SESSION_FORGOTTEN", "SESSION_TAKEN", CLIENT_CLOSED})
"""Not retried whatever their code."""

ERRORS: dict[str, Callable[[str], EvercurrentError]] = {
    "SESSION_FORGOTTEN": SessionForgotten,
    "SESSION_TAKEN": SessionTaken,
    CLIENT_CLOSED: SessionClosed,
    "NO_STORE": NoStore,
    "DATA_LOSS": DataLoss,
    grpc.StatusCode.DATA_LOSS.name: DataLoss,
    grpc.StatusCode.UNAUTHENTICATED.name: AccessDenied,
    grpc.StatusCode.PERMISSION_DENIED.name: AccessDenied,
    grpc.StatusCode.UNAVAILABLE.name: Unavailable,
    grpc.StatusCode.RESOURCE_EXHAUSTED.name: Unavailable,
    grpc.StatusCode.ABORTED.name: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED.name: DeadlineExceeded,
}
"""What an ending is to a caller, by its reason or else by its code. INVALID_ARGUMENT and the rest carry more facts and
stand in `error_of`."""


def is_transient(ending: Ending) -> bool:
    """Whether trying again may help."""
    if ending.reason in FINAL_REASONS:
        return False
    if ending.reason in RETRIED_REASONS:
        return True
    return ending.code in RETRIED or (ending.code in RETRIED_UNEXPLAINED and not ending.reason)


def error_of(ending: Ending) -> EvercurrentError:
    """A new error that says the same."""
    make = ERRORS.get(ending.reason) or ERRORS.get(ending.code.name)
    if make is not None:
        return make(str(ending))
    if ending.code is grpc.StatusCode.INVALID_ARGUMENT:
        return InvalidRequest(str(ending), field=ending.field, reason=ending.reason)
    return ServiceFailed(str(ending), code=ending.code.name, reason=ending.reason)


def ending_of_refusal(why: pb.Rejection) -> Ending:
    """How a call or stream ends that is refused for this reason."""
    text = f"{why.field}: {why.message}" if why.field else why.message
    return Ending(status_code(why.reason), text, reason_name(why.reason), why.field, why.retry_after_ms / 1000)


def reason_name(reason: int) -> str:
    """A Reason without its prefix; its number where this client does not know it yet."""
    try:
        return pb.Reason.Name(reason).removeprefix("REASON_")
    except ValueError:
        return str(reason)
