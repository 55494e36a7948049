"""Many users of one worker, fed by the bench itself: sessions on one Link stream, as those of a router.

A worker's process, the users that are made resident in it, and the loads of `bench scale`: frames that touch everybody,
and lone events of users drawn at random at Poisson times.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from tempfile import TemporaryFile
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray
from ulid import ULID

from bench import load, pacing, traffic
from bench.open_loop import LEAD_NS, Latencies
from bench.processes import Server, run_server
from bench.run import WrongReplyError
from bench.service import ENDING_TIMEOUT_S, MODEL_NAME
from bench.traffic import FRAME_EVENTS, OPENS_A_FRAME, Traffic
from evercurrent.slots import NUM_SLOTS
from evercurrent.v1 import columns_pb2, observation_pb2, worker_pb2
from evercurrent.wire import Layout, Records, watermarks

CHUNK_FRAMES = 256
WINDOW_FRAMES = 8
STOP_TIMEOUT_S = 20.0
STDERR_TAIL_BYTES = 4096

RETRY_AFTER_S = 1.0
"""When who was refused for want of room comes again: as workers say."""

User = tuple[str, str]
"""A user id and the id of its session."""


@contextmanager
def run_worker(name: str, store: str, residents_max: int) -> Iterator[Server]:
    """A worker on a store.

    Raises:
        WrongReplyError: it ended before it was to; with its last words.
    """
    options = {"name": name, "store": store, "model": MODEL_NAME, "residents-max": residents_max}
    arguments = [f"--{key}={value}" for key, value in options.items()]
    with (
        TemporaryFile() as errors,
        run_server(
            "evercurrent.cli",
            "worker",
            "--end-with-stdin",
            *arguments,
            errors=errors,
            stop_timeout_s=STOP_TIMEOUT_S,
        ) as server,
    ):
        try:
            yield server
        except Exception as error:
            with suppress(subprocess.TimeoutExpired):
                server.process.wait(ENDING_TIMEOUT_S)
            if server.process.returncode is None:
                raise
            errors.seek(0)
            tail = errors.read()[-STDERR_TAIL_BYTES:].decode(errors="replace")
            raise WrongReplyError(f"{name} ended with {server.process.returncode}:\n{tail}") from error


def drawn_users(prefix: str, num_users: int) -> list[User]:
    """Users with a session each. Ids are as long as those that people give: 20 characters and more."""
    return [(f"{prefix}-user-{number:010d}", str(ULID.from_int(number + 1))) for number in range(num_users)]


@dataclass(slots=True)
class Population:
    """Users with a session each, tags 0, 1, 2 … of one stream. By tag: `seqs`, what was sent last, `versions`, what
    answers told, and `durable`, what is known to be of those that are watched. `num_refused`: how often a user was told
    to come back later."""

    stream: Any
    traffic: Traffic
    layout: Layout
    num_users: int
    num_watched: int
    num_refused: int = 0
    seqs: NDArray[np.uint64] = field(init=False)
    durable: NDArray[np.uint64] = field(init=False)
    versions: NDArray[np.uint64] = field(init=False)

    def __post_init__(self) -> None:
        self.seqs = np.zeros(self.num_users, np.uint64)
        self.durable = np.zeros(self.num_users, np.uint64)
        self.versions = np.zeros(self.num_users, np.uint64)

    @classmethod
    async def begin(
        cls,
        channel: grpc.aio.Channel,
        rng: np.random.Generator,
        num_users: int,
        *,
        num_watched: int = 0,
        owned_slots: Sequence[int] = (),
    ) -> Population:
        """A link on which nobody is open yet. `owned_slots` are to be claimed at once; the last `num_watched` tags are
        to be told their watermarks."""
        stream, model = await load.begin_link(channel, traffic.link_open(NUM_SLOTS))
        if owned_slots:
            await stream.write(traffic.link_slots(owned_slots))
        return cls(stream, Traffic(model, rng), Layout.of(model), num_users, num_watched)

    @staticmethod
    def num_opens(num_users: int) -> int:
        """How often `open` advances for so many users."""
        return -(-num_users // OPENS_A_FRAME)

    @staticmethod
    def num_touches(num_users: int) -> int:
        """How often `touch` does."""
        return -(-num_users // (CHUNK_FRAMES * FRAME_EVENTS))

    async def open(self, users: Sequence[User], first_tag: int = 0, advance: Callable[[], None] | None = None) -> None:
        """Open a session of each of these under adjacent tags, so many at once as a worker lets wait. Who is told to
        come back later does."""
        tagged = dict(enumerate(users, first_tag))
        for start in range(first_tag, first_tag + len(users), OPENS_A_FRAME):
            stop = min(start + OPENS_A_FRAME, first_tag + len(users))
            refused = await self._open_once({tag: tagged[tag] for tag in range(start, stop)})
            while refused:
                refused = await self._open_once({tag: tagged[tag] for tag in refused}, RETRY_AFTER_S)
            if advance is not None:
                advance()

    async def _open_once(self, users: Mapping[int, User], after_s: float = 0.0) -> list[int]:
        """Open these tags after so many seconds; those that were told to come back later.

        Raises:
            WrongReplyError: one was refused for good.
        """
        await asyncio.sleep(after_s)
        await self.stream.write(traffic.link_tag_opens(users.items(), self.num_users - self.num_watched))
        refused: list[int] = []
        num_answered = 0
        while num_answered < len(users):
            answers = self._taken(await load.read(self.stream)).opens
            num_answered += len(answers)
            for answer in answers:
                if answer.HasField("rejection"):
                    if answer.rejection.reason != observation_pb2.REASON_OVERLOADED:
                        raise WrongReplyError(f"a session was not opened: {answer.rejection}")
                    refused.append(answer.tag)
                else:
                    self.seqs[answer.tag] = answer.applied_seq
                    self.versions[answer.tag] = answer.version
                    self.durable[answer.tag] = answer.durable_seq
        self.num_refused += len(refused)
        return refused

    async def touch(self, first_tag: int, num_users: int, advance: Callable[[], None] | None = None) -> None:
        """One update of each of these users, whole frames of them."""
        assert num_users % FRAME_EVENTS == 0, num_users
        for start in range(first_tag, first_tag + num_users, CHUNK_FRAMES * FRAME_EVENTS):
            stop = min(start + CHUNK_FRAMES * FRAME_EVENTS, first_tag + num_users)
            self.seqs[start:stop] += np.uint64(1)
            events = self.traffic.link_events(np.arange(start, stop), self.seqs[start:stop])
            frames = [
                traffic.link_request(events[at : at + FRAME_EVENTS].tobytes())
                for at in range(0, len(events), FRAME_EVENTS)
            ]
            await load.pump(self.stream, frames, WINDOW_FRAMES, self._num_applied)
            if advance is not None:
                advance()

    async def update(self, tags: NDArray[np.int64]) -> None:
        """One update of each of these users, in one frame."""
        self.seqs[tags] += np.uint64(1)
        events = self.traffic.link_events(tags, self.seqs[tags])
        await self.stream.write(traffic.link_request(events.tobytes()))
        num_answered = 0
        while num_answered < len(tags):
            num_answered += len(self._results(await load.read(self.stream)))

    async def leave(self, first_tag: int, num_users: int) -> None:
        """Close these tags."""
        events = np.zeros(num_users, self.layout.event_dtype)
        events["tag"] = np.arange(first_tag, first_tag + num_users)
        events["kind"] = columns_pb2.EVENT_KIND_CLOSE
        await self.stream.write(traffic.link_request(events.tobytes()))
        num_closed = 0
        while num_closed < num_users:
            raw = self._taken(await load.read(self.stream)).results
            num_closed += int((self.layout.results(raw)["kind"] == columns_pb2.EVENT_KIND_CLOSE).sum())

    async def until_durable(self) -> None:
        """Read until everything that the watched tags sent is durable. Rows are journaled in the order in which users
        came, so where only the last is watched all others are as well."""
        watched = slice(self.num_users - self.num_watched, None)
        while (self.durable[watched] < self.seqs[watched]).any():
            self._taken(await load.read(self.stream))

    async def lone_events(self, rate_per_s: float, duration_s: float, clock: pacing.Clock) -> Latencies:
        """Events of users drawn at random, each a message of its own, at Poisson times; latencies from the intended
        sends."""
        [times_ns] = pacing.poisson_arrivals(rate_per_s, duration_s, 1, self.traffic.rng)
        tags = self.traffic.rng.integers(0, self.num_users, len(times_ns))
        requests = self._lone_requests(tags)
        return await load.open_loop_of_frames(
            self.stream, requests, clock.now_ns() + LEAD_NS + times_ns, clock, self._numbers
        )

    async def closed_loop(self, tag: int, duration_s: float, clock: pacing.Clock) -> NDArray[np.int64]:
        """Events of one user, each sent when the one before is answered: when the answers came."""
        answered_ns = [clock.now_ns()]
        while answered_ns[-1] - answered_ns[0] < duration_s * pacing.NS_PER_S:
            [request] = self._lone_requests(np.array([tag]))
            await self.stream.write(request)
            while not len(self._results(await load.read(self.stream))):
                pass
            answered_ns.append(clock.now_ns())
        return np.array(answered_ns)

    def _lone_requests(self, tags: NDArray[np.int64]) -> list[bytes]:
        """A message for each event of these users; the event's number stands in its stamp."""
        seqs = np.empty(len(tags), np.uint64)
        for number, tag in enumerate(tags.tolist()):
            self.seqs[tag] += np.uint64(1)
            seqs[number] = self.seqs[tag]
        events = self.traffic.link_events(tags, seqs)
        events["stamp_us"] = np.arange(len(tags))
        return [traffic.link_request(events[number : number + 1].tobytes()) for number in range(len(tags))]

    def _numbers(self, raw: bytes) -> NDArray[np.int64]:
        """The numbers of the events that a message answers."""
        return self._results(raw)["stamp_us"].astype(np.int64)

    def _num_applied(self, raw: bytes) -> int:
        return len(self._results(raw))

    def _results(self, raw: bytes) -> Records:
        """The results in a message, which are applied updates."""
        results = self.layout.results(self._taken(raw).results)
        if (results["status"] != observation_pb2.STATUS_APPLIED).any():
            raise WrongReplyError(f"an event was not applied: {worker_pb2.LinkResponse.FromString(raw).frame}")
        self.versions[results["tag"]] = results["version"]
        return results

    def _taken(self, raw: bytes) -> worker_pb2.LinkResults:
        """A message, with its watermarks noted.

        Raises:
            WrongReplyError: a session was given up.
        """
        frame = worker_pb2.LinkResponse.FromString(raw).frame
        if frame.ended:
            raise WrongReplyError(f"a session was ended: {frame.ended[0]}")
        if frame.watermarks:
            marks = watermarks(frame.watermarks)
            self.durable[marks["tag"]] = marks["durable_seq"]
        return frame
