"""Active recommendation: simulated viewers by their statistics, hit rates beside a slow twin's, the whole against real
processes."""

from __future__ import annotations

import gzip
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from math import sqrt
from pathlib import Path

import numpy as np
import pytest
import torch

from evercurrent.models.adaptive import UNKNOWN, EventLog, LogError, Ranking, batch_of
from evercurrent.models.adaptive.data import Ints
from examples.recommendation.ratings import read_log
from examples.recommendation.recommending import (
    by_item_knn,
    by_model,
    by_nightly_model,
    by_popularity,
    candidates,
    num_candidates,
    places,
)
from examples.recommendation.viewers import LIKED_OTHER, LIKED_OWN, TASTES_EACH, World, simulate
from tests.examples.running import RUN_TIMEOUT_S, ran, rows_of, run_quick

WORLD = World.draw(num_items=200, num_tastes=5, seed=1)
SMALL_WORLD = World.draw(num_items=30, num_tastes=3, seed=1)


@pytest.fixture(scope="module")
def log() -> EventLog:
    return simulate(WORLD, num_users=300, num_events=30, seed=3)


@pytest.fixture(scope="module")
def small_logs() -> tuple[EventLog, EventLog]:
    """For training and for testing: the second has a viewer who meets items again, and one with a single event."""
    small = simulate(SMALL_WORLD, num_users=24, num_events=8, seed=3)
    training, testing = small.of_users(range(20)), small.of_users(range(20, 24)).stream()
    ids_NK = testing.ids_NK.copy()
    ids_NK[testing.user_N == 20] = np.array([[4], [5], [4], [5], [6], [6], [4], [7]])
    testing = replace(testing, ids_NK=ids_NK)
    last_of_21 = np.flatnonzero(testing.user_N == 21)[1:]
    return training, testing.at(np.setdiff1d(np.arange(len(testing)), last_of_21))


def tastes(log: EventLog) -> Ints:
    return WORLD.item_taste_I[log.ids_NK[:, 0] - 1]


def test_nobody_meets_an_item_twice_and_time_goes_on(log: EventLog) -> None:
    for places_T in log.by_user():
        assert np.unique(log.ids_NK[places_T]).size == 30
        assert (np.diff(log.time_us_N[places_T]) >= 0).all()
    assert (log.time_us_N == (log.order_N * 1e6).astype(np.int64)).all()
    assert log.ids_NK.min() > UNKNOWN
    assert log.ids_NK.max() < log.ids.sizes["item"]


def test_sessions_dwell_on_one_taste(log: EventLog) -> None:
    taste_N, gap_N = tastes(log), log.gaps_s()
    same, anew = [], []
    for places_T in log.by_user():
        is_same = np.diff(taste_N[places_T]) == 0
        begins = gap_N[places_T][1:] > 3_600
        same.append(is_same[~begins])
        anew.append(is_same[begins])
    within, across = np.concatenate(same), np.concatenate(anew)
    assert within.mean() > 0.8
    assert 1 / TASTES_EACH - 0.1 < across.mean() < 1 / TASTES_EACH + 0.1
    assert across.size / (within.size + across.size) == pytest.approx(1 / 8, abs=0.02)


def test_own_tastes_are_liked_and_appeal_draws(log: EventLog) -> None:
    taste_N = tastes(log)
    share_K = np.array([np.bincount(taste_N[places_T], minlength=5) / places_T.size for places_T in log.by_user()])
    rare_N = share_K[log.user_N, taste_N] < 0.1
    assert log.outcome_N[~rare_N].mean() == pytest.approx(LIKED_OWN, abs=0.03)
    assert log.outcome_N[rare_N].mean() < 0.5 * (LIKED_OWN + LIKED_OTHER)
    counts_I = np.bincount(log.ids_NK[:, 0] - 1, minlength=200)
    assert np.corrcoef(counts_I, WORLD.appeal_I)[0, 1] > 0.7


