"""Who calls, while a call is handled."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

from evercurrent.errors import refused
from evercurrent.v1 import observation_pb2 as pb

SERVICE, ADMIN = "service", "admin"


@dataclass(frozen=True, slots=True)
class Identity:
    """A caller. `may_be_anybody`: acts for users other than itself; `expires_s` (Unix): until when it counts."""

    subject: str
    may_be_anybody: bool = False
    is_admin: bool = False
    expires_s: float | None = None


caller: ContextVar[Identity | None] = ContextVar("evercurrent_caller", default=None)
"""None: callers are not told apart."""


def check_may_act_for(user_id: str, field: str) -> None:
    """See that whoever calls may act for a user.

    Raises:
        Refused: REASON_PERMISSION, the user is another.
    """
    identity = caller.get()
    if identity is None or identity.may_be_anybody or identity.subject == user_id:
        return
    raise refused(pb.REASON_PERMISSION, field, f"the token is for another user, and has no scope `{SERVICE}`")
