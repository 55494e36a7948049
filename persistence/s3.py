"""A store in a bucket of S3, or of a server that truly speaks it, through aiobotocore.

Attempts are ours, not botocore's nor aiohttp's (both would send a write again in silence): after an attempt in doubt, a
condition that fails may have been failed by that very attempt, and then the call says `maybe_done` instead of "lost".
Credentials come from botocore's chain (environment, files, container, instance), never from a URL.

Runs on the loop that it was opened on; request signing and file reads of the credentials chain block that loop, which
must not be the serving one (`persistence.thread`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol, TypeVar

import aiohttp
from aiobotocore.config import AioConfig
from aiobotocore.httpsession import AIOHTTPSession
from aiobotocore.session import get_session
from botocore.exceptions import BotoCoreError
from botocore.handlers import add_expect_header

from persistence.answers import FOREIGN, Verdict, judge, wording
from persistence.errors import StoreDenied, StoreError, StoreMisconfigured, StoreUnavailable
from persistence.store import (
    PAGE_KEYS_MAX,
    Entry,
    Etag,
    Page,
    Stored,
    checked_body,
    checked_key,
    checked_listing,
)

T = TypeVar("T")
Answer = Mapping[str, Any]

BACKOFF_BASE_S = 0.05
BACKOFF_MAX_S = 2.0


@dataclass(frozen=True, slots=True)
class S3Target:
    """Which bucket, where, and the bounds of a call. Times in seconds.

    `path_style` None: yes for an `endpoint`, no for AWS. `attempt_timeout_s` bounds one request, `timeout_s` the call
    with its attempts, the pauses between them and its waiting for one of `concurrency_max` connections.
    """

    bucket: str
    prefix: str = ""
    endpoint: str | None = None
    region: str | None = None
    path_style: bool | None = None
    connect_timeout_s: float = 3.0
    attempt_timeout_s: float = 10.0
    timeout_s: float = 30.0
    attempts_max: int = 4
    concurrency_max: int = 64


class Client(Protocol):
    """What we use of aiobotocore's S3 client. All raise FOREIGN."""

    async def get_object(self, **parameters: object) -> Answer: ...
    async def put_object(self, **parameters: object) -> Answer: ...
    async def delete_object(self, **parameters: object) -> Answer: ...
    async def list_objects_v2(self, **parameters: object) -> Answer: ...


class S3Store:
    """An `ObjectStore` in a bucket. Made by `open_s3`."""

    def __init__(self, target: S3Target, client: Client, rng: Random) -> None:
        self._target = target
        self._client = client
        self._rng = rng
        self._turn = asyncio.Semaphore(target.concurrency_max)
        self._folder = f"{target.prefix}/" if target.prefix else ""

    async def get(self, key: str, *, timeout_s: float | None = None) -> Stored | None:
        where = self._where(key)

        async def read() -> Stored:
            answer = await self._client.get_object(**where)
            async with answer["Body"] as stream:
                return Stored(await stream.read(), _etag_of(answer, writes=False))

        return await self._call(_Call(f"get {key}", none_if=NOT_THERE), read, timeout_s)

    async def put(self, key: str, body: bytes, *, timeout_s: float | None = None) -> Etag:
        etag = await self._put(_Call(f"put {key}", writes=True), key, body, {}, timeout_s)
        assert etag is not None
        return etag

    async def put_if_absent(self, key: str, body: bytes, *, timeout_s: float | None = None) -> Etag | None:
        call = _Call(f"put {key} if absent", writes=True, none_if=CONDITION_FAILED)
        return await self._put(call, key, body, {"IfNoneMatch": "*"}, timeout_s)

    async def put_if_match(self, key: str, body: bytes, etag: Etag, *, timeout_s: float | None = None) -> Etag | None:
        call = _Call(f"put {key} if it is {etag}", writes=True, none_if=CONDITION_FAILED | NOT_THERE)
        return await self._put(call, key, body, {"IfMatch": etag}, timeout_s)

    async def delete(self, *keys: str, timeout_s: float | None = None) -> None:
        places = [self._where(key) for key in keys]
        removals = (self._remove(where, timeout_s) for where in places)
        for error in await asyncio.gather(*removals, return_exceptions=True):
            if error is not None:
                raise error

    async def _remove(self, where: Mapping[str, str], timeout_s: float | None) -> None:
        async def remove() -> bool:
            await self._client.delete_object(**where)
            return True

        call = _Call(f"delete {where['Key']}", writes=True, none_if=NOT_THERE, is_idempotent=True)
        await self._call(call, remove, timeout_s)

    async def list(
        self, prefix: str = "", *, after: str = "", limit: int = PAGE_KEYS_MAX, timeout_s: float | None = None
    ) -> Page:
        checked_listing(prefix, after, limit)
        query = {"Bucket": self._target.bucket, "Prefix": self._folder + prefix, "MaxKeys": limit}
        if after:
            query["StartAfter"] = self._folder + after

        async def read() -> Page:
            return self._page_of(await self._client.list_objects_v2(**query))

        page = await self._call(_Call(f"list {prefix}"), read, timeout_s)
        assert page is not None
        return page

    async def _put(
        self, call: _Call, key: str, body: bytes, condition: Mapping[str, str], timeout_s: float | None
    ) -> Etag | None:
        where = self._where(key)
        checked_body(body)

        async def write() -> Etag:
            return _etag_of(await self._client.put_object(**where, **condition, Body=body), writes=True)

        return await self._call(call, write, timeout_s)

    async def _call(self, call: _Call, request: Callable[[], Awaitable[T]], timeout_s: float | None) -> T | None:
        """Attempts until one settles the call: its result, or None where that is the verdict. Raises StoreError."""
        limit_s = self._target.timeout_s if timeout_s is None else timeout_s
        try:
            async with asyncio.timeout(limit_s), self._turn:
                for attempt in range(1, self._target.attempts_max):
                    try:
                        return await self._attempt(call, request)
                    except _TryAgain:
                        await asyncio.sleep(self._pause_s(attempt))
                return await self._attempt(call, request)
        except _TryAgain as error:
            raise call.unavailable(f"{wording(error)}, {self._target.attempts_max} times") from error.__cause__
        except TimeoutError as error:
            raise call.unavailable(f"not answered within {limit_s:g} s") from error

    async def _attempt(self, call: _Call, request: Callable[[], Awaitable[T]]) -> T | None:
        """One request. Raises StoreError, or _TryAgain."""
        was_in_doubt = call.in_doubt
        call.in_doubt = call.writes
        try:
            async with asyncio.timeout(self._target.attempt_timeout_s):
                return await request()
        except FOREIGN as error:
            verdict = judge(error)
            call.in_doubt = was_in_doubt or (call.writes and verdict is Verdict.IN_DOUBT)
            if call.is_lost(verdict):
                return None
            raise call.failure(verdict, error) from error

    def _pause_s(self, attempt: int) -> float:
        """Full jitter: clients that failed together do not come back together."""
        return self._rng.uniform(0.0, min(BACKOFF_MAX_S, BACKOFF_BASE_S * 2.0**attempt))

    def _where(self, key: str) -> dict[str, str]:
        return {"Bucket": self._target.bucket, "Key": self._folder + checked_key(key)}

    def _page_of(self, answer: Answer) -> Page:
        found = answer.get("Contents", ())
        entries = tuple(
            Entry(each["Key"].removeprefix(self._folder), Etag(each["ETag"]), int(each["Size"])) for each in found
        )
        return Page(entries, bool(answer["IsTruncated"]) and bool(entries))


