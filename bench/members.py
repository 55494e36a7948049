"""What a router says of its workers: who is on the ring, whose users are where, and when all that is to move has."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import grpc

from bench import load
from evercurrent.slots import slot_of, user_key
from evercurrent.v1 import admin_pb2, admin_pb2_grpc

LOOK_S = 0.05
SETTLE_TIMEOUT_S = 60.0


class NotSettledError(Exception):
    """The workers did not come to be as they should in time. The text says how they are."""


@dataclass(frozen=True, slots=True)
class Owners:
    """The worker of each user, by the ring."""

    by_user: dict[str, str]

    def of(self, worker: str) -> set[str]:
        """Its users."""
        return {user for user, owner in self.by_user.items() if owner == worker}

    def moved(self, after: Owners) -> set[str]:
        """Users who are on another worker after a change."""
        return {user for user, owner in after.by_user.items() if owner != self.by_user[user]}


class Members:
    """Asks a router, again and again: it tells nobody by itself."""

    def __init__(self, channel: grpc.aio.Channel, users: Sequence[str]) -> None:
        self._admin = admin_pb2_grpc.AdminServiceStub(channel)
        self._slots = {user: slot_of(user_key("", user)) for user in users}

    def slots_of(self, users: set[str]) -> set[int]:
        """Their slots."""
        return {self._slots[user] for user in users}

    async def owners(self) -> Owners:
        """Who owns whom now."""
        ring = await self._admin.GetRing(admin_pb2.GetRingRequest(), wait_for_ready=True, timeout=load.READY_TIMEOUT_S)
        return Owners({user: ring.members[ring.slots[slot]].name for user, slot in self._slots.items()})

    async def workers(self) -> admin_pb2.ListWorkersResponse:
        """How they are."""
        request = admin_pb2.ListWorkersRequest()
        listed: admin_pb2.ListWorkersResponse = await self._admin.ListWorkers(
            request, wait_for_ready=True, timeout=load.READY_TIMEOUT_S
        )
        return listed

    async def incarnation(self, worker: str) -> str:
        """Which life of a worker is linked."""
        return {one.name: one.incarnation for one in (await self.workers()).workers}[worker]

    async def settled(self, *names: str, but_for: str = "") -> Owners:
        """Wait until exactly these workers are on the ring, each serves its share of the slots that have users, no
        session is under way, and the incarnation `but_for` is gone.

        Raises:
            NotSettledError: they were not so within SETTLE_TIMEOUT_S.
        """
        try:
            async with asyncio.timeout(SETTLE_TIMEOUT_S):
                while True:
                    owners = await self._settled(names, but_for)
                    if owners is not None:
                        return owners
                    await asyncio.sleep(LOOK_S)
        except TimeoutError as error:
            listed = await self.workers()
            raise NotSettledError(f"{', '.join(names)} did not come to share all users: {listed}") from error

    async def _settled(self, names: Sequence[str], but_for: str) -> Owners | None:
        listed = await self.workers()
        serving = [worker for worker in listed.workers if worker.on_ring]
        if sorted(worker.name for worker in serving) != sorted(names) or listed.router.moving_sessions:
            return None
        if any(worker.state != admin_pb2.WORKER_STATE_UP or worker.incarnation == but_for for worker in serving):
            return None
        owners = await self.owners()
        shares = Counter({slot: owners.by_user[user] for user, slot in self._slots.items()}.values())
        return owners if all(worker.owned_slots == shares[worker.name] for worker in serving) else None
