"""The network between one worker and all others, the store among them, is cut and healed: nobody loses anything.

The worker lives in a network namespace of its own, joined by a pair of virtual interfaces whose addresses nobody else
has (RFC 2544 keeps them for benchmarks). Needs root, and iproute2.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc.aio
import pytest

from evercurrent.v1 import admin_pb2
from tests.e2e.learners import Class, Learner, class_of, learning
from tests.persistence.servers import CREDENTIALS, moto
from tests.router.playing import core_of
from tests.servers import Service

ROOT = Path(__file__).parents[2]
NAME = f"evc{os.getpid()}"
HERE, THERE = "198.18.77.1", "198.18.77.2"
PORT = 7700
"""In the namespace, where every port is free."""

pytestmark = pytest.mark.timeout(120)


def ip(*arguments: str) -> None:
    """Change the network; raises CalledProcessError."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@dataclass(frozen=True)
class Network:
    """The two ends: `outer` is the interface here, `command` runs something there."""

    outer: str
    command: tuple[str, ...]

    def cut(self) -> None:
        ip("link", "set", self.outer, "down")

    def heal(self) -> None:
        ip("link", "set", self.outer, "up")


@pytest.fixture
def network() -> Iterator[Network]:
    if shutil.which("ip") is None:
        pytest.skip("iproute2 is not installed, so no network can be cut")
    outer, inner = f"{NAME}o", f"{NAME}i"
    with ExitStack() as made:
        try:
            ip("netns", "add", NAME)
            made.callback(ip, "netns", "delete", NAME)
            ip("link", "add", outer, "type", "veth", "peer", "name", inner, "netns", NAME)
            ip("address", "add", f"{HERE}/30", "dev", outer)
            ip("link", "set", outer, "up")
            ip("-n", NAME, "address", "add", f"{THERE}/30", "dev", inner)
            ip("-n", NAME, "link", "set", inner, "up")
            ip("-n", NAME, "link", "set", "lo", "up")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"this machine allows no network namespaces: {error.stderr.decode().strip()}")
        yield Network(outer, ("ip", "netns", "exec", NAME))


@contextmanager
def serving(kind: str, *options: str, inside: Sequence[str] = ()) -> Iterator[str]:
    """A process of ours that is ready; its address. It has to end well."""
    ours = (sys.executable, "-P", "-m", "evercurrent.cli", kind, "--end-with-stdin", "--insecure=true")
    command = [*inside, *ours, *options]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **CREDENTIALS}
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            ready = process.stdout.readline().decode().split()
            assert ready[:1] == ["ready"], f"{kind} did not start"
            yield ready[3]
        finally:
            process.stdin.close()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
    assert process.returncode == 0


async def until_worker(service: Service, name: str, state: admin_pb2.WorkerState) -> str:
    """Ask the router until it sees a worker so, on the ring if it is up; its incarnation."""
    while True:
        for worker in (await service.admin.ListWorkers(admin_pb2.ListWorkersRequest())).workers:
            is_there = state != admin_pb2.WORKER_STATE_UP or worker.on_ring
            if worker.name == name and worker.state == state and is_there:
                return str(worker.incarnation)


async def worker_of(service: Service, learner: Learner) -> str:
    """The worker to whom the router sends a user."""
    return str((await service.admin.GetRing(admin_pb2.GetRingRequest(user_id=learner.user))).user_worker)


async def test_a_worker_that_is_cut_off_is_replaced_and_comes_back(network: Network) -> None:
    learners = class_of(num_callers=0, may_miss=True)
    with ExitStack() as running:
        store = running.enter_context(moto(HERE)).url("cut")
        options = ("--model=tests.toys:Counting", f"--search-path={ROOT}", f"--store={store}")
        kept = running.enter_context(serving("worker", "--name=kept", f"--address={HERE}:0", *options))
        cut = running.enter_context(
            serving("worker", "--name=cut", f"--address={THERE}:{PORT}", *options, inside=network.command)
        )
        address = running.enter_context(serving("router", "--address=127.0.0.1:0", f"--workers=kept={kept},cut={cut}"))
        async with grpc.aio.insecure_channel(address) as channel:
            service = Service(address, core_of(), {}, channel)
            async with learning(service, learners):
                first = await until_worker(service, "cut", admin_pb2.WORKER_STATE_UP)
                await learners.go_on()
                where = [await worker_of(service, learner) for learner in learners.learners]
                lost = Class([one for one, name in zip(learners.learners, where, strict=True) if name == "cut"])
                assert 0 < len(lost.learners) < len(where)
                await asyncio.to_thread(network.cut)
                try:
                    await until_worker(service, "cut", admin_pb2.WORKER_STATE_DOWN)
                    await lost.go_on()
                    assert {await worker_of(service, learner) for learner in lost.learners} == {"kept"}
                finally:
                    await asyncio.to_thread(network.heal)
                while await until_worker(service, "cut", admin_pb2.WORKER_STATE_UP) == first:
                    pass
                await learners.go_on()
            await learners.check_remembered(service)
