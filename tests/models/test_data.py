"""Logs are read as written, told apart by learner, and refused with the place of what is wrong."""

from __future__ import annotations

import dataclasses
import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from evercurrent.models.adaptive import (
    Columns,
    Ids,
    LogError,
    log_name,
    read_csv,
    read_header,
    read_test_users,
    split_users,
)
from evercurrent.models.knowledge_tracing import World, read_log, simulate
from evercurrent.models.knowledge_tracing.data import ANSWERS

HEADER = "user_id,timestamp_or_order,item_id,skill_id,outcome"
ROWS = ("7,0,100,3,1", "7,1,20,3,0", "11,0,20,3,1", "11,2,3,4,0.5", "11,1,100,3,0")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "small_log.csv"
    path.write_text("\n".join((HEADER, *ROWS)) + "\n")
    return path


def test_header_names_the_columns(path: Path, tmp_path: Path) -> None:
    assert read_header(path) == tuple(HEADER.split(","))
    (tmp_path / "empty.csv").write_text("")
    assert read_header(tmp_path / "empty.csv") == ()
    with pytest.raises(LogError, match=r"missing\.csv cannot be read as CSV"):
        read_header(tmp_path / "missing.csv")


def test_columns_and_ids(path: Path) -> None:
    log = read_log(path)
    assert log.users == ("7", "11")
    assert log.ids == Ids({"item": ("3", "20", "100"), "skill": ("3", "4")}, columns=ANSWERS)
    assert log.ids.sizes["item"] == 4
    assert log.user_N.tolist() == [0, 0, 1, 1, 1]
    assert log.ids_NK[:, 0].tolist() == [3, 2, 2, 1, 3]
    assert log.ids_NK[:, 1].tolist() == [1, 1, 1, 2, 1]
    assert log.outcome_N.tolist() == [1.0, 0.0, 1.0, 0.5, 0.0]
    assert log.outcome_N.dtype == np.float32


def test_gzip_and_columns_in_another_order(path: Path, tmp_path: Path) -> None:
    turned = "\n".join(",".join([*line.split(",")[::-1], "more"]) for line in path.read_text().splitlines())
    (tmp_path / "turned.csv.gz").write_bytes(gzip.compress(turned.encode()))
    assert read_log(tmp_path / "turned.csv.gz").ids_NK[:, 0].tolist() == read_log(path).ids_NK[:, 0].tolist()


def test_stream_is_a_stable_round_robin(path: Path) -> None:
    log = read_log(path).stream()
    assert log.user_N.tolist() == [0, 1, 0, 1, 1]
    assert log.order_N.tolist() == [0, 0, 1, 1, 2]


def test_events_of_each_user_by_time(path: Path) -> None:
    assert [places.tolist() for places in read_log(path).by_user()] == [[0, 1], [2, 4, 3]]


