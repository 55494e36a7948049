"""One incarnation of a worker: residents, ownership and engine, the flows that connect them to the store, the loop that
steps.

It lives until its journal is sealed by another (it is *fenced*: all that it holds counts no more, and a new incarnation
begins) or until it is asked to stop. Then routers are let go, what is needed is journaled, and it seals itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from random import Random

from ulid import ULID

from evercurrent.model import Model
from evercurrent.security.dialing import PLAIN, Dialing
from evercurrent.telemetry.logs import get_logger
from evercurrent.telemetry.tracing import Tracer
from evercurrent.v1 import worker_pb2
from evercurrent.wire import Records
from persistence.errors import StoreUnavailable
from persistence.store import ObjectStore
from worker.acting import US_PER_S, Acting
from worker.engine import Clock, Engine
from worker.event_log import EventLog
from worker.followers import TURNS
from worker.latency import worker_latency
from worker.outboxes import Outboxes
from worker.ownership import Ownership, Timing
from worker.peers import WorkerPeers
from worker.residents import Residents
from worker.traces import Traces

STATUS_INTERVAL_S = 0.2
"""Routers take a link that is silent for three times as long for lost."""

SECOND_THOUGHTS_S = 0.2
"""A worker that drains waits so long for a router to change its mind, which has nobody else for its users."""

FOLLOW_DELAY_S = 0.05
"""How long an event waits for others at most before the versions beside the live one learn from it."""

LAST_WORDS_S = 1.0
"""How long a clean stop waits for routers to take the last replies and let go."""

logger = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Plan:
    """What an incarnation is made of. `address` is where other workers reach it; `has_store`: the store outlives the
    process; `weight` is its share of the users; `drain_timeout_s` bounds how long others may take to take its slots
    over before a clean stop, `stop_timeout_s` the writes of one. `dialing` is how it calls other workers."""

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
    dialing: Dialing = PLAIN


class _Over(Exception):
    """The incarnation is over: its tasks end."""


class Incarnation:
    """One life of a worker. `live` is its life."""

    def __init__(
        self,
        plan: Plan,
        version: str,
        model: Model,
        store: ObjectStore,
        clock_us: Clock,
        tracer: Tracer | None = None,
    ) -> None:
        self.name = f"{plan.worker}/{ULID()}"
        self.store = store
        self.clock_us = clock_us
        self.leaving = asyncio.Event()
        """Set when routers are to go."""
        self.residents = Residents(model.initial_state().detach().numpy(), plan.residents_max, version)
        self.acting = Acting(store, WorkerPeers(plan.timing.dead_after_us / US_PER_S, plan.dialing))
        self.ownership = Ownership(
            self.name,
            plan.address,
            self.residents,
            plan.timing,
            clock_us,
            Random(),
            self.acting.start,
        )
        self.outboxes = Outboxes(self._fence)
        self.engine = Engine(model, self.residents, self.ownership, self.outboxes, plan.batch_max, clock_us)
        self.outboxes.versions = self.engine.versions
        self.engine.has_store = self.has_store = plan.has_store
        if tracer is not None:
            self.engine.traces = Traces(tracer, self.residents, clock_us)
            self.acting.written = self.engine.traces.put
        self.ownership.users = self.engine
        self.log: EventLog | None = None
        if plan.has_event_log:
            self.log = EventLog(store, self.name, self.engine.layout, self.engine.versions, time.monotonic)
            self.engine.log = self.log.add
        self.latency = worker_latency()
        self.weight = plan.weight
        self.control_revision = 0
        """Of the control object that it follows."""
        self._has_offered = asyncio.Event()
        self._is_due = asyncio.Event()
        self.engine.followers.awake = self._offered
        self._stop_timeout_s = plan.stop_timeout_s
        self._drain_timeout_s = plan.drain_timeout_s
        self._is_draining = False
        self._have_nobody_else: set[int] = set()
        self._is_told = asyncio.Event()
        self._num_releases = 0
        self._all_released = asyncio.Event()
        self._all_released.set()
        self._over = asyncio.Event()

    @property
    def is_over(self) -> bool:
        """Whether it was fenced, or has written its last."""
        return self._over.is_set()

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
                tasks.create_task(self._follow_on())
                tasks.create_task(self._tell_status())
                if self.log is not None:
                    tasks.create_task(self.log.run())
                tasks.create_task(self._end_after(stop))
                try:
                    await self._over.wait()
                finally:
                    # Whatever ends it: nothing can be begun any more.
                    self.leaving.set()
                    self._over.set()
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
            self.latency.add(results.records, 0, self.clock_us())
            self.outboxes.put_results(results)

    def answer_one(self, link: int, raw: bytes, traces: Sequence[worker_pb2.LinkTrace]) -> Records | None:
        """As Engine.answer_one."""
        result = self.engine.answer_one(link, raw, traces)
        if result is not None:
            self.latency.add(result, 0, self.clock_us())
        return result

    def told_slots(self, link: int, slots: Sequence[int]) -> None:
        """A router sends the users of these slots here, from now on."""
        self.ownership.assign(link, slots)
        if slots and self._is_draining:
            self._have_nobody_else.add(link)
        else:
            self._have_nobody_else.discard(link)
        self._is_told.set()

    def link_closed(self, link: int) -> None:
        """A router is gone."""
        self.ownership.unassign(link)
        self._have_nobody_else.discard(link)
        self._is_told.set()

    @contextmanager
    def releasing(self) -> Iterator[None]:
        """Slots are on their way to another worker meanwhile: a clean stop lets them arrive."""
        self._num_releases += 1
        self._all_released.clear()
        try:
            yield
        finally:
            self._num_releases -= 1
            if not self._num_releases:
                self._all_released.set()

    async def _drain(self) -> None:
        """Let other workers take the slots over, as routers have them do. They find what the store names: nobody is
        told before every claim stands."""
        if not self.outboxes.links or not self.has_store:
            return
        try:
            async with asyncio.timeout(self._drain_timeout_s):
                await self.acting.drive(self.ownership.claim_no_more())
                self._is_draining = True
                self.put_status()
                await self._until_taken_over()
                await self._all_released.wait()
        except TimeoutError:
            logger.warning("slots were not taken over in time", slots=self.ownership.num_served)

    async def _until_taken_over(self) -> None:
        """Wait until no slot is left, or nobody is there who takes them."""
        async with asyncio.TaskGroup() as tasks:
            released = tasks.create_task(self.acting.drive(self.ownership.all_released()))
            alone = tasks.create_task(self._until_alone())
            await asyncio.wait((released, alone), return_when=asyncio.FIRST_COMPLETED)
            released.cancel()
            alone.cancel()

    async def _until_alone(self) -> None:
        """Wait until there is no router, or one has nobody else for the users: they wait for this worker to come back.
        What it says at first it may have said before it knew."""
        while self.outboxes.links:
            self._is_told.clear()
            try:
                async with asyncio.timeout(SECOND_THOUGHTS_S if self._have_nobody_else else None):
                    await self._is_told.wait()
            except TimeoutError:
                return

    async def _say_goodbye(self) -> None:
        """Tell routers all that there is. Those that hear that no slot is left here let go by themselves."""
        self.put_status()
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

    async def _follow_on(self) -> None:
        """Have the versions beside the live one learn whenever nothing waits for the live one, for ever. A step costs
        about the same for many events as for one, so they wait a moment for each other. Before each step the loop hands
        over what has come: an event waits for one such step at most."""
        followers = self.engine.followers
        while True:
            await self._has_offered.wait()
            self._has_offered.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(FOLLOW_DELAY_S):
                    await self._is_due.wait()
            self._is_due.clear()
            num_left = followers.num_steps_due
            while num_left and followers.num_waiting:
                for _ in range(TURNS):
                    await asyncio.sleep(0)
                if not self.engine.num_waiting and followers.num_waiting:
                    followers.step()
                    num_left -= 1
            if followers.num_waiting:
                self._offered()

    def _offered(self) -> None:
        """Something waits for versions beside the live one."""
        self._has_offered.set()
        if self.engine.followers.is_due:
            self._is_due.set()

    async def _tell_status(self) -> None:
        while True:
            self.residents.usage.pass_time(self.clock_us())
            self.engine.followers.pass_time(self.clock_us())
            self.engine.count_quarantined()
            self.put_status()
            await asyncio.sleep(STATUS_INTERVAL_S)

    def put_status(self) -> None:
        """Tell routers how this worker is."""
        self.outboxes.put_status(
            worker_pb2.WorkerStatus(
                residents=len(self.residents.slab),
                updates_at_risk=self.residents.num_at_risk,
                owned_slots=self.ownership.num_served,
                segments=self.ownership.landed,
                events_dropped=0 if self.log is None else self.log.num_dropped,
                draining=self._is_draining,
                control_revision=self.control_revision,
                live=self.engine.live.version,
                quarantined=self.engine.num_quarantined,
                journal_lag_us=self.ownership.lag_us,
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
            logger.error(text)  # noqa: TRY400
            raise StoreUnavailable(text) from None
        self._over.set()

    def _fence(self) -> None:
        logger.warning("fenced: another sealed the journal", incarnation=self.name)
        self.leaving.set()
        self._over.set()
