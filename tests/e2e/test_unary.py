"""Observe, Predict, AdminService, health and reflection."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from ulid import ULID

from evercurrent.settings import RouterSettings
from evercurrent.v1 import admin_pb2
from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1.session_pb2 import ObserveRequest, PredictRequest
from router.ring import build_ring
from tests.e2e.conversation import Conversation, observation, query
from tests.servers import Service, running_router, running_service
from tests.toys import HUGE_GRADIENT, RAISE


def details_of(error: grpc.aio.AioRpcError) -> dict[str, Any]:
    """The details of an error by the name of their message."""
    raw = next(value for key, value in error.trailing_metadata() if key == "grpc-status-details-bin")
    status = status_pb2.Status.FromString(raw)
    assert (status.code, status.message) == (error.code().value[0], error.details())
    found = {}
    for detail in status.details:
        message = getattr(error_details_pb2, detail.TypeName().rpartition(".")[2])()
        assert detail.Unpack(message)
        found[message.DESCRIPTOR.name] = message
    return found


async def refusal(call: Any) -> grpc.aio.AioRpcError:
    """The error of a call."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_observe_and_predict(service: Service) -> None:
    first = await service.sessions.Observe(ObserveRequest(user_id="ann", observation=observation()))
    assert (first.result.status, first.result.version, first.result.applied_seq) == (pb.STATUS_APPLIED, 1, 0)
    asked = PredictRequest(user_id="ann", query=query(3, 2), timings=True)
    answer = (await service.sessions.Predict(asked)).result
    assert (answer.query_id, answer.version, len(answer.predictions)) == (3, 1, 4)
    assert answer.timings.total_us > 0
    second = await service.sessions.Observe(ObserveRequest(user_id="ann", observation=observation()))
    assert second.result.version == 2
    assert second.result.prediction[0] == answer.predictions[0] != 0


async def test_observe_with_session_and_seq_may_be_repeated(service: Service) -> None:
    session_id = str(ULID())

    async def observe(seq: int) -> pb.ObservationResult:
        request = ObserveRequest(user_id="ann", session_id=session_id, observation=observation(seq))
        result: pb.ObservationResult = (await service.sessions.Observe(request)).result
        return result

    assert (await observe(1)).status == pb.STATUS_APPLIED
    before = service.row_bytes("ann")
    again = await observe(1)
    assert (again.status, again.applied_seq, again.version) == (pb.STATUS_DUPLICATE, 1, 1)
    assert service.row_bytes("ann") == before
    assert (await observe(2)).applied_seq == 2
    error = await refusal(observe(5))
    assert error.code() == grpc.StatusCode.ABORTED
    assert details_of(error)["ErrorInfo"].reason == "SEQ_GAP"
    assert (await observe(3)).version == 3


async def test_a_bad_observation_in_a_session_consumes_its_seq_wherever_it_is_found(service: Service) -> None:
    session_id = str(ULID())
    for seq, ids in enumerate(([1], [99, 0]), start=1):
        request = ObserveRequest(user_id="ann", session_id=session_id, observation=observation(seq, ids=ids))
        assert (await refusal(service.sessions.Observe(request))).code() == grpc.StatusCode.INVALID_ARGUMENT
    last = ObserveRequest(user_id="ann", session_id=session_id, observation=observation(3))
    assert (await service.sessions.Observe(last)).result.applied_seq == 3


BAD_CALLS: dict[str, tuple[dict[str, Any], str, str, grpc.StatusCode]] = {
    "no user": ({"user_id": ""}, "user_id", "USER_ID", grpc.StatusCode.INVALID_ARGUMENT),
    "long user": ({"user_id": "u" * 257}, "user_id", "USER_ID", grpc.StatusCode.INVALID_ARGUMENT),
    "other model": ({"model": "chess"}, "model", "MODEL", grpc.StatusCode.INVALID_ARGUMENT),
    "long namespace": ({"namespace": "n" * 65}, "namespace", "MODEL", grpc.StatusCode.INVALID_ARGUMENT),
}


