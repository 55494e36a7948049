"""A few hundred seeds of the simulation; `make sim SEEDS=n` runs more."""

from __future__ import annotations

import re

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


def test_what_can_happen_happens() -> None:
    trace = "\n".join(line for seed in range(20) for line in simulate(seed))
    for happens in ("dies", "pauses", "is slow", "partition", "store down", "is fenced", "releases", "sweeps"):
        assert happens in trace
    assert re.search(r"releases .* but \[\d", trace), "nobody was asked for a claim that it does not hold"
    assert re.search(r"forgotten at .* True", trace)
    assert re.search(r"forgotten at .* False", trace)
