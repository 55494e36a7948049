"""A routing core by value: workers that are played by the test, and time that it moves."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from itertools import count

from evercurrent.describe import describe
from evercurrent.v1 import worker_pb2
from router.core import Bounds, RoutingCore
from router.outbox import Outbox
from router.ring import build_ring
from tests.toys import Counting

EARLY_US = 800
"""How much too early a timer may fire: an event loop counts in whole milliseconds."""

WORKER = 1
"""The link of the first worker."""


class Time:
    """The clock of a core, and what it wants called later."""

    def __init__(self) -> None:
        self.now_us = 5
        self._later: list[tuple[int, int, Callable[[], None]]] = []
        self._order = count()

    def after(self, delay_us: int, act: Callable[[], None]) -> None:
        early_us = min(EARLY_US, delay_us // 2)
        heapq.heappush(self._later, (self.now_us + delay_us - early_us, next(self._order), act))

    def pass_ms(self, ms: int) -> None:
        """Let time pass; what is due is called."""
        until_us = self.now_us + ms * 1000
        while self._later and self._later[0][0] <= until_us:
            self.now_us, _, act = heapq.heappop(self._later)
            act()
        self.now_us = until_us


def core_of(num_workers: int = 1, bounds: Bounds | None = None, time: Time | None = None) -> RoutingCore:
    """A core whose ring has so many workers, none of them linked."""
    time = time or Time()
    core = RoutingCore(
        bounds or Bounds(in_flight_link_max=100, in_flight_session_max=10), lambda: time.now_us, time.after
    )
    names = [f"worker-{number}" for number in range(num_workers)]
    for number, name in enumerate(names):
        assert core.add_worker(name, f"127.0.0.1:{number + 1}") == number + 1
    core.set_ring(build_ring(dict.fromkeys(names, 1)))
    return core


def link(core: RoutingCore, index: int = WORKER, *, has_store: bool = False) -> Outbox:
    """Link a worker."""
    name = core.links[index].name
    opened = worker_pb2.LinkOpened(
        worker=name, incarnation=f"{name}/1", model=describe(Counting()), has_store=has_store
    )
    return core.link_opened(index, opened, lambda: None)


def turn_ring(core: RoutingCore, names: Sequence[str]) -> None:
    """From now on these workers are on the ring."""
    core.set_ring(build_ring(dict.fromkeys(names, 1)))
