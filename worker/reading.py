"""What the segments of a journal say: the newest row of each user under the claims that are asked for. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from persistence.errors import SchemaMismatch
from persistence.rows import U64, Rows, joined_rows, no_rows
from persistence.segment import Segment


@dataclass(frozen=True, slots=True, eq=False)
class Newest:
    """The newest row of each user; `damaged` are the users whose newest row cannot be read."""

    rows: Rows
    damaged: frozenset[str]


def newest_rows(segments: Sequence[Segment], wanted: U64, model: str) -> Newest:
    """Of rows under the wanted claims, both halves by slot, the last of each user. `segments` in their order.

    Raises:
        SchemaMismatch: the journal is another model's.
    """
    first = beginning(segments)
    parts, newest = [no_rows(0)], dict[str, int]()
    damaged = set[str]()
    num_rows = 0
    for segment in segments:
        if segment.footer.number < first or segment.footer.seal:
            continue
        if segment.footer.model != model:
            raise SchemaMismatch(f"the journal {segment.footer.incarnation} is of {segment.footer.model}")
        rows = segment.rows
        part = rows.take(np.flatnonzero((rows.claims == wanted[rows.slots]).all(axis=1) & (rows.claims[:, 0] > 0)))
        if len(part):
            parts.append(part)
        for index, user in enumerate(part.users, num_rows):
            newest[user] = index
            damaged.discard(user)
        num_rows += len(part)
        for user in segment.damaged:
            newest.pop(user, None)
            damaged.add(user)
    joined = joined_rows(parts[1:] or parts)
    return Newest(joined.take(np.array(sorted(newest.values()), np.intp)), frozenset(damaged))


def beginning(segments: Sequence[Segment]) -> int:
    """Where a journal begins: what the footer of its newest segment that is no seal says."""
    return max(
        ((segment.footer.number, segment.footer.first) for segment in segments if not segment.footer.seal),
        default=(0, 0),
    )[1]
