"""The README's programs, as they stand there, against the service that they talk about."""

import re
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from evercurrent.cli.cluster import run_cluster
from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1.session_pb2 import ObserveRequest
from evercurrent.v1.session_pb2_grpc import SessionServiceStub

README = (Path(__file__).parent.parent / "README.md").read_text()
ADDRESS = "127.0.0.1:7600"


def program(containing: str) -> str:
    """The one Python program of the README with this text in it."""
    (found,) = (block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if containing in block)
    return str(found)


def test_the_quickstart_learns_and_answers(tmp_path: Path) -> None:
    source = program("SessionServiceStub")
    assert ADDRESS in source
    with run_cluster(num_workers=2, store=f"sqlite:{tmp_path}/store.db") as cluster:
        run = subprocess.run(
            [sys.executable, "-c", source.replace(ADDRESS, cluster.address)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    versions = [int(line.split()[1].rstrip(":")) for line in lines if line.startswith("version")]
    assert versions == [1, 2, 3, 4]
    chances = [float(chance) for chance in lines[-1].partition("[")[2].rstrip("]").split(",")]
    assert len(chances) == 3
    assert all(0 < chance < 1 for chance in chances)


def test_the_client_observes_ranks_and_waits_until_it_is_durable(tmp_path: Path) -> None:
    source = program("evercurrent.connect(")
    assert ADDRESS in source
    with run_cluster(num_workers=2, store=f"sqlite:{tmp_path}/store.db") as cluster:
        run = subprocess.run(
            [sys.executable, "-c", source.replace(ADDRESS, cluster.address)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert run.returncode == 0, run.stderr
    version, ranked, predicted, durable = run.stdout.splitlines()
    assert version.startswith("version 1: predicted 0.")
    assert sorted(ranked.removeprefix("best first: [").rstrip("]").split(", ")) == ["4", "9"]
    assert predicted.startswith("item 4: 0.")
    assert durable == "durable up to 1"


def test_the_model_of_ones_own_serves_and_learns(tmp_path: Path) -> None:
    (tmp_path / "spread.py").write_text(program("class Spread"))
    with (
        run_cluster(
            num_workers=1, model="spread:Spread", search_path=tmp_path, store=f"sqlite:{tmp_path}/store.db"
        ) as cluster,
        grpc.insecure_channel(cluster.address) as channel,
    ):
        stub = SessionServiceStub(channel)
        request = ObserveRequest(user_id="ada", observation=pb.Observation(value=3.0))
        first, second = (stub.Observe(request, timeout=20).result for _ in range(2))
    assert list(first.prediction) == pytest.approx([0.0, 1.0])
    assert second.version == 2
    assert 0 < second.prediction[0] < 3
    assert second.loss < first.loss


def test_the_programs_are_as_short_as_they_say() -> None:
    assert len([line for line in program("SessionServiceStub").splitlines() if line.strip()]) <= 20
    assert len(program("class Spread").splitlines()) <= 25
