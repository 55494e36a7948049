"""Who wants to be told how far users are durable: tags by row. Pure."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from evercurrent.wire import WATERMARK, Records
from worker.residents import Indices, Residents
from worker.sessions import UNSEQUENCED


@dataclass(slots=True)
class Watch:
    """A tag that watches a session; without one, the user's version. `told` is the watermark that it knows."""

    link: int
    tag: int
    entry: int
    told: int


class Watches:
    """All that watch. Most rows are watched by nobody, which one look at an array says."""

    def __init__(self, num_rows: int) -> None:
        self._is_watched = np.zeros(num_rows, np.bool_)
        self._by_row: dict[int, list[Watch]] = {}

    def add(self, row: int, watch: Watch) -> None:
        """Watch a row."""
        self._is_watched[row] = True
        self._by_row.setdefault(row, []).append(watch)

    def remove(self, row: int, link: int, tag: int) -> None:
        """A tag watches no more, if it did."""
        if not self._is_watched[row]:
            return
        left = [watch for watch in self._by_row[row] if (watch.link, watch.tag) != (link, tag)]
        if left:
            self._by_row[row] = left
        else:
            del self._by_row[row]
            self._is_watched[row] = False

    def moved(self, rows: Indices, residents: Residents) -> dict[int, Records]:
        """The watermarks of these rows that have moved, by link. They count as told."""
        moved: dict[int, list[tuple[int, int, bytes]]] = defaultdict(list)
        for row in rows[self._is_watched[rows]].tolist():
            for watch in self._by_row[row]:
                if watch.entry == UNSEQUENCED:
                    durable = residents.durable_version.item(row)
                else:
                    durable = residents.sessions.durable_seq.item(watch.entry)
                if durable > watch.told:
                    watch.told = durable
                    moved[watch.link].append((durable, watch.tag, b""))
        return {link: np.array(marks, WATERMARK) for link, marks in moved.items()}
