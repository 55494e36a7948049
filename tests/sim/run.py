"""One seed: feeds that keep what is not durable, faults for a while, then calm; and the invariants at every step."""

from __future__ import annotations

from functools import partial

from evercurrent.v1 import observation_pb2 as pb
from persistence.keys import JOURNAL_PREFIX, record_key, slot_key
from tests.sim.world import MS, Ask, Process, Watch, World, next_hash

WORKERS = ("worker-0", "worker-1", "worker-2")
NUM_USERS = 8
NUM_SLOTS_USED = 3
TROUBLE_US = 4_000 * MS
CALM_US = 60_000 * MS
EVENTS_MAX = 60


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
        for name in WORKERS:
            if not world.processes[name].is_alive:
                self._restart(name)
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
            if key == slot_key(feed.slot) or key.startswith(JOURNAL_PREFIX) or key == record_key(feed.slot, feed.user):
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
        kind = random.randrange(8)
        if kind == 0 and process.is_alive:
            process.crash()
            world.after(random.randrange(1500 * MS), lambda: self._restart(process.name))
        elif kind == 1 and process.is_alive:
            pause_us = random.randrange(50 * MS, 2500 * MS)
            world.note(f"{process.incarnation} pauses {pause_us / MS:.0f} ms")
            process.paused_until_us = world.now_us + pause_us
        elif kind == 2:
            pair = frozenset(random.sample(WORKERS, 2))
            world.note(f"partition {sorted(pair)}")
            world.cut.add(pair)
            world.after(random.randrange(1500 * MS), lambda: world.cut.discard(pair))
        elif kind == 3:
            world.note("store down")
            world.is_down = True
            world.after(random.randrange(1000 * MS), self._store_up)
        elif kind == 4 and process.is_alive:
            process.ownership.evict_soon()
        world.after(random.randrange(20 * MS, 400 * MS), self._trouble)

    def _store_up(self) -> None:
        self.world.is_down = False

    def _restart(self, name: str) -> None:
        old = self.world.processes[name]
        if not old.is_alive:
            self.world.processes[name] = Process(self.world, name, old.life + 1)


class Feed:
    """One user's only producer: sends, keeps what is not durable, sends again after a break."""

    def __init__(self, simulation: Simulation, number: int) -> None:
        self.user = f"\0user-{number}"
        self.slot = number % NUM_SLOTS_USED
        self.session = 1 + number
        self.events: list[int] = []
        self.durable_seq = 0
        self.kept_from = 1
        """The first seq that is still kept: those before are durable."""
        self.hashes = [0]
        self._simulation = simulation
        self._process: Process | None = None
        self._watch: Watch | None = None
        self._sent = 0
        self._epoch = 0

    @property
    def is_done(self) -> bool:
        return self._simulation.world.is_calm and self.durable_seq == len(self.events)

    def state(self) -> str:
        return f"durable {self.durable_seq} of {len(self.events)}, watch {self._watch}"

    def begin(self) -> None:
        self._later(self.open)
        self._later(self._produce)

    def calm(self) -> None:
        """Whoever serves the user by a router's mistake does so no more."""
        self._break()

    def open(self) -> None:
        """Ask a worker to serve the user."""
        world = self._simulation.world
        self._epoch += 1
        epoch = self._epoch
        process = world.processes[self._simulation.owner_of(self.slot)]
        if not process.is_alive:
            self._later(self.open, 100 * MS)
            return
        process.later(
            lambda: process.open(Ask(self.user, self.slot, self.session, lambda *reply: self._opened(epoch, *reply))),
            world.delay_us(),
        )
        self._later(lambda: self._give_up(epoch), 4000 * MS)

    def _give_up(self, epoch: int) -> None:
        if epoch == self._epoch and self._watch is None:
            self.open()

    def _opened(self, epoch: int, process: Process, index: int, why: pb.Rejection | None) -> None:
        if why is not None:
            if epoch == self._epoch:
                self._later(self.open, 50 * MS)
            return
        watch = process.watches[index]
        if epoch != self._epoch:
            process.close(watch)
            return
        residents = process.residents
        applied = residents.sessions.last_seq.item(watch.entry)
        check, world = self._simulation.check, self._simulation.world
        world.note(f"{self.user[1:]} opened at {process.incarnation}: applied {applied}, durable {self.durable_seq}")
        if applied < self.durable_seq:
            # An attempt that never counts, or a zombie: whoever owns the user knows more.
            process.close(watch)
            self._later(self.open, 50 * MS)
            return
        check(applied <= len(self.events), f"{self.user} has events never sent")
        self._check_state(process, watch)
        self._process, self._watch = process, watch
        watch.durable = lambda seq: self._later(lambda: self._durable(process, seq), world.delay_us())
        watch.ended = lambda: self._later(lambda: self._ended(epoch))
        self._sent = applied
        check(applied + 1 >= self.kept_from, f"{self.user} cannot replay {applied + 1}: kept from {self.kept_from}")
        self._durable(process, residents.sessions.durable_seq.item(watch.entry))
        self._send()

    def check_stored(self) -> None:
        last_seq, *state = self._simulation.world.stored(self.user, self.slot, 2)
        check = self._simulation.check
        check(last_seq >= self.durable_seq, f"{self.user} lost durable events: {last_seq} < {self.durable_seq}")
        check(state == [last_seq, self.hashes[last_seq]], f"{self.user}: stored {state} at {last_seq}")

    def _check_state(self, process: Process, watch: Watch) -> None:
        state = process.residents.slab.state[watch.row]
        applied = process.residents.sessions.last_seq.item(watch.entry)
        version = process.residents.slab.version.item(watch.row)
        expected = (applied, self.hashes[applied], applied)
        found = (int(state[0]), int(state[1]), version)
        self._simulation.check(found == expected, f"{self.user}: state {found}, not {expected}")

    def _durable(self, process: Process, seq: int) -> None:
        if seq > self.durable_seq:
            self.durable_seq = seq
            self.kept_from = seq + 1
            self.check_stored()

    def _ended(self, epoch: int) -> None:
        if epoch == self._epoch:
            self._watch = None
            self._later(self.open, 20 * MS)

    def _break(self) -> None:
        """The stream ends and opens again."""
        if self._watch is not None and self._process is not None and self._process.is_alive:
            process, watch = self._process, self._watch
            process.later(lambda: process.close(watch) if watch in process.watches else None)
        self._watch = None
        self.open()

    def _produce(self) -> None:
        world = self._simulation.world
        if world.is_calm or len(self.events) >= EVENTS_MAX:
            return
        event = world.random.randrange(1, 1000)
        self.events.append(event)
        self.hashes.append(next_hash(self.hashes[-1], event))
        self._send()
        if self._watch is not None and world.random.random() < 0.05:
            self._break()
        self._later(self._produce, world.random.randrange(5 * MS, 200 * MS))

    def _send(self) -> None:
        """Send what was not sent on this stream, in order."""
        process, watch = self._process, self._watch
        if process is None or watch is None:
            return
        while self._sent < len(self.events):
            self._sent += 1
            process.later(partial(self._arrive, process, watch, self._sent), 1 * MS)

    def _arrive(self, process: Process, watch: Watch, seq: int) -> None:
        if watch in process.watches:
            process.observe(watch, seq, self.events[seq - 1])
            self._check_state(process, watch)

    def _later(self, act: object, delay_us: int = 0) -> None:
        assert callable(act)
        self._simulation.world.after(delay_us, act)


def simulate(seed: int) -> list[str]:
    """Run one seed; its trace. Raises BrokenInvariantError."""
    return Simulation(seed).run()
