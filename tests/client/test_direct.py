"""Direct mode against workers without a router, in this process: what the client promises holds, and `Counting`'s hash
proves that every observation was applied once and in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from evercurrent import connect, connect_sync
from evercurrent.cli.cluster import Cluster, run_cluster
from evercurrent.client import (
    Client,
    InvalidRequest,
    NoStore,
    ServiceFailed,
    Session,
    SessionClosed,
    SyncClient,
    Unavailable,
)
from evercurrent.settings import RouterSettings
from persistence.memory import MemoryStore
from router.membership import Listed, Listing
from router.session_stream import SessionStream
from tests.client.test_service import Count, Learner, check_all, feed_exchange, feed_session
from tests.servers import Worker, running_router, running_worker
from tests.toys import Counting, next_hash

ROOT = Path(__file__).parents[2]
FEATURES = [0.5, -1.0]
NUM_SESSIONS = 4
NUM_USERS = 8
OBSERVATIONS_BETWEEN_FAULTS = 100
TIMEOUT_S = 25.0
NOBODY = "127.0.0.1:1"


class Workers:
    """Workers on one store that come and go."""

    def __init__(self, *, has_store: bool = True) -> None:
        self.running: dict[str, Worker] = {}
        self._store = MemoryStore()
        self._has_store = has_store
        self._stacks: dict[str, AsyncExitStack] = {}

    @property
    def addresses(self) -> str:
        """As `connect` takes them."""
        return ",".join(f"{name}={worker.address}" for name, worker in self.running.items())

    async def start(self, name: str, address: str = "127.0.0.1:0") -> None:
        stack = self._stacks[name] = AsyncExitStack()
        worker = running_worker(name, Counting(), self._store, address=address, has_store=self._has_store)
        self.running[name] = await stack.enter_async_context(worker)

    async def stop(self, name: str, *, is_dead: bool = False) -> None:
        """A clean stop, or a death: without another write."""
        self.running.pop(name).is_dead = is_dead
        await self._stacks.pop(name).aclose()

    async def close(self) -> None:
        for name in list(self.running):
            await self.stop(name)


@asynccontextmanager
async def workers_of(num: int, *, has_store: bool = True) -> AsyncIterator[Workers]:
    workers = Workers(has_store=has_store)
    try:
        for number in range(num):
            await workers.start(f"worker-{number}")
        yield workers
    finally:
        await workers.close()


class ToldSource:
    """Lists whom it is told."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._changed = asyncio.Event()

    def change(self) -> None:
        self._changed.set()

    async def listings(self) -> AsyncGenerator[Listing, None]:
        while True:
            yield {name: Listed(worker.address) for name, worker in self._workers.running.items()}
            await self._changed.wait()
            self._changed.clear()


def direct(addresses: str) -> Client:
    return connect(addresses, mode="direct", timeout_s=TIMEOUT_S, close_timeout_s=TIMEOUT_S)


@asynccontextmanager
async def fed(client: Client, learners: list[Learner], count: Count) -> AsyncIterator[None]:
    """Sessions and an exchange that stream meanwhile; in the end nothing of it is lost."""
    stop = asyncio.Event()
    async with client.exchange() as exchange, AsyncExitStack() as stack:
        sessions = [await stack.enter_async_context(client.session(one.user_id)) for one in learners[:NUM_SESSIONS]]
        async with asyncio.TaskGroup() as tasks:
            for session, learner in zip(sessions, learners, strict=False):
                tasks.create_task(feed_session(session, learner, count, stop))
            for learner in learners[NUM_SESSIONS:]:
                tasks.create_task(feed_exchange(exchange, learner, count, stop))
            yield
            await count.reach(count.num + OBSERVATIONS_BETWEEN_FAULTS)
            stop.set()
        for session in sessions:
            await session.durable()
            assert (session.lost, session.at_risk, session.num_kept) == (0, 0, 0)
        await exchange.durable()
        assert exchange.lost == 0
    await check_all(client, learners)


def learners_of(num: int = NUM_SESSIONS + NUM_USERS) -> list[Learner]:
    return [Learner(f"user-{number}", number) for number in range(num)]


async def test_sessions_an_exchange_and_single_calls() -> None:
    async with workers_of(2) as workers, direct(workers.addresses) as client:
        async with fed(client, learners_of(), Count()):
            pass
        result = await client.observe("cid", ids=[1, 2], features=FEATURES, outcome=0.5, wait_for="durable")
        assert (result.version, result.durable_seq) == (1, 1)
        ranked = await client.rank(
            "cid", [{"ids": [1, 2], "features": FEATURES}, {"ids": [2, 2], "features": FEATURES}]
        )
        assert {one.prediction[0] for one in ranked} == {next_hash(0, 1, 2, has_outcome=True)}
        assert sum(worker.incarnation.engine.num_updates > 0 for worker in workers.running.values()) == 2


