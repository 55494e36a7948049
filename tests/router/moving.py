"""Workers, clients and a network for a routing core, in plain code: what a script of small steps makes of them.

A worker serves users as worker/engine.py does: what it was sent is applied in order, tags name users from their open to
the receipt of their close, a tag that it gives up tells nothing more. Who owns a user is one record for all; an owner
that does not know that it lost a user serves an old state. Links deliver frames in order, at any time.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count

import numpy as np
from numpy.typing import NDArray

from evercurrent.errors import Refused, rejection
from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1 import worker_pb2
from evercurrent.v1.columns_pb2 import (
    EVENT_KIND_CLOSE,
    EVENT_KIND_OBSERVATION,
    EVENT_KIND_QUERY,
    EVENT_KIND_REFUSED,
    EVENT_KIND_SKIP,
    IndexedRejection,
)
from evercurrent.wire import WATERMARK, Records
from router.core import Bounds
from router.outbox import Outbox
from router.ring import build_ring
from router.sessions import ACTIVE, FREE
from tests.router.playing import Time, core_of, link

USERS = ("ann", "bob", "cem")
SESSIONS = ("", "one", "two")
NUM_WORKERS = 3
FRAMES_A_ROUND = 5
NOTHING = -1
"""The content of an observation that consumed its seq without effect."""

FOREIGN = -2
"""The content of what came through another router, which has the same client."""

Session = tuple[str, str]
"""User and session id."""


@dataclass(slots=True)
class Consumed:
    """How far one session of a user is."""

    last_seq: int = 0
    durable_seq: int = 0


@dataclass(slots=True)
class State:
    """A user: what was consumed, in order, as (session, first seq, last seq, content); a skip has no content."""

    consumed: list[tuple[str, int, int, int | None]] = field(default_factory=list)
    sessions: dict[str, Consumed] = field(default_factory=dict)
    durable_version: int = 0

    def session(self, session_id: str) -> Consumed:
        return self.sessions.setdefault(session_id, Consumed())

    def make_durable(self) -> None:
        for session in self.sessions.values():
            session.durable_seq = session.last_seq
        self.durable_version = len(self.consumed)


@dataclass(slots=True, eq=False)
class Tag:
    """What a tag of a link names, from its open on."""

    user: str
    session_id: str
    watched: bool
    told: int = 0
    is_here: bool = False
    aside: list[Received] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Received:
    """An event that a worker has; `tag` is None if it named nothing."""

    wire: Wire
    event: np.void
    tag: Tag | None
    refusal: pb.Rejection | None


ENDED = Tag("", "", watched=False)
"""What was given up; what comes for it is dropped."""


class Wire:
    """A link: what is on the way, in both directions, and what the worker has to write."""

    def __init__(self, outbox: Outbox) -> None:
        self.outbox = outbox
        self.to_worker: deque[worker_pb2.LinkFrame] = deque()
        self.to_router: deque[worker_pb2.LinkResults] = deque()
        self.tags: dict[int, Tag] = {}
        self.writing = worker_pb2.LinkResults()
        self._num_results = 0

    def put_result(self, result: Records, why: pb.Rejection | None) -> None:
        if why is not None:
            self.writing.rejections.append(IndexedRejection(index=self._num_results, rejection=why))
        self.writing.results += result.tobytes()
        self._num_results += 1

    def flush(self) -> None:
        if self.writing.ByteSize():
            self.to_router.append(self.writing)
        self.writing, self._num_results = worker_pb2.LinkResults(), 0


class Worker:
    """One worker. `mood` is what it does about users who are not here."""

    def __init__(self, world: World, index: int) -> None:
        self.world = world
        self.index = index
        self.name = f"worker-{index - 1}"
        self.states: dict[str, State] = {}
        self.wire: Wire | None = None
        self.inbox: list[Received] = []
        self.waiting: list[tuple[Wire, int]] = []
        self.mood = "claim"

    def read(self) -> None:
        """Take one frame in."""
        wire = self.wire
        if wire is None or not wire.to_worker:
            return
        frame = wire.to_worker.popleft()
        for request in frame.opens:
            self._open(wire, request)
        refusals = {indexed.index: indexed.rejection for indexed in frame.refusals}
        events = self.world.layout.events(frame.events)
        for at in range(len(events)):
            number = int(events[at]["tag"])
            tag = wire.tags.get(number)
            if tag is ENDED:
                continue
            received = Received(wire, events[at], tag, refusals.get(at))
            if tag is not None and not tag.is_here:
                tag.aside.append(received)
            else:
                self._receive(received)

    def _receive(self, received: Received) -> None:
        if received.event["kind"] == EVENT_KIND_CLOSE:
            received.wire.tags.pop(int(received.event["tag"]), None)
        self.inbox.append(received)

    def _open(self, wire: Wire, request: worker_pb2.LinkTagOpen) -> None:
        assert wire.tags.get(request.tag, ENDED) is ENDED, f"tag {request.tag} is in use"
        wire.tags[request.tag] = Tag(request.user_id, request.session_id, request.watermarks)
        if request.user_id not in self.states and self.mood == "late":
            self.waiting.append((wire, request.tag))
        else:
            self._answer(wire, request.tag)

    def arrive(self) -> None:
        """Answer an open that waits."""
        if self.waiting:
            wire, tag = self.waiting.pop(0)
            if wire is self.wire:
                self._answer(wire, tag)

    def _answer(self, wire: Wire, number: int) -> None:
        tag = wire.tags[number]
        why = self._seek(tag.user)
        if why is None and self.world.forgotten == (tag.user, tag.session_id):
            why = pb.Rejection(reason=pb.REASON_SESSION_FORGOTTEN)
        answer = worker_pb2.LinkTagOpened(tag=number)
        if why is not None:
            del wire.tags[number]
            answer.rejection.CopyFrom(why)
        else:
            state = self.states[tag.user]
            tag.is_here = True
            if tag.session_id:
                session = state.session(tag.session_id)
                answer.applied_seq, answer.durable_seq = session.last_seq, session.durable_seq
            else:
                answer.durable_seq = state.durable_version
            answer.version = len(state.consumed)
            tag.told = answer.durable_seq
        wire.writing.opens.append(answer)
        for received in tag.aside:
            received.tag = None if why is not None else tag
            self._receive(received)

    def _seek(self, user: str) -> pb.Rejection | None:
        if user in self.states:
            return None
        owner = self.world.owners.get(user)
        if self.mood in ("claim", "late") or owner in (None, self.index):
            self.world.claim(user, self)
            return None
        if self.mood == "redirect":
            return pb.Rejection(reason=pb.REASON_NOT_OWNER, owner=self.world.workers[owner].name, retry_after_ms=1)
        reason = {
            "not_owner": pb.REASON_NOT_OWNER,
            "unavailable": pb.REASON_UNAVAILABLE,
            "overloaded": pb.REASON_OVERLOADED,
        }[self.mood]
        return rejection(reason, "", self.mood, 30 if self.mood == "overloaded" else 0)

    def step(self, num_events: int) -> None:
        """Serve the first that wait."""
        taken, self.inbox = self.inbox[:num_events], self.inbox[num_events:]
        for received in taken:
            result, why = self._serve(received)
            if received.wire is self.wire:
                received.wire.put_result(result, why)

    def _serve(self, received: Received) -> tuple[Records, pb.Rejection | None]:
        event, tag = received.event, received.tag
        result = np.zeros(1, self.world.layout.result_dtype)
        for name in ("seq", "tag", "kind", "stamp_us"):
            result[name] = event[name]
        if tag is None:
            closes = event["kind"] == EVENT_KIND_CLOSE
            result["status"] = pb.STATUS_CLOSED if closes else pb.STATUS_REJECTED
            return result, None if closes else rejection(pb.REASON_TAG, "tag", "names nothing")
        state = self.states[tag.user]
        status, why = self._consume(state, tag.session_id, event, received.refusal)
        result["status"] = status
        result["version"] = len(state.consumed)
        if tag.session_id:
            session = state.session(tag.session_id)
            result["applied_seq"], result["durable_seq"] = session.last_seq, session.durable_seq
        return result, why

    def _consume(
        self, state: State, session_id: str, event: np.void, refusal: pb.Rejection | None
    ) -> tuple[int, pb.Rejection | None]:
        kind, seq, content = int(event["kind"]), int(event["seq"]), int(event["event_time_us"])
        session = state.session(session_id)
        if kind == EVENT_KIND_CLOSE:
            return pb.STATUS_CLOSED, None
        if kind == EVENT_KIND_QUERY:
            return pb.STATUS_ANSWERED, None
        if kind == EVENT_KIND_SKIP:
            if seq > session.last_seq:
                state.consumed.append((session_id, session.last_seq + 1, seq, None))
                session.last_seq = seq
            return pb.STATUS_SKIPPED, None
        if session_id and seq <= session.last_seq:
            return pb.STATUS_DUPLICATE, None
        if session_id and seq > session.last_seq + 1:
            return pb.STATUS_REJECTED, rejection(pb.REASON_SEQ_GAP, "seq", f"after {session.last_seq}")
        why: pb.Rejection | None = None
        if kind == EVENT_KIND_REFUSED:
            why = refusal or rejection(pb.REASON_PROTOCOL, "", "refused unsaid")
        elif event["timeout_us"] and self.world.is_slow:
            why = rejection(pb.REASON_DEADLINE, "", "too late")
        if session_id:
            session.last_seq = seq
            state.consumed.append((session_id, seq, seq, content if why is None else NOTHING))
        elif why is None:
            state.consumed.append((session_id, 0, 0, content))
        return (pb.STATUS_APPLIED, None) if why is None else (pb.STATUS_REJECTED, why)

    def consume_foreign(self, user: str, session_id: str) -> None:
        """An observation that came over another router's link."""
        session = self.states[user].session(session_id)
        session.last_seq += 1
        self.states[user].consumed.append((session_id, session.last_seq, session.last_seq, FOREIGN))

    def journal(self) -> None:
        """What it owns is durable as it is now."""
        for user, state in self.states.items():
            if self.world.owners.get(user) == self.index:
                state.make_durable()
                self.world.durable[user] = copy.deepcopy(state)
        if self.wire is None:
            return
        for number, tag in self.wire.tags.items():
            if not (tag.is_here and tag.watched):
                continue
            state = self.states[tag.user]
            durable = state.session(tag.session_id).durable_seq if tag.session_id else state.durable_version
            if durable > tag.told:
                mark = np.zeros(1, WATERMARK)
                mark["tag"], mark["durable_seq"] = number, durable
                self.wire.writing.watermarks += mark.tobytes()
                tag.told = durable

    def lose(self, user: str, owner: str = "") -> None:
        """It serves a user no more."""
        del self.states[user]
        why = pb.Rejection(reason=pb.REASON_NOT_OWNER, owner=owner)
        dropped = [received for received in self.inbox if received.tag is not None and received.tag.user == user]
        self.inbox = [received for received in self.inbox if received not in dropped]
        if self.wire is None:
            return
        ended = [number for number, tag in self.wire.tags.items() if tag.is_here and tag.user == user]
        ended += [
            int(received.event["tag"])
            for received in dropped
            if received.event["kind"] == EVENT_KIND_CLOSE and received.wire is self.wire
        ]
        for number in ended:
            self.wire.tags[number] = ENDED
            self.wire.writing.ended.add(tag=number, rejection=why)

    def unlink(self) -> None:
        """Its link is lost; what it received it serves all the same."""
        assert self.wire is not None
        self.wire = None
        self.world.core.link_lost(self.index)

    def die(self) -> None:
        """All that is in its memory is gone."""
        if self.wire is not None:
            self.unlink()
        self.states.clear()
        self.inbox.clear()
        for user, owner in list(self.world.owners.items()):
            if owner == self.index:
                del self.world.owners[user]


