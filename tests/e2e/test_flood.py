"""One user sends all it can: it alone is told to slow down."""

from __future__ import annotations

import grpc

from evercurrent.settings import RouterSettings
from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1.session_pb2 import TagOpen
from tests.e2e.conversation import Conversation, Frames, columns
from tests.servers import running_service

SETTINGS = RouterSettings(in_flight_session_max=4, in_flight_user_max=8)


async def test_the_sessions_of_one_user_share_a_bound() -> None:
    async with running_service(settings=SETTINGS) as service:
        frames = await Frames.opened(service, ann="ann", again="ann", third="ann", bob="bob")
        flood = [(tag, seq) for seq in range(1, 7) for tag in (0, 1, 2)]
        await frames.send(columns(*flood, (3, 1)))
        told = await frames.answers(len(flood) + 1)
        applied = {
            tag: [one.seq for one in told if one.tag == tag and one.status == pb.STATUS_APPLIED] for tag in range(4)
        }
        assert applied == {0: [1, 2, 3, 4], 1: [1, 2, 3, 4], 2: [1, 2], 3: [1]}
        refused = [one for one in told if one.status == pb.STATUS_REJECTED]
        assert {one.reason for one in refused if one.seq in (3, 5)} == {pb.REASON_OVERLOADED}
        assert len(refused) == len(flood) - 10


async def test_no_user_has_all_the_sessions() -> None:
    async with running_service(settings=SETTINGS) as service:
        opens = [TagOpen(tag=tag, user_id="ann") for tag in range(9)]
        frames = await Frames.opened(service)
        await frames.send(columns(), [*opens, TagOpen(tag=9, user_id="bob")])
        await frames.read_until(lambda: len(frames.opens) == 10)
        refused = {tag: one.rejection.reason for tag, one in frames.opens.items() if one.HasField("rejection")}
        assert refused == {8: pb.REASON_OVERLOADED}
        call = Conversation(service)
        await call.send(open={"user_id": "ann"})
        assert (await call.ended())[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
        await frames.finish()
        assert (await Conversation.opened(service, "ann")).call is not None
