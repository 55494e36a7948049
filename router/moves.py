"""Sessions on their way to a worker: what is held for them, and what is sent when one serves them. Pure.

A session moves when its worker gave it up or was lost, or when the worker that was asked cannot serve it yet. What is
sent for it meanwhile is held. Whoever serves it then says how far it is: what it lacks is sent again, also what had
been answered before; those answers are for nobody (*muted*).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1.columns_pb2 import EVENT_KIND_CLOSE, EVENT_KIND_QUERY, EVENT_KIND_SKIP
from evercurrent.wire import Records
from router.replay import Kept
from router.sessions import NOWHERE

TRANSIENT = frozenset({pb.REASON_NOT_OWNER, pb.REASON_UNAVAILABLE, pb.REASON_OVERLOADED})
"""Why a worker may refuse a session that it, or another, serves a moment later."""

RETRY_US = 50_000
"""Between two questions where the worker does not say how long to wait."""


@dataclass(slots=True, eq=False)
class Move:
    """One session's way. `kept` is what was sent before (None: it is in the log still), `held` what came since, packed.
    `owner` is a worker that is said to serve it. `link` owes an answer: to the question for it, if it `is_asked`, or to
    what was sent before. `origin` is the link that it comes from, if it may come back there; `next_seq` what the feed
    would have gone on with from which another took the session over. One that `is_over` waits for its link alone."""

    began_us: int
    deadline_us: int
    patient_until_us: int
    kept: Kept | None = None
    owner: str = ""
    held: list[bytes] = field(default_factory=list)
    refusals: dict[int, pb.Rejection] = field(default_factory=dict)
    link: int = NOWHERE
    is_asked: bool = False
    origin: int = NOWHERE
    next_seq: int = 0
    is_over: bool = False
    retry_at_us: int = 0
    """When it is to be asked for again; 0: as soon as a worker can be asked."""

    def leave(self) -> None:
        """No link owes an answer."""
        self.link, self.is_asked = NOWHERE, False


class Moves:
    """All moves, by sid, and when which is to be looked at."""

    def __init__(self) -> None:
        self._moves: dict[int, Move] = {}
        self._due: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self._moves)

    def __iter__(self) -> Iterator[int]:
        return iter(list(self._moves))

    def begin(self, sid: int, move: Move) -> None:
        """A session moves; it is looked at by its deadline at the latest."""
        self._moves[sid] = move
        heapq.heappush(self._due, (move.deadline_us, sid))

    def get(self, sid: int) -> Move | None:
        """The move of a session, if it moves."""
        return self._moves.get(sid)

    def end(self, sid: int) -> Move:
        """The session moves no more."""
        return self._moves.pop(sid)

    def retry(self, sid: int, at_us: int) -> None:
        """Have a session asked for again, then."""
        self._moves[sid].retry_at_us = at_us
        heapq.heappush(self._due, (at_us, sid))

    def of_link(self, link: int) -> NDArray[np.intp]:
        """The sessions that this link owes an answer of."""
        return np.array([sid for sid, move in self._moves.items() if move.link == link], np.intp)

    def due(self, now_us: int) -> list[tuple[int, Move]]:
        """The moves to look at now, each once."""
        due: dict[int, Move] = {}
        while self._due and self._due[0][0] <= now_us:
            sid = heapq.heappop(self._due)[1]
            if sid in self._moves:
                due[sid] = self._moves[sid]
        return list(due.items())

    def next_due_us(self) -> int | None:
        """When to ask for `due` next."""
        while self._due and self._due[0][1] not in self._moves:
            heapq.heappop(self._due)
        return self._due[0][0] if self._due else None


@dataclass(frozen=True, slots=True)
class Replay:
    """What a worker is to be `sent`, and what of all that was kept `stays` for the next. The first `num_muted` results
    are for nobody; `missing` are the first and last seq of those that it lacks and that are not here any more: then a
    skip over them is sent."""

    sent: Kept
    stays: Kept
    num_muted: int
    missing: tuple[int, int] | None

    @property
    def last_seq(self) -> int:
        """The last seq that is sent; 0: none."""
        return int(self.sent.records["seq"].max(initial=0))

    @property
    def last_muted_seq(self) -> int:
        """The last seq that is applied again; 0: none."""
        return int(self.sent.records["seq"][: self.num_muted].max(initial=0))


def replay(sid: int, kept: Kept, num_answered: int, next_seq: int | None, applied_seq: int, now_us: int) -> Replay:
    """What a worker lacks that has consumed `applied_seq` of a session, of what is kept of it.

    `next_seq` is what its feed was told to go on with; 0: nobody goes on. None: its feed was told nothing yet, and goes
    on wherever it is told; then what cannot follow what the worker has is given up. Answered events are applied again
    whatever their time is by now; the time of the others goes on. `now_us` is of the clock that stamped them.
    """
    records, ordinals = kept.records, kept.ordinals
    answered = ordinals <= num_answered
    consuming = _consumes(records)
    again = np.flatnonzero(answered & consuming & (records["seq"] > applied_seq))
    firsts, lasts, places = _gaps(records[again], applied_seq)
    if next_seq is None:
        lost, firsts = again[int(places[0]) :] if len(places) else again[:0], firsts[:0]
        again = again[: len(again) - len(lost)]
    else:
        lost = again[:0]
        behind = records[~answered & consuming]
        if len(behind):
            next_seq = 0 if behind["kind"][0] == EVENT_KIND_SKIP else int(behind["seq"][0])
        had_seq = int(records["seq"][again].max(initial=applied_seq))
        if next_seq > had_seq + 1:
            firsts, lasts = np.append(firsts, had_seq + 1), np.append(lasts, next_seq - 1)
            places = np.append(places, len(again))
    stays = np.ones(len(records), np.bool_)
    stays[lost] = False
    rest = np.flatnonzero(~answered)
    sent = records[np.concatenate([again, rest])]
    sent["timeout_us"][: len(again)] = 0
    timed = sent["timeout_us"] > 0
    passed_us = now_us - sent["stamp_us"][timed].astype(np.int64)
    sent["timeout_us"][timed] = np.maximum(sent["timeout_us"][timed] - passed_us, 1)
    sent_ordinals = np.concatenate([ordinals[again], ordinals[rest]])
    if len(firsts):
        skips = np.zeros(len(firsts), records.dtype)
        skips["kind"], skips["tag"], skips["seq"] = EVENT_KIND_SKIP, sid, lasts
        sent, sent_ordinals = np.insert(sent, places, skips), np.insert(sent_ordinals, places, 0)
    return Replay(
        Kept(sent, sent_ordinals, kept.refusals),
        Kept(records[stays], ordinals[stays], kept.refusals),
        len(again) + len(firsts),
        (int(firsts[0]), int(lasts[0])) if len(firsts) else None,
    )


def _consumes(records: Records) -> NDArray[np.bool_]:
    kinds = records["kind"]
    consumes: NDArray[np.bool_] = (kinds != EVENT_KIND_QUERY) & (kinds != EVENT_KIND_CLOSE)
    return consumes


def _gaps(records: Records, applied_seq: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.intp]]:
    """The first and last seqs that are missing between these events, and before which; a skip bridges any gap."""
    seqs = records["seq"].astype(np.int64)
    had = np.maximum.accumulate(np.append(applied_seq, seqs))[:-1]
    places = np.flatnonzero((seqs > had + 1) & (records["kind"] != EVENT_KIND_SKIP))
    return had[places] + 1, seqs[places] - 1, places
