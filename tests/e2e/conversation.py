"""A client of one stream, in the words of the tests."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio

from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1.session_pb2 import SessionOpen, SessionOpened, SessionRequest, SessionResponse
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
