"""The event log's writer: applied observations with their predictions and losses, written behind as Parquet.

    add (on the loop, after a step) → blocks in memory → cut → table → a file a day and bucket → store

It promises nothing to updates and takes nothing from them: `add` copies a few hundred bytes an event and never waits.
What the store does not take is kept up to a bound; beyond it the oldest events go and are counted. So the log may have
gaps, after a crash or a long outage, and says so; states never depend on it. `EventBuffer` decides, `EventLog` acts.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from evercurrent.telemetry.logs import get_logger
from evercurrent.v1 import description_pb2
from evercurrent.v1 import observation_pb2 as pb
from evercurrent.wire import Layout, Records
from persistence.columns import lists, ulid_texts
from persistence.errors import StoreError
from persistence.events import SCHEMA, encode_events, file_name, split_events
from persistence.rows import U64
from persistence.store import ObjectStore
from worker.validation import has_outcome

BLOCK_ROWS_MAX = 2048
BLOCK_BYTES = 1 << 20
USER_BYTES = 64
"""What a user's key counts for; most are shared with the residents."""

WRITES_MAX = 4
"""Files on their way to the store at once."""

BACKOFF_S = 0.2
BACKOFF_S_MAX = 30.0

Clock = Callable[[], float]
"""Monotonic seconds."""

logger = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class EventLogBounds:
    """When what is buffered is written, and how much may wait. Seconds, bytes, events."""

    age_s: float = 60.0
    cut_bytes: int = 16 << 20
    bytes_max: int = 128 << 20
    rows_max: int = 1_000_000

    def __post_init__(self) -> None:
        if self.cut_bytes + 2 * BLOCK_BYTES > self.bytes_max:
            raise ValueError(f"bytes_max {self.bytes_max} leaves no room beside a cut of {self.cut_bytes}")


