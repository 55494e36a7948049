"""Who is on the ring: by value, by invariant, and against a twin that looks at every moment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.membership import Damping, Listed, Membership

S = 1_000_000
DAMPING = Damping()


def listing(*names: str, leaving: str = "") -> dict[str, Listed]:
    return {name: Listed(f"{name}:1", is_leaving=name in leaving) for name in names}


def ring_of(*names: str, at: int = 0) -> Membership:
    """These are listed and up."""
    membership = Membership()
    membership.relist(listing(*names), at)
    for name in names:
        membership.up(name, at)
    return membership


def names(membership: Membership, now_us: int) -> str:
    return "".join(membership.members(now_us))


def test_on_the_ring_is_who_is_listed_and_up() -> None:
    membership = Membership()
    assert membership.members(0) == {}
    membership.relist(listing("b", "a"), 0)
    assert membership.members(0) == {}
    membership.up("b", 1, weight=3)
    membership.up("c", 1)
    assert membership.members(1) == {"b": 3}
    membership.up("a", 2)
    assert list(membership.members(2)) == ["a", "b"]
    membership.relist(listing("a", "b", "c"), 3)
    assert membership.members(3) == {"a": 1, "b": 3, "c": 1}
    assert membership.next_change_us(3) is None


def test_a_link_opened_again_may_change_the_weight() -> None:
    membership = ring_of("a", "b")
    membership.up("a", 1, weight=2)
    assert membership.members(1) == {"a": 2, "b": 1}


def test_a_lost_worker_leaves_at_once_and_comes_back_at_once() -> None:
    membership = ring_of("a", "b")
    membership.down("a", S)
    assert names(membership, S) == "b"
    membership.up("a", S + 1)
    assert names(membership, S + 1) == "ab"


def test_the_listing_it_was_given_may_change_later() -> None:
    listed = listing("a", "b")
    membership = Membership()
    membership.relist(listed, 0)
    membership.up("a", 0)
    del listed["a"]
    membership.up("b", 0)
    assert names(membership, 0) == "ab"


def test_flapping_delays_the_return_more_and_more() -> None:
    membership = ring_of("a", "b")
    delays = []
    for now in range(S, S + 9):
        membership.down("b", now)
        membership.up("b", now)
        back = membership.next_change_us(now)
        delays.append(0 if back is None else back - now)
    assert delays == [0, S, 2 * S, 4 * S, 8 * S, 16 * S, 30 * S, 30 * S, 30 * S]
    assert back is not None
    assert names(membership, back - 1) == "a"
    assert names(membership, back) == "ab"
    assert membership.next_change_us(back) is None


def test_it_must_stay_up_during_the_delay() -> None:
    membership = ring_of("a", "b")
    for now in (1, 2):
        membership.down("b", now * S)
        membership.up("b", now * S)
    membership.down("b", 2 * S + S // 2)
    assert membership.next_change_us(2 * S + S // 2) is None
    assert names(membership, 10 * S) == "a"
    membership.up("b", 10 * S)
    assert membership.next_change_us(10 * S) == 12 * S


def test_a_minute_without_a_loss_forgives() -> None:
    membership = ring_of("a", "b")
    for now in (1, 2, 62):
        membership.down("b", now * S)
        membership.up("b", now * S)
    assert names(membership, 62 * S) == "ab"


def test_a_flapping_worker_serves_when_nobody_else_does() -> None:
    membership = ring_of("a", "b")
    for now in (1, 2):
        membership.down("b", now)
        membership.up("b", now)
    assert names(membership, 3) == "a"
    membership.drain("a", 3)
    assert names(membership, 3) == "b"


def test_a_rolling_restart_is_not_damped() -> None:
    membership = ring_of("a", "b", "c")
    for now in range(S, 10 * S, S):
        membership.drain("b", now)
        assert names(membership, now) == "ac"
        membership.down("b", now + 1)
        membership.up("b", now + 2)
        assert names(membership, now + 2) == "abc"


def test_a_restart_announced_by_the_list_is_not_damped() -> None:
    membership = ring_of("a", "b", "c")
    for now in range(S, 10 * S, S):
        membership.relist(listing("a", "b", "c", leaving="b"), now)
        assert names(membership, now) == "ac"
        membership.down("b", now + 1)
        membership.relist(listing("a", "c"), now + 2)
        membership.up("b", now + 3)
        membership.relist(listing("a", "b", "c"), now + 4)
        assert names(membership, now + 4) == "abc"


def test_a_loss_that_the_list_explains_afterwards_was_planned() -> None:
    membership = ring_of("a", "b")
    membership.down("b", 1)
    membership.down("a", 1)
    assert names(membership, 2) == "a"
    membership.relist(listing("a", "b", leaving="b"), 3)
    membership.relist(listing("a", "b"), 4)
    membership.up("b", 5)
    membership.down("b", 6)
    membership.up("b", 7)
    assert names(membership, 7) == "ab"
    assert membership.next_change_us(7) == S * 5 + 1


def test_a_kept_worker_that_leaves_by_the_list_leaves_at_once() -> None:
    membership = ring_of("a", "b", "c")
    membership.down("a", 1)
    membership.down("b", 1)
    assert names(membership, 2) == "bc"
    membership.relist(listing("a", "b", "c", leaving="b"), 3)
    assert names(membership, 3) == "c"


def test_draining_leaves_beyond_half_but_never_nobody() -> None:
    membership = ring_of("a", "b", "c")
    for name, left in (("a", "bc"), ("b", "c"), ("c", "c")):
        membership.drain(name, S)
        assert names(membership, S) == left
    for name in "abc":
        membership.down(name, S)
    assert names(membership, 100 * S) == "c"
    membership.up("a", 100 * S)
    assert names(membership, 100 * S) == "a", "nothing holds c: its going was announced"


def test_a_drain_ends_with_the_link_and_needs_one() -> None:
    membership = ring_of("a", "b")
    membership.drain("b", 1)
    membership.up("b", 2)
    assert names(membership, 2) == "a"
    membership.down("b", 3)
    membership.drain("b", 3)
    membership.up("b", 4)
    assert names(membership, 4) == "ab"


@pytest.mark.parametrize(
    ("members", "left"), [("a", "a"), ("ab", "b"), ("abc", "bc"), ("abcd", "cd"), ("abcde", "cde"), ("abcdef", "def")]
)
def test_half_of_the_ring_may_be_lost_at_once(members: str, left: str) -> None:
    membership = ring_of(*members)
    for name in members:
        membership.down(name, S)
    assert names(membership, S) == left
    assert names(membership, 6 * S - 1) == left
    assert names(membership, 100 * S) == left, "the last ones stay"


def test_losses_beyond_half_leave_when_their_window_is_over() -> None:
    membership = ring_of(*"abcd")
    for now, name in enumerate("abc"):
        membership.down(name, now * S)
    assert names(membership, 2 * S) == "cd"
    assert membership.next_change_us(2 * S) == 7 * S
    assert names(membership, 7 * S - 1) == "cd"
    assert names(membership, 7 * S) == "d"


def test_a_kept_worker_that_comes_back_has_never_left() -> None:
    membership = ring_of("a", "b", "c")
    membership.down("a", 1)
    for now in (2, 3, 4):
        membership.down("b", now)
        membership.up("b", now)
        assert names(membership, now) == "bc"
    assert names(membership, 60 * S) == "bc"


def test_losses_one_after_the_other_are_no_loss_of_half() -> None:
    membership = ring_of(*"abcd")
    for moment, name in enumerate("abc"):
        membership.down(name, moment * 5 * S)
    assert names(membership, 10 * S) == "d"


def test_a_listing_that_drops_more_than_half_drops_nobody_for_the_window() -> None:
    membership = ring_of(*"abcd")
    membership.relist(listing("d"), S)
    assert names(membership, 6 * S - 1) == "abcd"
    assert names(membership, 6 * S) == "d"
    membership.relist({}, 7 * S)
    assert names(membership, 100 * S) == "d"
    membership.relist(listing(*"abcd"), 100 * S)
    assert names(membership, 100 * S) == "abcd", "their links were up all the time"


def test_a_listing_that_drops_half_is_believed() -> None:
    membership = ring_of(*"abcd")
    membership.relist(listing("a", "b"), S)
    assert names(membership, S) == "ab"


def test_when_all_were_lost_the_first_one_back_is_not_given_everything() -> None:
    membership = ring_of(*"abcd")
    for name in "abcd":
        membership.down(name, S)
    assert names(membership, 50 * S) == "cd"
    membership.up("a", 50 * S)
    assert names(membership, 50 * S) == "acd"
    membership.up("c", 51 * S)
    assert names(membership, 55 * S - 1) == "acd"
    assert names(membership, 55 * S) == "ac"


def test_time_that_goes_back_counts_as_the_latest() -> None:
    membership = ring_of("a", at=10 * S)
    membership.down("a", 5 * S)
    membership.relist(listing("a", "b"), 0)
    assert membership.next_change_us(0) == 15 * S


def test_names_that_are_gone_are_forgotten() -> None:
    membership = ring_of("a")
    for number in range(100):
        pod = f"pod-{number}"
        now = (number + 1) * 100 * S
        membership.relist(listing("a", pod), now)
        membership.up(pod, now)
        membership.relist(listing("a"), now)
        membership.down(pod, now)
    assert len(membership._workers) <= 2


NAMES = "abcde"
TICK = S // 2


@dataclass(frozen=True)
class Event:
    ticks: int
    kind: str
    name: str = ""
    listed: Mapping[str, bool] = field(default_factory=dict)

    def apply(self, membership: Membership, tick: int) -> None:
        now = tick * TICK
        if self.kind == "list":
            membership.relist({name: Listed("h:1", leaving) for name, leaving in self.listed.items()}, now)
        else:
            {"up": membership.up, "down": membership.down, "drain": membership.drain}[self.kind](self.name, now)


ticks = st.integers(0, 6) | st.integers(0, 130)
events = st.lists(
    st.builds(Event, ticks, st.sampled_from(["up", "up", "down", "down", "drain"]), st.sampled_from(NAMES))
    | st.builds(
        lambda ticks, listed: Event(ticks, "list", listed=listed),
        ticks,
        st.dictionaries(st.sampled_from(NAMES), st.sampled_from([False, False, False, True])),
    ),
    max_size=40,
)
ALL_UP = [
    Event(0, "list", listed=dict.fromkeys(NAMES, False)),
    *(Event(0, "up", name) for name in NAMES),
]


def at_ticks(script: list[Event]) -> Iterator[tuple[int, Event]]:
    tick = 0
    for event in script:
        tick += event.ticks
        yield tick, event


class Facts:
    """What the events say, without any damping."""

    def __init__(self) -> None:
        self.listed: Mapping[str, bool] = {}
        self.linked: set[str] = set()
        self.draining: set[str] = set()

    def apply(self, event: Event) -> None:
        match event.kind:
            case "list":
                self.listed = event.listed
            case "up":
                self.linked.add(event.name)
            case "down":
                self.linked.discard(event.name)
                self.draining.discard(event.name)
            case "drain" if event.name in self.linked:
                self.draining.add(event.name)

    @property
    def planned(self) -> set[str]:
        return self.draining | {name for name, leaving in self.listed.items() if leaving}

    @property
    def fit(self) -> set[str]:
        return (self.linked & self.listed.keys()) - self.planned


class Twin:
    """The rules, evaluated anew at every tick and after every event, from what happened so far."""

    def __init__(self) -> None:
        self.tick = 0
        self.facts = Facts()
        self.present: set[str] = set()
        self.since: dict[str, int] = {}
        self.delays: dict[str, int] = {}
        self.losses: dict[str, list[int]] = {name: [] for name in NAMES}
        self.lost: dict[str, int] = {}
        self.kept: dict[str, int] = {}
        self.stale = True
        self.ring: set[str] = set()

    def apply(self, tick: int, event: Event) -> None:
        self.go_to(tick)
        self.facts.apply(event)
        self.look()

    def go_to(self, tick: int) -> None:
        while self.tick < tick:
            self.tick += 1
            self.look()

    def look(self) -> None:
        planned, present = self.facts.planned, self.facts.fit
        for name in planned & self.lost.keys():
            self.kept.pop(name, None)
            if self.lost.pop(name) == self.losses[name][-1] and name not in self.present:
                self.losses[name].pop()
        for name in self.present - present - planned:
            self.losses[name].append(self.tick)
            if name in self.ring:
                self.lost[name] = self.tick
        for name in present - self.present:
            recent = [tick for tick in self.losses[name] if self.tick - tick < 120]
            self.delays[name] = [0, 0, 2, 4, 8, 16, 32, 60][min(len(recent), 7)] if name not in self.ring else 0
            self.since[name] = self.tick
            self.kept.pop(name, None)
        recently = {name for name, tick in self.lost.items() if self.tick - tick < 10}
        if 2 * len(recently) > len(self.ring | recently):
            for name in self.present - present:
                if self.lost.get(name) == self.tick:
                    self.kept[name] = self.tick
        self.present = present
        serving = {name for name in present if self.tick - self.since[name] >= self.delays[name]}
        if not serving:
            self.delays |= dict.fromkeys(present, 0)
            serving = present
        self.lost = {name: tick for name, tick in self.lost.items() if name not in serving}
        if self.stale and serving:
            self.kept |= dict.fromkeys(self.ring & self.lost.keys() & self.facts.listed.keys(), self.tick)
        ring = serving | {name for name, tick in self.kept.items() if self.tick - tick < 10}
        self.stale = not ring
        self.ring = ring or self.ring


@given(events, st.booleans())
@settings(max_examples=300, deadline=None)
def test_it_is_as_the_twin_says(script: list[Event], is_asked: bool) -> None:
    """Whether it is asked in between makes no difference."""
    membership, twin = Membership(), Twin()
    for tick, event in at_ticks(ALL_UP + script):
        twin.apply(tick, event)
        event.apply(membership, tick)
        if is_asked:
            assert set(membership.members(tick * TICK)) == twin.ring
    for tick in range(twin.tick, twin.tick + 80):
        twin.go_to(tick)
        before, change_us = set(twin.ring), membership.next_change_us(tick * TICK)
        assert set(membership.members(tick * TICK)) == twin.ring
        twin.go_to(tick + 1)
        if twin.ring != before:
            assert change_us == (tick + 1) * TICK


@given(events)
@settings(max_examples=300, deadline=None)
def test_a_ring_never_becomes_empty_and_settles(script: list[Event]) -> None:
    membership = Membership()
    facts = Facts()
    now = 0
    for tick, event in at_ticks(ALL_UP + script):
        now = tick * TICK
        was_empty = not membership.members(now)
        event.apply(membership, tick)
        facts.apply(event)
        assert was_empty or membership.members(now)
    last = membership.members(now).keys()
    for _ in range(2 * len(NAMES)):
        if (change := membership.next_change_us(now)) is not None:
            assert change > now
            now = change
    assert membership.next_change_us(now) is None
    settled = membership.members(now).keys()
    assert settled == facts.fit if facts.fit else settled <= last


@given(events)
@settings(max_examples=300, deadline=None)
def test_never_is_more_than_half_lost_within_a_window(script: list[Event]) -> None:
    """Counted here from outside: who left the ring without a word, less than a window ago, and is not back."""
    membership = Membership()
    facts = Facts()
    left: dict[str, int] = {}
    for tick, event in at_ticks(ALL_UP + script):
        now = tick * TICK
        before = membership.members(now).keys()
        fit = facts.fit
        event.apply(membership, tick)
        facts.apply(event)
        after = membership.members(now).keys()
        left = {name: moment for name, moment in left.items() if name not in after | facts.planned}
        left |= dict.fromkeys((before & fit) - after - facts.planned, now)
        recently = {name for name, moment in left.items() if moment > now - DAMPING.loss_window_us}
        if recently & (before - after):
            assert len(recently) <= len(before | recently) / 2
