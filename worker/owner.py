"""One incarnation as an owner of slots: what its claims, its journal and its residents all need to know of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

from evercurrent.errors import EvercurrentError, rejection
from evercurrent.v1 import observation_pb2 as pb
from worker.counts import Counts
from worker.flows import Flow, Signal
from worker.residents import Indices, Mask


class Fenced(EvercurrentError):
    """Another incarnation has sealed this one's journal: it owns nothing any more, and a new one must begin."""


class Users(Protocol):
    """Who feeds the residents and asks for them: told at once, never raising."""

    def slots_ready(self, slots: Sequence[int]) -> None:
        """They are served from now on: seek the users that wait for them."""

    def slots_refused(self, slots: Sequence[int], why: pb.Rejection) -> None:
        """They are not served; who waits for them is refused."""

    def slots_lost(self, slots: Mask, why: pb.Rejection) -> None:
        """They are served no more, from now on; their rows are about to go."""

    def user_ready(self, user: str) -> None:
        """One that was sought is resident, or may be sought again."""

    def user_refused(self, user: str, why: pb.Rejection) -> None:
        """One that was sought cannot be served now."""

    def durable(self, rows: Indices) -> None:
        """More of these rows is durable."""

    def fenced(self) -> None:
        """This incarnation is over."""


@dataclass(frozen=True, slots=True)
class Timing:
    """How often the journal is written, when a silent owner counts as dead, how often dead journals are looked for, how
    long a slot is kept that was just claimed, whoever asks for it; microseconds."""

    journal_interval_us: int
    dead_after_us: int
    sweep_interval_us: int = 300_000_000
    hold_us: int = 2_000_000

    @property
    def heartbeat_us(self) -> int:
        """An owner writes a segment at least this often, if need be an empty one."""
        return self.dead_after_us // 4


def stopping() -> pb.Rejection:
    """Why a worker that is about to stop serves nobody new."""
    return rejection(pb.REASON_NOT_OWNER, "", "the worker is stopping", 100)


@dataclass(slots=True, eq=False)
class Owner:
    """`start` has a flow driven beside the others. `released` is pulsed when slots were given away."""

    name: str
    address: str
    timing: Timing
    clock_us: Callable[[], int]
    random: Random
    start: Callable[[Flow[None]], None]
    users: Users | None = None
    released: Signal = field(default_factory=Signal)
    counts: Counts = field(default_factory=Counts)
    is_draining: bool = False
    is_closing: bool = False

    @property
    def tell(self) -> Users:
        """Who is told what becomes of the slots."""
        assert self.users is not None, "nobody is told of the slots yet"
        return self.users
