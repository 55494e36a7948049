"""An Exchange stream by value: what happens between two turns of the event loop."""

from __future__ import annotations

import asyncio

from evercurrent.settings import RouterSettings
from evercurrent.v1 import worker_pb2
from evercurrent.v1.session_pb2 import ExchangeFrame, ExchangeOpen, ExchangeRequest, TagOpen
from router.exchange_stream import ExchangeStream
from tests.e2e.conversation import columns
from tests.router.playing import WORKER, core_of, link


async def test_events_that_come_right_after_the_open_do_not_overtake_those_held_for_it() -> None:
    core = core_of()
    outbox = link(core)
    stream = ExchangeStream(core, ExchangeOpen(), RouterSettings())

    def take(frame: ExchangeFrame) -> None:
        stream._take(ExchangeRequest(frame=frame).SerializeToString())

    take(ExchangeFrame(opens=[TagOpen(tag=4, user_id="ann")], events=columns((4, 1), (4, 2))))
    sent = outbox.take().frame
    assert not sent.events
    core.receive(WORKER, worker_pb2.LinkResults(opens=[worker_pb2.LinkTagOpened(tag=sent.opens[0].tag)]))
    take(ExchangeFrame(events=columns((4, 3))))
    await asyncio.sleep(0)
    assert core.layout.events(outbox.take().frame.events)["seq"].tolist() == [1, 2, 3]
