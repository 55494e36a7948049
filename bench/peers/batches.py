"""Lone events that come while a step runs are the next step: batches without a timer, full as the load makes them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.peers.step import Updates, observations
from evercurrent.v1 import observation_pb2

BATCH_MAX = 256

Learn = Callable[[Sequence[str], NDArray[np.int64], NDArray[np.float32]], Awaitable[Updates]]
"""One update of each of B different users, with ids [B, K] and outcomes [B]."""


class Learned(NamedTuple):
    """What one update gives."""

    version: int
    prediction: float
    loss: float


class Waiting(NamedTuple):
    """One event of one user."""

    user: str
    observation: observation_pb2.Observation
    learned: asyncio.Future[Learned]


class Batches:
    """Takes events one by one and has them learned from many at once, a user's in the order in which they came."""

    def __init__(self, learn: Learn) -> None:
        self._learn = learn
        self._waiting: list[Waiting] = []
        self._some = asyncio.Event()

    async def observe(self, user: str, observation: observation_pb2.Observation) -> Learned:
        """One update, when `run` has made it."""
        learned: asyncio.Future[Learned] = asyncio.get_running_loop().create_future()
        self._waiting.append(Waiting(user, observation, learned))
        self._some.set()
        return await learned

    async def run(self) -> None:
        """Makes steps for ever."""
        while True:
            await self._some.wait()
            await self._step(self._take())

    def _take(self) -> list[Waiting]:
        """The next event of each of so many users."""
        taken: dict[str, Waiting] = {}
        left = []
        for waiting in self._waiting:
            if waiting.user in taken or len(taken) == BATCH_MAX:
                left.append(waiting)
            else:
                taken[waiting.user] = waiting
        self._waiting = left
        if not left:
            self._some.clear()
        return list(taken.values())

    async def _step(self, batch: Sequence[Waiting]) -> None:
        try:
            updates = await self._learn(
                [waiting.user for waiting in batch], *observations([waiting.observation for waiting in batch])
            )
        except Exception as error:
            for waiting in batch:
                if not waiting.learned.done():
                    waiting.learned.set_exception(error)
            return
        results = zip(
            updates.rows["version"].tolist(), updates.predictions.tolist(), updates.losses.tolist(), strict=True
        )
        for waiting, result in zip(batch, results, strict=True):
            if not waiting.learned.done():
                waiting.learned.set_result(Learned(*result))
