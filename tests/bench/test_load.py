"""The client's side of the benches: what counts as latency, and that nothing but applied updates does."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

import grpc
import numpy as np
import pytest

from bench import echo, load, pacing, traffic
from bench.run import WrongReplyError
from bench.traffic import FRAME_EVENTS, Traffic
from evercurrent.v1 import columns_pb2, observation_pb2, session_pb2, wire_pb2
from evercurrent.wire import Layout

MS = 1_000_000


class SteppedClock:
    """A clock that moves when everybody waits: to the earliest time that somebody waits for."""

    def __init__(self) -> None:
        self.at_ns = 0

    def now_ns(self) -> int:
        return self.at_ns

    async def sleep_until(self, at_ns: int) -> None:
        self.at_ns = max(self.at_ns, at_ns)


class StallingPeer:
    """A stream that answers at once, except that one write takes `stall_ns`: nothing else can be sent meanwhile."""

    def __init__(self, clock: SteppedClock, stall_at: int, stall_ns: int) -> None:
        self.clock = clock
        self.stall_at = stall_at
        self.stall_ns = stall_ns
        self.written: list[bytes] = []
        self.replies: asyncio.Queue[bytes] = asyncio.Queue()

    async def write(self, request: bytes) -> None:
        if len(self.written) == self.stall_at:
            self.clock.at_ns += self.stall_ns
        self.written.append(request)
        self.replies.put_nowait(request)
        await self.replies.join()

    async def read(self) -> object:
        reply = await self.replies.get()
        self.replies.task_done()
        return reply


async def test_an_open_loop_charges_a_stall_to_everything_that_was_to_be_sent_meanwhile() -> None:
    clock = SteppedClock()
    peer = StallingPeer(clock, stall_at=1, stall_ns=35 * MS)
    intended_ns = np.array([10, 20, 30, 40, 50, 60, 70], np.int64) * MS

    replies = await load.open_loop(peer, [b"%d" % i for i in range(7)], intended_ns, clock)

    assert (replies.latencies_ns // MS).tolist() == [0, 35, 25, 15, 5, 0, 0]
    assert replies.raw == [b"%d" % i for i in range(7)]


async def test_an_open_loop_does_not_wait_for_replies() -> None:
    clock = SteppedClock()
    peer = SilentPeer(num_requests=3)
    task = asyncio.create_task(load.open_loop(peer, [b"a", b"b", b"c"], np.array([1, 2, 3], np.int64), clock))
    await peer.all_written.wait()
    assert not task.done()
    peer.answer()
    assert (await task).raw == [b"a", b"b", b"c"]


class SilentPeer:
    """A stream that answers only when told to, or never."""

    def __init__(self, num_requests: int) -> None:
        self.num_requests = num_requests
        self.written: list[bytes] = []
        self.all_written = asyncio.Event()
        self.answers = asyncio.Event()
        self.unread: deque[bytes] = deque()

    def answer(self) -> None:
        self.unread.extend(self.written)
        self.answers.set()

    async def write(self, request: bytes) -> None:
        self.written.append(request)
        if len(self.written) == self.num_requests:
            self.all_written.set()

    async def read(self) -> object:
        await self.answers.wait()
        return self.unread.popleft()


async def test_a_closed_loop_has_one_request_unanswered() -> None:
    peer = SilentPeer(num_requests=1)
    task = asyncio.create_task(load.closed_loop(peer, [b"a", b"b"]))
    await peer.all_written.wait()
    assert peer.written == [b"a"]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert peer.written == [b"a"]


class EndedPeer:
    """A stream that has ended."""

    async def write(self, request: bytes) -> None:
        pass

    async def read(self) -> object:
        return grpc.aio.EOF


async def test_a_stream_that_ends_early_is_a_wrong_reply() -> None:
    with pytest.raises(WrongReplyError, match="ended before"):
        await load.closed_loop(EndedPeer(), [b"a"])


class Recutter:
    """A stream that answers frames late, and cut otherwise than they came."""

    def __init__(self, cuts: Sequence[int]) -> None:
        self.cuts = deque(cuts)
        self.in_flight = 0
        self.in_flight_max = 0
        self.enough = asyncio.Event()

    async def write(self, request: bytes) -> None:
        self.in_flight += FRAME_EVENTS
        self.in_flight_max = max(self.in_flight, self.in_flight_max)
        self.enough.set()

    async def read(self) -> object:
        size = self.cuts.popleft()
        while self.in_flight < size:
            self.enough.clear()
            await self.enough.wait()
        self.in_flight -= size
        return bytes(size)


async def test_a_pump_keeps_to_its_window_and_counts_events_not_replies() -> None:
    peer = Recutter([100, 412, 1, 255, 256])
    await load.pump(peer, [b"frame"] * 4, window=2, applied=len)
    assert peer.in_flight_max == 2 * FRAME_EVENTS
    assert not peer.cuts


async def test_a_pump_refuses_more_results_than_events() -> None:
    peer = Recutter([200, 100])
    peer.in_flight = 44
    with pytest.raises(ExceptionGroup) as raised:
        await load.pump(peer, [b"frame"], window=1, applied=len)
    assert raised.group_contains(WrongReplyError, match="44 more results")


def session_reply(seq: int, status: observation_pb2.Status) -> bytes:
    result = observation_pb2.ObservationResult(seq=seq, status=status)
    return session_pb2.SessionResponse(result=result).SerializeToString()


@pytest.mark.parametrize(
    "reply",
    [
        session_reply(6, observation_pb2.STATUS_REJECTED),
        session_reply(6, observation_pb2.STATUS_DUPLICATE),
        session_reply(7, observation_pb2.STATUS_APPLIED),
        session_pb2.SessionResponse(rejected=observation_pb2.Rejection()).SerializeToString(),
    ],
)
def test_a_session_reply_that_is_not_the_next_applied_update_ends_the_bench(reply: bytes) -> None:
    good = session_reply(5, observation_pb2.STATUS_APPLIED)
    load.check_session(load.Replies(np.zeros(1, np.int64), [good]), 5)
    with pytest.raises(WrongReplyError, match="seq 6"):
        load.check_session(load.Replies(np.zeros(2, np.int64), [good, reply]), 5)


class DurablePeer:
    """A session that answers each request at once and tells watermarks when it is half-closed, a millisecond apart."""

    def __init__(self, clock: SteppedClock, watermarks: Sequence[int]) -> None:
        self.clock = clock
        self.watermarks = deque(watermarks)
        self.replies: asyncio.Queue[object] = asyncio.Queue()
        self.num_written = 0

    async def write(self, request: bytes) -> None:
        self.num_written += 1
        self.replies.put_nowait(session_reply(self.num_written, observation_pb2.STATUS_APPLIED))

    async def done_writing(self) -> None:
        for seq in self.watermarks:
            watermark = session_pb2.Watermark(durable_seq=seq)
            self.replies.put_nowait(session_pb2.SessionResponse(watermark=watermark).SerializeToString())
        self.replies.put_nowait(grpc.aio.EOF)

    async def read(self) -> object:
        reply = await self.replies.get()
        self.clock.at_ns += MS
        return reply


async def test_an_observation_lags_until_a_watermark_covers_it() -> None:
    clock = SteppedClock()
    intended_ns = np.array([1, 2, 3, 4], np.int64)
    lags_ns = await load.durable_lags(DurablePeer(clock, [1, 3, 4]), [b""] * 4, intended_ns, clock)
    told_ns = lags_ns + intended_ns
    assert (np.diff(told_ns) == [MS, 0, MS]).all()


@pytest.mark.parametrize("watermarks", [[], [1, 3]])
async def test_what_is_never_told_to_be_durable_ends_the_bench(watermarks: list[int]) -> None:
    clock = SteppedClock()
    with pytest.raises(WrongReplyError, match=r"4 were applied and [03] are durable"):
        await load.durable_lags(DurablePeer(clock, watermarks), [b""] * 4, np.zeros(4, np.int64), clock)


def exchange_reply(statuses: bytes) -> bytes:
    results = wire_pb2.WireResultColumns(statuses=statuses)
    if observation_pb2.STATUS_REJECTED in statuses:
        rejection = observation_pb2.Rejection(reason=observation_pb2.REASON_OVERLOADED)
        results.rejections.append(columns_pb2.IndexedRejection(index=1, rejection=rejection))
    return wire_pb2.WireExchangeResponse(frame=wire_pb2.WireExchangeResults(results=results)).SerializeToString()


def test_an_exchange_reply_counts_its_applied_events() -> None:
    assert load.applied_of_exchange(exchange_reply(bytes([observation_pb2.STATUS_APPLIED] * 3))) == 3


def test_an_exchange_reply_with_another_status_ends_the_bench_and_says_why() -> None:
    statuses = bytes([observation_pb2.STATUS_APPLIED, observation_pb2.STATUS_REJECTED])
    with pytest.raises(WrongReplyError, match="REASON_OVERLOADED"):
        load.applied_of_exchange(exchange_reply(statuses))
    with pytest.raises(WrongReplyError):
        load.applied_of_exchange(exchange_reply(b""))


async def test_the_echo_answers_every_kind_of_load_with_as_many_applied_updates() -> None:
    drawn = Traffic(echo.MODEL, np.random.default_rng(1))
    users = [f"user-{i}" for i in range(1500)]
    frames = [drawn.exchange_frame(256 * group, 1) for group in range(5)]
    with echo.run_echo() as servers:
        for address in (servers.one_hop, servers.two_hops):
            async with load.connect(address) as channel:
                session = await load.open_session(channel, traffic.session_open("user"))
                load.check_session(await load.closed_loop(session, drawn.session_requests(1, 10)), 1)
                await load.close(session)
                exchange = await load.open_exchange(channel, traffic.exchange_opens(users), len(users))
                await load.pump(exchange, frames, 3, load.applied_of_exchange)
                await load.close(exchange)
        async with load.connect(servers.link) as channel:
            link = await load.open_link(channel, traffic.link_opens([(user, "") for user in users], 4096), len(users))
            applied = load.applied_of_link(Layout.of(echo.MODEL))
            await load.pump(link, [drawn.link_frame(256 * group, 1) for group in range(5)], 3, applied)
            await load.close(link)


def test_the_echo_speaks_the_records_of_the_link() -> None:
    layout = Layout.of(echo.MODEL)
    for ours, theirs in ((echo.EVENT, layout.event_dtype), (echo.RESULT, layout.result_dtype)):
        assert ours.itemsize == theirs.itemsize
        assert ours.names is not None
        assert theirs.names is not None
        assert ours.fields is not None
        assert theirs.fields is not None
        assert set(theirs.names) - set(ours.names) <= {"features"}
        for name in set(ours.names) - {"padding"}:
            assert ours.fields[name][1] == theirs.fields[name][1], name
    assert echo.EVENT_STRUCT.size == layout.event_dtype.itemsize
    assert echo.RESULT_STRUCT.size == layout.result_dtype.itemsize


def test_traffic_is_seeded_and_fits_the_model() -> None:
    first, second = (Traffic(echo.MODEL, np.random.default_rng(3)) for _ in range(2))
    requests = first.session_requests(5, 200)
    assert requests == second.session_requests(5, 200)
    for seq, raw in enumerate(requests, 5):
        observation = session_pb2.SessionRequest.FromString(raw).observation
        assert observation.seq == seq
        assert all(0 <= id_ < field.size for id_, field in zip(observation.ids, echo.MODEL.ids, strict=True))
        assert observation.value in (0.0, 1.0)


def test_a_frame_holds_one_event_of_each_of_its_users() -> None:
    raw = Traffic(echo.MODEL, np.random.default_rng(3)).exchange_frame(512, 9)
    columns = wire_pb2.WireExchangeRequest.FromString(raw).frame.events
    events = Layout.of(echo.MODEL).events_of_columns(columns)
    assert events["tag"].tolist() == list(range(512, 512 + FRAME_EVENTS))
    assert set(events["seq"].tolist()) == {9}


def test_arrivals_are_poisson_of_the_offered_rate() -> None:
    streams = pacing.poisson_arrivals(500.0, 20.0, 8, np.random.default_rng(11))
    times_ns = np.sort(np.concatenate(streams))
    gaps_ms = np.diff(times_ns) / MS
    assert len(streams) == 8
    assert all((np.diff(stream) >= 0).all() for stream in streams)
    assert 0 <= times_ns[0] < times_ns[-1] < 20e9
    assert len(times_ns) == pytest.approx(10_000, rel=0.05)
    assert gaps_ms.std() == pytest.approx(gaps_ms.mean(), rel=0.05)


async def test_the_precise_clock_wakes_everybody_in_order_and_never_early() -> None:
    woken: list[int] = []
    with pacing.precise_clock() as clock:
        start_ns = clock.now_ns()

        async def sleeper(after_ns: int) -> None:
            await clock.sleep_until(start_ns + after_ns)
            assert clock.now_ns() >= start_ns + after_ns
            woken.append(after_ns)

        async with asyncio.TaskGroup() as group:
            for after_ns in (3 * MS, MS, 2 * MS, MS // 2, -MS):
                group.create_task(sleeper(after_ns))
    assert woken == [-MS, MS // 2, MS, 2 * MS, 3 * MS]
