"""The simulation can fail: each of these faults, planted in the cores, breaks an invariant that it checks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import worker.ownership
from persistence.rows import U64, Rows
from persistence.segment import Segment
from tests.sim.run import BrokenInvariantError, Feed, simulate
from tests.sim.world import World
from worker.flows import AskRelease, Dead, Effect, Flow, PutIfMatch, Released
from worker.ownership import STANDING, Ownership
from worker.reading import Newest, newest_rows
from worker.residents import Gathered, Mask, Residents

SEEDS_MAX = 5000

Patch = pytest.MonkeyPatch


def read_before_the_seal(patch: Patch) -> None:
    rows_of = Ownership._rows_of

    def read_first(self: Ownership, incarnation: str, address: str, claims: dict[int, int]) -> Flow[list[Rows]]:
        if incarnation == self.incarnation:
            return (yield from rows_of(self, incarnation, address, claims))
        answer = yield AskRelease(incarnation, address, claims)
        if isinstance(answer, Released):
            left = {slot: claim for slot, claim in claims.items() if slot in answer.not_held}
            return [*answer.rows, *((yield from self._read_journal(incarnation, left)) if left else ())]
        rows = yield from self._read_journal(incarnation, claims)
        if isinstance(answer, Dead) or (yield from self._is_silent(incarnation)):
            yield from self._seal(incarnation)
        return rows

    patch.setattr(Ownership, "_rows_of", read_first)


def no_seal(patch: Patch) -> None:
    def nothing(self: Ownership, incarnation: str) -> Flow[None]:
        yield from ()

    patch.setattr(Ownership, "_seal", nothing)


def a_claim_without_cas(patch: Patch) -> None:
    do = World._do

    def unconditionally(self: World, effect: Effect) -> Any:
        if isinstance(effect, PutIfMatch) and effect.key.startswith("slots/"):
            return self._write(effect.key, effect.body)
        return do(self, effect)

    patch.setattr(World, "_do", unconditionally)


def a_watermark_before_the_cas_stands(patch: Patch) -> None:
    land = Residents.land

    def all_stand(self: Residents, marks: Gathered, number: int, standing: Mask) -> Any:
        return land(self, marks, number, np.ones_like(standing))

    patch.setattr(Residents, "land", all_stand)


def a_watermark_before_the_segment_landed(patch: Patch) -> None:
    append = Ownership._append

    def told_at_once(self: Ownership, number: int, body: bytes) -> Flow[None]:
        residents, standing = self._residents, self.state == STANDING
        rows = residents.of_slots(standing)
        _, entries, _ = residents.sessions.gather(rows)
        residents.sessions.durable_seq[entries] = residents.sessions.last_seq[entries]
        self._tell().durable(rows)
        yield from append(self, number, body)

    patch.setattr(Ownership, "_append", told_at_once)


def the_cas_before_the_rows_are_journaled(patch: Patch) -> None:
    def at_once(self: Ownership, slots: list[int]) -> Flow[None]:
        yield from self._write_claims({slot: self._attempts[slot] for slot in slots})

    patch.setattr(Ownership, "_settle", at_once)


def a_released_slot_served_again(patch: Patch) -> None:
    release = Ownership.release

    def goes_on(self: Ownership, claims: dict[int, int]) -> Flow[frozenset[int]]:
        kept = self.claims.copy()
        held = [slot for slot, claim in claims.items() if self.serves(slot) and self._claim(slot) == claim]
        not_held = yield from release(self, claims)
        self.claims[held] = kept[held]
        self.state[held] = STANDING
        return not_held

    patch.setattr(Ownership, "release", goes_on)


def rows_of_any_claim(patch: Patch) -> None:
    def of_any(segments: list[Segment], wanted: U64, model: str) -> Newest:
        for segment in segments:
            mine = (wanted[segment.rows.slots] > 0).any(axis=1)
            segment.rows.claims[mine] = wanted[segment.rows.slots[mine]]
        return newest_rows(segments, wanted, model)

    patch.setattr(worker.ownership, "newest_rows", of_any)


def evicted_before_the_record_is_confirmed(patch: Patch) -> None:
    write = Ownership._write_records

    def believed(self: Ownership, rows: Rows) -> Flow[Mask]:
        return np.ones_like((yield from write(self, rows)))

    patch.setattr(Ownership, "_write_records", believed)


def a_last_seq_left_out(patch: Patch) -> None:
    restore = Residents.restore

    def without(self: Residents, rows: Rows, index: int) -> int:
        row = restore(self, rows, index)
        self.sessions.last_seq[self.sessions.of(row)] = 0
        return row

    patch.setattr(Residents, "restore", without)


def not_held_while_a_segment_is_in_flight(patch: Patch) -> None:
    release = Ownership.release

    def at_once(self: Ownership, claims: dict[int, int]) -> Flow[frozenset[int]]:
        in_flight, self._in_flight = self._in_flight, False
        for effect in release(self, claims):
            self._in_flight = in_flight
            yield effect
            self._in_flight = False
        self._in_flight = in_flight
        return frozenset(slot for slot in claims if self._retained.get(slot) != claims[slot])

    patch.setattr(Ownership, "release", at_once)


def a_feed_that_drops_at_applied(patch: Patch) -> None:
    send = Feed._send

    def drop(self: Feed) -> None:
        send(self)
        self.kept_from = self._sent + 1

    patch.setattr(Feed, "_send", drop)


FAULTS = [
    read_before_the_seal,
    no_seal,
    a_claim_without_cas,
    a_watermark_before_the_cas_stands,
    a_watermark_before_the_segment_landed,
    the_cas_before_the_rows_are_journaled,
    a_released_slot_served_again,
    rows_of_any_claim,
    evicted_before_the_record_is_confirmed,
    a_last_seq_left_out,
    not_held_while_a_segment_is_in_flight,
    a_feed_that_drops_at_applied,
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
@pytest.mark.timeout(600)
def test_a_planted_fault_is_found(fault: Callable[[Patch], None], monkeypatch: Patch) -> None:
    fault(monkeypatch)
    for seed in range(SEEDS_MAX):
        try:
            simulate(seed)
        except BrokenInvariantError:
            return
    pytest.fail(f"{fault.__name__} was not found within {SEEDS_MAX} seeds")
