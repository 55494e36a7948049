"""URLs of stores: what they say, and what they are told when they say it wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from persistence import StoreMisconfigured, open_store, parse_url
from persistence.open import MemoryTarget
from persistence.s3 import S3Target
from persistence.sqlite import SqliteTarget


def test_memory() -> None:
    assert isinstance(parse_url("memory:"), MemoryTarget)


def test_sqlite() -> None:
    assert parse_url("sqlite:a/b.db") == SqliteTarget(Path("a/b.db"))
    assert parse_url("sqlite:/a/b%20c.db?timeout_s=2.5") == SqliteTarget(Path("/a/b%20c.db"), timeout_s=2.5)


def test_s3() -> None:
    assert parse_url("s3://bucket") == S3Target(bucket="bucket")
    assert parse_url("s3://my.bucket-1/a/b/") == S3Target(bucket="my.bucket-1", prefix="a/b")
    assert parse_url(
        "s3://bucket/p?endpoint=https://s3.example.com:9000&region=eu-central-1&path_style=false&connect_timeout_s=1"
        "&attempt_timeout_s=2&timeout_s=5&attempts_max=7&concurrency_max=8"
    ) == S3Target(
        bucket="bucket",
        prefix="p",
        endpoint="https://s3.example.com:9000",
        region="eu-central-1",
        path_style=False,
        connect_timeout_s=1.0,
        attempt_timeout_s=2.0,
        timeout_s=5.0,
        attempts_max=7,
        concurrency_max=8,
    )


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "begins with none of memory:, sqlite:, s3:"),
        ("redis://host", "store 'redis://host'.*none of"),
        ("memory", "none of"),
        ("memory:x", "takes no path"),
        ("memory:?timeout_s=1", "unknown parameter 'timeout_s'"),
        ("sqlite:", "takes the path"),
        ("sqlite::memory:", "is memory:"),
        ("sqlite:a.db?region=x", "unknown parameter 'region'; known: timeout_s"),
        ("sqlite:a.db?timeout_s=0", "timeout_s=0: not a number of seconds"),
        ("sqlite:a.db?timeout_s=nan", "timeout_s=nan"),
        ("sqlite:a.db?timeout_s=inf", "timeout_s=inf"),
        ("sqlite:a.db?timeout_s", "bad query field"),
        ("s3:bucket", "s3://BUCKET/PREFIX"),
        ("s3://", "not the name of a bucket"),
        ("s3://Bucket", "'Bucket' is not the name of a bucket"),
        ("s3://bucket/a//b", "not a key"),
        ("s3://bucket?endpont=http://h", "unknown parameter 'endpont'; known: endpoint"),
        ("s3://bucket?endpoint=h:9000", "endpoint=h:9000: not http://"),
        ("s3://bucket?endpoint=http://user:word@h", "credentials belong"),
        ("s3://bucket?region=", "region=: not the name of a region"),
        ("s3://bucket?path_style=yes", "path_style=yes: neither true nor false"),
        ("s3://bucket?attempts_max=0", "attempts_max=0: not a count"),
        ("s3://bucket?attempts_max=2&attempts_max=3", "twice"),
        ("s3://bucket?timeout_s=1", r"attempt_timeout_s \(10\) is above timeout_s \(1\)"),
    ],
)
def test_what_is_wrong_is_named_before_anything_is_opened(url: str, message: str) -> None:
    with pytest.raises(StoreMisconfigured, match=message):
        open_store(url)


@pytest.mark.parametrize("url", ["s3://key:word@bucket/p", "s3://bucket?endpoint=http://key:word@host"])
def test_credentials_in_a_url_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(StoreMisconfigured, match="credentials belong") as raised:
        parse_url(url)
    assert "word" not in str(raised.value)
