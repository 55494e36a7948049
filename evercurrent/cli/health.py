"""`evercurrent health`: whether a router or worker serves, by the gRPC health protocol (grpc.health.v1).

A probe for where the service speaks TLS: kubelets, which can ask by themselves, do not. Asks once and never waits
longer than it is told.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from evercurrent.cli.errors import CommandError
from evercurrent.settings import SettingsError


@dataclass(frozen=True, slots=True)
class Tls:
    """How to know whom one calls, and what to show. Files of PEM. `name`: what the certificate must be valid for, where
    that is not the host that is called."""

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    name: str | None = None


def show_health(address: str, service: str, timeout_s: float, tls: Tls) -> None:
    """Prints SERVING.

    Raises:
        CommandError: it serves not, or does not answer.
        SettingsError: the TLS options do not go together.
        OSError: a file cannot be read.
    """
    with _channel(address, tls) as channel:
        try:
            request = health_pb2.HealthCheckRequest(service=service)
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=timeout_s)
        except grpc.RpcError as error:
            raise CommandError(f"{address}: {error.code().name}: {error.details()}") from error
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        raise CommandError(f"{address}: {status}")
    print(status)


def _channel(address: str, tls: Tls) -> grpc.Channel:
    if (tls.certificate is None) != (tls.key is None):
        raise SettingsError("--tls-certificate and --tls-key: one is of no use without the other")
    if tls.ca is None:
        if tls != Tls():
            raise SettingsError("--tls-ca: needed with the other TLS options, to know whom one calls")
        return grpc.insecure_channel(address)
    credentials = grpc.ssl_channel_credentials(
        root_certificates=tls.ca.read_bytes(),
        private_key=tls.key.read_bytes() if tls.key is not None else None,
        certificate_chain=tls.certificate.read_bytes() if tls.certificate is not None else None,
    )
    options = [("grpc.ssl_target_name_override", tls.name)] if tls.name is not None else []
    return grpc.secure_channel(address, credentials, options)
