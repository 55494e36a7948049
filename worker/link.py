"""WorkerService on a gRPC server: Link, one stream a router, frames in, results out; Release, for other workers; and
what operators ask of one user (worker.users).

A link is bounded: beyond `link_in_flight_max` events that are not yet answered on the wire, it is not read. It ends
with the incarnation that it was opened on.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, suppress
from typing import NoReturn

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from ulid import ULID

from evercurrent.describe import describe
from evercurrent.errors import Refused, abort, end, refused, rejection, sole_refusal
from evercurrent.slots import NUM_SLOTS
from evercurrent.telemetry.logs import get_logger
from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1 import worker_pb2
from worker.engine import Engine
from worker.incarnation import Incarnation
from worker.models import Models
from worker.outboxes import Outbox, Stream
from worker.peers import HandingOver
from worker.top_users import top_users_method
from worker.users import checked_user, user_methods
from worker.versions import Versions

PROTOCOL_VERSION = 1
SERVICE = "evercurrent.v1.WorkerService"
ROUTER_NAME_MAX = 256
LAST_ANSWERS_S = 1.0
"""A link that is to end waits so long for what was taken in to be answered."""

logger = get_logger(__name__)


class WorkerService:
    """What a worker serves, by its incarnation of the moment."""

    def __init__(self, versions: Versions, worker: str, in_flight_max: int) -> None:
        self.incarnation = versions.begin()
        self._versions = versions
        self._worker = worker
        self._model = describe(versions.model)
        self._in_flight_max = in_flight_max

    async def live(self, stop: asyncio.Event) -> None:
        """One incarnation after the other, until a clean stop. Raises as Incarnation.live; a worker that follows the
        control object no more ends as well: it would serve a version that is not live."""
        try:
            async with asyncio.TaskGroup() as tasks:
                watching = tasks.create_task(self._versions.watch())
                await self._live(stop)
                watching.cancel()
        except BaseExceptionGroup as group:
            if len(group.exceptions) == 1:
                raise group.exceptions[0] from None
            raise

    async def _live(self, stop: asyncio.Event) -> None:
        while True:
            await self.incarnation.live(stop)
            engine = self.incarnation.engine
            ended = {"updates": engine.num_updates, "rejected": engine.num_rejected}
            logger.info("incarnation ended", name=self.incarnation.name, **ended)
            if stop.is_set():
                return
            self.incarnation = self._versions.begin()
            # What the first one left was frozen with the process (worker.server): let it go with all that it held.
            gc.unfreeze()
            gc.collect()
            gc.freeze()
            logger.info("incarnation begins", name=self.incarnation.name)

    def handler(self) -> grpc.GenericRpcHandler:
        """What a gRPC server is given."""
        link = grpc.stream_stream_rpc_method_handler(
            self._link, response_serializer=worker_pb2.LinkResponse.SerializeToString
        )
        release = grpc.unary_stream_rpc_method_handler(
            self._release, worker_pb2.ReleaseRequest.FromString, worker_pb2.ReleaseResponse.SerializeToString
        )
        users = user_methods(lambda: self._current)
        top_users = top_users_method(lambda: self._current)
        models = Models(self._versions, lambda: self._current).methods()
        methods = {"Link": link, "Release": release, **users, **top_users, **models}
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    @property
    def _current(self) -> Incarnation:
        """Raises Refused: REASON_UNAVAILABLE, between two incarnations or at the end."""
        if self.incarnation.leaving.is_set():
            raise refused(pb.REASON_UNAVAILABLE, "", f"{self.incarnation.name} serves no more", 500)
        return self.incarnation

    async def _link(self, _: object, context: grpc.aio.ServicerContext) -> None:
        try:
            opening = _greeting(await context.read())
            incarnation = self._current
        except Refused as error:
            await abort(context, error.rejection)
        opened = worker_pb2.LinkOpened(
            worker=self._worker,
            incarnation=incarnation.name,
            model=self._model,
            has_store=incarnation.has_store,
            weight=incarnation.weight,
            models=incarnation.engine.versions,
            live=incarnation.engine.live.version,
        )
        await context.write(worker_pb2.LinkResponse(opened=opened))
        link = incarnation.engine.open_link()
        outbox = incarnation.outboxes.add(link, len(opened.models))
        logger.info("link opened", router=opening.router, link=link)
        try:
            async with asyncio.TaskGroup() as tasks:
                sender = tasks.create_task(outbox.send(context))
                leaver = tasks.create_task(_leave(incarnation, outbox))
                await self._receive(incarnation, link, outbox, context)
                sender.cancel()
                leaver.cancel()
        except BaseExceptionGroup as group:
            await abort(context, sole_refusal(group).rejection)
        finally:
            incarnation.outboxes.remove(link)
            incarnation.engine.close_link(link)
            incarnation.link_closed(link)
            incarnation.outboxes.filled()
            logger.info("link closed", router=opening.router, link=link)

    async def _receive(self, incarnation: Incarnation, link: int, outbox: Outbox, stream: Stream) -> None:
        engine = incarnation.engine
        event_bytes = engine.layout.event_dtype.itemsize
        while (raw := await stream.read()) is not grpc.aio.EOF:
            if incarnation.leaving.is_set():
                continue
            message = _parsed(raw)
            if message.WhichOneof("request") != "frame":
                raise refused(pb.REASON_PROTOCOL, "request", "expected a frame")
            frame = message.frame
            if _is_of_one(frame, event_bytes):
                result = incarnation.answer_one(link, frame.events, frame.traces)
                if result is not None:
                    outbox.put_one(result)
                    await outbox.flush(stream)
                    if outbox.num_in_flight >= self._in_flight_max:
                        await outbox.below(self._in_flight_max)
                    continue
            if frame.HasField("slots"):
                incarnation.told_slots(link, _checked_slots(frame.slots))
            for tag_open in frame.opens:
                opened = _opened(engine, link, tag_open)
                if opened is not None:
                    outbox.put_open(opened)
            events = engine.layout.events(frame.events)
            outbox.num_in_flight += len(events)
            if num_dropped := engine.receive(link, events, frame.refusals, frame.traces):
                outbox.drop(num_dropped)
            if len(events) == engine.num_waiting == 1:
                # Nothing else waits: a lone event is not passed from task to task.
                incarnation.step()
                await outbox.flush(stream)
            else:
                incarnation.outboxes.filled()
            if outbox.num_in_flight >= self._in_flight_max:
                await outbox.below(self._in_flight_max)

    async def _release(
        self, request: worker_pb2.ReleaseRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[worker_pb2.ReleaseResponse]:
        incarnation = self.incarnation
        if incarnation.name != request.incarnation or incarnation.is_over:
            text = "the incarnation that was asked for is no more"
            await end(context, grpc.StatusCode.FAILED_PRECONDITION, text)
        try:
            claims = {_slot(one.slot): int(ULID.from_str(one.claim)) for one in request.slots}
        except ValueError as error:
            await abort(context, rejection(pb.REASON_PROTOCOL, "slots", str(error)))
        acting, ownership = incarnation.acting, incarnation.ownership
        handing_over = HandingOver()
        with incarnation.releasing():
            acting.beside(handing_over.run(lambda take: acting.drive(ownership.release(claims), take)))
            async with aclosing(handing_over.messages()) as messages:
                async for message in messages:
                    yield message


def _greeting(raw: object) -> worker_pb2.LinkOpen:
    """How the router introduces itself.

    Raises:
        Refused: the first message is no open, or one of another release or slot count.
    """
    message = _parsed(raw)
    if message.WhichOneof("request") != "open":
        raise refused(pb.REASON_PROTOCOL, "open", "the first message of a link is its open")
    opening = message.open
    if opening.protocol_version != PROTOCOL_VERSION:
        text = f"this worker speaks version {PROTOCOL_VERSION}, not {opening.protocol_version}"
        raise refused(pb.REASON_VERSION, "open.protocol_version", text)
    if opening.slots != NUM_SLOTS:
        text = f"this worker has {NUM_SLOTS} slots, not {opening.slots}"
        raise refused(pb.REASON_VERSION, "open.slots", text)
    if len(opening.router) > ROUTER_NAME_MAX:
        text = f"has {len(opening.router)} characters; {ROUTER_NAME_MAX} are taken"
        raise refused(pb.REASON_PROTOCOL, "open.router", text)
    return opening


def _opened(engine: Engine, link: int, request: worker_pb2.LinkTagOpen) -> worker_pb2.LinkTagOpened | None:
    """As Engine.open, which also refuses whom there cannot be."""
    try:
        user = checked_user(request.namespace, request.user_id, request.slot)
    except Refused as error:
        return engine.refuse(link, request.tag, error.rejection)
    return engine.open(link, request, user)


def _parsed(raw: object) -> worker_pb2.LinkRequest:
    """A message of a link. One that never came is empty. Raises Refused: it is none."""
    if not isinstance(raw, bytes):
        return worker_pb2.LinkRequest()
    try:
        return worker_pb2.LinkRequest.FromString(raw)
    except DecodeError as error:
        raise refused(pb.REASON_PROTOCOL, "request", "is not a message of the type LinkRequest") from error


def _is_of_one(frame: worker_pb2.LinkFrame, event_bytes: int) -> bool:
    """Whether a frame has one event and nothing that concerns others."""
    return len(frame.events) == event_bytes and not (frame.opens or frame.refusals or frame.HasField("slots"))


async def _leave(incarnation: Incarnation, outbox: Outbox) -> NoReturn:
    """End a link when its incarnation lets the routers go. What was taken in is answered before, if it can be: what is
    learned and not answered is sent again, and then answered as a duplicate."""
    await incarnation.leaving.wait()
    if not incarnation.is_over:
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_ANSWERS_S):
                await outbox.below(1)
    raise refused(pb.REASON_UNAVAILABLE, "", f"{incarnation.name} serves no more", 500)


def _checked_slots(message: worker_pb2.LinkSlots) -> Sequence[int]:
    if any(slot >= NUM_SLOTS for slot in message.slots):
        raise refused(pb.REASON_PROTOCOL, "frame.slots", f"slots are below {NUM_SLOTS}")
    return message.slots


def _slot(slot: int) -> int:
    if slot >= NUM_SLOTS:
        raise ValueError(f"{slot} is no slot")
    return slot
