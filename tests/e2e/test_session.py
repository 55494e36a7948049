"""Session streams: bad input gets a clear answer, and nothing is lost."""

from __future__ import annotations

import itertools
from typing import Any

import grpc
import pytest
from ulid import ULID

from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1.session_pb2 import SessionOpen, SessionRequest, SessionResponse
from tests.e2e.conversation import Conversation, observation, query
from tests.servers import Service, running_service
from tests.toys import HUGE_GRADIENT, HUGE_STATE, NAN_LOSS, NUM_DEEDS, RAISE

NAN, INF = float("nan"), float("inf")

BAD_OBSERVATIONS: dict[str, tuple[dict[str, Any], pb.Reason, str]] = {
    "too few ids": ({"ids": [1]}, pb.REASON_IDS_COUNT, "ids"),
    "too many ids": ({"ids": [1, 2, 3]}, pb.REASON_IDS_COUNT, "ids"),
    "too few features": ({"features": []}, pb.REASON_FEATURES_COUNT, "features"),
    "too many features": ({"features": [1, 2, 3]}, pb.REASON_FEATURES_COUNT, "features"),
    "id too large": ({"ids": [NUM_DEEDS, 0]}, pb.REASON_ID_RANGE, "ids[0]"),
    "negative id": ({"ids": [0, -1]}, pb.REASON_ID_RANGE, "ids[1]"),
    "NaN feature": ({"features": [0, NAN]}, pb.REASON_FEATURE_NOT_FINITE, "features[1]"),
    "infinite feature": ({"features": [-INF, 0]}, pb.REASON_FEATURE_NOT_FINITE, "features[0]"),
    "outcome out of range": ({"value": 11}, pb.REASON_OUTCOME, "outcome"),
    "NaN outcome": ({"value": NAN}, pb.REASON_OUTCOME, "outcome"),
    "negative event time": ({"event_time_us": -1}, pb.REASON_EVENT_TIME, "event_time_us"),
    "long observation id": ({"observation_id": "é" * 33}, pb.REASON_TOO_LARGE, "observation_id"),
    "NaN loss": ({"ids": [NAN_LOSS, 0]}, pb.REASON_LOSS_NOT_FINITE, ""),
    "huge gradient": ({"ids": [HUGE_GRADIENT, 0]}, pb.REASON_GRADIENT, ""),
    "huge state": ({"ids": [HUGE_STATE, 0]}, pb.REASON_STATE, ""),
    "model error": ({"ids": [RAISE, 0]}, pb.REASON_MODEL_ERROR, ""),
}


@pytest.mark.parametrize(("fault", "reason", "field"), BAD_OBSERVATIONS.values(), ids=BAD_OBSERVATIONS.keys())
async def test_a_bad_observation_is_rejected_by_name(
    service: Service, fault: dict[str, Any], reason: pb.Reason, field: str
) -> None:
    one, other = await Conversation.opened(service, "one"), await Conversation.opened(service, "other")
    assert (await one.observe(1)).status == pb.STATUS_APPLIED
    before = service.row_bytes("one")
    result = await one.observe(2, **fault)
    assert (result.seq, result.status, result.applied_seq, result.version) == (2, pb.STATUS_REJECTED, 2, 1)
    assert (result.rejection.reason, result.rejection.field) == (reason, field)
    assert result.rejection.message
    assert not result.prediction
    assert not result.HasField("loss")
    assert service.row_bytes("one") == before
    after = await one.observe(3)
    assert (after.status, after.version, after.applied_seq) == (pb.STATUS_APPLIED, 2, 3)
    assert (await other.observe(1)).status == pb.STATUS_APPLIED
    assert await one.finish() == await other.finish() == []


@pytest.mark.parametrize(
    ("outcome", "field"), [({"choice": 1}, "choice"), ({"vector": pb.Vector(values=[0.5])}, "vector")]
)
async def test_an_outcome_of_another_kind_is_rejected(service: Service, outcome: dict[str, Any], field: str) -> None:
    one = await Conversation.opened(service, "one")
    await one.send(observation=pb.Observation(seq=1, ids=[1, 2], features=[0, 0], **outcome))
    result = (await one.reply()).result
    assert (result.rejection.reason, result.rejection.field) == (pb.REASON_OUTCOME, field)
    assert (await one.observe(2)).status == pb.STATUS_APPLIED


@pytest.mark.parametrize(
    ("seq", "reason"), [(3, pb.REASON_SEQ_GAP), (1, pb.REASON_SEQ_REGRESSION), (0, pb.REASON_SEQ_REGRESSION)]
)
async def test_a_seq_out_of_order_is_rejected_and_not_consumed(service: Service, seq: int, reason: pb.Reason) -> None:
    one = await Conversation.opened(service, "one")
    await one.observe(1)
    before = service.row_bytes("one")
    result = await one.observe(seq)
    assert (result.status, result.applied_seq) == (pb.STATUS_REJECTED, 1)
    assert (result.rejection.reason, result.rejection.field) == (reason, "seq")
    assert service.row_bytes("one") == before
    assert (await one.observe(2)).status == pb.STATUS_APPLIED


