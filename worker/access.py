"""Who may call a worker: routers and other workers alone."""

from __future__ import annotations

from collections.abc import Collection

import grpc.aio

from evercurrent.errors import refused
from evercurrent.security.cluster import HEADER, Verifier
from evercurrent.security.guard import metadata_of
from evercurrent.security.identity import Identity
from evercurrent.security.tls import identities_of
from evercurrent.v1 import observation_pb2 as pb

CLUSTER = Identity("cluster", may_be_anybody=True, is_admin=True)


class WorkerGate:
    """A name in the caller's certificate, or a proof of the cluster's token."""

    def __init__(self, identities: Collection[str], verifier: Verifier | None) -> None:
        self._identities = frozenset(identities)
        self._verifier = verifier

    async def enter(self, method: str, context: grpc.aio.ServicerContext) -> Identity:
        """Who calls. Raises Refused."""
        if self._identities & identities_of(context):
            return CLUSTER
        shown = metadata_of(context, HEADER)
        if self._verifier is None or shown is None:
            raise refused(pb.REASON_UNAUTHENTICATED, HEADER, "only routers and workers of this cluster may call it")
        self._verifier.check(method, shown)
        return CLUSTER
