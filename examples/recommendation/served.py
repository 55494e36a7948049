"""Viewers at the service: every event is learned from, and before some of them all that is new to the viewer is ranked.

Letters: M rankings.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt
from ulid import ULID

import evercurrent
from evercurrent.client import Session
from evercurrent.models.adaptive import EventLog
from examples.recommendation.recommending import candidates

CANDIDATES_MAX = 1024
"""One query takes no more."""
NUM_VIEWERS_AT_ONCE = 32


async def serve(address: str, log: EventLog, asked_M: Collection[int]) -> dict[int, int]:
    """Sends each viewer's events by time; before those at the places `asked_M` of the log their items are ranked among
    all candidates. How many stood before each, by its place in the log."""
    run, asked = str(ULID()).lower(), frozenset(asked_M)
    found: dict[int, int] = {}
    turn = asyncio.Semaphore(NUM_VIEWERS_AT_ONCE)

    async def view(client: evercurrent.Client, at_T: npt.NDArray[np.int64]) -> None:
        events = log.at(at_T)
        is_new_TI = candidates(events)
        async with turn, client.session(f"{run}/{log.users[events.user_N[0]]}") as session:
            columns = (at_T, events.ids_NK[:, 0], events.outcome_N, events.time_us_N)
            for t, (at, item, liked, time_us) in enumerate(zip(*(each.tolist() for each in columns), strict=True)):
                if at in asked:
                    best = await rank(session, np.flatnonzero(is_new_TI[t]).tolist(), time_us)
                    found[at] = best.index(item)
                result = await session.observe(ids=[item], outcome=liked, event_time_us=time_us)
                result.raise_for_rejection()

    async with evercurrent.connect(address) as client, asyncio.TaskGroup() as viewers:
        for at_T in log.by_user():
            viewers.create_task(view(client, at_T))
    return found


async def rank(session: Session, items: Sequence[int], time_us: int) -> list[int]:
    """The items, best first: asked for in parts, where they are more than one query takes."""
    parts = [items[start : start + CANDIDATES_MAX] for start in range(0, len(items), CANDIDATES_MAX)]
    ranked = await asyncio.gather(
        *(session.rank([{"ids": [item]} for item in part], event_time_us=time_us or None) for part in parts)
    )
    best = heapq.merge(*ranked, key=lambda one: -one.score)
    return [one.candidate["ids"][0] for one in best]
