"""The benches' stand-in for S3: its latencies, its modes, its counts. Its conditions: tests/persistence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from random import Random

import numpy as np
import pytest

from bench import s3
from bench.s3 import GET_MS, PUT_MS, Mode, StandIn, latency_ms
from persistence import ObjectStore, StoreUnavailable, list_all, open_store, probe


@pytest.fixture(scope="module")
def running() -> Iterator[StandIn]:
    with s3.run_stand_in(seed=1) as running:
        yield running


@pytest.fixture
def stand_in(running: StandIn) -> Iterator[StandIn]:
    yield running
    running.turn(Mode.NORMAL)


@pytest.fixture
async def store(stand_in: StandIn) -> AsyncIterator[ObjectStore]:
    """A store that asks once and does not wait long."""
    with s3.stand_in_credentials():
        async with open_store(stand_in.url("here", attempts_max=1, attempt_timeout_s=1, timeout_s=1)) as store:
            yield store


@pytest.mark.parametrize("quantiles", [GET_MS, PUT_MS])
def test_latencies_meet_the_published_quantiles(quantiles: tuple[tuple[float, float], ...]) -> None:
    for share, value_ms in quantiles:
        assert latency_ms(quantiles, share) == pytest.approx(value_ms)
    random = Random(1)
    drawn = np.array([latency_ms(quantiles, random.random()) for _ in range(100_000)])
    for share, value_ms in quantiles:
        assert np.quantile(drawn, share) == pytest.approx(value_ms, rel=0.03)
    assert drawn.min() > 0.8 * quantiles[0][1]


def test_between_quantiles_the_logarithm_is_linear() -> None:
    assert latency_ms(GET_MS, 1 - (0.5 * 0.01) ** 0.5) == pytest.approx((63 * 78) ** 0.5)
    assert latency_ms(GET_MS, 0.9999) == pytest.approx(118 * 118 / 78)


def test_conditions_are_answered_as_on_aws() -> None:
    objects = s3.Objects()
    assert objects.put("k", b"a", if_none_match=None, if_match='"e"') == (404, "")
    status, etag = objects.put("k", b"a", if_none_match="*", if_match=None)
    assert status == 200
    assert objects.put("k", b"b", if_none_match="*", if_match=None) == (412, "")
    assert objects.put("k", b"b", if_none_match=None, if_match='"e"') == (412, "")
    assert objects.put("k", b"b", if_none_match=None, if_match=etag)[0] == 200


async def test_it_arbitrates(store: ObjectStore) -> None:
    await probe(store, "nonce")


async def test_requests_are_counted_by_folder(stand_in: StandIn, store: ObjectStore) -> None:
    before = stand_in.counts()
    await store.put("slots/0001", b"x")
    await store.put_if_absent("journal/w/1/000000000001", b"x")
    await store.put_if_absent("journal/w/1/000000000001", b"x")
    await store.get("users/0001/abc")
    assert [entry.key async for entry in list_all(store, "journal/")] == ["journal/w/1/000000000001"]
    await store.delete("slots/0001")
    assert stand_in.counts() - before == {
        "PUT slots": 1,
        "PUT journal": 2,
        "bytes PUT": 3,
        "GET users": 1,
        "GET journal": 1,
        "DELETE slots": 1,
    }


@pytest.mark.parametrize("mode", [Mode.REFUSING, Mode.HANGING])
async def test_it_goes_and_comes_back_with_what_it_had(stand_in: StandIn, store: ObjectStore, mode: Mode) -> None:
    etag = await store.put("k", b"x")
    stand_in.turn(mode)
    with pytest.raises(StoreUnavailable):
        await store.put("k", b"y")
    stand_in.turn(Mode.NORMAL)
    stored = await store.get("k")
    assert stored is not None
    assert (stored.body, stored.etag) == (b"x", etag)


async def test_what_hangs_is_broken_off_when_it_comes_back(stand_in: StandIn) -> None:
    with s3.stand_in_credentials():
        async with open_store(stand_in.url("here", attempts_max=1, timeout_s=60, attempt_timeout_s=60)) as store:
            stand_in.turn(Mode.HANGING)
            before = stand_in.counts()
            hanging = asyncio.create_task(store.get("k"))
            while await asyncio.to_thread(stand_in.counts) == before:
                pass
            stand_in.turn(Mode.NORMAL)
            with pytest.raises(StoreUnavailable):
                await hanging


async def test_slow_is_as_slow_as_published(stand_in: StandIn, store: ObjectStore) -> None:
    loop = asyncio.get_running_loop()
    await store.get("k")
    stand_in.turn(Mode.SLOW)
    before_s = loop.time()
    await store.get("k")
    assert loop.time() - before_s > 0.05
