"""`evercurrent health` against real servers: what serves, what does not, and TLS both ways."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from tests.certificates import CA, CERTIFICATE, KEY, write_pki

CLI = [sys.executable, "-P", "-m", "evercurrent.cli", "health"]
NAME = "router.example"


def ask(address: str, *options: object) -> subprocess.CompletedProcess[str]:
    command = [*CLI, "--address", address, *(str(option) for option in options)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@contextmanager
def serving(
    status: int = health_pb2.HealthCheckResponse.SERVING, credentials: grpc.ServerCredentials | None = None
) -> Iterator[str]:
    """A server that says this of itself; its address."""
    with ThreadPoolExecutor(1) as threads:
        server = grpc.server(threads)
        servicer = health.HealthServicer()
        servicer.set("", status)
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        if credentials is None:
            port = server.add_insecure_port("127.0.0.1:0")
        else:
            port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.stop(grace=None).wait()


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pki(tmp_path_factory.mktemp("pki"), NAME)


@pytest.fixture
def credentials(pki: Path) -> Callable[[bool], grpc.ServerCredentials]:
    """What a server has; told to, it asks for certificates."""

    def made(asks: bool) -> grpc.ServerCredentials:
        pair = ((pki / KEY).read_bytes(), (pki / CERTIFICATE).read_bytes())
        return grpc.ssl_server_credentials([pair], (pki / CA).read_bytes() if asks else None, asks)

    return made


def test_what_serves_is_0_and_says_so() -> None:
    with serving() as address:
        ended = ask(address)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "SERVING\n", "")


def test_what_does_not_serve_is_1() -> None:
    with serving(health_pb2.HealthCheckResponse.NOT_SERVING) as address:
        ended = ask(address)
    assert (ended.returncode, ended.stderr) == (1, f"evercurrent: {address}: NOT_SERVING\n")


def test_a_service_that_is_not_there_is_1() -> None:
    with serving() as address:
        ended = ask(address, "--service", "nothing")
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"evercurrent: {address}: NOT_FOUND")


def test_nobody_there_is_1() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        ended = ask("{}:{}".format(*taken.getsockname()))
    assert ended.returncode == 1
    assert "UNAVAILABLE" in ended.stderr


def test_one_that_never_answers_is_1_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        ended = ask("{}:{}".format(*silent.getsockname()), "--timeout", 0.5)
    assert ended.returncode == 1
    assert "DEADLINE_EXCEEDED" in ended.stderr


def test_tls_is_known_by_its_name(pki: Path, credentials: Callable[[bool], grpc.ServerCredentials]) -> None:
    with serving(credentials=credentials(False)) as address:
        named = ask(address, "--tls-ca", pki / CA, "--tls-name", NAME)
        by_host = ask(address, "--tls-ca", pki / CA)
        in_the_clear = ask(address)
    assert named.returncode == 0, named.stderr
    assert (by_host.returncode, in_the_clear.returncode) == (1, 1)


def test_a_certificate_is_shown_where_one_is_asked_for(
    pki: Path, credentials: Callable[[bool], grpc.ServerCredentials]
) -> None:
    known = ("--tls-ca", pki / CA, "--tls-name", NAME)
    with serving(credentials=credentials(True)) as address:
        shown = ask(address, *known, "--tls-certificate", pki / CERTIFICATE, "--tls-key", pki / KEY)
        without = ask(address, *known)
    assert shown.returncode == 0, shown.stderr
    assert without.returncode == 1


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (["--tls-name", NAME], 2, "--tls-ca: needed"),
        (["--tls-ca", "ca.crt", "--tls-key", "tls.key"], 2, "--tls-certificate and --tls-key"),
        (["--tls-ca", "/nowhere/ca.crt"], 2, "/nowhere/ca.crt"),
    ],
)
def test_options_that_cannot_be_are_named(options: list[str], code: int, text: str) -> None:
    ended = ask("127.0.0.1:1", *options)
    assert ended.returncode == code
    assert text in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
