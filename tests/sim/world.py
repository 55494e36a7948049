"""Time, store and workers of a simulation. All that happens comes off one heap, in an order that the seed decides.

A worker is the real `Ownership` over real `Residents`; an update is counted and hashed in the state, so that a lost,
doubled or disordered event shows in it. What the world does to it: crashes, long pauses after which a zombie goes on,
store calls that are slow, fail, or fail and are carried out later all the same, outages, partitions between workers.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import count
from random import Random
from typing import Any

import numpy as np
from ulid import ULID

from evercurrent.errors import Refused, rejection
from evercurrent.v1 import observation_pb2 as pb
from persistence.errors import StoreError, StoreUnavailable
from persistence.keys import SLOTS_PREFIX, journal_prefix, record_key, slot_key
from persistence.record import read_record, read_slot
from persistence.rows import Rows, halves
from persistence.segment import Segment, read_segment
from persistence.store import Etag, Stored, content_etag
from worker.claims import Left
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
STATE_WIDTH = 2
RESIDENTS_MAX = 4
REJECTED = 0
"""The event that no state learns from."""
TIMING = Timing(journal_interval_us=20 * MS, dead_after_us=500 * MS, sweep_interval_us=300 * MS, hold_us=200 * MS)
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
        """Told of each key that was written or deleted."""
        self._held_back: list[tuple[Callable[[str], bool], list[Effect]]] = []
        self._segments: dict[str, tuple[Segment, dict[str, int]]] = {}
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

    def call_store(self, effect: Effect, answer: Callable[[Any], None], slow_us: int = 0) -> None:
        """Carry out one store call some time from now, or not, or later than it says."""
        is_write = isinstance(effect, PutIfAbsent | PutIfMatch | Delete)
        for chosen, held in self._held_back:
            if isinstance(effect, PutIfAbsent | PutIfMatch) and chosen(effect.key):
                held.append(effect)
                return
        fate = 1.0 if self.is_calm else self.random.random()
        begins_us = self.delay_us() + slow_us
        ends_us = begins_us + self.delay_us()
        if self.is_down or fate < 0.03:
            self.after(ends_us, lambda: answer(StoreUnavailable("down")))
        elif is_write and fate < 0.08:
            if self.random.random() < 0.5:
                self.land_late(effect)
            self.after(begins_us, lambda: answer(StoreUnavailable("in doubt", maybe_done=True)))
        else:
            self.after(begins_us, lambda: self._finish(effect, ends_us - begins_us, answer))

    def hold_back(self, chosen: Callable[[str], bool]) -> list[Effect]:
        """Leave writes of these keys undone and unanswered, until they are told to `land`."""
        held: list[Effect] = []
        self._held_back.append((chosen, held))
        return held

    def land(self, effect: Effect) -> None:
        """Carry out a write that was held back, and hold back no more."""
        self._held_back.clear()
        self._do(effect)

    def land_late(self, effect: Effect) -> None:
        """Carry a write out some time from now; nobody is told."""
        self.after(self.random.randrange(1, 4000 * MS), lambda: self._do(effect))

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
            case Delete((key,)):
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
        self.on_change(key)
        return content_etag(body)

    def claim(self, slot: int) -> tuple[str, int]:
        """Incarnation and claim that the slot's record names."""
        if slot_key(slot) not in self.objects:
            return "", 0
        return _claim_of(self.objects[slot_key(slot)])

    def stored(self, user: str, slot: int, session: int) -> Facts:
        """What the store alone proves of a user: what a new owner would find, if all who live died now."""
        incarnation, claim = self.claim(slot)
        prefix = journal_prefix(incarnation)
        first = 0
        for key in sorted((key for key in self.objects if key.startswith(prefix)), reverse=True):
            segment, users = self._segment(key)
            index = users.get(user)
            first = first or segment.footer.first
            if index is None or segment.footer.number < first:
                continue
            if tuple(segment.rows.claims[index].tolist()) == halves(claim):
                return Facts.of(segment.rows, index, session)
        key = record_key(slot, user)
        if key in self.objects:
            return Facts.of(read_record(self.objects[key], user, slot), 0, session)
        return Facts(0, 0, 0, 0)

    def _segment(self, key: str) -> tuple[Segment, dict[str, int]]:
        if key not in self._segments:
            segment = read_segment(self.objects[key])
            self._segments[key] = segment, {user: index for index, user in enumerate(segment.rows.users)}
        return self._segments[key]


@lru_cache
def _claim_of(body: bytes) -> tuple[str, int]:
    record = read_slot(body)
    return record.incarnation, int(ULID.from_str(record.claim))


@dataclass(frozen=True, slots=True)
class Facts:
    """A user's version, the last seq of a session, the count and the hash of the state."""

    version: int
    last_seq: int
    count: int
    hash: int

    @staticmethod
    def of(rows: Rows, index: int, session: int) -> Facts:
        last_seqs = {high << 64 | low: last for high, low, last, _, _ in rows.sessions_of(index).tolist()}
        count, hash_ = (0, 0) if rows.forgotten[index] else rows.states[index].tolist()
        return Facts(int(rows.versions[index]), last_seqs.get(session, 0), int(count), int(hash_))