def test_ids_of_a_trained_model_make_others_unknown(path: Path, tmp_path: Path) -> None:
    Ids({"item": ("20", "a,b"), "skill": ("4",)}).save(tmp_path / "ids.json")
    log = read_log(path, Ids.load(tmp_path / "ids.json"))
    assert log.ids_NK[:, 0].tolist() == [0, 1, 1, 0, 0]
    assert log.ids_NK[:, 1].tolist() == [0, 0, 0, 1, 0]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "lacks the column user_id"),
        (HEADER.replace("skill_id", "skill"), "lacks the column skill_id"),
        (HEADER, "has no events"),
        (f"{HEADER}\n7,0,1,1,1\n7,1,1,1", "line 3: 4 cells, the header has 5"),
        (f"{HEADER}\n7,0,1,1,1\n\n7,1,1,1,2", r'line 4: outcome is "2", not a number in \[0, 1\]'),
        (f"{HEADER}\n7,0,1,1,nan", 'line 2: outcome is "nan"'),
        (f"{HEADER}\n7,soon,1,1,1", 'line 2: timestamp_or_order is "soon", not a number$'),
    ],
)
def test_bad_log_names_the_place(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(content)
    with pytest.raises(LogError, match=says):
        read_log(path)


GAMES = Columns(
    order="ms",
    ids={"before": "last"},
    features={"pace": "rt"},
    outcome="move",
    order_unit_us=1000,
    outcome_kind="choice",
)


def test_choices_features_and_a_clock(tmp_path: Path) -> None:
    (tmp_path / "games.csv").write_text(
        "user_id,ms,last,rt,move\nann,1000,none,0.5,rock\nann,3500,rock,-1,paper\nbob,9,none,0,rock\n"
    )
    log = read_csv(tmp_path / "games.csv", GAMES)
    assert log.ids.choices == ("paper", "rock")
    assert log.outcome_N.tolist() == [1, 0, 1]
    assert log.outcome_N.dtype == np.int64
    assert log.ids_NK.tolist() == [[1], [2], [1]]
    assert log.features_NF.tolist() == [[0.5], [-1.0], [0.0]]
    assert log.time_us_N.tolist() == [1_000_000, 3_500_000, 9_000]
    assert log.gaps_s().tolist() == [0.0, 2.5, 0.0]
    log.ids.save(tmp_path / "ids.json")
    again = Ids.load(tmp_path / "ids.json")
    assert again == log.ids
    (tmp_path / "other.csv").write_text("user_id,ms,last,rt,move\nann,1000,none,0.5,well\n")
    with pytest.raises(LogError, match='"well" is none of the choices paper, rock'):
        read_csv(tmp_path / "other.csv", GAMES, again)
    (tmp_path / "other.csv").write_text("user_id,ms,last,rt,move\nann,1000,none,fast,rock\n")
    with pytest.raises(LogError, match=r'line 2: rt is "fast", not a number$'):
        read_csv(tmp_path / "other.csv", GAMES, again)


def test_a_column_is_one_thing(tmp_path: Path) -> None:
    (tmp_path / "games.csv").write_text("user_id,ms,last,rt,move\nann,1000,none,0.5,rock\n")
    with pytest.raises(LogError, match="the column last is asked for as two things"):
        read_csv(tmp_path / "games.csv", dataclasses.replace(GAMES, features={"pace": "last"}))


def test_ids_that_are_rows_already(tmp_path: Path) -> None:
    (tmp_path / "games.csv").write_text("user_id,ms,last,rt,move\nann,1,3,0,rock\n")
    ids = Ids({"before": 4}, ("rock",))
    assert ids.sizes == {"before": 4}
    assert read_csv(tmp_path / "games.csv", GAMES, ids).ids_NK.tolist() == [[3]]
    with pytest.raises(LogError, match="not all numbers below 3"):
        read_csv(tmp_path / "games.csv", GAMES, Ids({"before": 3}, ("rock",)))
    with pytest.raises(LogError, match='no field "before"'):
        read_csv(tmp_path / "games.csv", GAMES, Ids({}, ("rock",)))


def test_file_that_is_not_there_or_not_gzip(tmp_path: Path) -> None:
    (tmp_path / "bad.csv.gz").write_bytes(b"plain")
    for name in ("none.csv", "bad.csv.gz"):
        with pytest.raises(LogError, match="cannot be read as CSV"):
            read_log(tmp_path / name)


def test_test_users_by_log_name(tmp_path: Path) -> None:
    path = tmp_path / "users.json"
    path.write_text(json.dumps({"small_log": [7, "x"]}))
    assert read_test_users(path, log_name(Path("folder/small_log.csv.gz"))) == {"7", "x"}
    with pytest.raises(LogError, match='no list for "other": it has small_log'):
        read_test_users(path, "other")
    path.write_text("[1, 2]")
    assert read_test_users(path, "anything") == {"1", "2"}
    path.write_text("3")
    with pytest.raises(LogError, match="no list of user ids"):
        read_test_users(path, "anything")
    path.write_text("{")
    with pytest.raises(LogError, match="cannot be read as JSON"):
        read_test_users(path, "anything")


def test_ids_file_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "ids.json").write_text("[]")
    with pytest.raises(LogError, match="not a file of ids"):
        Ids.load(tmp_path / "ids.json")


def test_split_by_name(path: Path) -> None:
    training, test = split_users(read_log(path), {"11", "no such user"})
    assert training.active_users.tolist() == [0]
    assert test.outcome_N.tolist() == [1.0, 0.5, 0.0]
    with pytest.raises(LogError, match="0 of 2 users"):
        split_users(read_log(path), {"8"})


def test_split_by_seed() -> None:
    log = simulate(World.draw(6, 2, seed=0), num_users=50, num_events=3, seed=0)
    training, test = split_users(log, test_fraction=0.2, seed=4)
    again, other = split_users(log, seed=4)[1], split_users(log, seed=5)[1]
    assert test.active_users.size == 10
    assert not set(training.active_users) & set(test.active_users)
    assert len(training) + len(test) == len(log)
    assert np.array_equal(test.active_users, again.active_users)
    assert not np.array_equal(test.active_users, other.active_users)
