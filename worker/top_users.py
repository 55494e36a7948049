"""Which users cost most lately: the worker's side of GetTopUsers (admin.proto). What is counted: worker.usage."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from operator import attrgetter

import grpc
import grpc.aio
import numpy as np

from evercurrent.errors import Refused, abort, refused
from evercurrent.v1 import admin_pb2, worker_pb2
from evercurrent.v1 import observation_pb2 as pb
from worker.incarnation import Incarnation
from worker.residents import Residents
from worker.slab import INITIAL_ROW
from worker.usage import HALF_LIFE_S

NUM_MAX = 100

Current = Callable[[], Incarnation]
"""The incarnation that serves. Raises Refused."""


class Ranking:
    """The first of all residents. Rows are looked at a part at a time: a million at once would hold the step up."""

    def __init__(self, residents: Residents, order: admin_pb2.TopUsersOrder, num: int) -> None:
        self._residents = residents
        self._by_time = order == admin_pb2.TOP_USERS_ORDER_STEP_TIME
        self._rate: Callable[[admin_pb2.TopUser], float] = attrgetter(
            "step_ms_per_s" if self._by_time else "events_per_s"
        )
        self._num = num
        self.users: list[admin_pb2.TopUser] = []
        """The first so far, in order; none that cost nothing."""

    def look(self, part: slice) -> None:
        """Rank a part of the rows."""
        usage = self._residents.usage
        rates = usage.step_us[part] / 1000 if self._by_time else usage.events[part].copy()
        rates /= usage.elapsed_s
        if part.start == INITIAL_ROW:
            rates[INITIAL_ROW] = 0
        least = self._rate(self.users[-1]) if len(self.users) == self._num else 0
        found = np.flatnonzero(rates > least)
        if len(found) > self._num:
            found = found[np.argpartition(rates[found], -self._num)[-self._num :]]
        new = [self._user(row) for row in (found + part.start).tolist()]
        self.users = sorted([*self.users, *new], key=self._rate, reverse=True)[: self._num]

    def _user(self, row: int) -> admin_pb2.TopUser:
        slab, usage = self._residents.slab, self._residents.usage
        namespace, _, user_id = slab.key(row).partition("\0")
        return admin_pb2.TopUser(
            user_id=user_id,
            namespace=namespace,
            slot=slab.slot.item(row),
            events_per_s=usage.events.item(row) / usage.elapsed_s,
            step_ms_per_s=usage.step_us.item(row) / 1000 / usage.elapsed_s,
            step_share=usage.step_us.item(row) / usage.step_us_in_all if usage.step_us_in_all else 0,
        )


def top_users_method(current: Current) -> dict[str, grpc.RpcMethodHandler]:
    """The handler of TopUsers."""

    async def call(
        request: worker_pb2.TopUsersRequest, context: grpc.aio.ServicerContext
    ) -> worker_pb2.TopUsersResponse:
        try:
            return await top_users(current(), request)
        except Refused as error:
            await abort(context, error.rejection)

    return {
        "TopUsers": grpc.unary_unary_rpc_method_handler(
            call, worker_pb2.TopUsersRequest.FromString, worker_pb2.TopUsersResponse.SerializeToString
        )
    }


async def top_users(incarnation: Incarnation, request: worker_pb2.TopUsersRequest) -> worker_pb2.TopUsersResponse:
    """The first of an incarnation's users. Raises Refused: nobody is asked for, or too many."""
    if not 1 <= request.num <= NUM_MAX:
        raise refused(pb.REASON_PROTOCOL, "num", f"{request.num} is not from 1 to {NUM_MAX}")
    residents = incarnation.residents
    residents.usage.pass_time(incarnation.clock_us())
    ranking = Ranking(residents, request.order, request.num)
    for part in residents.parts():
        ranking.look(part)
        await asyncio.sleep(0)
    return worker_pb2.TopUsersResponse(users=ranking.users, half_life_s=HALF_LIFE_S)
