"""What hostile callers send: scripts of gRPC calls, each made from a seed and a number alone, to be had again at will.

A script begins as a call that is right; then its messages are mutated, swapped, doubled, dropped, or joined by one of
another script. Users of scripts are their own, but for bystanders: those are only sent what cannot be taken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Any

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from ulid import ULID

from bench.accounts import NUM_DEEDS
from bench.counting import Counting
from evercurrent.describe import describe
from evercurrent.slots import NUM_SLOTS, slot_of, user_key
from evercurrent.v1 import admin_pb2, columns_pb2, session_pb2, worker_pb2
from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1.columns_pb2 import (
    EVENT_KIND_CLOSE,
    EVENT_KIND_NO_OUTCOME,
    EVENT_KIND_OBSERVATION,
    EVENT_KIND_QUERY,
    EVENT_KIND_REFUSED,
    EVENT_KIND_SKIP,
)
from evercurrent.wire import Layout
from tests.fuzz.mutations import Mutator

ROUTER, WORKER = "router", "worker"
HALF_CLOSE, CANCEL, DEADLINE = "half-close", "cancel", "deadline"

LAYOUT = Layout.of(describe(Counting()))
NUM_HOSTILE = 40
NUM_BYSTANDERS = 8
SESSIONS_EACH = 4
MODEL = Counting.name

SERVICES = {
    ROUTER: (
        session_pb2.DESCRIPTOR.services_by_name["SessionService"],
        admin_pb2.DESCRIPTOR.services_by_name["AdminService"],
        health_pb2.DESCRIPTOR.services_by_name["Health"],
        reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"],
    ),
    WORKER: (
        worker_pb2.DESCRIPTOR.services_by_name["WorkerService"],
        health_pb2.DESCRIPTOR.services_by_name["Health"],
        reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"],
    ),
}
STREAMS = ("Session", "Exchange", "Link")
ENDLESS = ("WatchComparison", "Watch")
"""Calls that go on until the caller leaves."""


def bystander(number: int) -> str:
    """Who was there before, and is not to be changed."""
    return f"bystander/{number}"


def hostile(number: int) -> str:
    """Whose state is the fuzzer's own."""
    return f"hostile-user-{number}"


@dataclass(frozen=True, slots=True)
class Script:
    """One call: its messages, and how the caller ends it after the last of them."""

    target: str
    method: str
    messages: tuple[bytes, ...]
    ending: str
    response: type[Message]
    names_bystander: bool = False

    @property
    def num_frames(self) -> int:
        """How much it counts for."""
        return max(1, len(self.messages))


@dataclass(frozen=True)
class Scripts:
    """All scripts of a seed. `incarnation` is the worker's, which whoever can reach it may know."""

    seed: int
    incarnation: str

    @cached_property
    def _methods(self) -> list[tuple[str, MethodDescriptor]]:
        """Every RPC that is not one of the three great streams."""
        return [
            (target, method)
            for target, services in SERVICES.items()
            for service in services
            for method in service.methods
            if method.name not in STREAMS
        ]

    def script(self, number: int, with_others: bool = True) -> Script:
        """The script of a number."""
        random = Random(f"{self.seed}/{number}")
        author = _Author(random, self.incarnation)
        kind = random.choice(("session", "exchange", "link", "call"))
        if kind == "call":
            target, method = random.choice(self._methods)
            messages, response = author.call(method), GetMessageClass(method.output_type)
            path = f"/{method.containing_service.full_name}/{method.name}"
            endings = [CANCEL] if method.name in ENDLESS else [HALF_CLOSE, HALF_CLOSE, HALF_CLOSE, CANCEL, DEADLINE]
        else:
            begin: dict[str, tuple[str, str, Callable[[], list[Message]], type[Message]]] = {
                "session": (ROUTER, "SessionService/Session", author.session, session_pb2.SessionResponse),
                "exchange": (ROUTER, "SessionService/Exchange", author.exchange, session_pb2.ExchangeResponse),
                "link": (WORKER, "WorkerService/Link", author.link, worker_pb2.LinkResponse),
            }
            target, name, write, response = begin[kind]
            path = f"/evercurrent.v1.{name}"
            messages = author.disordered(write())
            endings = [HALF_CLOSE, HALF_CLOSE, CANCEL, DEADLINE]
        raws = [author.mutator.mutated(one) if author.is_wrong() else one.SerializeToString() for one in messages]
        if with_others and number and not author.names_bystander and random.random() < 0.1:
            other = self.script(random.randrange(number), with_others=False)
            if other.messages and not other.names_bystander:
                raws.insert(random.randrange(len(raws) + 1), random.choice(other.messages))
        return Script(target, path, tuple(raws), random.choice(endings), response, author.names_bystander)