def test_one_seed_gives_one_log(log: EventLog) -> None:
    again, other = (simulate(WORLD, num_users=300, num_events=30, seed=seed) for seed in (3, 4))
    assert (again.ids_NK == log.ids_NK).all()
    assert (again.outcome_N == log.outcome_N).all()
    assert (again.time_us_N == log.time_us_N).all()
    assert (other.ids_NK != log.ids_NK).any()


def slow_place(score: Mapping[int, float], met: set[int], item: int, num_items: int) -> int:
    """One by one: best first, of equals the lower number."""
    offered = [each for each in range(1, num_items) if each == item or each not in met]
    return sorted(offered, key=lambda each: (-score[each], each)).index(item)


def test_popularity_is_that_of_a_slow_twin(small_logs: tuple[EventLog, EventLog]) -> None:
    training, testing = small_logs
    liked = Counter(training.ids_NK[training.outcome_N > 0, 0].tolist())
    found_N, num_items = places(testing, by_popularity(training)), testing.ids.sizes["item"]
    for places_T in testing.by_user():
        met: set[int] = set()
        for at in places_T.tolist():
            item = int(testing.ids_NK[at, 0])
            assert found_N[at] == slow_place(liked, met, item, num_items)
            assert num_candidates(testing)[at] == num_items - 1 - len(met) + (item in met)
            met.add(item)


@pytest.mark.parametrize("keeps", [1.0, 0.8])
def test_item_knn_is_that_of_a_slow_twin(small_logs: tuple[EventLog, EventLog], keeps: float) -> None:
    training, testing = small_logs
    num_items = testing.ids.sizes["item"]
    likers: dict[int, set[int]] = {item: set() for item in range(num_items)}
    for user, item, liked in zip(training.user_N, training.ids_NK[:, 0], training.outcome_N, strict=True):
        if liked:
            likers[int(item)].add(int(user))

    def cosine(one: int, other: int) -> float:
        both = len(likers[one] & likers[other])
        return both / sqrt(len(likers[one]) * len(likers[other])) if both else 0.0

    found_N = places(testing, by_item_knn(training, keeps))
    for places_T in testing.by_user():
        met: set[int] = set()
        liked_at: dict[int, int] = {}
        for t, at in enumerate(places_T.tolist()):
            item = int(testing.ids_NK[at, 0])
            if testing.user_N[at] != 20:
                score = {
                    each: sum(keeps ** (t - 1 - then) * cosine(each, other) for other, then in liked_at.items())
                    + 1e-6 * len(likers[each])
                    for each in range(num_items)
                }
                near = np.diff(sorted(score.values()))
                assert near[near > 1e-12].min(initial=1.0) > 1e-7
                assert found_N[at] == slow_place(score, met, item, num_items)
            if testing.outcome_N[at]:
                liked_at[item] = t
            met.add(item)


@pytest.mark.parametrize("uses_time", [False, True])
@pytest.mark.parametrize("night_events", [1, 3])
def test_model_is_ranked_by_its_served_steps(
    small_logs: tuple[EventLog, EventLog], night_events: int, uses_time: bool
) -> None:
    testing = small_logs[1]
    model = Ranking(testing.ids.sizes, num_anchors=5, state_size=8, embedding_size=8, uses_time=uses_time)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.5, generator=generator)
        model.forget_log_S.sub_(2.0)
    model.eval().requires_grad_(False)
    num_items = testing.ids.sizes["item"]
    nightly_N = places(testing, by_nightly_model(model, night_events))
    if night_events == 1:
        assert (places(testing, by_model(model)) == nightly_N).all()
    for places_T in testing.by_user():
        state_BD = frozen_BD = model.initial_state().unsqueeze(0)
        met: set[int] = set()
        for t, at in enumerate(places_T.tolist()):
            item, batch = int(testing.ids_NK[at, 0]), batch_of(testing, np.full(num_items, at))
            frozen_BD = state_BD if t % night_events == 0 else frozen_BD
            everything = replace(batch, ids_BK=torch.arange(num_items).unsqueeze(1))
            score = dict(enumerate(model.predict(frozen_BD.repeat(num_items, 1), everything)[:, 0].tolist()))
            assert nightly_N[at] == slow_place(score, met, item, num_items)
            state_BD = model.update(state_BD, batch_of(testing, np.array([at]))).state_BD
            met.add(item)


