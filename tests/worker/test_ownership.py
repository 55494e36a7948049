"""What becomes of users when memory, the store or the owner of their slot is at its end: scenes on a calm world."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from evercurrent.v1 import observation_pb2 as pb
from persistence.keys import JOURNAL_PREFIX, SLOTS_PREFIX, journal_prefix, record_key, slot_key
from persistence.record import read_record
from tests.sim.world import MS, TIMING, Ask, Process, Watch, World, next_hash
from worker.flows import Effect, ReadSegment

SECOND_US = 1000 * MS


class Scene:
    """Workers on one store; time passes while somebody waits for an answer."""

    def __init__(self) -> None:
        self.world = World(1, is_calm=True)

    def worker(self, name: str, residents_max: int = 4, life: int = 1) -> Process:
        process = Process(self.world, name, life, residents_max)
        self.world.processes[name] = process
        return process

    def seek(self, process: Process, user: str, slot: int) -> int | pb.Rejection:
        """The row of a user, or why not."""
        told: list[int | pb.Rejection] = []
        process.seek(Ask(user, slot, lambda _, row: told.append(row), told.append))
        self.world.run(self.world.now_us + 60 * SECOND_US, lambda: bool(told))
        assert told, f"{user} was told nothing"
        return told[0]

    def here(self, process: Process, user: str, slot: int) -> int:
        row = self.seek(process, user, slot)
        assert isinstance(row, int), row
        return row

    def refused(self, process: Process, user: str, slot: int) -> int:
        why = self.seek(process, user, slot)
        assert isinstance(why, pb.Rejection), why
        return int(why.reason)

    def connect(self, process: Process, user: str, slot: int) -> Watch:
        return process.feed(self.here(process, user, slot), session=1)

    def learn(self, process: Process, user: str, slot: int, *events: int) -> None:
        """Come, send events and go."""
        watch = self.connect(process, user, slot)
        for event in events:
            process.observe(watch, process.residents.sessions.last_seq.item(watch.entry) + 1, event)
        process.close(watch)

    def pass_time(self, us: int) -> None:
        self.world.run(self.world.now_us + us)

    def settle(self) -> None:
        """Long enough for segments and claims."""
        self.pass_time(2 * SECOND_US)

    def state(self, process: Process, user: str, slot: int) -> list[float]:
        states: list[float] = process.residents.slab.state[self.here(process, user, slot)].tolist()
        return states


@pytest.fixture
def scene() -> Scene:
    return Scene()


def hashed(*events: int) -> list[float]:
    """The state of who has learned from these."""
    hash_ = 0
    for event in events:
        hash_ = next_hash(hash_, event)
    return [len(events), hash_]


def test_at_the_bound_who_is_fed_stays_and_goes_on_and_who_is_new_is_refused(scene: Scene) -> None:
    worker = scene.worker("worker-0", residents_max=3)
    watches = [scene.connect(worker, f"user-{number}", 0) for number in range(3)]
    for _ in range(3):
        assert scene.refused(worker, "one-more", 0) == pb.REASON_OVERLOADED
    for watch in watches:
        worker.observe(watch, 1, 7)
    scene.settle()
    assert [worker.residents.sessions.durable_seq.item(watch.entry) for watch in watches] == [1, 1, 1]
    worker.close(watches[1])
    scene.connect(worker, "one-more", 0)
    assert scene.refused(worker, "user-1", 0) == pb.REASON_OVERLOADED


def test_more_come_with_claims_than_fit_and_all_are_served(scene: Scene) -> None:
    owner = scene.worker("worker-0", residents_max=12)
    for number in range(12):
        scene.learn(owner, f"user-{number}", number % 4, 1 + number)
    scene.settle()
    heir = scene.worker("worker-1", residents_max=4)
    heir.ownership.want(range(4))
    scene.settle()
    assert heir.ownership.num_served == 4
    assert not owner.ownership.owns
    for number in range(12):
        assert scene.state(heir, f"user-{number}", number % 4) == hashed(1 + number)
        assert len(heir.residents.slab) <= 4


def test_a_slot_that_finds_no_room_is_given_up_and_nothing_of_it_is_lost(scene: Scene) -> None:
    owner = scene.worker("worker-0", residents_max=6)
    for number in range(3):
        scene.learn(owner, f"user-{number}", 0, 1 + number)
    scene.settle()
    heir = scene.worker("worker-1", residents_max=4)
    watches = [scene.connect(heir, f"fed-{number}", 1) for number in range(4)]
    for _ in range(2):
        assert scene.refused(heir, "user-0", 0) == pb.REASON_OVERLOADED
        scene.settle()
        assert len(heir.residents.slab) == 4
    assert not owner.ownership.serves(0)
    for seq in (1, 2):
        heir.observe(watches[0], seq, 5)
    scene.settle()
    assert heir.residents.sessions.durable_seq.item(watches[0].entry) == 2
    for watch in watches:
        heir.close(watch)
    for number in range(3):
        assert scene.state(heir, f"user-{number}", 0) == hashed(1 + number)


def test_while_the_store_is_down_residents_are_served_and_nobody_leaves_unsaved(scene: Scene) -> None:
    worker = scene.worker("worker-0", residents_max=4)
    for number in range(6):
        scene.learn(worker, f"user-{number}", 0, 1 + number)
        scene.settle()
    here = set(worker.residents.slab)
    assert len(here) == 4
    scene.world.is_down = True
    users = sorted(here)
    watches = [scene.connect(worker, user, 0) for user in users[:2]]
    for minute in range(3):
        for watch in watches:
            worker.observe(watch, 2 + minute, 9)
        gone = next(f"user-{number}" for number in range(6) if f"user-{number}" not in here)
        assert scene.refused(worker, gone, 0) == pb.REASON_UNAVAILABLE
        assert scene.refused(worker, "elsewhere", 1) == pb.REASON_UNAVAILABLE
        worker.ownership.evict_soon()
        scene.pass_time(60 * SECOND_US)
        assert set(worker.residents.slab) == here
    assert worker.residents.num_at_risk == 6
    scene.world.is_down = False
    scene.settle()
    assert worker.residents.num_at_risk == 0
    for number in range(6):
        expected = [1 + number, 9, 9, 9] if f"user-{number}" in users[:2] else [1 + number]
        assert scene.state(worker, f"user-{number}", 0) == hashed(*expected)


def test_an_owner_that_closed_is_followed_at_once(scene: Scene) -> None:
    owner = scene.worker("worker-0")
    scene.learn(owner, "ann", 0, 3, 4)
    closed: list[None] = []
    owner.run_flow(owner.ownership.close(), closed.append)
    scene.world.run(scene.world.now_us + SECOND_US, lambda: bool(closed))
    owner.crash()
    heir = scene.worker("worker-1")
    began_us = scene.world.now_us
    assert scene.state(heir, "ann", 0) == hashed(3, 4)
    assert scene.world.now_us - began_us < TIMING.dead_after_us


def test_a_forgotten_user_leaves_a_tombstone_and_begins_anew_with_other_sessions(scene: Scene) -> None:
    worker = scene.worker("worker-0")
    scene.learn(worker, "ann", 0, 3, 4)
    scene.settle()
    told: list[bool] = []
    worker.forget(scene.here(worker, "ann", 0), told.append)
    scene.settle()
    assert told == [True]
    assert "ann" not in set(worker.residents.slab)
    record = read_record(scene.world.objects[record_key(0, "ann")], "ann", 0)
    assert (record.forgotten.tolist(), record.versions.tolist(), record.floors.tolist()) == ([True], [3], [[0, 1]])
    row = scene.here(worker, "ann", 0)
    assert worker.residents.slab.state[row].tolist() == [0, 0]
    assert worker.residents.slab.version[row] == 3
    with pytest.raises(Exception, match="open a new one"):
        worker.feed(row, session=1)
    worker.close(worker.feed(row, session=2))


def test_a_forgotten_user_whose_slot_moves_stays_forgotten(scene: Scene) -> None:
    owner, heir = scene.worker("worker-0"), scene.worker("worker-1")
    scene.learn(owner, "ann", 0, 3, 4)
    scene.settle()
    told: list[bool] = []
    heir.ownership.want([0])
    scene.pass_time(5 * MS)
    owner.forget(scene.here(owner, "ann", 0), told.append)
    scene.settle()
    assert told == [False]
    assert heir.ownership.serves(0)
    record = read_record(scene.world.objects[record_key(0, "ann")], "ann", 0)
    assert record.forgotten.tolist() == [True]
    assert scene.state(heir, "ann", 0) == [0, 0]


def keys_of(scene: Scene, process: Process) -> list[str]:
    return [key for key in scene.world.objects if key.startswith(journal_prefix(process.incarnation))]


def test_a_dead_journal_goes_but_its_seal_once_no_slot_names_it(scene: Scene) -> None:
    dead = scene.worker("worker-0")
    scene.learn(dead, "ann", 0, 3)
    scene.learn(dead, "bob", 1, 4)
    scene.settle()
    dead.crash()
    heir = scene.worker("worker-1")
    assert scene.state(heir, "ann", 0) == hashed(3)
    scene.pass_time(10 * TIMING.sweep_interval_us)
    assert len(keys_of(scene, dead)) > 1
    assert scene.state(heir, "bob", 1) == hashed(4)
    scene.pass_time(10 * TIMING.sweep_interval_us)
    assert len(keys_of(scene, dead)) == 1
    assert len(keys_of(scene, heir)) > 1


def test_a_dead_journal_stays_while_a_late_cas_may_name_it(scene: Scene) -> None:
    """The attempt's rows are in the dead journal, and its CAS lands long after all others have given it up."""
    first, dead = scene.worker("worker-0"), scene.worker("worker-1")
    scene.learn(first, "ann", 0, 3)
    scene.learn(dead, "bob", 1, 4)
    scene.settle()
    late = scene.world.hold_back(lambda key: key == slot_key(0))
    dead.ownership.want([0])
    scene.world.run(scene.world.now_us + SECOND_US, lambda: bool(late))
    scene.settle()
    first.crash()
    dead.crash()
    heir = scene.worker("worker-2")
    assert scene.state(heir, "bob", 1) == hashed(4)
    scene.pass_time(10 * TIMING.sweep_interval_us)
    assert len(keys_of(scene, dead)) > 1
    scene.world.land(late[0])
    assert scene.state(heir, "ann", 0) == hashed(3)
    scene.pass_time(10 * TIMING.sweep_interval_us)
    assert len(keys_of(scene, dead)) == 1
    assert {key.split("/")[0] + "/" for key in scene.world.objects} == {JOURNAL_PREFIX, SLOTS_PREFIX}


