"""`evercurrent train adaptive`: any log becomes a model that `evaluate` and a service agree on."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from evercurrent.cli.app import app
from evercurrent.cli.cluster import run_cluster
from evercurrent.models.adaptive import Adaptive, Ranking
from evercurrent.models.loading import class_path, load_model
from persistence.events import SCHEMA

USERS, EVENTS = 40, 20
BEGIN_S = 1_700_000_000
QUICK = ("--epochs", "1", "--state-size", "8", "--embedding-size", "8", "--hidden-size", "4")


def write_games(path: Path) -> None:
    """Players who mostly repeat their last move."""
    rng = np.random.default_rng(1)
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("player", "ms", "last", "pace", "move", "score", "liked"))
        for user in range(USERS):
            last = "none"
            for at in range(EVENTS):
                move = last if last != "none" and rng.random() < 0.8 else str(rng.choice(["rock", "paper", "well"]))
                rows.writerow((f"p{user}", 1000 * (BEGIN_S + at * 9), last, rng.normal(), move, rng.normal(), 1))
                last = move


def run(*arguments: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, [*map(str, arguments)])
    return done.exit_code, done.stdout, done.stderr + str(done.exception or "")


def trained(tmp_path: Path, *arguments: object) -> tuple[Path, str]:
    data = tmp_path / "games.csv"
    write_games(data)
    columns = ("--user", "player", "--order", "ms", "--order-unit", "ms")
    code, out, errors = run(
        "train", "adaptive", "--data", data, "--out", tmp_path / "run", *columns, *QUICK, *arguments
    )
    assert code == 0, errors
    return data, out


def test_a_categorical_model_is_trained_and_served_as_evaluated(tmp_path: Path) -> None:
    data, out = trained(
        tmp_path, "--head", "categorical", "--ids", "last", "--features", "pace", "--outcome", "move", "--uses-time"
    )
    files = {path.name for path in (tmp_path / "run").iterdir()}
    assert files == {"weights.safetensors", "ids.json", "metrics.json", "curves.png"}
    spec, weights = class_path(Adaptive), tmp_path / "run" / "weights.safetensors"
    assert f"evercurrent up --model {spec} --weights {weights}" in out.replace("\n", "")
    assert json.loads((tmp_path / "run" / "ids.json").read_text())["choices"] == ["paper", "rock", "well"]
    given = ("--model", spec, "--weights", weights, "--ids", tmp_path / "run" / "ids.json", "--json")
    with run_cluster(num_workers=1, model=spec, weights=weights, store="memory:") as cluster:
        code, told, errors = run("evaluate", "--data", data, *given, "--target", cluster.address)
    assert code == 0, errors
    found = json.loads(told)
    assert (found["events"], found["users"], found["auc"]) == (USERS * EVENTS, USERS, None)
    assert 0 <= found["served_difference"] <= 1e-4
    assert found["served_loss"] == pytest.approx(found["loss"], abs=1e-4)


def test_numbers_and_rankings(tmp_path: Path) -> None:
    trained(tmp_path, "--head", "gaussian", "--features", "pace", "--outcome", "score")
    model = load_model(class_path(Adaptive), tmp_path / "run" / "weights.safetensors")
    assert model.prediction_width == 2
    more = ("--meets-once", "--unliked-loss", "0.4")
    data, _ = trained(tmp_path, "--head", "ranking", "--ids", "last", "--outcome", "liked", *more)
    spec, weights = class_path(Ranking), tmp_path / "run" / "weights.safetensors"
    ranking = load_model(spec, weights)
    assert isinstance(ranking, Ranking)
    assert ranking.unliked_loss == 0.4
    assert ranking.observation.ids[0].size == 5
    given = ("--data", data, "--model", spec, "--weights", weights, "--ids", tmp_path / "run" / "ids.json", "--json")
    code, told, errors = run("evaluate", *given)
    assert code == 0, errors
    assert json.loads(told)["auc"] is None, "an item's share among all is no chance of its being liked"


def test_an_exported_log(tmp_path: Path) -> None:
    """Of two namespaces with the same user ids, each a user of its own; events without an outcome are left out."""
    rows = [
        {
            "namespace": space,
            "user_id": f"u{user}",
            "slot": 1,
            "version": at + 1,
            "event_time": (BEGIN_S + at) * 1_000_000,
            "ids": [1 + (user + at) % 5, 2],
            "features": [0.5],
            "value": None if at == 3 else float(user % 2),
        }
        for space in ("", "other")
        for user in range(10)
        for at in range(6)
    ]
    (tmp_path / "log" / "day=2023-11-14").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), tmp_path / "log" / "day=2023-11-14" / "bucket-00.parquet")
    code, out, errors = run(
        "train", "adaptive", "--data", tmp_path / "log", "--out", tmp_path / "run", "--ids", "item,skill", *QUICK
    )
    assert code == 0, errors
    assert "2 validation users, 10 events" in out
    weights = tmp_path / "run" / "weights.safetensors"
    model = load_model(class_path(Adaptive), weights)
    assert [(field.name, field.size) for field in model.observation.ids] == [("item", 6), ("skill", 3)]
    code, out, errors = run(
        "evaluate", "--data", tmp_path / "log", "--model", class_path(Adaptive), "--weights", weights, "--json"
    )
    assert code == 0, errors
    assert (json.loads(out)["events"], json.loads(out)["users"]) == (100, 20)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--outcome", "move"), 'move is ".*", not a number'),
        (("--head", "bernoulli", "--outcome", "score"), "not a number in"),
        (("--head", "ranking", "--ids", "last", "--features", "pace", "--outcome", "liked"), "one id field, the item"),
        (("--head", "categorical", "--ids", "nothing", "--outcome", "move"), "lacks the column nothing"),
        (("--head", "categorical", "--outcome", "liked"), "all outcomes of this log are one choice"),
        (("--head", "gaussian", "--outcome", "score", "--meets-once"), "for a ranking head, not for gaussian"),
        (("--head", "gaussian", "--features", "score", "--outcome", "score"), "asked for as two things"),
    ],
)
def test_what_cannot_be_trained_on_is_told(tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    write_games(tmp_path / "games.csv")
    columns = ("--user", "player", "--order", "ms")
    code, _, errors = run(
        "train", "adaptive", "--data", tmp_path / "games.csv", "--out", tmp_path / "run", *columns, *arguments
    )
    assert code == 1
    assert re.search(says, errors)
