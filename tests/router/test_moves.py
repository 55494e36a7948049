"""Sessions that move, against workers, clients and a network that do what the protocol allows (tests.router.moving):
nothing twice, nothing out of order, nothing lost uncounted, and once all is calm nothing hangs and nothing is left."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1 import worker_pb2
from evercurrent.v1.columns_pb2 import EVENT_KIND_CLOSE
from router import outbox
from router.core import Bounds
from tests.router.moving import ACTS, World
from tests.router.playing import WORKER, Time, core_of, link
from tests.router.test_core import Remembering, end, reply, send

WIDE = Bounds(in_flight_link_max=100, in_flight_session_max=10)
TIGHT = Bounds(in_flight_link_max=12, in_flight_session_max=6, replay_events_max=12)
BLOCKING = Bounds(in_flight_link_max=100, in_flight_session_max=10, replay_events_max=10, blocks_when_full=True)
HASTY = Bounds(in_flight_link_max=100, in_flight_session_max=10, move_timeout_us=400_000)

OFTEN = {"observe": 10, "turn": 14, "open": 6, "write": 6, "read": 6, "step": 6, "flush": 6, "deliver": 6, "send": 5}
RARELY = {"die": 0.5, "unlink": 0.7, "usurp": 0.6, "ring": 0.7, "slow": 0.5}

Step = tuple[str, int, int, int]

KNOWN: dict[str, tuple[Bounds, list[Step]]] = {
    "what a new owner has is kept until it is durable": (
        TIGHT,
        [
            ("call", 6, 5, 7),
            ("unlink", 0, 8, 3),
            ("turn", 11, 11, 1),
            ("move", 3, 11, 8),
            ("turn", 5, 11, 1),
            ("turn", 2, 6, 3),
            ("usurp", 10, 11, 4),
        ],
    ),
    "an open is answered after its feed has left and another has come": (
        WIDE,
        [
            ("call", 7, 2, 11),
            ("call", 9, 5, 4),
            ("leave", 8, 1, 1),
            ("open", 4, 2, 3),
            ("turn", 2, 7, 4),
            ("close", 4, 9, 5),
        ],
    ),
    "what a feed was told by a false owner is not waited for when it has left": (
        TIGHT,
        [
            ("call", 10, 1, 9),
            ("move", 4, 5, 0),
            ("mood", 8, 3, 6),
            ("elsewhere", 10, 2, 9),
            ("call", 4, 10, 6),
            ("open", 9, 8, 11),
            ("call", 1, 1, 2),
            ("leave", 0, 7, 3),
            ("leave", 2, 2, 10),
            ("turn", 11, 10, 8),
            ("leave", 0, 11, 9),
            ("pass", 8, 2, 6),
            ("usurp", 8, 8, 7),
            ("turn", 7, 0, 11),
            ("leave", 9, 0, 2),
        ],
    ),
    "a feed that took over leaves before it is told": (
        WIDE,
        [
            ("call", 0, 0, 10),
            ("turn", 3, 10, 2),
            ("join", 11, 11, 5),
            ("call", 5, 5, 6),
            ("call", 6, 11, 11),
            ("call", 5, 6, 4),
            ("leave", 4, 7, 1),
            ("die", 0, 8, 8),
        ],
    ),
}
"""Short scripts that once went wrong."""

small = st.integers(0, 11)
steps = st.tuples(st.sampled_from(sorted(ACTS)), small, small, small)


def play(bounds: Bounds, script: list[Step]) -> None:
    world = World(bounds)
    for name, a, b, c in script:
        world.act(name, a, b, c)
    world.finish()
    missing = world.missing()
    assert not missing or world.core.log.num_dropped, f"{missing} were answered and are gone uncounted"


@pytest.mark.parametrize("name", KNOWN)
def test_what_once_went_wrong(name: str) -> None:
    play(*KNOWN[name])


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


class Played:
    """One worker with a store, played by hand, and a session of a feed that has sent the first seq."""

    def __init__(self, wait_durable: bool = True) -> None:
        self.time = Time()
        self.core = core_of(time=self.time)
        self.box = link(self.core, has_store=True)
        self.first, self.second = Remembering(), Remembering()
        self.sid = self.open(self.first, wait_durable)
        assert self.asks()
        self.answer(applied_seq=5, durable_seq=5)
        self.events = send(self.core, self.box, self.sid, 6)

    def open(self, feed: Remembering, wait_durable: bool = True) -> int:
        return self.core.open(self.core.add_feed(feed), 0, "ann", "", "one", wait_durable)

    def asks(self) -> bool:
        """Whether the worker is asked for the session, and sent nothing else."""
        frame = self.box.take().frame
        assert not frame.events
        return [request.tag for request in frame.opens] == [self.sid]

    def answer(self, applied_seq: int = 0, durable_seq: int = 0, reason: pb.Reason = pb.REASON_UNSPECIFIED) -> None:
        """Answer the open."""
        opened = worker_pb2.LinkTagOpened(tag=self.sid, applied_seq=applied_seq, durable_seq=durable_seq)
        if reason:
            opened.rejection.reason = reason
        self.core.receive(WORKER, worker_pb2.LinkResults(opens=[opened]))

    def close(self) -> None:
        """Answer the close, and nothing else, that was sent."""
        events = self.core.layout.events(self.box.take().frame.events)
        assert events["kind"].tolist() == [EVENT_KIND_CLOSE]
        reply(self.core, events)


def test_an_owner_that_knows_less_than_is_durable_is_asked_again() -> None:
    played = Played()
    reply(played.core, played.events, durable_seq=6)
    end(played.core, played.sid)
    assert played.asks()
    played.answer(applied_seq=5, durable_seq=5)
    played.close()
    assert not played.asks()
    played.time.pass_ms(50)
    assert played.asks()
    played.answer(applied_seq=6, durable_seq=6)
    assert not played.asks()
    assert played.core.sessions.worker[played.sid] == WORKER
    assert played.first.lost == []


def test_a_session_at_risk_is_asked_for_again_though_a_feed_opens_it_only_now() -> None:
    played = Played()
    reply(played.core, played.events)
    assert played.open(played.second) == played.sid
    played.close()
    assert played.asks()
    played.answer(reason=pb.REASON_OVERLOADED)
    played.time.pass_ms(50)
    assert played.asks()
    played.answer(applied_seq=6, durable_seq=5)
    assert [told.applied_seq for told in played.second.answers] == [6]


def test_who_takes_over_is_told_what_is_applied_again_and_what_is_durable() -> None:
    played = Played()
    reply(played.core, played.events)
    played.core.link_lost(WORKER)
    assert played.open(played.second) == played.sid
    played.box = link(played.core, has_store=True)
    assert played.asks()
    played.answer(applied_seq=5, durable_seq=4)
    assert [(told.applied_seq, told.durable_seq) for told in played.second.answers] == [(6, 5)]
    again = played.core.layout.events(played.box.take().frame.events)
    assert again["seq"].tolist() == [6]
    reply(played.core, again)
    assert played.second.told == [], "its answer is for nobody"
    assert played.core._num_muted == played.core.links[WORKER].num_in_flight == 0
