"""The stateless way: a grpc.aio service that gets a user's state from Redis, makes the step and sets it back.

As Redis's documentation has it: one client with a pool of connections for the process, the C parser (hiredis), and no
round trip a key: events that wait together are one MGET, one step and one MSET. Nothing keeps two processes from
updating one user at once; who needs that needs a lock or WATCH, and two more round trips.

`python -m bench.peers.redis_service batched PORT` is one process; it ends when its standard input does. With `plain`
lone events are not batched: each handler gets, steps and sets for itself, as such services are usually written.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Sequence
from typing import Any

import grpc
import numpy as np
import redis.asyncio
import uvloop
from numpy.typing import NDArray

from bench.echo import session_service
from bench.peers import step
from bench.peers.batches import Batches, Learned
from bench.peers.step import Step, Updates
from bench.processes import standard_input_ends
from evercurrent.v1 import observation_pb2


class Service:
    """SessionService on states in Redis, under the user's id."""

    def __init__(self, client: redis.asyncio.Redis, *, is_plain: bool) -> None:
        self._client = client
        self._is_plain = is_plain
        self._step = Step()
        self.batches = Batches(self._learn)

    async def session(self, _: object, context: Any) -> None:
        """A Session stream."""
        user = ""
        while (request := await context.read()) is not grpc.aio.EOF:
            if request.WhichOneof("request") == "open":
                user = request.open.user_id
                await context.write(step.opened_response())
            else:
                learned = await self._observe(user, request.observation)
                await context.write(step.session_response(request.observation.seq, *learned))

    async def exchange(self, _: object, context: Any) -> None:
        """An Exchange stream: a frame is a batch, and the next one is read when it is written back."""
        users: dict[int, str] = {}
        while (request := await context.read()) is not grpc.aio.EOF:
            if request.WhichOneof("request") == "open":
                await context.write(step.exchange_opened_response())
                continue
            if request.frame.opens:
                users.update({each.tag: each.user_id for each in request.frame.opens})
                await context.write(step.tags_opened_response(request.frame.opens))
            if request.frame.events.tags:
                tags, ids, outcomes = step.frame_observations(request.frame.events, self._step.num_ids)
                updates = await self._learn([users[tag] for tag in tags.tolist()], ids, outcomes)
                await context.write(step.exchange_response(request.frame.events, updates))

    async def _observe(self, user: str, observation: observation_pb2.Observation) -> Learned:
        if not self._is_plain:
            return await self.batches.observe(user, observation)
        updates = await self._learn([user], *step.observations([observation]))
        return Learned(int(updates.rows["version"][0]), float(updates.predictions[0]), float(updates.losses[0]))

    async def _learn(self, users: Sequence[str], ids: NDArray[np.int64], outcomes: NDArray[np.float32]) -> Updates:
        found = await self._client.mget(users)
        rows = np.frombuffer(b"".join([each or self._step.initial_row for each in found]), self._step.row)
        updates = self._step(rows, ids, outcomes)
        await self._client.mset(dict(zip(users, [row.tobytes() for row in updates.rows], strict=True)))
        return updates


async def serve(kind: str, port: int) -> None:
    """One process until standard input ends; prints its address when it listens."""
    # The default pool refuses whoever comes when all connections are taken; this one lets them wait.
    pool = redis.asyncio.BlockingConnectionPool(host="127.0.0.1", port=port, timeout=None)
    async with redis.asyncio.Redis.from_pool(pool) as client:
        await client.ping()
        service = Service(client, is_plain=kind == "plain")
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((session_service(service.session, service.exchange),))
        address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        print(address, flush=True)
        async with asyncio.TaskGroup() as tasks:
            batching = tasks.create_task(service.batches.run())
            await standard_input_ends()
            batching.cancel()
        await server.stop(0)


if __name__ == "__main__":
    # Ctrl-C goes to the whole process group; this server's life hangs on its standard input alone.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    uvloop.run(serve(sys.argv[1], int(sys.argv[2])))