@dataclass(slots=True)
class Talk:
    """One session as its client sees it; `pending` are kind, seq and content of what has no result yet."""

    session: Session
    pending: deque[tuple[int, int, int]] = field(default_factory=deque)
    is_open: bool = False


class Client:
    """A feed that checks all that it is told."""

    def __init__(self, world: World, wait_durable: bool) -> None:
        self.world = world
        self.core = world.core
        self.wait_durable = wait_durable
        self.number = self.core.add_feed(self)
        self.talks: dict[int, Talk] = {}
        self.is_gone = False

    # --- what it is told --------------------------------------------------------------------------------------------

    def opened(self, sid: int, answer: worker_pb2.LinkTagOpened) -> None:
        assert not self.is_gone
        talk = self.talks[sid]
        assert not talk.is_open
        if answer.HasField("rejection"):
            del self.talks[sid]
            return
        talk.is_open = True
        if talk.session[1]:
            self.world.tell_durable(talk.session, answer.durable_seq)
        if not talk.pending:
            assert self.core.sessions.next_seq[sid] == answer.applied_seq + 1

    def results(self, records: Records, rejections: Sequence[IndexedRejection]) -> None:
        assert not self.is_gone
        whys = {indexed.index: indexed.rejection for indexed in rejections}
        for at, record in enumerate(records):
            sid = int(record["tag"])
            talk = self.talks[sid]
            assert talk.is_open
            kind, seq, content = talk.pending.popleft()
            assert (kind, seq) == (int(record["kind"]), int(record["seq"]))
            assert (at in whys) == (record["status"] == pb.STATUS_REJECTED)
            if talk.session[1]:
                self.world.tell_durable(talk.session, int(record["durable_seq"]), raises=False)
                self._check(talk.session, kind, seq, content, record, whys.get(at))
            if kind == EVENT_KIND_CLOSE:
                del self.talks[sid]

    def _check(
        self, session: Session, kind: int, seq: int, content: int, record: np.void, why: pb.Rejection | None
    ) -> None:
        if kind == EVENT_KIND_REFUSED and record["status"] == pb.STATUS_REJECTED and record["applied_seq"] >= seq:
            assert why is not None
            assert why.reason == pb.REASON_OUTCOME
            self.world.answered[session][seq] = NOTHING
        elif record["status"] == pb.STATUS_APPLIED:
            self.world.answered[session][seq] = content
        elif why is not None and why.reason == pb.REASON_DEADLINE:
            self.world.answered[session][seq] = NOTHING

    def durable(self, sids: NDArray[np.int64], seqs: NDArray[np.uint64]) -> None:
        assert not self.is_gone
        for sid, seq in zip(sids.tolist(), seqs.tolist(), strict=True):
            assert self.wait_durable
            if self.talks[sid].session[1]:
                self.world.tell_durable(self.talks[sid].session, seq)

    def ended(self, sids: Sequence[int], why: pb.Rejection) -> None:
        assert not self.is_gone
        for sid in sids:
            del self.talks[sid]

    def go_away(self, message: str, grace_ms: int) -> None:
        raise AssertionError("nobody leaves")

    def stop(self, why: pb.Rejection) -> None:
        raise AssertionError(f"stopped: {why}")

    # --- what it does -----------------------------------------------------------------------------------------------

    def open(self, session: Session) -> int | None:
        """Open a session; None: it was refused."""
        try:
            sid = self.core.open(self.number, 0, session[0], "", session[1], self.wait_durable)
        except Refused:
            return None
        assert sid not in self.talks
        if not self.core.sessions.durable_seq[sid]:
            # The session is new here: what was told of it before is not known any more.
            self.world.told.pop(session, None)
        self.talks[sid] = Talk(session)
        return sid

    def send_many(self, sids: Sequence[int], kind: int = EVENT_KIND_OBSERVATION, timeout_us: int = 0) -> None:
        """One event each of different sessions, as an Exchange stream sends them."""
        events = np.zeros(len(sids), self.world.layout.event_dtype)
        for at, sid in enumerate(sids):
            events[at] = self.world.event(sid, self._seq(sid, kind), kind, timeout_us)[0]
        admission = self.core.send_many(np.array(sids, np.int32), events)
        for at, sid in enumerate(sids):
            settles = kind == EVENT_KIND_CLOSE and at not in admission.refused
            if admission.accepted[at] or settles:
                self._expect(sid, events[at])

    def send(self, sid: int, kind: int = EVENT_KIND_OBSERVATION, timeout_us: int = 0, seq: int | None = None) -> None:
        """One event, as a Session stream or a call sends it."""
        seq = self._seq(sid, kind) if seq is None else seq
        events = self.world.event(sid, seq, kind, timeout_us)
        refusal = rejection(pb.REASON_OUTCOME, "outcome", "is none") if kind == EVENT_KIND_REFUSED else None
        try:
            self.core.send(sid, events.tobytes(), refusal=refusal)
        except Refused:
            return
        self._expect(sid, events[0])
        if kind != EVENT_KIND_QUERY:
            self.core.sessions.next_seq[sid] = seq + 1

    def _seq(self, sid: int, kind: int) -> int:
        if kind in (EVENT_KIND_QUERY, EVENT_KIND_CLOSE):
            return 0
        return self.core.sessions.next_seq.item(sid) + (2 if kind == EVENT_KIND_SKIP else 0)

    def _expect(self, sid: int, event: np.void) -> None:
        self.talks[sid].pending.append((int(event["kind"]), int(event["seq"]), int(event["event_time_us"])))

    def leave(self) -> None:
        self.is_gone = True
        self.world.clients.remove(self)
        self.core.remove_feed(self.number, list(self.talks))

    def sendable(self) -> list[int]:
        """The sessions that may be sent something: a call has sent all that it will."""
        state = self.core.sessions.state
        return [sid for sid, talk in self.talks.items() if talk.is_open and state[sid] == ACTIVE and talk.session[1]]


