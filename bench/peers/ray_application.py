"""Ray Serve: replicas that keep their users' states, behind Serve's gRPC proxy, which routes a user to a replica.

As Serve's documentation has it: its consistent-hash request router on the `session_id` of the call's metadata, without
fallback, since another replica does not have the user; bidirectional streams of its gRPC ingress, which cost less a
message than calls; the environment that its guide to high throughput names, without direct ingress, which leaves
nobody to route by user. States are in the replica's memory and end with it.

`python -m bench.peers.ray_application PORT NUM…` runs an application of each number of replicas, of the number's name,
until its standard input ends. All of Ray listens on all interfaces: it belongs in a network of its own.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray import serve
from ray.serve.config import HTTPOptions, RequestRouterConfig, gRPCOptions

from bench.echo import session_service
from bench.peers import step
from bench.peers.batches import Batches
from bench.peers.step import Step, Updates
from bench.processes import free_port, standard_input_ends
from evercurrent.v1 import session_pb2, wire_pb2

STREAMS_MAX = 100_000
OBJECT_STORE_BYTES = 100 * 2**20
"""As little as Ray takes: nothing here passes through its object store."""

ROUTER = RequestRouterConfig(
    request_router_class="ray.serve.experimental.consistent_hash_router.ConsistentHashRouter",
    request_router_kwargs={"num_fallback_replicas": 0},
)


class Learners:
    """The users of one replica. Methods have the names of the service's."""

    def __init__(self) -> None:
        self._step = Step()
        self._rows: dict[str, bytes] = {}
        self._batches = Batches(self._learn)
        self._stepping: asyncio.Task[None] | None = None

    async def Session(self, requests: AsyncIterator[session_pb2.SessionRequest]) -> Any:
        """A Session stream."""
        if self._stepping is None:
            # A replica is told of no end: the task lives as long as its process.
            self._stepping = asyncio.create_task(self._batches.run())
        user = ""
        async for request in requests:
            if request.WhichOneof("request") == "open":
                user = request.open.user_id
                yield step.opened_response()
            else:
                learned = await self._batches.observe(user, request.observation)
                yield step.session_response(request.observation.seq, *learned)

    async def Exchange(self, requests: AsyncIterator[wire_pb2.WireExchangeRequest]) -> Any:
        """An Exchange stream, of users who are in no other: one replica serves all of it."""
        users: dict[int, str] = {}
        async for request in requests:
            if request.WhichOneof("request") == "open":
                yield step.exchange_opened_response()
                continue
            if request.frame.opens:
                users.update({each.tag: each.user_id for each in request.frame.opens})
                yield step.tags_opened_response(request.frame.opens)
            if request.frame.events.tags:
                tags, ids, outcomes = step.frame_observations(request.frame.events, self._step.num_ids)
                updates = await self._learn([users[tag] for tag in tags.tolist()], ids, outcomes)
                yield step.exchange_response(request.frame.events, updates)

    async def _learn(self, users: Sequence[str], ids: NDArray[np.int64], outcomes: NDArray[np.float32]) -> Updates:
        found = [self._rows.get(user, self._step.initial_row) for user in users]
        updates = self._step(np.frombuffer(b"".join(found), self._step.row), ids, outcomes)
        self._rows.update(zip(users, [row.tobytes() for row in updates.rows], strict=True))
        return updates


DEPLOYMENT = serve.deployment(
    Learners,
    max_ongoing_requests=STREAMS_MAX,
    request_router_config=ROUTER,
    ray_actor_options={"num_cpus": 0},
)


def add_service(_: object, server: Any) -> None:
    """What Serve's proxy takes of a gRPC service: its methods and how messages are read. The handlers are Serve's."""

    async def unused(_: object, __: object) -> None:
        raise NotImplementedError

    server.add_generic_rpc_handlers((session_service(unused, unused),))


async def run(port: int, nums_of_replicas: Sequence[int]) -> None:
    """Serve until standard input ends; prints the address when all replicas are ready."""
    ray.init(
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
        _temp_dir=os.environ["HOME"],
    )
    serve.start(
        http_options=HTTPOptions(host="127.0.0.1", port=free_port()),
        grpc_options=gRPCOptions(port=port, grpc_servicer_functions=["bench.peers.ray_application.add_service"]),
    )
    for num in nums_of_replicas:
        serve.run(DEPLOYMENT.options(num_replicas=num).bind(), name=str(num), route_prefix=f"/{num}")
    print(f"127.0.0.1:{port}", flush=True)
    await standard_input_ends()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    # Ctrl-C goes to the whole process group; this server's life hangs on its standard input alone.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Replicas find their class by the module's name, which `__main__` is to nobody else.
    from bench.peers import ray_application

    asyncio.run(ray_application.run(int(sys.argv[1]), [int(word) for word in sys.argv[2:]]))
