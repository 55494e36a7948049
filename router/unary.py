"""Observe and Predict: a session of one event, opened, used and closed in one frame of the link."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from evercurrent.errors import Refused, refused, rejection
from evercurrent.security.identity import check_may_act_for
from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1 import worker_pb2
from evercurrent.v1.columns_pb2 import IndexedRejection
from evercurrent.v1.session_pb2 import ObserveRequest, PredictRequest
from evercurrent.wire import SEQ_MAX, Records
from router.core import RoutingCore
from router.replies import Replies
from router.requests import Packer, check_durability, check_model, check_namespace, check_user_id, checked_session_id
from router.sessions import too_far
from router.streams import unix_us

User = tuple[str, str, str]
"""User id, namespace, session id."""

Packed = tuple[bytes, int, pb.Rejection | None, tuple[int, str] | None]
"""Packed events, how many, the refusal of one that is invalid and consumes its seq all the same, and what an event that
may be traced comes with."""

Reply = pb.ObservationResult | pb.QueryResult

GUARD = frozenset({pb.REASON_LOSS_NOT_FINITE, pb.REASON_GRADIENT, pb.REASON_STATE})
"""Rejections that are results; all others end the call with their status."""


class Turns:
    """Calls of one session follow each other: a session has one feed."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[User, asyncio.Lock] = WeakValueDictionary()

    def of(self, user: User) -> asyncio.Lock:
        """What a call holds while it is under way."""
        lock = self._locks.get(user)
        if lock is None:
            lock = self._locks[user] = asyncio.Lock()
        return lock


async def observe(
    core: RoutingCore, turns: Turns, request: ObserveRequest, time_left_s: float | None
) -> pb.ObservationResult:
    """One observation, learned from.

    Raises:
        Refused: the request cannot be taken.
    """
    _check_user(core, request.user_id, request.namespace, request.model)
    check_durability(request.wait_for == pb.WAIT_FOR_DURABLE, core.has_store, "wait_for")
    if not request.HasField("observation"):
        raise refused(pb.REASON_PROTOCOL, "observation", "is required")
    observation = request.observation
    if bool(request.session_id) != bool(observation.seq):
        raise refused(pb.REASON_PROTOCOL, "observation.seq", "session_id and seq come together or not at all")
    if observation.seq > SEQ_MAX:
        raise Refused(too_far(observation.seq, "observation.seq"))
    session_id = checked_session_id(request.session_id, "session_id") if request.session_id else ""
    if time_left_s is not None:
        observation.timeout_ms = _sooner_ms(observation.timeout_ms, time_left_s)

    traced = observation.seq, observation.traceparent

    def pack(packer: Packer, sid: int, stamp_us: int) -> Packed:
        try:
            return packer.observation(sid, observation, stamp_us, unix_us()), 1, None, traced
        except Refused as error:
            if not session_id:
                raise
            return packer.refusal(sid, observation.seq, stamp_us), 1, error.rejection, traced

    is_durable = request.wait_for == pb.WAIT_FOR_DURABLE
    call = _Call(core, request.timings, "observation.", request.ByteSize(), wait_durable=is_durable)
    user = request.user_id, request.namespace, session_id
    async with turns.of(user) if session_id else nullcontext():
        reply = await call.run(user, pack, observation.seq)
    assert isinstance(reply, pb.ObservationResult)
    return reply


async def predict(core: RoutingCore, request: PredictRequest, time_left_s: float | None) -> pb.QueryResult:
    """One query, answered.

    Raises:
        Refused: the request cannot be taken.
    """
    _check_user(core, request.user_id, request.namespace, request.model)
    if not request.HasField("query"):
        raise refused(pb.REASON_PROTOCOL, "query", "is required")
    query = request.query
    if time_left_s is not None:
        query.timeout_ms = _sooner_ms(query.timeout_ms, time_left_s)
    num_candidates = len(query.candidates)
    reply = await _Call(core, request.timings, "query.", request.ByteSize(), num_candidates).run(
        (request.user_id, request.namespace, ""),
        lambda packer, sid, stamp_us: (packer.query(sid, query, stamp_us, unix_us()), num_candidates, None, None),
    )
    assert isinstance(reply, pb.QueryResult)
    return reply


