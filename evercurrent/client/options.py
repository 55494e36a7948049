"""What a client is told when it connects: values, their defaults and bounds; and the parts it takes from outside."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from ulid import ULID

from evercurrent.client.credentials import Credentials
from evercurrent.client.errors import InvalidRequest
from evercurrent.client.spans import NoSpans, Spans

OnFull = Literal["give_up", "block"]


@dataclass(frozen=True, slots=True)
class Retry:
    """How soon to come back: after `first_s`, twice that, … at most `max_s`, each times 0.5 to 1 by chance."""

    first_s: float = 0.05
    max_s: float = 2.0

    def delay_s(self, attempt: int, least_s: float, chance: float) -> float:
        """Seconds to wait before attempt 1, 2, …; `least_s` is what the service asked for, `chance` is in [0, 1)."""
        backoff_s = min(self.max_s, self.first_s * 2.0 ** min(attempt - 1, 30))
        return max(backoff_s * (0.5 + chance / 2), least_s)


DEFAULT_RETRY = Retry()
NO_CREDENTIALS = Credentials()

_POSITIVE = (
    "timeout_s",
    "open_timeout_s",
    "close_timeout_s",
    "in_flight_max",
    "exchange_in_flight_max",
    "exchange_users_max",
    "replay_bytes_max",
)


@dataclass(frozen=True)
class Options:
    """All that can be set, for a client and all it opens.

    `model`: the model that is expected. `model_version`: the version whose predictions sessions and exchanges are to
    hear, live or beside the live one; none: the live one, as it changes.
    `in_flight_max`: observations and queries of a session without an answer; more wait. `exchange_in_flight_max`: the
    same of all users of an exchange. `exchange_users_max`: users of an exchange that are open at once; the ones that
    were idle longest are closed when they are durable.
    `replay_events_max`, `replay_bytes_max`: observations kept until they are durable, of a session or an exchange. When
    that is full, `on_full` says whether calls wait ("block") or the oldest that were answered are given up
    ("give_up"): those are `at_risk` until they are durable.
    """

    namespace: str = ""
    model: str = ""
    model_version: str = ""
    timeout_s: float = 10.0
    open_timeout_s: float = 10.0
    close_timeout_s: float = 30.0
    in_flight_max: int = 256
    exchange_in_flight_max: int = 16_384
    exchange_users_max: int = 65_536
    replay_events_max: int = 65_536
    replay_bytes_max: int = 64 << 20
    on_full: OnFull = "give_up"
    timings: bool = False
    retry: Retry = DEFAULT_RETRY
    credentials: Credentials = NO_CREDENTIALS

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            if getattr(self, name) <= 0:
                raise InvalidRequest(f"{name} is {getattr(self, name)}; it has to be above 0", field=name)
        if self.replay_events_max < self.in_flight_max:
            text = f"replay_events_max ({self.replay_events_max}) is below in_flight_max ({self.in_flight_max})"
            raise InvalidRequest(text, field="replay_events_max")
        if self.on_full not in ("give_up", "block"):
            raise InvalidRequest(f'on_full is "{self.on_full}"; it is "give_up" or "block"', field="on_full")


@dataclass(frozen=True, slots=True)
class Parts:
    """What a client uses of the world, so that tests can give their own. `now_us` is Unix time."""

    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    now_us: Callable[[], int] = lambda: time.time_ns() // 1000
    chance: Callable[[], float] = random.random
    new_session_id: Callable[[], str] = lambda: str(ULID())
    spans: Spans = NoSpans()  # noqa: RUF009  It has no state.


DEFAULT_PARTS = Parts()


def addresses_of(given: str | Sequence[str]) -> tuple[str, ...]:
    """Addresses from one "host:port", several with commas, or a list of them.

    Raises:
        InvalidRequest: there is none, or one has no port.
    """
    texts = given.split(",") if isinstance(given, str) else list(given)
    addresses = tuple(text.strip() for text in texts if text.strip())
    if not addresses:
        raise InvalidRequest("no address was given: connect to one or more routers, host:port", field="addresses")
    for address in addresses:
        host, _, port = address.rpartition(":")
        if not (host and port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
            raise InvalidRequest(f'"{address}" is not host:port', field="addresses")
    return addresses


def session_id_of(given: str) -> str:
    """A session's id as the service writes it.

    Raises:
        InvalidRequest: it is no ULID.
    """
    try:
        return str(ULID.from_str(given))
    except ValueError as error:
        raise InvalidRequest(f'"{given[:64]}" is not a ULID', field="session_id", reason="SESSION_ID") from error
