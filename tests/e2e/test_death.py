"""A worker is killed: its users are told, the others notice nothing, and when it is back they go on."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from evercurrent.cli.cluster import Cluster, run_cluster
from evercurrent.v1 import admin_pb2
from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1.session_pb2 import ObserveRequest, TagOpen
from tests.e2e.conversation import Conversation, Frames, columns, observation
from tests.router.playing import core_of
from tests.servers import Service

MODEL = "tests.toys:Counting"
SEARCH_PATH = Path(__file__).parents[2]


@pytest.fixture
def store(tmp_path: Path) -> str:
    return f"sqlite:{tmp_path}/store.db"


@pytest.fixture
def cluster(store: str) -> Iterator[Cluster]:
    """A router and two workers, processes of their own."""
    with run_cluster(num_workers=2, model=MODEL, search_path=SEARCH_PATH, store=store) as running:
        yield running


@asynccontextmanager
async def service_of(cluster: Cluster) -> AsyncIterator[Service]:
    """Stubs that call a cluster, and its ring."""
    core = core_of(len(cluster.workers))
    async with grpc.aio.insecure_channel(cluster.address) as channel:
        yield Service(cluster.address, core, {}, channel)


@asynccontextmanager
async def restarted(cluster: Cluster, name: str, store: str) -> AsyncIterator[None]:
    """The worker, again at its address."""
    command = [sys.executable, "-P", "-m", "evercurrent.cli", "worker", f"--name={name}", f"--model={MODEL}"]
    process = await asyncio.create_subprocess_exec(
        *(*command, f"--address={cluster.workers[name]}", f"--search-path={SEARCH_PATH}", f"--store={store}"),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert process.stdout is not None
        ready = (await process.stdout.readline()).decode()
        assert ready == f"ready worker {name} {cluster.workers[name]}\n"
        yield
    finally:
        process.terminate()
        assert await process.wait() == 0


async def until_state(service: Service, name: str, state: admin_pb2.WorkerState) -> None:
    """Ask the router until it sees a worker so."""
    while True:
        workers = (await service.admin.ListWorkers(admin_pb2.ListWorkersRequest())).workers
        if {worker.name: worker.state for worker in workers}[name] == state:
            return


async def until_owner(service: Service, user: str, name: str) -> None:
    """Ask the router until its ring gives a user to a worker."""
    while (await service.admin.GetRing(admin_pb2.GetRingRequest(user_id=user))).user_worker != name:
        pass


async def test_a_killed_worker_is_noticed_by_nobody_and_comes_back(cluster: Cluster, store: str) -> None:
    async with service_of(cluster) as service:
        lost_user, kept_user = service.user_of_worker("worker-1"), service.user_of_worker("worker-0")
        lost = await Conversation.opened(service, lost_user, wait_durable=True)
        kept = await Conversation.opened(service, kept_user)
        frames = await Frames.opened(service, lost=f"{lost_user}", kept=f"{kept_user}")
        await frames.send(columns((0, 1), (1, 1)))
        await frames.answers(2)
        for conversation in (lost, kept):
            assert (await conversation.observe(1)).version == 2
        assert (await lost.reply()).watermark.durable_seq == 1

        os.kill(cluster.pids["worker-1"], signal.SIGKILL)
        await lost.send(observation=observation(2))
        assert (await kept.observe(2)).version == 3
        assert (await lost.reply()).result.version == 3
        frames.opens.clear()
        await frames.send(columns((1, 2), (0, 2)), [TagOpen(tag=2, user_id=lost_user)])
        told = {one.tag: one for one in await frames.answers(2)}
        assert [(told[tag].status, told[tag].version) for tag in (0, 1)] == [(pb.STATUS_APPLIED, 4)] * 2
        assert not frames.opens[2].HasField("rejection")
        observed = await service.sessions.Observe(ObserveRequest(user_id=lost_user, observation=observation()))
        assert observed.result.version == 5
        await until_state(service, "worker-1", admin_pb2.WORKER_STATE_DOWN)

        async with restarted(cluster, "worker-1", store):
            await until_state(service, "worker-1", admin_pb2.WORKER_STATE_UP)
            await until_owner(service, lost_user, "worker-1")
            assert (await kept.observe(3)).version == 5
            await lost.send(observation=observation(3))
            assert next(reply.result.version for reply in await lost.finish() if reply.result.seq == 3) == 6
            assert await kept.finish() == await frames.finish() == []
        await until_state(service, "worker-1", admin_pb2.WORKER_STATE_DOWN)
        again = await Conversation.opened(service, lost_user)
        assert (await again.observe(1)).version == 7
