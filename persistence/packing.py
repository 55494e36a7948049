"""What a packed state holds: the numbers of one model version, or of several that each user has or has not. Pure.

One version alone lies there as it is. Of several, each part is one number, 1 where the user has it and 0 where not, and
then its numbers, zeros where not (storage.proto, StatePart). So states of unlike packings can be brought together
without knowing any model.

Letters: N users, D numbers a packed state.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evercurrent.v1 import storage_pb2 as pb
from persistence.errors import SchemaMismatch

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Part:
    """One version's numbers, `width` of them."""

    version: str
    width: int


Packing = tuple[Part, ...]
"""The parts of a packed state, in order, no version twice."""


def packing_of(model: str, parts: Iterable[pb.StatePart], state_width: int) -> Packing:
    """The packing that a footer or record names; without parts, all numbers are the model's."""
    return tuple(Part(part.version, part.width) for part in parts) or (Part(model, state_width),)


def part_messages(packing: Packing) -> list[pb.StatePart]:
    """What a footer or record says of it: nothing of a version alone."""
    return [pb.StatePart(version=part.version, width=part.width) for part in packing] if len(packing) > 1 else []


def packed_width(packing: Packing) -> int:
    """D."""
    return sum(part.width for part in packing) + (len(packing) if len(packing) > 1 else 0)


def unpacked(states: Floats, packing: Packing, version: str) -> tuple[Floats, Mask] | None:
    """A version's numbers [N, its width], as a view, and who has them; None if the packing lacks it."""
    if len(packing) == 1:
        alone = packing[0].version == version
        return (states, np.ones(len(states), np.bool_)) if alone else None
    start = 0
    for part in packing:
        if part.version == version:
            return states[:, start + 1 : start + 1 + part.width], states[:, start] != 0
        start += 1 + part.width
    return None


def packed(parts: Sequence[tuple[Floats, Mask]]) -> Floats:
    """States of the numbers of each part, and who has it; the inverse of `unpacked`."""
    if len(parts) == 1:
        return parts[0][0]
    columns: list[Floats] = []
    for numbers, has in parts:
        columns += [has[:, None].astype(np.float32), np.where(has[:, None], numbers, np.float32(0))]
    return np.concatenate(columns, axis=1)


def union(packings: Iterable[Packing]) -> Packing:
    """All parts that any of them has. Raises SchemaMismatch: a version has two widths."""
    parts: dict[str, Part] = {}
    for part in (part for packing in packings for part in packing):
        if parts.setdefault(part.version, part) != part:
            text = f"states of {part.version} have {part.width} numbers, and {parts[part.version].width} elsewhere"
            raise SchemaMismatch(text)
    return tuple(parts.values())


def repacked(states: Floats, packing: Packing, target: Packing) -> Floats:
    """The same states in another packing, without the parts that it lacks."""
    if packing == target:
        return states
    parts = []
    for part in target:
        nobody = np.zeros((len(states), part.width), np.float32), np.zeros(len(states), np.bool_)
        parts.append(unpacked(states, packing, part.version) or nobody)
    return packed(parts)