class _TryAgain(Exception):
    """An attempt failed in a way that may pass."""


CONDITION_FAILED = frozenset({Verdict.CONDITION_FAILED})
NOT_THERE = frozenset({Verdict.NO_SUCH_KEY})


@dataclass(slots=True)
class _Call:
    """A call over its attempts. `none_if`: verdicts that settle it as None. `in_doubt`: it may have written."""

    what: str
    writes: bool = False
    none_if: frozenset[Verdict] = frozenset()
    is_idempotent: bool = False
    in_doubt: bool = False

    def is_lost(self, verdict: Verdict) -> bool:
        """Whether the call is settled as None: not where an earlier attempt may be what made the condition fail."""
        return verdict in self.none_if and (self.is_idempotent or not self.in_doubt)

    def failure(self, verdict: Verdict, error: BaseException) -> StoreError | _TryAgain:
        """The exception that a verdict comes to."""
        if verdict in self.none_if:
            return self.unavailable(f"{wording(error)}, after an attempt in doubt")
        match verdict:
            case Verdict.NOT_DONE | Verdict.IN_DOUBT:
                return _TryAgain(wording(error))
            case Verdict.DENIED:
                return StoreDenied(f"{self.what}: {wording(error)}", maybe_done=self.in_doubt)
            case Verdict.MISCONFIGURED | Verdict.CONDITION_FAILED | Verdict.NO_SUCH_KEY:
                return StoreMisconfigured(f"{self.what}: {wording(error)}", maybe_done=self.in_doubt)

    def unavailable(self, why: str) -> StoreUnavailable:
        """The exception that ends the call for now."""
        return StoreUnavailable(f"{self.what}: {why}", maybe_done=self.in_doubt)


class _OnceSession(AIOHTTPSession):  # type: ignore[misc]
    """aiobotocore's HTTP session, of which each request goes out once.

    aiohttp sends an idempotent method again by itself when the connection breaks, and takes PUT for one. With
    `If-None-Match` it is none: the second one fails because the first one worked.
    """

    async def _get_session(self, proxy_url: str | None) -> aiohttp.ClientSession:
        session: aiohttp.ClientSession = await super()._get_session(proxy_url)
        assert hasattr(session, "_retry_connection"), "aiohttp has renamed its switch for silent retries"
        session._retry_connection = False
        return session


def _etag_of(answer: Answer, *, writes: bool) -> Etag:
    etag = answer.get("ETag")
    if not etag:
        raise StoreMisconfigured("the server answers without an ETag", maybe_done=writes)
    return Etag(etag)


def _config(target: S3Target) -> AioConfig:
    path_style = target.endpoint is not None if target.path_style is None else target.path_style
    return AioConfig(
        http_session_cls=_OnceSession,
        connect_timeout=target.connect_timeout_s,
        read_timeout=target.attempt_timeout_s,
        max_pool_connections=target.concurrency_max,
        retries={"total_max_attempts": 1, "mode": "standard"},
        s3={"addressing_style": "path" if path_style else "virtual"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )


@asynccontextmanager
async def open_s3(target: S3Target, rng: Random | None = None) -> AsyncIterator[S3Store]:
    """The store in this bucket: its connections are opened as they are needed and closed at exit. Asks nothing yet.

    `rng` draws the pauses between attempts.

    Raises:
        StoreMisconfigured: no client can be made of this.
    """
    connecting = get_session().create_client(
        "s3", region_name=target.region, endpoint_url=target.endpoint, config=_config(target)
    )
    try:
        client = await connecting.__aenter__()
    except (BotoCoreError, ValueError) as error:
        raise StoreMisconfigured(f"no client for bucket {target.bucket}: {wording(error)}") from error
    # It asks the server before each body (Expect: 100-continue): a round trip a write, for bodies we can send twice.
    client.meta.events.unregister("before-call.s3", add_expect_header)
    try:
        yield S3Store(target, client, rng or Random())
    finally:
        await connecting.__aexit__(None, None, None)
