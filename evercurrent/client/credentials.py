"""How a client knows the service, and what it shows of itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from evercurrent.channels import Metadata, WithMetadata, is_loopback
from evercurrent.client.errors import InvalidRequest

Token = str | Callable[[], str]
"""A bearer token, or what gives a fresh one: it is called for each stream and single call, and returns at once."""


@dataclass(frozen=True, slots=True)
class Tls:
    """Files of PEM, read when a channel is made. `ca`: who signed the service's certificates; None: whoever the system
    trusts. `certificate` and `key`: what is shown, where the service asks for one. `server_name`: what the service's
    certificate is valid for, if that is not the host that is called."""

    ca: Path | str | None = None
    certificate: Path | str | None = None
    key: Path | str | None = None
    server_name: str = ""

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise InvalidRequest("tls: certificate and key are of no use without each other", field="tls")

    def credentials(self) -> grpc.ChannelCredentials:
        """Raises InvalidRequest: a file cannot be read."""
        try:
            return grpc.ssl_channel_credentials(*(_read(path) for path in (self.ca, self.key, self.certificate)))
        except OSError as error:
            raise InvalidRequest(f"tls: {error}", field="tls") from error

    def options(self) -> list[tuple[str, str | int]]:
        """What a channel is told besides."""
        return [("grpc.ssl_target_name_override", self.server_name)] if self.server_name else []


@dataclass(frozen=True, slots=True)
class Credentials:
    """All that a client has. `cluster_token`: direct mode's, who calls workers (see docs/security.md)."""

    tls: Tls | None = None
    token: Token | None = None
    cluster_token: str | None = None

    def check(self, addresses: tuple[str, ...]) -> None:
        """See that no secret leaves this machine in the clear. Raises InvalidRequest: it would."""
        if self.tls is None and self.token is not None:
            for address in addresses:
                if not is_loopback(address.rpartition("=")[2]):
                    raise InvalidRequest(f"the token would be sent to {address} in the clear: give tls", field="tls")

    def metadata(self, _: str) -> Metadata:
        """What goes with each call."""
        if self.token is None:
            return ()
        token = self.token if isinstance(self.token, str) else self.token()
        return (("authorization", f"Bearer {token}"),)

    def channel(self, address: str, options: list[Any]) -> WithMetadata:
        """A channel to a router."""
        metadata = None if self.token is None else self.metadata
        if self.tls is None:
            return WithMetadata(grpc.aio.insecure_channel(address, options=options), metadata)
        named = [*options, *self.tls.options()]
        return WithMetadata(grpc.aio.secure_channel(address, self.tls.credentials(), options=named), metadata)


def _read(path: Path | str | None) -> bytes | None:
    return None if path is None else Path(path).read_bytes()