class World:
    """A core and all around it. Each step takes small numbers, whatever they are."""

    def __init__(self, bounds: Bounds) -> None:
        self.time = Time()
        self.core = core_of(NUM_WORKERS, bounds, self.time)
        self.workers = {index: Worker(self, index) for index in range(1, NUM_WORKERS + 1)}
        for index in self.workers:
            self.relink(index)
        self.layout = self.core.layout
        self.clients: list[Client] = []
        self.owners: dict[str, int] = {}
        self.durable: dict[str, State] = {}
        self.told: dict[Session, int] = {}
        self.answered: dict[Session, dict[int, int]] = {(user, one): {} for user in USERS for one in SESSIONS}
        self.is_slow = False
        self.forgotten: Session | None = None
        self._contents = count(1)

    def event(self, sid: int, seq: int, kind: int, timeout_us: int) -> Records:
        """An event whose content is like no other's."""
        raw = self.layout.pack(
            seq,
            next(self._contents),
            self.core.clock_us(),
            (1, 2),
            0,
            sid,
            timeout_us,
            (0.0, 0.0),
            (0.0,),
            kind,
        )
        return self.layout.events(raw)

    def tell_durable(self, session: Session, seq: int, raises: bool = True) -> None:
        """A client is told how far a session is durable. What results say may be old."""
        durable = self.durable.get(session[0], State()).sessions.get(session[1], Consumed())
        assert seq <= durable.last_seq, "nothing is called durable that is not"
        if raises:
            assert seq >= self.told.get(session, 0), "what is durable stays so"
            self.told[session] = seq

    def claim(self, user: str, worker: Worker) -> None:
        """A worker becomes the owner of a user; the owner until now hands it over."""
        owner = self.owners.get(user)
        if owner is not None and user in self.workers[owner].states:
            state = copy.deepcopy(self.workers[owner].states[user])
            self.workers[owner].lose(user, worker.name if self.time.now_us % 2 else "")
        else:
            state = copy.deepcopy(self.durable.get(user, State()))
        worker.states[user] = state
        self.owners[user] = worker.index

    def usurp(self, user: str, worker: Worker) -> None:
        """A worker becomes the owner of a user, whose owner until now does not know; what was durable counts."""
        if self.owners.get(user) in (None, worker.index) or user in worker.states:
            return
        worker.states[user] = copy.deepcopy(self.durable.get(user, State()))
        self.owners[user] = worker.index

    def relink(self, index: int) -> None:
        worker = self.workers[index]
        if worker.wire is None:
            worker.wire = Wire(link(self.core, index, has_store=True))

    def write(self, index: int) -> None:
        """What the router has for a worker is on the way."""
        wire = self.workers[index].wire
        if wire is not None:
            wire.to_worker.append(wire.outbox.take().frame)

    def deliver(self, index: int) -> None:
        """A frame of a worker reaches the router."""
        wire = self.workers[index].wire
        if wire is not None and wire.to_router:
            self.core.receive(index, wire.to_router.popleft())

    # --- scripts ----------------------------------------------------------------------------------------------------

    def act(self, name: str, a: int, b: int, c: int) -> None:
        """One step."""
        ACTS[name](self, a, b, c)
        self.check()

    def check(self) -> None:
        core = self.core
        assert core._num_muted == core.sessions.num_muted.sum()
        assert (core.sessions.num_muted >= 0).all()
        assert (core.sessions.num_sent >= core.sessions.num_answered).all()
        assert all(worker.num_in_flight >= 0 for worker in core.links.values())
        for worker in self.workers.values():
            for state in worker.states.values():
                in_order(state)

    def run(self, num_rounds: int = 12, ms: int = 100) -> None:
        """Let all that is on the way arrive, and time pass."""
        for _ in range(num_rounds):
            for index, worker in self.workers.items():
                for _ in range(FRAMES_A_ROUND):
                    self.write(index)
                    worker.read()
                worker.arrive()
                worker.step(len(worker.inbox))
                worker.journal()
                if worker.wire is not None:
                    worker.wire.flush()
                self.deliver(index)
            self.check()
            self.time.pass_ms(ms)

    def calm(self) -> None:
        """No more faults: all workers serve, and what they do not know they are told."""
        self.is_slow, self.forgotten = False, None
        for index, worker in self.workers.items():
            worker.mood = "redirect"
            self.forget_lost(worker)
            self.relink(index)
            while worker.waiting:
                worker.arrive()
            if worker.wire is not None:
                worker.wire.flush()
                for _ in range(len(worker.wire.to_router)):
                    self.deliver(index)
        self.core.set_ring(build_ring({worker.name: 1 for worker in self.workers.values()}))
        self.run()

    def forget_lost(self, worker: Worker) -> None:
        for user in list(worker.states):
            if self.owners.get(user) != worker.index:
                worker.lose(user)

    def finish(self) -> None:
        """Once calm, all that is open goes on; once the clients left, nothing is left."""
        self.calm()
        self.run(10, 200)
        for client in self.clients:
            for sid, talk in client.talks.items():
                assert talk.is_open, f"{sid} of {talk.session} was never opened"
            for sid in client.sendable():
                client.send(sid)
        self.run()
        for client in self.clients:
            for sid, talk in client.talks.items():
                assert not talk.pending, f"{sid} of {talk.session} waits for {talk.pending}"
        for client in list(self.clients):
            client.leave()
        self.run()
        core = self.core
        assert len(core.moves) == 0
        assert len(core.sessions) == 0
        assert [worker.num_in_flight for worker in core.links.values()] == [0] * NUM_WORKERS
        assert core._num_muted == 0
        assert (core.sessions.state == FREE).all()
        core.log.compact()
        assert len(core.log) == 0
        assert core.is_idle

    def missing(self) -> list[tuple[Session, int]]:
        """What was answered and is not in the states now, or with another content."""
        missing = []
        for session, answered in self.answered.items():
            state = self.durable.get(session[0], State())
            kept = {seq: content for one, seq, _, content in state.consumed if one == session[1]}
            missing += [(session, seq) for seq, content in answered.items() if kept.get(seq) not in (content, FOREIGN)]
        return missing


