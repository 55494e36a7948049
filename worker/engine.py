"""The engine: events in, one step over many users, results out. Plain code: no socket, no task; the clock is handed in.

    receive → cut → judge → predict and learn → results

Everything that needs an await (links, the store) stands around it. A step is a function of the states and the events
alone, whatever the cut of the batches (DESIGN.md, section 4). Who may be served and who is in memory is for the
ownership to say (worker.ownership), which the engine asks when a tag is opened and by which it is told of what changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from ulid import ULID

from evercurrent.describe import describe
from evercurrent.errors import Refused, refused, rejection
from evercurrent.model import Model
from evercurrent.telemetry.logs import get_logger
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
from evercurrent.v1.models_pb2 import ModelRole
from evercurrent.wire import SEQ_MAX, Event, Layout, Records
from persistence.rows import U64
from worker.arrivals import Arrival, Arrivals, Caller, WaitingTag
from worker.feeds import ENDED, TAG_MAX, WAITING, Feeds
from worker.followers import OK, RAISED, REFUSED, Followers
from worker.inbox import MARKS, NO_PIN, Inbox, Waiting
from worker.learner import Learner, blank_states, migration_of, probe
from worker.residents import DIRTY, Indices, Mask, Residents
from worker.results import Results
from worker.sessions import UNSEQUENCED
from worker.slab import INITIAL_ROW
from worker.traces import Traces
from worker.validation import Validator, is_observation
from worker.watches import Watch, Watches

Clock = Callable[[], int]
"""Monotonic microseconds."""

logger = get_logger(__name__)


class Host(Protocol):
    """Whose users are served here, as far as the engine asks."""

    def seek(self, user: str, slot: int) -> int | None:
        """The row of a user, or None: the engine is told when to seek again. Raises Refused."""

    def note_change(self) -> None:
        """A row has become DIRTY."""


class Links(Protocol):
    """What the engine says to links between steps. Each call returns at once and never raises."""

    def opened(self, link: int, answer: worker_pb2.LinkTagOpened) -> None:
        """A tag whose open was not answered at once is open or refused."""

    def durable(self, link: int, watermarks: Records) -> None:
        """More is durable of these tags."""

    def ended(self, link: int, ended: Sequence[worker_pb2.LinkTagEnded], num_dropped: int) -> None:
        """These tags are given up, and so many events of theirs get no answer."""

    def filled(self) -> None:
        """Events wait for a step that were not received just now."""

    def fenced(self) -> None:
        """This incarnation is over."""


Log = Callable[[Sequence[str], NDArray[np.uint16], U64, Records, Records], None]
"""Takes what a step answered: users, slots, session ids, events, results (worker.event_log.EventLog.add)."""


class Engine:
    """The step over the residents, and the tags that feed it."""

    def __init__(
        self,
        model: Model,
        residents: Residents,
        host: Host,
        links: Links,
        batch_max: int,
        clock_us: Clock,
    ) -> None:
        self.layout = Layout.of(describe(model))
        self.residents = residents
        self.versions = ["", residents.live.version]
        """The names of all versions that ran here, by the number that results give; 0: none."""
        residents.shapes.setdefault(residents.live.version, dict(model.state_shapes))
        residents.live.migrate = migration_of(model)
        self.followers = Followers(residents, self.layout, clock_us)
        self.num_quarantined = 0
        self._has_strikes = False
        self.slab = residents.slab
        self.sessions = residents.sessions
        self.num_updates = 0
        self.num_rejected = 0
        self.num_steps = 0
        self.steps_us = 0
        self.has_store = True
        """Without a store that outlives the process nothing is called durable."""
        self.log: Log | None = None
        """Where what is learned is logged."""
        self.traces: Traces | None = None
        """Set where events may be traced."""
        self._host = host
        self._links = links
        self._clock_us = clock_us
        self._validator = Validator(model.observation)
        num_rows = self.slab.residents_max + 1
        self._inbox = Inbox(num_rows, batch_max)
        self._arrivals = Arrivals()
        self._watches = Watches(num_rows)
        self._feeds: dict[int, Feeds] = {}
        self._refusals: dict[int, pb.Rejection] = {}
        self._last_link = 0
        self._last_refusal = 0
        probe(model, self.layout)
        self._go_live(Learner(1, model, residents.live, self.layout, clock_us))

    @property
    def num_waiting(self) -> int:
        """Events received and not yet taken by a step."""
        return len(self._inbox)

    @property
    def num_tags(self) -> int:
        """Open tags over all links."""
        return sum(len(feeds) for feeds in self._feeds.values())

    @property
    def num_arrivals(self) -> int:
        """Who waits for users that are not in memory yet."""
        return len(self._arrivals)

    def open_link(self) -> int:
        """A new link's number."""
        self._last_link += 1
        self._feeds[self._last_link] = Feeds()
        return self._last_link

    def close_link(self, link: int) -> None:
        """Close all that the link had open, after what it sent; what waits for users not here yet is dropped."""
        for tag in self._arrivals.take_link(link):
            self._forget(tag.aside)
        tags = self._feeds[link].tags()
        closes = np.zeros(len(tags), self.layout.event_dtype)
        closes["tag"] = tags
        closes["kind"] = EVENT_KIND_CLOSE
        self.receive(link, closes, ())
        del self._feeds[link]

    def open(self, link: int, request: worker_pb2.LinkTagOpen, user: str) -> worker_pb2.LinkTagOpened | None:
        """Have a tag name one of a user's sessions. A refusal is told in the answer; None: the answer comes later.

        Raises:
            Refused: REASON_PROTOCOL, the tag is in use or too large.
        """
        if self._feeds[link].is_used(request.tag):
            raise refused(pb.REASON_PROTOCOL, "frame.opens.tag", f"{request.tag} is in use")
        if request.tag >= TAG_MAX:
            raise refused(pb.REASON_PROTOCOL, "frame.opens.tag", f"{request.tag} is not below {TAG_MAX}")
        if self._arrivals.is_full(link) and self.slab.find(user) is None:
            text = "too many others wait for users that are not in memory"
            return self.refuse(link, request.tag, rejection(pb.REASON_OVERLOADED, "user_id", text, retry_after_ms=500))
        tag = WaitingTag(link, request, user)
        answer = self._open(tag)
        if answer is None:
            self._feeds[link].wait(request.tag)
            self._arrivals.add(tag)
        elif answer.HasField("rejection"):
            return self.refuse(link, request.tag, answer.rejection)
        return answer

    def refuse(self, link: int, tag: int, why: pb.Rejection) -> worker_pb2.LinkTagOpened:
        """The answer to an open that is refused. Events that came with it name no session, and are told so: also where
        the tag had been given up before, whose last events get no answer."""
        if not self._feeds[link].is_used(tag):
            self._feeds[link].close(tag)
        return worker_pb2.LinkTagOpened(tag=tag, rejection=why)

    def call(self, user: str, slot: int, answer: Callable[[int | pb.Rejection], None]) -> None:
        """Have `answer` called with a user's row once the user is here, or with why not: now or later.

        It has the row to itself only until it returns.
        """
        self._seek_again([Caller(user, slot, answer)])

    def receive(
        self,
        link: int,
        events: Records,
        refusals: Sequence[IndexedRejection],
        traces: Sequence[worker_pb2.LinkTrace] = (),
    ) -> int:
        """Take a frame of events in. Nothing is judged that depends on earlier events. Returns how many of them get no
        answer: those of tags that were given up.

        Raises:
            Refused: REASON_PROTOCOL, a refusal or trace of no event, a refusal of one that is not REFUSED, or two.
        """
        feeds = self._feeds[link]
        if refusals or traces:
            _check_indices(refusals, traces, len(events))
        if refusals:
            _check_refusals(events, [refusal.index for refusal in refusals])
        marks = np.zeros(len(events), MARKS)
        if traces and self.traces is not None:
            marks["trace"] = self.traces.take(traces, len(events))
        marks["received_us"] = self._clock_us()
        marks["link"] = link
        rows, entries = feeds.find(events["tag"])
        marks["row"] = rows
        marks["entry"] = entries
        if feeds.has_pins:
            marks["pin"] = feeds.pins(events["tag"])
        reasons = self._validator.reasons(events)
        unknown = rows == INITIAL_ROW
        if unknown.any():
            reasons[unknown & (events["kind"] != EVENT_KIND_CLOSE)] = pb.REASON_TAG
        marks["reason"] = reasons
        for refusal in refusals:
            if rows[refusal.index] != ENDED:
                self._last_refusal += 1
                self._refusals[self._last_refusal] = refusal.rejection
                marks["refusal"][refusal.index] = self._last_refusal
        received = Waiting(events, marks)
        if (rows < INITIAL_ROW).any():
            if (rows == WAITING).any():
                self._set_aside(link, received.take(rows == WAITING))
            received = received.take(rows >= INITIAL_ROW)
        self._close_tags(link, received)
        self._inbox.put(received)
        return int(np.count_nonzero(rows == ENDED))

    def answer_one(self, link: int, raw: bytes, traces: Sequence[worker_pb2.LinkTrace] = ()) -> Records | None:
        """Learn at once from a frame of one event, its record, and give its result. None, and nothing is taken: it is
        to be received like others, for something waits, or it is no plain, due observation that may be learned from.

        The way of a lone event without the arrays that pay only for many (docs/adr/0003). What is not plain is left to
        the general way.

        Raises:
            Refused: REASON_PROTOCOL, a trace of no event.
        """
        feeds = self._feeds[link]
        if traces:
            _check_indices((), traces, 1)
        if len(self._inbox) or self._has_strikes or feeds.has_pins:
            return None
        event = self.layout.event(raw)
        row, entry = feeds.find_one(event.tag)
        if row <= INITIAL_ROW or event.timeout_us or not self._validator.is_sound(event):
            return None
        if entry != UNSEQUENCED and event.seq != self.sessions.last_seq.item(entry) + 1:
            return None
        if traces and self.traces is not None:
            return self.traces.around_one(traces[0], row, lambda: self._learn_one(raw, event, row, entry))
        return self._learn_one(raw, event, row, entry)

    def _learn_one(self, raw: bytes, event: Event, row: int, entry: int) -> Records | None:
        """One forward and one backward; None, and nothing has changed: the general way has more to say of it."""
        began_us = self._clock_us()
        followers = self.followers
        if followers:
            followers.before_one(row)
        learned = self.live.learn_one(row, raw)
        if learned is None:
            return None
        loss, prediction_P = learned
        version = self.slab.version.item(row) + 1
        self.slab.version[row] = version
        applied_seq = 0
        if entry != UNSEQUENCED:
            applied_seq = event.seq
            self.sessions.last_seq[entry] = applied_seq
        self._mark_changed(row, began_us)
        self.num_updates += 1
        if followers:
            followers.note_live_step(self.live.update_us)
            followers.offer_one(self.layout.events(raw), row, prediction_P)
        step_us = self._clock_us() - began_us
        self.num_steps += 1
        self.steps_us += step_us
        self.residents.usage.count_one(row, step_us)
        result = self.layout.results(
            self.layout.result_struct.pack(
                event.seq,
                version,
                applied_seq,
                self.sessions.durable_seq.item(entry) if self.has_store else 0,
                event.stamp_us,
                self.sessions.lost.item(entry),
                version - self.residents.durable_version.item(row) if self.has_store else version,
                event.tag,
                0,
                0,
                step_us,
                loss,
                *prediction_P,
                pb.STATUS_APPLIED,
                EVENT_KIND_OBSERVATION,
                self.live.number,
            )
        )
        if self.log is not None:
            self._write_log(np.array([row]), np.array([entry]), self.layout.events(raw), result)
        return result

    # --- what the ownership tells ---------------------------------------------------------------------------------

    def slots_ready(self, slots: Sequence[int]) -> None:
        """They are served from now on."""
        self._seek_again(self._arrivals.take_slots(slots))

    def slots_refused(self, slots: Sequence[int], why: pb.Rejection) -> None:
        """They could not be claimed."""
        self._refuse(self._arrivals.take_slots(slots), why)

    def slots_lost(self, slots: Mask, why: pb.Rejection) -> None:
        """They are served no more: their users' tags end, and what waits of them is dropped."""
        self._end_tags(lambda rows, _: (rows > INITIAL_ROW) & slots[self.slab.slot[rows]], why)

    def user_ready(self, user: str) -> None:
        """One who was sought is here."""
        self._seek_again(self._arrivals.take_user(user))

    def user_refused(self, user: str, why: pb.Rejection) -> None:
        """One who was sought cannot be served now."""
        self._refuse(self._arrivals.take_user(user), why)

    def durable(self, rows: Indices) -> None:
        """More of these rows is durable: tell those who asked."""
        for link, marks in self._watches.moved(rows, self.residents).items():
            self._links.durable(link, marks)
        if self.traces is not None:
            self.traces.durable(rows)

    def fenced(self) -> None:
        """This incarnation is over."""
        self._links.fenced()

    # --- which versions run -----------------------------------------------------------------------------------------

    def follow(self, version: str, model: Model, role: ModelRole, fraction: float, starts_anew: bool) -> None:
        """A version learns beside the live one from now on. It takes the same observations (its description says so).

        Raises:
            ValueError: its outputs have other shapes than it declares.
        """
        probe(model, self.layout)
        if version not in self.versions:
            self.versions.append(version)
        self.residents.shapes[version] = dict(model.state_shapes)
        states = blank_states(version, model, len(self.residents.live.states))
        learner = Learner(self.versions.index(version), model, states, self.layout, self._clock_us)
        self.followers.add(learner, role, fraction, starts_anew)

    def unfollow(self, version: str) -> None:
        """A version beside the live one learns no more; its states go, and the sessions that are pinned to it."""
        self._end_pins(self.versions.index(version))
        self.followers.remove(version)

    def go_live(self, version: str) -> None:
        """A version beside the live one serves from now on, and the live one is its standby. To be called between two
        steps. What is quarantined may learn again."""
        self._go_live(self.followers.swap(version, self.live))
        self.residents.strikes[: self.slab.num_rows] = 0
        self.count_quarantined()

    def _go_live(self, learner: Learner) -> None:
        self.live = learner
        self.model = learner.model

    def _end_pins(self, pin: int) -> None:
        """End the tags that are pinned to a version that ends."""
        why = rejection(pb.REASON_MODEL, "open.model_version", f"{self.versions[pin]} runs no more")
        self._end_tags(lambda rows, pins: (rows > INITIAL_ROW) & (pins == pin), why)

    def quarantined(self) -> Indices:
        """Rows whose states are kept as they are."""
        strikes = self.residents.strikes[: self.slab.num_rows]
        found: Indices = np.flatnonzero(strikes >= self.model.quarantine_after)
        return found

    def unquarantine(self, row: int) -> None:
        """A user's updates may be learned from again."""
        self.residents.strikes[row] = 0
        self.count_quarantined()

    def count_quarantined(self) -> None:
        """Find out who is quarantined."""
        if not self._has_strikes:
            return
        self.num_quarantined = len(self.quarantined())
        self._has_strikes = bool(self.residents.strikes[: self.slab.num_rows].any())

    def end_user(self, row: int, why: pb.Rejection) -> None:
        """End all tags of a resident, and drop what waits of it."""
        self._end_tags(lambda rows, _: rows == row, why)

    def step(self) -> list[Results]:
        """Handle the next batch. There is something waiting."""
        taken = self._inbox.cut()
        return self._step(taken) if self.traces is None else self.traces.around(taken, self._step)

    def _step(self, taken: Waiting) -> list[Results]:
        began_us = self._clock_us()
        results = self._blank_results(taken, began_us)
        rejected: dict[int, pb.Rejection] = {}
        queries = taken.events["kind"] == EVENT_KIND_QUERY
        if queries.any():
            self._mark_state(taken, results, queries)
        learning, asking = self._judge(taken, results, rejected, began_us)
        if len(asking):
            self._answer(taken, asking, results, rejected)
        if len(learning):
            self._learn(taken, learning, results, rejected)
        self._mark_state(taken, results, ~queries)
        for index in rejected:
            results["status"][index] = pb.STATUS_REJECTED
        self._close(taken)
        self.num_rejected += len(rejected)
        results["step_us"] = step_us = self._clock_us() - began_us
        self.num_steps += 1
        self.steps_us += step_us
        self.residents.usage.count(taken.marks["row"][taken.events["kind"] != EVENT_KIND_CLOSE], step_us)
        if self.log is not None and len(learning):
            rows, entries = taken.marks["row"][learning], taken.marks["entry"][learning]
            self._write_log(rows, entries, taken.events[learning], results[learning])
        return self._split(taken, results, rejected)

    def _open(self, tag: WaitingTag) -> worker_pb2.LinkTagOpened | None:
        """Open a tag if its user is here; None if that is to be waited for."""
        request, row = tag.request, None
        try:
            row = self._host.seek(tag.user, tag.slot)
            if row is None:
                return None
            pin = self._pin(row, request.model_version) if request.model_version else NO_PIN
            entry = self._open_session(row, request.session_id)
        except Refused as error:
            if row is not None:
                self._drop_if_blank(row)
            return worker_pb2.LinkTagOpened(tag=request.tag, rejection=error.rejection)
        self._feeds[tag.link].open(request.tag, row, entry, pin)
        self.slab.num_tags[row] += 1
        self.residents.used_us[row] = self._clock_us()
        durable_seq = 0
        if self.has_store and entry == UNSEQUENCED:
            durable_seq = self.residents.durable_version.item(row)
        elif self.has_store:
            durable_seq = self.sessions.durable_seq.item(entry)
        if request.watermarks:
            self._watches.add(row, Watch(tag.link, request.tag, entry, durable_seq))
        return worker_pb2.LinkTagOpened(
            tag=request.tag,
            applied_seq=self.sessions.last_seq.item(entry),
            durable_seq=durable_seq,
            version=self.slab.version.item(row),
        )

    def _pin(self, row: int, version: str) -> int:
        """What a session of a user is pinned to. Raises Refused: REASON_MODEL, that version does not run here."""
        if version != self.live.version:
            if self.followers.get(version) is None:
                running = ", ".join([self.live.version, *(follower.version for follower in self.followers)])
                text = f"{version!r} does not run here; these do: {running}"
                raise refused(pb.REASON_MODEL, "open.model_version", text)
            self.followers.pin(version, row)
        return self.versions.index(version)

    def _open_session(self, row: int, session_id: str) -> int:
        if not session_id:
            return UNSEQUENCED
        try:
            number = int(ULID.from_str(session_id))
        except ValueError as error:
            raise refused(pb.REASON_SESSION_ID, "session_id", "is not a ULID") from error
        return self.sessions.open(row, number)

    def _set_aside(self, link: int, events: Waiting) -> None:
        """Keep events until their users are here."""
        order = np.argsort(events.events["tag"], kind="stable")
        tags = events.events["tag"][order]
        starts = np.flatnonzero(np.diff(tags, prepend=np.int64(-1))).tolist()
        for start, end in zip(starts, [*starts[1:], len(order)], strict=True):
            self._arrivals.set_aside(link, int(tags[start]), events.take(order[start:end]))

    def _seek_again(self, arrivals: Sequence[Arrival]) -> None:
        """Serve those whose users are here; the others wait on."""
        for arrival in arrivals:
            if isinstance(arrival, Caller):
                self._seek_for(arrival)
            elif (answer := self._open(arrival)) is None:
                self._arrivals.add(arrival)
            else:
                self._arrive(arrival, answer)

    def _seek_for(self, caller: Caller) -> None:
        try:
            row = self._host.seek(caller.user, caller.slot)
        except Refused as error:
            caller.answer(error.rejection)
            return
        if row is None:
            self._arrivals.add(caller)
        else:
            caller.answer(row)
            self._drop_if_blank(row)

    def _refuse(self, arrivals: Sequence[Arrival], why: pb.Rejection) -> None:
        for arrival in arrivals:
            if isinstance(arrival, Caller):
                arrival.answer(why)
            else:
                self._arrive(arrival, worker_pb2.LinkTagOpened(tag=arrival.request.tag, rejection=why))

    def _arrive(self, tag: WaitingTag, answer: worker_pb2.LinkTagOpened) -> None:
        """Answer an open that waited, and take in what was set aside; of a tag that was refused it names nothing."""
        feeds = self._feeds[tag.link]
        if answer.HasField("rejection"):
            feeds.close(tag.request.tag)
        self._links.opened(tag.link, answer)
        now_us = self._clock_us()
        for waiting in tag.aside:
            row, entry = feeds.find_one(tag.request.tag)
            marks = waiting.marks
            marks["hydrate_us"] = now_us - marks["received_us"]
            marks["received_us"] = now_us
            marks["row"] = row
            marks["entry"] = entry
            marks["pin"] = feeds.pins(waiting.events["tag"])
            if row == INITIAL_ROW:
                marks["reason"][waiting.events["kind"] != EVENT_KIND_CLOSE] = pb.REASON_TAG
            self._close_tags(tag.link, waiting)
            self._inbox.put(waiting)
        if tag.aside:
            self._links.filled()

    def _end_tags(self, are_lost: Callable[[NDArray[np.int32], NDArray[np.uint16]], Mask], why: pb.Rejection) -> None:
        """Give up the tags that are lost, told by their rows and pins. What waits of them is dropped: nobody answers
        for them here any more.

        A tag whose close waits is given up likewise: its router still counts what it sent before."""
        ended: dict[int, list[tuple[int, int, int]]] = {link: [] for link in self._feeds}
        num_dropped = dict.fromkeys(self._feeds, 0)
        for link, feeds in self._feeds.items():
            tags = feeds.tags()
            rows, entries = feeds.find(tags.astype(np.uint32))
            lost = are_lost(rows, feeds.pins(tags.astype(np.uint32)))
            ended[link] += zip(tags[lost].tolist(), rows[lost].tolist(), entries[lost].tolist(), strict=True)
        dropped = self._inbox.drop_events(lambda marks: are_lost(marks["row"], marks["pin"]))
        if dropped is not None:
            self._forget([dropped])
            closes = dropped.take(dropped.events["kind"] == EVENT_KIND_CLOSE)
            columns = (closes.marks["link"], closes.events["tag"], closes.marks["row"], closes.marks["entry"])
            for link, tag, row, entry in zip(*(column.tolist() for column in columns), strict=True):
                # Of a link that has ended only the session is left to give up.
                ended.setdefault(link, []).append((tag, row, entry))
            for link in num_dropped:
                num_dropped[link] = int(np.count_nonzero(dropped.marks["link"] == link))
        for link, tags_of_link in ended.items():
            for tag, row, entry in tags_of_link:
                self._give_up(link, tag, row, entry)
            if link in self._feeds and tags_of_link:
                for tag, _, _ in tags_of_link:
                    self._feeds[link].end(tag)
                told = [worker_pb2.LinkTagEnded(tag=tag, rejection=why) for tag, _, _ in tags_of_link]
                self._links.ended(link, told, num_dropped[link])

    def _give_up(self, link: int, tag: int, row: int, entry: int) -> None:
        """A tag feeds its session and row no more."""
        if entry != UNSEQUENCED:
            self.sessions.close(entry)
        self.slab.num_tags[row] -= 1
        self._watches.remove(row, link, tag)

    def _forget(self, dropped: Sequence[Waiting]) -> None:
        """Refusals and traces of events that nobody answers."""
        for waiting in dropped:
            if self.traces is not None:
                self.traces.drop(waiting)
            for number in waiting.marks["refusal"][waiting.marks["refusal"] > 0].tolist():
                del self._refusals[number]

    def _close_tags(self, link: int, received: Waiting) -> None:
        """A tag names nothing from its close on, for what comes in the same frame as for what comes later: who has its
        row and its place by then is somebody else. Both are given up when the step reaches the close, after all that
        came before."""
        events, marks = received.events, received.marks
        closes = np.flatnonzero(events["kind"] == EVENT_KIND_CLOSE)
        if not len(closes):
            return
        closed, first = np.unique(events["tag"][closes], return_index=True)
        at = np.searchsorted(closed, events["tag"]).clip(max=len(closed) - 1)
        is_after = (closed[at] == events["tag"]) & (np.arange(len(events)) > closes[first][at])
        if is_after.any():
            marks["row"][is_after], marks["entry"][is_after], marks["pin"][is_after] = INITIAL_ROW, UNSEQUENCED, NO_PIN
            marks["reason"][is_after] = np.where(events["kind"][is_after] == EVENT_KIND_CLOSE, 0, pb.REASON_TAG)
        for index in closes[first].tolist():
            if not self._feeds[link].close(int(events["tag"][index])):
                marks["row"][index] = INITIAL_ROW

    def _write_log(self, rows: Indices, entries: NDArray[np.int32], learned: Records, results: Records) -> None:
        assert self.log is not None
        users = [self.slab.key(row) for row in rows.tolist()]
        self.log(users, self.slab.slot[rows], self.sessions.ids(entries), learned, results)

    def _blank_results(self, taken: Waiting, began_us: int) -> Records:
        results = np.zeros(len(taken), self.layout.result_dtype)
        events = taken.events
        for name in ("seq", "tag", "stamp_us", "kind"):
            results[name] = events[name]
        results["queue_us"] = began_us - taken.marks["received_us"]
        results["hydrate_us"] = taken.marks["hydrate_us"]
        results["loss"] = np.nan
        results["prediction"] = np.nan
        results["model"] = self.live.number
        return results

    def _judge(
        self, taken: Waiting, results: Records, rejected: dict[int, pb.Rejection], now_us: int
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Settle every seq; the indices to learn from and the indices to answer."""
        events, marks = taken.events, taken.marks
        kinds, entries, seqs = events["kind"], marks["entry"], events["seq"]
        due = (seqs == self.sessions.last_seq[entries] + np.uint64(1)) | (entries == UNSEQUENCED)
        plain = (marks["reason"] == 0) & (events["timeout_us"] == 0)
        learns = is_observation(kinds) & plain & due
        asks = (kinds == EVENT_KIND_QUERY) & plain
        for index in np.flatnonzero(~(learns | asks)).tolist():
            kind = int(kinds[index])
            if kind == EVENT_KIND_QUERY:
                why = self._fault(taken, index, now_us)
                asks[index] = why is None
            else:
                why, learns[index] = self._settle(taken, index, results, now_us)
            if why is not None:
                rejected[index] = why
        learning = np.flatnonzero(learns)
        self.sessions.last_seq[entries[learning]] = seqs[learning]
        self.sessions.last_seq[UNSEQUENCED] = 0
        if len(learning):
            self._mark_changed(marks["row"][learning], now_us)
        return learning, np.flatnonzero(asks)

    def _mark_changed(self, rows: NDArray[np.int32] | int, now_us: int) -> None:
        """Something of these rows is to be journaled: a state, or how far a session is."""
        self.residents.dirty[rows] = DIRTY
        self.residents.used_us[rows] = now_us
        self._host.note_change()

    def _settle(self, taken: Waiting, index: int, results: Records, now_us: int) -> tuple[pb.Rejection | None, bool]:
        """The unusual: why an event is rejected, if it is, and whether it is to be learned from. Consumes its seq."""
        event, mark = taken.events[index], taken.marks[index]
        kind, seq, entry = int(event["kind"]), int(event["seq"]), int(mark["entry"])
        if kind == EVENT_KIND_CLOSE:
            results["status"][index] = pb.STATUS_CLOSED
            return None, False
        if mark["reason"] in (pb.REASON_TAG, pb.REASON_COLUMNS):
            return self._fault(taken, index, now_us), False
        last = int(self.sessions.last_seq[entry])
        if kind == EVENT_KIND_SKIP and seq > SEQ_MAX:
            return rejection(pb.REASON_SEQ_GAP, "seq", f"{seq} is above {SEQ_MAX}"), False
        if kind == EVENT_KIND_SKIP:
            results["status"][index] = pb.STATUS_SKIPPED
            if entry != UNSEQUENCED and seq > last:
                self.sessions.lost[entry] += np.uint64(seq - last)
                self.sessions.last_seq[entry] = seq
                self._mark_changed(int(mark["row"]), now_us)
            return None, False
        if entry != UNSEQUENCED:
            if seq <= last:
                self._refusals.pop(int(mark["refusal"]), None)
                results["status"][index] = pb.STATUS_DUPLICATE
                return None, False
            if seq > last + 1:
                self._refusals.pop(int(mark["refusal"]), None)
                return rejection(pb.REASON_SEQ_GAP, "seq", f"{seq} came where {last + 1} is expected"), False
        why = self._fault(taken, index, now_us)
        if why is not None:
            if entry != UNSEQUENCED:
                self.sessions.last_seq[entry] = seq
                self._mark_changed(int(mark["row"]), now_us)
            return why, False
        return None, True

    def _fault(self, taken: Waiting, index: int, now_us: int) -> pb.Rejection | None:
        """What is wrong with an event by itself."""
        event, mark = taken.events[index], taken.marks[index]
        if event["kind"] == EVENT_KIND_REFUSED:
            return self._refusals.pop(int(mark["refusal"]), None) or rejection(pb.REASON_PROTOCOL, "", "refused unsaid")
        reason = int(mark["reason"])
        if reason == pb.REASON_TAG:
            return rejection(pb.REASON_TAG, "tag", f"{event['tag']} names no open session")
        if reason:
            return self._validator.explain(reason, event)
        timeout_us = int(event["timeout_us"])
        if timeout_us and now_us - int(mark["received_us"]) + int(mark["hydrate_us"]) >= timeout_us:
            return rejection(pb.REASON_DEADLINE, "timeout_ms", f"not begun within {timeout_us / 1000:.3f} ms")
        return None

    def _answer(
        self, taken: Waiting, asking: NDArray[np.intp], results: Records, rejected: dict[int, pb.Rejection]
    ) -> None:
        """Predict for the queries, from the states as they stand before this batch's observations."""
        pins = taken.marks["pin"][asking]
        for number in np.unique(pins).tolist() if pins.any() else [NO_PIN]:
            indices = asking[pins == number]
            rows, events = taken.marks["row"][indices], taken.events[indices]
            version = self.versions[number] if number else self.live.version
            if version == self.live.version:
                answered = self.live.predict(rows, events)
                prediction_NP, refused_ = answered.prediction_NP, answered.refused
            else:
                prediction_NP, refused_ = self.followers.predict(version, rows, events)
                results["model"][indices] = number
            results["prediction"][indices] = prediction_NP
            results["status"][indices] = pb.STATUS_ANSWERED
            rejected.update((int(indices[at]), why) for at, why in refused_.items())

    def _learn(
        self, taken: Waiting, learning: NDArray[np.intp], results: Records, rejected: dict[int, pb.Rejection]
    ) -> None:
        """One forward and one backward; rows whose update the guard refuses stay as they are."""
        rows, events = taken.marks["row"], taken.events
        if len(learning) < len(taken):
            rows, events = rows[learning], events[learning]
        if self.followers:
            self.followers.before(rows)
        kept = self._not_quarantined(learning, rows, rejected)
        if len(kept) == len(learning):
            learned = self.live.learn(rows, events)
        else:
            learned = self.live.learn(rows[kept], events[kept])
        if self.followers:
            self.followers.note_live_step(self.live.update_us)
        applied = learned.applied()
        indices, applied_rows = learning[kept][applied], rows[kept][applied]
        self.slab.version[applied_rows] += np.uint64(1)
        self.num_updates += len(applied)
        results["prediction"][indices] = learned.prediction_NP[applied]
        results["loss"][indices] = learned.loss_N[applied]
        results["status"][indices] = pb.STATUS_APPLIED
        rejected.update((int(learning[kept[at]]), why) for at, why in learned.refused.items())
        self._count_strikes(applied_rows, rows[kept[list(learned.refused)]])
        if self.followers:
            fate = np.full(len(learning), REFUSED, np.uint32)
            fate[kept] = OK
            fate[kept[list(learned.refused)]] = REFUSED
            fate[kept[list(learned.raised)]] = RAISED
            self.followers.offer(events, rows, results["prediction"][learning], fate)
            self._answer_pinned(taken, learning, results, rejected)

    def _answer_pinned(
        self, taken: Waiting, learning: NDArray[np.intp], results: Records, rejected: dict[int, pb.Rejection]
    ) -> None:
        """Events of sessions that are pinned to a follower are answered by it."""
        pins = taken.marks["pin"][learning]
        for index in learning[(pins != NO_PIN) & (pins != self.live.number)].tolist():
            number = int(taken.marks["pin"][index])
            prediction_P, loss, why = self.followers.answer(self.versions[number], int(taken.marks["row"][index]))
            rejected.pop(index, None)
            results["prediction"][index] = prediction_P
            results["loss"][index] = loss
            results["model"][index] = number
            results["status"][index] = pb.STATUS_APPLIED
            if why is not None:
                rejected[index] = why

    def _not_quarantined(
        self, learning: NDArray[np.intp], rows: Indices, rejected: dict[int, pb.Rejection]
    ) -> NDArray[np.intp]:
        """Which of the events are to be learned from."""
        kept = np.arange(len(learning))
        if not self.num_quarantined:
            return kept
        is_out = self.residents.strikes[rows] >= self.model.quarantine_after
        for index in learning[is_out].tolist():
            text = f"{self.model.quarantine_after} updates in a row were refused: the state is kept as it was"
            rejected[index] = rejection(pb.REASON_QUARANTINED, "", text)
        return kept[~is_out]

    def _count_strikes(self, applied: Indices, refused_: Indices) -> None:
        """An update that stands makes up for those refused before it."""
        if len(refused_):
            self._has_strikes = True
            strikes = self.residents.strikes
            strikes[refused_] = np.minimum(strikes[refused_] + 1, self.model.quarantine_after)
        elif not self._has_strikes:
            return
        self.residents.strikes[applied] = 0
        if len(refused_):
            self.num_quarantined = len(self.quarantined())

    def _mark_state(self, taken: Waiting, results: Records, which: NDArray[np.bool_]) -> None:
        """Versions and watermarks as they stand now: for queries before the batch, for each other event after it, which
        for its user is after that event."""
        rows, entries = taken.marks["row"][which], taken.marks["entry"][which]
        results["version"][which] = self.slab.version[rows]
        results["applied_seq"][which] = self.sessions.last_seq[entries]
        if self.has_store:
            results["at_risk"][which] = self.slab.version[rows] - self.residents.durable_version[rows]
            results["durable_seq"][which] = self.sessions.durable_seq[entries]
        else:
            results["at_risk"][which] = self.slab.version[rows]
        results["lost"][which] = self.sessions.lost[entries]

    def _close(self, taken: Waiting) -> None:
        closing = taken.events["kind"] == EVENT_KIND_CLOSE
        if not closing.any():
            return
        for index in np.flatnonzero(closing).tolist():
            link, row, entry = (int(taken.marks[name][index]) for name in ("link", "row", "entry"))
            if row == INITIAL_ROW:
                continue
            self._give_up(link, int(taken.events["tag"][index]), row, entry)
            self._drop_if_blank(row)

    def _drop_if_blank(self, row: int) -> None:
        """A user that nobody feeds and that has learned nothing is no different from one never seen."""
        if self.slab.num_tags[row] == 0 and self.slab.version[row] == 0 and not self._has_history(row):
            self.residents.drop(row)

    def _has_history(self, row: int) -> bool:
        return any(self.sessions.last_seq[entry] for entry in self.sessions.of(row))

    def _split(self, taken: Waiting, results: Records, rejected: dict[int, pb.Rejection]) -> list[Results]:
        links = taken.marks["link"]
        first = int(links[0])
        if (links == first).all():
            indexed = [IndexedRejection(index=index, rejection=why) for index, why in sorted(rejected.items())]
            return [Results(first, results, indexed)]
        split = []
        for link in np.unique(links).tolist():
            members = np.flatnonzero(links == link)
            indexed = [
                IndexedRejection(index=at, rejection=rejected[index])
                for at, index in enumerate(members.tolist())
                if index in rejected
            ]
            split.append(Results(link, results[members], indexed))
        return split


def _check_refusals(events: Records, indices: Sequence[int]) -> None:
    """Each belongs to an event of its own, of the kind that is answered by it: no other would ever ask for it."""
    if len(set(indices)) < len(indices) or (events["kind"][indices] != EVENT_KIND_REFUSED).any():
        raise refused(pb.REASON_PROTOCOL, "frame.refusals", "names an event that is not refused, or one twice")


def _check_indices(
    refusals: Sequence[IndexedRejection], traces: Sequence[worker_pb2.LinkTrace], num_events: int
) -> None:
    """Raises Refused: REASON_PROTOCOL, one is of no event."""
    for name, indexed in (("refusals", refusals), ("traces", traces)):
        if any(one.index >= num_events for one in indexed):
            raise refused(pb.REASON_PROTOCOL, f"frame.{name}", "names no event of its frame")
