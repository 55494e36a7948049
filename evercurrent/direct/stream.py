"""A Session or Exchange stream whose two ends are in one process: a `Stream` for the client, and for the code that the
router's RPCs run the part of a gRPC servicer context that it uses.

Messages go through as bytes, for that code takes them so; most of a Session's go from one end to the other as they are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, NoReturn, TypeVar

import grpc
import grpc.aio
from google.protobuf import message as protobuf

from evercurrent.client.channel import ending_of
from evercurrent.client.errors import Ending
from evercurrent.client.requests import Message, request_of
from evercurrent.client.results import Result, Status, Timings
from evercurrent.client.transport import StreamEnded
from evercurrent.direct.pipe import Pipe
from evercurrent.telemetry.logs import get_logger
from evercurrent.wire import ResultRecord

Q_contra = TypeVar("Q_contra", bound=protobuf.Message, contravariant=True)
R_co = TypeVar("R_co", bound=protobuf.Message, covariant=True)

CANCELLED = Ending(grpc.StatusCode.CANCELLED, "the stream was left")

logger = get_logger(__name__)


class _Aborted(Exception):
    """The server's end ended the stream."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(str(ending))
        self.ending = ending


class Context:
    """The server's end, as `grpc.aio.ServicerContext`."""

    def __init__(self, requests: Pipe, responses: Pipe) -> None:
        self._requests = requests
        self._responses = responses

    async def read(self) -> object:
        """The next request, or grpc.aio.EOF."""
        message = await self._requests.read()
        return grpc.aio.EOF if message is None else message

    async def write(self, response: bytes) -> None:
        """Send a response. Lost without a word where the client is gone: the task that writes is being cancelled."""
        await self._responses.write(response)

    def listen(self, take: Callable[[Message], bool]) -> None:
        """As router.streams.Near."""
        self._requests.listen(take)

    def answer(self, result: ResultRecord, model_version: str, now_us: int | None) -> bool:
        """As router.streams.Near."""
        return self._responses.give(
            Result(
                result.seq,
                Status.APPLIED,
                result.version,
                result.applied_seq,
                result.durable_seq,
                tuple(result.prediction),
                result.loss if result.loss == result.loss else None,
                None,
                result.lost,
                result.at_risk,
                None if now_us is None else Timings(*result.stages(now_us)),
                model_version,
            )
        )

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: tuple[tuple[str, bytes], ...] = ()
    ) -> NoReturn:
        """End the stream so. Never returns."""
        raise _Aborted(ending_of(code, details, trailing_metadata))


class DirectStream(Generic[Q_contra, R_co]):
    """The client's end. `serve` is the life of the server's; whoever runs it calls `end` when it is over."""

    def __init__(self, response: type[R_co]) -> None:
        self._response = response
        self._requests = Pipe()
        self._responses = Pipe()
        self._ending: Ending | None = None
        self._ended = asyncio.Event()
        self._leave: Callable[[], object] = lambda: None

    async def serve(self, run: Callable[[Context], Awaitable[None]]) -> None:
        """Run the server's end."""
        try:
            await run(Context(self._requests, self._responses))
            self.end(Ending(grpc.StatusCode.OK))
        except _Aborted as error:
            self.end(error.ending)
        except Exception as error:
            logger.exception("a stream failed")
            self.end(Ending(grpc.StatusCode.UNKNOWN, f"the stream failed: {error!r}"))

    def served_by(self, task: asyncio.Task[None], otherwise: Callable[[], Ending]) -> None:
        """`task` runs `serve`. Where it is cancelled, `otherwise` says how the stream ended."""
        self._leave = task.cancel
        task.add_done_callback(lambda _: self.end(otherwise()))

    def end(self, ending: Ending) -> None:
        """The stream has ended. The first ending counts."""
        if self._ending is None:
            self._ending = ending
            self._requests.end()
            self._responses.end()
            self._ended.set()

    async def write(self, request: Q_contra) -> None:
        if not await self._requests.write(request.SerializeToString()):
            raise StreamEnded

    @property
    def near(self) -> DirectStream[Q_contra, R_co]:
        return self

    @property
    def has_room(self) -> bool:
        return not (self._requests.is_full or self._requests.has_ended)

    def give(self, message: Message) -> None:
        if not self._requests.give(message):
            self._requests.write_now(request_of(message).SerializeToString())

    def listen(self, take: Callable[[Result], bool]) -> None:
        self._responses.listen(take)

    async def done_writing(self) -> None:
        self._requests.end()

    async def read(self) -> R_co | None:
        raw = await self._responses.read()
        return None if raw is None else self._response.FromString(raw)

    async def ending(self) -> Ending:
        await self._ended.wait()
        assert self._ending is not None, "it has ended"
        return self._ending

    def cancel(self) -> None:
        self.end(CANCELLED)
        self._leave()
