"""Certificates for tests that speak TLS, in files as a Secret of Kubernetes has them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

CERTIFICATE, KEY, CA = "tls.crt", "tls.key", "ca.crt"
_AUTHORITY = "ca.example"


def write_pki(folder: Path, name: str) -> Path:
    """Writes a certificate of `name`, its key, and the CA that signed it; the folder."""
    authority, own = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    (folder / CA).write_bytes(_signed(_AUTHORITY, authority, authority))
    (folder / CERTIFICATE).write_bytes(_signed(name, own, authority))
    (folder / KEY).write_bytes(own.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return folder


def _signed(name: str, key: ec.EllipticCurvePrivateKey, by: ec.EllipticCurvePrivateKey) -> bytes:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_named(name))
        .issuer_name(_named(_AUTHORITY))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=key is by, path_length=None), critical=True)
    )
    return builder.sign(by, hashes.SHA256()).public_bytes(Encoding.PEM)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
