"""The routing core: from sessions to links and back. A library without I/O: the router process puts gRPC around it, the
SDK embeds it.

A *feed* is whatever sends a session's events and takes its results: a Session stream, an Exchange stream, a unary
call. A *link* is one worker: an outbox of what waits to be sent to it, which its shell empties into one message. The
core only moves values between the two; every call returns at once, and what is told to a feed is told by calling it.

Where there is a store a session outlives its worker: it *moves* (router.moves) to whoever serves it next, with its
events, while its feed waits; and once its feed is done with it, it stays until all of it is durable.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from evercurrent.errors import refused, rejection
from evercurrent.matching import mismatch
from evercurrent.security.dialing import PLAIN
from evercurrent.security.identity import caller
from evercurrent.slots import slot_of, user_key
from evercurrent.telemetry import LatencyWindow
from evercurrent.v1 import description_pb2, worker_pb2
from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1.columns_pb2 import EVENT_KIND_CLOSE, EVENT_KIND_QUERY, IndexedRejection
from evercurrent.wire import Layout, Records, joined, watermarks
from router.latency import update_latency
from router.moves import RETRY_US, TRANSIENT, Move, Moves, Replay, replay
from router.outbox import NOTHING, Link, Outbox
from router.quotas import Quota, Quotas
from router.replay import Kept, ReplayLog
from router.ring import Ring
from router.sessions import (
    ACTIVE,
    CLOSING,
    NOBODY,
    NOWHERE,
    OPENING,
    SETTLING,
    Admission,
    SessionTable,
    overloaded,
)
from router.traces import NO_TRACEPARENTS, Contexts, Traceparents, Traces, shared_out

RETRY_AFTER_MS = 500
US_PER_MS = 1000
NOWHERE_ROOM = 1 << 40

GAP_PATIENCE_US = 1_000_000
"""How long another router, which had the session before, may take to replay what is missing here."""

Clock = Callable[[], int]
"""Monotonic microseconds."""

After = Callable[[int, Callable[[], None]], object]
"""Has something called after so many microseconds, or a little earlier."""


class Feed(Protocol):
    """What takes the results of its sessions. Each call returns at once and never raises."""

    def opened(self, sid: int, answer: worker_pb2.LinkTagOpened) -> None:
        """The worker opened the session, or refused it: then the sid is no longer the feed's."""

    def results(self, records: Records, rejections: Sequence[IndexedRejection]) -> None:
        """Results of its events in order; `rejections` are by index into `records`."""

    def durable(self, sids: NDArray[np.int64], seqs: NDArray[np.uint64]) -> None:
        """Watermarks of sessions that wait for them: durable up to these seqs. What results say themselves is not
        repeated."""

    def ended(self, sids: Sequence[int], why: pb.Rejection) -> None:
        """These sessions are gone; their sids are no longer the feed's. What they had in flight gets no answer."""

    def go_away(self, message: str, grace_ms: int) -> None:
        """Have the client leave; after that time `stop` comes."""

    def stop(self, why: pb.Rejection) -> None:
        """End the stream or call for this reason."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much a core takes. `on_full` says what happens when no more can be kept for replay."""

    in_flight_link_max: int = 16_384
    in_flight_session_max: int = 256
    in_flight_user_max: int = 1024
    replay_events_max: int = 1_000_000
    replay_bytes_max: int = 256 << 20
    blocks_when_full: bool = False
    move_timeout_us: int = 10_000_000


