"""GetTopUsers: every worker that can be reached is asked for its first users, the first of which are the answer."""

from __future__ import annotations

import asyncio
from operator import attrgetter

import grpc.aio

from evercurrent.errors import refused
from evercurrent.v1 import admin_pb2, worker_pb2
from evercurrent.v1 import observation_pb2 as pb
from router.core import RETRY_AFTER_MS, RoutingCore
from router.outbox import Link
from router.users import stub_of

NUM_DEFAULT, NUM_MAX = 10, 100
TIMEOUT_S = 5.0
"""A worker that takes longer is missing from the answer."""

RATES = {
    admin_pb2.TOP_USERS_ORDER_EVENTS: attrgetter("events_per_s"),
    admin_pb2.TOP_USERS_ORDER_STEP_TIME: attrgetter("step_ms_per_s"),
}


async def get_top_users(core: RoutingCore, request: admin_pb2.GetTopUsersRequest) -> admin_pb2.GetTopUsersResponse:
    """The users that cost most lately, by the order asked for.

    Raises:
        Refused: the request is wrong, or no worker answers.
    """
    num = request.num or NUM_DEFAULT
    order = request.order or admin_pb2.TOP_USERS_ORDER_EVENTS
    if num > NUM_MAX:
        raise refused(pb.REASON_PROTOCOL, "num", f"{num} is more than {NUM_MAX}")
    if order not in RATES:
        raise refused(pb.REASON_PROTOCOL, "order", f"{order} is no order")
    asked = worker_pb2.TopUsersRequest(num=num, order=order)
    async with asyncio.TaskGroup() as tasks:
        asking = {link.name: tasks.create_task(_ask(core, link, asked)) for link in core.links.values()}
    response = admin_pb2.GetTopUsersResponse()
    users: list[admin_pb2.TopUser] = []
    for worker, task in asking.items():
        answer = task.result()
        if answer is None:
            response.missing_workers.append(worker)
            continue
        response.half_life_s = answer.half_life_s
        for user in answer.users:
            user.worker = worker
            users.append(user)
    if len(response.missing_workers) == len(asking):
        raise refused(pb.REASON_UNAVAILABLE, "", "no worker answers", RETRY_AFTER_MS)
    response.users.extend(sorted(users, key=RATES[order], reverse=True)[:num])
    return response


async def _ask(
    core: RoutingCore, link: Link, request: worker_pb2.TopUsersRequest
) -> worker_pb2.TopUsersResponse | None:
    """What a worker answers; None if it does not."""
    if link.outbox is None:
        return None
    try:
        async with stub_of(core, link) as worker:
            answer: worker_pb2.TopUsersResponse = await worker.TopUsers(request, timeout=TIMEOUT_S)
            return answer
    except grpc.aio.AioRpcError:
        return None
