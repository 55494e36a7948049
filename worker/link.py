"""The Link service: one stream a router, frames in, results out. The thin shell around the engine.

A link is bounded: beyond `link_in_flight_max` events that are not yet answered on the wire, it is not read. Its writer
sends whatever is ready as one message.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

import grpc
import grpc.aio

from evercurrent.errors import Refused, abort, refused, sole_refusal
from evercurrent.slots import NUM_SLOTS, user_key
from evercurrent.v1 import admin_pb2, worker_pb2
from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1.columns_pb2 import IndexedRejection
from worker.engine import Engine, Results

PROTOCOL_VERSION = 1
SERVICE = "evercurrent.v1.WorkerService"

logger = logging.getLogger(__name__)


class Stream(Protocol):
    """The part of a servicer context that a link uses."""

    async def read(self) -> object: ...

    async def write(self, message: worker_pb2.LinkResponse) -> None: ...


class Outbox:
    """What waits to be written to one link. Bounded by the link's in-flight bound, which counts until written."""

    def __init__(self) -> None:
        self.num_in_flight = 0
        self._opens: list[worker_pb2.LinkTagOpened] = []
        self._results: list[bytes] = []
        self._rejections: list[IndexedRejection] = []
        self._num_results = 0
        self._flushing = False
        self._filled = asyncio.Event()
        self._drained = asyncio.Event()

    def put_open(self, opened: worker_pb2.LinkTagOpened) -> None:
        self._opens.append(opened)
        self._filled.set()

    def put_results(self, results: Results) -> None:
        for indexed in results.rejections:
            indexed.index += self._num_results
            self._rejections.append(indexed)
        self._results.append(results.records.tobytes())
        self._num_results += len(results.records)
        self._filled.set()

    async def send(self, stream: Stream) -> None:
        """Write what is ready, for ever."""
        while True:
            await self._filled.wait()
            self._filled.clear()
            await self.flush(stream)

    async def flush(self, stream: Stream) -> None:
        """Write what is ready, unless that is being done: a stream takes one write at a time, and whoever writes
        goes on until nothing is left."""
        if self._flushing:
            return
        self._flushing = True
        while self._opens or self._results:
            message, num_results = self._take()
            await stream.write(message)
            self.num_in_flight -= num_results
            self._drained.set()
        self._flushing = False

    async def below(self, bound: int) -> None:
        """Wait until fewer events than `bound` are in flight."""
        while self.num_in_flight >= bound:
            self._drained.clear()
            await self._drained.wait()

    def _take(self) -> tuple[worker_pb2.LinkResponse, int]:
        frame = worker_pb2.LinkResults(opens=self._opens, results=b"".join(self._results), rejections=self._rejections)
        num_results = self._num_results
        self._opens, self._results, self._rejections, self._num_results = [], [], [], 0
        return worker_pb2.LinkResponse(frame=frame), num_results


class WorkerService:
    """Links to routers and the loop that steps while anything waits."""

    def __init__(
        self, engine: Engine, name: str, incarnation: str, model: admin_pb2.ModelDescription, in_flight_max: int
    ) -> None:
        self._engine = engine
        self._name = name
        self._incarnation = incarnation
        self._model = model
        self._in_flight_max = in_flight_max
        self._outboxes: dict[int, Outbox] = {}
        self._waiting = asyncio.Event()

    def handler(self) -> grpc.GenericRpcHandler:
        """What a gRPC server is given."""
        link = grpc.stream_stream_rpc_method_handler(
            self._link, worker_pb2.LinkRequest.FromString, worker_pb2.LinkResponse.SerializeToString
        )
        return grpc.method_handlers_generic_handler(SERVICE, {"Link": link})

    async def run(self) -> None:
        """Step while anything waits, for ever. Between steps the loop reads and writes: a batch is what came then."""
        while True:
            await self._waiting.wait()
            self._waiting.clear()
            while self._engine.num_waiting:
                self._step()
                await asyncio.sleep(0)

    def _step(self) -> None:
        for results in self._engine.step():
            outbox = self._outboxes.get(results.link)
            if outbox is not None:
                outbox.put_results(results)

    async def _link(self, _: object, context: grpc.aio.ServicerContext) -> None:
        try:
            router = self._greet(await context.read())
        except Refused as error:
            await abort(context, error.rejection)
        opened = worker_pb2.LinkOpened(worker=self._name, incarnation=self._incarnation, model=self._model)
        await context.write(worker_pb2.LinkResponse(opened=opened))
        link = self._engine.open_link()
        outbox = self._outboxes[link] = Outbox()
        logger.info("link opened router=%s link=%d", router, link)
        try:
            async with asyncio.TaskGroup() as tasks:
                sender = tasks.create_task(outbox.send(context))
                await self._receive(link, outbox, context)
                sender.cancel()
        except BaseExceptionGroup as group:
            await abort(context, sole_refusal(group).rejection)
        finally:
            del self._outboxes[link]
            self._engine.close_link(link)
            self._waiting.set()
            logger.info("link closed router=%s link=%d", router, link)

    async def _receive(self, link: int, outbox: Outbox, context: grpc.aio.ServicerContext) -> None:
        while (message := await context.read()) is not grpc.aio.EOF:
            if message.WhichOneof("request") != "frame":
                raise refused(pb.REASON_PROTOCOL, "request", "expected a frame")
            frame = message.frame
            for tag_open in frame.opens:
                user = user_key(tag_open.namespace, tag_open.user_id)
                outbox.put_open(self._engine.open(link, tag_open, user))
            events = self._engine.layout.events(frame.events)
            outbox.num_in_flight += len(events)
            self._engine.receive(link, events, frame.refusals)
            if len(events) == self._engine.num_waiting == 1:
                # Nothing else waits: a lone event is not passed from task to task.
                self._step()
                await outbox.flush(context)
            else:
                self._waiting.set()
            if outbox.num_in_flight >= self._in_flight_max:
                await outbox.below(self._in_flight_max)

    def _greet(self, message: object) -> str:
        """The router's name.

        Raises:
            Refused: the first message is no open, or one of another release or slot count.
        """
        if not isinstance(message, worker_pb2.LinkRequest) or message.WhichOneof("request") != "open":
            raise refused(pb.REASON_PROTOCOL, "open", "the first message of a link is its open")
        if message.open.protocol_version != PROTOCOL_VERSION:
            text = f"this worker speaks version {PROTOCOL_VERSION}, not {message.open.protocol_version}"
            raise refused(pb.REASON_VERSION, "open.protocol_version", text)
        if message.open.slots != NUM_SLOTS:
            text = f"this worker has {NUM_SLOTS} slots, not {message.open.slots}"
            raise refused(pb.REASON_VERSION, "open.slots", text)
        return message.open.router
