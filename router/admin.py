"""AdminService's answers, read from the core."""

from __future__ import annotations

from evercurrent.errors import refused
from evercurrent.v1 import admin_pb2
from evercurrent.v1 import observation_pb2 as pb
from router.core import RETRY_AFTER_MS, RoutingCore
from router.outbox import Link
from router.requests import check_namespace, check_user_id


class Admin:
    """What operators ask of a router."""

    def __init__(self, core: RoutingCore, router: str) -> None:
        self._core = core
        self._router = router

    def get_ring(self, request: admin_pb2.GetRingRequest) -> admin_pb2.GetRingResponse:
        """The ring, and where a user is if one is named.

        Raises:
            Refused: REASON_UNAVAILABLE, there is no ring yet.
        """
        ring = self._core.ring
        if ring is None:
            raise refused(pb.REASON_UNAVAILABLE, "", "no worker has been reached yet", RETRY_AFTER_MS)
        response = admin_pb2.GetRingResponse(digest=ring.digest, num_slots=len(ring.owners), slots=ring.owners.tolist())
        for name, weight, num_slots in zip(ring.names, ring.weights, ring.loads().tolist(), strict=True):
            link = self._core.links.get(self._core.link_named(name))
            response.members.add(name=name, address=link.address if link else "", num_slots=num_slots, weight=weight)
        if request.user_id:
            check_user_id(request.user_id, "user_id")
            check_namespace(request.namespace, "namespace")
            response.user_slot, _ = self._core.worker_of(request.namespace, request.user_id)
            response.user_worker = ring.names[ring.owners[response.user_slot]]
        return response

    def list_workers(self, _: admin_pb2.ListWorkersRequest) -> admin_pb2.ListWorkersResponse:
        """Every worker that is known and how it is, and what this router keeps."""
        core = self._core
        response = admin_pb2.ListWorkersResponse(
            router=admin_pb2.RouterInfo(
                name=self._router,
                sessions=len(core.sessions),
                moving_sessions=len(core.moves),
                moved_sessions=core.num_moved,
                replay_events=len(core.log),
                replay_bytes=core.log.num_bytes,
                replay_dropped=core.log.num_dropped,
                replayed=core.num_replayed,
            )
        )
        on_ring = frozenset(core.ring.names if core.ring is not None else ())
        for worker, link in sorted(core.links.items(), key=lambda item: item[1].name):
            response.workers.add(
                name=link.name,
                address=link.address,
                state=_state(link),
                on_ring=link.name in on_ring,
                incarnation=link.incarnation,
                open_sessions=len(core.sessions.of_worker(worker)),
                in_flight_events=link.num_in_flight,
                updates=link.num_updates,
                residents=link.status.residents,
                updates_at_risk=link.status.updates_at_risk,
                owned_slots=link.status.owned_slots,
                segments=link.status.segments,
                events_dropped=link.status.events_dropped,
                journal_lag_ms=link.status.journal_lag_us / 1000,
            )
        return response

    def describe_model(self, _: admin_pb2.DescribeModelRequest) -> admin_pb2.DescribeModelResponse:
        """What is served. Raises Refused when no worker has been reached yet."""
        return admin_pb2.DescribeModelResponse(model=self._core.model)

    def get_latency(self, _: admin_pb2.GetLatencyRequest) -> admin_pb2.GetLatencyResponse:
        """Live percentiles by stage."""
        response = admin_pb2.GetLatencyResponse()
        for stage, summary in self._core.latency.summary(self._core.clock_us()).items():
            response.stages.add(
                stage=stage,
                count=summary.count,
                p50_ms=summary.p50_ms,
                p99_ms=summary.p99_ms,
                p999_ms=summary.p999_ms,
                max_ms=summary.max_ms,
            )
        return response


def _state(link: Link) -> admin_pb2.WorkerState:
    if link.outbox is None:
        return admin_pb2.WORKER_STATE_DOWN
    return admin_pb2.WORKER_STATE_DRAINING if link.status.draining else admin_pb2.WORKER_STATE_UP
