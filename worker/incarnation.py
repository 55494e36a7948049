"""One incarnation of a worker: residents, ownership and engine, the flows that connect them to the store, the loop that
steps.

It lives until its journal is sealed by another (it is *fenced*: all that it holds counts no more, and a new incarnation
begins) or until it is asked to stop. Then routers are let go, what is needed is journaled, and it seals itself.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from random import Random

from ulid import ULID

from evercurrent.model import Model
from evercurrent.v1 import worker_pb2
from persistence.errors import StoreUnavailable
from persistence.store import ObjectStore
from worker.acting import US_PER_S, Acting
from worker.engine import Clock, Engine
from worker.event_log import EventLog
from worker.outboxes import Outboxes
from worker.ownership import Ownership, Timing
from worker.peers import WorkerPeers
from worker.residents import Residents

STATUS_INTERVAL_S = 0.2
"""Routers take a link that is silent for three times as long for lost."""

LAST_WORDS_S = 1.0
"""How long a clean stop waits for routers to take the last replies and let go."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Plan:
    """What an incarnation is made of. `address` is where other workers reach it; `has_store`: the store outlives the
    process; `weight` is its share of the users; `drain_timeout_s` bounds how long others may take to take its slots
    over before a clean stop, `stop_timeout_s` the writes of one."""

    worker: str
    address: str
    residents_max: int
    batch_max: int
    timing: Timing
    has_store: bool = True
    has_event_log: bool = False
    stop_timeout_s: float = 10.0
    drain_timeout_s: float = 20.0
    weight: int = 1


class _Over(Exception):
    """The incarnation is over: its tasks end."""


class Incarnation:
    """One life of a worker. `live` is its life."""

    def __init__(self, plan: Plan, model: Model, store: ObjectStore, clock_us: Clock) -> None:
        self.name = f"{plan.worker}/{ULID()}"
        self.store = store
        self.clock_us = clock_us
        self.leaving = asyncio.Event()
        """Set when routers are to go."""
        self.residents = Residents(model.initial_state().detach().numpy(), plan.residents_max)
        self.acting = Acting(store, WorkerPeers(model.name, plan.timing.dead_after_us / US_PER_S))
        self.ownership = Ownership(
            self.name,
            plan.address,
            model.name,
            self.residents,
            plan.timing,
            clock_us,
            Random(),
            self.acting.start,
        )
        self.outboxes = Outboxes(self._fence)
        self.engine = Engine(model, self.residents, self.ownership, self.outboxes, plan.batch_max, clock_us)
        self.engine.has_store = self.has_store = plan.has_store
        self.ownership.users = self.engine
        self.log: EventLog | None = None
        if plan.has_event_log:
            self.log = EventLog(store, self.name, self.engine.layout, model.name, time.monotonic)
            self.engine.log = self.log.add
        self.weight = plan.weight
        self._stop_timeout_s = plan.stop_timeout_s
        self._drain_timeout_s = plan.drain_timeout_s
        self._is_draining = False
        self._undecided: set[int] = set()
        self._nobody_takes_over = asyncio.Event()
        self._over = asyncio.Event()

    async def live(self, stop: asyncio.Event) -> None:
        """Serve until fenced or, after `stop`, until what is needed is journaled.

        Raises:
            StoreUnavailable: that could not be done in time.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                self.acting.begin(tasks)
                self.acting.start(self.ownership.journal())
                self.acting.start(self.ownership.sweep())
                tasks.create_task(self._step_on())
                tasks.create_task(self._tell_status())
                if self.log is not None:
                    tasks.create_task(self.log.run())
                tasks.create_task(self._end_after(stop))
                await self._over.wait()
                raise _Over
        except BaseExceptionGroup as group:
            others = group.split(_Over)[1]
            if others is not None and len(others.exceptions) == 1:
                raise others.exceptions[0] from None
            if others is not None:
                raise others from None

    def step(self) -> None:
        """Handle the next batch; something waits."""
        for results in self.engine.step():
            self.outboxes.put_results(results)

    def told_slots(self, link: int, slots: Sequence[int]) -> None:
        """A router sends the users of these slots here, from now on."""
        if not self._is_draining:
            self.ownership.assign(link, slots)
        elif link in self._undecided:
            self._undecided.discard(link)
            if slots:
                # It has nobody else: what is left of its users waits for this worker to come back.
                self._nobody_takes_over.set()

    def link_closed(self, link: int) -> None:
        """A router is gone."""
        self.ownership.unassign(link)
        self._undecided.discard(link)
        if self._is_draining and not self.outboxes.links:
            self._nobody_takes_over.set()

    async def _drain(self) -> None:
        """Let other workers take the slots over, as routers have them do."""
        self._is_draining = True
        self._undecided = set(self.outboxes.links)
        if not self._undecided or not self.has_store:
            return
        self._put_status()
        draining = self.acting.beside(self.acting.drive(self.ownership.drain()))
        alone = asyncio.create_task(self._nobody_takes_over.wait())
        try:
            await asyncio.wait((draining, alone), timeout=self._drain_timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            alone.cancel()
        if not draining.done():
            logger.warning("stopping with slots that nobody took over slots=%d", self.ownership.num_served)
            draining.cancel()

    async def _say_goodbye(self) -> None:
        """Tell routers all that there is. Those that hear that no slot is left here let go by themselves."""
        self._put_status()
        if self._is_draining and not self.ownership.owns:
            await self.outboxes.all_gone()
        else:
            await self.outboxes.all_written()

    async def _step_on(self) -> None:
        """Step while anything waits, for ever. Between steps the loop reads and writes: a batch is what came then."""
        while True:
            await self.outboxes.has_events.wait()
            self.outboxes.has_events.clear()
            while self.engine.num_waiting:
                self.step()
                await asyncio.sleep(0)

    async def _tell_status(self) -> None:
        while True:
            self.residents.usage.pass_time(self.clock_us())
            self._put_status()
            await asyncio.sleep(STATUS_INTERVAL_S)

    def _put_status(self) -> None:
        self.outboxes.put_status(
            worker_pb2.WorkerStatus(
                residents=len(self.residents.slab),
                updates_at_risk=self.residents.num_at_risk,
                owned_slots=self.ownership.num_served,
                segments=self.ownership.landed,
                events_dropped=0 if self.log is None else self.log.num_dropped,
                draining=self._is_draining,
            )
        )

    async def _end_after(self, stop: asyncio.Event) -> None:
        await stop.wait()
        await self._drain()
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS_S):
                await self._say_goodbye()
        self.leaving.set()
        try:
            async with asyncio.timeout(self._stop_timeout_s):
                await self.outboxes.all_gone()
                await self.acting.drive(self.ownership.close())
                if self.log is not None:
                    await self.log.flush()
        except TimeoutError:
            waiting = 0 if self.log is None else self.log.num_waiting
            text = (
                f"stopped, and the store did not take what was left within {self._stop_timeout_s:g} s: "
                f"{self.residents.num_at_risk} updates are not durable, {waiting} events are not in the event log"
            )
            # Told here as well: a store that hangs is likely to fail once more when it is closed.
            logger.error("%s", text)  # noqa: TRY400
            raise StoreUnavailable(text) from None
        self._over.set()

    def _fence(self) -> None:
        logger.warning("fenced: another sealed the journal incarnation=%s", self.name)
        self.leaving.set()
        self._over.set()
