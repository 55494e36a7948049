"""What the S3 store says when requests, answers or servers fail: above all, whether a write may have happened."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from random import Random

import pytest

from persistence import (
    Etag,
    ObjectStore,
    Stored,
    StoreDenied,
    StoreError,
    StoreMisconfigured,
    StoreUnavailable,
    open_store,
    parse_url,
)
from persistence.s3 import S3Target, open_s3
from tests.persistence.flaky import Answer, Fault, Flaky, flaky
from tests.persistence.servers import Server

ATTEMPTS_MAX = 3
SOON_S = 0.3
CONFLICT = Answer(409, "ConditionalRequestConflict")


@pytest.fixture
async def proxy(moto: Server) -> AsyncIterator[Flaky]:
    async with flaky(moto) as proxy:
        yield proxy


@pytest.fixture
def target(proxy: Flaky, prefix: str) -> S3Target:
    target = parse_url(proxy.url(prefix, attempts_max=ATTEMPTS_MAX))
    assert isinstance(target, S3Target)
    return target


@pytest.fixture
async def store(target: S3Target) -> AsyncIterator[ObjectStore]:
    async with open_s3(target, Random(1)) as store:
        yield store


Write = Callable[[ObjectStore], Awaitable[object]]


@pytest.mark.parametrize("fault", [Fault.LOSE_ANSWER, Fault.RESET_ANSWER, Answer(500, "InternalError"), Answer(503)])
@pytest.mark.parametrize("is_warm", [False, True], ids=["new connection", "used connection"])
async def test_a_write_without_an_answer_is_in_doubt_and_is_sent_once(
    proxy: Flaky, target: S3Target, fault: Fault | Answer, is_warm: bool
) -> None:
    async with open_s3(replace(target, attempts_max=1)) as store:
        if is_warm:
            await store.get("k")
        connections = proxy.num_connections
        proxy.methods.clear()
        proxy.plan.append(fault)
        with pytest.raises(StoreUnavailable) as raised:
            await store.put_if_absent("k", b"x")
        assert raised.value.maybe_done
        assert "read back" in str(raised.value)
        assert proxy.methods == ["PUT"]
        assert proxy.num_connections == (connections if is_warm else connections + 1)
        stored = await store.get("k")
        assert (stored is not None) == isinstance(fault, Fault)


async def test_a_second_attempt_that_meets_the_first_is_in_doubt_and_not_lost(proxy: Flaky, store: ObjectStore) -> None:
    proxy.plan.append(Fault.LOSE_ANSWER)
    with pytest.raises(StoreUnavailable, match="PreconditionFailed") as raised:
        await store.put_if_absent("k", b"mine")
    assert raised.value.maybe_done
    stored = await store.get("k")
    assert stored is not None
    assert stored.body == b"mine"
    proxy.plan.append(Fault.LOSE_ANSWER)
    with pytest.raises(StoreUnavailable, match="PreconditionFailed") as raised:
        await store.put_if_match("k", b"mine too", stored.etag)
    assert raised.value.maybe_done


async def test_a_second_attempt_that_works_is_no_doubt(proxy: Flaky, store: ObjectStore) -> None:
    proxy.plan.append(Fault.LOSE_REQUEST)
    etag = await store.put_if_absent("k", b"mine")
    assert etag is not None
    assert await store.get("k") == Stored(b"mine", etag)
    assert proxy.methods == ["PUT", "PUT", "GET"]


async def test_a_conflict_is_asked_again(proxy: Flaky, store: ObjectStore) -> None:
    proxy.plan.extend([CONFLICT, CONFLICT])
    assert await store.put_if_absent("k", b"x") is not None
    proxy.plan.extend([CONFLICT, CONFLICT])
    assert await store.put_if_absent("k", b"y") is None
    assert proxy.methods == ["PUT"] * 6


async def test_a_conflict_that_stays_is_unavailable_and_surely_not_done(proxy: Flaky, store: ObjectStore) -> None:
    proxy.plan.extend([CONFLICT] * ATTEMPTS_MAX)
    with pytest.raises(StoreUnavailable, match="ConditionalRequestConflict") as raised:
        await store.put_if_absent("k", b"x")
    assert not raised.value.maybe_done
    assert proxy.methods == ["PUT"] * ATTEMPTS_MAX


async def test_a_conflict_after_a_doubt_leaves_the_doubt(proxy: Flaky, store: ObjectStore) -> None:
    proxy.plan.extend([Fault.LOSE_ANSWER, CONFLICT, CONFLICT])
    with pytest.raises(StoreUnavailable) as raised:
        await store.put_if_absent("k", b"x")
    assert raised.value.maybe_done


@pytest.mark.parametrize("answer", [Answer(404, "NoSuchKey"), Answer(412, "PreconditionFailed"), Answer(412)])
async def test_put_if_match_on_a_missing_key_is_lost(proxy: Flaky, store: ObjectStore, answer: Answer) -> None:
    proxy.plan.append(answer)
    assert await store.put_if_match("k", b"x", Etag('"0123456789abcdef0123456789abcdef"')) is None
    assert proxy.methods == ["PUT"]


@pytest.mark.parametrize(
    "write",
    [
        lambda store: store.put("k", b"x"),
        lambda store: store.put_if_absent("k", b"x"),
        lambda store: store.delete("k"),
    ],
    ids=["put", "put_if_absent", "delete"],
)
async def test_a_write_that_hangs_is_in_doubt(proxy: Flaky, target: S3Target, write: Write) -> None:
    async with open_s3(replace(target, attempts_max=1, attempt_timeout_s=SOON_S)) as store:
        proxy.plan.append(Fault.HANG)
        with pytest.raises(StoreUnavailable) as raised:
            await write(store)
    assert raised.value.maybe_done


async def test_a_call_ends_at_its_own_deadline(proxy: Flaky, store: ObjectStore) -> None:
    proxy.plan.append(Fault.HANG)
    with pytest.raises(StoreUnavailable, match=r"within 0\.3 s") as raised:
        await store.put("k", b"x", timeout_s=SOON_S)
    assert raised.value.maybe_done
    assert proxy.methods == ["PUT"]


async def test_a_call_whose_turn_never_comes_is_surely_not_done(proxy: Flaky, target: S3Target) -> None:
    async with open_s3(replace(target, concurrency_max=1)) as store, asyncio.TaskGroup() as group:
        proxy.plan.append(Fault.HANG)
        hanging = group.create_task(store.get("k"))
        await proxy.hanging.wait()
        with pytest.raises(StoreUnavailable) as raised:
            await store.put("k", b"x", timeout_s=SOON_S)
        assert not raised.value.maybe_done
        hanging.cancel()
    assert proxy.methods == ["GET"]


async def test_reads_are_never_in_doubt(proxy: Flaky, store: ObjectStore) -> None:
    for call in (store.get("k"), store.list()):
        proxy.plan.extend([Fault.LOSE_ANSWER] * ATTEMPTS_MAX)
        with pytest.raises(StoreUnavailable) as raised:
            await call
        assert not raised.value.maybe_done
    assert proxy.methods == ["GET"] * 2 * ATTEMPTS_MAX


async def test_a_body_that_was_cut_is_read_again(proxy: Flaky, store: ObjectStore) -> None:
    etag = await store.put("k", bytes(100_000))
    proxy.plan.append(Fault.CUT_ANSWER)
    assert await store.get("k") == Stored(bytes(100_000), etag)


async def test_a_delete_without_an_answer_is_sent_again(proxy: Flaky, store: ObjectStore) -> None:
    await store.put("k", b"x")
    proxy.plan.append(Fault.LOSE_ANSWER)
    await store.delete("k")
    assert await store.get("k") is None


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Answer(403, "AccessDenied"), StoreDenied),
        (Answer(403, "InvalidAccessKeyId"), StoreDenied),
        (Answer(400, "ExpiredToken"), StoreDenied),
        (Answer(404, "NoSuchBucket"), StoreMisconfigured),
        (Answer(404), StoreMisconfigured),
        (Answer(400, "InvalidArgument"), StoreMisconfigured),
        (Answer(501, "NotImplemented"), StoreMisconfigured),
        (Answer(200), StoreMisconfigured),
    ],
)
async def test_what_will_not_pass_is_asked_once(
    proxy: Flaky, store: ObjectStore, answer: Answer, error: type[StoreError]
) -> None:
    for call in (store.put("k", b"x"), store.put_if_match("k", b"x", Etag('"0"')), store.get("k")):
        proxy.plan.append(answer)
        with pytest.raises(error):
            await call
    assert proxy.methods == ["PUT", "PUT", "GET"]


async def test_connections_are_bounded_kept_and_closed(proxy: Flaky, target: S3Target) -> None:
    async with open_s3(replace(target, concurrency_max=4)) as store:
        await asyncio.gather(*(store.put(f"k/{number}", b"x") for number in range(40)))
        assert proxy.num_connections <= 4
        assert len(proxy.methods) == 40
    await asyncio.gather(*proxy.open_connections)


async def test_connection_refused_is_surely_not_done(prefix: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = Server(f"http://127.0.0.1:{taken.getsockname()[1]}", 0).url(prefix, attempts_max=2)
        async with open_store(url) as store:
            with pytest.raises(StoreUnavailable) as raised:
                await store.put("k", b"x")
    assert not raised.value.maybe_done


async def test_a_wrong_secret_is_denied(seaweedfs: Server, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    async with open_store(seaweedfs.url(prefix)) as store:
        with pytest.raises(StoreDenied):
            await store.put("k", b"x")
        with pytest.raises(StoreDenied):
            await store.get("k")


async def test_no_credentials_are_denied(moto: Server, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    async with open_store(moto.url(prefix)) as store:
        with pytest.raises(StoreDenied, match="credentials"):
            await store.get("k")


async def test_a_missing_bucket_is_named(seaweedfs: Server) -> None:
    async with open_store(f"s3://no-such-bucket?endpoint={seaweedfs.endpoint}") as store:
        with pytest.raises(StoreMisconfigured, match="NoSuchBucket"):
            await store.get("k")
