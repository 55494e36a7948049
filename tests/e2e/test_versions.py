"""A version learns in shadow, goes live and is rolled back while sessions stay open: nothing they sent is missing
anywhere, and what does not fit is refused before anybody sees it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

import evercurrent
from evercurrent.model import Model
from evercurrent.models.versions import version_of
from evercurrent.v1 import models_pb2
from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1.admin_pb2 import (
    ChangeModelsRequest,
    ChangeModelsResponse,
    ListModelChangesRequest,
    ListModelsRequest,
    ListQuarantinedRequest,
    ReleaseQuarantinedRequest,
    WatchComparisonRequest,
    WatchComparisonResponse,
)
from evercurrent.v1.models_pb2 import Policy, Promote, Rollback, StartShadow, StopShadow
from evercurrent.v1.session_pb2 import ObserveRequest
from persistence.memory import MemoryStore
from persistence.registry import Registry
from tests.e2e.conversation import Conversation, observation
from tests.e2e.test_durability import SESSION, hash_of, observe_durably, routed
from tests.servers import Service, running_worker
from tests.toys import NAN_LOSS, Counting, Misshapen, Narrow, Sick, Sluggish

MODELS: dict[str, Model] = {"v2": Sluggish(), "sick": Sick(), "narrow": Narrow()}
BY_OWN_SCORE = Policy(score=models_pb2.SCORE_MODEL)


async def filled_store() -> MemoryStore:
    """A store with all versions registered."""
    store = MemoryStore()
    for name, model in MODELS.items():
        await Registry(store).push(*version_of(model, name, "test", "", 1))
    return store


@asynccontextmanager
async def service_of_two() -> AsyncIterator[Service]:
    store = await filled_store()
    async with (
        running_worker("worker-0", Counting(), store) as zero,
        running_worker("worker-1", Counting(), store) as one,
        routed(worker_0=zero, worker_1=one) as service,
    ):
        await change(service, policy=BY_OWN_SCORE)
        yield service


async def change(service: Service, **what: Any) -> ChangeModelsResponse:
    response = await service.admin.ChangeModels(ChangeModelsRequest(who="test", why="to see", **what))
    assert isinstance(response, ChangeModelsResponse)
    return response


async def refusal(service: Service, **what: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await change(service, **what)
    return caught.value.code(), caught.value.details() or ""


async def comparison(service: Service, version: str) -> models_pb2.Comparison:
    async for seen in service.admin.WatchComparison(WatchComparisonRequest(version=version)):
        assert isinstance(seen, WatchComparisonResponse)
        (one,) = seen.comparisons
        return one
    raise AssertionError("it goes on for ever")


async def two_users(service: Service) -> list[Conversation]:
    """One on each worker."""
    return [
        await Conversation.opened(service, service.user_of_worker(name), SESSION, wait_durable=False)
        for name in service.workers
    ]


async def test_versions_change_under_open_sessions_and_miss_nothing() -> None:
    async with service_of_two() as service:
        conversations = await two_users(service)
        seq = 0

        async def observe(expected: str, num: int = 3) -> None:
            nonlocal seq
            for _ in range(num):
                seq += 1
                for conversation in conversations:
                    result = await conversation.observe(seq)
                    assert (result.status, result.model_version) == (pb.STATUS_APPLIED, expected)
                    assert result.prediction[0] == hash_of(seq - 1)
                    assert result.version == seq

        await observe("counting")
        started = await change(service, start_shadow=StartShadow(version="v2"))
        assert sorted(one.worker for one in started.workers) == ["worker-0", "worker-1"]
        await observe("counting")
        promoted = await change(service, promote=Promote(version="v2"))
        assert (promoted.control.live, promoted.control.standby) == ("v2", "counting")
        assert not promoted.missing_workers
        await observe("v2")
        back = await change(service, rollback=Rollback())
        assert (back.control.live, back.control.standby) == ("counting", "v2")
        await observe("counting")
        await change(service, rollback=Rollback(drop=True))
        await observe("v2")
        assert all(not engine.followers for engine in service.engines)
        for engine in service.engines:
            assert engine.residents.packing == (engine.residents.live.part,)


async def test_a_version_that_was_never_beside_the_live_one_goes_live_with_what_everybody_knows() -> None:
    async with service_of_two() as service:
        conversations = await two_users(service)
        for conversation in conversations:
            await conversation.observe(1)
        await change(service, promote=Promote(version="v2"))
        for conversation in conversations:
            result = await conversation.observe(2)
            assert (result.model_version, result.prediction[0]) == ("v2", hash_of(1))


async def test_what_does_not_fit_is_refused_and_changes_nothing() -> None:
    async with service_of_two() as service:
        control = (await service.admin.ListModels(ListModelsRequest())).control
        fits = grpc.StatusCode.FAILED_PRECONDITION
        assert await refusal(service, start_shadow=StartShadow(version="v9")) == (
            fits,
            "version: version 'v9' is not registered",
        )
        code, text = await refusal(service, promote=Promote(version="narrow"))
        assert code is fits
        assert "features: ['x'] instead of ['x', 'y']" in text
        assert (await refusal(service, rollback=Rollback()))[0] is fits
        assert (await refusal(service, stop_shadow=StopShadow(version="counting")))[0] is fits
        assert (await refusal(service, policy=Policy(level=0.9)))[0] is fits
        code, text = await refusal(service, policy=Policy(score=models_pb2.SCORE_BRIER))
        assert code is fits
        assert "score of its own" in text
        code, _ = await refusal(service, start_shadow=StartShadow(version="v2"), revision=control.revision - 1)
        assert code is grpc.StatusCode.ABORTED
        code, _ = await refusal(service)
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert (await service.admin.ListModels(ListModelsRequest())).control == control
        for engine in service.engines:
            assert (engine.live.version, list(engine.followers)) == ("counting", [])


async def test_a_model_that_is_kept_nowhere_cannot_be_changed() -> None:
    async with (
        running_worker("worker-0", Counting(), MemoryStore(), has_store=False) as worker,
        routed(worker_0=worker) as service,
    ):
        assert not (await service.admin.ListModels(ListModelsRequest())).HasField("control")
        code, text = await refusal(service, start_shadow=StartShadow(version="v2"))
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert "store" in text


async def test_a_worker_that_was_away_comes_back_on_the_right_version_and_old_states_go_on() -> None:
    store = await filled_store()
    async with running_worker("worker-0", Counting(), store) as worker, routed(worker_0=worker) as service:
        await change(service, policy=BY_OWN_SCORE)
        conversation = await Conversation.opened(service, "ann", SESSION, wait_durable=True)
        await observe_durably(conversation, 1, 3)
        await change(service, promote=Promote(version="v2"))
        conversation = await Conversation.opened(service, "bob", SESSION, wait_durable=True)
        await observe_durably(conversation, 1, 2)
        worker.is_dead = True
    async with running_worker("worker-0", Counting(), store) as worker, routed(worker_0=worker) as service:
        for user, num in (("ann", 3), ("bob", 2)):
            conversation = await Conversation.opened(service, user, SESSION)
            result = await conversation.observe(num + 1)
            assert (result.model_version, result.prediction[0]) == ("v2", hash_of(num))
        await change(service, rollback=Rollback())
        for user, num in (("ann", 4), ("bob", 3)):
            result = (await service.sessions.Observe(ObserveRequest(user_id=user, observation=observation()))).result
            assert (result.model_version, result.prediction[0]) == ("counting", hash_of(num))


async def test_users_who_left_memory_under_one_version_come_back_under_another() -> None:
    store = await filled_store()
    async with (
        running_worker("worker-0", Counting(), store, residents_max=4) as worker,
        routed(worker_0=worker) as service,
    ):
        await change(service, policy=BY_OWN_SCORE)

        async def observe_all(num_before: int, version: str) -> None:
            for number in range(12):
                request = ObserveRequest(
                    user_id=f"user-{number}", observation=observation(), wait_for=pb.WAIT_FOR_DURABLE
                )
                result = (await service.sessions.Observe(request)).result
                assert (result.model_version, result.prediction[0]) == (version, hash_of(num_before))

        await observe_all(0, "counting")
        await change(service, promote=Promote(version="v2"))
        await observe_all(1, "v2")
        await change(service, rollback=Rollback(drop=True))
        await observe_all(2, "counting")


async def test_a_pinned_session_hears_its_version_whoever_is_live() -> None:
    async with service_of_two() as service:
        await change(service, start_shadow=StartShadow(version="v2", fraction=1e-6))
        pinned = await Conversation.opened(service, "ann", model_version="v2")
        for seq in (1, 2):
            result = await pinned.observe(seq)
            assert (result.model_version, result.prediction[0]) == ("v2", hash_of(seq - 1))
        answer = await pinned.ask()
        assert (answer.model_version, answer.predictions[0]) == ("v2", hash_of(2))
        code, text = await (await unopened(service, model_version="v7")).ended()
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "v7" in text
        await change(service, stop_shadow=StopShadow(version="v2"))
        code, text = await pinned.ended()
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "v2 runs no more" in text


async def unopened(service: Service, **more: Any) -> Conversation:
    conversation = Conversation(service)
    await conversation.send(open={"user_id": "bob", **more})
    return conversation


async def test_a_shadow_is_compared_and_every_change_is_told_in_the_audit_trail() -> None:
    async with service_of_two() as service:
        conversations = await two_users(service)
        await change(service, start_shadow=StartShadow(version="v2"))
        for seq in range(1, 11):
            for conversation in conversations:
                await conversation.observe(seq)
        await service.until(lambda: not any(engine.followers.num_waiting for engine in service.engines))
        one = await comparison(service, "v2")
        assert (one.live, one.sums.updates, one.sums.score.count, one.sums.users) == ("counting", 20, 20, 2)
        assert one.sums.live_score_sum < one.sums.score_sum
        assert one.score.mean == pytest.approx((one.sums.live_score_sum - one.sums.score_sum) / 20)
        assert one.level == pytest.approx(0.025)
        await change(service, promote=Promote(version="v2"))
        standby = await comparison(service, "counting")
        assert (standby.live, standby.sums.score.count) == ("v2", 0)
        changes = (await service.admin.ListModelChanges(ListModelChangesRequest())).changes
        assert [one.what for one in changes] == [
            "promote v2",
            "shadow start v2 on 1",
            "policy manual",
            "begin with counting",
        ]
        promoted = changes[0]
        assert (promoted.who, promoted.why, promoted.live_before, promoted.live_after) == (
            "test",
            "to see",
            "counting",
            "v2",
        )
        assert promoted.comparisons[0].sums.score.count == 20
        assert [one.revision for one in changes] == [4, 3, 2, 1]


async def test_a_version_that_refuses_what_the_old_one_took_is_rolled_back_by_itself() -> None:
    async with service_of_two() as service:
        await change(service, policy=Policy(score=models_pb2.SCORE_MODEL, mode=models_pb2.POLICY_MODE_AUTO))
        conversations = await two_users(service)
        await change(service, promote=Promote(version="sick"))
        seq, refused = 0, 0
        while any(engine.live.version == "sick" for engine in service.engines):
            seq += 1
            for conversation in conversations:
                result = await conversation.observe(seq)
                refused += result.status == pb.STATUS_REJECTED
        assert refused
        for conversation in conversations:
            result = await conversation.observe(seq + 1)
            assert (result.model_version, result.status) == ("counting", pb.STATUS_APPLIED)
            assert result.prediction[0] == hash_of(seq)
        changes = (await service.admin.ListModelChanges(ListModelChangesRequest(num=1))).changes
        assert changes[0].who == "auto"
        assert "sick regresses beside counting" in changes[0].why
        assert (await service.admin.ListModels(ListModelsRequest())).control.standby == ""


async def test_quarantined_users_are_listed_and_let_go() -> None:
    async with service_of_two() as service:
        conversation = await Conversation.opened(service, "ann", SESSION)
        await conversation.observe(1)
        seq, reason = 1, pb.REASON_UNSPECIFIED
        while reason != pb.REASON_QUARANTINED:
            seq += 1
            reason = (await conversation.observe(seq, deed=NAN_LOSS)).rejection.reason
        (user,) = (await service.admin.ListQuarantined(ListQuarantinedRequest())).users
        assert (user.user_id, user.worker, user.version) == ("ann", service.name_of("ann"), 1)
        await service.admin.ReleaseQuarantined(ReleaseQuarantinedRequest(user_id="ann"))
        result = await conversation.observe(seq + 1)
        assert (result.status, result.prediction[0]) == (pb.STATUS_APPLIED, hash_of(1))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service.admin.ReleaseQuarantined(ReleaseQuarantinedRequest(user_id="ann"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_two_who_change_at_once_are_one_after_the_other() -> None:
    async with service_of_two() as service:
        revision = (await service.admin.ListModels(ListModelsRequest())).control.revision
        outcomes = await asyncio.gather(
            *(
                change(service, start_shadow=StartShadow(version=version), revision=revision)
                for version in ("v2", "sick")
            ),
            return_exceptions=True,
        )
        errors = [one for one in outcomes if isinstance(one, grpc.aio.AioRpcError)]
        assert [error.code() for error in errors] == [grpc.StatusCode.ABORTED]
        control = (await service.admin.ListModels(ListModelsRequest())).control
        assert (control.revision, len(control.shadows)) == (revision + 1, 1)


async def test_the_client_hears_which_version_predicted_and_may_ask_for_one() -> None:
    async with service_of_two() as service:
        await change(service, start_shadow=StartShadow(version="v2", fraction=1e-6))
        more: dict[str, Any] = {"ids": [1, 2], "features": [0.5, -1.0]}
        for asked, heard in (("", "counting"), ("v2", "v2")):
            async with evercurrent.connect(service.address, model_version=asked) as client:
                async with client.session(f"ann-{asked}") as session:
                    assert (await session.observe(**more, outcome=0.5)).model_version == heard
                    assert (await session.predict(**more)).model_version == heard
                async with client.exchange() as exchange:
                    results = [await exchange.observe(f"bob-{asked}", **more, outcome=0.5) for _ in range(2)]
                    assert [one.model_version for one in results] == [heard, heard]
                    assert [one.prediction[0] for one in results] == [0, hash_of(1)]


async def test_a_version_that_cannot_run_is_refused_before_anything_changes() -> None:
    store = await filled_store()
    await Registry(store).push(*version_of(Misshapen(), "misshapen", "test", "", 1))
    async with running_worker("worker-0", Counting(), store) as worker, routed(worker_0=worker) as service:
        await change(service, policy=BY_OWN_SCORE)
        for what in ({"start_shadow": StartShadow(version="misshapen")}, {"promote": Promote(version="misshapen")}):
            code, text = await refusal(service, **what)
            assert code is grpc.StatusCode.FAILED_PRECONDITION
            assert "'misshapen' cannot run" in text
        (engine,) = service.engines
        assert (engine.live.version, list(engine.followers)) == ("counting", [])
