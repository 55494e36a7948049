"""`evercurrent health`: whether a router or worker serves, by the gRPC health protocol (grpc.health.v1).

A probe for where the service speaks TLS: kubelets, which can ask by themselves, do not. Asks once and never waits
longer than it is told.
"""

from __future__ import annotations

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from evercurrent.cli.errors import CommandError
from evercurrent.cli.routers import Router


def show_health(router: Router, service: str, timeout_s: float) -> None:
    """Prints SERVING.

    Raises:
        CommandError: it serves not, or does not answer.
        SettingsError: the TLS options do not go together, or a file cannot be read.
    """
    address = router.address
    with router.channel() as channel:
        try:
            request = health_pb2.HealthCheckRequest(service=service)
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=timeout_s)
        except grpc.RpcError as error:
            raise CommandError(f"{address}: {error.code().name}: {error.details()}") from error
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        raise CommandError(f"{address}: {status}")
    print(status)
