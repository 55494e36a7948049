"""Many users of one worker: what the load of `bench scale` makes of a link's messages."""

from __future__ import annotations

import asyncio
from collections import deque

import numpy as np
import pytest

from bench import echo, residents
from bench.residents import Population, drawn_users
from bench.run import WrongReplyError
from bench.traffic import FRAME_EVENTS, Traffic
from evercurrent.v1 import observation_pb2, worker_pb2
from evercurrent.wire import WATERMARK, Layout
from tests.bench.test_load import MS, SteppedClock

LAYOUT = Layout.of(echo.MODEL)


class FakeWorker:
    """A link that answers as the echo does, each message when it is read. `said`: what it says before that."""

    def __init__(self, clock: SteppedClock | None = None) -> None:
        self.requests: list[worker_pb2.LinkRequest] = []
        self.said: deque[worker_pb2.LinkResults] = deque()
        self.clock = clock
        self._unread: asyncio.Queue[worker_pb2.LinkRequest] = asyncio.Queue()

    async def write(self, raw: bytes) -> None:
        request = worker_pb2.LinkRequest.FromString(raw)
        self.requests.append(request)
        self._unread.put_nowait(request)

    async def read(self) -> bytes:
        if self.said:
            return worker_pb2.LinkResponse(frame=self.said.popleft()).SerializeToString()
        request = await self._unread.get()
        if self.clock is not None:
            self.clock.at_ns += MS
        return echo.link_response(request).SerializeToString()


def population(worker: FakeWorker, num_users: int, num_watched: int = 0) -> Population:
    return Population(worker, Traffic(echo.MODEL, np.random.default_rng(1)), LAYOUT, num_users, num_watched)


async def test_users_are_opened_in_groups_and_the_last_of_them_watched() -> None:
    worker = FakeWorker()
    users = drawn_users("u", 1500)
    await population(worker, 1500, num_watched=2).open(users)
    opens = [list(request.frame.opens) for request in worker.requests]
    assert [len(group) for group in opens] == [1024, 476]
    tag_opens = [tag_open for group in opens for tag_open in group]
    assert [(one.user_id, one.session_id) for one in tag_opens] == users
    assert [one.tag for one in tag_opens if one.watermarks] == [1498, 1499]


async def test_each_update_has_the_users_next_seq() -> None:
    worker = FakeWorker()
    users = population(worker, 2 * FRAME_EVENTS)
    await users.touch(0, 2 * FRAME_EVENTS)
    await users.update(np.array([3, 5]))
    await users.touch(0, FRAME_EVENTS)
    assert users.seqs[[0, 3, 5, FRAME_EVENTS]].tolist() == [2, 3, 3, 1]
    assert users.versions[[0, 3, 5, FRAME_EVENTS]].tolist() == [2, 3, 3, 1]


async def test_lone_events_count_from_their_intended_times() -> None:
    clock = SteppedClock()
    users = population(FakeWorker(clock), 4)
    latencies_ns = await users.lone_events(1000.0, 0.05, clock)
    sent = users.seqs.sum()
    assert len(latencies_ns) == sent
    assert (latencies_ns >= MS).all()
    assert users.versions.tolist() == users.seqs.tolist()


async def test_a_closed_loop_tells_when_each_answer_came() -> None:
    clock = SteppedClock()
    answered_ns = await population(FakeWorker(clock), 1).closed_loop(0, 0.005, clock)
    assert np.diff(answered_ns).tolist() == [MS] * 5


async def test_durable_is_what_watermarks_tell() -> None:
    worker = FakeWorker()
    users = population(worker, FRAME_EVENTS, num_watched=2)
    await users.touch(0, FRAME_EVENTS)
    for tag in (FRAME_EVENTS - 1, FRAME_EVENTS - 2):
        mark = np.array([(1, tag, b"")], WATERMARK).tobytes()
        worker.said.append(worker_pb2.LinkResults(watermarks=mark))
    await users.until_durable()
    assert not worker.said
    assert users.durable[-3:].tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    "said",
    [
        worker_pb2.LinkResults(ended=[worker_pb2.LinkTagEnded()]),
        worker_pb2.LinkResults(results=np.zeros(1, LAYOUT.result_dtype).tobytes()),
    ],
)
async def test_a_session_given_up_or_an_event_not_applied_ends_the_bench(
    said: worker_pb2.LinkResults,
) -> None:
    worker = FakeWorker()
    worker.said.append(said)
    with pytest.raises(WrongReplyError):
        await population(worker, 1).update(np.zeros(1, np.int64))


def refusal(tag: int, reason: observation_pb2.Reason) -> worker_pb2.LinkResults:
    rejection = observation_pb2.Rejection(reason=reason)
    return worker_pb2.LinkResults(opens=[worker_pb2.LinkTagOpened(tag=tag, rejection=rejection)])


async def test_who_is_told_to_come_back_later_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residents, "RETRY_AFTER_S", 0)
    worker = FakeWorker()
    worker.said.extend(refusal(tag, observation_pb2.REASON_OVERLOADED) for tag in (8, 9))
    users = population(worker, 10)
    await users.open(drawn_users("u", 3), first_tag=7)
    opened = [[tag_open.tag for tag_open in request.frame.opens] for request in worker.requests]
    assert opened == [[7, 8, 9], [8, 9]]
    assert users.num_refused == 2


async def test_a_session_that_is_refused_for_good_ends_the_bench() -> None:
    worker = FakeWorker()
    worker.said.append(refusal(0, observation_pb2.REASON_DATA_LOSS))
    with pytest.raises(WrongReplyError, match="DATA_LOSS"):
        await population(worker, 1).open(drawn_users("u", 1))
