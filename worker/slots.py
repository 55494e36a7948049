"""The table of slots: what one incarnation knows of each. Claims, journal and residency work around it.

    FREE → TAKING (whose rows?) → SERVING (rows journaled under a new claim, then the CAS) → STANDING → RELEASING → FREE

A slot is RELEASING, given away or lost, until its last row is gone: nothing of an earlier claim is left when it is
taken again.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from ulid import ULID

from evercurrent.slots import NUM_SLOTS
from evercurrent.v1.storage_pb2 import SlotRecord
from persistence.keys import slot_key
from persistence.record import read_slot, slot_body
from persistence.rows import halves
from persistence.store import Etag, Stored
from worker.flows import PutIfAbsent, PutIfMatch
from worker.residents import Mask

FREE, TAKING, SERVING, STANDING, RELEASING = range(5)


@dataclass(frozen=True, slots=True)
class Read:
    """A slot's record as it was read; None: there is none. `claim` is its claim as a number."""

    slot: int
    record: SlotRecord | None
    etag: Etag | None
    claim: int

    @staticmethod
    def of(slot: int, answer: Stored | Exception | None) -> Read:
        """Of a Get's answer. Raises the StoreError that it is, or Damaged."""
        if isinstance(answer, Exception):
            raise answer
        if answer is None:
            return Read(slot, None, None, 0)
        record = read_slot(answer.body)
        return Read(slot, record, answer.etag, int(ULID.from_str(record.claim)))

    @property
    def owner(self) -> str:
        """The incarnation that it names."""
        return self.record.incarnation if self.record else ""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A slot under a claim of ours that is not known to stand: the record to be written, and what it replaces."""

    record: SlotRecord
    body: bytes
    base: Etag | None
    base_claim: str

    def cas(self) -> PutIfAbsent | PutIfMatch:
        """What makes the claim stand."""
        key = slot_key(self.record.slot)
        return PutIfAbsent(key, self.body) if self.base is None else PutIfMatch(key, self.body, self.base)


class Slots:
    """By slot: `state`, `claims` (both halves of the claim that its rows are under), `virgin` (nobody of it has a
    record), `served_us` and `released_us` (since when it is served, when it was given away); `attempts`, and
    `retained`: claims that we released and that the slot's record may still name, so that their rows stay in our
    journal."""

    def __init__(self) -> None:
        self.state = np.full(NUM_SLOTS, FREE, np.uint8)
        self.claims = np.zeros((NUM_SLOTS, 2), np.uint64)
        self.virgin = np.zeros(NUM_SLOTS, np.bool_)
        self.served_us = np.zeros(NUM_SLOTS, np.int64)
        self.released_us = np.zeros(NUM_SLOTS, np.int64)
        self.attempts: dict[int, Attempt] = {}
        self.retained: dict[int, int] = {}

    @property
    def owns(self) -> bool:
        """Whether any slot is served."""
        return bool((self.state >= SERVING).any())

    @property
    def is_taking(self) -> bool:
        """Whether any slot is being taken."""
        return bool((self.state == TAKING).any())

    @property
    def num_served(self) -> int:
        """How many slots are served."""
        return int(np.count_nonzero((self.state == SERVING) | (self.state == STANDING)))

    def serves(self, slot: int) -> bool:
        """Whether users of this slot may be served now."""
        return self.state.item(slot) in (SERVING, STANDING)

    def claim(self, slot: int) -> int:
        """The claim of a slot; 0: none."""
        high, low = self.claims[slot].tolist()
        return int(high) << 64 | int(low)

    def holds(self, slot: int, claim: int) -> bool:
        """Whether a slot is served under this claim."""
        return self.serves(slot) and self.claim(slot) == claim

    def standing(self) -> Mask:
        """The slots whose claims stand."""
        standing: Mask = self.state == STANDING
        return standing

    def attempt(self, read: Read, incarnation: str, address: str) -> None:
        """Begin a claim on a slot whose rows we know."""
        claim = ULID()
        record = SlotRecord(
            slot=read.slot,
            epoch=(read.record.epoch if read.record else 0) + 1,
            incarnation=incarnation,
            address=address,
            claim=str(claim),
        )
        base_claim = read.record.claim if read.record else ""
        self.attempts[read.slot] = Attempt(record, slot_body(record), read.etag, base_claim)
        self.claims[read.slot] = halves(int(claim))
        self.virgin[read.slot] = read.record is None

    def leave(self, slots: Sequence[int]) -> None:
        """Serve slots no more; their rows are about to go."""
        self.state[list(slots)] = RELEASING
        for slot in slots:
            self.attempts.pop(slot, None)

    def free(self, slots: Sequence[int]) -> None:
        """No row of these slots is left."""
        self.claims[list(slots)] = 0
        self.state[list(slots)] = FREE

    def journaled(self, slots: NDArray[np.uint16]) -> Mask:
        """Of some slots, which are under a claim of ours; the rows of one that is being released stay as they are."""
        state = self.state[slots]
        journaled: Mask = (state == SERVING) | (state == STANDING) | (state == TAKING)
        return journaled


def mask_of(slots: Collection[int]) -> Mask:
    """Slots as a mask."""
    mask = np.zeros(NUM_SLOTS, np.bool_)
    mask[list(slots)] = True
    return mask