@dataclass
class Ask:
    """Someone who waits for a user to be resident: told the row then, or why not."""

    user: str
    slot: int
    found: Callable[[Process, int], None]
    refused: Callable[[pb.Rejection], None]


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
    residents_max: int = RESIDENTS_MAX
    is_alive: bool = True
    paused_until_us: int = 0
    slow_until_us: int = 0
    """Until when its store calls take long to begin."""
    is_doomed: bool = False
    """Whether it dies at its next claim, which is carried out late all the same."""
    asks: list[Ask] = field(default_factory=list)
    watches: list[Watch] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.incarnation = f"{self.name}/{self.life:026d}"
        self.residents = Residents(np.zeros(STATE_WIDTH, np.float32), self.residents_max, MODEL)
        self.ownership = Ownership(
            self.incarnation,
            f"{self.name}:1",
            self.residents,
            TIMING,
            lambda: self.world.now_us,
            Random(self.world.random.random()),
            self.start,
        )
        self.ownership.users = self
        self.world.note(f"{self.incarnation} begins")
        self.start(self.ownership.journal())
        self.start(self.ownership.sweep())

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
                self.later(lambda: answer(None), self.world.random.randrange(MS))
            case Wait():
                self._wait(effect, answer)
            case Offload(work):
                self._offload(work, answer)
            case Together(effects):
                self._together(effects, answer)
            case Delete(keys):
                self._delete(keys, answer)
            case AskRelease():
                self._ask_release(effect, answer)
            case _:
                self._call_store(effect, answer)

    def _call_store(self, effect: Effect, answer: Callable[[Any], None]) -> None:
        world = self.world
        if self.is_doomed and isinstance(effect, PutIfAbsent | PutIfMatch) and effect.key.startswith(SLOTS_PREFIX):
            world.land_late(effect)
            self.crash()
            return
        slow_us = world.random.randrange(1500 * MS) if world.now_us < self.slow_until_us else 0
        world.call_store(effect, answer, slow_us)

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
            self._call_store(effect, partial(one, index))

    def _delete(self, keys: Sequence[str], answer: Callable[[Any], None]) -> None:
        """One by one, each with a fate of its own."""
        for key in keys:
            if not key.startswith(journal_prefix(self.incarnation)):
                self.world.note(f"{self.incarnation} sweeps {key}")

        def ended(results: Sequence[Any]) -> None:
            answer(next((result for result in results if isinstance(result, StoreError)), None))

        self._together([Delete((key,)) for key in keys], ended)

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

            def given(left: Left) -> None:
                note = f"{other.incarnation} releases {sorted(ask.claims)} but {sorted(left.not_held | left.kept)}"
                self.world.note(note)
                if self.world.reaches(self.name, name):
                    self.world.after(self.world.delay_us(), lambda: end(Released(rows, left.not_held, left.kept)))

            other.run_flow(other.ownership.release(ask.claims), given, rows.append)

        self.world.after(self.world.delay_us(), arrive)
        self.later(lambda: end(Unreachable()), RELEASE_TIMEOUT_US)

    def seek(self, ask: Ask) -> None:
        """Find a user, now or when it is here."""
        try:
            row = self.ownership.seek(ask.user, ask.slot)
        except Refused as error:
            ask.refused(error.rejection)
            return
        if row is None:
            self.asks.append(ask)
        else:
            ask.found(self, row)

    def feed(self, row: int, session: int) -> Watch:
        """Open a session of a resident. Raises Refused."""
        watch = Watch(row, self.residents.sessions.open(row, session), lambda _: None, lambda: None)
        self.residents.slab.num_tags[row] += 1
        self.residents.used_us[row] = self.world.now_us
        self.watches.append(watch)
        return watch

    def forget(self, row: int, done: Callable[[bool], None]) -> None:
        """End what feeds a user and forget it."""
        for watch in [watch for watch in self.watches if watch.row == row]:
            self.close(watch)
            watch.ended()
        self.run_flow(self.ownership.forget(row), done)

    def observe(self, watch: Watch, seq: int, event: int) -> None:
        """Learn from one event if it is due: count it and hash it. A REJECTED one is consumed, and no more."""
        residents, row, entry = self.residents, watch.row, watch.entry
        if seq != residents.sessions.last_seq.item(entry) + 1:
            return
        residents.sessions.last_seq[entry] = seq
        if event != REJECTED:
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
            ask.refused(refusal)
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
            self.seek(ask)

    def _refuse(self, chosen: Callable[[Ask], bool], why: pb.Rejection) -> None:
        asks = [ask for ask in self.asks if chosen(ask)]
        self.asks = [ask for ask in self.asks if not chosen(ask)]
        for ask in asks:
            ask.refused(why)
