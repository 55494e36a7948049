"""The peers as processes on this machine: each a context that gives the ways in which it can be asked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any

from bench import load
from bench.echo import run_echo
from bench.peers.installed import REDIS_SERVER, program_of, python_of
from bench.peers.peer import SLOT_HEADER, Target, by_slot
from bench.processes import entered_together, free_port, run_server
from bench.residents import run_worker
from bench.run import Watch, WrongReplyError

NUMS_OF_PROCESSES = (1, 2)
"""How many processes of a peer make the step: it is judged by whichever number serves it best."""

RAY_ENVIRONMENT = {
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_ENABLE_DIRECT_INGRESS": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
}

RESIDENTS_MAX = 1_000_000
"""What workers take by default, as those of the service do."""

# A shell whose program ends when the shell's standard input does: sh, a program and its arguments.
_UNTIL_INPUT_ENDS = ("sh", "-c", '"$@" </dev/null & exec >/dev/null; cat; kill $! 2>/dev/null; wait', "sh")
_STOP_TIMEOUT_S = 30.0


@contextmanager
def run_echoes(_: Watch, __: int) -> Iterator[list[Target]]:
    """Bare echo servers, through one hop and through two: the floor."""
    with run_echo() as echo:
        yield [Target("echo_one_hop", [echo.one_hop]), Target("echo_two_hops", [echo.two_hops])]


@contextmanager
def run_redis(watch: Watch, _: int) -> Iterator[list[Target]]:
    """States in Redis, with one service process before it and with two; batched and, for streams alone, plain.

    Redis appends every write to a file that it syncs once a second, its documentation's choice for data that is to
    survive; our workers' journal is synced more often.
    """
    port = free_port()
    with TemporaryDirectory(prefix="evercurrent-bench-") as folder, ExitStack() as running:
        options = {"bind": "127.0.0.1", "port": port, "dir": folder, "appendonly": "yes", "appendfsync": "everysec"}
        arguments = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        running.enter_context(_run_program([REDIS_SERVER, *arguments, "--save", ""], "Ready to accept connections"))
        services = [
            run_server("bench.peers.redis_service", kind, str(port), python=python_of("redis"))
            for kind in ("batched", "plain")
            for _ in range(max(NUMS_OF_PROCESSES))
        ]
        with watch.stage("start services on Redis", 1) as advance:
            servers = running.enter_context(entered_together(services))
            advance()
        addresses = [server.addresses[0] for server in servers]
        batched, plain = addresses[: max(NUMS_OF_PROCESSES)], addresses[max(NUMS_OF_PROCESSES) :]
        yield [
            *(Target(f"redis_{num}", batched[:num]) for num in NUMS_OF_PROCESSES),
            *(
                Target(f"redis_plain_{num}", plain[:num], takes_frames=False, is_plain=True)
                for num in NUMS_OF_PROCESSES
            ),
        ]


@contextmanager
def run_ray_serve(watch: Watch, _: int) -> Iterator[list[Target]]:
    """Ray Serve with one replica and with two, as two applications behind its gRPC proxy."""
    port = free_port()
    with TemporaryDirectory(prefix="evercurrent-bench-") as home, TemporaryFile() as errors:
        environment = {**os.environ, "HOME": home, **RAY_ENVIRONMENT}
        with watch.stage("start Ray Serve", 1) as advance, ExitStack() as running:
            try:
                running.enter_context(
                    run_server(
                        "bench.peers.ray_application",
                        str(port),
                        *map(str, NUMS_OF_PROCESSES),
                        python=python_of("ray-serve"),
                        environment=environment,
                        errors=errors,
                        stop_timeout_s=_STOP_TIMEOUT_S,
                    )
                )
            except RuntimeError as error:
                errors.seek(0)
                raise WrongReplyError(f"Ray Serve did not start:\n{errors.read().decode(errors='replace')}") from error
            advance()
            yield [
                Target(f"ray_serve_{num}", [f"127.0.0.1:{port}"], routing=_application(num))
                for num in NUMS_OF_PROCESSES
            ]


@contextmanager
def run_envoy(watch: Watch, num_workers: int) -> Iterator[list[Target]]:
    """Envoy before workers of their own, on a store of their own. No router is there to give slots to workers."""
    port = free_port()
    with TemporaryDirectory(prefix="evercurrent-bench-") as folder, ExitStack() as running:
        store = f"sqlite:{Path(folder) / 'store.db'}"
        workers = [run_worker(f"worker-{number}", store, RESIDENTS_MAX) for number in range(num_workers)]
        with watch.stage("start workers for Envoy", 1) as advance:
            backends = [server.addresses[0] for server in running.enter_context(entered_together(workers))]
            advance()
        config = Path(folder) / "envoy.json"
        config.write_text(json.dumps(envoy_config(port, backends)))
        command: list[str | Path] = [
            program_of("envoy", "envoy"),
            "-c",
            config,
            "--concurrency",
            "1",
            "--disable-hot-restart",
            "-l",
            "error",
        ]
        with _run_program(command):
            yield [Target("envoy", [f"127.0.0.1:{port}"], routing=by_slot, takes_frames=False, is_linked=True)]


def envoy_config(port: int, backends: Sequence[str]) -> Mapping[str, Any]:
    """Envoy on this port, in front of these: HTTP/2 both ways, streams that never time out, and a ring hash by
    SLOT_HEADER."""
    http2 = {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    manager = {
        "@type": (
            "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
        ),
        "codec_type": "HTTP2",
        "stat_prefix": "workers",
        "stream_idle_timeout": "0s",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "workers",
                    "domains": ["*"],
                    "routes": [
                        {
                            "match": {"prefix": "/"},
                            "route": {
                                "cluster": "workers",
                                "timeout": "0s",
                                "hash_policy": [{"header": {"header_name": SLOT_HEADER}}],
                            },
                        }
                    ],
                }
            ]
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
            }
        ],
    }
    cluster = {
        "name": "workers",
        "type": "STATIC",
        "lb_policy": "RING_HASH",
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2},
        "load_assignment": {
            "cluster_name": "workers",
            "endpoints": [
                {"lb_endpoints": [{"endpoint": {"address": _socket_address(*_split(each))}} for each in backends]}
            ],
        },
    }
    listener = {
        "name": "streams",
        "address": _socket_address("127.0.0.1", port),
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


def _socket_address(host: str, port: int) -> Mapping[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}


@contextmanager
def _run_program(command: Sequence[str | Path], ready: str = "") -> Iterator[None]:
    """A program that is no Python of ours, as a child that ends with the context or with this process. It is ready when
    it has written a line with these words to standard output.

    Raises:
        WrongReplyError: it ended before.
    """
    with subprocess.Popen(
        [*_UNTIL_INPUT_ENDS, *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # Ctrl-C goes to the whole process group, and the shell would end without its program, which ignores it.
        start_new_session=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            if ready and not any(ready in line for line in process.stdout):
                raise WrongReplyError(f"{Path(command[0]).name} ended before it was ready")
            yield
        finally:
            process.stdin.close()
            try:
                process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def _application(num: int) -> Callable[[str], load.Metadata]:
    """What Serve's proxy reads of a stream's metadata: the application, and by what its router chooses a replica."""

    def routing(user_id: str) -> load.Metadata:
        return (("application", str(num)), ("session_id", user_id))

    return routing
