"""AdminService's answers, read from the core."""

from __future__ import annotations

from evercurrent.v1 import admin_pb2
from router.core import RoutingCore
from router.requests import check_namespace, check_user_id


class Admin:
    """What operators ask of a router."""

    def __init__(self, core: RoutingCore) -> None:
        self._core = core

    def get_ring(self, request: admin_pb2.GetRingRequest) -> admin_pb2.GetRingResponse:
        """The ring, and where a user is if one is named."""
        ring = self._core.ring
        response = admin_pb2.GetRingResponse(digest=ring.digest, num_slots=len(ring.owners), slots=ring.owners.tolist())
        for link, num_slots, weight in zip(self._core.links, ring.loads().tolist(), ring.weights, strict=True):
            response.members.add(name=link.name, address=link.address, num_slots=num_slots, weight=weight)
        if request.user_id:
            check_user_id(request.user_id, "user_id")
            check_namespace(request.namespace, "namespace")
            slot, worker = self._core.worker_of(request.namespace, request.user_id)
            response.user_slot = slot
            response.user_worker = ring.names[worker]
        return response

    def list_workers(self, _: admin_pb2.ListWorkersRequest) -> admin_pb2.ListWorkersResponse:
        """Every member of the ring and how it is."""
        response = admin_pb2.ListWorkersResponse()
        for worker, link in enumerate(self._core.links):
            up = link.outbox is not None
            response.workers.add(
                name=link.name,
                address=link.address,
                state=admin_pb2.WORKER_STATE_UP if up else admin_pb2.WORKER_STATE_DOWN,
                incarnation=link.incarnation,
                open_sessions=len(self._core.sessions.of_worker(worker)),
                in_flight_events=link.num_in_flight,
                updates=link.num_updates,
                residents=link.status.residents,
                updates_at_risk=link.status.updates_at_risk,
                owned_slots=link.status.owned_slots,
                segments=link.status.segments,
                events_dropped=link.status.events_dropped,
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