def in_order(state: State) -> None:
    """Each session's seqs are there once and in order."""
    last: dict[str, int] = {}
    for session_id, first, to, _ in state.consumed:
        if session_id:
            assert first == last.get(session_id, 0) + 1
            last[session_id] = to


def _client(world: World, a: int) -> Client | None:
    return world.clients[a % len(world.clients)] if world.clients else None


def _join(world: World, a: int, b: int, c: int) -> None:
    if len(world.clients) < 4:
        world.clients.append(Client(world, wait_durable=bool(a % 2)))


def _open(world: World, a: int, b: int, c: int) -> None:
    if (client := _client(world, a)) is not None:
        client.open((USERS[b % 3], SESSIONS[1 + c % 2]))


def _call(world: World, a: int, b: int, c: int) -> None:
    """A unary call: it sends along with its open."""
    client = Client(world, wait_durable=bool(c & 4))
    world.clients.append(client)
    session = (USERS[b % 3], SESSIONS[c % 3])
    sid = client.open(session)
    if sid is not None:
        last = max([0, *world.answered[session]]) if session[1] else -1
        client.send(sid, seq=last + 1, timeout_us=100 if a % 3 == 0 else 0)


def _observe(world: World, a: int, b: int, c: int) -> None:
    if (client := _client(world, a)) is not None and (sids := client.sendable()):
        kind = (EVENT_KIND_OBSERVATION, EVENT_KIND_OBSERVATION, EVENT_KIND_QUERY, EVENT_KIND_SKIP)[b % 4]
        client.send_many(sids, kind, timeout_us=c % 3)


