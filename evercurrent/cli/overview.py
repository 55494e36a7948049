"""What a router says of the service, at one moment: what `top` and the console show."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import grpc

from evercurrent.v1 import admin_pb2, models_pb2
from evercurrent.v1.admin_pb2_grpc import AdminServiceStub

TIMEOUT_S = 5.0
"""Longer than the router gives its workers to say who their hot users are."""


@dataclass(frozen=True, slots=True)
class Overview:
    """One look. `updates_per_s` is by worker, since the look before; `comparisons` are of versions beside `live`."""

    at_s: float
    latency: Mapping[str, admin_pb2.LatencySummary]
    ring: admin_pb2.GetRingResponse
    router: admin_pb2.RouterInfo
    workers: tuple[admin_pb2.WorkerInfo, ...]
    users: tuple[admin_pb2.TopUser, ...]
    live: str
    comparisons: tuple[models_pb2.Comparison, ...]
    updates_per_s: Mapping[str, float] = field(default_factory=dict)

    @property
    def updates_at_risk(self) -> int:
        """Over all workers."""
        return sum(worker.updates_at_risk for worker in self.workers)

    @property
    def journal_lag_ms(self) -> float:
        """Of the worker whose journal is furthest behind."""
        return max((worker.journal_lag_ms for worker in self.workers), default=0.0)


class Observer:
    """Looks again and again, through one stub."""

    def __init__(self, stub: AdminServiceStub, num_users: int) -> None:
        self._stub = stub
        self._num_users = num_users
        self._before: Overview | None = None

    def look(self) -> Overview:
        """One look. Raises grpc.RpcError: the router does not answer."""
        stub = self._stub
        latency = stub.GetLatency(admin_pb2.GetLatencyRequest(), timeout=TIMEOUT_S)
        listed = stub.ListWorkers(admin_pb2.ListWorkersRequest(), timeout=TIMEOUT_S)
        live, comparisons = self._comparisons()
        seen = Overview(
            at_s=time.monotonic(),
            latency={summary.stage: summary for summary in latency.stages},
            ring=stub.GetRing(admin_pb2.GetRingRequest(), timeout=TIMEOUT_S),
            router=listed.router,
            workers=tuple(listed.workers),
            users=self._users(),
            live=live,
            comparisons=comparisons,
            updates_per_s=self._rates(listed.workers),
        )
        self._before = seen
        return seen

    def _users(self) -> tuple[admin_pb2.TopUser, ...]:
        if not self._num_users:
            return ()
        request = admin_pb2.GetTopUsersRequest(num=self._num_users)
        return tuple(self._stub.GetTopUsers(request, timeout=TIMEOUT_S).users)

    def _comparisons(self) -> tuple[str, tuple[models_pb2.Comparison, ...]]:
        watching = self._stub.WatchComparison(admin_pb2.WatchComparisonRequest(), timeout=TIMEOUT_S)
        try:
            seen: admin_pb2.WatchComparisonResponse = next(watching)
        except grpc.RpcError as error:
            # Without a store there are no versions.
            if error.code() is grpc.StatusCode.FAILED_PRECONDITION:
                return "", ()
            raise
        finally:
            watching.cancel()
        return seen.live, tuple(seen.comparisons)

    def _rates(self, workers: list[admin_pb2.WorkerInfo]) -> dict[str, float]:
        """Updates a second since the look before; what a new incarnation counts begins anew with its link."""
        if self._before is None:
            return {}
        elapsed_s = max(time.monotonic() - self._before.at_s, 1e-3)
        before = {worker.name: worker.updates for worker in self._before.workers}
        return {
            worker.name: max(0, worker.updates - before.get(worker.name, worker.updates)) / elapsed_s
            for worker in workers
        }
