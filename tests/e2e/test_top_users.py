"""Which users cost most, asked of a router over all its workers."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator

import grpc
import pytest

from evercurrent.v1 import admin_pb2
from evercurrent.v1.admin_pb2 import GetTopUsersRequest, GetTopUsersResponse
from evercurrent.v1.session_pb2 import ObserveRequest
from tests.e2e.conversation import observation
from tests.e2e.test_unary import refusal
from tests.servers import Service, running_service
from worker.usage import HALF_LIFE_S

BY_TIME = admin_pb2.TOP_USERS_ORDER_STEP_TIME


@pytest.fixture
async def service(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Service]:
    """Two workers, where nothing that is counted fades while a test runs."""
    monkeypatch.setattr("worker.usage.HALF_LIFE_S", 1_000_000)
    async with running_service(num_workers=2) as service:
        yield service


async def observe(service: Service, user: str, times: int, namespace: str = "") -> None:
    for _ in range(times):
        await service.sessions.Observe(
            ObserveRequest(user_id=user, namespace=namespace, observation=observation()), timeout=30
        )


async def top(service: Service, num: int = 0, order: admin_pb2.TopUsersOrder | None = None) -> GetTopUsersResponse:
    response = await service.admin.GetTopUsers(GetTopUsersRequest(num=num, order=order))
    assert isinstance(response, GetTopUsersResponse)
    return response


async def test_the_first_of_all_workers_are_told_with_what_they_cost(service: Service) -> None:
    users = [service.user_of_worker(name, prefix) for prefix in "ab" for name in ("worker-0", "worker-1")]
    for user, times in zip(users, (40, 20, 10, 5), strict=True):
        await observe(service, user, times)
    hot = await top(service)
    assert {user.user_id for user in hot.users} == set(users)
    by_rate = [user.events_per_s for user in hot.users]
    assert by_rate == sorted(by_rate, reverse=True)
    assert (hot.half_life_s, list(hot.missing_workers)) == (HALF_LIFE_S, [])
    for one in hot.users:
        slot, worker = service.core.worker_of("", one.user_id)
        assert (one.slot, one.worker, one.namespace) == (slot, service.core.links[worker].name, "")
        assert one.step_ms_per_s > 0
    of_one = [user for user in hot.users if user.worker == "worker-0"]
    assert [user.user_id for user in of_one] == users[::2]
    assert of_one[0].events_per_s == pytest.approx(4 * of_one[1].events_per_s)
    assert sum(user.step_share for user in of_one) == pytest.approx(1)
    slow = [user.step_ms_per_s for user in (await top(service, order=BY_TIME)).users]
    assert slow == sorted(slow, reverse=True)
    assert [user.user_id for user in (await top(service, num=1)).users] == [hot.users[0].user_id]


async def test_ten_are_told_unless_more_are_asked_for(service: Service) -> None:
    for number in range(12):
        await observe(service, f"user-{number}", 1, "shop")
    assert len((await top(service)).users) == 10
    every = (await top(service, num=100)).users
    assert sorted((user.namespace, user.user_id) for user in every) == sorted(
        ("shop", f"user-{number}") for number in range(12)
    )


@pytest.mark.parametrize(("num", "order", "field"), [(101, 0, "num"), (1, 7, "order")])
async def test_a_wrong_request_is_refused(service: Service, num: int, order: int, field: str) -> None:
    request = GetTopUsersRequest(num=num)
    request.MergeFromString(bytes([16, order]))
    error = await refusal(service.admin.GetTopUsers(request))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details().startswith(f"{field}: ")


async def test_workers_that_do_not_answer_are_named(service: Service) -> None:
    users = [service.user_of_worker(name) for name in ("worker-0", "worker-1")]
    for user in users:
        await observe(service, user, 1)
    service.workers["worker-1"].incarnation.leaving.set()
    partly = await top(service)
    assert ([user.user_id for user in partly.users], list(partly.missing_workers)) == (users[:1], ["worker-1"])
    service.core.link_lost(1)
    error = await refusal(service.admin.GetTopUsers(GetTopUsersRequest()))
    assert (error.code(), error.details()) == (grpc.StatusCode.UNAVAILABLE, "no worker answers")


async def run_hot(*arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "evercurrent.cli", "hot", *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, error = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), error.decode()


async def test_the_command_shows_them(service: Service) -> None:
    assert await run_hot("--address", service.address) == (0, "No user sends events.\n", "")
    hot, mild = service.user_of_worker("worker-0", "[red]hot"), service.user_of_worker("worker-0", "mild")
    await observe(service, hot, 6)
    await observe(service, mild, 2)
    residents = service.workers["worker-0"].incarnation.residents
    row = residents.slab.find(f"\0{mild}")
    assert row is not None
    residents.usage.count_one(row, 10_000_000)
    for by in ("events", "time"):
        code, shown, error = await run_hot("--address", service.address, "--by", by)
        assert (code, error) == (0, "")
        assert "namespace" not in shown
        assert (shown.index(hot) < shown.index(mild)) == (by == "events")
        assert "What is 10 s old counts half." in shown
    assert mild not in (await run_hot("--address", service.address, "--num", "1"))[1]
    await observe(service, "ann", 1, "shop")
    _, shown, _ = await run_hot("--address", service.address)
    assert "namespace" in shown
    assert "shop" in shown
    service.core.link_lost(2)
    _, shown, _ = await run_hot("--address", service.address)
    assert "Not reached, their users are missing: worker-1." in shown


async def test_the_command_says_why_it_failed(service: Service) -> None:
    for worker in (1, 2):
        service.core.link_lost(worker)
    code, shown, error = await run_hot("--address", service.address)
    assert (code, shown, error) == (1, "", "evercurrent: UNAVAILABLE: no worker answers\n")
    code, _, error = await run_hot("--by", "fame")
    assert code == 2
    assert "fame" in error
