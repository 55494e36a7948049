"""`evercurrent forget`: remove one user everywhere, through a router."""

from __future__ import annotations

import grpc
from rich.console import Console

from evercurrent.cli.errors import CommandError
from evercurrent.cli.routers import Router
from evercurrent.v1 import admin_pb2, admin_pb2_grpc

TIMEOUT_S = 120.0
"""The event log's files of a sixteenth of the users are read and perhaps rewritten."""

REPEAT = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED, grpc.StatusCode.DEADLINE_EXCEEDED)


def forget_user(user_id: str, namespace: str, router: Router) -> None:
    """Says what was removed. Raises CommandError."""
    request = admin_pb2.ForgetUserRequest(user_id=user_id, namespace=namespace)
    with router.channel() as channel:
        try:
            removed = admin_pb2_grpc.AdminServiceStub(channel).ForgetUser(request, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            again = "; call it again: what was removed stays removed" if error.code() in REPEAT else ""
            raise CommandError(f"{error.code().name}: {error.details()}{again}") from error
    if not (removed.version or removed.sessions or removed.events):
        Console().print(f"Nothing was held of {user_id}.", markup=False)
        return
    Console().print(
        f"Removed the state of {user_id} (version {removed.version}, {removed.sessions} sessions) and "
        f"{removed.events:,} logged events.",
        markup=False,
        soft_wrap=True,
    )