@pytest.mark.parametrize("is_dead", [False, True])
async def test_a_worker_that_goes_and_comes_back_costs_nothing(is_dead: bool) -> None:
    async with workers_of(2) as workers, direct(workers.addresses) as client:
        count = Count()
        async with fed(client, learners_of(), count):
            await count.reach(OBSERVATIONS_BETWEEN_FAULTS)
            address = workers.running["worker-0"].address
            await workers.stop("worker-0", is_dead=is_dead)
            await count.reach(count.num + OBSERVATIONS_BETWEEN_FAULTS)
            await workers.start("worker-0", address)


async def test_it_follows_what_the_routers_list() -> None:
    """A worker joins, another dies for good; of the two routers one is nobody's."""
    async with workers_of(1) as workers:
        source = ToldSource(workers)
        async with (
            running_router({}, RouterSettings(), source=source) as (address, routing),
            direct(f"{NOBODY},{address}") as client,
        ):
            count = Count()
            async with fed(client, learners_of(), count):
                await count.reach(OBSERVATIONS_BETWEEN_FAULTS)
                await workers.start("worker-1")
                source.change()
                engine = workers.running["worker-1"].incarnation.engine
                while not engine.num_updates:
                    await count.reach(count.num + 1)
                await workers.stop("worker-0", is_dead=True)
                source.change()
            assert routing.core.ring is not None
            assert routing.core.ring.names == ("worker-1",)


async def test_when_the_routers_are_gone_what_they_said_last_stands() -> None:
    async with workers_of(1) as workers, AsyncExitStack() as stack:
        addresses = {name: worker.address for name, worker in workers.running.items()}
        router = AsyncExitStack()
        address, _ = await router.enter_async_context(running_router(addresses, RouterSettings()))
        client = await stack.enter_async_context(direct(address))
        async with client.session("ann") as session:
            assert (await session.observe(ids=[1, 2], features=FEATURES, outcome=0.5)).applied
            await router.aclose()
            assert (await session.observe(ids=[1, 2], features=FEATURES, outcome=0.5)).version == 2
        assert (await client.predict("bob", ids=[1, 2], features=FEATURES)).version == 0


async def test_another_model_than_the_one_asked_for_is_refused() -> None:
    async with workers_of(1) as workers, connect(workers.addresses, mode="direct", model="other") as client:
        with pytest.raises(InvalidRequest, match='"other" is not served here; "counting" is') as caught:
            await client.session("ann").open()
        assert caught.value.field == "open.model"
        with pytest.raises(InvalidRequest, match="model: "):
            await client.observe("ann", ids=[1, 2], features=FEATURES, outcome=0.5)


@pytest.mark.parametrize(
    ("addresses", "why"),
    [
        (f"worker-0={NOBODY}", f"no worker has been reached of worker-0={NOBODY}"),
        (NOBODY, "no router answers: UNAVAILABLE"),
    ],
)
async def test_nobody_reached_is_said_when_time_is_up(addresses: str, why: str) -> None:
    async with connect(addresses, mode="direct", timeout_s=3.0) as client:
        calls = client.session("ann").open(), client.observe("bob", ids=[1, 2], features=FEATURES, outcome=0.5)
        for error in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(error, Unavailable)
            assert why in str(error)


async def test_without_a_store_nothing_is_durable() -> None:
    async with workers_of(2, has_store=False) as workers, direct(workers.addresses) as client:
        async with client.session("ann") as session, client.exchange() as exchange:
            assert (await session.observe(ids=[1, 2], features=FEATURES, outcome=0.5)).applied
            assert (await exchange.observe("bob", ids=[1, 2], features=FEATURES, outcome=0.5)).applied
            assert (session.has_store, exchange.has_store) == (False, False)
        with pytest.raises(NoStore):
            await client.observe("cid", ids=[1, 2], features=FEATURES, outcome=0.5, wait_for="durable")


async def test_what_the_model_refuses_is_a_result_and_the_session_goes_on() -> None:
    async with workers_of(1) as workers, direct(workers.addresses) as client, client.session("ann") as session:
        results = await asyncio.gather(
            session.observe(ids=[1], features=FEATURES, outcome=0.5),
            session.observe(ids=[1, 2], features=FEATURES, outcome=99.0),
            session.observe(ids=[1, 2], features=FEATURES, outcome=0.5),
        )
        assert [one.rejection.reason if one.rejection else "" for one in results] == ["IDS_COUNT", "OUTCOME", ""]


