"""An Exchange stream: frames with the events of many users, handled as arrays from end to end.

The stream is bounded by `in_flight_max` events whose results are not yet written; beyond it, it is not read. Events
of a session that is still opening are held here and go on when the worker has answered; the others do not wait for
them. With wait_durable a close waits in the session table until its session is durable; here it counts as unanswered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import grpc.aio
import numpy as np
from numpy.typing import NDArray

from evercurrent.errors import Refused, refused, rejection, sole_refusal
from evercurrent.security.identity import check_may_act_for
from evercurrent.settings import RouterSettings
from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1 import worker_pb2
from evercurrent.v1.columns_pb2 import (
    EVENT_KIND_CLOSE,
    EVENT_KIND_OBSERVATION,
    EVENT_KIND_SKIP,
    IndexedRejection,
)
from evercurrent.v1.session_pb2 import ExchangeOpen, ExchangeOpened, GoAway, SessionOpened, TagOpen, TagOpened
from evercurrent.v1.wire_pb2 import WireExchangeFrame, WireExchangeRequest, WireExchangeResponse, WireExchangeResults
from evercurrent.wire import Records, joined
from router.core import RoutingCore
from router.requests import (
    check_durability,
    check_model,
    check_model_version,
    check_namespace,
    check_user_id,
    checked_session_id,
)
from router.sessions import OPENING, SETTLING
from router.streams import Door, parse, serve, unix_us

TAG_MAX = 1 << 20
NO_SESSION = -1


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Results under the client's own tags, and when they came."""

    records: Records
    came_us: int
    tags: NDArray[np.uint32]
    totals_us: NDArray[np.uint32] | None


