"""A router that is played: it serves one user's session from memory, and each of its streams misbehaves by a script."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from evercurrent.client import Client, Parts, connect
from evercurrent.errors import abort, rejection
from evercurrent.v1 import admin_pb2, admin_pb2_grpc, description_pb2, session_pb2_grpc
from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1.columns_pb2 import EVENT_KIND_CLOSE, EventColumns, IndexedRejection, ResultColumns
from evercurrent.v1.session_pb2 import (
    ExchangeFrame,
    ExchangeOpen,
    ExchangeOpened,
    ExchangeRequest,
    ExchangeResponse,
    ExchangeResults,
    GoAway,
    ObserveRequest,
    ObserveResponse,
    SessionOpen,
    SessionOpened,
    SessionRequest,
    SessionResponse,
    TagOpened,
    Watermark,
)

MODEL = description_pb2.ModelDescription(
    name="played",
    ids=[description_pb2.IdField(name="deed", size=1000)],
    outcome=description_pb2.OUTCOME_KIND_VALUE,
    outcome_width=1,
    prediction_width=1,
)


@dataclass
class State:
    """What was learned of one session."""

    observations: list[pb.Observation] = field(default_factory=list)
    seqs: list[int] = field(default_factory=list)
    last_seq: int = 0
    durable_seq: int = 0
    lost: int = 0

    @property
    def deeds(self) -> list[int]:
        return [one.ids[0] for one in self.observations]

    def consume(self, request: pb.Observation | pb.Skip) -> pb.ObservationResult:
        """Judge and learn, as a worker does."""
        if isinstance(request, pb.Skip):
            self.lost += max(0, request.to - self.last_seq)
            self.last_seq = max(self.last_seq, request.to)
            return self._result(request.to, pb.STATUS_SKIPPED)
        if request.seq <= self.last_seq:
            return self._result(request.seq, pb.STATUS_DUPLICATE)
        if request.seq > self.last_seq + 1:
            return self.refuse(request.seq, pb.REASON_SEQ_GAP)
        self.last_seq = request.seq
        self.observations.append(request)
        self.seqs.append(request.seq)
        return self._result(request.seq, pb.STATUS_APPLIED)

    def refuse(self, seq: int, reason: pb.Reason, retry_after_ms: int = 0) -> pb.ObservationResult:
        result = self._result(seq, pb.STATUS_REJECTED)
        result.rejection.CopyFrom(rejection(reason, "", "by script", retry_after_ms))
        return result

    def forget(self) -> None:
        """The worker dies: what is not durable is gone."""
        while self.seqs and self.seqs[-1] > self.durable_seq:
            self.seqs.pop()
            self.observations.pop()
        self.last_seq = self.durable_seq

    def _result(self, seq: int, status: pb.Status) -> pb.ObservationResult:
        return pb.ObservationResult(
            seq=seq,
            status=status,
            version=len(self.observations),
            applied_seq=self.last_seq,
            durable_seq=self.durable_seq,
            prediction=[len(self.observations)] if status == pb.STATUS_APPLIED else [],
            lost=self.lost,
        )


class Peer:
    """One Session stream, in the words of a script."""

    def __init__(self, router: PlayedRouter, context: Any) -> None:
        self.router = router
        self.state = router.state
        self._context = context

    async def open(self) -> None:
        """Take the open and answer it."""
        request = (await self.read()).open
        self.router.opens.append(request)
        await self.write(
            opened=SessionOpened(
                session_id=request.session_id,
                applied_seq=self.state.last_seq,
                durable_seq=self.state.durable_seq,
                model=MODEL.name,
            )
        )

    async def read(self) -> SessionRequest:
        """The next request."""
        request = await self._context.read()
        assert isinstance(request, SessionRequest), request
        return request

    async def write(self, **response: Any) -> None:
        await self._context.write(SessionResponse(**response))

    async def take(self, num: int, answered: bool = True) -> None:
        """Learn from the next so many observations."""
        for _ in range(num):
            result = self.state.consume((await self.read()).observation)
            if answered:
                await self.write(result=result)

    async def durable(self) -> None:
        """All is durable."""
        self.state.durable_seq = self.state.last_seq
        await self.write(watermark=Watermark(durable_seq=self.state.durable_seq))

    async def serve(self) -> None:
        """Answer all until the client half-closes; everything becomes durable at once."""
        while (request := await self._context.read()) is not grpc.aio.EOF:
            which = request.WhichOneof("request")
            if which == "query":
                answer = pb.QueryResult(
                    query_id=request.query.query_id,
                    status=pb.STATUS_ANSWERED,
                    predictions=[len(self.state.observations) + one.ids[0] / 1000 for one in request.query.candidates],
                )
                await self.write(query_result=answer)
            else:
                await self.write(result=self.state.consume(getattr(request, which)))
                if self.router.has_store:
                    await self.durable()

    async def end(self, code: grpc.StatusCode, reason: pb.Reason | None = None, retry_after_ms: int = 0) -> None:
        """End the stream with a status; with details if there is a reason, whose status has to be this one."""
        if reason is not None:
            await abort(self._context, rejection(reason, "", "by script", retry_after_ms))
        await self._context.abort(code, "by script")


Script = Callable[[Peer], Awaitable[None]]


async def well(peer: Peer) -> None:
    """Serve as one should."""
    await peer.open()
    await peer.serve()


@dataclass
class PlayedRouter(session_pb2_grpc.SessionServiceServicer, admin_pb2_grpc.AdminServiceServicer):  # type: ignore[misc]
    """Plays a script a stream; `well` when there is none left."""

    scripts: deque[Script] = field(default_factory=deque)
    exchange_scripts: deque[Callable[[ExchangePeer], Awaitable[None]]] = field(default_factory=deque)
    unary: deque[tuple[pb.Reason, bool]] = field(default_factory=deque)
    """How the next Observe calls fail, and whether they are applied all the same."""
    state: State = field(default_factory=State)
    states: dict[str, State] = field(default_factory=dict)
    opens: list[SessionOpen] = field(default_factory=list)
    has_store: bool = True
    address: str = ""

    async def Session(self, _: object, context: Any) -> None:
        script = self.scripts.popleft() if self.scripts else well
        await script(Peer(self, context))

    async def Exchange(self, _: object, context: Any) -> None:
        peer = ExchangePeer(self, context)
        await (self.exchange_scripts.popleft() if self.exchange_scripts else serve_frames)(peer)

    async def Observe(self, request: ObserveRequest, context: Any) -> ObserveResponse:
        state = self.states.setdefault(request.session_id, State())
        reason, is_applied = self.unary.popleft() if self.unary else (None, True)
        result = state.consume(request.observation) if is_applied else pb.ObservationResult()
        if reason is not None:
            await abort(context, rejection(reason, "", "by script", 70))
        return ObserveResponse(result=result)

    async def DescribeModel(self, request: object, context: object) -> admin_pb2.DescribeModelResponse:
        return admin_pb2.DescribeModelResponse(model=MODEL)


class ExchangePeer:
    """One Exchange stream, in the words of a script. Sessions by their ids are the router's `states`."""

    def __init__(self, router: PlayedRouter, context: Any) -> None:
        self.router = router
        self.tags: dict[int, State] = {}
        self.users: dict[int, str] = {}
        self._context = context

    async def open(self, **limits: int) -> ExchangeOpen:
        request = await self._context.read()
        limits = {"in_flight_max": 1000, "in_flight_session_max": 100, "frame_events_max": 1000, **limits}
        await self._context.write(ExchangeResponse(opened=ExchangeOpened(model=MODEL.name, **limits)))
        opened: ExchangeOpen = request.open
        return opened

    async def read(self) -> ExchangeFrame | None:
        request = await self._context.read()
        if request is grpc.aio.EOF:
            return None
        assert isinstance(request, ExchangeRequest), request
        return request.frame

    async def answer(
        self, frame: ExchangeFrame, refusals: dict[int, pb.Rejection] | None = None, overloaded: bool = False
    ) -> None:
        """Answer a frame: its opens, but for those users' tags that are refused; its events, of which the first is
        overloaded if told so; its closes, by which all is durable."""
        opens = []
        for one in frame.opens:
            if refusals and one.tag in refusals:
                opens.append(TagOpened(tag=one.tag, rejection=refusals[one.tag]))
                continue
            state = self.router.states.setdefault(one.session_id, State())
            self.tags[one.tag], self.users[one.tag] = state, one.user_id
            opened = SessionOpened(applied_seq=state.last_seq, durable_seq=state.durable_seq, model=MODEL.name)
            opens.append(TagOpened(tag=one.tag, opened=opened))
        results = [(tag, result, kind) for tag, result, kind in self._results(frame.events, overloaded)]
        for tag in frame.closes:
            state = self.tags.pop(tag)
            state.durable_seq = state.last_seq
            results.append((tag, pb.ObservationResult(status=pb.STATUS_CLOSED), EVENT_KIND_CLOSE))
        await self.tell(opens, results)

    async def tell(self, opens: list[TagOpened], results: list[tuple[int, pb.ObservationResult, int]]) -> None:
        columns = ResultColumns(
            tags=[tag for tag, _, _ in results],
            seqs=[result.seq for _, result, _ in results],
            statuses=bytes(result.status for _, result, _ in results),
            kinds=bytes(kind for _, _, kind in results),
            versions=[result.version for _, result, _ in results],
            applied_seqs=[result.applied_seq for _, result, _ in results],
            durable_seqs=[result.durable_seq for _, result, _ in results],
            predictions=[result.prediction[0] if result.prediction else 0 for _, result, _ in results],
            losses=[float("nan")] * len(results),
            lost=[result.lost for _, result, _ in results],
            rejections=[
                IndexedRejection(index=at, rejection=result.rejection)
                for at, (_, result, _) in enumerate(results)
                if result.status == pb.STATUS_REJECTED
            ],
        )
        await self._context.write(ExchangeResponse(frame=ExchangeResults(opens=opens, results=columns)))

    async def go_away(self) -> None:
        await self._context.write(ExchangeResponse(go_away=GoAway(message="by script")))

    async def end(self, code: grpc.StatusCode) -> None:
        await self._context.abort(code, "by script")

    def _results(self, events: EventColumns, overloaded: bool) -> list[tuple[int, pb.ObservationResult, int]]:
        results = []
        for at, (tag, seq) in enumerate(zip(events.tags, events.seqs, strict=True)):
            state, kind = self.tags[tag], events.kinds[at]
            if overloaded and at == 0:
                results.append((tag, state.refuse(seq, pb.REASON_OVERLOADED, 50), kind))
                continue
            request: pb.Observation | pb.Skip = pb.Observation(
                seq=seq, ids=[events.ids[at]], value=events.values[at], event_time_us=events.event_times_us[at]
            )
            if kind == 4:
                request = pb.Skip(to=seq, **{"from": state.last_seq + 1})
            results.append((tag, state.consume(request), kind))
        return results