def _send(world: World, a: int, b: int, c: int) -> None:
    if (client := _client(world, a)) is not None and (sids := client.sendable()):
        kind = (EVENT_KIND_OBSERVATION, EVENT_KIND_REFUSED, EVENT_KIND_QUERY)[b % 3]
        client.send(sids[c % len(sids)], kind)


def _close(world: World, a: int, b: int, c: int) -> None:
    if (client := _client(world, a)) is not None and (sids := client.sendable()):
        client.send_many([sids[b % len(sids)]], EVENT_KIND_CLOSE)


def _leave(world: World, a: int, b: int, c: int) -> None:
    if (client := _client(world, a)) is not None:
        client.leave()


def _worker(a: int) -> int:
    return a % NUM_WORKERS + 1


def _read(world: World, a: int, b: int, c: int) -> None:
    world.workers[_worker(a)].read()


def _step(world: World, a: int, b: int, c: int) -> None:
    world.workers[_worker(a)].step(1 + b % 4)


def _flush(world: World, a: int, b: int, c: int) -> None:
    wire = world.workers[_worker(a)].wire
    if wire is not None:
        wire.flush()


def _turn(world: World, a: int, b: int, c: int) -> None:
    """One way there and back for one worker."""
    worker = world.workers[_worker(a)]
    world.write(worker.index)
    worker.read()
    if b % 3:
        worker.step(1 + b)
    _flush(world, a, b, c)
    if c % 3:
        world.deliver(worker.index)


