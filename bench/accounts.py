"""What a user was sent and answered, and what follows from it. Pure.

The model (`bench.counting`) predicts how many events its state has learned from and a hash of them that depends on
their order. So each reply shows what became of all events before it, and the state that is stored in the end is one
view more. Each view is compared with what the one before it leads to: a fault counts once, where it shows first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Self, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

HASH_FACTOR = 31
HASH_MODULUS = 65521
"""The rolling hash stays below 2**21 before its remainder is taken, so float32 holds it exactly."""

NUM_DEEDS = 16
DEED_FACTOR = 7

N = TypeVar("N", int, "Tensor")


def rolled(before: N, code: N) -> N:
    """The hash after one more event; depends on their order. A code is below 2**15."""
    return (before * HASH_FACTOR + code) % HASH_MODULUS


def code_of(deed: N) -> N:
    """What an event adds to the hash."""
    return deed * DEED_FACTOR + 1


class View(NamedTuple):
    """What a state holds: how many events, and their hash."""

    num_events: int = 0
    hashed: int = 0

    def after(self, deed: int) -> View:
        """The same when it has learned from one more."""
        return View(self.num_events + 1, rolled(self.hashed, code_of(deed)))


@dataclass(slots=True)
class Update:
    """One event of a user. `view`: what the reply says that the state was before; None: no reply, or one without."""

    deed: int
    intended_ns: int
    replied_ns: int = 0
    view: View | None = None
    is_duplicate: bool = False
    is_correct: bool = False
    """Set by `Account.judge`: its reply shows what the replies before lead to."""

    @property
    def latency_ns(self) -> int:
        """From the intended send to the reply, or to the error."""
        return self.replied_ns - self.intended_ns


@dataclass(frozen=True, slots=True)
class Counts:
    """Faults, in events. `duplicate_replies` is none: applied once, and the reply went down with a stream."""

    lost: int = 0
    duplicated: int = 0
    misordered: int = 0
    duplicate_replies: int = 0

    def __add__(self, other: Self) -> Counts:
        return Counts(
            self.lost + other.lost,
            self.duplicated + other.duplicated,
            self.misordered + other.misordered,
            self.duplicate_replies + other.duplicate_replies,
        )


@dataclass(slots=True)
class Account:
    """All updates of one user, which has one producer, in the order in which they were sent."""

    user: str
    updates: list[Update] = field(default_factory=list)

    def send(self, deed: int, intended_ns: int) -> Update:
        """One more."""
        self.updates.append(Update(deed, intended_ns))
        return self.updates[-1]

    def judge(self, stored: View) -> Counts:
        """Compare every view with what the ones before lead to, the stored one last."""
        counts = Counts(duplicate_replies=sum(update.is_duplicate for update in self.updates))
        expected = View()
        for update in self.updates:
            if update.view is not None:
                update.is_correct = update.view == expected
                counts += _fault(update.view, expected)
                expected = update.view
            expected = expected.after(update.deed)
        return counts + _fault(stored, expected)

    def longest_ns(self, start_ns: int, end_ns: int) -> int | None:
        """The longest latency of the updates that waited for their reply at any moment of this time; None: none did."""
        waited = (one for one in self.updates if one.intended_ns < end_ns and one.replied_ns > start_ns)
        return max((update.latency_ns for update in waited), default=None)

    def recovery_ns(self, lost_ns: int) -> int | None:
        """From this moment to the first correct reply to an update that was to be sent after it; None: there was
        none."""
        replies = (update.replied_ns for update in self.updates if update.intended_ns >= lost_ns and update.is_correct)
        first_ns = min(replies, default=None)
        return None if first_ns is None else first_ns - lost_ns


def _fault(found: View, expected: View) -> Counts:
    more = found.num_events - expected.num_events
    return Counts(lost=max(0, -more), duplicated=max(0, more), misordered=int(more == 0 and found != expected))


def judged(accounts: Iterable[Account], stored: dict[str, View]) -> Counts:
    """The faults of all users."""
    return sum((account.judge(stored.get(account.user, View())) for account in accounts), Counts())


def latencies_ns(accounts: Sequence[Account], start_ns: int, end_ns: int) -> list[int]:
    """The latencies of all updates that were to be sent in this time."""
    return [
        update.latency_ns
        for account in accounts
        for update in account.updates
        if start_ns <= update.intended_ns < end_ns
    ]