class _Call:
    """A feed of one event. With `wait_durable` what was applied is the reply once a watermark covers its seq or, where
    there is no session, its version."""

    def __init__(
        self,
        core: RoutingCore,
        timings: bool,
        prefix: str,
        num_bytes: int,
        num_candidates: int = 0,
        wait_durable: bool = False,
    ) -> None:
        self._core = core
        self._num_events = num_candidates or 1
        self._num_bytes = num_bytes
        self._prefix = prefix
        self._wait_durable = wait_durable
        self._applied: pb.ObservationResult | None = None
        self._replies = Replies(timings, core.versions)
        if num_candidates:
            self._replies.expect_query(num_candidates)
        self._reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._sids: list[int] = []

    def opened(self, sid: int, answer: worker_pb2.LinkTagOpened) -> None:
        if answer.HasField("rejection"):
            self._sids.clear()
            self._fail(answer.rejection)

    def results(self, records: Records, rejections: Sequence[IndexedRejection]) -> None:
        came_us = self._core.clock_us()
        self._core.latency.add(records, came_us, came_us)
        for reply in self._replies.make(records, rejections, came_us):
            if reply.status == pb.STATUS_REJECTED and reply.rejection.reason not in GUARD:
                self._fail(self._prefixed(reply.rejection))
            elif self._wait_durable and isinstance(reply, pb.ObservationResult) and reply.status != pb.STATUS_REJECTED:
                self._applied = reply
                if reply.seq:
                    self._reach(self._core.sessions.durable_seq.item(self._sids[0]))
            elif not self._reply.done():
                self._reply.set_result(reply)

    def durable(self, sids: NDArray[np.int64], seqs: NDArray[np.uint64]) -> None:
        self._reach(int(seqs.max()))

    def _reach(self, durable_seq: int) -> None:
        """So much is durable: a version where there is no session."""
        reply = self._applied
        if reply is None or self._reply.done() or durable_seq < (reply.seq or reply.version):
            return
        if reply.seq:
            reply.durable_seq = durable_seq
        self._reply.set_result(reply)

    def ended(self, sids: Sequence[int], why: pb.Rejection) -> None:
        self._sids.clear()
        self._fail(why)

    def go_away(self, message: str, grace_ms: int) -> None:
        """A call is about to end by itself."""

    def stop(self, why: pb.Rejection) -> None:
        self._fail(why)

    async def run(self, user: User, pack: Callable[[Packer, int, int], Packed], seq: int = 0) -> Reply:
        """Open, send, wait for the reply, close. The close is sent however this ends."""
        quota = self._core.quota()
        if quota is not None:
            quota.enter_session()
        feed = self._core.add_feed(self)
        try:
            if quota is not None:
                quota.take(self._num_events, self._num_bytes)
            sid = self._core.open(feed, 0, *user, wait_durable=self._wait_durable)
            self._sids.append(sid)
            try:
                packed = pack(Packer(self._core.layout), sid, self._core.clock_us())
            except Refused as error:
                raise Refused(self._prefixed(error.rejection)) from None
            self._core.send(sid, *packed)
            self._core.sessions.next_seq[sid] = seq + 1
            return await self._reply
        finally:
            self._core.remove_feed(feed, self._sids)
            if quota is not None:
                quota.leave_sessions()

    def _fail(self, why: pb.Rejection) -> None:
        if not self._reply.done():
            self._reply.set_exception(Refused(why))

    def _prefixed(self, why: pb.Rejection) -> pb.Rejection:
        return rejection(why.reason, f"{self._prefix}{why.field}", why.message, why.retry_after_ms)


def _check_user(core: RoutingCore, user_id: str, namespace: str, model: str) -> None:
    check_user_id(user_id, "user_id")
    check_may_act_for(user_id, "user_id")
    check_namespace(namespace, "namespace")
    check_model(model, core.model, "model")


def _sooner_ms(timeout_ms: int, time_left_s: float) -> int:
    """The nearer of a message's own timeout (0: none) and its call's deadline."""
    left_ms = max(1, int(time_left_s * 1000))
    return min(timeout_ms or left_ms, left_ms)
