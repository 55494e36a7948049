"""A router that is told to stop: in band it asks its clients to leave, and waits for them and for what they sent."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

import grpc
import grpc.aio
import pytest

from evercurrent.cli.cluster import Cluster, run_cluster
from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1.session_pb2 import ExchangeOpen, ExchangeRequest
from tests.e2e.conversation import Conversation, observation
from tests.router.playing import core_of
from tests.servers import Service

MODEL = "tests.toys:Counting"
SEARCH_PATH = Path(__file__).parents[2]
DRAIN_TIMEOUT_S = 2


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A router that gives its clients two seconds, and a worker."""
    config = tmp_path / "evercurrent.toml"
    config.write_text(f"[router]\ndrain_timeout_s = {DRAIN_TIMEOUT_S}\n")
    store = f"sqlite:{tmp_path}/store.db"
    with run_cluster(num_workers=1, model=MODEL, search_path=SEARCH_PATH, store=store, config=config) as running:
        yield running


def stop_router(cluster: Cluster) -> None:
    cluster.children[cluster.router_name].process.send_signal(signal.SIGTERM)


async def exit_code(cluster: Cluster) -> int:
    return await asyncio.to_thread(cluster.children[cluster.router_name].process.wait)


async def test_clients_that_leave_lose_nothing_and_let_the_router_go(cluster: Cluster) -> None:
    async with grpc.aio.insecure_channel(cluster.address) as channel:
        service = Service(cluster.address, core_of(), {}, channel)
        conversation = Conversation(service)
        opened = await conversation.open("ann")
        exchange = service.sessions.Exchange()
        await exchange.write(ExchangeRequest(open=ExchangeOpen()))
        assert (await exchange.read()).HasField("opened")
        assert (await conversation.observe(1)).version == 1

        stop_router(cluster)
        asked = (await conversation.reply()).go_away
        assert (asked.session_id, asked.grace_ms) == (opened.session_id, 1000 * DRAIN_TIMEOUT_S)
        assert (await exchange.read()).go_away.grace_ms == 1000 * DRAIN_TIMEOUT_S
        late = Conversation(service)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await late.open("bob")
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert (await conversation.observe(2)).version == 2
        assert await conversation.finish() == []
        await exchange.done_writing()
        assert await exchange.read() is grpc.aio.EOF
        assert await exchange.code() is grpc.StatusCode.OK
        assert await exit_code(cluster) == 0

    await asyncio.to_thread(cluster.restart, cluster.router_name)
    async with grpc.aio.insecure_channel(cluster.address) as channel:
        await channel.channel_ready()
        service = Service(cluster.address, core_of(), {}, channel)
        again = Conversation(service)
        assert (await again.open("ann", opened.session_id)).durable_seq == 2
        assert await again.finish() == []


async def test_a_client_that_stays_is_ended_when_its_time_is_over(cluster: Cluster) -> None:
    async with grpc.aio.insecure_channel(cluster.address) as channel:
        service = Service(cluster.address, core_of(), {}, channel)
        conversation = await Conversation.opened(service, "ann")
        stop_router(cluster)
        assert (await conversation.reply()).HasField("go_away")
        await conversation.send(observation=observation(1))
        assert (await conversation.reply()).result.status == pb.STATUS_APPLIED
        assert await conversation.ended() == (grpc.StatusCode.UNAVAILABLE, "the router is stopping")
        assert await exit_code(cluster) == 0