def test_what_was_met_is_no_candidate(small_logs: tuple[EventLog, EventLog]) -> None:
    testing = small_logs[1]
    events = testing.of_users([20])
    offered = [set(range(1, 31)) - set(np.flatnonzero(is_new_I).tolist()) for is_new_I in candidates(events)]
    assert events.ids_NK[:, 0].tolist() == [4, 5, 4, 5, 6, 6, 4, 7]
    assert offered == [set(), {4}, {5}, {4}, {4, 5}, {4, 5}, {5, 6}, {4, 5, 6}]


def test_ratings_are_read_with_equal_times_in_an_order_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "ratings.csv.gz"
    rows = [f"1,100,{item},{1 + item % 5}" for item in range(1, 41)]
    path.write_bytes(gzip.compress("\n".join(["user_id,timestamp,item_id,rating", *rows, "1,99,50,3.5"]).encode()))
    first, again, other = (read_log(path, seed) for seed in (1, 1, 2))
    by_time = [log.at(log.by_user()[0]) for log in (first, again, other)]
    items = [log.ids_NK[:, 0].tolist() for log in by_time]
    assert items[0] == items[1] != items[2]
    assert sorted(items[0][1:]) == list(range(1, 41)) != items[0][1:]
    assert items[0][0] == 41
    assert first.ids.fields["item"] == (*map(str, range(1, 41)), "50")
    expected = {item: float(1 + item % 5 >= 4) for item in range(1, 41)} | {41: 0.0}
    assert dict(zip(items[0], by_time[0].outcome_N.tolist(), strict=True)) == expected
    assert by_time[0].time_us_N.tolist() == [99_000_000] + 40 * [100_000_000]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("user_id,timestamp,item_id\n1,1,1\n", "lacks the column rating: its header must name user_id, timestamp"),
        ("user_id,timestamp,item_id,rating\n1,1,1,good\n", 'line 2: rating is "good", not a number'),
        ("user_id,timestamp,item_id,rating\n1,1,1\n", "line 2: 3 cells, the header has 4"),
        ("user_id,timestamp,item_id,rating\n", "has no events"),
    ],
)
def test_log_that_cannot_be_used_says_why(text: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "ratings.csv"
    path.write_text(text)
    with pytest.raises(LogError, match=told):
        read_log(path, 0)


@pytest.mark.timeout(RUN_TIMEOUT_S)
def test_quick_run_tells_served_rankings_beside_the_others(tmp_path: Path) -> None:
    printed = run_quick("recommendation", tmp_path)
    rows = {name: cells[1:] for name, cells in rows_of(printed).items()}
    assert list(rows) == [
        "ours, as served",
        "ours",
        "ours, by the state of last night",
        "item-kNN of late likes",
        "item-kNN",
        "popularity",
        "chance",
    ]
    assert float(rows["ours, as served"][0]) == pytest.approx(float(rows["ours"][0]), abs=0.021)
    everything = {name: float(cells[1]) for name, cells in rows.items() if cells[1]}
    assert everything["ours"] > everything["ours, by the state of last night"] > everything["chance"]
    assert everything["ours"] > everything["item-kNN"] > everything["popularity"] > everything["chance"]
    agreed = re.search(r"by the service, ([0-9.]+)% at the very place as offline", " ".join(printed.split()))
    assert agreed is not None
    assert float(agreed[1]) >= 90.0


def test_unusable_log_ends_the_run_with_a_clear_text(tmp_path: Path) -> None:
    ended = ran("recommendation", "--data", tmp_path / "none.csv", "--out", tmp_path)
    assert ended.returncode == 1
    assert "recommendation: " in ended.stderr
    assert "none.csv cannot be read as CSV" in ended.stderr
    assert "Traceback" not in ended.stderr
