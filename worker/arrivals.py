"""Who waits for users that are not in memory yet, and what was sent for them meanwhile. Pure.

A tag whose user is on the way is *waiting*: its events are set aside in their order, so that they hold up nobody, and
go into the inbox when the user is here or cannot come. Bounded in waiters, and in what a link may have set aside: the
rest of what it may have in flight is for those who are here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1.worker_pb2 import LinkTagOpen
from worker.inbox import Waiting

ARRIVALS_MAX = 65_536
ASIDE_MAX = 4096
"""Events of a link that are set aside before no more users may be waited for: a quarter of what a link has in flight by
default."""


@dataclass(slots=True, eq=False)
class WaitingTag:
    """A tag of a link that is to be opened."""

    link: int
    request: LinkTagOpen
    user: str
    aside: list[Waiting] = field(default_factory=list)

    @property
    def slot(self) -> int:
        return self.request.slot


@dataclass(slots=True, eq=False)
class Caller:
    """Somebody who wants a user's row, or to be told why there is none."""

    user: str
    slot: int
    answer: Callable[[int | pb.Rejection], None]


Arrival = WaitingTag | Caller


class Arrivals:
    """All that wait, by slot and user."""

    def __init__(self, aside_max: int = ASIDE_MAX) -> None:
        self._aside_max = aside_max
        self._by_slot: dict[int, dict[str, list[Arrival]]] = {}
        self._slots: dict[str, int] = {}
        self._tags: dict[tuple[int, int], WaitingTag] = {}
        self._num_aside: Counter[int] = Counter()
        self._num_waiting = 0

    def __len__(self) -> int:
        return self._num_waiting

    def is_full(self, link: int) -> bool:
        """Whether a link may have no more users waited for."""
        return self._num_waiting >= ARRIVALS_MAX or self._num_aside[link] >= self._aside_max

    def add(self, arrival: Arrival) -> None:
        """Wait for a user."""
        self._slots[arrival.user] = arrival.slot
        self._by_slot.setdefault(arrival.slot, {}).setdefault(arrival.user, []).append(arrival)
        self._num_waiting += 1
        if isinstance(arrival, WaitingTag):
            self._tags[arrival.link, arrival.request.tag] = arrival

    def set_aside(self, link: int, tag: int, events: Waiting) -> None:
        """Keep events of a tag that waits."""
        self._tags[link, tag].aside.append(events)
        self._num_aside[link] += len(events)

    def take_user(self, user: str) -> list[Arrival]:
        """Those that wait for a user, who do so no more."""
        slot = self._slots.pop(user, None)
        if slot is None:
            return []
        users = self._by_slot[slot]
        taken = users.pop(user)
        if not users:
            del self._by_slot[slot]
        return self._taken(taken)

    def take_slots(self, slots: Iterable[int]) -> list[Arrival]:
        """Those that wait for users of these slots, who do so no more."""
        users = [user for slot in slots for user in self._by_slot.get(slot, ())]
        return [arrival for user in users for arrival in self.take_user(user)]

    def take_link(self, link: int) -> list[WaitingTag]:
        """The tags of a link, which wait no more."""
        tags = [tag for tag in self._tags.values() if tag.link == link]
        for tag in tags:
            left = [arrival for arrival in self._by_slot[tag.slot][tag.user] if arrival is not tag]
            self._by_slot[tag.slot][tag.user] = left
            self._taken([tag])
            if not left:
                self.take_user(tag.user)
        return tags

    def _taken(self, arrivals: list[Arrival]) -> list[Arrival]:
        self._num_waiting -= len(arrivals)
        for arrival in arrivals:
            if isinstance(arrival, WaitingTag):
                del self._tags[arrival.link, arrival.request.tag]
                self._num_aside[arrival.link] -= sum(map(len, arrival.aside))
        return arrivals