async def test_messages_that_do_not_belong_are_rejected_and_the_stream_goes_on(service: Service) -> None:
    one = await Conversation.opened(service, "one")
    await one.send(open=SessionOpen(user_id="two"))
    await one.send()
    expected = [("open", pb.REASON_PROTOCOL), ("request", pb.REASON_PROTOCOL)]
    for field, reason in expected:
        rejected = (await one.reply()).rejected
        assert (rejected.field, rejected.reason) == (field, reason)
    assert (await one.observe(1)).status == pb.STATUS_APPLIED
    assert service.row_bytes("two") == b""


async def test_bytes_that_are_no_message_and_too_many_bytes_are_rejected(service: Service) -> None:
    call = service.channel.stream_stream("/evercurrent.v1.SessionService/Session")()

    async def answer(raw: bytes) -> SessionResponse:
        await call.write(raw)
        return SessionResponse.FromString(await call.read())

    opened = await answer(SessionRequest(open=SessionOpen(user_id="one")).SerializeToString())
    assert opened.opened.session_id
    assert (await answer(b"\xff\xff\xff")).rejected.reason == pb.REASON_PROTOCOL
    large = SessionRequest(observation=observation(1, observation_id="x" * 70_000)).SerializeToString()
    assert (await answer(large)).rejected.reason == pb.REASON_TOO_LARGE
    applied = await answer(SessionRequest(observation=observation(1)).SerializeToString())
    assert applied.result.status == pb.STATUS_APPLIED
    call.cancel()


BAD_OPENS: dict[str, tuple[dict[str, Any], str, grpc.StatusCode]] = {
    "no user": ({"user_id": ""}, "open.user_id", grpc.StatusCode.INVALID_ARGUMENT),
    "long user": ({"user_id": "é" * 129}, "open.user_id", grpc.StatusCode.INVALID_ARGUMENT),
    "other model": ({"model": "chess"}, "open.model", grpc.StatusCode.INVALID_ARGUMENT),
    "long namespace": ({"namespace": "n" * 65}, "open.namespace", grpc.StatusCode.INVALID_ARGUMENT),
    "NUL in namespace": ({"namespace": "a\0b"}, "open.namespace", grpc.StatusCode.INVALID_ARGUMENT),
    "no ULID": ({"session_id": "Z" * 26}, "open.session_id", grpc.StatusCode.INVALID_ARGUMENT),
}


@pytest.mark.parametrize(("fault", "field", "code"), BAD_OPENS.values(), ids=BAD_OPENS.keys())
async def test_a_bad_open_ends_the_stream_by_name(
    service: Service, fault: dict[str, Any], field: str, code: grpc.StatusCode
) -> None:
    call = service.sessions.Session()
    await call.write(SessionRequest(open=SessionOpen(**{"user_id": "one", **fault})))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() == code
    assert caught.value.details().startswith(f"{field}: ")
    assert service.core.num_feeds == len(service.core.sessions) == 0


async def test_a_stream_that_is_not_opened_first_ends(service: Service) -> None:
    call = service.sessions.Session()
    await call.write(SessionRequest(observation=observation(1)))
    with pytest.raises(grpc.aio.AioRpcError, match="the first message of a stream is its open"):
        await call.read()
    empty = service.sessions.Session()
    await empty.done_writing()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await empty.read()
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_the_longest_user_id_and_namespace_are_taken(service: Service) -> None:
    one = await Conversation.opened(service, "é" * 128, namespace="n" * 64)
    assert (await one.observe(1)).status == pb.STATUS_APPLIED
    same_name = await Conversation.opened(service, "é" * 128)
    assert (await same_name.observe(1)).version == 1


async def test_half_close_flushes_every_reply(service: Service) -> None:
    one = Conversation(service)
    await one.send(open=SessionOpen(user_id="one"))
    for seq in range(1, 101):
        await one.send(observation=observation(seq))
        await one.send(query=query(seq))
    replies = await one.finish()
    assert replies[0].HasField("opened")
    assert [reply.result.seq for reply in replies[1::2]] == list(range(1, 101))
    assert [reply.query_result.query_id for reply in replies[2::2]] == list(range(1, 101))
    assert [reply.result.version for reply in replies[1::2]] == list(range(1, 101))
    assert [reply.query_result.version for reply in replies[2::2]] == list(range(1, 101))
    hashes = [reply.query_result.predictions[0] for reply in replies[2::2]]
    assert hashes[:-1] == [reply.result.prediction[0] for reply in replies[3::2]]
    assert len(set(hashes)) == 100


