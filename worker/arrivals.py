"""Who waits for users that are not in memory yet, and what was sent for them meanwhile. Pure.

A tag whose user is on the way is *waiting*: its events are set aside in their order, so that they hold up nobody, and
go into the inbox when the user is here or cannot come. Bounded in waiters; a router sends a tag little before the
answer to its open, and the link's own bound counts what it does send.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1.worker_pb2 import LinkTagOpen
from worker.inbox import Waiting

ARRIVALS_MAX = 65_536


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
    """All that wait, by user."""

    def __init__(self) -> None:
        self._by_user: dict[str, list[Arrival]] = {}
        self._tags: dict[tuple[int, int], WaitingTag] = {}
        self._num_waiting = 0

    def __len__(self) -> int:
        return self._num_waiting

    @property
    def is_full(self) -> bool:
        return self._num_waiting >= ARRIVALS_MAX

    def add(self, arrival: Arrival) -> None:
        """Wait for a user."""
        self._by_user.setdefault(arrival.user, []).append(arrival)
        self._num_waiting += 1
        if isinstance(arrival, WaitingTag):
            self._tags[arrival.link, arrival.request.tag] = arrival

    def tag(self, link: int, tag: int) -> WaitingTag:
        """The tag of a link, which is waiting."""
        return self._tags[link, tag]

    def take_user(self, user: str) -> list[Arrival]:
        """Those that wait for a user, who do so no more."""
        return self._taken(self._by_user.pop(user, []))

    def take_slots(self, slots: frozenset[int]) -> list[Arrival]:
        """Those that wait for users of these slots, who do so no more."""
        users = [user for user, waiting in self._by_user.items() if waiting[0].slot in slots]
        return [arrival for user in users for arrival in self.take_user(user)]

    def take_link(self, link: int) -> list[WaitingTag]:
        """The tags of a link, which wait no more."""
        tags = [tag for tag in self._tags.values() if tag.link == link]
        for tag in tags:
            waiting = self._by_user[tag.user]
            waiting.remove(tag)
            if not waiting:
                del self._by_user[tag.user]
        self._taken(tags)
        return tags

    def _taken(self, arrivals: list[Arrival] | list[WaitingTag]) -> list[Arrival]:
        self._num_waiting -= len(arrivals)
        for arrival in arrivals:
            if isinstance(arrival, WaitingTag):
                del self._tags[arrival.link, arrival.request.tag]
        return list(arrivals)
