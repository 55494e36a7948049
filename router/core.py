"""The routing core: from sessions to links and back. A library without I/O: the router process puts gRPC around it.

A *feed* is whatever sends a session's events and takes its results: a Session stream, an Exchange stream, a unary
call. A *link* is one worker: an outbox of what waits to be sent to it, which its shell empties into one message. The
core only moves values between the two; every call returns at once, and what is told to a feed is told by calling it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from evercurrent.errors import refused, rejection
from evercurrent.slots import slot_of, user_key
from evercurrent.v1 import admin_pb2, worker_pb2
from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1.columns_pb2 import EVENT_KIND_CLOSE, EVENT_KIND_QUERY, IndexedRejection
from evercurrent.wire import Layout, Records, watermarks
from router.latency import Latency
from router.ring import Ring
from router.sessions import ACTIVE, CLOSING, NOBODY, OPENING, SETTLING, Admission, SessionTable

RETRY_AFTER_MS = 500

Clock = Callable[[], int]
"""Monotonic microseconds."""


class Feed(Protocol):
    """What takes the results of its sessions. Each call returns at once and never raises."""

    def opened(self, sid: int, answer: worker_pb2.LinkTagOpened) -> None:
        """The worker opened the session, or refused it: then the sid is no longer the feed's."""

    def results(self, records: Records, rejections: Sequence[IndexedRejection]) -> None:
        """Results of its events in order; `rejections` are by index into `records`."""

    def durable(self, sids: NDArray[np.int64], seqs: NDArray[np.uint64]) -> None:
        """Watermarks: these sessions are durable up to these seqs. What results say themselves is not repeated."""

    def ended(self, sids: Sequence[int], why: pb.Rejection) -> None:
        """These sessions are gone; their sids are no longer the feed's. What they had in flight gets no answer."""

    def stop(self, why: pb.Rejection) -> None:
        """End the stream or call for this reason."""


class Outbox:
    """What waits to be sent to one worker. Bounded by the link's in-flight bound, which the core keeps."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._opens: list[worker_pb2.LinkTagOpen] = []
        self._events: list[bytes] = []
        self._refusals: list[IndexedRejection] = []
        self._num_events = 0
        self._slots: worker_pb2.LinkSlots | None = None

    def open(self, request: worker_pb2.LinkTagOpen) -> None:
        self._opens.append(request)
        self._wake()

    def send(self, raw: bytes, num_events: int, refusal: pb.Rejection | None = None) -> None:
        """Append packed events; a refusal belongs to the single event of kind REFUSED."""
        if refusal is not None:
            self._refusals.append(IndexedRejection(index=self._num_events, rejection=refusal))
        self._events.append(raw)
        self._num_events += num_events
        self._wake()

    def tell_slots(self, slots: Sequence[int]) -> None:
        """These slots' users are sent there from now on."""
        self._slots = worker_pb2.LinkSlots(slots=slots)
        self._wake()

    def drop(self, tags: Sequence[int], layout: Layout) -> None:
        """Unsend the events of tags that the worker gave up. They would come after the open of the session that gets
        such a tag next."""
        events = layout.events(b"".join(self._events))
        kept = ~np.isin(events["tag"], tags)
        places = np.cumsum(kept) - 1
        self._refusals = [
            IndexedRejection(index=int(places[refusal.index]), rejection=refusal.rejection)
            for refusal in self._refusals
            if kept[refusal.index]
        ]
        self._events = [events[kept].tobytes()]
        self._num_events = int(kept.sum())

    def take(self) -> worker_pb2.LinkRequest:
        """All that waits, as one message."""
        frame = worker_pb2.LinkFrame(
            opens=self._opens, events=b"".join(self._events), refusals=self._refusals, slots=self._slots
        )
        self._slots = None
        self._opens, self._events, self._refusals, self._num_events = [], [], [], 0
        return worker_pb2.LinkRequest(frame=frame)


class Link:
    """One worker as the core sees it: `outbox` is None while it is not reachable."""

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self.address = address
        self.incarnation = ""
        self.has_store = False
        self.outbox: Outbox | None = None
        self.num_in_flight = 0
        self.num_updates = 0
        self.status = worker_pb2.WorkerStatus()
        """As the worker said last."""


