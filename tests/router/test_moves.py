"""Sessions that move, against workers, clients and a network that do what the protocol allows (tests.router.moving):
nothing twice, nothing out of order, nothing lost uncounted, and once all is calm nothing hangs and nothing is left."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router import outbox
from router.core import Bounds
from tests.router.moving import ACTS, World

WIDE = Bounds(in_flight_link_max=100, in_flight_session_max=10)
TIGHT = Bounds(in_flight_link_max=12, in_flight_session_max=6, replay_events_max=12)
BLOCKING = Bounds(in_flight_link_max=100, in_flight_session_max=10, replay_events_max=10, blocks_when_full=True)
HASTY = Bounds(in_flight_link_max=100, in_flight_session_max=10, move_timeout_us=400_000)

OFTEN = {"observe": 10, "turn": 14, "open": 6, "write": 6, "read": 6, "step": 6, "flush": 6, "deliver": 6, "send": 5}
RARELY = {"die": 0.5, "unlink": 0.7, "usurp": 0.6, "ring": 0.7, "slow": 0.5}

Step = tuple[str, int, int, int]

small = st.integers(0, 11)
steps = st.tuples(st.sampled_from(sorted(ACTS)), small, small, small)


def play(bounds: Bounds, script: list[Step]) -> None:
    world = World(bounds)
    for name, a, b, c in script:
        world.act(name, a, b, c)
    world.finish()
    missing = world.missing()
    assert not missing or world.core.log.num_dropped, f"{missing} were answered and are gone uncounted"


@settings(max_examples=100, deadline=None)
@given(bounds=st.sampled_from([WIDE, TIGHT, BLOCKING, HASTY]), script=st.lists(steps, max_size=40))
def test_whatever_happens_each_session_goes_on(bounds: Bounds, script: list[Step]) -> None:
    play(bounds, script)


@pytest.mark.parametrize("bounds", [WIDE, TIGHT, BLOCKING, HASTY], ids=["wide", "tight", "blocking", "hasty"])
@pytest.mark.parametrize("seed", range(20))
def test_long_scripts(bounds: Bounds, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if seed % 2:
        monkeypatch.setattr(outbox, "OPENS_MAX", 1)
        monkeypatch.setattr(outbox, "EVENTS_BYTES_MAX", 200)
    rng = random.Random(seed)
    names = sorted(ACTS)
    weights = [OFTEN.get(name, RARELY.get(name, 2.5)) for name in names]
    script = [
        (name, rng.randrange(12), rng.randrange(12), rng.randrange(12)) for name in rng.choices(names, weights, k=200)
    ]
    play(bounds, script)
