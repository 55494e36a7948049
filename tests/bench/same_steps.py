"""`python -m tests.bench.same_steps PEER`: every way to ask a peer gives what the model makes of a user's events.

The user's stream ends in the middle and another one goes on, to another process where the peer has several: what was
learned must be there. Prints how many replies were right. A program of its own, since Ray needs a network of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import uvloop
from rich.console import Console

from bench import load
from bench.peers import network
from bench.peers.measure import RUNNERS
from bench.peers.peer import Connected, Target, connected
from bench.peers.step import Step
from bench.run import watching
from bench.service import run_service
from bench.traffic import Traffic
from evercurrent.v1 import description_pb2, session_pb2, worker_pb2
from evercurrent.wire import Layout

NUM_EVENTS = 8
NUM_STREAMS = 3
NUM_USERS = 12
SEED = 5

Told = list[tuple[int, float]]
"""Versions and predictions."""


def main(peer: str) -> None:
    """Raises AssertionError: a reply is another than the model's."""
    if peer == "ray_serve":
        network.enter()
    with watching(Console(stderr=True)) as watch, run_service(watch, 1) as cluster, RUNNERS[peer](watch, 2) as targets:
        print(uvloop.run(_check(cluster.address, targets)))


async def _check(service: str, targets: Sequence[Target]) -> int:
    async with load.connect(service) as channel:
        model = await load.describe_model(channel)
    num_right = 0
    for target in targets:
        async with connected(target, model, np.random.default_rng(SEED)) as connection:
            told = [await _told(connection, f"{target.name}-{number}") for number in range(NUM_USERS)]
        num_right += sum(_assert_near(*each) for each in zip(told, _expected(model), strict=True))
    return num_right


async def _told(connection: Connected, user_id: str) -> Told:
    told: Told = []
    layout = Layout.of(connection.traffic.model)
    for index in range(NUM_STREAMS):
        stream = await connection.stream(index, user_id)
        replies = await load.closed_loop(stream, connection.traffic.session_requests(1, NUM_EVENTS))
        connection.check(replies, 1)
        await load.close(stream)
        for raw in replies.raw:
            if connection.target.is_linked:
                record = layout.results(worker_pb2.LinkResponse.FromString(raw).frame.results)[0]
                told.append((int(record["version"]), float(record["prediction"][0])))
            else:
                result = session_pb2.SessionResponse.FromString(raw).result
                told.append((result.version, result.prediction[0]))
    return told


def _expected(model: description_pb2.ModelDescription) -> list[Told]:
    traffic, step = Traffic(model, np.random.default_rng(SEED)), Step()
    told: list[Told] = []
    for _ in range(NUM_USERS):
        rows, of_user = np.frombuffer(step.initial_row, step.row), []
        for _ in range(NUM_STREAMS):
            for ids, outcome in traffic.observations(NUM_EVENTS):
                updates = step(rows, np.array([ids]), np.array([outcome], np.float32))
                rows = updates.rows
                of_user.append((int(rows["version"][0]), float(updates.predictions[0])))
        told.append(of_user)
    return told


def _assert_near(told: Told, expected: Told) -> int:
    assert [version for version, _ in told] == [version for version, _ in expected], told
    np.testing.assert_allclose([each for _, each in told], [each for _, each in expected], rtol=1e-5)
    return len(told)


if __name__ == "__main__":
    main(sys.argv[1])