class _Author:
    """Writes calls that are right, for the most part."""

    def __init__(self, random: Random, incarnation: str) -> None:
        self._random = random
        self._incarnation = incarnation
        self._wrongness = random.choice((0.02, 0.1, 0.4))
        self.mutator = Mutator(random)
        self.names_bystander = False

    def is_wrong(self) -> bool:
        """Whether the next message is to be mutated."""
        return self._random.random() < self._wrongness

    def disordered(self, messages: list[Message]) -> list[Message]:
        """A stream whose order may be violated."""
        random = self._random
        if random.random() < 0.3 and len(messages) > 1:
            first, second = (random.randrange(len(messages)) for _ in range(2))
            what = random.choice(("swap", "double", "drop", "cut"))
            if what == "swap":
                messages[first], messages[second] = messages[second], messages[first]
            elif what == "double":
                messages.insert(second, messages[first])
            elif what == "drop":
                del messages[first]
            else:
                del messages[first:]
        return messages

    def user(self) -> str:
        """One of the fuzzer's own."""
        return hostile(self._random.randrange(NUM_HOSTILE))

    def session_id(self, user: str) -> str:
        """One of a user's, or a new one."""
        number = self._random.randrange(SESSIONS_EACH + 1)
        return str(ULID.from_int((hash_of(user) << 64) + number + 1)) if number < SESSIONS_EACH else ""

    # --- the streams ------------------------------------------------------------------------------------------------

    def session(self) -> list[Message]:
        """A Session stream."""
        random = self._random
        if random.random() < 0.1:
            return self._on_bystander()
        user = self.user()
        opening = session_pb2.SessionOpen(
            user_id=user,
            session_id=self.session_id(user),
            model=random.choice(("", "", MODEL)),
            model_version=random.choice(("", "", "", MODEL)),
            wait_durable=random.random() < 0.3,
            timings=random.random() < 0.3,
        )
        messages: list[Message] = [session_pb2.SessionRequest(open=opening)]
        seq = random.choice((1, 1, 1, 2, 100))
        for _ in range(random.choice((0, 1, 3, 10, 40))):
            request = session_pb2.SessionRequest()
            what = random.choices(("observation", "query", "skip"), (8, 1, 1))[0]
            if what == "observation":
                request.observation.CopyFrom(self.observation(seq))
                seq += 1
            elif what == "query":
                request.query.CopyFrom(self.query())
            else:
                seq += random.choice((0, 3))
                request.skip.CopyFrom(pb.Skip(**{"from": 1, "to": seq}))
                seq += 1
            messages.append(request)
        return messages

    def _on_bystander(self) -> list[Message]:
        """Nothing that a bystander is sent here can be learned from. Bytes stay as they are."""
        self._wrongness = 0.0
        self.names_bystander = True
        user = bystander(self._random.randrange(NUM_BYSTANDERS))
        messages: list[Message] = [session_pb2.SessionRequest(open=session_pb2.SessionOpen(user_id=user))]
        for seq in range(1, 5):
            bad = self.observation(seq)
            bad.MergeFrom(
                self._random.choice(
                    (
                        pb.Observation(ids=[1]),
                        pb.Observation(ids=[-1]),
                        pb.Observation(value=1.5),
                        pb.Observation(value=float("nan")),
                        pb.Observation(choice=1),
                        pb.Observation(event_time_us=-1),
                        pb.Observation(seq=self._random.choice((seq + 9, (1 << 64) - 1))),
                        pb.Observation(observation_id="x" * 65),
                    )
                )
            )
            messages.append(session_pb2.SessionRequest(observation=bad))
        return messages

    def exchange(self) -> list[Message]:
        """An Exchange stream."""
        random = self._random
        opening = session_pb2.ExchangeOpen(
            wait_durable=random.random() < 0.3,
            timings=random.random() < 0.3,
            model_version=random.choice(("", "", "", MODEL)),
        )
        messages: list[Message] = [session_pb2.ExchangeRequest(open=opening)]
        seqs: dict[int, int] = {}
        for _ in range(random.choice((0, 1, 3, 8))):
            frame = session_pb2.ExchangeFrame()
            for _ in range(random.choice((0, 1, 1, 5))):
                user = self.user()
                tag = random.choice((*range(8), 1023, 1024, 70_000))
                frame.opens.add(tag=tag, user_id=user, session_id=self.session_id(user))
                seqs[tag] = 1
            if seqs:
                self._fill(frame.events, seqs)
            if seqs and random.random() < 0.2:
                frame.closes.append(random.choice(list(seqs)))
            messages.append(session_pb2.ExchangeRequest(frame=frame))
        return messages

    def _fill(self, events: columns_pb2.EventColumns, seqs: dict[int, int]) -> None:
        random = self._random
        kinds = []
        for _ in range(random.choice((0, 1, 4, 30, 200))):
            tag = random.choice(list(seqs))
            kind = random.choices(
                (EVENT_KIND_OBSERVATION, EVENT_KIND_NO_OUTCOME, EVENT_KIND_QUERY, EVENT_KIND_SKIP), (8, 1, 1, 1)
            )[0]
            events.tags.append(tag)
            events.seqs.append(seqs[tag])
            events.ids.append(random.randrange(NUM_DEEDS))
            events.values.append(random.choice((0.5, -1.0, 1.0)))
            seqs[tag] += kind != EVENT_KIND_QUERY
            kinds.append(kind)
        if random.random() < 0.7:
            events.kinds = bytes(kinds)
        if random.random() < 0.3:
            events.event_times_us.extend([1] * len(kinds))
        if random.random() < 0.3:
            events.timeouts_us.extend([random.choice((0, 1, 1_000_000))] * len(kinds))

    def link(self) -> list[Message]:
        """A Link stream, as a router has it."""
        random = self._random
        opening = worker_pb2.LinkOpen(protocol_version=1, router="fuzz", slots=NUM_SLOTS)
        messages: list[Message] = [worker_pb2.LinkRequest(open=opening)]
        tags: dict[int, int] = {}
        for _ in range(random.choice((0, 1, 3, 8))):
            frame = worker_pb2.LinkFrame()
            for _ in range(random.choice((0, 1, 1, 5))):
                user = self.user()
                tag = random.choice([tag for tag in (*range(100), 5000, 70_000) if tag not in tags])
                frame.opens.add(
                    tag=tag,
                    user_id=user,
                    session_id=self.session_id(user),
                    slot=slot_of(user_key("", user)),
                    watermarks=random.random() < 0.5,
                    model_version=random.choice(("", "", "", MODEL)),
                )
                tags[tag] = 1
            if tags:
                self._fill_link(frame, tags)
            if random.random() < 0.1:
                frame.slots.slots.extend(random.sample(range(NUM_SLOTS), 5))
            messages.append(worker_pb2.LinkRequest(frame=frame))
        return messages

    def _fill_link(self, frame: worker_pb2.LinkFrame, tags: dict[int, int]) -> None:
        random = self._random
        raw = b""
        for index in range(random.choice((0, 1, 1, 4, 30, 200))):
            tag = random.choice(list(tags))
            kind = random.choices(
                (
                    EVENT_KIND_OBSERVATION,
                    EVENT_KIND_NO_OUTCOME,
                    EVENT_KIND_QUERY,
                    EVENT_KIND_SKIP,
                    EVENT_KIND_REFUSED,
                    EVENT_KIND_CLOSE,
                    random.randrange(256),
                ),
                (20, 2, 2, 2, 2, 1, 1),
            )[0]
            seq = tags[tag] if random.random() < 0.97 else self.mutator.integer(0, (1 << 64) - 1)
            tags[tag] += 1
            deed, outcome = random.randrange(NUM_DEEDS), 0.5
            if random.random() < 0.02:
                deed, outcome = self.mutator.integer(-(1 << 63), (1 << 63) - 1), float("nan")
            timeout_us = random.choice((0, 0, 0, 1, (1 << 32) - 1))
            event_time_us = random.choice((1, 1, 0, -1, (1 << 63) - 1))
            raw += LAYOUT.pack(seq, event_time_us, 7, (deed,), 0, tag, timeout_us, (), (outcome,), kind)
            if kind == EVENT_KIND_REFUSED and random.random() < 0.9:
                why = pb.Rejection(reason=pb.REASON_IDS_COUNT, field="ids", message="two")
                frame.refusals.add(index=index, rejection=why)
        frame.events = raw

    # --- the calls --------------------------------------------------------------------------------------------------

    def call(self, method: MethodDescriptor) -> list[Message]:
        """The request of any RPC, its fields filled in by what they are called."""
        num = self._random.choice((1, 3)) if method.client_streaming else 1
        return [self._filled(GetMessageClass(method.input_type)) for _ in range(num)]

    def observation(self, seq: int) -> pb.Observation:
        """One that can be learned from."""
        random = self._random
        return pb.Observation(
            seq=seq, ids=[random.randrange(NUM_DEEDS)], value=0.5, event_time_us=random.choice((0, 0, 1, (1 << 63) - 1))
        )

    def query(self) -> pb.Query:
        """One that can be answered."""
        num = self._random.choice((1, 1, 2, 30, 1024))
        return pb.Query(query_id=self._random.randrange(9), candidates=[pb.Candidate(ids=[1])] * num)

    def _filled(self, kind: type[Message]) -> Message:
        message, user = kind(), self.user()
        for field in kind.DESCRIPTOR.fields:
            if field.containing_oneof is None or self._random.random() < 0.3:
                self._fill_field(message, field, user)
        return message

    def _fill_field(self, message: Message, field: Any, user: str) -> None:
        random = self._random
        known: dict[str, Any] = {
            "user_id": user,
            "session_id": self.session_id(user),
            "slot": slot_of(user_key("", user)),
            "incarnation": self._incarnation,
            "claim": str(ULID.from_int(random.getrandbits(127))),
            "version": random.choice((MODEL, "unknown")),
            "model": random.choice(("", MODEL)),
            "who": "fuzz",
            "num": random.choice((0, 1, 100)),
            "to_go_live": random.random() < 0.5,
            "timings": random.random() < 0.5,
            "wait_for": random.randrange(3),
        }
        if field.name in known and not field.is_repeated and field.message_type is None:
            if random.random() < 0.9:
                setattr(message, field.name, known[field.name])
        elif field.message_type is None or random.random() < 0.1:
            return
        elif field.message_type.full_name == pb.Observation.DESCRIPTOR.full_name:
            has_session = bool(getattr(message, "session_id", ""))
            getattr(message, field.name).CopyFrom(self.observation(random.choice((1, 2, 3)) if has_session else 0))
        elif field.message_type.full_name == pb.Query.DESCRIPTOR.full_name:
            getattr(message, field.name).CopyFrom(self.query())
        elif field.is_repeated:
            getattr(message, field.name).extend(
                [self._filled(GetMessageClass(field.message_type)) for _ in range(random.choice((0, 1, 3)))]
            )
        else:
            getattr(message, field.name).CopyFrom(self._filled(GetMessageClass(field.message_type)))


def hash_of(user: str) -> int:
    """A number of a user, the same in every process."""
    return slot_of(user) + 1
