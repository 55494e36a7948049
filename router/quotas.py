"""How much one identity may do: sessions at once, events and bytes a second. Pure: the clock is handed in.

A bucket of a second's worth (token bucket): what is taken may make it negative, and then nothing is taken until it is
not, so that a frame larger than the bucket passes and pays for itself afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from evercurrent.errors import refused
from evercurrent.v1 import observation_pb2 as pb

SESSION_RETRY_MS = 1000
US_PER_S = 1_000_000
_NOTHING = 1e-6
"""Less of an event is none."""
IDENTITIES_SWEPT = 1024
"""When so many are known, those that have nothing open and nothing to pay are forgotten, before twice as many are."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Of each identity; None: no limit."""

    sessions_max: int | None = None
    events_per_s_max: int | None = None
    bytes_per_s_max: int | None = None

    @property
    def are_none(self) -> bool:
        return self.sessions_max is None and self.events_per_s_max is None and self.bytes_per_s_max is None


@dataclass(slots=True)
class _Bucket:
    rate: float
    level: float
    at_us: int

    def fill(self, now_us: int) -> None:
        self.level = min(self.rate, self.level + self.rate * (now_us - self.at_us) / US_PER_S)
        self.at_us = now_us

    @property
    def wait_ms(self) -> int:
        """Until something may be taken; 0: now."""
        return 0 if self.level > -_NOTHING else int(-self.level / self.rate * 1000) + 1


@dataclass(slots=True, eq=False)
class Quota:
    """What one identity has open and may still take."""

    limits: Limits
    clock_us: Callable[[], int]
    num_sessions: int = 0
    _buckets: list[tuple[str, _Bucket]] = field(default_factory=list)

    def __post_init__(self) -> None:
        now_us = self.clock_us()
        for what, rate in (("events", self.limits.events_per_s_max), ("bytes", self.limits.bytes_per_s_max)):
            if rate is not None:
                self._buckets.append((what, _Bucket(rate, rate, now_us)))

    def enter_session(self) -> None:
        """One more is open. Raises Refused: REASON_OVERLOADED, too many are."""
        if self.limits.sessions_max is not None and self.num_sessions >= self.limits.sessions_max:
            text = f"this identity has {self.num_sessions} sessions open"
            raise refused(pb.REASON_OVERLOADED, "", text, SESSION_RETRY_MS)
        self.num_sessions += 1

    def leave_sessions(self, num: int = 1) -> None:
        """So many are open no more."""
        self.num_sessions -= num

    def take(self, num_events: int, num_bytes: int) -> None:
        """Take events. Raises Refused: REASON_OVERLOADED, with the time after which they may be taken."""
        now_us = self.clock_us()
        wait_ms, what = 0, ""
        for name, bucket in self._buckets:
            bucket.fill(now_us)
            if bucket.wait_ms > wait_ms:
                wait_ms, what = bucket.wait_ms, name
        if wait_ms:
            raise refused(pb.REASON_OVERLOADED, "", f"this identity sends more {what} a second than it may", wait_ms)
        for name, bucket in self._buckets:
            bucket.level -= num_events if name == "events" else num_bytes

    def is_idle(self) -> bool:
        """Whether it may be forgotten: a new one would be the same."""
        now_us = self.clock_us()
        for _, bucket in self._buckets:
            bucket.fill(now_us)
        return not self.num_sessions and all(bucket.level >= bucket.rate for _, bucket in self._buckets)


class Quotas:
    """By identity."""

    def __init__(self, limits: Limits, clock_us: Callable[[], int]) -> None:
        self._limits = limits
        self._clock_us = clock_us
        self._quotas: dict[str, Quota] = {}
        self._swept_at = IDENTITIES_SWEPT

    def of(self, subject: str) -> Quota:
        """That of an identity; a new one has all that it may have."""
        quota = self._quotas.get(subject)
        if quota is None:
            if len(self._quotas) >= self._swept_at:
                self._quotas = {name: one for name, one in self._quotas.items() if not one.is_idle()}
                self._swept_at = max(IDENTITIES_SWEPT, 2 * len(self._quotas))
            quota = self._quotas[subject] = Quota(self._limits, self._clock_us)
        return quota
