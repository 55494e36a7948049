"""One user's Session stream: reads requests, packs them for the link, writes replies in order.

The stream is bounded by `session_max` requests whose replies are not yet written; beyond it, it is not read, so a
client that does not take its replies slows down itself alone. A watermark is never queued: what is written is how far
the session table is when the writer gets to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import grpc.aio
import numpy as np
from numpy.typing import NDArray

from evercurrent.errors import Refused, refused, rejection, sole_refusal
from evercurrent.security.identity import check_may_act_for
from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1 import worker_pb2
from evercurrent.v1.columns_pb2 import EVENT_KIND_OBSERVATION, IndexedRejection
from evercurrent.v1.session_pb2 import (
    GoAway,
    SessionOpen,
    SessionOpened,
    SessionRequest,
    SessionResponse,
    Watermark,
)
from evercurrent.wire import SEQ_MAX, Records, result_records
from router.core import RoutingCore
from router.replies import Replies
from router.requests import (
    Packer,
    check_durability,
    check_model,
    check_model_version,
    check_namespace,
    check_user_id,
    checked_session_id,
)
from router.sessions import too_far
from router.streams import Door, Message, Near, parse, serve, unix_us


class SessionStream:
    """A feed of one session."""

    def __init__(
        self, core: RoutingCore, request: SessionOpen, request_bytes_max: int, near: Near | None = None
    ) -> None:
        self._core = core
        self._near = near
        self._request_bytes_max = request_bytes_max
        check_user_id(request.user_id, "open.user_id")
        check_may_act_for(request.user_id, "open.user_id")
        check_namespace(request.namespace, "open.namespace")
        check_model(request.model, core.model, "open.model")
        check_durability(request.wait_durable, core.has_store, "open.wait_durable")
        check_model_version(request.model_version, "open.model_version")
        self._wait_durable = request.wait_durable
        self._session_id = checked_session_id(request.session_id, "open.session_id")
        self._packer = Packer(core.layout)
        self._timings = request.timings
        self._replies = Replies(request.timings, core.versions)
        self._opening: asyncio.Future[SessionOpened] = asyncio.get_running_loop().create_future()
        self._ending: pb.Rejection | None = None
        self._leaving: GoAway | None = None
        self._is_open = False
        """Whether the client is told that the session is open, before anything else."""
        self._outgoing: list[SessionResponse] = []
        self._unwritten: list[tuple[Records, int]] = []
        """Results whose replies are among these, and when they came."""
        self._num_pending = 0
        self._is_writing = False
        self._durable_told = 0
        self._filled = asyncio.Event()
        self._written = asyncio.Event()
        self._quota = core.quota()
        if self._quota is not None:
            self._quota.enter_session()
        self._feed = core.add_feed(self)
        self._sids: list[int] = []
        try:
            self._sids.append(
                core.open(
                    self._feed,
                    0,
                    request.user_id,
                    request.namespace,
                    self._session_id,
                    wait_durable=self._wait_durable,
                    model_version=request.model_version,
                )
            )
        except Refused:
            self._leave()
            raise

    def opened(self, sid: int, answer: worker_pb2.LinkTagOpened) -> None:
        if answer.HasField("rejection"):
            self.ended([sid], answer.rejection)
        elif not self._opening.done():
            # Now: when the client is told, another may have the session.
            self._opening.set_result(self._opened_message(answer))

    def results(self, records: Records, rejections: Sequence[IndexedRejection]) -> None:
        came_us = self._core.clock_us()
        if self._near is not None and not rejections and not (self._outgoing or self._is_writing):
            records = records[self._answer_near(self._near, records, came_us) :]
            if not len(records):
                return
        self._unwritten.append((records, came_us))
        for reply in self._replies.make(records, rejections, came_us):
            if isinstance(reply, pb.ObservationResult):
                self._outgoing.append(SessionResponse(result=reply))
            else:
                self._outgoing.append(SessionResponse(query_result=reply))
        self._filled.set()

    def _answer_near(self, near: Near, records: Records, came_us: int) -> int:
        """Give a client that is near the first of these results, as many as may be given at once."""
        num_given = 0
        for result in result_records(records):
            if result.kind != EVENT_KIND_OBSERVATION or result.status != pb.STATUS_APPLIED:
                break
            version = self._core.versions[result.model]
            if not near.answer(result, version, came_us if self._timings else None):
                break
            num_given += 1
        if num_given:
            self._num_pending -= num_given
            self._core.latency.add(records[:num_given], came_us, self._core.clock_us())
            self._written.set()
            if self._wait_durable and self._durable_seq() > self._durable_told:
                self._filled.set()
        return num_given

    def durable(self, sids: NDArray[np.int64], seqs: NDArray[np.uint64]) -> None:
        self._filled.set()

    def ended(self, sids: Sequence[int], why: pb.Rejection) -> None:
        self._sids.clear()
        self.stop(why)

    def go_away(self, message: str, grace_ms: int) -> None:
        self._leaving = GoAway(message=message, session_id=self._session_id, grace_ms=grace_ms)
        if self._is_open:
            self._say(SessionResponse(go_away=self._leaving))

    def stop(self, why: pb.Rejection) -> None:
        self._ending = why
        if not self._opening.done():
            self._opening.set_exception(Refused(why))
        self._filled.set()

    async def run(self, context: grpc.aio.ServicerContext) -> None:
        """Serve the stream to its end.

        Raises:
            Refused: the open was refused, or the session ended.
        """
        try:
            opened = await self._opening
            self._durable_told = opened.durable_seq
            self._say(SessionResponse(opened=opened))
            self._is_open = True
            if self._leaving is not None:
                self._say(SessionResponse(go_away=self._leaving))
            async with asyncio.TaskGroup() as tasks:
                writing = tasks.create_task(self._write(context))
                await self._read(context)
                while self._num_pending or not self._is_settled():
                    await self._wait_written()
                writing.cancel()
        except BaseExceptionGroup as group:
            raise sole_refusal(group) from None
        finally:
            self._leave()

    def _leave(self) -> None:
        self._core.remove_feed(self._feed, self._sids)
        if self._quota is not None:
            self._quota.leave_sessions()

    def _charge(self, num_events: int, message: pb.Observation | pb.Query) -> None:
        """Raises Refused: this caller sends too much."""
        if self._quota is not None:
            self._quota.take(num_events, message.ByteSize())

    async def _read(self, context: grpc.aio.ServicerContext) -> None:
        if self._near is not None:
            self._near.listen(self._take_now)
        while (raw := await context.read()) is not grpc.aio.EOF:
            try:
                self._take(raw)
            except Refused as error:
                self._say(SessionResponse(rejected=error.rejection))
            while self._is_full():
                await self._wait_written()

    def _is_full(self) -> bool:
        """Whether so many requests, or events (a query has one a candidate), are unanswered that no more is read."""
        sessions = self._core.sessions
        session_max = self._core.bounds.in_flight_session_max
        return self._num_pending >= session_max or (
            bool(self._sids) and sessions.num_unanswered(self._sids[0]) >= sessions.limit.item(self._sids[0])
        )

    def _is_settled(self) -> bool:
        """Whether nothing is waited for to become durable, and to be told so."""
        return (
            not self._wait_durable
            or not self._sids
            or self._durable_told + 1 >= self._core.sessions.next_seq.item(self._sids[0])
        )

    async def _write(self, context: grpc.aio.ServicerContext) -> None:
        while True:
            await self._filled.wait()
            self._filled.clear()
            messages, self._outgoing = self._outgoing, []
            unwritten, self._unwritten = self._unwritten, []
            # Read now: while messages are written there come results, which must not be overtaken.
            durable_seq = self._durable_seq()
            self._is_writing = True
            for message in messages:
                await context.write(message.SerializeToString())
            self._num_pending -= len(messages)
            written_us = self._core.clock_us()
            for records, came_us in unwritten:
                self._core.latency.add(records, came_us, written_us)
            if self._wait_durable and durable_seq > self._durable_told:
                watermark = SessionResponse(watermark=Watermark(durable_seq=durable_seq))
                await context.write(watermark.SerializeToString())
                self._durable_told = durable_seq
            self._is_writing = False
            self._written.set()
            if self._ending is not None:
                raise Refused(self._ending)

    async def _wait_written(self) -> None:
        self._written.clear()
        await self._written.wait()

    def _take_now(self, message: Message) -> bool:
        """What a client that is near sends, if there is room."""
        if self._is_full():
            return False
        stamp_us = self._core.clock_us()
        try:
            self._check_size(message.ByteSize())
        except Refused as error:
            self._say(SessionResponse(rejected=error.rejection))
            return True
        if isinstance(message, pb.Observation):
            self._observe(message, stamp_us)
        elif isinstance(message, pb.Query):
            self._ask(message, stamp_us)
        else:
            self._skip(message, stamp_us)
        return True

    def _check_size(self, num_bytes: int) -> None:
        """Raises Refused: REASON_TOO_LARGE."""
        if num_bytes > self._request_bytes_max:
            text = f"has {num_bytes} bytes; {self._request_bytes_max} are taken"
            raise refused(pb.REASON_TOO_LARGE, "request", text)

    def _take(self, raw: bytes) -> None:
        """One request.

        Raises:
            Refused: it is none of those that a stream takes here.
        """
        stamp_us = self._core.clock_us()
        self._check_size(len(raw))
        request = parse(SessionRequest, raw)
        which = request.WhichOneof("request")
        if which == "observation":
            self._observe(request.observation, stamp_us)
        elif which == "query":
            self._ask(request.query, stamp_us)
        elif which == "skip":
            self._skip(request.skip, stamp_us)
        elif which == "open":
            raise refused(pb.REASON_PROTOCOL, "open", "the stream is open already")
        else:
            raise refused(pb.REASON_PROTOCOL, "request", "is empty")

    def _observe(self, observation: pb.Observation, stamp_us: int) -> None:
        seq = observation.seq
        if not self._sids:
            return
        sid = self._sids[0]
        sessions = self._core.sessions
        if seq != sessions.next_seq[sid]:
            self._answer_unexpected(sid, seq)
            return
        refusal: pb.Rejection | None = None
        try:
            event = self._packer.observation(sid, observation, stamp_us, unix_us())
        except Refused as error:
            refusal = error.rejection
            event = self._packer.refusal(sid, seq, stamp_us)
        try:
            self._charge(1, observation)
            self._core.send(sid, event, refusal=refusal, traced=(seq, observation.traceparent))
        except Refused as error:
            self._reject(sid, seq, error.rejection)
            return
        sessions.next_seq[sid] = seq + 1
        self._num_pending += 1

    def _answer_unexpected(self, sid: int, seq: int) -> None:
        why = self._core.sessions.judge_seq(sid, seq)
        if why is not None:
            self._reject(sid, seq, why)
            return
        self._say_result(sid, pb.ObservationResult(seq=seq, status=pb.STATUS_DUPLICATE))

    def _reject(self, sid: int, seq: int, why: pb.Rejection) -> None:
        self._say_result(sid, pb.ObservationResult(seq=seq, status=pb.STATUS_REJECTED, rejection=why))

    def _say_result(self, sid: int, result: pb.ObservationResult) -> None:
        """A result that needs no worker."""
        result.applied_seq = self._core.sessions.next_seq.item(sid) - 1
        result.durable_seq = self._durable_seq()
        self._say(SessionResponse(result=result))

    def _ask(self, query: pb.Query, stamp_us: int) -> None:
        if not self._sids:
            return
        sid = self._sids[0]
        try:
            event = self._packer.query(sid, query, stamp_us, unix_us())
            self._charge(len(query.candidates), query)
            self._core.send(sid, event, len(query.candidates))
        except Refused as error:
            result = pb.QueryResult(query_id=query.query_id, status=pb.STATUS_REJECTED, rejection=error.rejection)
            self._say(SessionResponse(query_result=result))
            return
        self._replies.expect_query(len(query.candidates))
        self._num_pending += 1

    def _skip(self, skip: pb.Skip, stamp_us: int) -> None:
        if not self._sids:
            return
        sid = self._sids[0]
        sessions = self._core.sessions
        expected = int(sessions.next_seq[sid])
        first = getattr(skip, "from")
        why: pb.Rejection | None = None
        if first > expected:
            why = rejection(pb.REASON_SEQ_GAP, "from", f"{first} came where {expected} is expected")
        elif not 1 <= first <= skip.to:
            why = rejection(pb.REASON_SEQ_REGRESSION, "to", f"{skip.to} is below `from`, {first}, which is 1 or more")
        elif skip.to > SEQ_MAX:
            why = too_far(skip.to, "to")
        elif skip.to < expected:
            self._answer_unexpected(sid, skip.to)
            return
        if why is not None:
            self._reject(sid, skip.to, why)
            return
        try:
            self._core.send(sid, self._packer.skip(sid, skip.to, stamp_us))
        except Refused as error:
            self._reject(sid, skip.to, error.rejection)
            return
        sessions.next_seq[sid] = skip.to + 1
        self._num_pending += 1

    def _say(self, message: SessionResponse) -> None:
        self._outgoing.append(message)
        self._num_pending += 1
        self._filled.set()

    def _durable_seq(self) -> int:
        return self._core.sessions.durable_seq.item(self._sids[0]) if self._sids else self._durable_told

    def _opened_message(self, answer: worker_pb2.LinkTagOpened) -> SessionOpened:
        return SessionOpened(
            session_id=self._session_id,
            applied_seq=answer.applied_seq,
            durable_seq=answer.durable_seq,
            version=answer.version,
            model=self._core.model.name,
            model_version=self._core.version_of(answer.tag),
        )


async def serve_session(
    core: RoutingCore,
    request_bytes_max: int,
    context: grpc.aio.ServicerContext,
    door: Door,
    near: Near | None = None,
) -> None:
    """The Session RPC, over raw bytes; `near`: its client, where that is in this process."""

    async def run(request: SessionRequest) -> None:
        await SessionStream(core, request.open, request_bytes_max, near).run(context)

    await serve(context, door, SessionRequest, run)
