"""What waits to be written to routers, a box a link; the writer of each sends whatever is ready as one message."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from evercurrent.v1 import worker_pb2
from evercurrent.v1.columns_pb2 import IndexedRejection
from evercurrent.wire import Records
from worker.results import Results


class Stream(Protocol):
    """The part of a servicer context that a link uses."""

    async def read(self) -> object: ...

    async def write(self, message: worker_pb2.LinkResponse) -> None: ...


class Outbox:
    """What waits to be written to one link. Results are bounded by the link's in-flight bound, which counts until they
    are written; watermarks by what they cover: each has moved, and moves by results."""

    def __init__(self, versions: Sequence[str] = (), num_told: int = 0) -> None:
        self.num_in_flight = 0
        self._versions = versions
        self._num_told = num_told
        self._opens: list[worker_pb2.LinkTagOpened] = []
        self._results: list[bytes] = []
        self._rejections: list[IndexedRejection] = []
        self._num_results = 0
        self._watermarks: list[bytes] = []
        self._ended: list[worker_pb2.LinkTagEnded] = []
        self._status: worker_pb2.WorkerStatus | None = None
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

    def put_one(self, result: Records) -> None:
        """Put the result of an event that was answered as it came, for whoever calls this to `flush`."""
        self.num_in_flight += 1
        self._results.append(result.tobytes())
        self._num_results += 1

    def put_watermarks(self, watermarks: Records) -> None:
        self._watermarks.append(watermarks.tobytes())
        self._filled.set()

    def put_ended(self, ended: Sequence[worker_pb2.LinkTagEnded]) -> None:
        self._ended += ended
        self._filled.set()

    def put_status(self, status: worker_pb2.WorkerStatus) -> None:
        self._status = status
        self._filled.set()

    def drop(self, num_events: int) -> None:
        """So many events that came get no answer."""
        self.num_in_flight -= num_events
        self._drained.set()

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
        while self._has_any:
            message, num_results = self._take()
            await stream.write(message)
            self.drop(num_results)
        self._flushing = False

    def end(self) -> None:
        """The link has ended: what is left is dropped."""
        self._opens, self._results, self._watermarks, self._ended, self._status = [], [], [], [], None
        self._flushing = False
        self._drained.set()

    async def below(self, bound: int) -> None:
        """Wait until fewer events than `bound` are in flight."""
        while self.num_in_flight >= bound:
            self._drained.clear()
            await self._drained.wait()

    async def all_written(self) -> None:
        """Wait until nothing is left to write."""
        while self._flushing or self._has_any:
            self._drained.clear()
            await self._drained.wait()

    @property
    def _has_any(self) -> bool:
        return bool(self._results or self._has_more)

    @property
    def _has_more(self) -> bool:
        """Whether there is anything besides results that say all themselves."""
        return bool(self._opens or self._rejections or self._watermarks or self._ended or self._status)

    def _take(self) -> tuple[worker_pb2.LinkResponse, int]:
        message = worker_pb2.LinkResponse()
        frame = message.frame
        if self._results:
            frame.results = b"".join(self._results)
        if self._has_more:
            frame.opens.extend(self._opens)
            frame.rejections.extend(self._rejections)
            frame.watermarks = b"".join(self._watermarks)
            frame.ended.extend(self._ended)
            if self._status is not None:
                frame.status.CopyFrom(self._status)
            self._opens, self._rejections, self._watermarks, self._ended, self._status = [], [], [], [], None
        if len(self._versions) > self._num_told:
            frame.models.extend(self._versions)
            self._num_told = len(self._versions)
        num_results = self._num_results
        self._results, self._num_results = [], 0
        return message, num_results


class Outboxes:
    """Those of an incarnation's links. `filled` is set when events may wait for a step."""

    def __init__(self, fence: Callable[[], None]) -> None:
        self.versions: Sequence[str] = ()
        """The names of model versions by number, which only grow."""
        self.has_events = asyncio.Event()
        self._boxes: dict[int, Outbox] = {}
        self._empty = asyncio.Event()
        self._empty.set()
        self._fence = fence

    def add(self, link: int, num_told: int = 0) -> Outbox:
        """The box of a new link, which was told the names of so many versions."""
        self._empty.clear()
        self._boxes[link] = Outbox(self.versions, num_told)
        return self._boxes[link]

    def remove(self, link: int) -> None:
        """The link has ended: what is still put for it is dropped."""
        self._boxes.pop(link).end()
        if not self._boxes:
            self._empty.set()

    @property
    def links(self) -> Collection[int]:
        """The links that are open."""
        return self._boxes.keys()

    async def all_written(self) -> None:
        """Wait until each link that is open now has been written all that was put for it, or has ended."""
        for link, box in list(self._boxes.items()):
            if link in self._boxes:
                await box.all_written()

    async def all_gone(self) -> None:
        """Wait until there is no link."""
        await self._empty.wait()

    def put_status(self, status: worker_pb2.WorkerStatus) -> None:
        for box in self._boxes.values():
            box.put_status(status)

    def put_results(self, results: Results) -> None:
        if (box := self._boxes.get(results.link)) is not None:
            box.put_results(results)

    def opened(self, link: int, answer: worker_pb2.LinkTagOpened) -> None:
        if (box := self._boxes.get(link)) is not None:
            box.put_open(answer)

    def durable(self, link: int, watermarks: Records) -> None:
        if (box := self._boxes.get(link)) is not None:
            box.put_watermarks(watermarks)

    def ended(self, link: int, ended: Sequence[worker_pb2.LinkTagEnded], num_dropped: int) -> None:
        if (box := self._boxes.get(link)) is not None:
            box.put_ended(ended)
            box.drop(num_dropped)

    def filled(self) -> None:
        self.has_events.set()

    def fenced(self) -> None:
        self._fence()