def _move(world: World, a: int, b: int, c: int) -> None:
    worker = world.workers[_worker(a)]
    if USERS[b % 3] not in worker.states:
        world.claim(USERS[b % 3], worker)


def _usurp(world: World, a: int, b: int, c: int) -> None:
    world.usurp(USERS[b % 3], world.workers[_worker(a)])


def _lose(world: World, a: int, b: int, c: int) -> None:
    world.forget_lost(world.workers[_worker(a)])


def _die(world: World, a: int, b: int, c: int) -> None:
    world.workers[_worker(a)].die()


def _unlink(world: World, a: int, b: int, c: int) -> None:
    worker = world.workers[_worker(a)]
    if worker.wire is not None:
        worker.unlink()


def _mood(world: World, a: int, b: int, c: int) -> None:
    moods = ("claim", "late", "claim", "redirect", "not_owner", "unavailable", "overloaded")
    world.workers[_worker(a)].mood = moods[b % len(moods)]


def _ring(world: World, a: int, b: int, c: int) -> None:
    names = [worker.name for worker in world.workers.values() if (1 + a % 7) >> (worker.index - 1) & 1]
    world.core.set_ring(build_ring(dict.fromkeys(names, 1)))


def _pass(world: World, a: int, b: int, c: int) -> None:
    world.time.pass_ms((1, 30, 60, 300, 1100)[a % 5])


