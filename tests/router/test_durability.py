"""Streams and calls that wait until all is durable: a real router, real gRPC, a worker that the test plays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
import grpc.aio
import numpy as np
import pytest
from ulid import ULID

from evercurrent.describe import describe
from evercurrent.serving import bind, new_server
from evercurrent.settings import RouterSettings
from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1 import session_pb2_grpc, worker_pb2, worker_pb2_grpc
from evercurrent.v1.columns_pb2 import EVENT_KIND_CLOSE
from evercurrent.v1.session_pb2 import (
    ExchangeFrame,
    ExchangeOpen,
    ExchangeRequest,
    ObserveRequest,
    SessionOpen,
    SessionRequest,
    TagOpen,
)
from evercurrent.wire import WATERMARK, Layout, Records
from router.core import RoutingCore
from router.link import SERVICE
from tests.e2e.conversation import columns, observation
from tests.router.playing import WORKER
from tests.servers import running_router
from tests.toys import Counting

MODEL = describe(Counting())
LAYOUT = Layout.of(MODEL)


class PlayedWorker(worker_pb2_grpc.WorkerServiceServicer):  # type: ignore[misc]
    """Opens and applies what comes; says what is durable when the test says so."""

    def __init__(self) -> None:
        self.opening = worker_pb2.LinkOpen()
        self.opens: list[worker_pb2.LinkTagOpen] = []
        self.slots: list[int] | None = None
        self.events: list[tuple[int, int, int]] = []
        self.durable_seq = 0
        self.durable_seq_of_results = 0
        self.status = pb.STATUS_APPLIED
        self._context: grpc.aio.ServicerContext | None = None
        self._moved = asyncio.Condition()
        self._writing = asyncio.Lock()

    async def Link(self, requests: AsyncIterator[worker_pb2.LinkRequest], context: grpc.aio.ServicerContext) -> None:
        self._context = context
        async for request in requests:
            if request.HasField("open"):
                self.opening = request.open
                await context.write(
                    worker_pb2.LinkResponse(
                        opened=worker_pb2.LinkOpened(worker="worker-0", model=MODEL, has_store=True)
                    )
                )
            else:
                await self._take(request.frame)

    async def _take(self, frame: worker_pb2.LinkFrame) -> None:
        events = LAYOUT.events(frame.events)
        answers = [
            worker_pb2.LinkTagOpened(tag=request.tag, applied_seq=self.durable_seq, durable_seq=self.durable_seq)
            for request in frame.opens
        ]
        await self.tell(worker_pb2.LinkResults(opens=answers, results=self._results(events).tobytes()))
        async with self._moved:
            self.opens += frame.opens
            self.slots = list(frame.slots.slots) if frame.HasField("slots") else self.slots
            self.events += zip(*(events[name].tolist() for name in ("tag", "seq", "kind")), strict=True)
            self._moved.notify_all()

    def _results(self, events: Records) -> Records:
        results = np.zeros(len(events), LAYOUT.result_dtype)
        for name in ("tag", "seq", "kind"):
            results[name] = events[name]
        results["status"] = self.status
        results["applied_seq"] = events["seq"]
        results["version"] = 7
        results["durable_seq"] = self.durable_seq_of_results
        return results

    async def tell(self, frame: worker_pb2.LinkResults) -> None:
        assert self._context is not None
        async with self._writing:
            await self._context.write(worker_pb2.LinkResponse(frame=frame))

    async def watermark(self, *tags_and_seqs: tuple[int, int]) -> None:
        records = np.zeros(len(tags_and_seqs), WATERMARK)
        records["tag"], records["durable_seq"] = zip(*tags_and_seqs, strict=True)
        await self.tell(worker_pb2.LinkResults(watermarks=records.tobytes()))

    async def end(self, tag: int) -> None:
        why = pb.Rejection(reason=pb.REASON_SESSION_FORGOTTEN, message="forgotten")
        await self.tell(worker_pb2.LinkResults(ended=[worker_pb2.LinkTagEnded(tag=tag, rejection=why)]))

    async def told_slots(self) -> list[int]:
        """The slots that it is to serve, once it was told."""
        async with self._moved:
            await self._moved.wait_for(lambda: self.slots is not None)
        assert self.slots is not None
        return self.slots

    async def tag_of(self, user_id: str) -> int:
        """The tag of a user, once it is open."""
        async with self._moved:
            await self._moved.wait_for(lambda: any(request.user_id == user_id for request in self.opens))
        return next(request.tag for request in self.opens if request.user_id == user_id)

    async def has(self, num_events: int) -> None:
        """Wait until so many events came."""
        async with self._moved:
            await self._moved.wait_for(lambda: len(self.events) >= num_events)

    def closed_tags(self) -> list[int]:
        return [tag for tag, _, kind in self.events if kind == EVENT_KIND_CLOSE]


@dataclass
class Played:
    """A router, its only worker and stubs that call it."""

    worker: PlayedWorker
    core: RoutingCore
    sessions: session_pb2_grpc.SessionServiceStub


@asynccontextmanager
async def _serving(server: grpc.aio.Server) -> AsyncIterator[str]:
    address = bind(server, "127.0.0.1:0")
    await server.start()
    try:
        yield address
    finally:
        await server.stop(None)


@pytest.fixture
async def played() -> AsyncIterator[Played]:
    worker = PlayedWorker()
    worker_server = await new_server([], [SERVICE])
    worker_pb2_grpc.add_WorkerServiceServicer_to_server(worker, worker_server)
    async with _serving(worker_server) as worker_address:
        settings = RouterSettings()
        async with (
            running_router({"worker-0": worker_address}, settings) as (address, routing),
            grpc.aio.insecure_channel(address) as channel,
        ):
            yield Played(worker, routing.core, session_pb2_grpc.SessionServiceStub(channel))


async def open_session(played: Played, user_id: str = "ann", wait_durable: bool = True) -> grpc.aio.StreamStreamCall:
    call = played.sessions.Session()
    await call.write(SessionRequest(open=SessionOpen(user_id=user_id, wait_durable=wait_durable)))
    assert (await call.read()).HasField("opened")
    return call


async def observe_all(call: grpc.aio.StreamStreamCall, seqs: Sequence[int]) -> None:
    for seq in seqs:
        await call.write(SessionRequest(observation=observation(seq)))
    for seq in seqs:
        assert (await call.read()).result.seq == seq


async def open_exchange(played: Played) -> grpc.aio.StreamStreamCall:
    call = played.sessions.Exchange()
    await call.write(ExchangeRequest(open=ExchangeOpen(wait_durable=True)))
    assert (await call.read()).HasField("opened")
    return call


async def round_trip(played: Played) -> None:
    """What the router was about to do by now, the worker has seen."""
    num_events = len(played.worker.events)
    await played.sessions.Observe(ObserveRequest(user_id="other", observation=observation()))
    await played.worker.has(num_events + 1)


async def results_of(call: grpc.aio.StreamStreamCall, num_results: int) -> list[tuple[int, int, int]]:
    """Tag, seq and durable_seq of so many results."""
    told: list[tuple[int, int, int]] = []
    while len(told) < num_results:
        results = (await call.read()).frame.results
        durable = list(results.durable_seqs) or [0] * len(results.tags)
        told += zip(results.tags, results.seqs, durable, strict=True)
    return told


async def test_the_worker_is_told_its_slots(played: Played) -> None:
    assert await played.worker.told_slots() == list(range(played.worker.opening.slots))


async def test_a_session_ends_when_its_last_watermark_was_told(played: Played) -> None:
    call = await open_session(played)
    tag = await played.worker.tag_of("ann")
    await observe_all(call, [1, 2])
    await played.worker.watermark((tag, 1))
    assert (await call.read()).watermark.durable_seq == 1
    await call.write(SessionRequest(observation=observation(3)))
    await call.done_writing()
    assert (await call.read()).result.seq == 3
    await played.worker.watermark((tag, 2))
    assert (await call.read()).watermark.durable_seq == 2
    assert played.worker.closed_tags() == []
    await played.worker.watermark((tag, 3))
    assert (await call.read()).watermark.durable_seq == 3
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK


async def test_a_session_that_learns_it_from_a_result_ends_as_well(played: Played) -> None:
    call = await open_session(played)
    played.worker.durable_seq_of_results = 1
    await observe_all(call, [1])
    assert (await call.read()).watermark.durable_seq == 1
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF


async def test_a_session_of_which_all_is_durable_waits_for_nothing(played: Played) -> None:
    played.worker.durable_seq = 4
    call = await open_session(played)
    await call.write(SessionRequest(observation=observation(4)))
    again = (await call.read()).result
    assert (again.status, again.applied_seq, again.durable_seq) == (pb.STATUS_DUPLICATE, 4, 4)
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF


async def test_a_stream_that_did_not_ask_waits_for_nothing_and_its_session_is_kept_all_the_same(
    played: Played,
) -> None:
    call = await open_session(played, wait_durable=False)
    await observe_all(call, [1])
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    tag = await played.worker.tag_of("ann")
    assert (len(played.core.log), played.worker.closed_tags()) == (1, [])
    await played.worker.watermark((tag, 1))
    await played.worker.has(2)
    assert played.worker.closed_tags() == [tag]


async def test_a_session_that_the_worker_gives_up_while_it_waits_is_aborted(played: Played) -> None:
    call = await open_session(played)
    await observe_all(call, [1])
    await call.done_writing()
    await played.worker.end(await played.worker.tag_of("ann"))
    assert await call.code() is grpc.StatusCode.ABORTED
    assert await call.details() == "forgotten"


async def test_an_exchange_closes_tags_when_they_are_durable_and_waits_for_the_open_ones(played: Played) -> None:
    call = await open_exchange(played)
    opens = [TagOpen(tag=at, user_id=name) for at, name in enumerate(["ann", "bob"])]
    await call.write(ExchangeRequest(frame=ExchangeFrame(opens=opens, events=columns((0, 1), (1, 1)), closes=[0])))
    ann, bob = [await played.worker.tag_of(name) for name in ("ann", "bob")]
    assert sorted(await results_of(call, 2)) == [(0, 1, 0), (1, 1, 0)]
    await call.write(ExchangeRequest(frame=ExchangeFrame(events=columns((0, 2)))))
    late = (await call.read()).frame.results
    assert [indexed.rejection.reason for indexed in late.rejections] == [pb.REASON_TAG]
    await call.done_writing()
    assert played.worker.closed_tags() == []
    await played.worker.watermark((ann, 1))
    assert await results_of(call, 1) == [(0, 0, 0)]
    await round_trip(played)
    assert bob not in played.worker.closed_tags()
    await played.worker.watermark((bob, 1))
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK


async def test_an_exchange_is_told_of_a_tag_given_up_while_its_close_waits(played: Played) -> None:
    call = await open_exchange(played)
    frame = ExchangeFrame(opens=[TagOpen(tag=0, user_id="ann")], events=columns((0, 1)), closes=[0])
    await call.write(ExchangeRequest(frame=frame))
    await call.done_writing()
    assert await results_of(call, 1) == [(0, 1, 0)]
    await played.worker.end(await played.worker.tag_of("ann"))
    ended = (await call.read()).frame.opens
    assert [(answer.tag, answer.rejection.reason) for answer in ended] == [(0, pb.REASON_SESSION_FORGOTTEN)]
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK


async def test_an_observation_is_answered_when_it_is_durable(played: Played) -> None:
    request = ObserveRequest(
        user_id="ann", session_id=str(ULID()), observation=observation(1), wait_for=pb.WAIT_FOR_DURABLE
    )
    call = played.sessions.Observe(request)
    tag = await played.worker.tag_of("ann")
    assert played.worker.opens[0].watermarks
    await played.worker.watermark((tag, 0))
    await round_trip(played)
    assert tag not in played.worker.closed_tags()
    await played.worker.watermark((tag, 3))
    result = (await call).result
    assert (result.seq, result.status, result.durable_seq) == (1, pb.STATUS_APPLIED, 3)


async def test_a_duplicate_that_is_durable_is_answered_at_once(played: Played) -> None:
    played.worker.durable_seq = 4
    played.worker.status = pb.STATUS_DUPLICATE
    request = ObserveRequest(
        user_id="ann", session_id=str(ULID()), observation=observation(3), wait_for=pb.WAIT_FOR_DURABLE
    )
    result = (await played.sessions.Observe(request)).result
    assert (result.status, result.durable_seq) == (pb.STATUS_DUPLICATE, 4)


async def test_an_observation_without_a_session_waits_for_its_version(played: Played) -> None:
    request = ObserveRequest(user_id="ann", observation=observation(), wait_for=pb.WAIT_FOR_DURABLE)
    call = played.sessions.Observe(request)
    tag = await played.worker.tag_of("ann")
    await played.worker.watermark((tag, 6))
    await round_trip(played)
    assert not call.done()
    assert tag not in played.worker.closed_tags()
    await played.worker.watermark((tag, 7))
    result = (await call).result
    assert (result.version, result.durable_seq) == (7, 0)


async def test_an_observation_that_the_worker_gives_up_while_it_waits_is_aborted(played: Played) -> None:
    request = ObserveRequest(user_id="ann", observation=observation(), wait_for=pb.WAIT_FOR_DURABLE)
    call = played.sessions.Observe(request)
    await played.worker.end(await played.worker.tag_of("ann"))
    assert await call.code() is grpc.StatusCode.ABORTED
    assert played.core.links[WORKER].num_in_flight == len(played.core.sessions) == 0


async def test_the_deadline_ends_the_wait_and_the_session(played: Played) -> None:
    request = ObserveRequest(user_id="ann", observation=observation(), wait_for=pb.WAIT_FOR_DURABLE)
    call = played.sessions.Observe(request, timeout=0.3)
    assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await played.worker.has(2)
    assert played.worker.closed_tags() == [await played.worker.tag_of("ann")]
