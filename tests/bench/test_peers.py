"""Peers of the service: they are left out by name when they are missing, and answer rightly when they are not."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from bench.__main__ import app
from bench.peers import installed
from bench.peers.batches import BATCH_MAX, Batches, Learned
from bench.peers.measure import RUNNERS
from bench.peers.step import Step, Updates
from evercurrent.v1 import observation_pb2
from tests.bench import same_steps

RATIO_PARTS = ("", "_lo", "_hi", "_aa")
NUMS_OF_TARGETS = {"redis": 4, "ray_serve": 2, "envoy": 1}
TARGETS = {
    "echo": ("echo_one_hop", "echo_two_hops"),
    "redis": ("redis_1", "redis_2"),
    "ray_serve": ("ray_serve_1", "ray_serve_2"),
    "envoy": ("envoy",),
}


def installed_or_skipped(peer: str) -> None:
    """Leave a test out, with the reason that the bench gives."""
    if why := installed.skipped().get(peer):
        pytest.skip(f"{peer}: {why}")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("peer", RUNNERS)
def test_a_quick_run_compares_with_the_best_of_a_peer(peer: str, tmp_path: Path) -> None:
    installed_or_skipped(peer)
    path = tmp_path / "bench.json"
    command = [sys.executable, "-m", "bench", "peers", "--quick", "--only", peer, "--seed", "3", "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=290, check=False)
    assert done.returncode == 0, done.stderr

    metrics = json.loads(path.read_text())["metrics"]

    takes_frames = peer != "envoy"
    modes = (*(("", "_sessions") if takes_frames else ("",)), *(("_plain",) if peer == "redis" else ()))
    compared = [f"{what}_vs_{peer}{mode}" for what in ("throughput", "session_throughput") for mode in modes]
    for name in (*compared, f"p99_vs_{peer}"):
        assert all(metrics[f"{name}{part}"] > 0 for part in RATIO_PARTS), name
        assert metrics[f"{name}_lo"] <= metrics[name] <= metrics[f"{name}_hi"]
    for target in (f"evercurrent_beside_{peer}", *TARGETS[peer]):
        assert metrics[f"{target}_sessions_updates_per_s"] > 0
        assert (f"{target}_frames_updates_per_s" in metrics) == (takes_frames or target.startswith("evercurrent"))
        assert 0 < metrics[f"{target}_open_loop_p50_ms"] <= metrics[f"{target}_open_loop_p99_ms"]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("peer", "num_targets"), NUMS_OF_TARGETS.items())
def test_a_peer_makes_the_steps_of_the_model_for_a_user_who_comes_back(peer: str, num_targets: int) -> None:
    installed_or_skipped(peer)
    command = [sys.executable, "-m", "tests.bench.same_steps", peer]
    done = subprocess.run(command, capture_output=True, text=True, timeout=290, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == num_targets * same_steps.NUM_USERS * same_steps.NUM_STREAMS * same_steps.NUM_EVENTS


@pytest.mark.parametrize(
    ("peer", "command"),
    [("redis", "make peer-redis"), ("ray_serve", "make peer-ray-serve"), ("envoy", "make peer-envoy")],
)
def test_a_missing_peer_is_skipped_by_name_with_the_command_that_installs_it(
    peer: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installed, "FOLDER", tmp_path)
    monkeypatch.setattr(installed, "REDIS_SERVER", sys.executable)

    shown = CliRunner().invoke(app, ["peers", "--only", peer])

    assert shown.exit_code == 0
    assert f"{peer} is skipped: not installed: {command}" in shown.output


def test_a_missing_redis_server_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed, "REDIS_SERVER", "no-such-redis-server")
    assert "apt-get install redis-server" in installed.skipped()["redis"]


def test_a_peer_that_nobody_knows_is_refused() -> None:
    shown = CliRunner().invoke(app, ["peers", "--only", "memcached"])
    assert shown.exit_code == 2
    assert "ray_serve" in shown.output


class Users:
    """Rows of users in memory, and which users each step was of."""

    def __init__(self) -> None:
        self.step = Step()
        self.rows: dict[str, bytes] = {}
        self.steps: list[list[str]] = []

    async def learn(self, users: Sequence[str], ids: NDArray[np.int64], outcomes: NDArray[np.float32]) -> Updates:
        """One update of each of these."""
        self.steps.append(list(users))
        found = [self.rows.get(user, self.step.initial_row) for user in users]
        updates = self.step(np.frombuffer(b"".join(found), self.step.row), ids, outcomes)
        self.rows.update(zip(users, [row.tobytes() for row in updates.rows], strict=True))
        return updates


async def observed(batches: Batches, users: Sequence[str]) -> list[Learned]:
    """What events of these users, all waiting at once, are told."""
    observation = observation_pb2.Observation(ids=[1, 1], value=1.0)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(batches.run())
        try:
            return await asyncio.gather(*(batches.observe(user, observation) for user in users))
        finally:
            running.cancel()


async def test_events_that_wait_together_are_one_step_and_a_users_come_in_their_order() -> None:
    users = Users()

    learned = await observed(Batches(users.learn), ["a", "b", "a", "c", "a"])

    assert users.steps == [["a", "b", "c"], ["a"], ["a"]]
    assert [each.version for each in learned] == [1, 1, 2, 1, 3]


async def test_a_step_is_of_no_more_users_than_its_bound() -> None:
    users = Users()
    await observed(Batches(users.learn), [f"user-{number}" for number in range(BATCH_MAX + 1)])
    assert [len(step) for step in users.steps] == [BATCH_MAX, 1]


async def test_whoever_waits_for_a_step_that_fails_is_told() -> None:
    async def failing(*_: object) -> Updates:
        raise OSError("the store is gone")

    with pytest.raises(ExceptionGroup) as raised:
        await observed(Batches(failing), ["a", "b"])
    assert raised.group_contains(OSError, match="the store is gone")