class RoutingCore:
    """Sessions, feeds and links of one router. Links are named by their index, which another link gets only when nobody
    is there any more; the first stands for nowhere."""

    def __init__(self, bounds: Bounds, clock_us: Clock, after: After) -> None:
        self.ring: Ring | None = None
        self.links: dict[int, Link] = {}
        self.sessions = SessionTable()
        self.latency = update_latency()
        """Told by feeds, of what they have written."""
        self.pauses = LatencyWindow()
        """How long sessions waited that moved."""
        self.num_rings = 0
        self.clock_us = clock_us
        self.bounds = bounds
        self.moves = Moves()
        self.log = ReplayLog(self.sessions, bounds.replay_events_max, bounds.replay_bytes_max)
        self.has_store = False
        """Whether events become durable; as the workers say."""
        self.num_moved = 0
        self.num_replayed = 0
        self._after = after
        self._owners = np.full(0, NOWHERE, np.int16)
        self._index: dict[str, int] = {}
        self._room = np.full(1, NOWHERE_ROOM, np.int64)
        self._model: description_pb2.ModelDescription | None = None
        self._layout: Layout | None = None
        self._close_event = b""
        self._feeds: dict[int, Feed] = {}
        self.versions = [""]
        """The names of all model versions heard of, by the number that results give; 0: none."""
        self._last_feed = NOBODY
        self.quotas: Quotas | None = None
        """Set where callers are told apart and limited."""
        self.dialing = PLAIN
        """How workers are called."""
        self.traces: Traces | None = None
        """Set where events may be traced."""
        self._requests: dict[int, worker_pb2.LinkTagOpen] = {}
        self._sids: dict[str, int] = {}
        self._num_of_user: Counter[str] = Counter()
        self._num_muted = 0
        self._looks_at_us: int | None = None
        self._idle: Callable[[], None] | None = None

    # --- what is served ---------------------------------------------------------------------------------------------

    @property
    def num_feeds(self) -> int:
        """Streams and calls under way."""
        return len(self._feeds)

    @property
    def model(self) -> description_pb2.ModelDescription:
        """What the workers serve.

        Raises:
            Refused: REASON_UNAVAILABLE, no worker has been reached yet.
        """
        if self._model is None:
            raise refused(pb.REASON_UNAVAILABLE, "", "no worker has been reached yet", RETRY_AFTER_MS)
        return self._model

    @property
    def layout(self) -> Layout:
        """How wide events and results are. Raises as `model`."""
        if self._layout is None:
            raise refused(pb.REASON_UNAVAILABLE, "", "no worker has been reached yet", RETRY_AFTER_MS)
        return self._layout

    # --- workers and the ring ---------------------------------------------------------------------------------------

    def add_worker(self, name: str, address: str) -> int:
        """A worker is to be linked; the index of its link."""
        index = next(index for index in range(1, len(self.links) + 2) if index not in self.links)
        self.links[index] = Link(name, address)
        self._index[name] = index
        self._room = np.full(max(len(self._room), index + 1), NOWHERE_ROOM, np.int64)
        self._aim()
        return index

    def remove_worker(self, index: int) -> None:
        """Its link is closed for good."""
        assert self.links[index].outbox is None, "a link is lost before it is removed"
        del self._index[self.links.pop(index).name]
        self._aim()

    def link_named(self, name: str) -> int:
        """The index of a worker's link; NOWHERE: there is none."""
        return self._index.get(name, NOWHERE)

    def set_ring(self, ring: Ring) -> None:
        """Users are sent by this ring from now on. Workers are told their slots; sessions stay where they are until
        their worker gives them up."""
        self.ring = ring
        self.num_rings += 1
        self._aim()
        for link in self.links.values():
            self._tell_slots(link)
        self._ask_all()

    def tell_slots(self, index: int) -> None:
        """Tell one worker its slots once more."""
        self._tell_slots(self.links[index])

    def worker_of(self, namespace: str, user_id: str) -> tuple[int, int]:
        """The slot of a user and the index of its worker's link.

        Raises:
            Refused: REASON_UNAVAILABLE, there is no ring yet.
        """
        slot = slot_of(user_key(namespace, user_id))
        if self.ring is None:
            raise refused(pb.REASON_UNAVAILABLE, "", "no worker has been reached yet", RETRY_AFTER_MS)
        return slot, int(self._owners[slot])

    def link_opened(self, index: int, opened: worker_pb2.LinkOpened, wake: Callable[[], None]) -> Outbox:
        """A worker is reachable. The first of all that are says what the service's model is.

        Raises:
            Refused: REASON_MODEL, it serves another model than the others, or they have stores and it has none.
        """
        if not any(link.outbox for link in self.links.values()):
            self._serve(opened.model, opened.has_store)
        elif self._model is not None and (why := mismatch(self._model, opened.model)):
            text = f"{opened.worker} serves another model than the others' {self._model.name}: {why}"
            raise refused(pb.REASON_MODEL, "model", text)
        elif self.has_store != opened.has_store:
            text = f"{opened.worker} {'has a' if opened.has_store else 'has no'} store, unlike the others"
            raise refused(pb.REASON_MODEL, "has_store", text)
        link = self.links[index]
        link.incarnation = opened.incarnation
        link.status = worker_pb2.WorkerStatus()
        link.live = opened.live
        self._number(link, opened.models)
        link.outbox = Outbox(wake)
        self._tell_slots(link)
        self._ask_all()
        return link.outbox

    def link_lost(self, index: int) -> None:
        """A worker is not reachable any more: its sessions move, or end where nothing outlives it."""
        link = self.links[index]
        link.outbox = None
        link.num_in_flight = 0
        why = rejection(pb.REASON_UNAVAILABLE, "", f"{link.name} was lost", RETRY_AFTER_MS)
        moving = self.moves.of_link(index)
        lost = self.sessions.of_worker(index)
        self._silence(np.concatenate([moving, lost]))
        if not self.has_store:
            self._end([*moving.tolist(), *lost.tolist()], why)
            return
        ends = [sid for sid in lost.tolist() if self._is_unsafe(sid)]
        self._end(ends, why)
        self._move(np.setdiff1d(lost, ends))
        self._set_free(moving)

    def _serve(self, model: description_pb2.ModelDescription, has_store: bool) -> None:
        """Serve this model. Streams that were opened for another end: what they know of it holds no more."""
        if self._model == model and self.has_store == has_store:
            return
        why = rejection(pb.REASON_UNAVAILABLE, "", f"the service's model is {model.name} now", RETRY_AFTER_MS)
        self._end(list(self.moves), why)
        for feed in list(self._feeds.values()):
            feed.stop(why)
        self._model = model
        self.has_store = has_store
        self._layout = Layout.of(model)
        self.log.begin(self._layout.event_dtype)
        close = np.zeros(1, self._layout.event_dtype)
        close["kind"] = EVENT_KIND_CLOSE
        self._close_event = close.tobytes()

    def _aim(self) -> None:
        """Find the link of each slot anew."""
        if self.ring is not None:
            links = np.array([self.link_named(name) for name in self.ring.names], np.int16)
            self._owners = links[self.ring.owners]

    def _tell_slots(self, link: Link) -> None:
        if link.outbox is not None and self.ring is not None:
            named = link.name in self.ring.names
            link.outbox.tell_slots(self.ring.slots_of(self.ring.names.index(link.name)) if named else [])

    # --- feeds and their sessions -----------------------------------------------------------------------------------

    def add_feed(self, feed: Feed) -> int:
        """Names a feed by a number until `remove_feed`."""
        self._last_feed += 1
        self._feeds[self._last_feed] = feed
        return self._last_feed

    def remove_feed(self, number: int, sids: Iterable[int]) -> None:
        """The feed is gone; close the sessions it still has."""
        del self._feeds[number]
        for sid in sids:
            self.close(sid)
        self._tell_idle()

    @property
    def is_idle(self) -> bool:
        """Whether there is no stream, call or session."""
        return not self._feeds and not len(self.sessions)

    def when_idle(self, tell: Callable[[], None]) -> None:
        """Have this called when the core is idle, or now if it is."""
        self._idle = tell
        self._tell_idle()

    def _tell_idle(self) -> None:
        if self._idle is not None and self.is_idle:
            self._idle()

    def open(
        self,
        feed: int,
        tag: int,
        user_id: str,
        namespace: str,
        session_id: str,
        wait_durable: bool = False,
        model_version: str = "",
    ) -> int:
        """Open a session at the user's worker; its sid. The feed is told by `opened` and, with `wait_durable`, of
        watermarks. Another feed that has the session is told that it ended.

        Raises:
            Refused: REASON_UNAVAILABLE, nobody can serve it and nobody will; REASON_OVERLOADED, the user has too many.
        """
        slot, worker = self.worker_of(namespace, user_id)
        if not self.has_store and not self._can_ask(worker):
            name = self.links[worker].name if worker in self.links else "the user's worker"
            raise refused(pb.REASON_UNAVAILABLE, "user_id", f"{name} is not reachable", RETRY_AFTER_MS)
        user = user_key(namespace, user_id)
        if session_id and (sid := self._sids.get(f"{user}\0{session_id}")) is not None:
            self._requests[sid].model_version = model_version
            self._take_over(sid, feed, tag, wait_durable)
            return sid
        num_of_user = self._num_of_user[user] + 1
        if num_of_user > self.bounds.in_flight_user_max:
            raise refused(pb.REASON_OVERLOADED, "user_id", f"the user has {num_of_user - 1} sessions open", 50)
        self._num_of_user[user] = num_of_user
        limit = min(self.bounds.in_flight_session_max, self.bounds.in_flight_user_max // num_of_user)
        sid = self.sessions.allocate(feed, tag, slot, limit, wait_durable)
        self._requests[sid] = worker_pb2.LinkTagOpen(
            tag=sid,
            user_id=user_id,
            session_id=session_id,
            namespace=namespace,
            slot=slot,
            watermarks=wait_durable or (self.has_store and bool(session_id)),
            model_version=model_version,
        )
        if session_id:
            self._sids[f"{user}\0{session_id}"] = sid
        if self._can_ask(worker):
            self.sessions.worker[sid] = worker
            self._outbox(worker).open(self._requests[sid])
        else:
            self._begin_move(sid)
        return sid

    def quota(self) -> Quota | None:
        """What whoever calls now may do; None: there is no limit."""
        identity = caller.get()
        return None if self.quotas is None or identity is None else self.quotas.of(identity.subject)

    def user_of(self, sid: int) -> str:
        """Whose session it is."""
        return self._requests[sid].user_id

    def version_of(self, sid: int) -> str:
        """The model version that predicts for a session, for now."""
        link = self.links.get(self.sessions.worker.item(sid))
        return self._requests[sid].model_version or ("" if link is None else link.live)

    def close(self, sid: int) -> None:
        """The feed is done with a session. What is on the way is still applied, and replayed until it is durable;
        nobody is told."""
        sessions = self.sessions
        sessions.feed[sid] = NOBODY
        move = self.moves.get(sid)
        if self._lingers(sid):
            if sessions.state[sid] != CLOSING:
                sessions.next_seq[sid] = self._next_seq(sid)
                sessions.state[sid] = SETTLING
        elif move is not None:
            self._abandon(sid, move)
        elif sessions.state[sid] != CLOSING:
            sessions.state[sid] = CLOSING
            self._send_close(sid)

    def send(
        self,
        sid: int,
        event: bytes,
        num_events: int = 1,
        refusal: pb.Rejection | None = None,
        traced: tuple[int, str] | None = None,
    ) -> None:
        """Send packed events of one session, whose seqs the caller has settled. One that may be traced comes with its
        seq and a traceparent, if it has one.

        Raises:
            Refused: REASON_OVERLOADED, the worker's queue is full, or no more can be kept.
        """
        index = self.sessions.worker.item(sid)
        if index != NOWHERE and self.links[index].num_in_flight + num_events > self.bounds.in_flight_link_max:
            raise refused(pb.REASON_OVERLOADED, "", f"the queue of {self.links[index].name} is full", retry_after_ms=50)
        if self.bounds.blocks_when_full and self.log.is_full:
            raise refused(pb.REASON_OVERLOADED, "", "too much waits to become durable", retry_after_ms=200)
        self._send(sid, event, num_events, refusal, traced)

    def send_many(
        self, sids: NDArray[np.int32], events: Records, traceparents: Traceparents = NO_TRACEPARENTS
    ) -> Admission:
        """Admit events of sessions that are open or were, and send those that are accepted."""
        if self.bounds.blocks_when_full and self.log.is_full:
            why = overloaded("too much waits to become durable")
            return Admission(np.zeros(len(events), np.bool_), dict.fromkeys(range(len(events)), why), np.zeros(0, int))
        for index, link in self.links.items():
            self._room[index] = self.bounds.in_flight_link_max - link.num_in_flight
        admission = self.sessions.admit(sids, events, self._room)
        if len(admission.ordinals) < len(events):
            sids, events = sids[admission.accepted], events.compress(admission.accepted)
        contexts: Contexts = NOTHING
        if self.traces is not None:
            contexts = self.traces.begin_many(events, admission.ordinals, traceparents)
        workers = self.sessions.worker[sids]
        counts = np.bincount(workers).tolist()
        if counts and counts[NOWHERE]:
            for at in np.flatnonzero(workers == NOWHERE).tolist():
                self._hold(int(sids[at]), events[at].tobytes(), 0, None)
        for worker, num_events in enumerate(counts[NOWHERE + 1 :], NOWHERE + 1):
            if num_events == len(events):
                self._send_share(worker, events, admission.ordinals, contexts)
            elif num_events:
                ours = workers == worker
                share = shared_out(contexts, ours) if contexts else contexts
                self._send_share(worker, events.compress(ours), admission.ordinals[ours], share)
        return admission

    def _send_share(self, worker: int, events: Records, ordinals: NDArray[np.int64], contexts: Contexts) -> None:
        """Send events that were admitted, all to one worker."""
        raw = events.tobytes()
        if self.has_store:
            self.log.add_many(raw, ordinals)
        self.links[worker].num_in_flight += len(events)
        self._outbox(worker).send(raw, len(events), None, contexts)

    def go_away(self, message: str, grace_ms: int) -> None:
        """Have every client leave."""
        for feed in list(self._feeds.values()):
            feed.go_away(message, grace_ms)

    def stop(self) -> None:
        """Every stream and call ends with UNAVAILABLE."""
        why = rejection(pb.REASON_UNAVAILABLE, "", "the router is stopping", RETRY_AFTER_MS)
        for feed in list(self._feeds.values()):
            feed.stop(why)

    def _send(
        self,
        sid: int,
        raw: bytes,
        num_events: int,
        refusal: pb.Rejection | None,
        traced: tuple[int, str] | None = None,
    ) -> None:
        """Send or hold packed events of one session, and count them."""
        sessions = self.sessions
        last_ordinal = sessions.num_sent.item(sid) + num_events
        sessions.num_sent[sid] = last_ordinal
        context = None
        if traced is not None and self.traces is not None:
            context = self.traces.begin(sid, last_ordinal, *traced)
        index = sessions.worker.item(sid)
        if index == NOWHERE:
            self._hold(sid, raw, last_ordinal, refusal)
            return
        if self.has_store:
            self.log.add(raw, last_ordinal, num_events, refusal)
        self.links[index].num_in_flight += num_events
        self._outbox(index).send(raw, num_events, refusal, NOTHING if context is None else {0: context})

    def _hold(self, sid: int, raw: bytes, last_ordinal: int, refusal: pb.Rejection | None) -> None:
        move = self.moves.get(sid)
        assert move is not None, "sessions that are nowhere move"
        move.held.append(raw)
        if refusal is not None:
            move.refusals[last_ordinal] = refusal

    def _send_close(self, sid: int) -> None:
        self._send(sid, self._tagged_close(sid), 1, None)

    def _tagged_close(self, sid: int) -> bytes:
        close = np.frombuffer(self._close_event, self.layout.event_dtype).copy()
        close["tag"] = sid
        return close.tobytes()

    def _take_over(self, sid: int, feed: int, tag: int, wait_durable: bool) -> None:
        """Another feed opens a session that is here. What was sent of it goes on; its answers are for nobody. It is
        opened anew, so that the feed is told how far it is."""
        sessions = self.sessions
        if (former := self._feeds.get(sessions.feed.item(sid))) is not None:
            former.ended([sid], rejection(pb.REASON_SESSION_TAKEN, "session_id", "the session was opened again"))
        move = self.moves.get(sid)
        if move is None:
            worker, state = sessions.worker.item(sid), sessions.state.item(sid)
            self._mute(sid, sessions.num_unanswered(sid))
            if state != OPENING:
                if state != CLOSING:
                    self._send_last(sid, worker)
                move = self._begin_move(sid, owner=self.links[worker].name)
                move.link = move.origin = worker
                sessions.worker[sid] = NOWHERE
        if move is not None:
            move.next_seq = self._next_seq(sid)
        if self.traces is not None:
            self.traces.forget(sid)
        sessions.num_answered[sid] = sessions.num_sent[sid]
        sessions.begin(sid, feed, tag, wait_durable)

    def _send_last(self, sid: int, index: int) -> None:
        """Close a session's tag at a worker; the result is for nobody."""
        self._mute(sid, 1)
        self.links[index].num_in_flight += 1
        self._outbox(index).send(self._tagged_close(sid), 1)

    def _mute(self, sid: int, num_results: int) -> None:
        self.sessions.num_muted[sid] += num_results
        self._num_muted += num_results

    def _silence(self, sids: NDArray[np.intp]) -> None:
        """The results that were to come of these sessions for nobody will not."""
        self._num_muted -= int(self.sessions.num_muted[sids].sum())
        self.sessions.num_muted[sids] = 0

    def _can_ask(self, index: int) -> bool:
        return index in self.links and self.links[index].outbox is not None

    def _outbox(self, index: int) -> Outbox:
        outbox = self.links[index].outbox
        assert outbox is not None, "sessions of a lost link have moved or ended"
        return outbox

    def _next_seq(self, sid: int) -> int:
        """What a feed of the session would go on with, this one or, while it opens it, the one before; 0: none."""
        if self.sessions.state[sid] != OPENING:
            return self.sessions.next_seq.item(sid)
        move = self.moves.get(sid)
        return 0 if move is None else move.next_seq

    def _lingers(self, sid: int) -> bool:
        """Whether something of a session is not durable yet that may become so."""
        return (
            self.has_store
            and bool(self._requests[sid].session_id)
            and self.sessions.durable_seq.item(sid) + 1 < self._next_seq(sid)
        )

    def _end(self, sids: Sequence[int], why: pb.Rejection) -> None:
        """These sessions are gone; their feeds are told."""
        by_feed: dict[int, list[int]] = {}
        for sid in sids:
            by_feed.setdefault(self.sessions.feed.item(sid), []).append(sid)
        for number, of_feed in by_feed.items():
            if (feed := self._feeds.get(number)) is not None:
                feed.ended(of_feed, why)
        for sid in sids:
            self._free(sid)

    def _free(self, sid: int) -> None:
        """The sid may be given to another session."""
        if self.traces is not None:
            self.traces.forget(sid)
        self._unname(sid)
        request = self._requests.pop(sid)
        user = user_key(request.namespace, request.user_id)
        self._num_of_user[user] -= 1
        if not self._num_of_user[user]:
            del self._num_of_user[user]
        if self.moves.get(sid) is not None:
            self.moves.end(sid)
        self.log.forget(sid)
        self.sessions.free(sid)
        self._tell_idle()

    def _unname(self, sid: int) -> None:
        """Who opens this session next gets another sid."""
        request = self._requests[sid]
        name = f"{user_key(request.namespace, request.user_id)}\0{request.session_id}"
        if self._sids.get(name) == sid:
            del self._sids[name]

    # --- moves ------------------------------------------------------------------------------------------------------

    def _is_unsafe(self, sid: int) -> bool:
        """Whether a session cannot go on elsewhere: without a session id nobody knows whether its event was applied."""
        if self._requests[sid].session_id or self.sessions.feed[sid] == NOBODY:
            return False
        return bool(self.sessions.wait_durable[sid]) or self.sessions.num_unanswered(sid) > 0

    def _move(self, sids: NDArray[np.intp], owner: str = "") -> None:
        """These sessions are on no worker any more: ask for them elsewhere. Those that nothing is waited for of are
        done."""
        kept = self.log.take(sids)
        for sid in sids.tolist():
            self.sessions.worker[sid] = NOWHERE
            if self._is_wanted(sid):
                self._begin_move(sid, kept.get(sid), owner)
            else:
                self._free(sid)
        self._ask(sids.tolist())

    def _begin_move(self, sid: int, kept: Kept | None = None, owner: str = "") -> Move:
        now_us = self.clock_us()
        deadline_us = now_us + self.bounds.move_timeout_us
        move = Move(now_us, deadline_us, now_us + GAP_PATIENCE_US, kept, owner)
        self.moves.begin(sid, move)
        self._look_at(deadline_us)
        return move

    def _ask_all(self) -> None:
        """Ask for the sessions that no link could be asked for yet."""
        if len(self.moves):
            self._ask(self.moves)

    def _ask(self, sids: Iterable[int]) -> None:
        """Ask for those of these sessions that move, of which no link owes anything and that have not to wait."""
        for sid in sids:
            move = self.moves.get(sid)
            if move is None or move.link != NOWHERE or move.retry_at_us:
                continue
            if not self._is_wanted(sid):
                self._free(sid)
                continue
            index = self.link_named(move.owner)
            if not self._can_ask(index) and self.ring is not None:
                index = self._owners.item(self.sessions.slot.item(sid))
            if self._can_ask(index):
                move.link, move.is_asked = index, True
                self._outbox(index).open(self._requests[sid])

    def _is_wanted(self, sid: int) -> bool:
        """Whether anybody feeds a session, or something of it is to become durable."""
        return bool(self.sessions.feed[sid] != NOBODY) or self._lingers(sid)

    def _set_free(self, sids: Iterable[int]) -> None:
        """The link that owed something of these sessions does so no more: they go on, or are gone."""
        left = []
        for sid in sids:
            move = self.moves.get(sid)
            if move is None:
                continue
            move.leave()
            if move.is_over:
                self._free(sid)
            else:
                left.append(sid)
        self._ask(left)

    def _abandon(self, sid: int, move: Move) -> None:
        """A session that moves does so no more; what is not durable of it is given up. Its sid is free when the link
        that owes something of it does so no more."""
        if self._lingers(sid):
            if move.kept is None:
                self._take_kept([sid])
            kept = self._kept(sid, move)
            self.log.num_dropped += int(np.count_nonzero(kept.ordinals <= self.sessions.num_answered[sid]))
        self.sessions.feed[sid] = NOBODY
        self.sessions.state[sid] = CLOSING
        self.sessions.num_answered[sid] = self.sessions.num_sent[sid]
        move.is_over = True
        self._unname(sid)
        if move.link == NOWHERE:
            self._free(sid)

    def _look_at(self, at_us: int) -> None:
        """Look at the moves that are due then."""
        if self._looks_at_us is None or at_us < self._looks_at_us:
            self._looks_at_us = at_us
            self._wait_for(at_us)

    def _wait_for(self, at_us: int) -> None:
        self._after(max(0, at_us - self.clock_us()), partial(self._look, at_us))

    def _look(self, at_us: int) -> None:
        """Look, if this is still when it is to be looked next and that time has come: timers may be early."""
        if at_us != self._looks_at_us:
            return
        now_us = self.clock_us()
        if now_us < at_us:
            self._wait_for(at_us)
            return
        self._looks_at_us = None
        retried = []
        for sid, move in self.moves.due(now_us):
            if now_us >= move.deadline_us:
                self._give_up(sid, move)
            elif move.retry_at_us and now_us >= move.retry_at_us:
                move.retry_at_us = 0
                retried.append(sid)
        self._ask(retried)
        if (next_us := self.moves.next_due_us()) is not None:
            self._look_at(next_us)

    def _retry(self, sid: int, after_us: int) -> None:
        at_us = self.clock_us() + after_us
        self.moves.retry(sid, at_us)
        self._look_at(at_us)

    def _give_up(self, sid: int, move: Move) -> None:
        """Nobody served a session for long."""
        if move.is_over:
            return
        why = rejection(pb.REASON_UNAVAILABLE, "user_id", "no worker could serve the user", RETRY_AFTER_MS)
        self._tell_refused(sid, worker_pb2.LinkTagOpened(tag=sid, rejection=why))
        self._abandon(sid, move)

    def _tell_refused(self, sid: int, answer: worker_pb2.LinkTagOpened) -> None:
        """Tell a feed that it does not get a session, or has it no more."""
        if (feed := self._feeds.get(self.sessions.feed.item(sid))) is None:
            return
        if self.sessions.state[sid] == OPENING:
            feed.opened(sid, answer)
        else:
            feed.ended([sid], answer.rejection)

    def _arrive(self, sid: int, index: int, move: Move, answer: worker_pb2.LinkTagOpened) -> None:
        """A worker serves a session that moved: send it what it lacks, and what was held."""
        sessions = self.sessions
        move.leave()
        if move.is_over or not self._is_wanted(sid):
            self._turn_away(sid, index, move)
            return
        was_opening = sessions.state.item(sid) == OPENING
        plan = self._plan(sid, move, answer.applied_seq, was_opening)
        if plan is None:
            self._send_last(sid, index)
            move.link = index
            self._retry(sid, RETRY_US)
            return
        feed = self._feeds.get(sessions.feed.item(sid))
        if plan.missing and feed is not None and sessions.wait_durable[sid]:
            # Who waits for durability keeps what is not durable.
            first, last = plan.missing
            text = f"{first} to {last} are lost here: open again, and send them again or skip them"
            feed.ended([sid], rejection(pb.REASON_SEQ_GAP, "seq", text))
            self._turn_away(sid, index, move)
            return
        assert move.kept is not None, "who plans has all that is kept"
        self.log.num_dropped += len(move.kept.records) - len(plan.stays.records)
        self.moves.end(sid)
        if not was_opening and index != move.origin:
            self.num_moved += 1
            now_us = self.clock_us()
            self.pauses.record([now_us - move.began_us], now_us / 1e6)
        sessions.worker[sid] = index
        sessions.durable_seq[sid] = answer.durable_seq = max(sessions.durable_seq.item(sid), answer.durable_seq)
        self._send_plan(sid, index, plan)
        if feed is None:
            sessions.next_seq[sid] = max(answer.applied_seq, plan.last_seq) + 1
        if was_opening:
            answer.applied_seq = max(answer.applied_seq, plan.last_muted_seq)
            sessions.activate(sid, answer.applied_seq, answer.durable_seq)
            assert feed is not None, "who opens a session feeds it"
            feed.opened(sid, answer)
        elif feed is not None and sessions.wait_durable[sid]:
            feed.durable(np.array([sid]), np.array([answer.durable_seq], np.uint64))
        self._settle(np.array([sid]))

    def _turn_away(self, sid: int, index: int, move: Move) -> None:
        """A worker serves a session that nobody wants any more."""
        self._send_last(sid, index)
        move.link = index
        self._abandon(sid, move)

    def _plan(self, sid: int, move: Move, applied_seq: int, was_opening: bool) -> Replay | None:
        """What a worker that has so much of a session is to be sent; None: it is not to serve it yet."""
        sessions = self.sessions
        if self._requests[sid].session_id and applied_seq < sessions.durable_seq[sid]:
            # It does not know yet that it owns the user no more.
            return None
        next_seq: int | None = None
        if self._requests[sid].session_id and not was_opening:
            next_seq = 0 if sessions.feed[sid] == NOBODY else sessions.next_seq.item(sid)
        kept = self._kept(sid, move)
        plan = replay(sid, kept, sessions.num_answered.item(sid), next_seq, applied_seq, self.clock_us())
        # What came before this feed may be on its way from another router.
        is_early = plan.missing and plan.missing[0] <= sessions.resumed_at[sid]
        return None if is_early and self.clock_us() < move.patient_until_us else plan

    def _kept(self, sid: int, move: Move) -> Kept:
        """All that is kept and held of a session, as far as it was taken from the log; it stays in the move."""
        dtype = self.layout.event_dtype
        held = np.frombuffer(bytearray().join(move.held), dtype)
        num_sent = self.sessions.num_sent.item(sid)
        ordinals = np.arange(num_sent - len(held) + 1, num_sent + 1)
        before = move.kept or Kept(np.zeros(0, dtype), np.zeros(0, np.int64))
        kept = Kept(
            joined([before.records, held]),
            np.concatenate([before.ordinals, ordinals]),
            {**before.refusals, **move.refusals},
        )
        move.kept, move.held, move.refusals = kept, [], {}
        return kept

    def _take_kept(self, sids: Sequence[int]) -> None:
        """Take what is kept of sessions that move out of the log."""
        kept = self.log.take(np.array(sids, np.int64))
        for sid in sids:
            move = self.moves.get(sid)
            assert move is not None, "sessions whose events are taken move"
            move.kept = kept.get(sid)

    def _lacks(self, sid: int, applied_seq: int) -> bool:
        """Whether a worker that has so much of a session that moves may be to be sent something from the log."""
        move = self.moves.get(sid)
        if move is None or move.kept is not None or move.is_over:
            return False
        num_held = sum(map(len, move.held)) // self.layout.event_dtype.itemsize
        return self.sessions.num_unanswered(sid) > num_held or applied_seq + 1 < self._next_seq(sid)

    def _send_plan(self, sid: int, index: int, plan: Replay) -> None:
        self._mute(sid, plan.num_muted)
        self.log.add_kept(plan.stays)
        if num_events := len(plan.sent.records):
            self.links[index].num_in_flight += num_events
            self.num_replayed += num_events
            again = NOTHING if self.traces is None else self.traces.again(sid, plan.sent.ordinals)
            self._outbox(index).send_kept(plan.sent, again)

    # --- what workers say -------------------------------------------------------------------------------------------

    def receive(self, index: int, frame: worker_pb2.LinkResults) -> None:
        """Hand a worker's answers to their feeds."""
        if frame.results and len(frame.ListFields()) == 1:
            self._results(self.links[index], self.layout.results(frame.results), ())
            return
        if frame.opens:
            self._take_kept([answer.tag for answer in frame.opens if self._lacks(answer.tag, answer.applied_seq)])
        for answer in frame.opens:
            self._opened(index, answer)
        if frame.models:
            self._number(self.links[index], frame.models)
        if frame.results:
            self._results(self.links[index], self.layout.results(frame.results), frame.rejections)
        if frame.watermarks:
            self._watermarks(watermarks(frame.watermarks))
        if frame.ended:
            self._ended(index, frame.ended)
        if frame.HasField("status"):
            self.links[index].status = frame.status
            self.links[index].live = frame.status.live or self.links[index].live

    def _number(self, link: Link, versions: Sequence[str]) -> None:
        """A worker says which model versions its numbers mean."""
        for version in versions:
            if version not in self.versions:
                self.versions.append(version)
        numbers = np.array([self.versions.index(version) for version in versions], np.uint16)
        link.numbers = None if (numbers == np.arange(len(numbers))).all() else numbers

    def _opened(self, index: int, answer: worker_pb2.LinkTagOpened) -> None:
        sid = answer.tag
        sessions = self.sessions
        move = self.moves.get(sid)
        if move is not None and not move.is_asked:
            # The feed that asked left before this answer: its close, and so its result, was sent all the same.
            return
        if answer.HasField("rejection"):
            self._open_refused(sid, move, answer)
        elif move is not None:
            self._arrive(sid, index, move, answer)
        else:
            was_opening = sessions.state[sid] == OPENING
            sessions.activate(sid, answer.applied_seq, answer.durable_seq)
            feed = self._feeds.get(sessions.feed.item(sid))
            if feed is not None and was_opening:
                feed.opened(sid, answer)
            self._settle(np.array([sid]))

    def _open_refused(self, sid: int, move: Move | None, answer: worker_pb2.LinkTagOpened) -> None:
        """The session is asked for again in a moment, where that may help; or its sid is free when what was sent along
        with the open is answered, not before."""
        sessions = self.sessions
        why = answer.rejection
        if move is None:
            self._mute(sid, sessions.num_unanswered(sid))
            move = self._begin_move(sid)
            if sessions.num_muted[sid]:
                move.link = sessions.worker.item(sid)
            sessions.worker[sid] = NOWHERE
        else:
            move.leave()
        if move.is_over:
            self._free(sid)
        elif self.has_store and self._is_wanted(sid) and self._comes_back(sid, why.reason):
            move.owner = why.owner
            self._retry(sid, why.retry_after_ms * US_PER_MS or RETRY_US)
        else:
            self._tell_refused(sid, answer)
            self._abandon(sid, move)

    def _comes_back(self, sid: int, reason: int) -> bool:
        """Whether a session that is refused for this reason is served a moment later, here or elsewhere. A feed that
        opens one of which nothing is at risk may as well come back itself."""
        if reason == pb.REASON_NOT_OWNER:
            return True
        return reason in TRANSIENT and (self.sessions.state[sid] != OPENING or self._lingers(sid))

    def _results(self, link: Link, records: Records, rejections: Sequence[IndexedRejection]) -> None:
        link.num_in_flight -= len(records)
        if link.numbers is not None:
            records = records.copy()
            records["model"] = link.numbers[records["model"]]
        if len(records) == 1 and not rejections:
            self._result(link, records)
            return
        if self._num_muted:
            records, rejections = self._unmuted(records, rejections)
            if not len(records):
                return
        sids = records["tag"].astype(np.int64)
        np.add.at(self.sessions.num_answered, sids, 1)
        if self.traces is not None and not self.traces.is_idle:
            self.traces.answered(sids, self.sessions.num_answered, records, link.name)
        link.num_updates += int(np.count_nonzero(records["status"] == pb.STATUS_APPLIED))
        for indexed in rejections:
            self._rejected(records[indexed.index], indexed.rejection.reason)
        self.sessions.raise_durable(sids, records["durable_seq"])
        self._deliver(sids, records, rejections)
        self._closed(sids[records["kind"] == EVENT_KIND_CLOSE].tolist())
        self._settle(sids)

    def _result(self, link: Link, records: Records) -> None:
        """The same for one plain result, without the array operations that pay only for many."""
        durable_seq, sid, status, kind = self.layout.result_marks_struct.unpack(records.tobytes())
        sessions = self.sessions
        if self._num_muted and sessions.num_muted.item(sid):
            self._mute(sid, -1)
            if not sessions.num_muted.item(sid):
                self._set_free([sid])
            return
        sessions.num_answered[sid] += 1
        if self.traces is not None and not self.traces.is_idle:
            self.traces.answered(np.array([sid]), sessions.num_answered, records, link.name)
        link.num_updates += status == pb.STATUS_APPLIED
        if durable_seq > sessions.durable_seq.item(sid):
            sessions.durable_seq[sid] = durable_seq
            sessions.num_raised += 1
        feed = self._feeds.get(sessions.feed.item(sid))
        if feed is not None:
            feed.results(records, ())
        if kind == EVENT_KIND_CLOSE:
            self._closed([sid])
        elif sessions.state.item(sid) == SETTLING:
            self._settle(np.array([sid]))

    def _unmuted(
        self, records: Records, rejections: Sequence[IndexedRejection]
    ) -> tuple[Records, list[IndexedRejection]]:
        """These results without those that are for nobody."""
        stays = np.ones(len(records), np.bool_)
        done = []
        for index in np.flatnonzero(self.sessions.num_muted[records["tag"]]).tolist():
            sid = int(records["tag"][index])
            if self.sessions.num_muted[sid]:
                self._mute(sid, -1)
                stays[index] = False
                if not self.sessions.num_muted[sid]:
                    done.append(sid)
        self._set_free(done)
        places = np.cumsum(stays) - 1
        left = [
            IndexedRejection(index=int(places[indexed.index]), rejection=indexed.rejection)
            for indexed in rejections
            if stays[indexed.index]
        ]
        return records.compress(stays), left

    def _rejected(self, record: np.void, reason: int) -> None:
        """What was rejected without being consumed is expected again."""
        if record["kind"] in (EVENT_KIND_QUERY, EVENT_KIND_CLOSE):
            return
        sid, seq, applied_seq = int(record["tag"]), int(record["seq"]), int(record["applied_seq"])
        if applied_seq < seq:
            self.sessions.next_seq[sid] = applied_seq + 1
            self.log.not_consumed(sid, seq)
        elif reason == pb.REASON_DEADLINE:
            self.log.expired(sid, seq)

    def _closed(self, sids: Iterable[int]) -> None:
        """The worker answered the closes of these sessions. What is not durable of one is kept until it is: the session
        is opened again for nobody."""
        sessions = self.sessions
        left = []
        for sid in sids:
            if not self._lingers(sid):
                self._free(sid)
                continue
            origin = sessions.worker.item(sid)
            self._begin_move(sid, owner=self.links[origin].name).origin = origin
            sessions.feed[sid] = NOBODY
            sessions.state[sid] = SETTLING
            sessions.worker[sid] = NOWHERE
            left.append(sid)
        self._ask(left)

    def _watermarks(self, records: Records) -> None:
        """Those of a tag that was closed and is another session's by now are void."""
        sids = records["tag"].astype(np.int64)
        current = self.sessions.state[sids] >= ACTIVE
        sids, seqs = sids[current], records["durable_seq"][current]
        self.sessions.raise_durable(sids, seqs)
        waiting = self.sessions.wait_durable[sids]
        owners = self.sessions.feed[sids[waiting]]
        for number in np.unique(owners).tolist():
            feed = self._feeds.get(number)
            if feed is not None:
                own = owners == number
                feed.durable(sids[waiting][own], seqs[waiting][own])
        self._settle(sids)

    def _settle(self, sids: NDArray[np.intp]) -> None:
        """Send the closes that these sessions held back for events that are durable now."""
        for sid in self.sessions.settled(sids):
            self._send_close(sid)

    def _ended(self, index: int, ended: Sequence[worker_pb2.LinkTagEnded]) -> None:
        """The worker gave these tags up: it answers nothing more for them."""
        sessions, link = self.sessions, self.links[index]
        self._outbox(index).drop([tag.tag for tag in ended], self.layout)
        done = []
        moving: dict[str, list[int]] = {}
        for tag in ended:
            sid = tag.tag
            is_moving = self.moves.get(sid) is not None
            link.num_in_flight -= sessions.num_muted.item(sid) + (0 if is_moving else sessions.num_unanswered(sid))
            self._silence(np.array([sid]))
            if is_moving:
                done.append(sid)
            elif self.has_store and tag.rejection.reason == pb.REASON_NOT_OWNER:
                moving.setdefault(tag.rejection.owner, []).append(sid)
            else:
                self._end([sid], tag.rejection)
        self._set_free(done)
        for owner, sids in moving.items():
            self._move(np.array(sids), owner)

    def _deliver(self, sids: NDArray[np.int64], records: Records, rejections: Sequence[IndexedRejection]) -> None:
        """Give each feed its own results, in order."""
        owners = self.sessions.feed[sids]
        first = int(owners[0])
        if (owners == first).all():
            feed = self._feeds.get(first)
            if feed is not None:
                feed.results(records, rejections)
            return
        order = np.argsort(owners, kind="stable")
        starts = np.flatnonzero(np.diff(owners[order], prepend=-1)).tolist()
        sorted_records = records.take(order)
        place = {int(index): at for at, index in enumerate(order)} if rejections else {}
        moved = sorted((place[indexed.index], indexed.rejection) for indexed in rejections)
        for start, end in zip(starts, [*starts[1:], len(order)], strict=True):
            feed = self._feeds.get(int(owners[order[start]]))
            if feed is not None:
                own = [IndexedRejection(index=at - start, rejection=why) for at, why in moved if start <= at < end]
                feed.results(sorted_records[start:end], own)
