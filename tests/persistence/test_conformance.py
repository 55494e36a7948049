"""One suite for every store: what DESIGN.md, section 5, asks of the arbiter. Through a thread of its own, too."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bench.s3 import StandIn
from persistence import Etag, ObjectStore, Stored, StoreThread, list_all, open_store, probe
from persistence.store import BODY_BYTES_MAX, KEY_BYTES_MAX, PAGE_KEYS_MAX
from tests.persistence.servers import Server

CONTENDERS = 3
SORTED_KEYS = [
    "a/0",
    "a/1",
    "a/10",
    "a/2",
    "a/A",
    "a/_",
    "a/a",
    "a/b/0",
    "a/b/1",
    "a/b_c",
    "a/c=d",
    "a/z-y",
    "b/0",
]
MANY = PAGE_KEYS_MAX + 5


@pytest.fixture(
    params=["memory", "memory on a thread", "sqlite", "sqlite on a thread", "moto", "stand_in", "seaweedfs"]
)
async def store(request: pytest.FixtureRequest, tmp_path: Path, prefix: str) -> AsyncIterator[ObjectStore]:
    """An empty store of each kind."""
    name, _, on_thread = request.param.partition(" ")
    url = {"memory": "memory:", "sqlite": f"sqlite:{tmp_path / 'store.db'}"}.get(name)
    if url is None:
        server: Server | StandIn = request.getfixturevalue(name)
        url = server.url(prefix, attempt_timeout_s=40, timeout_s=50)
    opening = StoreThread(lambda: open_store(url)) if on_thread else open_store(url)
    async with opening as store:
        yield store


async def keys_under(store: ObjectStore, prefix: str = "") -> list[str]:
    return [entry.key async for entry in list_all(store, prefix)]


async def test_what_is_not_there_is_none(store: ObjectStore) -> None:
    assert await store.get("users/0001/abc") is None


@pytest.mark.parametrize(
    "body", [b"", b"x", bytes(range(256)), b"\x00\r\n\xff" * 1_300_000], ids=["empty", "one", "all bytes", "5 MB"]
)
async def test_a_body_comes_back_as_it_was(store: ObjectStore, body: bytes) -> None:
    etag = await store.put("journal/worker-0.a=b_c/000001", body)
    assert await store.get("journal/worker-0.a=b_c/000001") == Stored(body, etag)
    [entry] = (await store.list("journal/")).entries
    assert (entry.key, entry.etag, entry.size) == ("journal/worker-0.a=b_c/000001", etag, len(body))


async def test_put_writes_over(store: ObjectStore) -> None:
    older = await store.put("k", b"older")
    newer = await store.put("k", b"newer")
    assert older != newer
    assert await store.get("k") == Stored(b"newer", newer)


async def test_put_if_absent_writes_once(store: ObjectStore) -> None:
    etag = await store.put_if_absent("k", b"first")
    assert etag is not None
    assert await store.put_if_absent("k", b"second") is None
    assert await store.put_if_absent("k", b"first") is None
    assert await store.get("k") == Stored(b"first", etag)
    await store.delete("k")
    assert await store.put_if_absent("k", b"third") is not None


async def test_put_if_match_writes_over_what_it_names_only(store: ObjectStore) -> None:
    first = await store.put("k", b"first")
    second = await store.put_if_match("k", b"second", first)
    assert second is not None
    assert await store.put_if_match("k", b"third", first) is None
    assert await store.put_if_match("k", b"third", Etag('"0123456789abcdef0123456789abcdef"')) is None
    assert await store.get("k") == Stored(b"second", second)


async def test_put_if_match_makes_nothing(store: ObjectStore) -> None:
    etag = await store.put("k", b"first")
    assert await store.put_if_match("other", b"second", etag) is None
    assert await store.get("other") is None
    await store.delete("k")
    assert await store.put_if_match("k", b"second", etag) is None
    assert await store.get("k") is None


async def test_an_etag_that_was_read_or_listed_is_that_of_the_write(store: ObjectStore) -> None:
    await store.put("k", b"first")
    [entry] = (await store.list()).entries
    second = await store.put_if_match("k", b"second", entry.etag)
    assert second is not None
    stored = await store.get("k")
    assert stored is not None
    assert await store.put_if_match("k", b"third", stored.etag) is not None


async def test_one_of_several_at_once_makes_the_object(store: ObjectStore) -> None:
    bodies = [b"contender %d" % number for number in range(CONTENDERS)]
    etags = await asyncio.gather(*(store.put_if_absent("k", body) for body in bodies))
    [winner] = [number for number, etag in enumerate(etags) if etag is not None]
    assert await store.get("k") == Stored(bodies[winner], etags[winner] or Etag(""))


async def test_counting_by_condition_is_exact(store: ObjectStore) -> None:
    await store.put("count", b"0")
    won: Counter[int] = Counter()

    async def count(contender: int) -> None:
        while won[contender] < 2:
            stored = await store.get("count")
            assert stored is not None
            if await store.put_if_match("count", b"%d" % (int(stored.body) + 1), stored.etag) is not None:
                won[contender] += 1

    await asyncio.gather(*(count(contender) for contender in range(CONTENDERS)))
    stored = await store.get("count")
    assert stored is not None
    assert int(stored.body) == won.total() == CONTENDERS * 2


async def test_delete_removes_what_is_there(store: ObjectStore) -> None:
    await store.put("a/k", b"x")
    await store.put("a/l", b"x")
    await store.delete("a/k")
    await store.delete("a/k")
    await store.delete("never/was")
    assert await store.get("a/k") is None
    assert await keys_under(store) == ["a/l"]


async def test_delete_removes_several(store: ObjectStore) -> None:
    await asyncio.gather(*(store.put(f"a/{number}", b"x") for number in range(5)))
    await store.delete("a/0", "a/never", "a/3", "a/1")
    assert await keys_under(store) == ["a/2", "a/4"]


async def test_lists_are_in_the_order_of_keys(store: ObjectStore) -> None:
    await asyncio.gather(*(store.put(key, b"x") for key in reversed(SORTED_KEYS)))
    assert await keys_under(store) == SORTED_KEYS
    assert await keys_under(store, "a/") == SORTED_KEYS[:-1]
    assert await keys_under(store, "a/1") == ["a/1", "a/10"]
    assert await keys_under(store, "a/b/") == ["a/b/0", "a/b/1"]
    assert await keys_under(store, "c") == []


async def keys_page_by_page(store: ObjectStore, limit: int, expected: int) -> list[str]:
    """All keys, of which there are as many as expected, in pages of this size."""
    found: list[str] = []
    while True:
        page = await store.list(after=found[-1] if found else "", limit=limit)
        assert len(page.entries) == min(limit, expected - len(found))
        found.extend(entry.key for entry in page.entries)
        assert page.more == (len(found) < expected)
        if not page.more:
            return found


async def test_lists_come_in_pages(store: ObjectStore) -> None:
    await asyncio.gather(*(store.put(key, b"x") for key in SORTED_KEYS))
    num_keys = len(SORTED_KEYS)
    for limit in (1, 5, num_keys - 1, num_keys, PAGE_KEYS_MAX):
        assert await keys_page_by_page(store, limit, num_keys) == SORTED_KEYS


async def test_lists_are_whole_where_the_name_of_a_folder_begins_another(store: ObjectStore) -> None:
    keys = ["a/b-c/0", "a/b-c/1", "a/b.c", "a/b/0", "a/b/1"]
    await asyncio.gather(*(store.put(key, b"x") for key in keys))
    for limit in (1, 2, PAGE_KEYS_MAX):
        assert sorted(await keys_page_by_page(store, limit, len(keys))) == keys
    assert await keys_under(store, "a/b/") == ["a/b/0", "a/b/1"]
    assert await keys_under(store, "a/b-c/") == ["a/b-c/0", "a/b-c/1"]


async def test_a_list_goes_on_after_a_key_that_is_gone(store: ObjectStore) -> None:
    await asyncio.gather(*(store.put(key, b"x") for key in ("a/1", "a/3", "a/4")))
    page = await store.list("a/", after="a/2")
    assert [entry.key for entry in page.entries] == ["a/3", "a/4"]


@pytest.mark.parametrize("store", ["memory", "sqlite", "seaweedfs"], indirect=True)
async def test_a_long_list_is_whole(store: ObjectStore) -> None:
    keys = [f"slots/{number:04}" for number in range(MANY)]
    await asyncio.gather(*(store.put(key, b"x") for key in keys))
    assert await keys_under(store, "slots/") == keys


NO_KEYS = ["", "/", "a/", "/a", "a//b", "a/../b", "./a", "ä", "a b", "a?b", "a%2fb", "a\n", "k" * (KEY_BYTES_MAX + 1)]


async def test_what_is_no_key_is_refused(store: ObjectStore) -> None:
    for key in NO_KEYS:
        for call in (
            store.get(key),
            store.put(key, b""),
            store.put_if_absent(key, b""),
            store.put_if_match(key, b"", Etag("x")),
            store.delete(key),
        ):
            with pytest.raises(ValueError, match="not a key"):
                await call


async def test_what_cannot_be_listed_or_is_too_large_is_refused(store: ObjectStore) -> None:
    with pytest.raises(ValueError, match="not a prefix"):
        await store.list("../")
    with pytest.raises(ValueError, match="not a key"):
        await store.list(after="a/")
    with pytest.raises(ValueError, match="limit is 0"):
        await store.list(limit=0)
    with pytest.raises(ValueError, match="limit is 1001"):
        await store.list(limit=PAGE_KEYS_MAX + 1)
    with pytest.raises(ValueError, match="a body of"):
        await store.put("k", bytes(BODY_BYTES_MAX + 1))
    assert await keys_under(store) == []


async def test_a_long_key_is_one(store: ObjectStore) -> None:
    key = "/".join(["k" * 127] * 4)
    await store.put(key, b"x")
    assert await keys_under(store) == [key]


async def test_the_probe_passes_and_leaves_nothing(store: ObjectStore) -> None:
    await probe(store, "01JD0000000000000000000000")
    assert await keys_under(store) == []
