"""The demo runs by itself from learners to table, and its numbers are those of the events it streamed."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from evercurrent.cli.demo import SIMULATED_EVENTS, SIMULATED_SEED, SIMULATED_USERS, Result
from evercurrent.models.adaptive import EventLog, replay
from evercurrent.models.knowledge_tracing import default_world, simulate
from evercurrent.models.loading import load_model

SLOW_S = 110.0


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs `evercurrent ...` to its end."""
    command = [sys.executable, "-P", "-m", "evercurrent.cli", *arguments]
    environment = os.environ | {"COLUMNS": "120"}
    return subprocess.run(command, capture_output=True, text=True, timeout=SLOW_S, env=environment, check=False)


def write_log(log: EventLog, path: Path) -> None:
    """Writes a log in the format of real ones."""
    rows = zip(log.user_N, log.order_N, log.ids_NK[:, 0], log.ids_NK[:, 1], log.outcome_N, strict=True)
    lines = ["user_id,timestamp_or_order,item_id,skill_id,outcome"]
    path.write_text("\n".join([*lines, *(",".join(f"{value:g}" for value in row) for row in rows)]) + "\n")


@pytest.fixture(scope="module")
def small_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of 30 learners with 30 answers each."""
    path = tmp_path_factory.mktemp("log") / "small.csv"
    write_log(simulate(default_world(), num_users=30, num_events=30, seed=6), path)
    return path


def test_demo_on_simulated_learners(tmp_path: Path) -> None:
    file = tmp_path / "demo.json"
    ended = run("demo", "--limit", "1000", "--json", str(file))
    assert ended.returncode == 0, ended.stderr
    assert "simulated" in ended.stdout
    assert "next-answer AUC, continuous" in ended.stdout
    numbers = json.loads(file.read_text())
    assert list(numbers) == [field.name for field in dataclasses.fields(Result)]
    assert (numbers["updates"], numbers["lost"], numbers["rejected"]) == (1000, 0, 0)
    assert numbers["users"] == SIMULATED_USERS
    assert 0 < numbers["update_p50_ms"] <= numbers["update_p99_ms"]
    assert numbers["updates_per_s"] > 0
    streamed = simulate(default_world(), SIMULATED_USERS, SIMULATED_EVENTS, SIMULATED_SEED).at(np.arange(1000))
    scores = replay(load_model("knowledge-tracing"), streamed).scores()
    assert numbers["auc_continuous"] == pytest.approx(scores.auc_continuous, abs=1e-4)
    assert numbers["auc_batch"] == pytest.approx(scores.auc_batch, abs=1e-6)


def test_demo_on_a_log_streams_the_users_it_did_not_train_on(small_log: Path, tmp_path: Path) -> None:
    file = tmp_path / "demo.json"
    (small_log.parent / "published_test_users.json").write_text(json.dumps({"small": [3, 7, 11, 20]}))
    ended = run("demo", "--data", str(small_log), "--workers", "1", "--json", str(file))
    assert ended.returncode == 0, ended.stderr
    assert "4 of small.csv, as published" in ended.stdout
    numbers = json.loads(file.read_text())
    assert (numbers["users"], numbers["updates"], numbers["lost"], numbers["rejected"]) == (4, 120, 0, 0)


def test_demo_names_a_log_that_cannot_be_read(tmp_path: Path) -> None:
    ended = run("demo", "--data", str(tmp_path / "absent.csv"))
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"evercurrent: {tmp_path / 'absent.csv'} ")
    assert len(ended.stderr.splitlines()) == 1


def test_train_writes_weights_that_can_be_served(small_log: Path, tmp_path: Path) -> None:
    ended = run("train", "knowledge-tracing", "--data", str(small_log), "--out", str(tmp_path / "trained"))
    assert ended.returncode == 0, ended.stderr
    weights = tmp_path / "trained" / "weights.safetensors"
    assert f"evercurrent up --weights {weights}" in ended.stdout
    assert load_model("knowledge-tracing", weights).name == "knowledge-tracing"
