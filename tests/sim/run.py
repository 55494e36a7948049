"""One seed: feeds that keep what is not durable, faults for a while, then calm; and the invariants at every step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from unittest.mock import patch

import worker.claims
import worker.journal
import worker.reading
import worker.residency
import worker.residents
from evercurrent.errors import Refused
from evercurrent.v1 import observation_pb2 as pb
from persistence.keys import journal_prefix, record_key, slot_key
from tests.sim.world import MS, REJECTED, Ask, Facts, Process, Watch, World, next_hash

WORKERS = ("worker-0", "worker-1", "worker-2")
NUM_USERS = 8
NUM_SLOTS_USED = 3
TROUBLE_US = 4_000 * MS
CALM_US = 60_000 * MS
EVENTS_MAX = 60
FORGET_SHARE = 0.01
"""Of the events, after which the user is forgotten."""


class BrokenInvariantError(AssertionError):
    """A promise was broken. The text has the seed and the end of the trace."""


class Simulation:
    """All of one seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.world = World(seed)
        self.world.on_change = self._check_key
        self.feeds = [Feed(self, number) for number in range(NUM_USERS)]
        for name in WORKERS:
            self.world.processes[name] = Process(self.world, name, 1)

    def run(self) -> list[str]:
        """The trace. Raises BrokenInvariantError."""
        world = self.world
        for feed in self.feeds:
            feed.begin()
        self._trouble()
        world.run(TROUBLE_US)
        world.note("calm")
        world.is_calm, world.is_down = True, False
        world.cut.clear()
        for process in list(world.processes.values()):
            process.is_doomed, process.slow_until_us = False, 0
            self._restart(process.name)
        for feed in self.feeds:
            feed.calm()
        world.run(world.now_us + CALM_US, lambda: all(feed.is_done for feed in self.feeds))
        for feed in self.feeds:
            self.check(feed.is_done, f"{feed.user} is not served: {feed.state()}")
        return world.trace

    def check(self, holds: bool, otherwise: str) -> None:
        if not holds:
            trace = "\n".join(self.world.trace[-60:])
            raise BrokenInvariantError(f"seed {self.seed}: {otherwise}\n{trace}")

    def _check_key(self, key: str) -> None:
        """What was promised durable is what the store alone proves, after each write that could take from it."""
        for feed in self.feeds:
            journal = journal_prefix(self.world.claim(feed.slot)[0])
            if key in (slot_key(feed.slot), record_key(feed.slot, feed.user)) or key.startswith(journal):
                feed.check_stored()

    def owner_of(self, slot: int) -> str:
        """Whom a router would send the slot to; in trouble routers disagree."""
        if not self.world.is_calm and self.world.random.random() < 0.3:
            return self.world.random.choice(WORKERS)
        return WORKERS[slot % len(WORKERS)]

    def _trouble(self) -> None:
        world, random = self.world, self.world.random
        if world.is_calm or world.now_us > TROUBLE_US:
            return
        process = world.processes[random.choice(WORKERS)]
        kind = random.randrange(10)
        if not process.is_alive:
            self._restart(process.name)
        elif kind == 0:
            process.crash()
            world.after(random.randrange(1500 * MS), lambda: self._restart(process.name))
        elif kind == 1:
            process.is_doomed = True
        elif kind == 2:
            pause_us = random.randrange(50 * MS, 2500 * MS)
            world.note(f"{process.incarnation} pauses {pause_us / MS:.0f} ms")
            process.paused_until_us = world.now_us + pause_us
        elif kind == 3:
            self._cut(*random.sample(WORKERS, 2))
        elif kind == 4:
            self._cut(process.name, *(name for name in WORKERS if name != process.name))
        elif kind == 5:
            slow_us = random.randrange(200 * MS, 2500 * MS)
            world.note(f"{process.incarnation} is slow for {slow_us / MS:.0f} ms")
            process.slow_until_us = world.now_us + slow_us
        elif kind == 6:
            world.note("store down")
            world.is_down = True
            world.after(random.randrange(1000 * MS), self._store_up)
        elif kind == 7:
            process.ownership.evict_soon()
        world.after(random.randrange(20 * MS, 400 * MS), self._trouble)

    def _cut(self, name: str, *others: str) -> None:
        """No message gets through for a while."""
        world = self.world
        pairs = {frozenset((name, other)) for other in others}
        world.note(f"partition {name} from {others}")
        world.cut |= pairs
        world.after(world.random.randrange(1500 * MS), lambda: world.cut.difference_update(pairs))

    def _store_up(self) -> None:
        self.world.is_down = False

    def _restart(self, name: str) -> None:
        old = self.world.processes[name]
        if not old.is_alive:
            self.world.processes[name] = Process(self.world, name, old.life + 1)


