"""`evercurrent evaluate`: the same figures offline and through a live service, and what it says when they are not."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from evercurrent.cli.app import app
from evercurrent.cli.cluster import Cluster, run_cluster
from evercurrent.models.adaptive import Ids
from evercurrent.models.knowledge_tracing.data import ANSWERS
from evercurrent.models.knowledge_tracing.model import KnowledgeTracing
from evercurrent.models.knowledge_tracing.simulator import default_world, simulate
from evercurrent.models.loading import save_model

USERS, EVENTS = 20, 30


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with run_cluster(num_workers=2, model="knowledge-tracing", store="memory:") as running:
        yield running


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A log and its ids."""
    folder = tmp_path_factory.mktemp("log")
    log = simulate(default_world(), USERS, EVENTS, 3)
    with (folder / "answers.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(ANSWERS.names)
        for at in range(len(log)):
            item, skill = log.ids_NK[at] - 1
            rows.writerow([log.users[log.user_N[at]], log.order_N[at], item, skill, log.outcome_N[at]])
    log.ids.save(folder / "ids.json")
    return folder / "answers.csv", folder / "ids.json"


def run(*arguments: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["evaluate", *map(str, arguments)])
    return done.exit_code, done.stdout, done.stderr + str(done.exception or "")


def test_a_service_predicts_as_the_model_does_by_itself(cluster: Cluster, data: tuple[Path, Path]) -> None:
    log, ids = data
    code, out, errors = run("--data", log, "--ids", ids, "--target", cluster.address, "--json")
    assert code == 0, errors
    found = json.loads(out)
    assert (found["events"], found["users"]) == (USERS * EVENTS, USERS)
    assert 0 <= found["served_difference"] <= 1e-4
    assert found["served_auc"] == pytest.approx(found["auc"], abs=1e-3)
    assert found["served_loss"] == pytest.approx(found["loss"], abs=1e-4)
    assert 0.5 < found["auc"] < 1


def test_a_service_with_other_weights_is_told(cluster: Cluster, data: tuple[Path, Path], tmp_path: Path) -> None:
    log, ids = data
    sizes = Ids.load(ids)
    model = KnowledgeTracing(sizes.sizes["item"], sizes.sizes["skill"])
    save_model(model, tmp_path / "untrained.safetensors")
    code, out, errors = run(
        "--data", log, "--ids", ids, "--weights", tmp_path / "untrained.safetensors", "--target", cluster.address
    )
    assert code == 1
    assert "as served" in out
    assert "does it serve these weights?" in errors


def test_some_users_alone(data: tuple[Path, Path], tmp_path: Path) -> None:
    log, ids = data
    with log.open() as file:
        users = sorted({row["user_id"] for row in csv.DictReader(file)})[:3]
    (tmp_path / "users.json").write_text(json.dumps({"answers": users}))
    code, out, errors = run("--data", log, "--ids", ids, "--test-users", tmp_path / "users.json", "--json")
    assert code == 0, errors
    assert (json.loads(out)["users"], json.loads(out)["served_difference"]) == (3, None)


def test_what_cannot_be_evaluated_is_told(data: tuple[Path, Path], tmp_path: Path) -> None:
    log, ids = data
    assert 'no class "Nothing"' in run("--data", log, "--model", "tests.toys:Nothing")[2]
    assert "which of its columns" in run("--data", log, "--ids", ids, "--model", "tests.toys:Counting")[2]
    (tmp_path / "one.csv").write_text("user_id,when\n")
    assert "lacks the column" in run("--data", tmp_path / "one.csv")[2]
    code, _, errors = run("--data", log, "--ids", ids, "--target", "127.0.0.1:1")
    assert code == 1
    assert "127.0.0.1:1" in errors
