"""S3 servers as child processes on loopback: a fast stand-in, a real one, and one that ignores conditions."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import botocore.session

from bench.processes import free_port, free_ports

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
BUCKET = "evercurrent"
ACCESS_KEY = "tests"
SECRET_KEY = "secret-of-tests"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": ACCESS_KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}
READY_S = 45.0
POLL_S = 0.05
STOP_S = 15.0


@dataclass(frozen=True)
class Server:
    """A server that is ready."""

    endpoint: str
    pid: int

    def url(self, prefix: str, **parameters: object) -> str:
        """The URL of a store in its bucket."""
        extra = "".join(f"&{name}={value}" for name, value in parameters.items())
        return f"s3://{BUCKET}/{prefix}?endpoint={self.endpoint}{extra}"


@contextmanager
def moto(host: str = "127.0.0.1") -> Iterator[Server]:
    """moto with a lock, at an address of this machine."""
    command = [sys.executable, "-m", "tests.persistence.moto_process", host]
    with _child(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        _request(port, "PUT", f"/{BUCKET}", host)
        yield Server(f"http://{host}:{port}", process.pid)


@contextmanager
def seaweedfs(folder: Path) -> Iterator[Server]:
    """SeaweedFS, all of it in one process."""
    identity = {
        "name": "tests",
        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    (folder / "data").mkdir()
    names = ("master", "volume", "filer", "admin", "s3")
    ports = dict(zip([f"{name}.port{kind}" for name in names for kind in ("", ".grpc")], free_ports(10), strict=True))
    options = {
        "dir": folder / "data",
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "master.telemetry": "false",
        "webdav": "false",
        "admin.ui": "false",
        "bucket": BUCKET,
        "s3.config": folder / "s3.json",
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "filer.localSocket": folder / "filer.sock",
        **ports,
    }
    command = [str(BIN / "weed"), "mini", *(f"-{name}={value}" for name, value in options.items())]
    with (
        (folder / "log").open("wb") as log,
        _child(command, cwd=folder, env={"HOME": str(folder)}, stdout=log, stderr=log) as process,
    ):
        server = Server(f"http://127.0.0.1:{ports['s3.port']}", process.pid)
        _await_status(process, ports["s3.port"], 403, folder / "log")
        _await_bucket(server)
        yield server


@contextmanager
def rclone(folder: Path) -> Iterator[Server]:
    """`rclone serve s3`, which takes conditions and ignores them."""
    (folder / "data" / BUCKET).mkdir(parents=True)
    port = free_port()
    key = f"{ACCESS_KEY},{SECRET_KEY}"
    command: list[str | Path] = [
        BIN / "rclone",
        "serve",
        "s3",
        "--addr",
        f"127.0.0.1:{port}",
        "--auth-key",
        key,
        folder / "data",
    ]
    environment = {"HOME": str(folder), "RCLONE_CONFIG": str(folder / "rclone.conf")}
    with (
        (folder / "log").open("wb") as log,
        _child(command, cwd=folder, env=environment, stdout=log, stderr=log) as process,
    ):
        _await_status(process, port, None, folder / "log")
        yield Server(f"http://127.0.0.1:{port}", process.pid)


@contextmanager
def _child(
    command: Sequence[str | Path],
    cwd: Path,
    env: dict[str, str] | None = None,
    stdout: IO[bytes] | int | None = None,
    stderr: IO[bytes] | int | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with the block: by SIGTERM, or killed where that does not help."""
    with subprocess.Popen(command, cwd=cwd, env=os.environ | (env or {}), stdout=stdout, stderr=stderr) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _await_status(process: subprocess.Popen[bytes], port: int, status: int | None, log: Path) -> None:
    """Wait until `/` answers with this status, or with any: the servers do once they are ready."""
    deadline = time.monotonic() + READY_S
    answered: int | str = "nothing"
    while process.poll() is None and time.monotonic() < deadline:
        try:
            answered = _request(port, "GET", "/")
        except OSError as error:
            answered = str(error)
        if isinstance(answered, int) and status in {answered, None}:
            return
        time.sleep(POLL_S)
    raise RuntimeError(f"{process.args!r} is not ready ({answered}):\n{log.read_text()[-4000:]}")


def _await_bucket(server: Server) -> None:
    """Wait until the bucket is there, which SeaweedFS makes after it is ready."""
    client = botocore.session.get_session().create_client(
        "s3",
        endpoint_url=server.endpoint,
        region_name="us-east-1",
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
    )
    client.get_waiter("bucket_exists").wait(Bucket=BUCKET, WaiterConfig={"Delay": 0.1, "MaxAttempts": 300})
    client.close()


def _request(port: int, method: str, path: str, host: str = "127.0.0.1") -> int:
    connection = http.client.HTTPConnection(host, port, timeout=READY_S)
    try:
        connection.request(method, path)
        return connection.getresponse().status
    finally:
        connection.close()