class Feed:
    """One user's only producer: sends, keeps what is not durable, sends again after a break. Now and then it has the
    user forgotten, and begins anew with another session."""

    def __init__(self, simulation: Simulation, number: int) -> None:
        self.user = f"\0user-{number}"
        self.slot = number % NUM_SLOTS_USED
        self.session = 1 + number
        self.events: list[int] = []
        self.durable_seq = 0
        self.kept_from = 1
        """The first seq that is still kept: those before are durable."""
        self.states = [(0, 0)]
        """Count and hash of the state, by seq."""
        self.is_forgetting = False
        self._simulation = simulation
        self._version_forgotten = 0
        self._process: Process | None = None
        self._watch: Watch | None = None
        self._sent = 0
        self._epoch = 0

    @property
    def is_done(self) -> bool:
        return self._simulation.world.is_calm and not self.is_forgetting and self.durable_seq == len(self.events)

    def state(self) -> str:
        return f"durable {self.durable_seq} of {len(self.events)}, watch {self._watch}, forgetting {self.is_forgetting}"

    def begin(self) -> None:
        self._later(self.ask)
        self._later(self._produce)

    def calm(self) -> None:
        """Whoever serves the user by a router's mistake does so no more."""
        self._break()

    def ask(self) -> None:
        """Ask a worker for the user."""
        self._epoch += 1
        epoch = self._epoch
        found = self._forget if self.is_forgetting else self._open
        self._seek(lambda process, row: found(epoch, process, row), lambda _: self._again(epoch))
        self._later(lambda: self._give_up(epoch), 4000 * MS)

    def _seek(self, found: Callable[[Process, int], None], refused: Callable[[pb.Rejection], None]) -> None:
        world = self._simulation.world
        process = world.processes[self._simulation.owner_of(self.slot)]
        if process.is_alive:
            process.later(lambda: process.seek(Ask(self.user, self.slot, found, refused)), world.delay_us())
        else:
            self._later(lambda: refused(pb.Rejection()), 50 * MS)

    def _again(self, epoch: int) -> None:
        if epoch == self._epoch:
            self._later(self.ask, 50 * MS)

    def _give_up(self, epoch: int) -> None:
        if epoch == self._epoch and self._watch is None:
            self.ask()

    # --- serving ------------------------------------------------------------------------------------------------

    def _open(self, epoch: int, process: Process, row: int) -> None:
        check, world = self._simulation.check, self._simulation.world
        if epoch != self._epoch:
            return
        watch = process.feed(row, self.session)
        residents = process.residents
        applied = residents.sessions.last_seq.item(watch.entry)
        world.note(f"{self.user[1:]} opened at {process.incarnation}: applied {applied}, durable {self.durable_seq}")
        if applied < self.durable_seq or not self._is_mine(process, watch):
            # An attempt that never counts, or a zombie: whoever owns the user knows more.
            process.close(watch)
            self._again(epoch)
            return
        check(applied <= len(self.events), f"{self.user} has events never sent")
        self._check_state(process, watch)
        self._process, self._watch = process, watch
        watch.durable = lambda seq: self._later(lambda: self._durable(epoch, seq), world.delay_us())
        watch.ended = lambda: self._later(lambda: self._ended(epoch))
        self._sent = applied
        check(applied + 1 >= self.kept_from, f"{self.user} cannot replay {applied + 1}: kept from {self.kept_from}")
        self._durable(epoch, residents.sessions.durable_seq.item(watch.entry))
        self._send()

    def _is_mine(self, process: Process, watch: Watch) -> bool:
        """Whether this is the user who came after the last forgetting; who owns the slot knows no other."""
        if self._facts(process, watch) == self._expected(process.residents.sessions.last_seq.item(watch.entry)):
            return True
        owner = self._simulation.world.claim(self.slot)
        mine = process.incarnation, _number(process.ownership.claims[self.slot].tolist())
        self._simulation.check(
            not self._version_forgotten or owner != mine, f"{self.user} is back: {self._facts(process, watch)}"
        )
        return not self._version_forgotten

    def _facts(self, process: Process, watch: Watch) -> Facts:
        slab = process.residents.slab
        count, hash_ = slab.state[watch.row].tolist()
        last_seq = process.residents.sessions.last_seq.item(watch.entry)
        return Facts(slab.version.item(watch.row), last_seq, int(count), int(hash_))

    def _expected(self, seq: int) -> Facts:
        if seq >= len(self.states):
            return Facts(0, seq, 0, 0)
        count, hash_ = self.states[seq]
        return Facts(self._version_forgotten + count, seq, count, hash_)

    def _check_state(self, process: Process, watch: Watch) -> None:
        facts = self._facts(process, watch)
        expected = self._expected(facts.last_seq)
        self._simulation.check(facts == expected, f"{self.user}: {facts}, not {expected}")

    def _durable(self, epoch: int, seq: int) -> None:
        if epoch == self._epoch and seq > self.durable_seq:
            self.durable_seq = seq
            self.kept_from = seq + 1
            self.check_stored()

    def check_stored(self) -> None:
        """What the store alone proves of the user keeps what was promised."""
        facts = self._simulation.world.stored(self.user, self.slot, self.session)
        check = self._simulation.check
        if self.is_forgetting and facts.last_seq == 0:
            check(facts.count == facts.hash == 0, f"{self.user}: stored {facts} while being forgotten")
            return
        check(facts.last_seq >= self.durable_seq, f"{self.user} lost durable events: {facts} < {self.durable_seq}")
        expected = self._expected(facts.last_seq)
        check(facts == expected, f"{self.user}: stored {facts}, not {expected}")

    def _ended(self, epoch: int) -> None:
        if epoch == self._epoch:
            self._watch = None
            self._later(self.ask, 20 * MS)

    def _rest(self, rest_us: int) -> None:
        """Go away for a while."""
        self._close()
        self._epoch += 1
        epoch = self._epoch
        self._later(lambda: self.ask() if epoch == self._epoch else None, rest_us)
        self._later(self._produce, rest_us)

    def _break(self) -> None:
        """The stream ends and the user is asked for again."""
        self._close()
        self.ask()

    def _close(self) -> None:
        if self._watch is not None and self._process is not None and self._process.is_alive:
            process, watch = self._process, self._watch
            process.later(lambda: process.close(watch) if watch in process.watches else None)
        self._watch = None

    # --- forgetting ---------------------------------------------------------------------------------------------

    def _forget(self, epoch: int, process: Process, row: int) -> None:
        if epoch != self._epoch:
            return
        process.forget(row, lambda is_done: self._forgotten(epoch, process, version, is_done))
        version = process.residents.slab.version.item(row)
        self._simulation.world.note(f"{self.user[1:]} is being forgotten at {process.incarnation}: version {version}")

    def _forgotten(self, epoch: int, process: Process, version: int, is_done: bool) -> None:
        """From now on nothing older than the tombstone is stored, and a new session begins with nothing."""
        if epoch != self._epoch:
            return
        self._simulation.world.note(f"{self.user[1:]} forgotten at {process.incarnation}: {is_done}")
        if not is_done:
            self._again(epoch)
            return
        old_session, was_stored = self.session, self.durable_seq > 0
        self.session += NUM_USERS
        self.events, self.states, self.durable_seq, self.kept_from = [], [(0, 0)], 0, 1
        self._version_forgotten = version
        self.is_forgetting = False
        self.check_stored()
        self.ask()
        if was_stored:
            delay_us = self._simulation.world.random.randrange(1000 * MS)
            self._later(lambda: self._seek(partial(self._replay, old_session), lambda _: None), delay_us)

    def _replay(self, old_session: int, process: Process, row: int) -> None:
        """Somebody who still keeps events of before the forgetting wants to send them."""
        try:
            watch = process.feed(row, old_session)
        except Refused:
            return
        owner = self._simulation.world.claim(self.slot)
        mine = process.incarnation, _number(process.ownership.claims[self.slot].tolist())
        self._simulation.check(owner != mine, f"{self.user}: session {old_session} goes on after the forgetting")
        process.close(watch)

    # --- producing ----------------------------------------------------------------------------------------------

    def _produce(self) -> None:
        world = self._simulation.world
        if world.is_calm or len(self.events) >= EVENTS_MAX:
            return
        if not self.is_forgetting:
            self._learn(REJECTED if world.random.random() < 0.15 else world.random.randrange(1, 1000))
            self._send()
            fate = world.random.random()
            self.is_forgetting = fate < FORGET_SHARE
            if fate < FORGET_SHARE or (self._watch is not None and fate < 0.06):
                self._break()
            elif self._watch is not None and fate < 0.12:
                self._rest(world.random.randrange(3000 * MS))
                return
        self._later(self._produce, world.random.randrange(5 * MS, 200 * MS))

    def _learn(self, event: int) -> None:
        count, hash_ = self.states[-1]
        self.events.append(event)
        self.states.append((count, hash_) if event == REJECTED else (count + 1, next_hash(hash_, event)))

    def _send(self) -> None:
        """Send what was not sent on this stream, in order."""
        process, watch = self._process, self._watch
        if process is None or watch is None:
            return
        while self._sent < len(self.events):
            self._sent += 1
            process.later(partial(self._arrive, process, watch, self._sent, self.events[self._sent - 1]), 1 * MS)

    def _arrive(self, process: Process, watch: Watch, seq: int, event: int) -> None:
        if watch in process.watches:
            process.observe(watch, seq, event)
            if self._watch is watch:
                self._check_state(process, watch)

    def _later(self, act: Callable[[], None], delay_us: int = 0) -> None:
        self._simulation.world.after(delay_us, act)


def _number(halves: Sequence[int]) -> int:
    high, low = halves
    return high << 64 | low


def simulate(seed: int) -> list[str]:
    """Run one seed; its trace. Raises BrokenInvariantError."""
    with (
        patch.object(worker.journal, "SLICE_ROWS", 2),
        patch.object(worker.journal, "SEGMENTS_MIN", 3),
        patch.object(worker.journal, "DELETED_MIN", 2),
        patch.object(worker.journal, "ENCODED_AT_ONCE_BYTES_MAX", 2000),
        patch.object(worker.residency, "EVICT_AT", 0.5),
        patch.object(worker.claims, "SLICE_ROWS", 2),
        patch.object(worker.claims, "HAND_OVER_ROWS", 2),
        patch.object(worker.claims, "SLOTS_AT_ONCE", 2),
        patch.object(worker.residents, "SCAN_ROWS", 3),
        patch.object(worker.reading, "SEGMENTS_AT_ONCE", 3),
    ):
        return Simulation(seed).run()
