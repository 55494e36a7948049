"""A candidate's way by the command line alone: pushed, in shadow, watched until it is judged, live and back."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from evercurrent.cli.cluster import run_cluster
from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1.session_pb2 import ObserveRequest
from evercurrent.v1.session_pb2_grpc import SessionServiceStub
from tests.cli.test_help import run

MODELS = """
import torch
from evercurrent.model import Batch, Model, ObservationSpec, OutcomeSpec


class Ignorant(Model):
    name = "ignorant"
    observation = ObservationSpec(outcome=OutcomeSpec.bernoulli())
    state_shapes = {"logit": (1,)}
    step_size = 0.0

    def predict(self, state_BD, batch):
        return state_BD

    def loss(self, prediction_BP, batch):
        return torch.nn.functional.softplus(prediction_BP[:, 0]) - prediction_BP[:, 0] * batch.outcome

    def readout(self, prediction_BP):
        return prediction_BP.sigmoid()


class Learning(Ignorant):
    step_size = 1.0


class Other(Ignorant):
    observation = ObservationSpec(features=("x",), outcome=OutcomeSpec.bernoulli())
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the models and the store are."""
    (tmp_path / "two_models.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@contextmanager
def observing(address: str) -> Iterator[None]:
    """Users of whom all that happens happens, one after the other, meanwhile."""
    stop = threading.Event()

    def observe() -> None:
        with grpc.insecure_channel(address) as channel:
            stub, number = SessionServiceStub(channel), 0
            while not stop.is_set():
                number += 1
                request = ObserveRequest(user_id=f"user-{number % 20}", observation=pb.Observation(value=1.0))
                stub.Observe(request, timeout=30)

    thread = threading.Thread(target=observe)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def succeeded(*arguments: str) -> str:
    ended = run(*arguments)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_a_candidate_is_pushed_judged_promoted_and_rolled_back(folder: Path) -> None:
    store = f"sqlite:{folder}/store.db"
    with run_cluster(num_workers=2, model="two_models:Ignorant", store=store) as cluster:
        at = ("--address", cluster.address)
        pushed = succeeded(
            "models", "push", "v2", "--model", "two_models:Learning", "--store", store, "--why", "learns"
        )
        assert pushed.startswith("v2: two_models:Learning")
        listed = {one["version"]: one for one in json.loads(succeeded("models", "list", "--json", "--store", store))}
        assert {name: one["role"] for name, one in listed.items()} == {"ignorant": "live", "v2": ""}
        assert listed["v2"]["why"] == "learns"
        refused = run("models", "push", "v3", "--model", "two_models:Other", "--store", store)
        assert refused.returncode == 1
        assert "cannot stand in for what is served, 'ignorant': features: ['x'] instead of none" in refused.stderr
        refused = run("shadow", "start", "v3", *at)
        assert refused.returncode == 1
        assert "FAILED_PRECONDITION: version: version 'v3' is not registered" in refused.stderr
        started = succeeded("shadow", "start", "v2", "--fraction", "0.8", *at)
        assert "shadow start v2 on 0.8: revision 2" in started
        assert "2 workers follow" in started
        plot, points = folder / "v2.png", folder / "v2.json"
        with observing(cluster.address):
            watched = succeeded(
                *("shadow", "watch", "--until-verdict", "--interval", "0.2", *at),
                *("--plot", str(plot), "--json", str(points)),
            )
            assert "better" in watched
            assert plot.read_bytes().startswith(b"\x89PNG")
            rows = json.loads(points.read_text())["v2"]
            assert rows[-1][2] > 0
            assert all(low <= mean <= high for _, mean, low, high in rows)
            assert "live is v2" in succeeded("promote", "v2", *at, "--who", "ann", "--why", "better")
            assert "live is ignorant" in succeeded("rollback", *at)
        shown = json.loads(succeeded("models", "show", "--json", "--store", store))
        assert (shown["live"], shown["standby"], shown["revision"]) == ("ignorant", "v2", "4")
        shown = json.loads(succeeded("models", "show", "v2", "--json", "--store", store))
        assert (shown["role"], shown["state"]) == ("standby", [{"name": "logit", "shape": [1]}])
        log = succeeded("models", "log", "--store", store)
        assert [line.split("│")[1].strip() for line in log.splitlines() if "│ ann " in line] == ["3"]
        assert "policy auto" in succeeded("shadow", "policy", "--mode", "auto", *at)
        assert "standby stop v2" in succeeded("shadow", "stop", "v2", *at)
        assert "Nobody is quarantined" in succeeded("quarantine", "list", *at)
        released = run("quarantine", "release", "user-1", *at)
        assert released.returncode == 1
        assert "NOT_FOUND: user_id: 'user-1' is not quarantined" in released.stderr


def test_a_store_that_is_not_there_and_a_model_that_cannot_run_are_named(folder: Path) -> None:
    for command in (["list"], ["show"], ["log"]):
        ended = run("models", *command, "--store", f"sqlite:{folder}/none.db")
        assert ended.returncode == 1
        assert "there is no store at" in ended.stderr
    ended = run("models", "push", "v1", "--model", "two_models:Absent", "--store", f"sqlite:{folder}/new.db")
    assert ended.returncode == 1
    assert 'has no class "Absent"' in ended.stderr
    ended = run("models", "push", "V 1", "--model", "two_models:Learning", "--store", f"sqlite:{folder}/new.db")
    assert ended.returncode == 1
    assert "'V 1' is no name of a version" in ended.stderr


def test_watching_draws_and_ends_at_ctrl_c(folder: Path) -> None:
    with run_cluster(num_workers=1, model="two_models:Ignorant", store=f"sqlite:{folder}/store.db") as cluster:
        command = [sys.executable, "-P", "-m", "evercurrent.cli", "shadow", "watch", "--address", cluster.address]
        terminal, inside = pty.openpty()
        with subprocess.Popen([*command, "--plot", "none.png"], stdout=inside) as watching:
            seen = b""
            while b"Nothing runs beside ignorant" not in seen:
                seen += os.read(terminal, 4096)
            watching.send_signal(signal.SIGINT)
            assert watching.wait(30) == 0
        os.close(inside)
        os.close(terminal)
        assert (folder / "none.png").exists()
