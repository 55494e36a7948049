"""The client against the service itself: processes are killed under load, and `Counting`'s hash proves that every
observation was applied once and in order."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest

from evercurrent import connect, connect_sync
from evercurrent.cli.cluster import Cluster, run_cluster
from evercurrent.client import (
    Client,
    DeadlineExceeded,
    Exchange,
    InvalidRequest,
    NoStore,
    Result,
    Session,
    SessionClosed,
    Status,
    SyncSession,
)
from evercurrent.settings import RouterSettings
from tests.servers import running_service
from tests.toys import NAN_LOSS, next_hash

ROOT = Path(__file__).parents[2]
FEATURES = [0.5, -1.0]
NUM_SESSIONS = 6
NUM_USERS = 12
OBSERVATIONS_BETWEEN_KILLS = 150
TIMEOUT_S = 60.0


class Learner:
    """One user's deeds and the hashes that they must give."""

    def __init__(self, user_id: str, seed: int) -> None:
        self.user_id = user_id
        self.hashes = [0]
        self._random = Random(seed)

    def next_ids(self) -> list[int]:
        deed = self._random.randrange(NAN_LOSS)
        self.hashes.append(next_hash(self.hashes[-1], deed, 2, has_outcome=True))
        return [deed, 2]

    def check(self, result: Result) -> None:
        """That an answer tells the whole past, or that it was lost."""
        if result.status is not Status.DUPLICATE:
            assert result.applied, result
            assert (result.version, result.prediction[0]) == (result.seq, self.hashes[result.seq - 1])


class Count:
    """How much was observed by all."""

    def __init__(self) -> None:
        self.num = 0
        self._moved = asyncio.Event()

    def add(self) -> None:
        self.num += 1
        self._moved.set()

    async def reach(self, num: int) -> None:
        while self.num < num:
            self._moved.clear()
            await self._moved.wait()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with run_cluster(
        num_workers=2, model="tests.toys:Counting", search_path=ROOT, store=f"sqlite:{tmp_path}/store.db"
    ) as running:
        yield running


async def feed_session(session: Session, learner: Learner, count: Count, stop: asyncio.Event) -> None:
    while not stop.is_set():
        ids = [learner.next_ids() for _ in range(5)]
        calls = [session.observe(ids=one, features=FEATURES, outcome=0.5) for one in ids]
        for result in await asyncio.gather(*calls):
            learner.check(result)
            count.add()


async def feed_exchange(exchange: Exchange, learner: Learner, count: Count, stop: asyncio.Event) -> None:
    while not stop.is_set():
        events = [
            {"user_id": learner.user_id, "ids": learner.next_ids(), "features": FEATURES, "outcome": 0.5}
            for _ in range(5)
        ]
        for result in await exchange.observe_many(events):
            learner.check(result)
            count.add()


async def check_all(client: Client, learners: list[Learner]) -> None:
    for learner in learners:
        answer = await client.predict(learner.user_id, ids=[1, 1], features=FEATURES)
        assert (answer.version, answer.prediction[0]) == (len(learner.hashes) - 1, learner.hashes[-1])


async def kill(cluster: Cluster, name: str) -> None:
    cluster.children[name].process.kill()
    await asyncio.to_thread(cluster.restart, name)


