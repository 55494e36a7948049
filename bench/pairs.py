"""Interleaving: arms that are compared take turns in short blocks, so that what slows one slows the other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

Block = TypeVar("Block")
Arm = Callable[[], Awaitable[Block]]


async def interleave(arms: Sequence[Arm[Block]], num_pairs: int, advance: Callable[[], None]) -> list[list[Block]]:
    """`num_pairs` blocks of each arm, by arm. The order of the arms turns round from one pair to the next."""
    blocks: list[list[Block]] = [[] for _ in arms]
    for pair in range(num_pairs):
        order = range(len(arms)) if pair % 2 == 0 else reversed(range(len(arms)))
        for arm in order:
            blocks[arm].append(await arms[arm]())
        advance()
    return blocks