@pytest.mark.parametrize(("fault", "field", "reason", "code"), BAD_CALLS.values(), ids=BAD_CALLS.keys())
@pytest.mark.parametrize("method", ["Observe", "Predict"])
async def test_a_bad_call_is_refused_by_name(
    service: Service, method: str, fault: dict[str, Any], field: str, reason: str, code: grpc.StatusCode
) -> None:
    fields = {"user_id": "ann", **fault}
    if method == "Observe":
        error = await refusal(service.sessions.Observe(ObserveRequest(observation=observation(), **fields)))
    else:
        error = await refusal(service.sessions.Predict(PredictRequest(query=query(), **fields)))
    assert error.code() == code
    details = details_of(error)
    info = details["ErrorInfo"]
    assert (info.reason, info.domain, dict(info.metadata)) == (reason, "evercurrent", {"field": field})
    violation = details["BadRequest"].field_violations[0]
    assert (violation.field, violation.reason) == (field, reason)
    assert violation.description


BAD_OBSERVES: dict[str, tuple[ObserveRequest, str, grpc.StatusCode]] = {
    "no observation": (ObserveRequest(user_id="ann"), "observation", grpc.StatusCode.INVALID_ARGUMENT),
    "no ULID": (
        ObserveRequest(user_id="ann", session_id="x", observation=observation(1)),
        "session_id",
        grpc.StatusCode.INVALID_ARGUMENT,
    ),
    "too few ids": (
        ObserveRequest(user_id="ann", observation=observation(ids=[1])),
        "observation.ids",
        grpc.StatusCode.INVALID_ARGUMENT,
    ),
    "id out of range": (
        ObserveRequest(user_id="ann", observation=observation(ids=[1, 4])),
        "observation.ids[1]",
        grpc.StatusCode.INVALID_ARGUMENT,
    ),
    "model error": (
        ObserveRequest(user_id="ann", observation=observation(deed=RAISE)),
        "observation.",
        grpc.StatusCode.INTERNAL,
    ),
}


@pytest.mark.parametrize(("request_", "field", "code"), BAD_OBSERVES.values(), ids=BAD_OBSERVES.keys())
async def test_a_bad_observe_is_refused_by_name(
    service: Service, request_: ObserveRequest, field: str, code: grpc.StatusCode
) -> None:
    error = await refusal(service.sessions.Observe(request_))
    assert error.code() == code
    assert details_of(error)["ErrorInfo"].metadata["field"].startswith(field)
    await service.until(lambda: len(service.core.sessions) == service.core.num_feeds == 0)
    assert all(len(engine.slab) == 0 for engine in service.engines)


async def test_a_bad_predict_names_its_candidate(service: Service) -> None:
    asked = query(num_candidates=2)
    asked.candidates[1].ids[0] = -1
    error = await refusal(service.sessions.Predict(PredictRequest(user_id="ann", query=asked)))
    assert details_of(error)["BadRequest"].field_violations[0].field == "query.candidates[1].ids[0]"
    error = await refusal(service.sessions.Predict(PredictRequest(user_id="ann", query=pb.Query())))
    assert details_of(error)["BadRequest"].field_violations[0].field == "query.candidates"


async def test_the_guards_refusal_is_a_result(service: Service) -> None:
    result = (
        await service.sessions.Observe(ObserveRequest(user_id="ann", observation=observation(deed=HUGE_GRADIENT)))
    ).result
    assert (result.status, result.rejection.reason) == (pb.STATUS_REJECTED, pb.REASON_GRADIENT)


async def test_a_full_worker_refuses_new_users_and_serves_its_residents() -> None:
    async with running_service(residents_max=2) as service:
        for user in ("ann", "bob"):
            await Conversation.opened(service, user)
            await service.sessions.Observe(ObserveRequest(user_id=user, observation=observation()))
        request = ObserveRequest(user_id="cid", observation=observation())
        error = await refusal(service.sessions.Observe(request))
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        details = details_of(error)
        assert details["ErrorInfo"].reason == "OVERLOADED"
        assert details["RetryInfo"].retry_delay.ToMilliseconds() > 0
        ended = Conversation(service)
        await ended.send(open={"user_id": "cid"})
        assert (await ended.ended())[0] == grpc.StatusCode.RESOURCE_EXHAUSTED
        again = await service.sessions.Observe(ObserveRequest(user_id="ann", observation=observation()))
        assert again.result.version == 2
        await service.until(lambda: len(service.core.sessions) == service.core.num_feeds == 2)


