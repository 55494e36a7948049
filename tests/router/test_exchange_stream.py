"""An Exchange stream by value: what happens between two turns of the event loop."""

from __future__ import annotations

import asyncio

from evercurrent.describe import describe
from evercurrent.settings import RouterSettings
from evercurrent.v1 import worker_pb2
from evercurrent.v1.session_pb2 import ExchangeFrame, ExchangeOpen, ExchangeRequest, TagOpen
from router.core import RoutingCore
from router.exchange_stream import ExchangeStream
from router.ring import build_ring
from tests.e2e.conversation import columns
from tests.toys import Counting


async def test_events_that_come_right_after_the_open_do_not_overtake_those_held_for_it() -> None:
    core = RoutingCore(build_ring({"worker-0": 1}), {"worker-0": "127.0.0.1:1"}, 100, 10, lambda: 5)
    opened = worker_pb2.LinkOpened(worker="worker-0", model=describe(Counting()))
    outbox = core.link_opened(0, opened, lambda: None)
    stream = ExchangeStream(core, ExchangeOpen(), RouterSettings())

    def take(frame: ExchangeFrame) -> None:
        stream._take(ExchangeRequest(frame=frame).SerializeToString())

    take(ExchangeFrame(opens=[TagOpen(tag=4, user_id="ann")], events=columns((4, 1), (4, 2))))
    sent = outbox.take().frame
    assert not sent.events
    core.receive(0, worker_pb2.LinkResults(opens=[worker_pb2.LinkTagOpened(tag=sent.opens[0].tag)]))
    take(ExchangeFrame(events=columns((4, 3))))
    await asyncio.sleep(0)
    assert core.layout.events(outbox.take().frame.events)["seq"].tolist() == [1, 2, 3]
