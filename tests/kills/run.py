"""Kills under load: real processes, workers that die by SIGKILL again and again, and producers that count exactly.

Each producer has one session and keeps what is not durable. `Counting` predicts the hash of all it has learned, so
every reply shows whether an event was lost, doubled or out of order; in the end the store alone has to prove the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import grpc
import grpc.aio
from ulid import ULID

from evercurrent.cli.cluster import Cluster, run_cluster
from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1 import session_pb2_grpc
from evercurrent.v1.session_pb2 import SessionOpen, SessionRequest, SessionResponse
from persistence.open import open_store
from persistence.snapshot import read_states
from tests.toys import NAN_LOSS, next_hash

MODEL = "tests.toys:Counting"
ROOT = Path(__file__).parents[2]
NUM_USERS = 24
RESULTS_BETWEEN_KILLS = (100, 1500)
RETRY_S = 0.05

BROKEN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED, grpc.StatusCode.CANCELLED)
"""How a stream may end here: its worker is gone or owns the user no more, or gRPC itself broke it off."""


class BrokenPromiseError(AssertionError):
    """An event was lost, doubled or out of order. The text says whose and where."""


@dataclass
class Tally:
    """What all producers have seen. `moved` is set at each result."""

    num_results: int = 0
    num_streams: int = 0
    num_unanswered: int = 0
    moved: asyncio.Event = field(default_factory=asyncio.Event)

    async def reach(self, num_results: int) -> None:
        while self.num_results < num_results:
            self.moved.clear()
            await self.moved.wait()


class Producer:
    """One user's only producer."""

    def __init__(self, user: str, random: Random, tally: Tally) -> None:
        self.user = user
        self.session_id = str(ULID.from_int(random.getrandbits(128) >> 1))
        self.deeds: list[int] = []
        self.hashes = [0]
        self.durable_seq = 0
        self._random = random
        self._tally = tally

    async def run(self, stub: session_pb2_grpc.SessionServiceStub, stop: asyncio.Event) -> None:
        """Produce until told to stop and all is durable."""
        while True:
            try:
                await self._stream(stub, stop)
            except grpc.aio.AioRpcError as error:
                if error.code() not in BROKEN:
                    raise
                await asyncio.sleep(RETRY_S)
            else:
                return

    async def _stream(self, stub: session_pb2_grpc.SessionServiceStub, stop: asyncio.Event) -> None:
        call = stub.Session(wait_for_ready=True)
        await call.write(
            SessionRequest(open=SessionOpen(user_id=self.user, session_id=self.session_id, wait_durable=True))
        )
        opened = (await _read(call)).opened
        self._tally.num_streams += 1
        self._check(
            opened.applied_seq >= self.durable_seq, f"{self.durable_seq} were durable, {opened.applied_seq} left"
        )
        self._check(
            opened.applied_seq <= len(self.deeds), f"{opened.applied_seq} of {len(self.deeds)} sent were applied"
        )
        seq = opened.applied_seq
        while not stop.is_set() or seq < len(self.deeds):
            seq += 1
            await call.write(SessionRequest(observation=self._observation(seq)))
            await self._until_result(call, seq)
        await call.done_writing()
        while (response := await call.read()) is not grpc.aio.EOF:
            self.durable_seq = max(self.durable_seq, response.watermark.durable_seq)
        if await call.code() is not grpc.StatusCode.OK:
            await _read(call)
        self._check(
            self.durable_seq == len(self.deeds), f"{self.durable_seq} of {len(self.deeds)} are durable at the end"
        )

    def _observation(self, seq: int) -> pb.Observation:
        """The one of this seq, a new one or one that is sent again."""
        if seq > len(self.deeds):
            self.deeds.append(self._random.randrange(NAN_LOSS))
            self.hashes.append(next_hash(self.hashes[-1], self.deeds[-1], 2, has_outcome=True))
        return pb.Observation(seq=seq, ids=[self.deeds[seq - 1], 2], features=[0.5, -1.0], value=0.5)

    async def _until_result(self, call: grpc.aio.StreamStreamCall, seq: int) -> None:
        while (response := await _read(call)).WhichOneof("response") == "watermark":
            self.durable_seq = max(self.durable_seq, response.watermark.durable_seq)
        result = response.result
        found = (result.seq, result.status, result.version, int(result.prediction[0]) if result.prediction else None)
        expected = (seq, pb.STATUS_APPLIED, seq, self.hashes[seq - 1])
        # Applied and durable, and its worker died before it was answered: the prediction is gone.
        unanswered = (seq, pb.STATUS_DUPLICATE, seq, None)
        self._check(found in (expected, unanswered), f"answered {found}, not {expected}")
        self._tally.num_unanswered += found == unanswered
        self._tally.num_results += 1
        self._tally.moved.set()

    def _check(self, holds: bool, otherwise: str) -> None:
        if not holds:
            raise BrokenPromiseError(f"{self.user}: {otherwise}")


