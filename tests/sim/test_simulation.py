"""A few hundred seeds of the simulation; `make sim SEEDS=n` runs more."""

from __future__ import annotations

import pytest

from tests.sim.run import simulate

SEEDS = 300
STRIDE = 50


@pytest.mark.parametrize("first", range(0, SEEDS, STRIDE))
def test_no_seed_breaks_an_invariant(first: int) -> None:
    for seed in range(first, first + STRIDE):
        simulate(seed)


def test_a_seed_gives_the_same_trace_twice() -> None:
    assert simulate(7) == simulate(7)
    assert simulate(7) != simulate(8)
