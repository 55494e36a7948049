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
from tests.e2e.test_unary import details_of, refusal
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


async def test_a_killed_worker_is_told_to_its_users_alone_and_comes_back(cluster: Cluster, store: str) -> None:
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
        assert await lost.ended() == (grpc.StatusCode.UNAVAILABLE, "worker-1 was lost")
        assert (await kept.observe(2)).version == 3
        frames.opens.clear()
        await frames.read_until(lambda: 0 in frames.opens)
        assert frames.opens[0].rejection.reason == pb.REASON_UNAVAILABLE
        await frames.send(columns((1, 2), (0, 2)), [TagOpen(tag=2, user_id=lost_user)])
        told = {one.tag: one for one in await frames.answers(2)}
        assert (told[1].status, told[1].version) == (pb.STATUS_APPLIED, 4)
        assert told[0].reason == pb.REASON_TAG
        assert frames.opens[2].rejection.reason == pb.REASON_UNAVAILABLE
        error = await refusal(service.sessions.Observe(ObserveRequest(user_id=lost_user, observation=observation())))
        assert (error.code(), error.details()) == (
            grpc.StatusCode.UNAVAILABLE,
            "user_id: worker-1 is not reachable",
        )
        assert details_of(error)["RetryInfo"].retry_delay.ToMilliseconds() > 0

        async with restarted(cluster, "worker-1", store):
            await until_state(service, "worker-1", admin_pb2.WORKER_STATE_UP)
            again = await Conversation.opened(service, lost_user)
            assert (await again.observe(1)).version == 3
            await frames.send(columns((0, 1)), [TagOpen(tag=0, user_id=lost_user)])
            assert [one.version for one in await frames.answers(1)] == [4]
            assert await again.finish() == await kept.finish() == await frames.finish() == []
            await until_state(service, "worker-1", admin_pb2.WORKER_STATE_UP)
        await until_state(service, "worker-1", admin_pb2.WORKER_STATE_DOWN)
