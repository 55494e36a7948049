"""Calls to workers: channels with TLS, and with the caller's identity where one is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import grpc
import grpc.aio

from evercurrent.channels import WithMetadata
from evercurrent.security.cluster import Prover, watched_secrets
from evercurrent.security.files import Watched
from evercurrent.settings import ServiceSettings, SettingsError

Options = Sequence[tuple[str, str | int]]
Secrets = Callable[[], Sequence[bytes]]


class Dialing:
    """How one process calls workers. `credentials`: the newest; None: in the clear."""

    def __init__(
        self,
        credentials: Callable[[], grpc.ChannelCredentials] | None = None,
        server_name: str = "",
        secrets: Secrets | None = None,
    ) -> None:
        self._credentials = credentials
        self._server_name = server_name
        self._secrets = secrets

    @classmethod
    def of(cls, settings: ServiceSettings) -> Dialing:
        """As the settings say. Raises SettingsError: a file cannot be used."""
        secrets = None if settings.cluster_token_file is None else watched_secrets(settings.cluster_token_file)
        credentials = None
        if settings.tls_ca is not None:
            own = [settings.tls_key, settings.tls_certificate]
            credentials = credentials_of(settings.tls_ca, *(path for path in own if path is not None)).current
        return cls(credentials, settings.tls_server_name or "", None if secrets is None else secrets.current)

    @property
    def has_tls(self) -> bool:
        """Whether certificates are checked, which may change."""
        return self._credentials is not None

    def channel(self, address: str, worker: str, options: Options) -> WithMetadata:
        """A channel to a worker of this name, to be used with `async with`."""
        proof = None if self._secrets is None else Prover(self._secrets, worker).metadata
        if self._credentials is None:
            return WithMetadata(grpc.aio.insecure_channel(address, options=options), proof)
        named = [*options, ("grpc.ssl_target_name_override", self._server_name or worker)]
        return WithMetadata(grpc.aio.secure_channel(address, self._credentials(), options=named), proof)


def credentials_of(ca: Path, *own: Path) -> Watched[grpc.ChannelCredentials]:
    """Credentials by files: CA certificates and, if it has one, the caller's key and certificate.

    Raises:
        SettingsError: one cannot be read.
    """
    try:
        return Watched([ca, *own], lambda contents: grpc.ssl_channel_credentials(*contents))
    except OSError as error:
        raise SettingsError(f"tls_ca, tls_certificate or tls_key: {error}") from error


PLAIN = Dialing()
"""In the clear, and without an identity."""
