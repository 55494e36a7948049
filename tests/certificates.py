"""Certificates for tests that speak TLS, in files as a Secret of Kubernetes has them."""

from __future__ import annotations

from pathlib import Path

from tests.security.authority import Authority

CERTIFICATE, KEY, CA = "tls.crt", "tls.key", "ca.crt"


def write_pki(folder: Path, name: str) -> Path:
    """Writes a certificate of `name`, its key, and the CA that signed it; the folder."""
    Authority(folder).issue("tls", [name])
    return folder
