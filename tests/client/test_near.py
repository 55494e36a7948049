"""A Session whose two ends are in one process: whatever is handed over and whatever is written, replies keep their
order."""

from __future__ import annotations

import asyncio

import grpc
import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from evercurrent.client.results import Result
from evercurrent.direct.stream import CANCELLED, DirectStream
from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1 import worker_pb2
from evercurrent.v1.columns_pb2 import EVENT_KIND_OBSERVATION, EVENT_KIND_QUERY
from evercurrent.v1.session_pb2 import SessionOpen, SessionRequest, SessionResponse
from router.core import RoutingCore
from router.outbox import Outbox
from router.session_stream import serve_session
from router.streams import Door
from tests.router.playing import WORKER, core_of, link

Said = tuple[str, int]


class Client:
    """Sends, and notes what comes, by either way."""

    def __init__(self, stream: DirectStream[SessionRequest, SessionResponse]) -> None:
        self.stream = stream
        self.sent: list[Said] = []
        self.heard: list[Said] = []
        self.num_handed_over = 0
        self.is_deaf = False

    def take(self, result: Result) -> bool:
        if not self.is_deaf:
            self.heard.append(("observation", result.seq))
            self.num_handed_over += 1
        return not self.is_deaf

    def send(self, kind: str) -> None:
        if not self.stream.near.has_room:
            return
        number = sum(one[0] == kind for one in self.sent) + 1
        self.sent.append((kind, number))
        if kind == "observation":
            self.stream.near.give(pb.Observation(seq=number, ids=[1, 2], features=[0.5, 0.5], value=1.0))
        else:
            candidates = [pb.Candidate(ids=[1, 2], features=[0.5, 0.5])] * 2
            self.stream.near.give(pb.Query(query_id=number, candidates=candidates))

    async def read(self) -> None:
        while (response := await self.stream.read()) is not None:
            if response.HasField("query_result"):
                self.heard.append(("query", response.query_result.query_id))
            else:
                self.heard.append(("observation", response.result.seq))


def answer(core: RoutingCore, outbox: Outbox) -> int:
    """Play the worker for what waits: all is well. How many events waited."""
    frame = outbox.take().frame
    if frame.opens:
        core.receive(
            WORKER, worker_pb2.LinkResults(opens=[worker_pb2.LinkTagOpened(tag=one.tag) for one in frame.opens])
        )
    events = core.layout.events(frame.events)
    results = np.zeros(len(events), core.layout.result_dtype)
    for name in ("seq", "tag", "stamp_us", "kind"):
        results[name] = events[name]
    results["status"] = np.where(events["kind"] == EVENT_KIND_QUERY, pb.STATUS_ANSWERED, pb.STATUS_APPLIED)
    results["applied_seq"] = np.where(events["kind"] == EVENT_KIND_OBSERVATION, events["seq"], 0)
    if len(events):
        core.receive(WORKER, worker_pb2.LinkResults(results=results.tobytes()))
    return len(events)


async def play(script: list[str]) -> Client:
    """A session from its open to its end."""
    core = core_of()
    outbox = link(core)
    stream = DirectStream[SessionRequest, SessionResponse](SessionResponse)
    client = Client(stream)
    serving = asyncio.create_task(
        stream.serve(lambda context: serve_session(core, 1 << 16, context, Door(), near=context))
    )
    stream.served_by(serving, lambda: CANCELLED)
    await stream.write(SessionRequest(open=SessionOpen(user_id="ann")))
    while not core.num_feeds:
        answer(core, outbox)
        await asyncio.sleep(0)
    answer(core, outbox)
    opened = await stream.read()
    assert opened is not None
    assert opened.HasField("opened")
    stream.near.listen(client.take)
    reading = asyncio.create_task(client.read())
    for what in script:
        if what in ("observation", "query"):
            client.send(what)
        elif what == "answer":
            answer(core, outbox)
        elif what == "turn":
            await asyncio.sleep(0)
        else:
            client.is_deaf = what == "deaf"
    for _ in range(10 + 10 * len(client.sent)):
        answer(core, outbox)
        await asyncio.sleep(0)
    await stream.done_writing()
    while not serving.done():
        answer(core, outbox)
        await asyncio.sleep(0)
    await reading
    assert (await stream.ending()).code is grpc.StatusCode.OK
    return client


actions = st.sampled_from(["observation", "observation", "query", "answer", "turn", "turn", "deaf", "hears"])


@given(st.lists(actions, max_size=60))
@example(["deaf", "observation", "observation", "answer", "turn", "hears", "observation", "answer", "turn"])
def test_replies_keep_their_order(script: list[str]) -> None:
    client = asyncio.run(play(script))
    assert client.heard == client.sent


async def test_results_are_handed_over() -> None:
    client = await play(["turn", "observation", "answer", "observation", "observation", "answer"])
    assert client.heard == [("observation", 1), ("observation", 2), ("observation", 3)]
    assert client.num_handed_over == 3
