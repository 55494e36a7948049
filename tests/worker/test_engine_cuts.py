"""Results never depend on how a batch was cut: the engine against its one-at-a-time twin.

The events of several users, over sessions, links and tags, are cut into random frames and stepped in random batches;
the twin handles them one by one, in the order of their arrival.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ulid import ULID

from evercurrent.errors import rejection
from evercurrent.slots import slot_of
from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1.columns_pb2 import (
    EVENT_KIND_CLOSE,
    EVENT_KIND_NO_OUTCOME,
    EVENT_KIND_OBSERVATION,
    EVENT_KIND_QUERY,
    EVENT_KIND_REFUSED,
    EVENT_KIND_SKIP,
    IndexedRejection,
)
from evercurrent.v1.worker_pb2 import LinkTagOpen
from evercurrent.wire import Event
from tests.toys import NUM_DEEDS, Counting
from tests.worker.playing import Played
from tests.worker.twin import Twin, TwinEvent, TwinResult
from worker.results import Results

TOLERANCE = 1e-5
SESSIONS = [str(ULID.from_int(1000 + number)) for number in range(3)]


@dataclass(frozen=True)
class Feed:
    """One tag of one link: a session of a user ("" for unsequenced)."""

    link: int
    tag: int
    user: str
    session: str


FEEDS = [
    Feed(0, 0, "ann", SESSIONS[0]),
    Feed(0, 1, "ann", ""),
    Feed(0, 2, "bob", SESSIONS[0]),
    Feed(0, 70, "cid", SESSIONS[2]),
    Feed(1, 0, "ann", SESSIONS[1]),
    Feed(1, 1, "bob", SESSIONS[0]),
    Feed(1, 2, "dan", ""),
]
NUM_LINKS = 2

finite = st.floats(-2, 2, width=32)


@st.composite
def drawn_event(draw: st.DrawFn) -> tuple[TwinEvent, int]:
    """An event, and how far its seq is from the one that is due."""
    kinds = [EVENT_KIND_OBSERVATION] * 5 + [
        EVENT_KIND_NO_OUTCOME,
        EVENT_KIND_QUERY,
        EVENT_KIND_QUERY,
        EVENT_KIND_SKIP,
        EVENT_KIND_REFUSED,
    ]
    ordinary = draw(st.integers(0, 3)) > 0
    return TwinEvent(
        kind=draw(st.sampled_from(kinds)),
        seq=0,
        deed=draw(st.integers(0, 11) if ordinary else st.integers(-1, NUM_DEEDS)),
        place=draw(st.integers(0, 3) if ordinary else st.integers(-1, 4)),
        features=(draw(finite), draw(finite if ordinary else st.sampled_from([1.0, float("nan"), float("inf")]))),
        outcome=draw(finite if ordinary else st.sampled_from([0.5, 11.0, float("nan")])),
        expired=not ordinary and draw(st.booleans()),
        event_time_us=1 if ordinary else draw(st.sampled_from([1, -1])),
    ), draw(st.sampled_from([0, 0, 0, 0, 0, -1, 1, 2]))


@dataclass(frozen=True)
class Frame:
    """Events of one link that arrive as one message."""

    link: int
    events: list[tuple[int, TwinEvent, int]]


@dataclass(frozen=True)
class Steps:
    """That many steps, if there is anything to do."""

    count: int


@dataclass(frozen=True)
class Reopen:
    """A feed is closed and, when that has been answered, opened again."""

    feed: int


@st.composite
def drawn_frame(draw: st.DrawFn) -> Frame:
    link = draw(st.integers(0, NUM_LINKS - 1))
    own = [index for index, feed in enumerate(FEEDS) if feed.link == link]
    events = draw(st.lists(st.tuples(st.sampled_from(own), drawn_event()), min_size=1, max_size=12))
    return Frame(link, [(feed, event, offset) for feed, (event, offset) in events])


actions = st.lists(
    st.one_of(
        drawn_frame(),
        drawn_frame(),
        drawn_frame(),
        st.integers(1, 3).map(Steps),
        st.integers(0, len(FEEDS) - 1).map(Reopen),
    ),
    min_size=1,
    max_size=14,
)


class Harness:
    """An engine and its twin, fed alike."""

    def __init__(self, batch_max: int) -> None:
        # Every look at the clock is a microsecond later: a timeout of 1 has always passed when the step begins.
        self.engine = Played(Counting(), 100, batch_max, itertools.count(1).__next__)
        self.twin = Twin()
        self.links = [self.engine.open_link() for _ in range(NUM_LINKS)]
        self.given: dict[tuple[int, int], list[tuple[np.void, pb.Rejection | None]]] = defaultdict(list)
        self.expected: dict[tuple[int, int], list[TwinResult]] = defaultdict(list)
        for feed in FEEDS:
            self.open(feed)

    def open(self, feed: Feed) -> None:
        """What the worker says of a session is what its twin knows."""
        request = LinkTagOpen(tag=feed.tag, user_id=feed.user, session_id=feed.session, slot=slot_of(feed.user))
        opened = self.engine.open(self.links[feed.link], request, feed.user)
        user = self.twin.user(feed.user)
        assert opened is not None
        assert not opened.HasField("rejection")
        assert (opened.applied_seq, opened.version) == (user.last_seq.get(feed.session, 0), user.version)

    def send(self, link: int, events: list[tuple[int, TwinEvent, int]]) -> None:
        layout = self.engine.layout
        raw = b""
        refusals = []
        for index, (feed_number, event, offset) in enumerate(events):
            feed = FEEDS[feed_number]
            if event.kind == EVENT_KIND_QUERY or not feed.session:
                seq = 0
            else:
                seq = max(0, self.twin.user(feed.user).last_seq.get(feed.session, 0) + 1 + offset)
            sent = TwinEvent(**{**vars(event), "seq": seq})
            self.expected[link, feed.tag].append(self.twin.handle(feed.user, feed.session, sent))
            raw += layout.pack(*record_of(sent, feed.tag))
            if event.kind == EVENT_KIND_REFUSED:
                why = rejection(pb.REASON_IDS_COUNT, f"ids/{index}", "")
                refusals.append(IndexedRejection(index=index, rejection=why))
        self.engine.take(self.links[link], raw, refusals)

    def step(self) -> None:
        self.note(self.engine.step())

    def note(self, answers: Iterable[Results]) -> None:
        for results in answers:
            reasons = {indexed.index: indexed.rejection for indexed in results.rejections}
            assert len(reasons) == len(results.rejections)
            rejected = np.flatnonzero(results.records["status"] == pb.STATUS_REJECTED).tolist()
            assert sorted(reasons) == rejected
            for index, record in enumerate(results.records):
                key = (self.links.index(results.link), int(record["tag"]))
                self.given[key].append((record, reasons.get(index)))

    def drain(self) -> None:
        self.note(self.engine.answers())

    def reopen(self, feed: Feed) -> None:
        number = FEEDS.index(feed)
        self.send(feed.link, [(number, TwinEvent(EVENT_KIND_CLOSE, 0), -1_000_000)])
        self.drain()
        self.open(feed)

    def check(self) -> None:
        """All that was answered, and all that is remembered."""
        assert self.given.keys() == self.expected.keys()
        for key, expected in self.expected.items():
            given = self.given[key]
            assert len(given) == len(expected)
            for (record, why), result in zip(given, expected, strict=True):
                check_result(record, why, result)
        for name, user in self.twin.users.items():
            row = self.engine.slab.find(name)
            assert row is not None
            count, total, rolled, *weights = self.engine.slab.state[row].tolist()
            assert (count, rolled) == (user.count, user.hash)
            assert total == pytest.approx(user.sum, rel=TOLERANCE, abs=TOLERANCE)
            assert weights == pytest.approx(user.weights, rel=TOLERANCE, abs=TOLERANCE)
            assert int(self.engine.slab.version[row]) == user.version


def record_of(event: TwinEvent, tag: int) -> Event:
    return Event(
        seq=event.seq,
        event_time_us=event.event_time_us,
        stamp_us=7,
        ids=(event.deed, event.place),
        choice=0,
        tag=tag,
        timeout_us=1 if event.expired else 0,
        features=event.features,
        outcome=(event.outcome,),
        kind=event.kind,
    )


def check_result(record: np.void, why: pb.Rejection | None, expected: TwinResult) -> None:
    for name in ("seq", "kind", "status", "version", "applied_seq", "lost"):
        assert int(record[name]) == getattr(expected, name), (name, record, expected)
    assert int(record["stamp_us"]) == 7
    assert (why.reason if why else 0) == expected.reason
    nothing = (float("nan"), float("nan"))
    prediction = record["prediction"].tolist()
    assert prediction == pytest.approx(expected.prediction or nothing, rel=TOLERANCE, abs=TOLERANCE, nan_ok=True)
    loss = float("nan") if expected.loss is None else expected.loss
    assert float(record["loss"]) == pytest.approx(loss, rel=TOLERANCE, abs=TOLERANCE, nan_ok=True)


@given(batch_max=st.integers(1, 6), script=actions)
@settings(max_examples=100, deadline=None)
def test_results_never_depend_on_the_cut(batch_max: int, script: list[Frame | Steps | Reopen]) -> None:
    harness = Harness(batch_max)
    for action in script:
        match action:
            case Frame(link, events):
                harness.send(link, events)
            case Steps(count):
                for _ in range(min(count, harness.engine.num_waiting)):
                    if harness.engine.num_waiting:
                        harness.step()
            case Reopen(feed):
                harness.reopen(FEEDS[feed])
    harness.drain()
    harness.check()
