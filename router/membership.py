"""Which workers are on the ring: what a source lists and what the links say, made into one value.

A lost worker leaves at once, for its users wait meanwhile; three things hold that back, and each costs less than what
it prevents. One that flaps comes back late (its slots would move at every turn). When more than half is lost within
`loss_window_us`, it is more likely that this router sees wrong than that they died, so those beyond half stay until
they have been gone for the window. And a ring that was not empty never becomes so: the last value stays, because
sessions that wait for a worker are better than slots without one. (Compare the panic threshold of Envoy's load
balancer, and route flap damping, RFC 2439.)

What was announced (drained, or leaving by the list) is no loss: it leaves also beyond half and counts as no flap.

Time comes in with each call and never goes back; an earlier one counts as the latest. The outcome depends on the events
alone, not on how often `members` is asked. Never waits, reads no clock, knows no address's meaning.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

LOSSES_MAX = 32
"""Losses of one worker that are remembered; the delay is at its bound long before."""


@dataclass(frozen=True, slots=True)
class Listed:
    """One worker as a source lists it. `is_leaving`: it terminates; off the ring, and reachable still (for Release)."""

    address: str
    is_leaving: bool = False


Listing = Mapping[str, Listed]
"""All workers that a source lists, by name: a complete value."""


@dataclass(frozen=True, slots=True)
class Damping:
    """How losses are held back. Times in microseconds.

    The n-th loss within `flap_window_us` delays the return by 0, `delay_us`, twice that, … at most `delay_us_max`.
    `loss_window_us` is how long losses beyond half of the ring stay on it.
    """

    loss_window_us: int = 5_000_000
    flap_window_us: int = 60_000_000
    delay_us: int = 1_000_000
    delay_us_max: int = 30_000_000

    def delay_after(self, num_losses: int) -> int:
        """How long a worker with so many losses within the window must stay up before it is on the ring again."""
        if num_losses < 2:
            return 0
        return min(self.delay_us << min(num_losses - 2, LOSSES_MAX), self.delay_us_max)


@dataclass(slots=True)
class _Worker:
    """`is_present`: listed, not leaving, not draining and up, as of the last event. `back_us`: from when on a present
    one is on the ring. `lost_us`: when it was lost from the ring, unannounced, until it is back. `kept_until_us`: until
    when it stays on the ring nevertheless."""

    weight: int = 1
    is_up: bool = False
    is_draining: bool = False
    is_present: bool = False
    back_us: int = 0
    lost_us: int | None = None
    kept_until_us: int = 0
    losses_us: deque[int] = field(default_factory=lambda: deque(maxlen=LOSSES_MAX))


class Membership:
    """The workers on the ring, from events in the order in which they happen. Any order of calls is allowed."""

    def __init__(self, damping: Damping = Damping()) -> None:
        self._damping = damping
        self._listing: dict[str, Listed] = {}
        self._workers: dict[str, _Worker] = {}
        self._ring: frozenset[str] = frozenset()
        self._is_stale = False
        self._now_us = 0

    def relist(self, listing: Listing, now_us: int) -> None:
        """The source lists these, and no others."""
        self._advance(now_us)
        self._listing = dict(listing)
        for name in listing:
            self._workers.setdefault(name, _Worker())
        self._settle()

    def up(self, name: str, now_us: int, weight: int = 1) -> None:
        """Its link is open. A link may open before the worker is listed."""
        assert weight > 0
        self._advance(now_us)
        worker = self._workers.setdefault(name, _Worker())
        worker.is_up, worker.weight = True, weight
        self._settle()

    def down(self, name: str, now_us: int) -> None:
        """Its link is lost, or could not be opened."""
        self._advance(now_us)
        if (worker := self._workers.get(name)) is not None:
            worker.is_up, worker.is_draining = False, False
            self._settle()

    def drain(self, name: str, now_us: int) -> None:
        """It said that it is about to stop. Holds until its link is lost; without a link it says nothing."""
        self._advance(now_us)
        if (worker := self._workers.get(name)) is not None and worker.is_up:
            worker.is_draining = True
            self._settle()

    def members(self, now_us: int) -> dict[str, int]:
        """Name → weight of the workers on the ring now, sorted by name.

        One that is kept may be neither up nor listed any more.
        """
        self._advance(now_us)
        return {name: self._workers[name].weight for name in sorted(self._ring)}

    def next_change_us(self, now_us: int) -> int | None:
        """When `members` may change by time alone: later than `now_us`; None for never."""
        self._advance(now_us)
        return self._next_us()

    def _next_us(self) -> int | None:
        moments = [worker.back_us if worker.is_present else worker.kept_until_us for worker in self._workers.values()]
        return min((moment for moment in moments if moment > self._now_us), default=None)

    def _advance(self, now_us: int) -> None:
        """Let time pass, through each moment at which it changes something."""
        while (moment := self._next_us()) is not None and moment <= now_us:
            self._now_us = moment
            self._settle()
        self._now_us = max(self._now_us, now_us)

    def _settle(self) -> None:
        """Bring presence, then the ring, in line with what is listed and linked at this moment."""
        self._keep_beyond_half(self._note_presence())
        self._ring = self._next_ring() or self._ring
        self._forget()

    def _note_presence(self) -> set[str]:
        """Record who came back and who went; returns who was lost from the ring without a word."""
        lost = set()
        for name, worker in self._workers.items():
            is_planned = self._is_planned(name, worker)
            is_present = worker.is_up and name in self._listing and not is_planned
            if is_present and not worker.is_present:
                self._returned(name, worker)
            elif worker.is_present and not is_present and not is_planned:
                worker.losses_us.append(self._now_us)
                if name in self._ring:
                    worker.lost_us = self._now_us
                    lost.add(name)
            elif is_planned and worker.lost_us is not None:
                _excuse(worker)
            worker.is_present = is_present
        return lost

    def _is_planned(self, name: str, worker: _Worker) -> bool:
        listed = self._listing.get(name)
        return worker.is_draining or (listed is not None and listed.is_leaving)

    def _returned(self, name: str, worker: _Worker) -> None:
        """One that never left the ring is not delayed: to take it off now would be the change that damping prevents."""
        delay_us = 0 if name in self._ring else self._damping.delay_after(self._num_losses(worker))
        worker.back_us = self._now_us + delay_us
        worker.kept_until_us = 0

    def _num_losses(self, worker: _Worker) -> int:
        return sum(moment > self._now_us - self._damping.flap_window_us for moment in worker.losses_us)

    def _keep_beyond_half(self, lost: set[str]) -> None:
        """Keep `lost` if with them more than half of the last good ring is lost within the window: all of them, for
        which of those lost in one listing should go is anybody's guess."""
        window_us = self._damping.loss_window_us
        outstanding = {
            name
            for name, worker in self._workers.items()
            if worker.lost_us is not None and worker.lost_us > self._now_us - window_us
        }
        if len(outstanding) > len(self._ring | outstanding) // 2:
            for name in lost:
                self._workers[name].kept_until_us = self._now_us + window_us

    def _next_ring(self) -> frozenset[str]:
        """Who is to be on the ring; empty if nobody is fit for it, and then the last value stays."""
        present = {name: worker for name, worker in self._workers.items() if worker.is_present}
        if all(worker.back_us > self._now_us for worker in present.values()):
            # Nobody else serves: a worker that flaps is better than none.
            for worker in present.values():
                worker.back_us = self._now_us
        serving = {name for name, worker in present.items() if worker.back_us <= self._now_us}
        for name in serving:
            self._workers[name].lost_us = None
        if self._is_stale and serving:
            self._keep_stale()
        kept = {name for name, worker in self._workers.items() if worker.kept_until_us > self._now_us}
        ring = frozenset(serving | kept)
        self._is_stale = not ring
        return ring

    def _keep_stale(self) -> None:
        """The first worker is back after all were lost: those lost with it have another window to follow, lest it be
        given everybody's slots for the moment until they do."""
        for name in self._ring & self._listing.keys():
            worker = self._workers[name]
            if worker.lost_us is not None:
                worker.kept_until_us = self._now_us + self._damping.loss_window_us

    def _forget(self) -> None:
        """Drop what no rule needs any more: names of pods come and go for ever."""
        gone = [
            name
            for name, worker in self._workers.items()
            if name not in self._listing
            and name not in self._ring
            and not worker.is_up
            and not self._num_losses(worker)
        ]
        for name in gone:
            del self._workers[name]


def _excuse(worker: _Worker) -> None:
    """It is announced to leave. If it is lost at this moment, the word came late, and the loss was planned."""
    if not worker.is_present and worker.losses_us and worker.losses_us[-1] == worker.lost_us:
        worker.losses_us.pop()
    worker.lost_us, worker.kept_until_us = None, 0
