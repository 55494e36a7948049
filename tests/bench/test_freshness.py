"""Predictions by states of different age, and what they are said to be worth."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from bench.__main__ import app
from bench.freshness import lagged
from evercurrent.models.adaptive import EventLog
from evercurrent.models.adaptive.replay import batch_of, replay
from evercurrent.models.knowledge_tracing.data import ANSWERS
from evercurrent.models.knowledge_tracing.simulator import default_world, simulate
from evercurrent.models.loading import load_model


@pytest.fixture(scope="module")
def log() -> EventLog:
    return simulate(default_world(), 30, 60, 3)


def test_age_zero_and_nightly_are_those_of_the_replay(log: EventLog) -> None:
    model = load_model("knowledge-tracing")
    found, replayed = lagged(model, log, (0, 1), 10, 25), replay(model, log, 25)
    np.testing.assert_allclose(found["lag_0"], replayed.continuous_N, atol=1e-6)
    np.testing.assert_allclose(found["nightly"], replayed.batch_N, atol=1e-6)


def test_a_lag_is_so_many_events_of_the_user(log: EventLog) -> None:
    model = load_model("knowledge-tracing")
    found = lagged(model, log, (0, 3), 7, 25)
    places = log.by_user()[4]
    states = [model.initial_state()[None]]
    for place in places:
        states.append(model.update(states[-1], batch_of(log, np.array([place]))).state_BD)
    for t, place in enumerate(places):
        for name, before in (("lag_0", t), ("lag_3", max(0, t - 3)), ("session", t - t % 7)):
            expected = model.readout(model.predict(states[before], batch_of(log, np.array([place]))))[0, 0]
            assert found[name][place] == pytest.approx(float(expected), abs=1e-5)


def test_the_bench_scores_by_age(log: EventLog, tmp_path: Path) -> None:
    with (tmp_path / "answers.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(ANSWERS.names)
        rows.writerows(zip(log.user_N, log.order_N, log.ids_NK[:, 0], log.ids_NK[:, 1], log.outcome_N, strict=True))
    arguments = ["freshness", "--data", tmp_path / "answers.csv", "--quick", "--seeds", "2"]
    outs = ["--json", tmp_path / "found.json", "--plot", tmp_path / "age.png"]
    done = CliRunner().invoke(app, [*map(str, arguments), *map(str, outs)])
    assert done.exit_code == 0, done.output
    metrics = json.loads((tmp_path / "found.json").read_text())["metrics"]
    for age in ("lag_0", "lag_1", "lag_10", "lag_100", "session", "nightly"):
        assert metrics[f"auc_{age}_lo"] <= metrics[f"auc_{age}"] <= metrics[f"auc_{age}_hi"]
        assert metrics[f"log_loss_{age}"] > 0
    assert "freshness_auc" in metrics
    assert (tmp_path / "age.png").read_bytes().startswith(b"\x89PNG")


def test_a_log_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text("user_id,when\n")
    done = CliRunner().invoke(app, ["freshness", "--data", str(tmp_path / "one.csv")])
    assert done.exit_code == 1
    assert "lacks the column" in done.output + done.stderr
