"""Users who do nothing wrong, and their undisturbed twins: what each is answered and what is stored of it must be, bit
for bit, what the model makes of its own events alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from random import Random

import grpc
import grpc.aio
import numpy as np
import torch

from bench.accounts import NUM_DEEDS
from bench.counting import Counting
from evercurrent.client import Client, Exchange, Session, Status
from evercurrent.model import Batch
from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1 import session_pb2_grpc
from evercurrent.v1.session_pb2 import SessionOpen, SessionRequest

OUTCOMES = (-1.0, -0.25, 0.0, 0.5, 1.0)


class NotServedError(AssertionError):
    """A user who did nothing wrong was not served as it should. The text says who, and how."""


class Twin:
    """One user's state, as the model alone makes it."""

    def __init__(self) -> None:
        self.version = 0
        self._model = Counting()
        self._state_BD = self._model.initial_state().detach()[None]

    @property
    def state(self) -> bytes:
        """The state, bit for bit."""
        return self._state_BD.numpy().astype("<f4").tobytes()

    def learn(self, deed: int, outcome: float) -> None:
        """One event."""
        batch = Batch(
            ids_BK=torch.tensor([[deed]]),
            features_BF=torch.zeros(1, 0),
            outcome=torch.tensor([outcome]),
            has_outcome_B=torch.ones(1, dtype=torch.bool),
            event_time_us_B=torch.zeros(1, dtype=torch.int64),
        )
        self._state_BD = self._model.update(self._state_BD, batch).state_BD.detach()
        self.version += 1


class User(ABC):
    """One user, its only producer, and its twin."""

    def __init__(self, name: str, random: Random) -> None:
        self.name = name
        self.twin = Twin()
        self._random = random

    async def update(self) -> None:
        """One event, after those before it.

        Raises:
            NotServedError: it was not answered as the twin says.
        """
        deed, outcome = self._random.randrange(NUM_DEEDS), self._random.choice(OUTCOMES)
        status, version, prediction = await self._observe(deed, outcome)
        before = self.twin.state
        self.twin.learn(deed, outcome)
        # The model predicts its whole state.
        found = np.array(prediction, "<f4").tobytes()
        if (status, version, found) == (Status.DUPLICATE, self.twin.version, b""):
            # Applied once, and its answer went down with a link; that a link went is told by the router's log.
            return
        if (status, version, found) != (Status.APPLIED, self.twin.version, before):
            text = f"answered {status}, version {version}, {prediction}; the twin has version {self.twin.version}"
            raise NotServedError(f"{self.name}: {text}, and before {np.frombuffer(before, '<f4')}")

    @abstractmethod
    async def open(self) -> None:
        """Before the first update."""

    @abstractmethod
    async def _observe(self, deed: int, outcome: float) -> tuple[int, int, Sequence[float]]:
        """Status, version and prediction of one event."""

    @abstractmethod
    async def close(self) -> None:
        """After the last update; what was sent is durable then."""


class SessionUser(User):
    """By a session of the SDK."""

    def __init__(self, name: str, random: Random, client: Client) -> None:
        super().__init__(name, random)
        self._session: Session = client.session(name)

    async def open(self) -> None:
        await self._session.open()

    async def _observe(self, deed: int, outcome: float) -> tuple[int, int, Sequence[float]]:
        result = await self._session.observe(ids=[deed], outcome=outcome)
        return result.status, result.version, result.prediction

    async def close(self) -> None:
        await self._session.durable()
        await self._session.close()


class ExchangeUser(User):
    """By an exchange of the SDK that others use as well, and whose owner closes it."""

    def __init__(self, name: str, random: Random, exchange: Exchange) -> None:
        super().__init__(name, random)
        self._exchange = exchange

    async def open(self) -> None:
        """Nothing is needed."""

    async def _observe(self, deed: int, outcome: float) -> tuple[int, int, Sequence[float]]:
        result = await self._exchange.observe(self.name, ids=[deed], outcome=outcome)
        return result.status, result.version, result.prediction

    async def close(self) -> None:
        """That of the exchange waits for it."""


class StubUser(User):
    """On a Session stream as the generated stubs give it: the end of the stream is an error."""

    def __init__(self, name: str, random: Random, channel: grpc.aio.Channel) -> None:
        super().__init__(name, random)
        self._call = session_pb2_grpc.SessionServiceStub(channel).Session()

    async def open(self) -> None:
        await self._call.write(SessionRequest(open=SessionOpen(user_id=self.name, wait_durable=True)))
        await self._call.read()

    async def _observe(self, deed: int, outcome: float) -> tuple[int, int, Sequence[float]]:
        observation = pb.Observation(seq=self.twin.version + 1, ids=[deed], value=outcome)
        await self._call.write(SessionRequest(observation=observation))
        while (response := await self._call.read()).WhichOneof("response") == "watermark":
            pass
        return response.result.status, response.result.version, response.result.prediction

    async def close(self) -> None:
        await self._call.done_writing()
        while await self._call.read() is not grpc.aio.EOF:
            pass
        if (code := await self._call.code()) is not grpc.StatusCode.OK:
            raise NotServedError(f"{self.name}: its stream ended with {code.name}: {await self._call.details()}")
