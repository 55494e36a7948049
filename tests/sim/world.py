"""Time, store and workers of a simulation. All that happens comes off one heap, in an order that the seed decides.

A worker is the real `Ownership` over real `Residents`; an update is counted and hashed in the state, so that a lost,
doubled or disordered event shows in it. What the world does to it: crashes, long pauses after which a zombie goes on,
store calls that are slow, fail, or fail and are carried out later all the same, outages, partitions between workers.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from random import Random
from typing import Any

import numpy as np
from ulid import ULID

from evercurrent.errors import Refused, rejection
from evercurrent.v1 import observation_pb2 as pb
from persistence.errors import StoreError, StoreUnavailable
from persistence.keys import JOURNAL_PREFIX, journal_prefix, record_key, slot_key
from persistence.record import read_record, read_slot
from persistence.rows import Rows, halves
from persistence.segment import Segment, read_segment
from persistence.store import Etag, Stored, content_etag
from worker.flows import (
    AskRelease,
    Dead,
    Delete,
    Effect,
    Flow,
    Get,
    HandOver,
    ListKeys,
    Offload,
    Pause,
    PutIfAbsent,
    PutIfMatch,
    ReadSegment,
    Released,
    Together,
    Unreachable,
    Wait,
)
from worker.ownership import Ownership, Timing
from worker.residents import DIRTY, Indices, Mask, Residents

MS = 1000
MODEL = "sim"
HASH_FACTOR, HASH_MODULUS = 31, 65521
RESIDENTS_MAX = 6
TIMING = Timing(journal_interval_us=20 * MS, dead_after_us=500 * MS)
RELEASE_TIMEOUT_US = 300 * MS


def next_hash(before: int, event: int) -> int:
    """The hash of a history after one more event; depends on their order."""
    return (before * HASH_FACTOR + event) % HASH_MODULUS


class World:
    """One seed's clock, heap, store and network."""

    def __init__(self, seed: int, *, is_calm: bool = False) -> None:
        self.random = Random(seed)
        self.now_us = 0
        self.objects: dict[str, bytes] = {}
        self.is_calm = is_calm
        self.is_down = False
        self.cut: set[frozenset[str]] = set()
        self.processes: dict[str, Process] = {}
        self.trace: list[str] = []
        self.on_change: Callable[[str], None] = lambda _: None
        """Told of each key that was written over or deleted."""
        self._segments: dict[str, Segment] = {}
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._order = count()

    def note(self, text: str) -> None:
        self.trace.append(f"{self.now_us / MS:10.3f} {text}")

    def after(self, delay_us: int, act: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (self.now_us + delay_us, next(self._order), act))

    def run(self, until_us: int, is_done: Callable[[], bool] = lambda: False) -> None:
        """Let things happen until a time, or until it is done."""
        while self._heap and self._heap[0][0] <= until_us and not is_done():
            self.now_us, _, act = heapq.heappop(self._heap)
            act()

    def delay_us(self) -> int:
        """How long a message or a store call takes."""
        if self.is_calm or self.random.random() < 0.9:
            return self.random.randrange(1 * MS, 10 * MS)
        return self.random.randrange(10 * MS, 1500 * MS)

    def reaches(self, one: str, other: str) -> bool:
        return frozenset((one, other)) not in self.cut

    def call_store(self, effect: Effect, answer: Callable[[Any], None]) -> None:
        """Carry out one store call some time from now, or not, or later than it says."""
        is_write = isinstance(effect, PutIfAbsent | PutIfMatch | Delete)
        fate = 1.0 if self.is_calm else self.random.random()
        begins_us = self.delay_us()
        ends_us = begins_us + self.delay_us()
        if self.is_down or fate < 0.03:
            self.after(ends_us, lambda: answer(StoreUnavailable("down")))
        elif is_write and fate < 0.08:
            if self.random.random() < 0.5:
                self.after(self.random.randrange(1, 4000 * MS), lambda: self._do(effect))
            self.after(begins_us, lambda: answer(StoreUnavailable("in doubt", maybe_done=True)))
        else:
            self.after(begins_us, lambda: self._finish(effect, ends_us - begins_us, answer))

    def _finish(self, effect: Effect, delay_us: int, answer: Callable[[Any], None]) -> None:
        result = self._do(effect)
        self.after(delay_us, lambda: answer(result))

    def _do(self, effect: Effect) -> Any:
        objects = self.objects
        match effect:
            case Get(key):
                return Stored(objects[key], content_etag(objects[key])) if key in objects else None
            case ReadSegment(key):
                return read_segment(objects[key]) if key in objects else None
            case ListKeys(prefix):
                return sorted(key for key in objects if key.startswith(prefix))
            case Delete(key):
                objects.pop(key, None)
                self._segments.pop(key, None)
                self.on_change(key)
                return None
            case PutIfAbsent(key, body):
                return None if key in objects else self._write(key, body)
            case PutIfMatch(key, body, etag):
                stands = key in objects and content_etag(objects[key]) == etag
                return self._write(key, body) if stands else None
        raise AssertionError(f"no store effect: {effect}")

    def _write(self, key: str, body: bytes) -> Etag:
        self.objects[key] = body
        if not key.startswith(JOURNAL_PREFIX):
            self.on_change(key)
        return content_etag(body)

    def stored(self, user: str, slot: int, state_width: int) -> tuple[int, int, int]:
        """What the store alone proves of a user: the last seq of its session, the count and the hash of its state."""
        best = (0, 0, 0)
        key = record_key(slot, user)
        if key in self.objects:
            best = _facts(read_record(self.objects[key], user, slot, MODEL, state_width), 0)
        if slot_key(slot) in self.objects:
            record = read_slot(self.objects[slot_key(slot)])
            prefix = journal_prefix(record.incarnation)
            segments = [self._segment(key) for key in sorted(self.objects) if key.startswith(prefix)]
            segments = [segment for segment in segments if not segment.footer.seal]
            claim = halves(int(ULID.from_str(record.claim)))
            for segment in segments:
                if segment.footer.number >= segments[-1].footer.first and user in segment.rows.users:
                    index = segment.rows.users.index(user)
                    if tuple(segment.rows.claims[index].tolist()) == claim:
                        best = max(best, _facts(segment.rows, index))
        return best

    def _segment(self, key: str) -> Segment:
        if key not in self._segments:
            self._segments[key] = read_segment(self.objects[key])
        return self._segments[key]


