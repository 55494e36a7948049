"""Flows: protocols as generators that yield what they need done and are sent the answer.

A flow is plain code: no await, no socket, no clock. Whoever drives it, the worker's shell (`worker.acting`) or the
simulation, carries out each effect and sends its answer, or throws the StoreError that it met. A flow that waits holds
up nobody. The order in which flows start and go on is the driver's.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from evercurrent.telemetry.logs import get_logger
from persistence.errors import StoreError
from persistence.rows import Rows
from persistence.store import Etag

T = TypeVar("T")

TOGETHER_MAX = 64
"""Store effects of one flow that are carried out at once."""
BACKOFF_US = 50_000
BACKOFF_US_MAX = 2_000_000

logger = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Get:
    """Answered by `Stored` or None."""

    key: str


@dataclass(frozen=True, slots=True)
class PutIfAbsent:
    """Answered by an etag, or None if there is such an object."""

    key: str
    body: bytes


@dataclass(frozen=True, slots=True)
class PutIfMatch:
    """Answered by an etag, or None if the object has another."""

    key: str
    body: bytes
    etag: Etag


@dataclass(frozen=True, slots=True)
class Delete:
    """Several objects, not as one; answered by None."""

    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ListKeys:
    """All keys under a prefix, ascending; answered by a list."""

    prefix: str


@dataclass(frozen=True, slots=True)
class ReadSegment:
    """Read and decode a segment, off the loop: answered by `Segment`, or None if there is none."""

    key: str


@dataclass(frozen=True, slots=True)
class AskRelease:
    """Ask another incarnation for slots, `claims` by slot; answered by Released, Dead or Unreachable."""

    incarnation: str
    address: str
    claims: dict[int, int]


@dataclass(frozen=True, slots=True)
class Released:
    """What the owner handed over; `not_held` are the slots whose rows are in its journal, `kept` those that it claimed
    a moment ago and goes on serving."""

    rows: list[Rows]
    not_held: frozenset[int]
    kept: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class HandOver:
    """Give the other owner some rows of what it asked for; answered by None when they were taken on.

    Whoever has nobody to give them to any more answers at once.
    """

    rows: Rows


@dataclass(frozen=True, slots=True)
class Dead:
    """The address refuses, or answers as another incarnation."""


@dataclass(frozen=True, slots=True)
class Unreachable:
    """No complete answer: nobody knows."""


@dataclass(frozen=True, slots=True)
class Offload:
    """Have plain work done off the loop; answered by what it returns. It touches nothing that anybody else changes.

    A StoreError that it raises is thrown into the flow; anything else is a mistake of ours.
    """

    work: Callable[[], object]


@dataclass(frozen=True, slots=True)
class Pause:
    """Let others run; answered by None."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Until the signal is set or so much time has passed (None: no bound); answered by whether it was set."""

    signal: Signal
    timeout_us: int | None = None


@dataclass(frozen=True, slots=True)
class Together:
    """Several store effects at once, answered by a list: answers, or the StoreErrors that were met."""

    effects: tuple[Get | PutIfAbsent | PutIfMatch | ReadSegment, ...]


StoreEffect = Get | PutIfAbsent | PutIfMatch | Delete | ListKeys | ReadSegment | Together
Effect = StoreEffect | AskRelease | HandOver | Offload | Pause | Wait
Flow = Generator[Effect, Any, T]


class Signal:
    """Something that happened. Who waits is told once; `clear` arms it again."""

    def __init__(self) -> None:
        self.is_set = False
        self._waiting: list[Callable[[], None]] = []

    def set(self) -> None:
        self.is_set = True
        waiting, self._waiting = self._waiting, []
        for wake in waiting:
            wake()

    def clear(self) -> None:
        self.is_set = False

    def pulse(self) -> None:
        """Tell those who wait now."""
        self.set()
        self.is_set = False

    def subscribe(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Have `wake` called when it is set next; returns what takes that back."""
        self._waiting.append(wake)

        def unsubscribe() -> None:
            if wake in self._waiting:
                self._waiting.remove(wake)

        return unsubscribe


class Backoff:
    """Waits between tries, each twice as long as the one before, up to BACKOFF_US_MAX."""

    def __init__(self) -> None:
        self._wait_us = BACKOFF_US

    def wait(self) -> Flow[None]:
        """The next one."""
        yield Wait(Signal(), self._wait_us)
        self._wait_us = min(2 * self._wait_us, BACKOFF_US_MAX)


def together(effects: Sequence[Get | PutIfAbsent | PutIfMatch | ReadSegment]) -> Flow[list[Any]]:
    """The answers or errors of many store effects, TOGETHER_MAX at a time."""
    answers: list[Any] = []
    for start in range(0, len(effects), TOGETHER_MAX):
        answers += yield Together(tuple(effects[start : start + TOGETHER_MAX]))
    return answers


def insist(effect: StoreEffect) -> Flow[Any]:
    """The answer of a store effect, again until there is one."""
    backoff = Backoff()
    while True:
        try:
            return (yield effect)
        except StoreError as error:
            logger.warning("the store fails, trying again", why=str(error))
        yield from backoff.wait()