async def test_killed_routers_and_workers_lose_and_double_nothing(cluster: Cluster) -> None:
    learners = [Learner(f"user-{number}", number) for number in range(NUM_SESSIONS + NUM_USERS)]
    count, stop = Count(), asyncio.Event()
    async with connect(cluster.address, timeout_s=TIMEOUT_S, close_timeout_s=TIMEOUT_S) as client:
        async with client.exchange() as exchange, asyncio.TaskGroup() as tasks:
            sessions = [client.session(learner.user_id) for learner in learners[:NUM_SESSIONS]]
            for session, learner in zip(sessions, learners, strict=False):
                await session.open()
                tasks.create_task(feed_session(session, learner, count, stop))
            for learner in learners[NUM_SESSIONS:]:
                tasks.create_task(feed_exchange(exchange, learner, count, stop))
            for name in (cluster.router_name, "worker-0", cluster.router_name):
                await count.reach(count.num + OBSERVATIONS_BETWEEN_KILLS)
                await kill(cluster, name)
            await count.reach(count.num + OBSERVATIONS_BETWEEN_KILLS)
            stop.set()
        for session in sessions:
            await session.close()
            assert (session.lost, session.at_risk, session.num_kept) == (0, 0, 0)
            assert session.durable_seq == session.last_seq
        assert (exchange.lost, exchange.num_kept) == (0, 0)
        await check_all(client, learners)


async def test_a_router_that_ends_its_streams_is_a_pause() -> None:
    async with running_service(num_workers=2) as service, connect(service.address) as client:
        learners = [Learner("ann", 1), Learner("bob", 2)]
        async with client.session("ann") as session, client.exchange() as exchange:
            for _ in range(5):
                calls = [session.observe(ids=learners[0].next_ids(), features=FEATURES, outcome=0.5) for _ in range(9)]
                waiting = asyncio.gather(*calls)
                event = {"user_id": "bob", "features": FEATURES, "outcome": 0.5}
                many = asyncio.gather(
                    exchange.observe_many([{**event, "ids": learners[1].next_ids()} for _ in range(9)])
                )
                await asyncio.sleep(0)
                service.core.stop()
                for result in [*await waiting]:
                    learners[0].check(result)
                for result in (await many)[0]:
                    learners[1].check(result)
        await check_all(client, learners)


async def test_a_full_router_is_not_seen_by_callers() -> None:
    """Its workers' queues and its sessions take less than is sent at once."""
    narrow = RouterSettings(
        in_flight_session_max=4, in_flight_link_max=8, in_flight_exchange_max=64, frame_events_max=64
    )
    async with running_service(settings=narrow) as service, connect(service.address) as client:
        learners = [Learner(f"user-{number}", number) for number in range(8)]
        async with client.exchange() as exchange:
            events = [
                {"user_id": learner.user_id, "ids": learner.next_ids(), "features": FEATURES, "outcome": 0.5}
                for _ in range(20)
                for learner in learners
            ]
            results = await exchange.observe_many(events)
            for learner, result in zip(learners * 20, results, strict=True):
                learner.check(result)
                assert result.applied
            (answer,) = [await exchange.predict("user-3", ids=[1, 1], features=FEATURES)]
            assert answer.prediction[0] == learners[3].hashes[-1]
            with pytest.raises(InvalidRequest, match="4 are taken on an exchange"):
                await exchange.rank("user-3", [{"ids": [1, 1], "features": FEATURES}] * 5)
        await check_all(client, learners)


async def test_a_session_goes_on_in_another_process_of_the_producer() -> None:
    async with running_service() as service:
        learner = Learner("ann", 3)
        async with connect(service.address) as client, client.session("ann") as session:
            for _ in range(3):
                learner.check(await session.observe(ids=learner.next_ids(), features=FEATURES, outcome=0.5))
        async with (
            connect(service.address) as client,
            client.session("ann", session_id=session.session_id) as resumed,
        ):
            assert resumed.last_seq == 3
            result = await resumed.observe(ids=learner.next_ids(), features=FEATURES, outcome=0.5)
            assert (result.seq, result.prediction[0]) == (4, learner.hashes[3])


async def test_without_a_store_it_serves_and_says_that_nothing_is_durable() -> None:
    async with running_service(has_store=False) as service, connect(service.address) as client:
        async with client.session("ann") as session, client.exchange() as exchange:
            assert (await session.observe(ids=[1, 2], features=FEATURES, outcome=0.5)).applied
            assert (await exchange.observe("bob", ids=[1, 2], features=FEATURES, outcome=0.5)).applied
            assert (session.has_store, exchange.has_store) == (False, False)
            assert (session.num_kept, exchange.num_kept) == (0, 0)
            for producer in (session, exchange):
                with pytest.raises(NoStore):
                    await producer.durable()
        with pytest.raises(NoStore):
            await client.observe("cid", ids=[1, 2], features=FEATURES, outcome=0.5, wait_for="durable")


