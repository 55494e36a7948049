"""Simulated learners: reproducible, valid, and learning by practice."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evercurrent.models.adaptive.data import Floats, Ints
from evercurrent.models.knowledge_tracing.simulator import GUESS, SLIP, World, default_world, simulate

SHAPES = st.tuples(st.integers(1, 12), st.integers(1, 8), st.integers(1, 30), st.integers(1, 20))


@settings(max_examples=50, deadline=None)
@given(shape=SHAPES, seed=st.integers(0, 2**32))
def test_log_is_valid(shape: tuple[int, int, int, int], seed: int) -> None:
    num_skills, items_a_skill, num_users, num_events = shape
    world = World.draw(num_skills * items_a_skill, num_skills, seed)
    log = simulate(world, num_users, num_events, seed)
    assert len(log) == num_users * num_events
    assert log.ids_NK[:, 0].min() >= 1
    assert log.ids_NK[:, 0].max() < log.ids.sizes["item"]
    assert np.array_equal(world.item_skill_I[log.ids_NK[:, 0] - 1] + 1, log.ids_NK[:, 1])
    assert set(np.unique(log.outcome_N)) <= {0.0, 1.0}
    assert np.array_equal(np.bincount(log.user_N), np.full(num_users, num_events))
    assert np.all(np.diff(log.order_N) >= 0)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_same_seed_same_log(seed: int) -> None:
    world = World.draw(12, 4, seed=1)
    log, again, other = (simulate(world, 20, 20, seed=number) for number in (seed, seed, seed + 1))
    for column in ("user_N", "order_N", "ids_NK", "outcome_N"):
        assert np.array_equal(getattr(log, column), getattr(again, column))
    assert not np.array_equal(log.ids_NK[:, 0], other.ids_NK[:, 0])


def test_practice_helps_and_a_pause_costs() -> None:
    """With one skill learners improve without a pause; with many, each skill rests and fades in between."""
    devoted = simulate(World.draw(10, 1, seed=3), 3_000, 60, seed=3).outcome_N.reshape(60, 3_000)
    assert devoted[40:].mean() > devoted[:5].mean() + 0.15
    assert GUESS < devoted[:5].mean() < 1 - SLIP
    log = simulate(World.draw(40, 20, seed=3), 3_000, 100, seed=3)
    before, after = visits_after_a_pause(log.ids_NK[:, 1].reshape(100, 3_000), log.outcome_N.reshape(100, 3_000))
    assert after < before - 0.01


def visits_after_a_pause(skill_TU: Ints, outcome_TU: Floats) -> tuple[float, float]:
    """Share of right answers at the end of a stretch, and when the same skill comes again at least 40 events later."""
    ends, returns = [], []
    for user in range(skill_TU.shape[1]):
        last: dict[int, int] = {}
        for t, skill in enumerate(skill_TU[:, user]):
            if skill in last and t - last[skill] > 40:
                ends.append(outcome_TU[last[skill], user])
                returns.append(outcome_TU[t, user])
            last[skill] = t
    return float(np.mean(ends)), float(np.mean(returns))


def test_default_world_stays_the_same() -> None:
    """The shipped weights know these items: another world would make them worthless."""
    world = default_world()
    assert world.item_skill_I.size == 300
    assert world.skill_difficulty_K.size == 30
    assert world.item_difficulty_I[:3] == pytest.approx(World.draw(300, 30, seed=2).item_difficulty_I[:3])


def test_world_needs_an_item_for_each_skill() -> None:
    with pytest.raises(ValueError, match="each skill needs an item"):
        World.draw(num_items=3, num_skills=4, seed=0)
