"""Clients of the two streams, in the words of the tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1.columns_pb2 import EventColumns
from evercurrent.v1.session_pb2 import (
    ExchangeFrame,
    ExchangeOpen,
    ExchangeOpened,
    ExchangeRequest,
    ExchangeResponse,
    SessionOpen,
    SessionOpened,
    SessionRequest,
    SessionResponse,
    TagOpen,
    TagOpened,
)
from tests.servers import Service


def observation(
    seq: int = 0, deed: int = 1, place: int = 2, features: Sequence[float] = (0.5, -1.0), **more: Any
) -> pb.Observation:
    """One that `Counting` takes, if not told otherwise."""
    fields: dict[str, Any] = {"ids": [deed, place], "features": features, "value": 0.5, **more}
    return pb.Observation(seq=seq, **fields)


def query(query_id: int = 0, num_candidates: int = 1, deed: int = 1) -> pb.Query:
    """One that `Counting` answers with the user's hash."""
    candidate = pb.Candidate(ids=[deed, 0], features=[0.5, -1.0])
    return pb.Query(query_id=query_id, candidates=[candidate] * num_candidates)


class Conversation:
    """A Session stream: what it sends is answered in order."""

    def __init__(self, service: Service) -> None:
        self.call = service.sessions.Session()

    @classmethod
    async def opened(cls, service: Service, user_id: str, session_id: str = "", **more: Any) -> Conversation:
        """One that is open."""
        conversation = cls(service)
        await conversation.open(user_id, session_id, **more)
        return conversation

    async def open(self, user_id: str, session_id: str = "", **more: Any) -> SessionOpened:
        await self.send(open=SessionOpen(user_id=user_id, session_id=session_id, **more))
        return (await self.reply()).opened

    async def send(self, **request: Any) -> None:
        await self.call.write(SessionRequest(**request))

    async def reply(self) -> SessionResponse:
        response = await self.call.read()
        assert isinstance(response, SessionResponse), response
        return response

    async def observe(self, seq: int, **more: Any) -> pb.ObservationResult:
        """The result of one observation."""
        await self.send(observation=observation(seq, **more))
        return (await self.reply()).result

    async def ask(self, **more: Any) -> pb.QueryResult:
        """The answer to one query."""
        await self.send(query=query(**more))
        return (await self.reply()).query_result

    async def finish(self) -> list[SessionResponse]:
        """Half-close: what was still to come, and OK."""
        await self.call.done_writing()
        rest = []
        while (response := await self.call.read()) is not grpc.aio.EOF:
            rest.append(response)
        assert await self.call.code() == grpc.StatusCode.OK
        return rest

    async def ended(self) -> tuple[grpc.StatusCode, str]:
        """The status that ends the stream, whatever comes before it."""
        with suppress(grpc.aio.AioRpcError):
            while await self.call.read() is not grpc.aio.EOF:
                pass
        return await self.call.code(), await self.call.details()


@dataclass(frozen=True)
class Told:
    """One result of a frame."""

    tag: int
    seq: int
    status: int
    kind: int
    version: int
    applied_seq: int
    prediction: tuple[float, ...]
    rejection: pb.Rejection

    @property
    def reason(self) -> int:
        return self.rejection.reason


class Frames:
    """An Exchange stream of a model of two ids, two features and a value, that predicts two values."""

    def __init__(self, service: Service) -> None:
        self.call = service.sessions.Exchange()
        self.opens: dict[int, TagOpened] = {}
        self.told: list[Told] = []
        self.rejected: list[pb.Rejection] = []

    @classmethod
    async def opened(cls, service: Service, **users: str) -> Frames:
        """One that is open, with these users under tags 0, 1, 2 …"""
        frames = cls(service)
        await frames.open()
        if users:
            await frames.send(opens=[TagOpen(tag=tag, user_id=user) for tag, user in enumerate(users.values())])
            await frames.read_until(lambda: len(frames.opens) == len(users))
        return frames

    async def open(self, **more: Any) -> ExchangeOpened:
        await self.call.write(ExchangeRequest(open=ExchangeOpen(**more)))
        response = await self.call.read()
        assert isinstance(response, ExchangeResponse), response
        return response.opened

    async def send(
        self,
        events: EventColumns | None = None,
        opens: Sequence[TagOpen] = (),
        closes: Sequence[int] = (),
    ) -> None:
        frame = ExchangeFrame(opens=opens, events=events, closes=closes)
        await self.call.write(ExchangeRequest(frame=frame))

    async def read_until(self, condition: Callable[[], bool]) -> None:
        """Take in responses until something holds of what has come."""
        while not condition():
            response = await self.call.read()
            assert isinstance(response, ExchangeResponse), response
            self._take(response)

    async def answers(self, num_results: int) -> list[Told]:
        """The next results."""
        await self.read_until(lambda: len(self.told) >= num_results)
        taken, self.told = self.told[:num_results], self.told[num_results:]
        return taken

    async def refusal(self) -> pb.Rejection:
        """The next message that could not be read as a frame."""
        await self.read_until(lambda: bool(self.rejected))
        return self.rejected.pop(0)

    async def finish(self) -> list[Told]:
        """Half-close: the results still to come, and OK."""
        await self.call.done_writing()
        while isinstance(response := await self.call.read(), ExchangeResponse):
            self._take(response)
        assert await self.call.code() == grpc.StatusCode.OK
        return self.told

    def _take(self, response: ExchangeResponse) -> None:
        if response.HasField("rejected"):
            self.rejected.append(response.rejected)
        self.opens.update((opened.tag, opened) for opened in response.frame.opens)
        columns = response.frame.results
        reasons = {indexed.index: indexed.rejection for indexed in columns.rejections}
        for at, tag in enumerate(columns.tags):
            self.told.append(
                Told(
                    tag,
                    columns.seqs[at],
                    columns.statuses[at],
                    columns.kinds[at],
                    columns.versions[at],
                    columns.applied_seqs[at],
                    tuple(columns.predictions[2 * at : 2 * at + 2]),
                    reasons.get(at, pb.Rejection()),
                )
            )


def columns(*events: tuple[int, int], deeds: Sequence[int] = (), **more: Any) -> EventColumns:
    """Ordinary events (tag, seq) as columns."""
    tags, seqs = [tag for tag, _ in events], [seq for _, seq in events]
    ids = [part for deed in (deeds or [1] * len(events)) for part in (deed, 2)]
    fields: dict[str, Any] = {
        "tags": tags,
        "seqs": seqs,
        "ids": ids,
        "features": [0.5, -1.0] * len(events),
        "values": [0.5] * len(events),
    }
    return EventColumns(**{**fields, **more})