def test_slots_of_a_dead_owner_that_are_wanted_one_by_one_cost_few_readings_of_its_journal(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = scene.worker("worker-0", residents_max=60)
    for number in range(40):
        scene.learn(owner, f"user-{number}", number, 1 + number)
    scene.settle()
    owner.crash()
    heir = scene.worker("worker-1", residents_max=60)
    num_read: Counter[str] = Counter()
    do = World._do

    def counted(self: World, effect: Effect) -> Any:
        if isinstance(effect, ReadSegment):
            num_read[effect.key] += 1
        return do(self, effect)

    monkeypatch.setattr(World, "_do", counted)
    told: list[int | pb.Rejection] = []
    for number in range(40):
        heir.seek(Ask(f"user-{number}", number, lambda _, row: told.append(row), told.append))
        scene.pass_time(number % 3 * MS)
    scene.settle()
    assert len(told) == 40
    assert all(isinstance(row, int) for row in told)
    assert max(num_read.values()) <= 3


def test_who_is_carried_while_the_record_is_written_leaves_all_the_same(scene: Scene) -> None:
    worker = scene.worker("worker-0", residents_max=4)
    scene.learn(worker, "ann", 0, 1)
    scene.settle()
    residents = worker.residents
    row = residents.slab.find("ann")
    assert row is not None
    rows = np.array([row], np.intp)
    left: list[int] = []
    worker.run_flow(worker.ownership._residency.evict_rows(rows), left.append)
    scene.world.run(scene.world.now_us + 1)
    _, marks = residents.gather(rows, worker.ownership.claims)
    residents.send(marks)
    scene.settle()
    assert left == [1]
    assert residents.slab.find("ann") is None
