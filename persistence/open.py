"""The store that a URL names.

    memory:
    sqlite:PATH[?timeout_s=…]
    s3://BUCKET[/PREFIX][?endpoint=…&region=…&path_style=…&connect_timeout_s=…&attempt_timeout_s=…&timeout_s=…
                         &attempts_max=…&concurrency_max=…]

A URL holds no secrets: it stands in process lists and logs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

from persistence.errors import StoreMisconfigured
from persistence.memory import open_memory
from persistence.s3 import S3Target, open_s3
from persistence.sqlite import SqliteTarget, open_sqlite
from persistence.store import ObjectStore, checked_key

T = TypeVar("T")


class MemoryTarget:
    """A store in memory; there is nothing to say about it."""


Target = MemoryTarget | SqliteTarget | S3Target

BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


def open_store(url: str) -> AbstractAsyncContextManager[ObjectStore]:
    """The store that a URL names, open inside `async with`. Raises StoreMisconfigured, for a bad URL at once."""
    match parse_url(url):
        case MemoryTarget():
            return open_memory()
        case SqliteTarget() as target:
            return open_sqlite(target)
        case S3Target() as target:
            return open_s3(target)


def parse_url(url: str) -> Target:
    """What a URL says. Touches nothing. Raises StoreMisconfigured, which names what is wrong."""
    try:
        return _parsed(url)
    except ValueError as error:
        raise StoreMisconfigured(f"store {_redacted(url)!r}: {error}") from error


def _parsed(url: str) -> Target:
    scheme, colon, rest = url.partition(":")
    if not colon or scheme not in _PARSERS:
        raise ValueError(f"it begins with none of {', '.join(f'{known}:' for known in _PARSERS)}")
    path, _, query = rest.partition("?")
    return _PARSERS[scheme](path, _Parameters(query))


class _Parameters:
    """The parameters of a URL, each taken once and as what it should be."""

    def __init__(self, query: str) -> None:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
        self._values = dict(pairs)
        if len(self._values) < len(pairs):
            raise ValueError("a parameter stands there twice")

    def taken_as(self, **kinds: Callable[[str], object]) -> Mapping[str, Any]:
        """The values of the parameters that stand there. Raises ValueError for one that is unknown or wrong."""
        for name in self._values:
            if name not in kinds:
                raise ValueError(f"unknown parameter {name!r}" + (f"; known: {', '.join(kinds)}" if kinds else ""))
        return {name: self._one(name, kinds[name]) for name in self._values}

    def _one(self, name: str, kind: Callable[[str], T]) -> T:
        try:
            return kind(self._values[name])
        except ValueError as error:
            raise ValueError(f"{name}={_redacted(self._values[name])}: {error}") from error


def _seconds(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value > 0):
        raise ValueError("not a number of seconds above 0")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError("not a count of 1 or more")
    return value


def _flag(text: str) -> bool:
    if text not in {"true", "false"}:
        raise ValueError("neither true nor false")
    return text == "true"


def _endpoint(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("not http://HOST[:PORT] or https://HOST[:PORT]")
    if parts.username is not None:
        raise ValueError("credentials belong in the environment or in files, not in a URL")
    return text


def _region(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9-]+", text):
        raise ValueError("not the name of a region")
    return text


def _memory(rest: str, parameters: _Parameters) -> MemoryTarget:
    if rest:
        raise ValueError("memory: takes no path")
    parameters.taken_as()
    return MemoryTarget()


def _sqlite(rest: str, parameters: _Parameters) -> SqliteTarget:
    if not rest or rest == ":memory:":
        raise ValueError("sqlite: takes the path of a file; a store in memory is memory:")
    return SqliteTarget(path=Path(rest), **parameters.taken_as(timeout_s=_seconds))


def _s3(rest: str, parameters: _Parameters) -> S3Target:
    if not rest.startswith("//"):
        raise ValueError("s3: takes a bucket, s3://BUCKET/PREFIX")
    bucket, _, prefix = rest.removeprefix("//").partition("/")
    if "@" in bucket:
        raise ValueError("credentials belong in the environment or in files, not in a URL")
    if not BUCKET.fullmatch(bucket):
        raise ValueError(f"{bucket!r} is not the name of a bucket")
    prefix = prefix.rstrip("/")
    if prefix:
        checked_key(prefix)
    values = parameters.taken_as(
        endpoint=_endpoint,
        region=_region,
        path_style=_flag,
        connect_timeout_s=_seconds,
        attempt_timeout_s=_seconds,
        timeout_s=_seconds,
        attempts_max=_count,
        concurrency_max=_count,
    )
    target = S3Target(bucket=bucket, prefix=prefix, **values)
    if target.attempt_timeout_s > target.timeout_s:
        raise ValueError(
            f"attempt_timeout_s ({target.attempt_timeout_s:g}) is above timeout_s ({target.timeout_s:g}), "
            "the bound of all attempts"
        )
    return target


def _redacted(url: str) -> str:
    """The URL without what stands before an @: a password, by mistake."""
    return re.sub(r"//[^/?@]*@", "//…@", url)


_PARSERS: dict[str, Callable[[str, _Parameters], Target]] = {"memory": _memory, "sqlite": _sqlite, "s3": _s3}
