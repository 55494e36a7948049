"""TLS of servers and of calls to workers: certificates that may change while we run."""

from __future__ import annotations

import ssl
from collections.abc import Sequence

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from evercurrent.security.files import Watched
from evercurrent.settings import ServiceSettings, SettingsError

SAN, COMMON_NAME = "x509_subject_alternative_name", "x509_common_name"


def server_credentials(settings: ServiceSettings) -> grpc.ServerCredentials | None:
    """What a server shows and asks for; None: it has no certificate. Each connection gets the newest that there is.

    Raises:
        SettingsError: a file cannot be read or is no certificate or key.
    """
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    paths = [settings.tls_key, settings.tls_certificate]
    if settings.tls_client_ca is not None:
        paths.append(settings.tls_client_ca)
    try:
        files = Watched(paths, _server_configuration)
    except (OSError, ValueError) as error:
        raise SettingsError(f"tls_certificate, tls_key or tls_client_ca: {error}") from error

    def newest() -> grpc.ServerCertificateConfiguration | None:
        return files.current() if files.changed() else None

    return grpc.dynamic_ssl_server_credentials(
        files.current(), newest, require_client_authentication=settings.tls_client_ca is not None
    )


def _server_configuration(contents: Sequence[bytes]) -> grpc.ServerCertificateConfiguration:
    key, chain = contents[0], contents[1]
    check_pair(key, chain)
    if len(contents) > 2:
        _certificates(contents[2])
    return grpc.ssl_server_certificate_configuration([(key, chain)], *contents[2:])


def check_pair(key: bytes, chain: bytes) -> None:
    """See that a key is that of the first certificate of a chain. Raises ValueError: it is not, or one is none."""
    own = load_pem_private_key(key, None).public_key()
    if own != _certificates(chain)[0].public_key():
        raise ValueError("the private key is not that of the certificate")


def _certificates(text: bytes) -> list[x509.Certificate]:
    found = x509.load_pem_x509_certificates(text)
    if not found:
        raise ValueError("holds no certificate")
    return found


def identities_of(context: grpc.aio.ServicerContext) -> frozenset[str]:
    """The names in the certificate that a caller has shown; none without TLS, or without one."""
    auth = context.auth_context()
    names = [*auth.get(SAN, ()), *auth.get(COMMON_NAME, ())]
    return frozenset(name.decode(errors="replace") for name in names)


def metrics_context(settings: ServiceSettings) -> ssl.SSLContext | None:
    """As `server_credentials`, for HTTP; None: in the clear. Raises SettingsError."""
    if not settings.metrics_tls or settings.tls_certificate is None or settings.tls_key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    paths = settings.tls_certificate, settings.tls_key

    def load(contents: Sequence[bytes]) -> None:
        check_pair(contents[1], contents[0])
        context.load_cert_chain(*paths)

    try:
        files = Watched(paths, load)
        if settings.tls_client_ca is not None:
            context.load_verify_locations(settings.tls_client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ValueError) as error:
        raise SettingsError(f"tls_certificate, tls_key or tls_client_ca: {error}") from error

    def before_handshake(_: object, __: object, ___: object) -> None:
        files.changed()

    context.sni_callback = before_handshake
    return context