class Block:
    """A run of events as they were served, in arrays reserved whole: an event costs its bytes and no objects."""

    def __init__(self, layout: Layout, began_s: float) -> None:
        event, result = layout.event_dtype, layout.result_dtype
        row_bytes = event.itemsize + result.itemsize + 18 + USER_BYTES
        size = max(1, min(BLOCK_ROWS_MAX, BLOCK_BYTES // row_bytes))
        self.began_s = began_s
        self.num_bytes = size * row_bytes
        self.num_rows = 0
        self.users: list[str] = []
        self._size = size
        self._slots = np.empty(size, np.uint16)
        self._sessions = np.empty((size, 2), np.uint64)
        # As plain bytes: numpy assigns structured arrays field by field, at several times the cost.
        self._events = np.empty(size, _raw(event))
        self._results = np.empty(size, _raw(result))

    def restart(self, began_s: float) -> None:
        """Hold other events. Memory that was touched before costs an update nothing; fresh pages do."""
        self.began_s = began_s
        self.num_rows = 0
        self.users = []

    @property
    def room(self) -> int:
        """How many more events fit."""
        return self._size - self.num_rows

    def put(
        self, users: Sequence[str], slots: NDArray[np.uint16], sessions: U64, events: Records, results: Records
    ) -> None:
        """Append at most `room` events, all applied."""
        begin, end = self.num_rows, self.num_rows + len(events)
        self.users.extend(users)
        self._slots[begin:end] = slots
        self._sessions[begin:end] = sessions
        self._events[begin:end] = events.view(self._events.dtype)
        self._results[begin:end] = results.view(self._results.dtype)
        self.num_rows = end

    def table(self, layout: Layout, versions: Sequence[str]) -> pa.Table:
        """The columns of SCHEMA. Takes about a millisecond: not for the loop."""
        num = self.num_rows
        events, results = self._events[:num].view(layout.event_dtype), self._results[:num].view(layout.result_dtype)
        keys = [user.partition("\0") for user in self.users]
        unsequenced = (self._sessions[:num] == 0).all(axis=1)
        unlearned = ~has_outcome(events)
        nothing = pa.nulls(num)
        columns = {
            "namespace": pa.array([namespace for namespace, _, _ in keys], pa.string()),
            "user_id": pa.array([user_id for _, _, user_id in keys], pa.string()),
            "slot": pa.array(self._slots[:num]),
            "session_id": ulid_texts(self._sessions[:num], unsequenced),
            "seq": pa.array(events["seq"], mask=unsequenced),
            "version": pa.array(results["version"]),
            "event_time": pa.array(events["event_time_us"]),
            "ids": lists(events["ids"]),
            "features": lists(events["features"]),
            "value": nothing,
            "choice": nothing,
            "vector": nothing,
            "prediction": lists(results["prediction"]),
            "loss": pa.array(results["loss"], mask=unlearned),
            "model": pa.array([versions[number] for number in results["model"].tolist()], pa.string()),
        }
        match layout.outcome:
            case description_pb2.OUTCOME_KIND_VALUE:
                columns["value"] = pa.array(events["outcome"][:, 0], mask=unlearned)
            case description_pb2.OUTCOME_KIND_CHOICE:
                columns["choice"] = pa.array(events["choice"], mask=unlearned)
            case _:
                columns["vector"] = lists(events["outcome"], unlearned)
        return pa.table([columns[field.name].cast(field.type) for field in SCHEMA], schema=SCHEMA)


class EventBuffer:
    """What was added and is not in the store yet. Pure: no clock, no store.

    Its blocks are either waiting or, from `cut` to `settle`, on their way to the store; those stay, the oldest of the
    others go when there are too many.
    """

    def __init__(self, layout: Layout, bounds: EventLogBounds) -> None:
        self.num_rows = 0
        self.num_bytes = 0
        self.num_dropped = 0
        self.on_the_way: list[Block] = []
        self._layout = layout
        self._bounds = bounds
        self._waiting: deque[Block] = deque()
        self._spare: list[Block] = []
        self._waiting_bytes = 0

    def add(
        self,
        now_s: float,
        users: Sequence[str],
        slots: NDArray[np.uint16],
        sessions: U64,
        events: Records,
        results: Records,
    ) -> None:
        """Keep those events that were applied; may drop the oldest that wait."""
        applied = results["status"] == pb.STATUS_APPLIED
        if not applied.all():
            which = np.flatnonzero(applied)
            users = [users[index] for index in which.tolist()]
            slots, sessions, events, results = slots[which], sessions[which], events[which], results[which]
        begin = 0
        while begin < len(events):
            if not self._waiting or not self._waiting[-1].room:
                self._begin_block(now_s)
            block = self._waiting[-1]
            part = slice(begin, begin + block.room)
            num_before = block.num_rows
            block.put(users[part], slots[part], sessions[part], events[part], results[part])
            self.num_rows += block.num_rows - num_before
            begin = part.stop
        while len(self._waiting) > 1 and self._is_over():
            self.num_dropped += self._leave(self._waiting.popleft())

    def due_in_s(self, now_s: float) -> float:
        """When there is something to cut: 0 now, infinity with nothing waiting."""
        if not self._waiting:
            return math.inf
        if self._waiting_bytes >= self._bounds.cut_bytes:
            return 0.0
        return max(0.0, self._waiting[0].began_s + self._bounds.age_s - now_s)

    def cut(self) -> list[Block]:
        """The oldest blocks, up to a cut's size, which are on their way from now on. None is before `settle`."""
        assert not self.on_the_way, "the last cut is still on its way"
        taken_bytes = 0
        while self._waiting and taken_bytes < self._bounds.cut_bytes:
            block = self._waiting.popleft()
            taken_bytes += block.num_bytes
            self.on_the_way.append(block)
        self._waiting_bytes -= taken_bytes
        return self.on_the_way

    def settle(self) -> None:
        """What was on its way is in the store."""
        for block in self.on_the_way:
            self.num_rows -= block.num_rows
            self.num_bytes -= block.num_bytes
            self._spare_one(block)
        self.on_the_way = []

    def _begin_block(self, now_s: float) -> None:
        block = self._spare.pop() if self._spare else Block(self._layout, now_s)
        block.restart(now_s)
        self._waiting.append(block)
        self._waiting_bytes += block.num_bytes
        self.num_bytes += block.num_bytes

    def _leave(self, block: Block) -> int:
        self._waiting_bytes -= block.num_bytes
        self.num_bytes -= block.num_bytes
        self.num_rows -= block.num_rows
        self._spare_one(block)
        return block.num_rows

    def _spare_one(self, block: Block) -> None:
        """Keep a block for later events, up to a cut of them."""
        if len(self._spare) * block.num_bytes < self._bounds.cut_bytes:
            self._spare.append(block)

    def _is_over(self) -> bool:
        return self.num_bytes > self._bounds.bytes_max or self.num_rows > self._bounds.rows_max


class EventLog:
    """The log of one incarnation. `add` on the serving loop, `run` as a task on it, and `flush` at a clean stop."""

    def __init__(
        self,
        store: ObjectStore,
        incarnation: str,
        layout: Layout,
        versions: Sequence[str],
        clock_s: Clock,
        bounds: EventLogBounds | None = None,
        backoff_s: float = BACKOFF_S,
    ) -> None:
        self.num_written = 0
        self._store = store
        self._incarnation = incarnation
        self._layout = layout
        self._versions = versions
        self._clock_s = clock_s
        self._backoff_s = backoff_s
        self._buffer = EventBuffer(layout, bounds or EventLogBounds())
        self._number = 0
        self._files: deque[tuple[str, bytes]] = deque()
        self._changed = asyncio.Event()
        self._writing = asyncio.Lock()
        self._is_dropping = False
        self._is_failing = False
        self._num_dropped_before = 0

    @property
    def num_dropped(self) -> int:
        """Events that were served and will not be in the log."""
        return self._buffer.num_dropped

    @property
    def num_waiting(self) -> int:
        """Events that are not in the store yet."""
        return self._buffer.num_rows

    def add(
        self,
        users: Sequence[str],
        slots: NDArray[np.uint16],
        sessions: U64,
        events: Records,
        results: Records,
    ) -> None:
        """Log those of a step's events that were applied. Everything is copied.

        Args:
            users: their keys, by `user_key`.
            slots: their slots, [N].
            sessions: their session ids, [N, 2], a ULID's upper and lower 64 bits; 0 without a session.
            events: as they came, [N].
            results: as they are answered, [N].
        """
        num_dropped = self._buffer.num_dropped
        due_in_s = self._buffer.due_in_s(now_s := self._clock_s())
        self._buffer.add(now_s, users, slots, sessions, events, results)
        if due_in_s and self._buffer.due_in_s(now_s) < due_in_s:
            self._changed.set()
        if self._buffer.num_dropped > num_dropped and not self._is_dropping:
            self._is_dropping = True
            logger.warning("the event log drops its oldest events: the store takes less than is served")

    async def run(self) -> None:
        """Write behind, until cancelled; what is not in the store then is for `flush`."""
        while True:
            await self._until_due()
            async with self._writing:
                await self._write_cut()

    async def flush(self) -> None:
        """Write all that was added before the call. Tries for ever while the store fails: bound it by a timeout."""
        async with self._writing:
            target = self.num_written + self.num_dropped + self._buffer.num_rows
            while self._buffer.num_rows and self.num_written + self.num_dropped < target:
                await self._write_cut()

    async def _until_due(self) -> None:
        while due_in_s := self._buffer.due_in_s(self._clock_s()):
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(due_in_s if math.isfinite(due_in_s) else None):
                    await self._changed.wait()

    async def _write_cut(self) -> None:
        """Bring one cut to the store. One that was broken off is gone on with, under the same keys."""
        if not self._files:
            if not self._buffer.on_the_way:
                self._buffer.cut()
                self._number += 1
            self._files.extend(await self._encoded(self._buffer.on_the_way))
        while self._files:
            batch = [self._files[at] for at in range(min(WRITES_MAX, len(self._files)))]
            async with asyncio.TaskGroup() as tasks:
                for key, body in batch:
                    tasks.create_task(self._put(key, body))
            for _ in batch:
                self._files.popleft()
        self.num_written += sum(block.num_rows for block in self._buffer.on_the_way)
        self._buffer.settle()
        if self._is_dropping and self.num_dropped == self._num_dropped_before:
            self._is_dropping = False
            logger.info("the event log is whole again", num_missing=self.num_dropped)
        self._num_dropped_before = self.num_dropped

    async def _encoded(self, blocks: Sequence[Block]) -> list[tuple[str, bytes]]:
        # Block by block: a thread that kept the interpreter for all of them would hold up the loop.
        tables = [await asyncio.to_thread(block.table, self._layout, self._versions) for block in blocks]
        files = await asyncio.to_thread(
            split_events, pa.concat_tables(tables), file_name(self._incarnation, self._number)
        )
        return [(file.key, await asyncio.to_thread(encode_events, table)) for file, table in files]

    async def _put(self, key: str, body: bytes) -> None:
        """Write a file, however long it takes. One that is there already is ours: an attempt in doubt had landed."""
        backoff_s = self._backoff_s
        while True:
            try:
                await self._store.put_if_absent(key, body)
            except StoreError as error:
                if not self._is_failing:
                    self._is_failing = True
                    logger.warning("the event log cannot be written, trying again", why=str(error))
                await asyncio.sleep(backoff_s)
                backoff_s = min(2 * backoff_s, BACKOFF_S_MAX)
            else:
                self._is_failing = False
                return


def _raw(dtype: np.dtype[np.void]) -> np.dtype[np.void]:
    return np.dtype((np.void, dtype.itemsize))
