"""A cluster of real processes starts, says what went wrong, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from evercurrent.cli.cluster import Cluster, ClusterError, run_cluster
from evercurrent.v1 import admin_pb2, admin_pb2_grpc

CLI = [sys.executable, "-P", "-m", "evercurrent.cli"]
SLOW_S = 60.0


def is_running(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a command that is expected to end by itself."""
    return subprocess.run(
        [*CLI, *arguments], capture_output=True, text=True, timeout=SLOW_S, env=os.environ | environment, check=False
    )


@pytest.fixture
def taken() -> Iterator[str]:
    """An address that something else listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def test_cluster_runs_and_ends() -> None:
    with run_cluster(num_workers=2, store="memory:") as cluster:
        pids = cluster.pids
        assert pids.keys() == {"router-0", "worker-0", "worker-1"}
        assert cluster.workers.keys() == {"worker-0", "worker-1"}
        assert cluster.ended() == {}
        for address in (cluster.address, *cluster.workers.values()):
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port))).close()
        with grpc.insecure_channel(cluster.address) as channel:
            listed = admin_pb2_grpc.AdminServiceStub(channel).ListWorkers(admin_pb2.ListWorkersRequest())
        assert {worker.name: worker.address for worker in listed.workers} == cluster.workers
        assert all(worker.state == admin_pb2.WORKER_STATE_UP for worker in listed.workers)
    assert not any(is_running(pid) for pid in pids.values())


def states_of(cluster: Cluster) -> dict[str, admin_pb2.WorkerState]:
    """How the router sees its workers."""
    with grpc.insecure_channel(cluster.address) as channel:
        listed = admin_pb2_grpc.AdminServiceStub(channel).ListWorkers(admin_pb2.ListWorkersRequest())
    return {worker.name: worker.state for worker in listed.workers}


def until_up(cluster: Cluster, *names: str) -> None:
    """Ask the router until these are its workers that are up."""
    while [name for name, state in states_of(cluster).items() if state == admin_pb2.WORKER_STATE_UP] != [*names]:
        pass


def test_a_reserved_worker_is_listed_and_joins_when_it_is_started() -> None:
    with run_cluster(num_workers=1, num_reserved=1, store="memory:") as cluster:
        assert cluster.workers.keys() == {"worker-0"}
        assert states_of(cluster).keys() == {"worker-0", "worker-1"}
        assert states_of(cluster)["worker-1"] == admin_pb2.WORKER_STATE_DOWN
        cluster.start("worker-1")
        until_up(cluster, "worker-0", "worker-1")
        assert cluster.workers.keys() == {"worker-0", "worker-1"}
        cluster.terminate("worker-1", SLOW_S)
        assert cluster.ended() == {"worker-1": 0}
        cluster.restart("worker-1")
        until_up(cluster, "worker-0", "worker-1")


def test_a_process_that_does_not_end_in_time_is_killed_and_named() -> None:
    with run_cluster(num_workers=1, store="memory:") as cluster:
        with cluster.paused("worker-0"), pytest.raises(ClusterError, match=r"worker-0 did not end within 0\.1 s"):
            cluster.terminate("worker-0", 0.1)
        assert cluster.ended() == {"worker-0": -signal.SIGKILL}


def test_a_child_that_does_not_start_is_named_with_its_last_words() -> None:
    with (
        pytest.raises(ClusterError, match=r"(?s)worker-0 ended with exit code 1:.*no-such-model"),
        run_cluster(num_workers=1, model="no-such-model", store="memory:"),
    ):
        pass


def test_a_taken_port_of_the_router_is_named(taken: str) -> None:
    with (
        pytest.raises(ClusterError, match=rf"(?s)router-0 ended with exit code 1:.*{taken}"),
        run_cluster(num_workers=1, router_address=taken, store="memory:"),
    ):
        pass


@pytest.mark.parametrize("command", [["worker", "--store", "memory:"], ["router", "--workers", "worker-0=127.0.0.1:1"]])
def test_a_taken_port_is_said_and_fails(command: list[str], taken: str) -> None:
    ended = run(*command, "--address", taken)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith("evercurrent: ")
    assert taken in ended.stderr.splitlines()[-1]
    assert ended.stdout == ""


def test_a_worker_that_dies_is_told_by_wait() -> None:
    with run_cluster(num_workers=2, store="memory:") as cluster:
        os.kill(cluster.pids["worker-1"], signal.SIGKILL)
        ended = cluster.wait()
        assert ended.ending().startswith("worker-1 ended with exit code -9")
        assert cluster.ended() == {"worker-1": -9}


def start_up(*arguments: str) -> tuple[subprocess.Popen[str], str]:
    """`evercurrent up`, up, and what it said."""
    up = subprocess.Popen(
        [*CLI, "up", "--address", "127.0.0.1:0", "--store", "memory:", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert up.stdout is not None
    greeting = ""
    while "Ctrl-C ends it all." not in greeting:
        line = up.stdout.readline()
        assert line, up.communicate(timeout=SLOW_S)[1]
        greeting += line
    return up, greeting


def pids_of(greeting: str) -> dict[str, int]:
    """Process ids by name, from what `up` says."""
    return {name: int(pid) for name, pid in re.findall(r"^  (\S+) +127\.0\.0\.1:\d+ +pid (\d+)$", greeting, re.M)}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_up_ends_cleanly(number: signal.Signals) -> None:
    up, greeting = start_up("--workers", "1")
    pids = pids_of(greeting)
    assert pids.keys() == {"worker-0", "router-0"}
    up.send_signal(number)
    _, errors = up.communicate(timeout=SLOW_S)
    assert up.returncode == 0, errors
    assert re.search(r"Connect to 127\.0\.0\.1:\d+ with", greeting)
    assert "Traceback" not in errors
    assert not any(is_running(pid) for pid in pids.values())


def test_up_says_which_child_died_and_ends_the_rest() -> None:
    up, greeting = start_up("--workers", "1")
    pids = pids_of(greeting)
    os.kill(pids["worker-0"], signal.SIGKILL)
    _, errors = up.communicate(timeout=SLOW_S)
    assert up.returncode == 1
    assert errors.splitlines()[-1] == "evercurrent: worker-0 ended with exit code -9; the others were ended"
    assert not any(is_running(pid) for pid in pids.values())


def test_children_end_when_up_is_killed() -> None:
    up, greeting = start_up("--workers", "1")
    pids = pids_of(greeting)
    up.kill()
    # Standard error is shared with the children: it closes when the last of them has ended.
    up.communicate(timeout=SLOW_S)
    assert not any(is_running(pid) for pid in pids.values())


FOREIGN = "raise SystemExit('foreign code was run')\n"


@pytest.mark.parametrize("name", ["router", "worker"])
@pytest.mark.parametrize("command", ["worker", "router", "up", "demo"])
def test_a_foreign_package_is_named(name: str, command: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text(FOREIGN)
    options = ["--workers", "worker-0=127.0.0.1:1"] if command == "router" else []
    ended = run(command, *options, PYTHONPATH=str(tmp_path))
    assert ended.returncode == 2
    assert f"another package shadows evercurrent's `{name}`: {tmp_path / name}" in ended.stderr


def test_a_foreign_package_of_the_working_directory_is_never_run(tmp_path: Path) -> None:
    for name in ("router", "worker"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(FOREIGN)
    code = (
        "from evercurrent.cli.imports import check_not_shadowed, drop_working_directory as drop;"
        "drop(); check_not_shadowed(); import router, worker"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
