"""The identity of routers and workers towards workers: a name in their certificate, or the cluster's token.

The token itself never travels. Each call carries a proof of it for one method of one worker, at one time and once:

    evercurrent-cluster: v1 <unix ms> <nonce> <HMAC-SHA256(token, "v1 <method> <worker> <unix ms> <nonce>")>

so what a log, a proxy or a worker sees of it opens nothing else, and not the same again. Clocks may differ by
WINDOW_MS. The token's file may hold several lines: the first is used and all count, so that it can be changed in turns.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path

from evercurrent.channels import Metadata
from evercurrent.errors import Refused, refused
from evercurrent.security.files import Watched
from evercurrent.settings import SettingsError
from evercurrent.v1 import observation_pb2 as pb

HEADER = "evercurrent-cluster"
VERSION = "v1"
WINDOW_MS = 30_000
SECRET_BYTES_MIN = 16
NONCES_MAX = 100_000
"""Proofs within the window; when there are more, calls are refused: routers make a few each time they link."""

Clock = Callable[[], int]
"""Milliseconds since the Unix epoch."""


def unix_ms() -> int:
    return time.time_ns() // 1_000_000


def parse_secrets(contents: Sequence[bytes]) -> tuple[bytes, ...]:
    """The tokens in a file, the one to use first. Raises ValueError: there is none, or one is too short."""
    found = tuple(line.strip() for line in contents[0].splitlines() if line.strip())
    if not found:
        raise ValueError("the file holds no token")
    if any(len(one) < SECRET_BYTES_MIN for one in found):
        raise ValueError(f"a token has fewer than {SECRET_BYTES_MIN} bytes: take `openssl rand -hex 32`")
    return found


def watched_secrets(path: Path) -> Watched[tuple[bytes, ...]]:
    """The tokens of a file that may change. Raises SettingsError: it holds none."""
    try:
        return Watched([path], parse_secrets)
    except (OSError, ValueError) as error:
        raise SettingsError(f"cluster_token_file: {error}") from error


def proof(secret: bytes, method: str, worker: str, now_ms: int, nonce: str) -> str:
    """What is sent for one call."""
    text = f"{VERSION} {method} {worker} {now_ms} {nonce}"
    mac = hmac.new(secret, text.encode(), sha256).hexdigest()
    return f"{VERSION} {now_ms} {nonce} {mac}"


class Prover:
    """Makes proofs for calls to one worker."""

    def __init__(self, secrets_: Callable[[], Sequence[bytes]], worker: str, clock: Clock = unix_ms) -> None:
        self._secrets = secrets_
        self._worker = worker
        self._clock = clock

    def metadata(self, method: str) -> Metadata:
        """What goes with a call of `/service/method`."""
        made = proof(self._secrets()[0], method, self._worker, self._clock(), secrets.token_hex(16))
        return ((HEADER, made),)


class Verifier:
    """Takes each proof for this worker once."""

    def __init__(self, secrets_: Callable[[], Sequence[bytes]], worker: str, clock: Clock = unix_ms) -> None:
        self._secrets = secrets_
        self._worker = worker
        self._clock = clock
        self._seen: set[str] = set()
        self._order: deque[tuple[int, str]] = deque()

    def check(self, method: str, text: str) -> None:
        """See that a call comes from the cluster.

        Raises:
            Refused: REASON_UNAUTHENTICATED, it does not prove it; REASON_OVERLOADED, too many calls are made.
        """
        parts = text.split(" ")
        if len(parts) != 4 or parts[0] != VERSION or not (parts[1].isascii() and parts[1].isdecimal()):
            raise _no("is no proof of the cluster's token")
        _, at, nonce, _ = parts
        now_ms = self._clock()
        if len(at) > 16 or abs(now_ms - int(at)) > WINDOW_MS:
            raise _no(f"was made {(now_ms - int(at[:16])) / 1000:.0f} s ago: do the clocks agree?")
        made = [proof(secret, method, self._worker, int(at), nonce) for secret in self._secrets()]
        if not any(hmac.compare_digest(one.encode(), text.encode()) for one in made):
            raise _no(f"does not prove the cluster's token for {method} of {self._worker}")
        self._forget(now_ms)
        if nonce in self._seen:
            raise _no("was used before")
        if len(self._seen) >= NONCES_MAX:
            raise refused(pb.REASON_OVERLOADED, HEADER, "too many calls are made", WINDOW_MS)
        self._seen.add(nonce)
        self._order.append((int(at), nonce))

    def _forget(self, now_ms: int) -> None:
        """Those whose time is over: they are refused for that. The order is that of coming, not of their times."""
        while self._order and self._order[0][0] < now_ms - 2 * WINDOW_MS:
            self._seen.discard(self._order.popleft()[1])


def _no(what: str) -> Refused:
    return refused(pb.REASON_UNAUTHENTICATED, HEADER, what)