async def test_a_query_changes_nothing_and_names_its_bad_candidate(service: Service) -> None:
    one = await Conversation.opened(service, "one")
    await one.observe(1)
    before = service.row_bytes("one")
    answer = await one.ask(query_id=9, num_candidates=3)
    assert (answer.query_id, answer.status, answer.version, len(answer.predictions)) == (9, pb.STATUS_ANSWERED, 1, 6)
    good = pb.Candidate(ids=[1, 0], features=[0, 0])
    bad = {
        "candidates": pb.Query(),
        "candidates[1].ids": pb.Query(candidates=[good, pb.Candidate(ids=[1], features=[0, 0])]),
        "candidates[1].ids[0]": pb.Query(candidates=[good, pb.Candidate(ids=[99, 0], features=[0, 0]), good]),
        "candidates[0].features[1]": pb.Query(candidates=[pb.Candidate(ids=[1, 0], features=[0, INF]), good]),
    }
    for field, asked in bad.items():
        await one.send(query=asked)
        rejected = (await one.reply()).query_result
        assert (rejected.status, rejected.rejection.field) == (pb.STATUS_REJECTED, field)
        assert not rejected.predictions
    assert service.row_bytes("one") == before
    assert (await one.observe(2)).version == 2


async def test_skips_jump_and_count(service: Service) -> None:
    one = await Conversation.opened(service, "one")
    await one.observe(1)

    async def skip(first: int, last: int) -> pb.ObservationResult:
        await one.send(skip=pb.Skip(**{"from": first, "to": last}))
        return (await one.reply()).result

    assert (await skip(3, 4)).rejection.reason == pb.REASON_SEQ_GAP
    assert (await skip(2, 1)).rejection.reason == pb.REASON_SEQ_REGRESSION
    assert (await skip(2, (1 << 64) - 1)).rejection.reason == pb.REASON_SEQ_GAP
    skipped = await skip(2, 5)
    assert (skipped.status, skipped.applied_seq, skipped.lost) == (pb.STATUS_SKIPPED, 5, 4)
    result = await one.observe(6)
    assert (result.status, result.lost, result.version) == (pb.STATUS_APPLIED, 4, 2)


async def test_a_broken_session_resumes_and_nothing_is_applied_twice(service: Service) -> None:
    session_id = str(ULID())
    one = await Conversation.opened(service, "one", session_id)
    for seq in (1, 2, 3):
        await one.observe(seq)
    before = service.row_bytes("one")
    one.call.cancel()
    await service.until(lambda: len(service.core.sessions) == 0)
    again = Conversation(service)
    opened = await again.open("one", session_id)
    assert (opened.session_id, opened.applied_seq, opened.version) == (session_id, 3, 3)
    for seq in (2, 3):
        assert (await again.observe(seq)).status == pb.STATUS_DUPLICATE
    assert service.row_bytes("one") == before
    assert (await again.observe(4)).version == 4
    assert (await again.observe(2)).status == pb.STATUS_DUPLICATE
    assert (await again.observe(4)).rejection.reason == pb.REASON_SEQ_REGRESSION


async def test_the_newest_stream_of_a_session_has_it(service: Service) -> None:
    session_id = str(ULID())
    one = await Conversation.opened(service, "one", session_id)
    assert (await one.observe(1)).status == pb.STATUS_APPLIED
    two = await Conversation.opened(service, "one", session_id)
    assert await one.ended() == (grpc.StatusCode.ABORTED, "session_id: the session was opened again")
    assert (await two.observe(1)).status == pb.STATUS_DUPLICATE
    assert (await two.observe(2)).version == 2


async def test_an_observation_past_its_deadline_is_rejected_and_consumes_its_seq() -> None:
    # Every look at the worker's clock is a second later: what waits is late.
    async with running_service(clock_us=itertools.count(step=1_000_000).__next__) as service:
        one = await Conversation.opened(service, "one")
        late = await one.observe(1, timeout_ms=500)
        assert (late.rejection.reason, late.rejection.field) == (pb.REASON_DEADLINE, "timeout_ms")
        assert late.applied_seq == 1
        in_time = await one.observe(2, timeout_ms=3_600_000)
        assert (in_time.status, in_time.version) == (pb.STATUS_APPLIED, 1)


async def test_timings_come_when_asked_for(service: Service) -> None:
    one = await Conversation.opened(service, "one", timings=True)
    timings = (await one.observe(1)).timings
    parts = timings.route_us + timings.queue_us + timings.hydrate_us + timings.step_us
    assert timings.total_us == parts > 0
    assert (await one.ask()).timings.total_us > 0
    two = await Conversation.opened(service, "two")
    assert not (await two.observe(1)).HasField("timings")