async def test_what_the_model_refuses_is_a_result_and_the_session_goes_on() -> None:
    async with running_service() as service, connect(service.address) as client, client.session("ann") as session:
        results = await asyncio.gather(
            session.observe(ids=[1], features=FEATURES, outcome=0.5),
            session.observe(ids=[1, 2], features=FEATURES, outcome=99.0),
            session.observe(ids=[1, 2], features=FEATURES, outcome=0.5),
        )
        reasons = [result.rejection.reason if result.rejection else "" for result in results]
        assert reasons == ["IDS_COUNT", "OUTCOME", ""]
        with pytest.raises(InvalidRequest) as caught:
            await session.predict(ids=[1])
        assert caught.value.reason == "IDS_COUNT"


@asynccontextmanager
async def two_routers() -> AsyncIterator[str]:
    """A service of which one of the two addresses is nobody's."""
    async with running_service() as service:
        yield f"127.0.0.1:1, {service.address}"


async def test_the_addresses_are_tried_in_turns() -> None:
    async with two_routers() as addresses, connect(addresses) as client, client.session("ann") as session:
        assert (await session.observe(ids=[1, 2], features=FEATURES, outcome=0.5)).applied


def test_the_sync_client_does_the_same_from_any_thread(cluster: Cluster) -> None:
    with connect_sync(cluster.address) as client:
        with client.session("ann") as session:
            seqs: list[int] = []

            def produce(of: SyncSession) -> None:
                seqs.extend(of.observe(ids=[1, 2], features=FEATURES, outcome=0.5).seq for _ in range(20))

            threads = [threading.Thread(target=produce, args=(session,)) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert sorted(seqs) == list(range(1, 81))
            assert session.predict(ids=[1, 2], features=FEATURES).version == 80
            session.durable()
            assert session.durable_seq == session.last_seq == 80
            with pytest.raises(DeadlineExceeded):
                session.observe(ids=[1, 2], features=FEATURES, outcome=0.5, timeout_s=0)
        with client.exchange() as exchange:
            events = [{"user_id": user, "ids": [1, 2], "features": FEATURES, "outcome": 0.5} for user in ("bob", "cid")]
            assert [result.version for result in exchange.observe_many(events)] == [1, 1]
        assert client.observe("dan", ids=[1, 2], features=FEATURES, outcome=0.5, wait_for="durable").durable_seq == 1
        ranked = client.rank("dan", [{"ids": [1, 2], "features": FEATURES}])
        assert ranked[0].prediction[0] == next_hash(0, 1, 2, has_outcome=True)
    with pytest.raises(SessionClosed):
        client.observe("ann", ids=[1, 2], features=FEATURES)
    with pytest.raises(SessionClosed):
        session.observe(ids=[1, 2], features=FEATURES)


INTERRUPTED = """
import sys
from evercurrent import connect_sync
with connect_sync(sys.argv[1]) as client:
    with client.session("ann") as session:
        session.observe(ids=[1, 2], features=[0, 0], outcome=0.5)
        print("observed", flush=True)
        while True:
            session.predict(ids=[1, 2], features=[0, 0])
"""


def test_ctrl_c_ends_a_program_of_the_sync_client(cluster: Cluster) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, cluster.address], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "observed\n"
        program.send_signal(signal.SIGINT)
        _, errors = program.communicate(timeout=TIMEOUT_S)
    assert program.returncode == -signal.SIGINT
    assert errors.splitlines()[-1] == "KeyboardInterrupt"
    assert "never retrieved" not in errors