class ExchangeStream:
    """A feed of many sessions."""

    def __init__(self, core: RoutingCore, request: ExchangeOpen, settings: RouterSettings) -> None:
        check_namespace(request.namespace, "open.namespace")
        check_model(request.model, core.model, "open.model")
        check_durability(request.wait_durable, core.has_store, "open.wait_durable")
        check_model_version(request.model_version, "open.model_version")
        self._core = core
        self._settings = settings
        self._namespace = request.namespace
        self._wait_durable = request.wait_durable
        self._model_version = request.model_version
        self._timings = request.timings
        self._layout = core.layout
        self._sid_of_tag = np.full(1024, NO_SESSION, np.int32)
        self._sids: set[int] = set()
        self._session_ids: dict[int, str] = {}
        self._held: list[Records] = []
        self._traceparents: dict[tuple[int, int], str] = {}
        """Of events that were not sent yet, by session and seq."""
        self._opens: list[TagOpened] = []
        self._chunks: list[_Chunk] = []
        self._rejections: list[IndexedRejection] = []
        self._refusals: list[pb.Rejection] = []
        self._num_results = 0
        self._num_pending = 0
        self._filled = asyncio.Event()
        self._written = asyncio.Event()
        self._releasing = False
        self._ending: pb.Rejection | None = None
        self._leaving: GoAway | None = None
        self._quota = core.quota()
        self._feed = core.add_feed(self)

    def opened(self, sid: int, answer: worker_pb2.LinkTagOpened) -> None:
        tag = int(self._core.sessions.tag[sid])
        session_id = self._session_ids.pop(sid)
        if answer.HasField("rejection"):
            self._forget(sid, tag)
            self._refuse_held(sid, tag, answer.rejection)
            self._say_open(TagOpened(tag=tag, rejection=answer.rejection))
        else:
            opened = SessionOpened(
                session_id=session_id,
                applied_seq=answer.applied_seq,
                durable_seq=answer.durable_seq,
                version=answer.version,
                model=self._core.model.name,
                model_version=self._core.version_of(sid),
            )
            self._say_open(TagOpened(tag=tag, opened=opened))
        # Many opens are answered by one frame: what they held goes on once, when all of them are in.
        if self._held and not self._releasing:
            self._releasing = True
            asyncio.get_running_loop().call_soon(self._release)

    def results(self, records: Records, rejections: Sequence[IndexedRejection]) -> None:
        tags = self._core.sessions.tag[records["tag"]]
        came_us = self._core.clock_us()
        totals_us = None
        if self._timings:
            totals_us = (np.uint64(came_us) - records["stamp_us"]).astype(np.uint32)
        for indexed in rejections:
            self._rejections.append(
                IndexedRejection(index=indexed.index + self._num_results, rejection=indexed.rejection)
            )
        closed = records["kind"] == EVENT_KIND_CLOSE
        if closed.any():
            for sid, tag in zip(records["tag"][closed].tolist(), tags[closed].tolist(), strict=True):
                self._forget(sid, tag)
        self._say_results(_Chunk(records, came_us, tags, totals_us))

    def durable(self, sids: NDArray[np.int64], seqs: NDArray[np.uint64]) -> None:
        self._filled.set()

    def ended(self, sids: Sequence[int], why: pb.Rejection) -> None:
        for sid in sids:
            tag = int(self._core.sessions.tag[sid])
            if self._session_ids.pop(sid, None) is None:
                self._num_pending += 1
            held_back = self._core.sessions.state[sid] == SETTLING
            self._num_pending -= self._core.sessions.num_unanswered(sid) + int(held_back)
            self._forget(sid, tag)
            self._refuse_held(sid, tag, why)
            self._say_open(TagOpened(tag=tag, rejection=why))

    def go_away(self, message: str, grace_ms: int) -> None:
        self._leaving = GoAway(message=message, grace_ms=grace_ms)
        self._filled.set()

    def stop(self, why: pb.Rejection) -> None:
        self._ending = why
        self._filled.set()

    async def run(self, context: grpc.aio.ServicerContext) -> None:
        """Serve the stream to its end."""
        opened = ExchangeOpened(
            model=self._core.model.name,
            in_flight_max=self._settings.in_flight_exchange_max,
            in_flight_session_max=self._settings.in_flight_session_max,
            frame_events_max=self._settings.frame_events_max,
        )
        try:
            await context.write(WireExchangeResponse(opened=opened).SerializeToString())
            async with asyncio.TaskGroup() as tasks:
                writing = tasks.create_task(self._write(context))
                await self._read(context)
                while self._num_pending or not self._is_settled():
                    await self._wait_written()
                writing.cancel()
        except BaseExceptionGroup as group:
            raise sole_refusal(group) from None
        finally:
            self._held.clear()
            if self._quota is not None:
                self._quota.leave_sessions(len(self._sids))
            self._core.remove_feed(self._feed, list(self._sids))

    async def _read(self, context: grpc.aio.ServicerContext) -> None:
        bound = self._settings.in_flight_exchange_max
        while (raw := await context.read()) is not grpc.aio.EOF:
            try:
                self._take(raw)
            except Refused as error:
                self._refusals.append(error.rejection)
                self._num_pending += 1
                self._filled.set()
            while self._num_pending >= bound:
                await self._wait_written()

    async def _write(self, context: grpc.aio.ServicerContext) -> None:
        while True:
            await self._filled.wait()
            self._filled.clear()
            refusals, self._refusals = self._refusals, []
            for why in refusals:
                await context.write(WireExchangeResponse(rejected=why).SerializeToString())
            num_written = len(refusals)
            if self._leaving is not None:
                leaving, self._leaving = self._leaving, None
                await context.write(WireExchangeResponse(go_away=leaving).SerializeToString())
            if self._opens or self._chunks:
                chunks = self._chunks
                frame, num_results = self._take_results()
                await context.write(WireExchangeResponse(frame=frame).SerializeToString())
                num_written += num_results
                written_us = self._core.clock_us()
                for chunk in chunks:
                    self._core.latency.add(chunk.records, chunk.came_us, written_us)
            self._num_pending -= num_written
            self._written.set()
            if self._ending is not None:
                raise Refused(self._ending)

    def _is_settled(self) -> bool:
        """Whether nothing is waited for to become durable."""
        if not self._wait_durable:
            return True
        sids = np.fromiter(self._sids, np.int64, len(self._sids))
        return bool(self._core.sessions.is_durable(sids).all())

    async def _wait_written(self) -> None:
        self._written.clear()
        await self._written.wait()

    def _take_results(self) -> tuple[WireExchangeResults, int]:
        """All results that wait, as one message, and how many events and opens they settle."""
        chunks, opens, rejections = self._chunks, self._opens, self._rejections
        self._chunks, self._opens, self._rejections, self._num_results = [], [], [], 0
        if not chunks:
            return WireExchangeResults(opens=opens), len(opens)
        records = joined([chunk.records for chunk in chunks])
        tags = np.concatenate([chunk.tags for chunk in chunks])
        timed = [chunk.totals_us for chunk in chunks if chunk.totals_us is not None]
        totals_us = np.concatenate(timed) if timed else None
        columns = self._layout.columns_of_results(records, tags, totals_us, self._core.versions)
        columns.rejections.extend(rejections)
        return WireExchangeResults(opens=opens, results=columns), len(records) + len(opens)

    def _take(self, raw: bytes) -> None:
        """One request.

        Raises:
            Refused: it is none that can be read as a frame; nothing of it was taken.
        """
        if len(raw) > self._settings.frame_bytes_max:
            text = f"has {len(raw)} bytes; {self._settings.frame_bytes_max} are taken"
            raise refused(pb.REASON_TOO_LARGE, "frame", text)
        request = parse(WireExchangeRequest, raw)
        which = request.WhichOneof("request")
        if which == "open":
            raise refused(pb.REASON_PROTOCOL, "open", "the stream is open already")
        if which != "frame":
            raise refused(pb.REASON_PROTOCOL, "request", "is empty")
        events = self._events(request.frame)
        for tag_open in request.frame.opens:
            self._open(tag_open)
        if self._releasing:
            self._release()
        if request.frame.events.traceparents:
            self._note_traceparents(events, request.frame.events.traceparents)
        self._forward(self._affordable(self._addressed(events), len(raw)))

    def _affordable(self, events: Records, num_bytes: int) -> Records:
        """These events if their sender may send so much; else its closes, and the others are answered."""
        if self._quota is None or not len(events):
            return events
        costs = events["kind"] != EVENT_KIND_CLOSE
        try:
            self._quota.take(int(costs.sum()), num_bytes)
        except Refused as error:
            sids = events["tag"][costs].astype(np.int32)
            tags = self._core.sessions.tag[sids]
            self._reject(events[costs], tags, [error.rejection] * len(sids), sids)
            left: Records = events[~costs]
            return left
        return events

    def _events(self, frame: WireExchangeFrame) -> Records:
        """The events of a frame and after them its closes."""
        for name, num in (
            ("events", len(frame.events.tags) // 4),
            ("opens", len(frame.opens)),
            ("closes", len(frame.closes)),
        ):
            if num > self._settings.frame_events_max:
                text = f"has {num} {name}; {self._settings.frame_events_max} are taken"
                raise refused(pb.REASON_TOO_LARGE, f"frame.{name}", text)
        events = self._layout.events_of_columns(frame.events)
        if not ((events["kind"] >= EVENT_KIND_OBSERVATION) & (events["kind"] <= EVENT_KIND_SKIP)).all():
            raise refused(pb.REASON_COLUMNS, "events.kinds", "holds a kind that clients do not send")
        events["stamp_us"] = self._core.clock_us()
        untimed = events["event_time_us"] == 0
        if untimed.any():
            events["event_time_us"][untimed] = unix_us()
        if not frame.closes:
            return events
        closes = np.zeros(len(frame.closes), self._layout.event_dtype)
        closes["tag"] = frame.closes
        closes["kind"] = EVENT_KIND_CLOSE
        closes["stamp_us"] = self._core.clock_us()
        return joined([events, closes])

    def _note_traceparents(self, events: Records, texts: Sequence[str]) -> None:
        for tag, seq, text in zip(events["tag"].tolist(), events["seq"].tolist(), texts, strict=False):
            if text and tag < len(self._sid_of_tag):
                self._traceparents[self._sid_of_tag.item(tag), seq] = text

    def _addressed(self, events: Records) -> Records:
        """The events whose tags are open, with the sid as their tag; the others are answered."""
        tags = events["tag"]
        known = tags < len(self._sid_of_tag)
        sids = np.where(known, self._sid_of_tag[np.where(known, tags, 0)], NO_SESSION)
        unknown = sids == NO_SESSION
        if unknown.any():
            lost = events[unknown & (events["kind"] != EVENT_KIND_CLOSE)]
            whys = [rejection(pb.REASON_TAG, "tag", f"{tag} names no open session") for tag in lost["tag"].tolist()]
            self._num_pending += len(lost)
            self._reject(lost, lost["tag"], whys)
            events, sids = events[~unknown], sids[~unknown]
        events["tag"] = sids
        self._num_pending += len(events)
        return events

    def _open(self, request: TagOpen) -> None:
        """Open a session; a refusal is told in the answer."""
        self._num_pending += 1
        try:
            tag = self._free_tag(request.tag)
            check_user_id(request.user_id, "opens.user_id")
            check_may_act_for(request.user_id, "opens.user_id")
            session_id = checked_session_id(request.session_id, "opens.session_id")
            sid = self._opened_sid(tag, request.user_id, session_id)
        except Refused as error:
            self._opens.append(TagOpened(tag=request.tag, rejection=error.rejection))
            self._filled.set()
            return
        self._sid_of_tag[tag] = sid
        self._sids.add(sid)
        self._session_ids[sid] = session_id

    def _opened_sid(self, tag: int, user_id: str, session_id: str) -> int:
        """Raises Refused."""
        if self._quota is not None:
            self._quota.enter_session()
        try:
            return self._core.open(
                self._feed,
                tag,
                user_id,
                self._namespace,
                session_id,
                wait_durable=self._wait_durable,
                model_version=self._model_version,
            )
        except Refused:
            if self._quota is not None:
                self._quota.leave_sessions()
            raise

    def _free_tag(self, tag: int) -> int:
        if tag >= TAG_MAX:
            raise refused(pb.REASON_TAG, "opens.tag", f"{tag} is not below {TAG_MAX}")
        if tag >= len(self._sid_of_tag):
            grown = np.full(max(2 * len(self._sid_of_tag), tag + 1), NO_SESSION, np.int32)
            grown[: len(self._sid_of_tag)] = self._sid_of_tag
            self._sid_of_tag = grown
        if self._sid_of_tag[tag] != NO_SESSION:
            raise refused(pb.REASON_TAG, "opens.tag", f"{tag} is in use")
        return tag

    def _forward(self, events: Records) -> None:
        """Send events on; hold those whose session is opening."""
        if not len(events):
            return
        opening = self._core.sessions.state[events["tag"]] == OPENING
        if opening.any():
            self._held.append(events[opening])
            events = events[~opening]
            if not len(events):
                return
        sids = events["tag"].astype(np.int32)
        admission = self._core.send_many(sids, events, self._traceparents)
        if not self._held:
            self._traceparents.clear()
        if admission.accepted.all():
            return
        self._answer(events, sids, admission.refused, admission.duplicates)

    def _release(self) -> None:
        """Send on what was held for sessions that are open now."""
        self._releasing = False
        held, self._held = self._held, []
        if held:
            self._forward(joined(held))

    def _refuse_held(self, sid: int, tag: int, why: pb.Rejection) -> None:
        """Answer what was held for a session that will not open."""
        if not self._held:
            return
        events = joined(self._held)
        gone = events["tag"] == sid
        self._held = [events[~gone]] if not gone.all() else []
        num_gone = int(gone.sum())
        self._reject(events[gone], np.full(num_gone, tag, np.uint32), [why] * num_gone)

    def _answer(
        self, events: Records, sids: NDArray[np.int32], refusals: dict[int, pb.Rejection], duplicates: Iterable[int]
    ) -> None:
        """Answer what was not admitted."""
        tags = self._core.sessions.tag[sids]
        at = np.fromiter(refusals, np.intp, len(refusals))
        told = events["kind"][at] != EVENT_KIND_CLOSE
        # A second close of a tag is ignored: the first will be answered.
        self._num_pending -= int((~told).sum())
        if told.any():
            whys = [why for why, said in zip(refusals.values(), told.tolist(), strict=True) if said]
            self._reject(events[at][told], tags[at][told], whys, sids[at][told])
        again = np.fromiter(duplicates, np.intp)
        if len(again):
            self._local(events[again], tags[again], pb.STATUS_DUPLICATE, sids[again])

    def _reject(
        self,
        events: Records,
        tags: NDArray[np.uint32],
        whys: Sequence[pb.Rejection],
        sids: NDArray[np.int32] | None = None,
    ) -> None:
        for at, why in enumerate(whys):
            self._rejections.append(IndexedRejection(index=self._num_results + at, rejection=why))
        self._local(events, tags, pb.STATUS_REJECTED, sids)

    def _local(
        self, events: Records, tags: NDArray[np.uint32], status: int, sids: NDArray[np.int32] | None = None
    ) -> None:
        """Results that need no worker; they tell how far their sessions are, if there are any."""
        if not len(events):
            return
        records = np.zeros(len(events), self._layout.result_dtype)
        for name in ("seq", "kind", "stamp_us"):
            records[name] = events[name]
        records["status"] = status
        if sids is not None:
            records["applied_seq"] = self._core.sessions.next_seq[sids] - np.uint64(1)
            records["durable_seq"] = self._core.sessions.durable_seq[sids]
        records["loss"] = np.nan
        records["prediction"] = np.nan
        totals_us = np.zeros(len(events), np.uint32) if self._timings else None
        self._say_results(_Chunk(records, self._core.clock_us(), tags.astype(np.uint32), totals_us))

    def _forget(self, sid: int, tag: int) -> None:
        if self._quota is not None and sid in self._sids:
            self._quota.leave_sessions()
        self._sids.discard(sid)
        self._sid_of_tag[tag] = NO_SESSION

    def _say_open(self, opened: TagOpened) -> None:
        self._opens.append(opened)
        self._filled.set()

    def _say_results(self, chunk: _Chunk) -> None:
        self._chunks.append(chunk)
        self._num_results += len(chunk.records)
        self._filled.set()


async def serve_exchange(
    core: RoutingCore, settings: RouterSettings, context: grpc.aio.ServicerContext, door: Door
) -> None:
    """The Exchange RPC, over raw bytes."""

    async def run(request: WireExchangeRequest) -> None:
        await ExchangeStream(core, request.open, settings).run(context)

    await serve(context, door, WireExchangeRequest, run)
