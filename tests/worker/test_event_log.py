"""The event log tells what was served, never waits for the store, and forgets only what it counts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from ulid import ULID

from evercurrent.slots import slot_of, user_key
from evercurrent.v1 import description_pb2
from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1.columns_pb2 import EVENT_KIND_NO_OUTCOME, EVENT_KIND_OBSERVATION
from evercurrent.wire import Layout, Records
from persistence import StoreUnavailable, list_all
from persistence.events import read_events
from persistence.memory import MemoryStore
from persistence.rows import U64, halves
from persistence.store import Etag
from worker.event_log import BLOCK_BYTES, Block, EventBuffer, EventLog, EventLogBounds

INCARNATION = "worker-0/01JD0000000000000000000000"
SESSION = int(ULID.from_str("01JDFFFFFFFFFFFFFFFFFFFFFZ"))
DAY_US = 86_400_000_000
FIRST_DAY_US = 1_769_817_600_000_000  # 2026-01-31

VALUE = Layout(2, 1, description_pb2.OUTCOME_KIND_VALUE, 1, 2)
CHOICE = Layout(1, 0, description_pb2.OUTCOME_KIND_CHOICE, 1, 3)
VECTOR = Layout(0, 2, description_pb2.OUTCOME_KIND_VECTOR, 2, 1)


@dataclass
class Step:
    """A step's arguments of `add`. Version n of a user is n."""

    users: list[str]
    slots: np.ndarray[Any, np.dtype[np.uint16]]
    sessions: U64
    events: Records
    results: Records

    def arguments(self) -> tuple[Any, ...]:
        return self.users, self.slots, self.sessions, self.events, self.results