async def _read(call: grpc.aio.StreamStreamCall) -> SessionResponse:
    """The next response; raises AioRpcError for the end of the stream."""
    response = await call.read()
    if response is grpc.aio.EOF:
        raise grpc.aio.AioRpcError(
            await call.code(), await call.initial_metadata(), await call.trailing_metadata(), await call.details()
        )
    assert isinstance(response, SessionResponse)
    return response


async def _kill_repeatedly(
    cluster: Cluster, num_kills: int, random: Random, tally: Tally, advance: Callable[[], None]
) -> None:
    for _ in range(num_kills):
        await tally.reach(tally.num_results + random.randrange(*RESULTS_BETWEEN_KILLS))
        name = random.choice(sorted(cluster.workers))
        cluster.children[name].process.kill()
        await asyncio.to_thread(cluster.restart, name)
        advance()


def kill_repeatedly(store: str, num_kills: int, seed: int, advance: Callable[[], None] = lambda: None) -> Tally:
    """Serve producers from a store, kill a worker so many times, and check all that was promised.

    Raises:
        BrokenPromiseError: it was not kept.
    """
    random, tally = Random(seed), Tally()
    producers = [Producer(f"user-{number}", Random(random.random()), tally) for number in range(NUM_USERS)]
    with run_cluster(num_workers=2, model=MODEL, search_path=ROOT, store=store) as cluster:
        asyncio.run(_produce(cluster, producers, num_kills, random, tally, advance))
    asyncio.run(_check_store(store, producers))
    return tally


async def _produce(
    cluster: Cluster,
    producers: list[Producer],
    num_kills: int,
    random: Random,
    tally: Tally,
    advance: Callable[[], None],
) -> None:
    stop = asyncio.Event()
    async with grpc.aio.insecure_channel(cluster.address) as channel, asyncio.TaskGroup() as tasks:
        stub = session_pb2_grpc.SessionServiceStub(channel)
        for producer in producers:
            tasks.create_task(producer.run(stub, stop))
        await _kill_repeatedly(cluster, num_kills, random, tally, advance)
        await tally.reach(tally.num_results + RESULTS_BETWEEN_KILLS[0])
        stop.set()


async def _check_store(store: str, producers: list[Producer]) -> None:
    """The store alone says of each user what its producer knows."""
    found: dict[str, tuple[int, int, int]] = {}
    async with open_store(store) as opened:
        async for slot in read_states(opened):
            assert not slot.damaged, slot.damaged
            for part in slot.states:
                for index, user in enumerate(part.rows.users):
                    count, _, rolled = part.rows.states[index, :3].tolist()
                    found[user.removeprefix("\0")] = (int(part.rows.versions[index]), int(count), int(rolled))
    for producer in producers:
        expected = (len(producer.deeds), len(producer.deeds), producer.hashes[-1])
        if found.get(producer.user) != expected:
            raise BrokenPromiseError(f"{producer.user}: stored {found.get(producer.user)}, not {expected}")
