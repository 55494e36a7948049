"""What an incarnation's protocols have done so far, in numbers that only grow."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counts:
    """Claims that came to stand and that were lost to others, slots given away, journals of others that were sealed;
    users that came from their records, users that left; bytes of segments that landed."""

    claims: int = 0
    claims_lost: int = 0
    slots_released: int = 0
    seals: int = 0
    hydrated: int = 0
    evicted: int = 0
    segment_bytes: int = 0