async def serve_frames(peer: ExchangePeer) -> None:
    """Serve as one should."""
    await peer.open()
    while (frame := await peer.read()) is not None:
        await peer.answer(frame)


@dataclass
class Sleeps:
    """The client's clock: its sleeps take no time and are written down; its chance is always the least."""

    taken: list[float] = field(default_factory=list)
    now_us: int = 1_000_000

    async def sleep(self, delay_s: float) -> None:
        self.taken.append(delay_s)
        await asyncio.sleep(0)

    def tick(self) -> int:
        self.now_us += 1
        return self.now_us

    @property
    def parts(self) -> Parts:
        return Parts(sleep=self.sleep, now_us=self.tick, chance=lambda: 0.0)


@asynccontextmanager
async def played(*scripts: Script, **more: Any) -> AsyncIterator[PlayedRouter]:
    """A played router that listens."""
    router = PlayedRouter(scripts=deque(scripts), **more)
    server = grpc.aio.server()
    session_pb2_grpc.add_SessionServiceServicer_to_server(router, server)
    admin_pb2_grpc.add_AdminServiceServicer_to_server(router, server)
    router.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield router
    finally:
        await server.stop(grace=None)


def client_of(*routers: PlayedRouter, sleeps: Sleeps | None = None, **options: Any) -> Client:
    """A client of played routers."""
    return connect([router.address for router in routers], parts=(sleeps or Sleeps()).parts, **options)