async def test_the_answer_to_a_refused_user_reaches_nobody_else() -> None:
    async with running_service(residents_max=1) as service:
        resident = await Conversation.opened(service, "ann")
        for seq in range(1, 30):
            refused = service.sessions.Observe(ObserveRequest(user_id="bob", observation=observation()))
            again = await Conversation.opened(service, "ann")
            assert (await refusal(refused)).code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            answer = await again.ask(query_id=seq)
            assert (answer.query_id, answer.status) == (seq, pb.STATUS_ANSWERED)
            assert await again.finish() == []
            assert (await resident.observe(seq)).version == seq


async def test_admin_says_what_there_is(service: Service) -> None:
    model = (await service.admin.DescribeModel(admin_pb2.DescribeModelRequest())).model
    assert (model.name, [field.name for field in model.ids], list(model.features)) == (
        "counting",
        ["deed", "place"],
        ["x", "y"],
    )
    assert (model.prediction_width, model.state_width, model.outcome_min, model.outcome_max) == (2, 5, -10, 10)
    ring = await service.admin.GetRing(admin_pb2.GetRingRequest(user_id="ann"))
    expected = build_ring({"worker-1": 1, "worker-0": 1})
    assert (ring.digest, list(ring.slots)) == (expected.digest, expected.owners.tolist())
    assert ring.user_worker == ring.members[ring.slots[ring.user_slot]].name
    assert sum(member.num_slots for member in ring.members) == ring.num_slots == 4096
    assert [member.weight for member in ring.members] == [1, 1]
    await service.sessions.Observe(ObserveRequest(user_id="ann", observation=observation()))
    workers = (await service.admin.ListWorkers(admin_pb2.ListWorkersRequest())).workers
    assert {worker.name: worker.updates for worker in workers}[ring.user_worker] == 1
    stages = {stage.stage: stage for stage in (await service.admin.GetLatency(admin_pb2.GetLatencyRequest())).stages}
    assert list(stages) == ["total", "route", "queue", "hydrate", "step", "reply"]
    assert stages["total"].count == 1
    assert 0 < stages["step"].p50_ms <= stages["total"].max_ms


async def test_a_router_that_reaches_no_worker_says_so() -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        addresses = {"worker-0": f"127.0.0.1:{deaf.getsockname()[1]}"}
        async with (
            running_router(addresses, RouterSettings(), wait_linked=False) as (address, routing),
            grpc.aio.insecure_channel(address) as channel,
        ):
            service = Service(address, routing.core, {}, channel)
            for call in (
                service.sessions.Observe(ObserveRequest(user_id="ann", observation=observation())),
                service.admin.DescribeModel(admin_pb2.DescribeModelRequest()),
            ):
                error = await refusal(call)
                assert (error.code(), error.details()) == (
                    grpc.StatusCode.UNAVAILABLE,
                    "no worker has been reached yet",
                )
                assert details_of(error)["RetryInfo"].retry_delay.ToMilliseconds() > 0
            workers = (await service.admin.ListWorkers(admin_pb2.ListWorkersRequest())).workers
            assert [worker.state for worker in workers] == [admin_pb2.WORKER_STATE_DOWN]


async def test_health_and_reflection_answer(service: Service) -> None:
    health = health_pb2_grpc.HealthStub(service.channel)
    for name in ("", "evercurrent.v1.SessionService", "evercurrent.v1.AdminService"):
        checked = await health.Check(health_pb2.HealthCheckRequest(service=name))
        assert checked.status == health_pb2.HealthCheckResponse.SERVING
    reflect = reflection_pb2_grpc.ServerReflectionStub(service.channel).ServerReflectionInfo()
    await reflect.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    listed = await reflect.read()
    names = {one.name for one in listed.list_services_response.service}
    assert names >= {"evercurrent.v1.SessionService", "evercurrent.v1.AdminService", "grpc.health.v1.Health"}
    await reflect.write(reflection_pb2.ServerReflectionRequest(file_containing_symbol="evercurrent.v1.SessionService"))
    assert (await reflect.read()).HasField("file_descriptor_response")
    reflect.cancel()


async def test_a_stock_client_calls_by_reflection(service: Service) -> None:
    buf = Path(sys.executable).with_name("buf")
    url = f"http://{service.address}/evercurrent.v1.SessionService/Observe"
    process = await asyncio.create_subprocess_exec(
        *(buf, "curl", "--protocol", "grpc", "--http2-prior-knowledge", "--data"),
        '{"userId": "ann", "observation": {"ids": [1, 2], "features": [0, 1], "value": 0.5}}',
        url,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    assert json.loads(out)["result"]["status"] == "STATUS_APPLIED"