def _elsewhere(world: World, a: int, b: int, c: int) -> None:
    """Another router sends an observation of a session."""
    user = USERS[b % 3]
    if (owner := world.owners.get(user)) is not None and user in world.workers[owner].states:
        world.workers[owner].consume_foreign(user, SESSIONS[1 + c % 2])


def _forget(world: World, a: int, b: int, c: int) -> None:
    """A session is refused for good, as one that its user has no place for."""
    world.forgotten = (USERS[b % 3], SESSIONS[1 + c % 2]) if a % 2 else None


def _slow(world: World, a: int, b: int, c: int) -> None:
    world.is_slow = bool(a % 2)


ACTS: dict[str, Callable[[World, int, int, int], None]] = {
    "join": _join,
    "open": _open,
    "call": _call,
    "observe": _observe,
    "send": _send,
    "close": _close,
    "leave": _leave,
    "write": lambda world, a, b, c: world.write(_worker(a)),
    "read": _read,
    "step": _step,
    "flush": _flush,
    "deliver": lambda world, a, b, c: world.deliver(_worker(a)),
    "turn": _turn,
    "arrive": lambda world, a, b, c: world.workers[_worker(a)].arrive(),
    "journal": lambda world, a, b, c: world.workers[_worker(a)].journal(),
    "move": _move,
    "usurp": _usurp,
    "lose": _lose,
    "die": _die,
    "unlink": _unlink,
    "relink": lambda world, a, b, c: world.relink(_worker(a)),
    "mood": _mood,
    "ring": _ring,
    "pass": _pass,
    "slow": _slow,
    "elsewhere": _elsewhere,
    "forget": _forget,
}
