"""The ring: slot → worker. An immutable value, the same from the same members on every router, rebuilt off the hot
path.

uhashring gives each slot its order of workers; bounded loads (Mirrokni, Thorup, Zadimoghaddam, Consistent Hashing with
Bounded Loads, SODA 2018) walk that order to the first worker that has room, so that none holds more than LOAD_BOUND of
its share. Where the bound stops nobody, a change of members moves slots to those who come and from those who go, and
no others; so the points on the ring are placed for even loads, that the bound seldom stops anybody (docs/adr/0013).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from uhashring import HashRing

from evercurrent.slots import NUM_SLOTS

LOAD_BOUND = 1.25
POINTS = 256
"""Points on the ring for each unit of weight, up to one a slot."""

_RANK_BITS = 39
_ARC_BITS = _RANK_BITS + NUM_SLOTS.bit_length() - 1


@dataclass(frozen=True, slots=True)
class Ring:
    """`owners[slot]` is an index into `names`; `weights` go with the names."""

    names: tuple[str, ...]
    weights: tuple[int, ...]
    owners: NDArray[np.int16]
    digest: str

    def loads(self) -> NDArray[np.int64]:
        """Slots of each member."""
        return np.bincount(self.owners, minlength=len(self.names))

    def slots_of(self, worker: int) -> list[int]:
        """The slots of one member, by its index."""
        return np.flatnonzero(self.owners == worker).tolist()


def build_ring(weights: Mapping[str, int]) -> Ring:
    """The ring of these workers, each with its share beside the others'; their order does not matter.

    Raises:
        ValueError: no workers, or a weight below 1.
    """
    members = tuple(sorted(weights))
    if not members or min(weights.values()) < 1:
        raise ValueError("a ring needs at least one worker, and weights of at least 1")
    shares = tuple(weights[name] for name in members)
    owners = _assign(members, place(weights), [load_bound(weight, sum(shares)) for weight in shares])
    owners.flags.writeable = False
    content = "\n".join(f"{name} {weight}" for name, weight in zip(members, shares, strict=True)).encode()
    digest = hashlib.blake2b(content + owners.tobytes(), digest_size=8).hexdigest()
    return Ring(members, shares, owners, digest)


def load_bound(weight: int, total: int) -> int:
    """The most slots that a worker may hold."""
    return math.ceil(LOAD_BOUND * NUM_SLOTS * weight / total)


def place(weights: Mapping[str, int]) -> HashRing:
    """The points of workers on the ring. A slot is its own key, and its order of workers is that in which they follow.

    Slots lie evenly spaced. A worker's point of rank r lies behind the slot that is r-th in the worker's own shuffle of
    all slots, r / (weight · NUM_SLOTS) of the way to the next slot. So each worker has exactly one point of each rank,
    where random points come in clusters: loads vary less by far. Where a worker's points lie depends on nobody else.
    """
    keys: dict[int | str, int] = {slot: slot << _ARC_BITS for slot in range(NUM_SLOTS)}
    nodes = {}
    for name, weight in sorted(weights.items()):
        points = _points(name, weight)
        nodes[name] = {"vnodes": len(points)}
        keys.update((f"{name}-{rank}", point) for rank, point in enumerate(points.tolist()))
    return HashRing(nodes, hash_fn=keys.__getitem__)


def _points(name: str, weight: int) -> NDArray[np.int64]:
    """Where a worker's points lie, by rank. They are odd: none lies on a slot."""
    num_points = min(POINTS * weight, NUM_SLOTS)
    random = np.frombuffer(hashlib.shake_128(name.encode()).digest(8 * NUM_SLOTS), "<u8")
    slots = np.argsort(random, kind="stable")[:num_points]
    jitter = (random[slots] & np.uint64((1 << _RANK_BITS) - 1)).astype(np.int64)
    behind = ((np.arange(num_points) << _RANK_BITS) + jitter) // weight
    return slots << _ARC_BITS | behind | 1


def _assign(members: tuple[str, ...], hashing: HashRing, bounds: list[int]) -> NDArray[np.int16]:
    """The owner of each slot: the first worker from there on that has room."""
    index = {name: at for at, name in enumerate(members)}
    points = hashing.get_points()
    workers = [index[name] for _, name in points]
    places = np.array([place for place, _ in points])
    starts = np.searchsorted(places, np.arange(NUM_SLOTS) << _ARC_BITS).tolist()
    loads = [0] * len(members)
    owners = np.empty(NUM_SLOTS, np.int16)
    for slot, start in enumerate(starts):
        at = start % len(workers)
        while loads[workers[at]] >= bounds[workers[at]]:
            at = (at + 1) % len(workers)
        loads[workers[at]] += 1
        owners[slot] = workers[at]
    return owners
