"""Exchange streams: bad input gets a clear answer, and nothing is lost."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
import pytest
from ulid import ULID

from evercurrent.settings import RouterSettings
from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1.columns_pb2 import (
    EVENT_KIND_CLOSE,
    EVENT_KIND_NO_OUTCOME,
    EVENT_KIND_OBSERVATION,
    EVENT_KIND_QUERY,
    EVENT_KIND_REFUSED,
    EVENT_KIND_SKIP,
    EVENT_KIND_UNSPECIFIED,
    EventColumns,
)
from evercurrent.v1.session_pb2 import ExchangeOpen, ExchangeRequest, ExchangeResponse, TagOpen
from tests.e2e.conversation import Frames, columns
from tests.servers import Service, running_service
from tests.toys import NAN_LOSS, NUM_DEEDS, RAISE, next_hash

NAN = float("nan")


async def test_frames_of_many_users_are_applied_in_each_ones_order(service: Service) -> None:
    frames = Frames(service)
    await frames.open()
    rng = np.random.default_rng(7)
    tags = rng.permutation(np.repeat(np.arange(20), 12)).tolist()
    seqs, last = [], dict.fromkeys(range(20), 0)
    for tag in tags:
        last[tag] += 1
        seqs.append(last[tag])
    deeds = rng.integers(0, 12, len(tags)).tolist()
    opens = [TagOpen(tag=tag, user_id=f"user-{tag}") for tag in range(20)]
    start = 0
    for end in [1, 30, 31, 140, len(tags)]:
        pairs = list(zip(tags[start:end], seqs[start:end], strict=True))
        await frames.send(columns(*pairs, deeds=deeds[start:end]), opens)
        start, opens = end, []
    told = await frames.finish()
    assert len(told) == len(tags)
    assert {one.status for one in told} == {pb.STATUS_APPLIED}
    for tag in range(20):
        own = [one for one in told if one.tag == tag]
        assert [one.seq for one in own] == [one.version for one in own] == list(range(1, 13))
        expected = 0
        for one, deed in zip(own, [deed for deed, at in zip(deeds, tags, strict=True) if at == tag], strict=True):
            assert one.prediction[0] == expected
            expected = next_hash(expected, deed, 2, True)


BAD_EVENTS: dict[str, tuple[dict[str, Any], pb.Reason, str]] = {
    "id too large": ({"deeds": [1, NUM_DEEDS, 1]}, pb.REASON_ID_RANGE, "ids[0]"),
    "negative id": ({"ids": [1, 2, 1, -1, 1, 2]}, pb.REASON_ID_RANGE, "ids[1]"),
    "NaN feature": ({"features": [0, 0, 0, NAN, 0, 0]}, pb.REASON_FEATURE_NOT_FINITE, "features[1]"),
    "outcome out of range": ({"values": [0, 11, 0]}, pb.REASON_OUTCOME, "outcome"),
    "negative event time": ({"event_times_us": [0, -5, 0]}, pb.REASON_EVENT_TIME, "event_time_us"),
    "deadline": ({"timeouts_us": [0, 1, 0]}, pb.REASON_DEADLINE, "timeout_ms"),
    "NaN loss": ({"deeds": [1, NAN_LOSS, 1]}, pb.REASON_LOSS_NOT_FINITE, ""),
    "model error": ({"deeds": [1, RAISE, 1]}, pb.REASON_MODEL_ERROR, ""),
}


@pytest.mark.parametrize(("fault", "reason", "field"), BAD_EVENTS.values(), ids=BAD_EVENTS.keys())
async def test_a_bad_event_is_rejected_by_name_and_its_neighbours_go_on(
    service: Service, fault: dict[str, Any], reason: pb.Reason, field: str
) -> None:
    frames = await Frames.opened(service, a="ann", b="bob", c="cid")
    before = service.row_bytes("bob")
    await frames.send(columns((0, 1), (1, 1), (2, 1), **fault))
    told = {one.tag: one for one in await frames.answers(3)}
    assert [told[tag].status for tag in (0, 1, 2)] == [pb.STATUS_APPLIED, pb.STATUS_REJECTED, pb.STATUS_APPLIED]
    assert (told[1].reason, told[1].rejection.field, told[1].applied_seq) == (reason, field, 1)
    assert np.isnan(told[1].prediction).all()
    assert service.row_bytes("bob") == before
    await frames.send(columns((1, 2)))
    assert (await frames.answers(1))[0].version == 1
    assert await frames.finish() == []


BAD_FRAMES: dict[str, tuple[dict[str, Any], str]] = {
    "ids of another length": ({"ids": [1, 2, 3]}, "events.ids"),
    "features of another length": ({"features": [0.0]}, "events.features"),
    "no features": ({"features": []}, "events.features"),
    "seqs of another length": ({"seqs": [1]}, "events.seqs"),
    "values of another length": ({"values": [1.0]}, "events.values"),
    "kinds of another length": ({"kinds": b"\1"}, "events.kinds"),
    "times of another length": ({"event_times_us": [1]}, "events.event_times_us"),
    "timeouts of another length": ({"timeouts_us": [1]}, "events.timeouts_us"),
    "another kind of outcome": ({"values": [], "choices": [1, 1]}, "events.choices"),
    "an unknown kind": ({"kinds": b"\1\x09"}, "events.kinds"),
    "an unset kind": ({"kinds": bytes([1, EVENT_KIND_UNSPECIFIED])}, "events.kinds"),
    "a router's kind": ({"kinds": bytes([1, EVENT_KIND_REFUSED])}, "events.kinds"),
    "a close among the kinds": ({"kinds": bytes([1, EVENT_KIND_CLOSE])}, "events.kinds"),
}


@pytest.mark.parametrize(("fault", "field"), BAD_FRAMES.values(), ids=BAD_FRAMES.keys())
async def test_a_frame_of_wrong_columns_is_rejected_whole_by_name(
    service: Service, fault: dict[str, Any], field: str
) -> None:
    frames = await Frames.opened(service, a="ann", b="bob")
    before = service.row_bytes("ann"), service.row_bytes("bob")
    await frames.send(columns((0, 1), (1, 1), **fault))
    refusal = await frames.refusal()
    assert (refusal.reason, refusal.field) == (pb.REASON_COLUMNS, field)
    assert (service.row_bytes("ann"), service.row_bytes("bob")) == before
    await frames.send(columns((0, 1), (1, 1)))
    assert {one.status for one in await frames.answers(2)} == {pb.STATUS_APPLIED}
    assert await frames.finish() == []


async def test_frames_above_their_bounds_are_rejected() -> None:
    bounds = RouterSettings(frame_events_max=100, frame_bytes_max=8192, observation_bytes_max=4096)
    async with running_service(settings=bounds) as service:
        frames = Frames(service)
        assert (await frames.open()).frame_events_max == 100
        too_many: dict[str, dict[str, Any]] = {
            "frame.events": {"events": EventColumns(tags=range(101))},
            "frame.opens": {"opens": [TagOpen(tag=tag, user_id="u") for tag in range(101)]},
            "frame.closes": {"closes": range(101)},
            "frame": {"opens": [TagOpen(user_id="u" * 8192)]},
        }
        for field, frame in too_many.items():
            await frames.send(**frame)
            refusal = await frames.refusal()
            assert (refusal.reason, refusal.field) == (pb.REASON_TOO_LARGE, field)
        await frames.send(columns((0, 1)), [TagOpen(tag=0, user_id="ann")])
        assert [one.status for one in await frames.finish()] == [pb.STATUS_APPLIED]
        assert list(service.engines[0].slab) == ["\0ann"]


async def test_messages_that_do_not_belong_are_rejected_and_the_stream_goes_on(service: Service) -> None:
    frames = await Frames.opened(service, a="ann")
    await frames.call.write(ExchangeRequest(open=ExchangeOpen()))
    await frames.call.write(ExchangeRequest())
    fields = [(await frames.refusal()).field for _ in range(2)]
    assert fields == ["open", "request"]
    await frames.send(columns((0, 1)))
    assert (await frames.answers(1))[0].status == pb.STATUS_APPLIED


async def test_bytes_that_are_no_message_are_rejected(service: Service) -> None:
    call = service.channel.stream_stream("/evercurrent.v1.SessionService/Exchange")()
    await call.write(ExchangeRequest(open=ExchangeOpen()).SerializeToString())
    assert ExchangeResponse.FromString(await call.read()).HasField("opened")
    await call.write(b"\xff\xff\xff")
    assert ExchangeResponse.FromString(await call.read()).rejected.reason == pb.REASON_PROTOCOL
    call.cancel()


@pytest.mark.parametrize(
    ("opening", "field", "code"),
    [
        ({"model": "chess"}, "open.model", grpc.StatusCode.INVALID_ARGUMENT),
        ({"namespace": "n" * 65}, "open.namespace", grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_a_bad_open_ends_the_stream_by_name(
    service: Service, opening: dict[str, Any], field: str, code: grpc.StatusCode
) -> None:
    call = service.sessions.Exchange()
    await call.write(ExchangeRequest(open=ExchangeOpen(**opening)))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() == code
    assert caught.value.details().startswith(f"{field}: ")
    assert service.core.num_feeds == 0


async def test_a_stream_that_is_not_opened_first_ends(service: Service) -> None:
    call = service.sessions.Exchange()
    await call.write(ExchangeRequest())
    with pytest.raises(grpc.aio.AioRpcError, match="the first message of a stream is its open"):
        await call.read()


async def test_bad_tag_opens_are_refused_and_the_others_serve(service: Service) -> None:
    frames = await Frames.opened(service, a="ann")
    bad = {
        0: TagOpen(tag=0, user_id="taken"),
        1: TagOpen(tag=1, user_id=""),
        2: TagOpen(tag=2, user_id="u" * 257),
        3: TagOpen(tag=3, user_id="u", session_id="no ulid"),
        1 << 20: TagOpen(tag=1 << 20, user_id="u"),
    }
    good = TagOpen(tag=(1 << 20) - 1, user_id="zoe")
    await frames.send(columns((0, 1), (1, 1), (good.tag, 1)), [*bad.values(), good])
    told = {one.tag: one for one in await frames.answers(3)}
    found = {tag: (frames.opens[tag].rejection.reason, frames.opens[tag].rejection.field) for tag in bad}
    assert found == {
        0: (pb.REASON_TAG, "opens.tag"),
        1: (pb.REASON_USER_ID, "opens.user_id"),
        2: (pb.REASON_USER_ID, "opens.user_id"),
        3: (pb.REASON_SESSION_ID, "opens.session_id"),
        1 << 20: (pb.REASON_TAG, "opens.tag"),
    }
    assert [told[tag].status for tag in (0, good.tag)] == [pb.STATUS_APPLIED] * 2
    assert (told[1].reason, told[1].rejection.field) == (pb.REASON_TAG, "tag")
    assert await frames.finish() == []


async def test_seqs_out_of_order_are_rejected_and_not_consumed(service: Service) -> None:
    frames = await Frames.opened(service, a="ann", b="bob")
    await frames.send(columns((0, 1), (0, 3), (1, 1), (0, 1), (0, 2), (0, 0)))
    told = await frames.answers(6)
    ann = [(one.seq, one.status, one.reason) for one in told if one.tag == 0]
    assert sorted(ann) == [
        (0, pb.STATUS_REJECTED, pb.REASON_SEQ_REGRESSION),
        (1, pb.STATUS_APPLIED, 0),
        (1, pb.STATUS_REJECTED, pb.REASON_SEQ_REGRESSION),
        (2, pb.STATUS_APPLIED, 0),
        (3, pb.STATUS_REJECTED, pb.REASON_SEQ_GAP),
    ]
    assert [one.status for one in told if one.tag == 1] == [pb.STATUS_APPLIED]


async def test_kinds_are_served_in_the_order_given(service: Service) -> None:
    frames = await Frames.opened(service, a="ann")
    kinds = [EVENT_KIND_QUERY, EVENT_KIND_OBSERVATION, EVENT_KIND_QUERY, EVENT_KIND_NO_OUTCOME, EVENT_KIND_SKIP]
    last = [EVENT_KIND_OBSERVATION]
    pairs = [(0, 77), (0, 1), (0, 78), (0, 2), (0, 5), (0, 6)]
    await frames.send(columns(*pairs, kinds=bytes(kinds + last)))
    told = await frames.answers(6)
    assert [(one.seq, one.kind) for one in told] == list(zip([seq for _, seq in pairs], kinds + last, strict=True))
    assert [one.version for one in told] == [0, 1, 1, 2, 2, 3]
    assert [one.applied_seq for one in told] == [0, 1, 1, 2, 5, 6]
    first = next_hash(0, 1, 2, True)
    second = next_hash(first, 1, 2, False)
    assert [one.prediction[0] for one in told[:4]] + [told[5].prediction[0]] == [0, 0, first, first, second]


async def test_a_closed_tag_is_answered_last_and_free_again(service: Service) -> None:
    frames = await Frames.opened(service, a="ann", b="bob")
    await frames.send(columns((0, 1), (0, 2)), closes=[0, 0, 9])
    await frames.send(columns((0, 3)), closes=[0])
    told = await frames.answers(4)
    assert [(one.seq, one.kind) for one in told if one.status in (pb.STATUS_APPLIED, pb.STATUS_CLOSED)] == [
        (1, EVENT_KIND_OBSERVATION),
        (2, EVENT_KIND_OBSERVATION),
        (0, EVENT_KIND_CLOSE),
    ]
    assert [one.reason for one in told if one.seq == 3] == [pb.REASON_TAG]
    await frames.send(columns((0, 1)), [TagOpen(tag=0, user_id="cid")])
    assert [(one.status, one.version) for one in await frames.finish()] == [(pb.STATUS_APPLIED, 1)]
    assert frames.opens[0].opened.version == 0


async def test_half_close_flushes_what_waits_for_an_open(service: Service) -> None:
    frames = Frames(service)
    await frames.open()
    opens = [TagOpen(tag=0, user_id="ann"), TagOpen(tag=1, user_id="bob")]
    for seq in range(1, 50):
        await frames.send(columns((0, seq), (1, seq)), opens if seq == 1 else ())
    told = await frames.finish()
    for tag in (0, 1):
        assert [one.seq for one in told if one.tag == tag] == list(range(1, 50))
    assert {one.status for one in told} == {pb.STATUS_APPLIED}


async def test_a_session_goes_on_in_a_new_stream_without_applying_twice(service: Service) -> None:
    session_id = str(ULID())
    opening = [TagOpen(tag=5, user_id="ann", session_id=session_id)]
    first = Frames(service)
    await first.open()
    await first.send(columns((5, 1), (5, 2)), opening)
    await first.answers(2)
    before = service.row_bytes("ann")
    first.call.cancel()
    second = Frames(service)
    await second.open()
    await second.send(opens=opening)
    await second.read_until(lambda: bool(second.opens))
    assert second.opens[5].opened.applied_seq == 2
    await second.send(columns((5, 1), (5, 2)))
    assert [one.status for one in await second.answers(2)] == [pb.STATUS_DUPLICATE] * 2
    assert service.row_bytes("ann") == before
    await second.send(columns((5, 3)))
    assert [one.version for one in await second.finish()] == [3]


async def test_a_session_may_have_only_so_much_unanswered() -> None:
    bounds = RouterSettings(in_flight_session_max=10)
    async with running_service(settings=bounds) as service:
        frames = await Frames.opened(service, a="ann", b="bob")
        await frames.send(columns(*[(0, seq) for seq in range(1, 31)], (1, 1)))
        told = await frames.answers(31)
        applied = [one.seq for one in told if one.tag == 0 and one.status == pb.STATUS_APPLIED]
        assert applied == list(range(1, 11))
        overloaded = [one for one in told if one.reason == pb.REASON_OVERLOADED]
        assert [one.seq for one in overloaded] == list(range(11, 31))
        assert all(one.rejection.retry_after_ms and one.applied_seq == 10 for one in overloaded)
        assert [one.status for one in told if one.tag == 1] == [pb.STATUS_APPLIED]
        await frames.send(columns((0, 11)))
        assert [one.status for one in await frames.finish()] == [pb.STATUS_APPLIED]


async def test_timings_come_when_asked_for(service: Service) -> None:
    frames = Frames(service)
    await frames.open(timings=True)
    await frames.send(columns((0, 1)), [TagOpen(tag=0, user_id="ann")])
    while not (response := await frames.call.read()).frame.results.tags:
        pass
    results = response.frame.results
    assert results.total_us[0] >= results.queue_us[0] + results.step_us[0]
    assert results.step_us[0] > 0
