"""One router at work: the core, who its workers are, a link to each, the ring. The router process puts a gRPC server
around it, the SDK embeds it.

Workers come and go by what the source lists and by their links; each change gives a new ring, built off the loop.
Until the first ring there is nobody to send users to, and it waits a moment for all that are listed: or the first
worker to be linked would claim every slot, only to give most of them away again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from evercurrent.settings import RouterSettings
from evercurrent.telemetry.logs import get_logger
from evercurrent.v1 import worker_pb2
from router.core import Bounds, RoutingCore
from router.discovery import Source
from router.link import keep_link
from router.membership import Listing, Membership
from router.ring import build_ring

FIRST_RING_PATIENCE_S = 1.0
UNLINK_US = 1_000_000
"""How often workers that are listed no more are looked at."""

US_PER_S = 1_000_000
US_PER_MS = 1000

logger = get_logger(__name__)


def monotonic_us() -> int:
    return time.monotonic_ns() // 1000


def bounds_of(settings: RouterSettings) -> Bounds:
    """The bounds of a core, as set."""
    return Bounds(
        in_flight_link_max=settings.in_flight_link_max,
        in_flight_session_max=settings.in_flight_session_max,
        in_flight_user_max=settings.in_flight_user_max,
        replay_events_max=settings.replay_events_max,
        replay_bytes_max=settings.replay_bytes_max,
        blocks_when_full=settings.replay_on_full == "block",
        move_timeout_us=settings.move_timeout_s * US_PER_S,
    )


def _call_later(delay_us: int, act: object) -> object:
    return asyncio.get_running_loop().call_later(delay_us / US_PER_S, act)  # type: ignore[arg-type]


@dataclass(slots=True)
class _Linked:
    """A worker that is linked, or tried to be."""

    index: int
    address: str
    task: asyncio.Task[None]


class Routing:
    """`run` is its life. `ready` is set when the first ring stands. `lost` is called when a worker's link is lost."""

    def __init__(
        self,
        source: Source,
        name: str,
        bounds: Bounds,
        link_silence_s: float,
        lost: Callable[[], None] | None = None,
    ) -> None:
        self.core = RoutingCore(bounds, monotonic_us, _call_later)
        self.membership = Membership()
        self.ready = asyncio.Event()
        self.all_up = asyncio.Event()
        """All workers that are listed are linked, or were."""
        self._source = source
        self._name = name
        self._link_silence_s = link_silence_s
        self._lost = lost
        self._listed: Listing = {}
        self._links: dict[str, _Linked] = {}
        self._weights: dict[str, int] = {}
        self._is_changed = asyncio.Event()
        self._waiting_for_slots: set[str] = set()
        self._tasks = asyncio.TaskGroup()

    async def run(self) -> None:
        """Follow the members and keep them linked, until cancelled. Raises what the source raises."""
        try:
            async with self._tasks:
                self._tasks.create_task(self._keep_ring())
                async for listing in self._source.listings():
                    self.membership.relist(listing, monotonic_us())
                    await self._reconcile(listing)
                    self._is_changed.set()
        finally:
            self._links.clear()

    def up(self, name: str, opened: worker_pb2.LinkOpened) -> None:
        """A worker's link is open."""
        self._weights[name] = max(1, opened.weight)
        self.membership.up(name, monotonic_us(), self._weights[name])
        if all(listed in self._weights for listed in self._listed):
            self.all_up.set()
        self._is_changed.set()

    def down(self, name: str) -> None:
        """A worker's link is lost."""
        self.membership.down(name, monotonic_us())
        self._is_changed.set()
        if self._lost is not None:
            self._lost()

    def drain(self, name: str) -> None:
        """A worker is about to stop, and waits to hear which slots it still has."""
        self.membership.drain(name, monotonic_us())
        self._waiting_for_slots.add(name)
        self._is_changed.set()

    async def _reconcile(self, listing: Listing) -> None:
        """Link whom the source lists, at the address that it gives. Who is listed no more stays linked as long as it
        may have users (`_unlink_gone`)."""
        self._listed = listing
        for name, linked in list(self._links.items()):
            if name in listing and listing[name].address != linked.address:
                await self._unlink(name)
        for name, listed in listing.items():
            if name not in self._links:
                index = self.core.add_worker(name, listed.address)
                link = keep_link(self.core, index, self._name, self._link_silence_s, self)
                self._links[name] = _Linked(index, listed.address, self._tasks.create_task(link))

    async def _unlink_gone(self, members: Mapping[str, int]) -> None:
        """Unlink who is neither listed nor on the ring, once it is lost or no session is there any more."""
        for name in self._unlisted():
            index = self._links[name].index
            is_lost = self.core.links[index].outbox is None
            if name not in members and (is_lost or not len(self.core.sessions.of_worker(index))):
                await self._unlink(name)

    def _unlisted(self) -> list[str]:
        return [name for name in self._links if name not in self._listed]

    async def _unlink(self, name: str) -> None:
        linked = self._links.pop(name)
        linked.task.cancel()
        with suppress(asyncio.CancelledError):
            await linked.task
        self.core.remove_worker(linked.index)
        self._weights.pop(name, None)

    async def _keep_ring(self) -> None:
        await self._is_changed.wait()
        while not self._weights:
            self._is_changed.clear()
            await self._is_changed.wait()
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_RING_PATIENCE_S):
                await self.all_up.wait()
        while True:
            self._is_changed.clear()
            await self._turn_ring()
            await self._until_changed()

    async def _turn_ring(self) -> None:
        """Make the ring what the members are now, and tell those who wait for it."""
        core = self.core
        waiting, self._waiting_for_slots = self._waiting_for_slots, set()
        members = self._members()
        if members and (core.ring is None or dict(zip(core.ring.names, core.ring.weights, strict=True)) != members):
            ring = await asyncio.to_thread(build_ring, members)
            core.set_ring(ring)
            self.ready.set()
            logger.info("ring turned", digest=ring.digest, workers=len(ring.names))
        for name in waiting:
            if name in self._links:
                core.tell_slots(self._links[name].index)
        await self._unlink_gone(members)

    def _members(self) -> Mapping[str, int]:
        """Who is on the ring. Where nothing outlives a worker its users wait for it, whatever becomes of it."""
        if self.core.has_store:
            return self.membership.members(monotonic_us())
        return {name: self._weights.get(name, 1) for name in self._listed}

    async def _until_changed(self) -> None:
        now_us = monotonic_us()
        next_us = self.membership.next_change_us(now_us)
        if self._unlisted():
            next_us = min(next_us or now_us + UNLINK_US, now_us + UNLINK_US)
        with suppress(TimeoutError):
            async with asyncio.timeout(None if next_us is None else max(0, next_us - now_us) / US_PER_S):
                await self._is_changed.wait()