class RoutingCore:
    """Sessions, feeds and links of one router."""

    def __init__(
        self, ring: Ring, addresses: dict[str, str], in_flight_link_max: int, session_max: int, clock_us: Clock
    ):
        self.ring = ring
        self.links = [Link(name, addresses[name]) for name in ring.names]
        self.sessions = SessionTable()
        self.latency = Latency()
        self.clock_us = clock_us
        self.session_max = session_max
        self._in_flight_link_max = in_flight_link_max
        self._model: admin_pb2.ModelDescription | None = None
        self._layout: Layout | None = None
        self._close_event = b""
        self._feeds: dict[int, Feed] = {}
        self._last_feed = NOBODY

    @property
    def num_feeds(self) -> int:
        """Streams and calls under way."""
        return len(self._feeds)

    @property
    def model(self) -> admin_pb2.ModelDescription:
        """What the workers serve.

        Raises:
            Refused: REASON_UNAVAILABLE, no worker has been reached yet.
        """
        if self._model is None:
            raise refused(pb.REASON_UNAVAILABLE, "", "no worker has been reached yet", RETRY_AFTER_MS)
        return self._model

    @property
    def has_store(self) -> bool:
        """Whether events become durable, whichever worker they go to."""
        return all(link.has_store for link in self.links if link.outbox is not None)

    @property
    def layout(self) -> Layout:
        """How wide events and results are. Raises as `model`."""
        if self._layout is None:
            raise refused(pb.REASON_UNAVAILABLE, "", "no worker has been reached yet", RETRY_AFTER_MS)
        return self._layout

    def add_feed(self, feed: Feed) -> int:
        """Names a feed by a number until `remove_feed`."""
        self._last_feed += 1
        self._feeds[self._last_feed] = feed
        return self._last_feed

    def remove_feed(self, number: int, sids: Sequence[int]) -> None:
        """The feed is gone; close the sessions it still has."""
        del self._feeds[number]
        for sid in sids:
            self.close(sid)

    def worker_of(self, namespace: str, user_id: str) -> tuple[int, int]:
        """The slot of a user and the index of its worker."""
        slot = slot_of(user_key(namespace, user_id))
        return slot, int(self.ring.owners[slot])

    def open(
        self, feed: int, tag: int, user_id: str, namespace: str, session_id: str, wait_durable: bool = False
    ) -> int:
        """Open a session at the user's worker; its sid. The feed is told by `opened` and, with `wait_durable`, of
        watermarks.

        Raises:
            Refused: REASON_UNAVAILABLE, the worker is not reachable.
        """
        slot, worker = self.worker_of(namespace, user_id)
        link = self.links[worker]
        if link.outbox is None:
            raise refused(pb.REASON_UNAVAILABLE, "user_id", f"{link.name} is not reachable", RETRY_AFTER_MS)
        sid = self.sessions.allocate(feed, worker, tag, wait_durable)
        link.outbox.open(
            worker_pb2.LinkTagOpen(
                tag=sid,
                user_id=user_id,
                session_id=session_id,
                namespace=namespace,
                slot=slot,
                watermarks=wait_durable,
            )
        )
        return sid

    def close(self, sid: int) -> None:
        """The feed is done with a session. Its events on the way are still applied; nobody is told."""
        state = self.sessions.state[sid]
        self.sessions.leave(sid)
        if state != CLOSING:
            self._send_close(sid)

    def send(self, sid: int, event: bytes, num_events: int = 1, refusal: pb.Rejection | None = None) -> None:
        """Send packed events of one session, whose seqs the caller has settled.

        Raises:
            Refused: REASON_OVERLOADED, the worker's queue is full.
        """
        link = self.links[self.sessions.worker[sid]]
        if link.num_in_flight + num_events > self._in_flight_link_max:
            raise refused(pb.REASON_OVERLOADED, "", f"the queue of {link.name} is full", retry_after_ms=50)
        link.num_in_flight += num_events
        self.sessions.num_in_flight[sid] += num_events
        assert link.outbox is not None, "sessions of a lost link have ended"
        link.outbox.send(event, num_events, refusal)

    def send_many(self, sids: NDArray[np.int32], events: Records) -> Admission:
        """Admit events of sessions that are open or were, and send those that are accepted."""
        room = np.array([self._in_flight_link_max - link.num_in_flight for link in self.links])
        admission = self.sessions.admit(sids, events, room, self.session_max)
        if not admission.accepted.all():
            sids, events = sids[admission.accepted], events[admission.accepted]
        workers = self.sessions.worker[sids]
        for worker in np.flatnonzero(np.bincount(workers)).tolist():
            share = events[workers == worker] if len(self.links) > 1 else events
            link = self.links[worker]
            link.num_in_flight += len(share)
            assert link.outbox is not None, "sessions of a lost link have ended"
            link.outbox.send(share.tobytes(), len(share))
        return admission

    def link_opened(self, worker: int, opened: worker_pb2.LinkOpened, wake: Callable[[], None]) -> Outbox:
        """A worker is reachable. The first of all that are says what the service's model is.

        Raises:
            Refused: REASON_MODEL, it serves another model than the others.
        """
        if not any(link.outbox for link in self.links):
            self._serve(opened.model)
        elif self._model != opened.model:
            assert self._model is not None, "a link was opened"
            text = (
                f"{opened.worker} serves {opened.model.name}, described otherwise than the others' {self._model.name}"
            )
            raise refused(pb.REASON_MODEL, "model", text)
        link = self.links[worker]
        link.incarnation = opened.incarnation
        link.has_store = opened.has_store
        link.outbox = Outbox(wake)
        link.outbox.tell_slots(self.ring.slots_of(worker))
        return link.outbox

    def _serve(self, model: admin_pb2.ModelDescription) -> None:
        """Serve this model. Streams that were opened for another end: what they know of it holds no more."""
        if self._model == model:
            return
        self._end_feeds(f"the service's model is {model.name} now")
        self._model = model
        self._layout = Layout.of(model)
        close = np.zeros(1, self._layout.event_dtype)
        close["kind"] = EVENT_KIND_CLOSE
        self._close_event = close.tobytes()

    def link_lost(self, worker: int) -> None:
        """A worker is not reachable any more: its sessions end."""
        link = self.links[worker]
        link.outbox = None
        link.num_in_flight = 0
        why = rejection(pb.REASON_UNAVAILABLE, "", f"{link.name} was lost", RETRY_AFTER_MS)
        lost: dict[int, list[int]] = {}
        for sid in self.sessions.of_worker(worker).tolist():
            lost.setdefault(int(self.sessions.feed[sid]), []).append(sid)
        for number, sids in lost.items():
            if number != NOBODY:
                self._feeds[number].ended(sids, why)
            for sid in sids:
                self.sessions.free(sid)

    def stop(self) -> None:
        """Every stream and call ends with UNAVAILABLE."""
        self._end_feeds("the router is stopping")

    def _end_feeds(self, message: str) -> None:
        why = rejection(pb.REASON_UNAVAILABLE, "", message, RETRY_AFTER_MS)
        for feed in list(self._feeds.values()):
            feed.stop(why)

    def receive(self, worker: int, frame: worker_pb2.LinkResults) -> None:
        """Hand a worker's answers to their feeds."""
        for answer in frame.opens:
            self._opened(answer)
        if frame.results:
            self._results(self.links[worker], self.layout.results(frame.results), frame.rejections)
        if frame.watermarks:
            self._watermarks(watermarks(frame.watermarks))
        if frame.ended:
            self._ended(self.links[worker], frame.ended)
        if frame.HasField("status"):
            self.links[worker].status = frame.status

    def _send_close(self, sid: int) -> None:
        link = self.links[self.sessions.worker[sid]]
        assert link.outbox is not None, "sessions of a lost link have ended"
        link.num_in_flight += 1
        self.sessions.num_in_flight[sid] += 1
        link.outbox.send(self._tagged_close(sid), 1)

    def _tagged_close(self, sid: int) -> bytes:
        close = np.frombuffer(self._close_event, self.layout.event_dtype).copy()
        close["tag"] = sid
        return close.tobytes()

    def _opened(self, answer: worker_pb2.LinkTagOpened) -> None:
        sid = answer.tag
        feed = self._feeds.get(int(self.sessions.feed[sid]))
        if not answer.HasField("rejection"):
            self.sessions.activate(sid, answer.applied_seq, answer.durable_seq)
        elif self.sessions.state[sid] == OPENING and self.sessions.num_in_flight[sid]:
            # Events were sent along with the open: the sid is free when they have been answered, not before.
            self.close(sid)
        elif self.sessions.state[sid] == OPENING:
            self.sessions.free(sid)
        if feed is not None:
            feed.opened(sid, answer)

    def _results(self, link: Link, records: Records, rejections: Sequence[IndexedRejection]) -> None:
        link.num_in_flight -= len(records)
        if len(records) == 1 and not rejections:
            self._result(link, records)
            return
        sids = records["tag"].astype(np.int64)
        np.subtract.at(self.sessions.num_in_flight, sids, 1)
        link.num_updates += int(np.count_nonzero(records["status"] == pb.STATUS_APPLIED))
        self.latency.add(records, self.clock_us())
        for indexed in rejections:
            self._rewind(records[indexed.index])
        self.sessions.raise_durable(sids, records["durable_seq"])
        self._deliver(sids, records, rejections)
        for sid in sids[records["kind"] == EVENT_KIND_CLOSE].tolist():
            self.sessions.free(sid)
        self._settle(sids)

    def _result(self, link: Link, records: Records) -> None:
        """The same for one plain result, without the array operations that pay only for many."""
        durable_seq, sid, status, kind = self.layout.result_marks_struct.unpack(records.tobytes())
        sessions = self.sessions
        sessions.num_in_flight[sid] -= 1
        link.num_updates += status == pb.STATUS_APPLIED
        self.latency.add(records, self.clock_us())
        if durable_seq > sessions.durable_seq.item(sid):
            sessions.durable_seq[sid] = durable_seq
        feed = self._feeds.get(sessions.feed.item(sid))
        if feed is not None:
            feed.results(records, ())
        if kind == EVENT_KIND_CLOSE:
            sessions.free(sid)
        elif sessions.state.item(sid) == SETTLING:
            self._settle(np.array([sid]))

    def _rewind(self, record: np.void) -> None:
        """What was rejected without being consumed is expected again."""
        if record["kind"] not in (EVENT_KIND_QUERY, EVENT_KIND_CLOSE) and record["applied_seq"] < record["seq"]:
            self.sessions.next_seq[record["tag"]] = record["applied_seq"] + np.uint64(1)

    def _watermarks(self, records: Records) -> None:
        """Those of a tag that was closed and is another session's by now are void."""
        sids = records["tag"].astype(np.int64)
        current = self.sessions.state[sids] >= ACTIVE
        sids, seqs = sids[current], records["durable_seq"][current]
        self.sessions.raise_durable(sids, seqs)
        owners = self.sessions.feed[sids]
        for number in np.unique(owners).tolist():
            feed = self._feeds.get(number)
            if feed is not None:
                own = owners == number
                feed.durable(sids[own], seqs[own])
        self._settle(sids)

    def _settle(self, sids: NDArray[np.int64]) -> None:
        """Send the closes that these sessions held back for events that are durable now."""
        for sid in self.sessions.settled(sids):
            self._send_close(sid)

    def _ended(self, link: Link, ended: Sequence[worker_pb2.LinkTagEnded]) -> None:
        """The worker gave these tags up: it answers nothing more for them."""
        assert link.outbox is not None, "the link is open"
        link.outbox.drop([tag.tag for tag in ended], self.layout)
        for tag in ended:
            sid = tag.tag
            feed = self._feeds.get(int(self.sessions.feed[sid]))
            if feed is not None:
                feed.ended([sid], tag.rejection)
            link.num_in_flight -= int(self.sessions.num_in_flight[sid])
            self.sessions.free(sid)

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
        sorted_records = records[order]
        place = {int(index): at for at, index in enumerate(order)} if rejections else {}
        moved = sorted((place[indexed.index], indexed.rejection) for indexed in rejections)
        for start, end in zip(starts, [*starts[1:], len(order)], strict=True):
            feed = self._feeds.get(int(owners[order[start]]))
            if feed is not None:
                own = [IndexedRejection(index=at - start, rejection=why) for at, why in moved if start <= at < end]
                feed.results(sorted_records[start:end], own)