async def test_a_close_with_streams_open_ends_all_of_it() -> None:
    async with workers_of(1) as workers:
        before = asyncio.all_tasks()
        async with direct(workers.addresses) as client:
            session, exchange = client.session("ann"), client.exchange()
            await session.open()
            await exchange.open()
            await session.observe(ids=[1, 2], features=FEATURES, outcome=0.5)
            waiting = asyncio.create_task(session.observe(ids=[1, 2], features=FEATURES, outcome=0.5))
            await asyncio.sleep(0)
        await asyncio.gather(waiting, return_exceptions=True)
        with pytest.raises(SessionClosed):
            await session.observe(ids=[1, 2], features=FEATURES, outcome=0.5)
        with pytest.raises(SessionClosed):
            await exchange.observe("ann", ids=[1, 2], features=FEATURES, outcome=0.5)
        with pytest.raises(SessionClosed):
            await client.predict("ann", ids=[1, 2], features=FEATURES)
        left = [repr(task) for task in asyncio.all_tasks() - before]
        assert not [task for task in left if "/evercurrent/client/" in task or "/router/" in task]


async def test_a_close_waits_for_what_single_calls_sent() -> None:
    async with workers_of(1) as workers:
        async with direct(workers.addresses) as client:
            result = await client.observe("ann", ids=[1, 2], features=FEATURES, outcome=0.5)
            assert result.durable_seq == 0
        assert workers.running["worker-0"].incarnation.residents.num_at_risk == 0


async def test_a_cancelled_call_leaves_the_session_in_order() -> None:
    async with workers_of(1) as workers, direct(workers.addresses) as client, client.session("ann") as session:
        learner = Learner("ann", 1)
        for _ in range(20):
            calls = [
                asyncio.create_task(session.observe(ids=learner.next_ids(), features=FEATURES, outcome=0.5))
                for _ in range(3)
            ]
            await asyncio.sleep(0)
            calls[1].cancel()
            for result in await asyncio.gather(*calls, return_exceptions=True):
                if not isinstance(result, BaseException):
                    learner.check(result)
        await check_all(client, [learner])


async def test_a_fault_of_a_stream_is_told_and_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with workers_of(1) as workers, direct(workers.addresses) as client:

        async def broken(*_: object) -> None:
            raise ZeroDivisionError("on purpose")

        monkeypatch.setattr(SessionStream, "_read", broken)
        with pytest.raises(ServiceFailed, match="on purpose"):
            await client.session("ann").open()
        assert "a stream failed" in caplog.text


async def test_a_fault_of_the_routing_ends_everything_and_the_close_raises_it() -> None:
    class BrokenSource:
        def __init__(self) -> None:
            self.breaks = asyncio.Event()

        async def listings(self) -> AsyncGenerator[Listing, None]:
            yield {name: Listed(worker.address) for name, worker in workers.running.items()}
            await self.breaks.wait()
            raise ZeroDivisionError("on purpose")

    async with workers_of(1) as workers:
        source = BrokenSource()
        client = connect(workers.addresses, mode="direct")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("evercurrent.direct.transport.StaticSource", lambda _: source)
            await client.__aenter__()
        session = client.session("ann")
        await session.open()
        source.breaks.set()
        with pytest.raises(ServiceFailed, match="on purpose"):
            await until_it_fails(session)
        with pytest.raises(ServiceFailed, match="on purpose"):
            await client.predict("ann", ids=[1, 2], features=FEATURES)
        with pytest.raises(ServiceFailed, match="on purpose"):
            await session.close()
        with pytest.raises(ExceptionGroup) as raised:
            await client.close()
        assert raised.group_contains(ZeroDivisionError)


async def until_it_fails(session: Session) -> None:
    while True:
        await session.observe(ids=[1, 2], features=FEATURES, outcome=0.5)


@pytest.mark.parametrize(
    "addresses", ["worker-0=h:1,h:2", "worker-0=h:1,worker-0=h:2", "a=h:1,b=h:1", "-=h:1", "=h:1", "a=h:0"]
)
async def test_addresses_that_cannot_be(addresses: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        async with connect(addresses, mode="direct"):
            pass
    assert caught.value.field == "addresses"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    store = f"sqlite:{tmp_path}/store.db"
    with run_cluster(num_workers=2, model="tests.toys:Counting", search_path=ROOT, store=store) as running:
        yield running


def test_the_sync_client_does_the_same(cluster: Cluster) -> None:
    workers = [child for child in cluster.children.values() if child.name != cluster.router_name]
    for addresses in (cluster.address, ",".join(f"{one.name}={one.address}" for one in workers)):
        client = connect_sync(addresses, mode="direct")
        with client, client.session("ann") as session:
            first = session.last_seq
            assert session.observe(ids=[1, 2], features=FEATURES, outcome=0.5).applied
            session.durable()
            assert (session.durable_seq, first) == (1, 0)
        with pytest.raises(SessionClosed):
            client.observe("ann", ids=[1, 2], features=FEATURES)
    with connect_sync(cluster.address, mode="direct") as client:
        assert isinstance(client, SyncClient)
        assert client.predict("ann", ids=[1, 2], features=FEATURES).version == 2
