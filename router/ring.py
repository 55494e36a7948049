"""The ring: slot → worker. An immutable value, the same from the same members on every router, rebuilt off the hot
path.

uhashring gives each slot its order of workers; bounded loads (Mirrokni, Thorup, Zadimoghaddam, Consistent Hashing with
Bounded Loads, SODA 2018) walk that order to the first worker that has room, so that none holds more than LOAD_BOUND of
its share.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from uhashring import HashRing

from evercurrent.slots import NUM_SLOTS

LOAD_BOUND = 1.25


@dataclass(frozen=True, slots=True)
class Ring:
    """`owners[slot]` is an index into `names`."""

    names: tuple[str, ...]
    owners: NDArray[np.int16]
    digest: str

    def loads(self) -> NDArray[np.int64]:
        """Slots of each member."""
        return np.bincount(self.owners, minlength=len(self.names))

    def slots_of(self, worker: int) -> list[int]:
        """The slots of one member, by its index."""
        return np.flatnonzero(self.owners == worker).tolist()


def build_ring(names: Sequence[str]) -> Ring:
    """The ring of these workers; their order does not matter.

    Raises:
        ValueError: no names, or one twice.
    """
    members = tuple(sorted(names))
    if not members or len(set(members)) != len(members):
        raise ValueError("a ring needs at least one worker, and each once")
    bound = math.ceil(LOAD_BOUND * NUM_SLOTS / len(members))
    index = {name: at for at, name in enumerate(members)}
    hashing = HashRing(nodes=list(members))
    loads = [0] * len(members)
    owners = np.empty(NUM_SLOTS, np.int16)
    for slot in range(NUM_SLOTS):
        for node in hashing.range(f"slot-{slot}", size=len(members), unique=True):
            at = index[node["nodename"]]
            if loads[at] < bound:
                break
        loads[at] += 1
        owners[slot] = at
    owners.flags.writeable = False
    content = "\n".join(members).encode() + owners.tobytes()
    return Ring(members, owners, hashlib.blake2b(content, digest_size=8).hexdigest())
