"""Logs are read as written, told apart by learner, and refused with the place of what is wrong."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from evercurrent.models.knowledge_tracing.data import (
    Ids,
    LogError,
    log_name,
    read_log,
    read_test_users,
    split_users,
)
from evercurrent.models.knowledge_tracing.simulator import World, simulate

HEADER = "user_id,timestamp_or_order,item_id,skill_id,outcome"
ROWS = ("7,0,100,3,1", "7,1,20,3,0", "11,0,20,3,1", "11,2,3,4,0.5", "11,1,100,3,0")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "small_log.csv"
    path.write_text("\n".join((HEADER, *ROWS)) + "\n")
    return path


def test_columns_and_ids(path: Path) -> None:
    log = read_log(path)
    assert log.users == ("7", "11")
    assert log.ids == Ids(items=("3", "20", "100"), skills=("3", "4"))
    assert log.ids.num_items == 4
    assert log.user_N.tolist() == [0, 0, 1, 1, 1]
    assert log.item_N.tolist() == [3, 2, 2, 1, 3]
    assert log.skill_N.tolist() == [1, 1, 1, 2, 1]
    assert log.outcome_N.tolist() == [1.0, 0.0, 1.0, 0.5, 0.0]
    assert log.outcome_N.dtype == np.float32


def test_gzip_and_columns_in_another_order(path: Path, tmp_path: Path) -> None:
    turned = "\n".join(",".join([*line.split(",")[::-1], "more"]) for line in path.read_text().splitlines())
    (tmp_path / "turned.csv.gz").write_bytes(gzip.compress(turned.encode()))
    assert read_log(tmp_path / "turned.csv.gz").item_N.tolist() == read_log(path).item_N.tolist()


def test_stream_is_a_stable_round_robin(path: Path) -> None:
    log = read_log(path).stream()
    assert log.user_N.tolist() == [0, 1, 0, 1, 1]
    assert log.order_N.tolist() == [0, 0, 1, 1, 2]


def test_events_of_each_user_by_time(path: Path) -> None:
    assert [places.tolist() for places in read_log(path).by_user()] == [[0, 1], [2, 4, 3]]


def test_ids_of_a_trained_model_make_others_unknown(path: Path, tmp_path: Path) -> None:
    Ids(items=("20", "a,b"), skills=("4",)).save(tmp_path / "ids.json")
    log = read_log(path, Ids.load(tmp_path / "ids.json"))
    assert log.item_N.tolist() == [0, 1, 1, 0, 0]
    assert log.skill_N.tolist() == [0, 0, 0, 1, 0]


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