def step(layout: Layout, num: int, first: int = 1, users: int = 3) -> Step:
    """Applied events of a few users on three days; every third without an outcome, every second without a session."""
    at = np.arange(first, first + num)
    events, results = np.zeros(num, layout.event_dtype), np.zeros(num, layout.result_dtype)
    keys = [user_key("shop", f"user {number % users}") for number in at.tolist()]
    events["seq"] = at + 5
    events["event_time_us"] = FIRST_DAY_US + at % 61 * (DAY_US // 24)
    events["ids"] = at[:, None] * 10 + np.arange(layout.num_ids)
    events["features"] = at[:, None] + np.arange(layout.num_features) / 4
    if layout.is_choice:
        events["choice"] = at % 7
    else:
        events["outcome"] = at[:, None] * 2 + np.arange(layout.outcome_width)
    events["kind"] = np.where(at % 3 == 0, EVENT_KIND_NO_OUTCOME, EVENT_KIND_OBSERVATION)
    results["status"] = pb.STATUS_APPLIED
    results["version"] = at
    results["prediction"] = at[:, None] / 2 + np.arange(layout.prediction_width)
    results["loss"] = np.where(at % 3 == 0, np.nan, at / 8)
    sessions = np.zeros((num, 2), np.uint64)
    sessions[at % 2 == 0] = halves(SESSION)
    return Step(keys, np.array([slot_of(key) for key in keys], np.uint16), sessions, events, results)


def log_of(store: MemoryStore, layout: Layout = VALUE, bounds: EventLogBounds | None = None) -> EventLog:
    return EventLog(store, INCARNATION, layout, ["counting"], lambda: 0.0, bounds, backoff_s=1e-4)


async def rows_of(store: MemoryStore) -> list[dict[str, Any]]:
    """All that the log holds, in the order of versions."""
    rows = [row async for _, table in read_events(store) for row in table.to_pylist()]
    return sorted(rows, key=lambda row: row["version"])


@pytest.mark.parametrize(("layout", "column"), [(VALUE, "value"), (CHOICE, "choice"), (VECTOR, "vector")])
async def test_a_row_tells_all_that_was_served(layout: Layout, column: str) -> None:
    store = MemoryStore()
    log = log_of(store, layout)
    served = step(layout, 40)
    log.add(*served.arguments())
    await log.flush()
    rows = await rows_of(store)
    assert (log.num_written, log.num_waiting, log.num_dropped) == (40, 0, 0)
    for index, row in enumerate(rows):
        event, result, number = served.events[index], served.results[index], index + 1
        learned, sequenced = number % 3 != 0, number % 2 == 0
        assert user_key(row["namespace"], row["user_id"]) == served.users[index]
        assert row["slot"] == slot_of(served.users[index])
        assert row["session_id"] == (str(ULID.from_int(SESSION)) if sequenced else None)
        assert row["seq"] == (number + 5 if sequenced else None)
        assert row["version"] == number
        assert row["event_time"].timestamp() * 1e6 == event["event_time_us"]
        assert row["ids"] == event["ids"].tolist()
        assert row["features"] == event["features"].tolist()
        given = {"value": event["outcome"][0]} if column == "value" else {}
        given |= {"choice": event["choice"]} if column == "choice" else {}
        given |= {"vector": event["outcome"].tolist()} if column == "vector" else {}
        assert {name: row[name] for name in ("value", "choice", "vector") if row[name] is not None} == (
            given if learned else {}
        )
        assert row["prediction"] == result["prediction"].tolist()
        assert row["loss"] == (number / 8 if learned else None)
        assert row["model"] == "counting"


async def test_only_what_was_applied_is_logged_and_nothing_is_shared() -> None:
    store = MemoryStore()
    log = log_of(store)
    served = step(VALUE, 6)
    served.results["status"][[0, 3, 4]] = [pb.STATUS_REJECTED, pb.STATUS_DUPLICATE, pb.STATUS_ANSWERED]
    log.add(*served.arguments())
    served.events["ids"] = -1
    served.results["prediction"] = -1
    await log.flush()
    rows = await rows_of(store)
    assert [row["version"] for row in rows] == [2, 3, 6]
    assert [row["user_id"] for row in rows] == ["user 2", "user 0", "user 0"]
    assert all(row["ids"][0] == row["version"] * 10 and row["prediction"][0] == row["version"] / 2 for row in rows)


async def test_files_are_by_day_and_bucket_and_numbered() -> None:
    store = MemoryStore()
    log = log_of(store)
    for first in (1, 31):
        log.add(*step(VALUE, 30, first).arguments())
        await log.flush()
    places = [(file.day, file.bucket, file.name) async for file, _ in read_events(store)]
    assert len(set(places)) == len(places)
    assert {day for day, _, _ in places} == {"2026-01-31", "2026-02-01", "2026-02-02"}
    assert {name for _, _, name in places} == {f"{INCARNATION.replace('/', '-')}-0000000{n}" for n in (1, 2)}
    async for file, table in read_events(store):
        for row in table.to_pylist():
            assert row["event_time"].date().isoformat() == file.day
            assert row["slot"] % 16 == file.bucket


async def test_a_time_beyond_the_calendar_has_its_last_day() -> None:
    store = MemoryStore()
    log = log_of(store)
    served = step(VALUE, 2)
    served.events["event_time_us"] = [0, np.iinfo(np.int64).max]
    log.add(*served.arguments())
    await log.flush()
    assert {file.day async for file, _ in read_events(store)} == {"1970-01-01", "9999-12-31"}


BLOCK = Block(VALUE, 0.0).room


def buffer_of(cut_blocks: int) -> EventBuffer:
    """One that drops nothing."""
    return EventBuffer(VALUE, EventLogBounds(age_s=10.0, cut_bytes=cut_blocks * Block(VALUE, 0.0).num_bytes))


def versions(blocks: list[Block]) -> list[int]:
    return [version for block in blocks for version in block.table(VALUE, ["m"])["version"].to_pylist()]


def test_a_cut_is_due_by_age_or_by_size() -> None:
    buffer = buffer_of(cut_blocks=2)
    assert buffer.due_in_s(0.0) == float("inf")
    buffer.add(100.0, *step(VALUE, 1).arguments())
    buffer.add(105.0, *step(VALUE, 1, first=2).arguments())
    assert buffer.due_in_s(106.0) == 4.0
    assert buffer.due_in_s(111.0) == 0.0
    buffer.add(105.0, *step(VALUE, BLOCK, first=3).arguments())
    assert buffer.due_in_s(105.0) == 0.0
    assert versions(buffer.cut()) == list(range(1, BLOCK + 3))
    assert buffer.due_in_s(1e9) == float("inf")
    assert buffer.num_rows == BLOCK + 2
    buffer.settle()
    assert (buffer.num_rows, buffer.num_bytes) == (0, 0)


def test_a_cut_is_no_larger_than_a_cut_and_in_order() -> None:
    buffer = buffer_of(cut_blocks=2)
    buffer.add(0.0, *step(VALUE, 4 * BLOCK).arguments())
    seen = []
    while buffer.due_in_s(1e9) == 0.0:
        cut = buffer.cut()
        assert len(cut) == 2
        seen += versions(cut)
        buffer.settle()
    assert seen == list(range(1, 4 * BLOCK + 1))


@pytest.mark.parametrize(("bytes_max", "rows_max"), [(4 * BLOCK_BYTES, 10**9), (1 << 40, 5 * BLOCK)])
def test_beyond_the_bound_the_oldest_that_wait_go_and_are_counted(bytes_max: int, rows_max: int) -> None:
    bounds = EventLogBounds(age_s=10.0, cut_bytes=BLOCK_BYTES, bytes_max=bytes_max, rows_max=rows_max)
    buffer = EventBuffer(VALUE, bounds)
    num = 30 * BLOCK
    buffer.add(0.0, *step(VALUE, BLOCK).arguments())
    on_the_way = buffer.cut()
    for first in range(BLOCK + 1, num + 1, BLOCK // 2):
        buffer.add(0.0, *step(VALUE, BLOCK // 2, first).arguments())
        assert buffer.num_bytes <= bytes_max
        assert buffer.num_rows <= rows_max
        assert buffer.num_rows + buffer.num_dropped == first - 1 + BLOCK // 2
    assert buffer.num_bytes + 2 * on_the_way[0].num_bytes > bytes_max or buffer.num_rows + 2 * BLOCK > rows_max
    assert versions(on_the_way) == list(range(1, BLOCK + 1))
    buffer.settle()
    left = []
    while buffer.due_in_s(1e9) == 0.0:
        left += versions(buffer.cut())
        buffer.settle()
    assert left == list(range(BLOCK + buffer.num_dropped + 1, num + 1))
    assert (buffer.num_rows, buffer.num_bytes) == (0, 0)


def test_bounds_must_leave_room_to_write() -> None:
    with pytest.raises(ValueError, match="no room"):
        EventLogBounds(cut_bytes=1 << 24, bytes_max=1 << 24)


@dataclass
class Failing(MemoryStore):
    """A store that is down until told otherwise, and that may do what it says that it did not."""

    down: bool = True
    does_it_anyway: bool = False
    attempts: list[str] = field(default_factory=list)
    tried: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        super().__init__()

    async def put_if_absent(self, key: str, body: bytes, *, timeout_s: float | None = None) -> Etag | None:
        self.attempts.append(key)
        if len(self.attempts) >= 8:
            self.tried.set()
        if self.down and not self.does_it_anyway:
            raise StoreUnavailable("down")
        etag = await super().put_if_absent(key, body)
        if self.down:
            raise StoreUnavailable("down, it seems", maybe_done=True)
        return etag


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.INFO, logger="worker.event_log"):
        yield caplog


@pytest.mark.parametrize("does_it_anyway", [False, True])
async def test_an_outage_is_waited_out_and_told_once(does_it_anyway: bool, warnings: pytest.LogCaptureFixture) -> None:
    store = Failing(does_it_anyway=does_it_anyway)
    log = log_of(store)
    log.add(*step(VALUE, 40).arguments())
    async with asyncio.TaskGroup() as tasks:
        flushing = tasks.create_task(log.flush())
        await store.tried.wait()
        assert not flushing.done()
        store.down = False
    assert [row["version"] for row in await rows_of(store)] == list(range(1, 41))
    assert len(warnings.messages) == 1


async def test_an_outage_never_holds_up_add_and_drops_are_told_once(warnings: pytest.LogCaptureFixture) -> None:
    store = Failing()
    size = Block(VALUE, 0.0).num_bytes
    log = log_of(store, bounds=EventLogBounds(cut_bytes=size, bytes_max=5 * BLOCK_BYTES))
    running = asyncio.create_task(log.run())
    num = 12
    for number in range(num):
        log.add(*step(VALUE, BLOCK, 1 + number * BLOCK).arguments())
        if number == 0:
            await store.tried.wait()
    assert log.num_dropped > 0
    assert log.num_dropped + log.num_waiting == num * BLOCK
    store.down = False
    await log.flush()
    running.cancel()
    rows = await rows_of(store)
    assert log.num_written == len(rows) == num * BLOCK - log.num_dropped
    seen = [row["version"] for row in rows]
    assert seen == [*range(1, BLOCK + 1), *range(num * BLOCK - len(rows) + BLOCK + 1, num * BLOCK + 1)]
    assert [text for text in warnings.messages if "drops" in text] == [
        "the event log drops its oldest events: the store takes less than is served"
    ]
    assert warnings.messages[-1] == f"the event log is whole again num_missing={log.num_dropped}"


class Telling(MemoryStore):
    """A store that says when something was written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = asyncio.Event()

    async def put_if_absent(self, key: str, body: bytes, *, timeout_s: float | None = None) -> Etag | None:
        etag = await super().put_if_absent(key, body)
        self.written.set()
        return etag


@pytest.mark.parametrize("bounds", [EventLogBounds(age_s=0.01), EventLogBounds(age_s=1e6, cut_bytes=1)])
async def test_run_writes_by_age_and_by_size(bounds: EventLogBounds) -> None:
    store = Telling()
    loop = asyncio.get_running_loop()
    log = EventLog(store, INCARNATION, VALUE, ["counting"], loop.time, bounds)
    running = asyncio.create_task(log.run())
    await asyncio.sleep(0)
    for number in range(1, 4):
        log.add(*step(VALUE, 1, number, users=1).arguments())
        await store.written.wait()
        store.written.clear()
    running.cancel()
    await log.flush()
    assert [row["version"] for row in await rows_of(store)] == [1, 2, 3]
    assert len([entry async for entry in list_all(store)]) == 3


async def test_a_run_that_was_cancelled_is_gone_on_with_by_flush() -> None:
    store = Failing(does_it_anyway=True)
    log = log_of(store, bounds=EventLogBounds(cut_bytes=1))
    running = asyncio.create_task(log.run())
    log.add(*step(VALUE, 60).arguments())
    await store.tried.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    log.add(*step(VALUE, 60, first=61).arguments())
    store.down = False
    await log.flush()
    assert [row["version"] for row in await rows_of(store)] == list(range(1, 121))
    assert log.num_waiting == 0


@pytest.mark.parametrize("when", range(6))
async def test_cancelled_at_any_moment_nothing_is_lost_or_doubled(when: int) -> None:
    store = MemoryStore()
    log = log_of(store)
    log.add(*step(VALUE, 200).arguments())
    flushing = asyncio.create_task(log.flush())
    for _ in range(when):
        await asyncio.sleep(0)
    flushing.cancel()
    await asyncio.gather(flushing, return_exceptions=True)
    await log.flush()
    assert [row["version"] for row in await rows_of(store)] == list(range(1, 201))
