"""User → slot: the one hash by which everybody agrees who belongs where."""

from __future__ import annotations

from hashlib import blake2b

NUM_SLOTS = 4096


def user_key(namespace: str, user_id: str) -> str:
    """One string for a user of a namespace. A namespace holds no NUL, so no two users share a key."""
    return f"{namespace}\0{user_id}"


def slot_of(key: str) -> int:
    """The slot of a user, by its `user_key`: 0 to NUM_SLOTS - 1. Fixed for ever: stored states are found by it."""
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "little") % NUM_SLOTS
