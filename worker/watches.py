"""Who wants to be told how far users are durable: tags by row. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evercurrent.wire import WATERMARK, Records
from worker.residents import Indices, Residents
from worker.sessions import UNSEQUENCED

NO_LINK = 0
"""The link of a row that nobody watches."""


@dataclass(slots=True)
class Watch:
    """A tag that watches a session; without one, the user's version. `told` is the watermark that it knows."""

    link: int
    tag: int
    entry: int
    told: int


class Watches:
    """All that watch. Most rows are watched by one tag or none: the first of each row stands in arrays by row, and only
    rows that have more are in a dictionary."""

    def __init__(self, num_rows: int) -> None:
        self._link = np.full(num_rows, NO_LINK, np.int32)
        self._tag = np.zeros(num_rows, np.uint32)
        self._entry = np.zeros(num_rows, np.int32)
        self._told = np.zeros(num_rows, np.uint64)
        self._has_others = np.zeros(num_rows, np.bool_)
        self._others: dict[int, list[Watch]] = {}

    def add(self, row: int, watch: Watch) -> None:
        """Watch a row."""
        if self._link.item(row) == NO_LINK:
            self._put(row, watch)
        else:
            self._has_others[row] = True
            self._others.setdefault(row, []).append(watch)

    def remove(self, row: int, link: int, tag: int) -> None:
        """A tag watches no more, if it did."""
        others = self._others[row] if self._has_others.item(row) else []
        if (self._link.item(row), self._tag.item(row)) != (link, tag):
            others[:] = [watch for watch in others if (watch.link, watch.tag) != (link, tag)]
        elif others:
            self._put(row, others.pop())
        else:
            self._link[row] = NO_LINK
        if not others and self._has_others.item(row):
            self._has_others[row] = False
            del self._others[row]

    def moved(self, rows: Indices, residents: Residents) -> dict[int, Records]:
        """The watermarks of these rows, none twice, that have moved, by link. They count as told."""
        crowded = rows[self._has_others[rows]]
        rows = rows[self._link[rows] != NO_LINK]
        entries = self._entry[rows]
        durable = residents.sessions.durable_seq[entries]
        unsequenced = entries == UNSEQUENCED
        durable[unsequenced] = residents.durable_version[rows[unsequenced]]
        more = durable > self._told[rows]
        rows, durable = rows[more], durable[more]
        self._told[rows] = durable
        links, tags = self._link[rows], self._tag[rows]
        if len(crowded):
            others = self._moved_others(crowded, residents)
            links = np.append(links, np.array([watch.link for watch in others], np.int32))
            tags = np.append(tags, np.array([watch.tag for watch in others], np.uint32))
            durable = np.append(durable, np.array([watch.told for watch in others], np.uint64))
        return _by_link(links, tags, durable)

    def _put(self, row: int, watch: Watch) -> None:
        self._link[row] = watch.link
        self._tag[row] = watch.tag
        self._entry[row] = watch.entry
        self._told[row] = watch.told

    def _moved_others(self, rows: Indices, residents: Residents) -> list[Watch]:
        """Of those that are not the first of their rows, those whose watermark has moved. It counts as told."""
        moved = []
        for row in rows.tolist():
            for watch in self._others[row]:
                if watch.entry == UNSEQUENCED:
                    durable = residents.durable_version.item(row)
                else:
                    durable = residents.sessions.durable_seq.item(watch.entry)
                if durable > watch.told:
                    watch.told = durable
                    moved.append(watch)
        return moved


def _by_link(links: NDArray[np.int32], tags: NDArray[np.uint32], durable: NDArray[np.uint64]) -> dict[int, Records]:
    """Watermark records, link by link."""
    marks = np.zeros(len(links), WATERMARK)
    marks["durable_seq"] = durable
    marks["tag"] = tags
    if not len(links):
        return {}
    if (links == links[0]).all():
        return {int(links[0]): marks}
    order = np.argsort(links, kind="stable")
    links, marks = links[order], marks[order]
    starts = np.flatnonzero(np.diff(links, prepend=NO_LINK))
    return dict(zip(links[starts].tolist(), np.split(marks, starts[1:]), strict=True))
