"""A 64-bit checksum for each row: what tells which users of a damaged segment are whole. Pure.

The words of a row, u32 each, times a fixed odd 64-bit weight each, summed modulo 2^64: a flipped bit of any word moves
the sum by an odd multiple of 2^k, k < 32, which is never 0. It guards against damage, not against forgers.

Letters: N users, D numbers a state, S sessions of all of them.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from persistence.rows import SESSION_FIELDS, U64, Rows

_NUM_SCALARS = 17
"""Words that every row has: two a version, four a ULID, and one each of what is narrower (see `row_checksums`)."""


def row_checksums(rows: Rows, keys: Sequence[bytes]) -> U64:
    """The checksum of each row; `keys` are its users in UTF-8, as they are stored.

    The order of the words, with a u64 as its lower half and then its upper: D, slot, forgotten, number of sessions,
    CRC-32 of the user, version, durable version, both halves of the claim, both of the floor, the state; then, weighed
    on their own and times 1, 3, 5, ... by their place in the row, the sessions.
    """
    state_width = rows.states.shape[1]
    weights = _weights(2 * SESSION_FIELDS + _NUM_SCALARS + state_width)
    of_session, of_scalar, of_state = np.split(weights, [2 * SESSION_FIELDS, 2 * SESSION_FIELDS + _NUM_SCALARS])
    scalars = np.empty((len(rows), _NUM_SCALARS), np.uint32)
    scalars[:, 0] = state_width
    scalars[:, 1] = rows.slots
    scalars[:, 2] = rows.forgotten
    scalars[:, 3] = rows.num_sessions
    scalars[:, 4] = np.fromiter(map(zlib.crc32, keys), np.uint32, len(rows))
    scalars[:, 5:7] = _words(rows.versions).reshape(-1, 2)
    scalars[:, 7:9] = _words(rows.durable_versions).reshape(-1, 2)
    scalars[:, 9:13] = _words(rows.claims)
    scalars[:, 13:17] = _words(rows.floors)
    sums: U64 = scalars @ of_scalar + _words(rows.states) @ of_state
    return sums + _of_sessions(rows, of_session)


def _of_sessions(rows: Rows, weights: U64) -> U64:
    """What the sessions of each user add to its sum."""
    ends = np.cumsum(rows.num_sessions)
    starts = ends - rows.num_sessions
    places = np.arange(len(rows.sessions)) - np.repeat(starts, rows.num_sessions)
    sums = np.zeros(len(rows.sessions) + 1, np.uint64)
    np.cumsum((_words(rows.sessions) @ weights) * (2 * places + 1).astype(np.uint64), out=sums[1:])
    added: U64 = sums[ends] - sums[starts]
    return added


def _words(values: NDArray[np.uint64] | NDArray[np.float32]) -> NDArray[np.uint32]:
    """The little-endian u32 words of values, along their last axis."""
    return np.ascontiguousarray(values).view(np.uint32)


@lru_cache(maxsize=8)
def _weights(count: int) -> U64:
    """The first weights: splitmix64 from 0, made odd (Steele et al., Fast Splittable Pseudorandom Generators)."""
    mixed = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    weights: U64 = (mixed ^ (mixed >> np.uint64(31))) | np.uint64(1)
    return weights
