"""What a peer is to the load: where its streams are opened and how, and the arms that load it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from ulid import ULID

from bench import load, pacing, traffic
from bench.open_loop import OPEN_LOOP_SESSIONS, OpenLoopArm
from bench.run import WrongReplyError
from bench.throughput import NUM_STREAMS, NUM_USERS, FramesArm, Meter, SessionsArm
from bench.traffic import FRAME_EVENTS, Traffic
from evercurrent.slots import NUM_SLOTS, slot_of, user_key
from evercurrent.v1 import description_pb2, observation_pb2, worker_pb2
from evercurrent.wire import Layout

NUM_FRAME_STREAMS = 4
"""Exchange streams of everybody: while one waits for a store, another's step is made."""

SLOT_HEADER = "x-evercurrent-slot"


def unrouted(_: str) -> load.Metadata:
    """The metadata of a stream that goes where its connection does."""
    return ()


def by_slot(user_id: str) -> load.Metadata:
    """The metadata of a stream that is to reach the worker of its user's slot: workers own slots, not users."""
    return ((SLOT_HEADER, str(slot_of(user_key("", user_id)))),)


@dataclass(frozen=True, slots=True)
class Target:
    """One way to be asked for updates. `name` begins the names of its metrics.

    Streams go to the addresses in turns. `routing` gives the metadata of the stream of a user. `takes_frames`: whether
    there are Exchange streams. `is_linked`: a user's stream is a Link to a worker, with the user as its only tag.
    `is_plain`: it is what people usually write, and is also compared with by itself.
    """

    name: str
    addresses: Sequence[str]
    routing: Callable[[str], load.Metadata] = unrouted
    takes_frames: bool = True
    is_linked: bool = False
    is_plain: bool = False


@dataclass(frozen=True, slots=True)
class Connected:
    """A target with a connection to each of its addresses."""

    target: Target
    channels: Sequence[grpc.aio.Channel]
    traffic: Traffic
    check: load.Check

    async def sessions(self, prefix: str) -> SessionsArm:
        """NUM_STREAMS users, each in a closed loop. Warmed up by one block of a round."""
        streams = [await self.stream(index, f"{prefix}-{index}") for index in range(NUM_STREAMS)]
        arm = SessionsArm(streams, self.traffic, Meter({}), num_rounds=1, check=self.check)
        await arm()
        return arm

    async def frames(self, prefix: str) -> FramesArm:
        """NUM_USERS users on NUM_FRAME_STREAMS Exchange streams. Warmed up by a frame of each user."""
        users = [f"{prefix}-{index}" for index in range(NUM_USERS)]
        share = NUM_USERS // NUM_FRAME_STREAMS
        streams = [
            await load.open_exchange(
                self._channel(index),
                traffic.exchange_opens(users[index * share : (index + 1) * share]),
                share,
                self.target.routing(f"{prefix}-stream-{index}"),
            )
            for index in range(NUM_FRAME_STREAMS)
        ]
        meter = Meter({})
        arm = FramesArm(streams, self.traffic.exchange_frame, load.applied_of_exchange, meter, NUM_FRAME_STREAMS)
        await arm.frames(NUM_USERS // FRAME_EVENTS)
        return arm

    async def open_loop(self, prefix: str, rate_per_s: float, block_s: float, clock: pacing.Clock) -> OpenLoopArm:
        """OPEN_LOOP_SESSIONS users who send at Poisson times. Warmed up by one block."""
        streams = [await self.stream(index, f"{prefix}-open-{index}") for index in range(OPEN_LOOP_SESSIONS)]
        arm = OpenLoopArm(streams, self.traffic, rate_per_s, block_s, clock, [1] * len(streams), self.check)
        await arm()
        return arm

    def _channel(self, index: int) -> grpc.aio.Channel:
        return self.channels[index % len(self.channels)]

    async def stream(self, index: int, user_id: str) -> Any:
        """An open stream of a user, the `index`th: which address it goes to."""
        metadata = self.target.routing(user_id)
        if self.target.is_linked:
            opens = traffic.link_opens([(user_id, str(ULID()))], NUM_SLOTS)
            return OneUserLink(await load.open_link(self._channel(index), opens, 1, metadata))
        return await load.open_session(self._channel(index), traffic.session_open(user_id), metadata)


@asynccontextmanager
async def connected(
    target: Target, model: description_pb2.ModelDescription, rng: np.random.Generator
) -> AsyncIterator[Connected]:
    """A target whose connections are ready."""
    async with AsyncExitStack() as stack:
        channels = [await stack.enter_async_context(load.connect(address)) for address in target.addresses]
        if target.is_linked:
            yield Connected(target, channels, LinkTraffic(model, rng), check_link(Layout.of(model)))
        else:
            yield Connected(target, channels, Traffic(model, rng), load.check_session)


@dataclass(slots=True)
class LinkTraffic(Traffic):
    """Draws the same observations as a router's frames of one event."""

    def session_requests(self, first_seq: int, num_events: int) -> list[bytes]:
        """Serialised frames of the user with tag 0, seqs from `first_seq` on."""
        tags = np.zeros(num_events, np.int64)
        events = self.link_events(tags, np.arange(first_seq, first_seq + num_events))
        return [traffic.link_request(events[index : index + 1].tobytes()) for index in range(num_events)]


@dataclass(slots=True)
class OneUserLink:
    """A Link stream of one user: between results a worker tells how it is, which nobody asked for."""

    stream: Any

    async def write(self, request: bytes) -> None:
        await self.stream.write(request)

    async def read(self) -> Any:
        while (reply := await self.stream.read()) is not grpc.aio.EOF and not _has_results(reply):
            pass
        return reply

    async def done_writing(self) -> None:
        await self.stream.done_writing()


def _has_results(reply: bytes) -> bool:
    frame = worker_pb2.LinkResponse.FromString(reply).frame
    if frame.ended:
        raise WrongReplyError(f"a session was ended: {frame.ended[0]}")
    return bool(frame.results)


def check_link(layout: Layout) -> load.Check:
    """Every reply of a link of one user is one applied update, in order: these."""

    def check(replies: load.Replies, first_seq: int) -> list[observation_pb2.ObservationResult]:
        applied = load.applied_of_link(layout)
        results = []
        for seq, raw in enumerate(replies.raw, first_seq):
            if applied(raw) != 1:
                raise WrongReplyError(f"a frame of one event has {applied(raw)} results")
            result = layout.results(worker_pb2.LinkResponse.FromString(raw).frame.results)[0]
            if result["seq"] != seq:
                raise WrongReplyError(f"the observation with seq {seq} was answered by {result['seq']}")
            results.append(observation_pb2.ObservationResult(seq=seq, at_risk=int(result["at_risk"])))
        return results

    return check
