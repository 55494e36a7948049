"""Who may call a router: by bearer token, or by certificate."""

from __future__ import annotations

import grpc.aio

from evercurrent.errors import refused
from evercurrent.security.guard import metadata_of
from evercurrent.security.identity import ADMIN, Identity
from evercurrent.security.tls import identities_of
from evercurrent.security.tokens import Tokens
from evercurrent.v1 import observation_pb2 as pb

ADMIN_METHODS = "/evercurrent.v1.AdminService/"
DESCRIBES = "/evercurrent.v1.AdminService/DescribeModel"
"""What the model takes, which every client asks."""


class RouterGate:
    """With tokens, whoever has one is its subject; without, whoever could show a certificate is a service that may do
    everything."""

    def __init__(self, tokens: Tokens | None) -> None:
        self._tokens = tokens

    async def enter(self, method: str, context: grpc.aio.ServicerContext) -> Identity:
        """Who calls. Raises Refused."""
        identity = await self._identity(context)
        if method.startswith(ADMIN_METHODS) and method != DESCRIBES and not identity.is_admin:
            raise refused(pb.REASON_PERMISSION, "authorization", f"{method} needs the scope `{ADMIN}`")
        return identity

    async def _identity(self, context: grpc.aio.ServicerContext) -> Identity:
        if self._tokens is None:
            names = sorted(identities_of(context))
            return Identity(names[0] if names else "", may_be_anybody=True, is_admin=True)
        given = metadata_of(context, "authorization") or ""
        scheme, _, token = given.partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise refused(pb.REASON_UNAUTHENTICATED, "authorization", "a bearer token is needed")
        return await self._tokens.identity(token.strip())
