"""When an open load sends: Poisson arrivals, and a clock that can wait for a point in time to within some 50 µs.

Event loops round their timers to whole milliseconds, more than a whole round trip here; a `timerfd` does not. A thread
that sleeps would cost two thread switches an event on cores that the service needs.
"""

from __future__ import annotations

import asyncio
import ctypes
import heapq
import itertools
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

NS_PER_S = 1_000_000_000

_LIBC = ctypes.CDLL(None, use_errno=True)
_TFD_TIMER_ABSTIME = 1


class Clock(Protocol):
    """Time as an open load sees it."""

    def now_ns(self) -> int:
        """Nanoseconds of a monotonic clock."""

    async def sleep_until(self, at_ns: int) -> None:
        """Returns at `at_ns` or, if that has passed, at once."""


class _Timerspec(ctypes.Structure):
    """`struct itimerspec`: interval, then first expiry, each in seconds and nanoseconds."""

    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("value_s", ctypes.c_long),
        ("value_ns", ctypes.c_long),
    )


class PreciseClock:
    """The monotonic clock, sleeping by a Linux timerfd(2) that the running loop watches. Made by `precise_clock`."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._sleepers: list[tuple[int, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def now_ns(self) -> int:
        return time.monotonic_ns()

    async def sleep_until(self, at_ns: int) -> None:
        if at_ns <= time.monotonic_ns():
            return
        wake = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (at_ns, next(self._order), wake))
        if self._sleepers[0][2] is wake:
            self._arm(at_ns)
        await wake

    def expire(self) -> None:
        """Wakes who is due; called by the loop when the timer has fired."""
        os.read(self._descriptor, 8)
        now_ns = time.monotonic_ns()
        while self._sleepers and self._sleepers[0][0] <= now_ns:
            wake = heapq.heappop(self._sleepers)[2]
            if not wake.done():
                wake.set_result(None)
        if self._sleepers:
            self._arm(self._sleepers[0][0])

    def _arm(self, at_ns: int) -> None:
        when = _Timerspec(0, 0, *divmod(at_ns, NS_PER_S))
        if _LIBC.timerfd_settime(self._descriptor, _TFD_TIMER_ABSTIME, ctypes.byref(when), None):
            raise OSError(ctypes.get_errno(), "timerfd_settime")


@contextmanager
def precise_clock() -> Iterator[PreciseClock]:
    """A clock for the running event loop."""
    loop = asyncio.get_running_loop()
    descriptor = _LIBC.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "timerfd_create")
    clock = PreciseClock(descriptor)
    loop.add_reader(descriptor, clock.expire)
    try:
        yield clock
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def poisson(rate_per_s: float, duration_s: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Ascending times in ns from 0 on of a Poisson process."""
    count = int(rng.poisson(rate_per_s * duration_s))
    return np.sort(rng.uniform(0, duration_s * NS_PER_S, count)).astype(np.int64)


def poisson_arrivals(
    rate_per_s: float, duration_s: float, num_streams: int, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Ascending arrival times in ns from 0 on for each stream: together a Poisson process of `rate_per_s`."""
    return [poisson(rate_per_s / num_streams, duration_s, rng) for _ in range(num_streams)]