def _facts(rows: Rows, index: int) -> tuple[int, int, int]:
    start = int(rows.num_sessions[:index].sum())
    last_seq = int(rows.sessions[start, 2]) if rows.num_sessions[index] else 0
    return last_seq, int(rows.states[index, 0]), int(rows.states[index, 1])


@dataclass
class Ask:
    """Someone who waits for a user to be served."""

    user: str
    slot: int
    session: int
    reply: Callable[[Process, int, pb.Rejection | None], None]


@dataclass
class Watch:
    """A feed of a resident."""

    row: int
    entry: int
    durable: Callable[[int], None]
    ended: Callable[[], None]


@dataclass
class Process:
    """One life of a worker: an incarnation, driven until it dies."""

    world: World
    name: str
    life: int
    is_alive: bool = True
    paused_until_us: int = 0
    asks: list[Ask] = field(default_factory=list)
    watches: list[Watch] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.incarnation = f"{self.name}/{self.life:026d}"
        self.residents = Residents(np.zeros(2, np.float32), RESIDENTS_MAX)
        self.ownership = Ownership(
            self.incarnation,
            f"{self.name}:1",
            MODEL,
            self.residents,
            TIMING,
            lambda: self.world.now_us,
            Random(self.world.random.random()),
            self.start,
        )
        self.ownership.users = self
        self.world.note(f"{self.incarnation} begins")
        self.start(self.ownership.journal())

    def later(self, act: Callable[[], None], delay_us: int = 0) -> None:
        """Have this process do something, unless it is dead by then; when it is paused, after that."""

        def due() -> None:
            if not self.is_alive:
                return
            if self.world.now_us < self.paused_until_us:
                self.world.after(self.paused_until_us - self.world.now_us, due)
            else:
                act()

        self.world.after(delay_us, due)

    def start(self, flow: Flow[None]) -> None:
        self.later(lambda: self._go(flow, lambda: next(flow)))

    def run_flow(
        self, flow: Flow[Any], done: Callable[[Any], None], take: Callable[[Rows], None] | None = None
    ) -> None:
        """Drive a flow and hand over what it returns; `take` gets the rows that it hands over."""

        def whole() -> Flow[None]:
            done((yield from flow))

        steps = whole()
        self.later(lambda: self._go(steps, lambda: next(steps), take))

    def _go(self, flow: Flow[None], step: Callable[[], Effect], take: Callable[[Rows], None] | None = None) -> None:
        try:
            effect = step()
        except StopIteration:
            return

        def answer(result: Any) -> None:
            self.later(lambda: self._go(flow, lambda: self._resume(flow, result), take))

        if isinstance(effect, HandOver):
            assert take is not None
            take(effect.rows)
            self.later(lambda: answer(None), self.world.delay_us())
        else:
            self._act(effect, answer)

    def _resume(self, flow: Flow[None], result: Any) -> Effect:
        return flow.throw(result) if isinstance(result, StoreError) else flow.send(result)

    def _act(self, effect: Effect, answer: Callable[[Any], None]) -> None:
        match effect:
            case Pause():
                answer(None)
            case Wait():
                self._wait(effect, answer)
            case Offload(work):
                self._offload(work, answer)
            case Together(effects):
                self._together(effects, answer)
            case AskRelease():
                self._ask_release(effect, answer)
            case _:
                self.world.call_store(effect, answer)

    def _offload(self, work: Callable[[], Any], answer: Callable[[Any], None]) -> None:
        def done() -> None:
            try:
                result = work()
            except StoreError as error:
                result = error
            answer(result)

        self.later(done, self.world.random.randrange(5 * MS))

    def _wait(self, wait: Wait, answer: Callable[[Any], None]) -> None:
        if wait.signal.is_set:
            answer(True)
            return
        ended: list[bool] = []

        def end(was_set: bool) -> None:
            if not ended:
                ended.append(was_set)
                unsubscribe()
                answer(was_set)

        unsubscribe = wait.signal.subscribe(lambda: end(True))
        if wait.timeout_us is not None:
            self.later(lambda: end(False), wait.timeout_us)

    def _together(self, effects: Sequence[Effect], answer: Callable[[Any], None]) -> None:
        results: dict[int, Any] = {}
        if not effects:
            answer([])

        def one(index: int, result: Any) -> None:
            results[index] = result
            if len(results) == len(effects):
                answer([results[at] for at in range(len(effects))])

        for index, effect in enumerate(effects):
            self.world.call_store(effect, partial(one, index))

    def _ask_release(self, ask: AskRelease, answer: Callable[[Any], None]) -> None:
        name = ask.incarnation.partition("/")[0]
        ended: list[bool] = []

        def end(result: Any) -> None:
            if not ended:
                ended.append(True)
                answer(result)

        def arrive() -> None:
            other = self.world.processes.get(name)
            if not self.world.reaches(self.name, name):
                return
            if other is None or not other.is_alive or other.incarnation != ask.incarnation:
                self.world.after(self.world.delay_us(), lambda: end(Dead()))
                return
            other.later(lambda: give(other))

        def give(other: Process) -> None:
            rows: list[Rows] = []

            def given(not_held: frozenset[int]) -> None:
                self.world.note(f"{other.incarnation} releases {sorted(ask.claims)} but {sorted(not_held)}")
                if self.world.reaches(self.name, name):
                    self.world.after(self.world.delay_us(), lambda: end(Released(rows, not_held)))

            other.run_flow(other.ownership.release(ask.claims), given, rows.append)

        self.world.after(self.world.delay_us(), arrive)
        self.later(lambda: end(Unreachable()), RELEASE_TIMEOUT_US)

    def open(self, ask: Ask) -> None:
        """Serve a user, now or when it is here."""
        try:
            row = self.ownership.seek(ask.user, ask.slot)
        except Refused as error:
            ask.reply(self, -1, error.rejection)
            return
        if row is None:
            self.asks.append(ask)
            return
        try:
            entry = self.residents.sessions.open(row, ask.session)
        except Refused as error:
            ask.reply(self, -1, error.rejection)
            return
        self.residents.slab.num_tags[row] += 1
        self.residents.used_us[row] = self.world.now_us
        self.watches.append(Watch(row, entry, lambda _: None, lambda: None))
        ask.reply(self, len(self.watches) - 1, None)

    def observe(self, watch: Watch, seq: int, event: int) -> None:
        """Learn from one event if it is due: count it and hash it."""
        residents, row, entry = self.residents, watch.row, watch.entry
        if seq != residents.sessions.last_seq.item(entry) + 1:
            return
        residents.sessions.last_seq[entry] = seq
        residents.slab.version[row] += np.uint64(1)
        state = residents.slab.state[row]
        state[0] += 1
        state[1] = next_hash(int(state[1]), event)
        residents.dirty[row] = DIRTY
        self.ownership.note_change()

    def close(self, watch: Watch) -> None:
        self.watches.remove(watch)
        self.residents.sessions.close(watch.entry)
        self.residents.slab.num_tags[watch.row] -= 1

    def crash(self) -> None:
        """Die at once."""
        self.world.note(f"{self.incarnation} dies")
        self._end()

    def _end(self) -> None:
        self.is_alive = False
        for watch in self.watches:
            watch.ended()
        refusal = rejection(pb.REASON_UNAVAILABLE, "", "gone", 1)
        for ask in self.asks:
            ask.reply(self, -1, refusal)
        self.watches, self.asks = [], []

    def slots_ready(self, slots: Sequence[int]) -> None:
        self._seek_again(lambda ask: ask.slot in slots)

    def slots_refused(self, slots: Sequence[int], why: pb.Rejection) -> None:
        self._refuse(lambda ask: ask.slot in slots, why)

    def slots_lost(self, slots: Mask, why: pb.Rejection) -> None:
        for watch in [watch for watch in self.watches if slots[self.residents.slab.slot[watch.row]]]:
            self.watches.remove(watch)
            watch.ended()

    def user_ready(self, user: str) -> None:
        self._seek_again(lambda ask: ask.user == user)

    def user_refused(self, user: str, why: pb.Rejection) -> None:
        self._refuse(lambda ask: ask.user == user, why)

    def durable(self, rows: Indices) -> None:
        safer = set(rows.tolist())
        for watch in self.watches:
            if watch.row in safer:
                watch.durable(self.residents.sessions.durable_seq.item(watch.entry))

    def fenced(self) -> None:
        self.world.note(f"{self.incarnation} is fenced")
        self._end()
        self.world.processes[self.name] = Process(self.world, self.name, self.life + 1)

    def _seek_again(self, chosen: Callable[[Ask], bool]) -> None:
        asks = [ask for ask in self.asks if chosen(ask)]
        self.asks = [ask for ask in self.asks if not chosen(ask)]
        for ask in asks:
            self.open(ask)

    def _refuse(self, chosen: Callable[[Ask], bool], why: pb.Rejection) -> None:
        asks = [ask for ask in self.asks if chosen(ask)]
        self.asks = [ask for ask in self.asks if not chosen(ask)]
        for ask in asks:
            ask.reply(self, -1, why)
