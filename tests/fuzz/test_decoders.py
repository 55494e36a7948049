"""Any bytes are decoded or are the one documented error, and leave nothing behind.

`--hypothesis-profile=fuzz` tries far more of them.
"""

from __future__ import annotations

import asyncio
import itertools
import zlib
from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from ulid import ULID

from bench.counting import Counting
from evercurrent.describe import describe
from evercurrent.errors import Refused
from evercurrent.settings import RouterSettings
from evercurrent.v1 import description_pb2, models_pb2, session_pb2, worker_pb2
from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1.columns_pb2 import EVENT_KIND_CLOSE, EVENT_KIND_OBSERVATION
from evercurrent.v1.session_pb2 import ExchangeOpen, SessionOpen
from evercurrent.v1.storage_pb2 import SealedUserRecord, SegmentFooter, SlotRecord, UserRecord
from evercurrent.v1.wire_pb2 import WireEventColumns
from evercurrent.wire import Event, Layout, watermarks
from persistence.control import first_control, manifest_body, read_audit, read_control, read_manifest
from persistence.errors import Damaged
from persistence.record import read_record, read_slot, record_body, slot_body
from persistence.segment import _tail, read_footer, read_segment
from router.exchange_stream import ExchangeStream
from router.session_stream import SessionStream
from router.streams import parse
from tests.fuzz.honest import Twin
from tests.fuzz.mutations import Mutator
from tests.fuzz.scripts import Scripts
from tests.persistence.test_record import INDEX, USER, rows
from tests.persistence.test_segment import rows_of, written
from tests.router.playing import WORKER, core_of
from tests.worker.playing import Played
from worker.link import _opened

LAYOUTS = [
    Layout(1, 2, description_pb2.OUTCOME_KIND_VALUE, 1, 1),
    Layout(0, 0, description_pb2.OUTCOME_KIND_CHOICE, 1, 2),
    Layout(3, 0, description_pb2.OUTCOME_KIND_VECTOR, 4, 1),
]
seeds = st.integers(0, (1 << 32) - 1)


@settings(deadline=None)
@given(raw=st.binary(max_size=400), layout=st.sampled_from(LAYOUTS))
def test_records_of_any_bytes_are_read_or_refused(raw: bytes, layout: Layout) -> None:
    for read, size in (
        (layout.events, layout.event_dtype.itemsize),
        (layout.results, layout.result_dtype.itemsize),
        (watermarks, 16),
    ):
        if len(raw) % size:
            with pytest.raises(Refused):
                read(raw)
        else:
            assert read(raw).tobytes() == raw


@settings(deadline=None)
@given(
    columns=st.builds(
        WireEventColumns,
        **dict.fromkeys(
            [field.name for field in WireEventColumns.DESCRIPTOR.fields if field.type == field.TYPE_BYTES],
            st.one_of(st.just(b""), st.binary(max_size=40), st.integers(0, 5).map(lambda num: bytes(8 * num))),
        ),
    ),
    layout=st.sampled_from(LAYOUTS),
)
def test_columns_of_any_bytes_are_read_or_refused(columns: WireEventColumns, layout: Layout) -> None:
    try:
        events = layout.events_of_columns(columns)
    except Refused:
        return
    assert events["tag"].tobytes() == columns.tags


def _sealed(raw: bytes) -> bytes:
    """A user's record of these bytes, whose checksum is right."""
    return SealedUserRecord(record=raw, checksum=zlib.crc32(raw)).SerializeToString()


def _footed(raw: bytes) -> bytes:
    """A segment of these bytes, whose footer is right."""
    return raw + _tail(SegmentFooter(incarnation="worker-0/1", number=1, num_rows=4))


CONTROL = first_control("v1", 1)
VERSION = models_pb2.ModelVersion(version="v1", class_path="bench.counting:Counting", weights_sha256="0" * 64)
SLOT = SlotRecord(slot=9, incarnation="worker-0/01ARZ3NDEKTSV4RRFFQ69G5FAV", address="a:1", claim="0" * 25 + "1")
RECORD = SealedUserRecord.FromString(record_body(rows(), INDEX)).record
SEGMENT = written(rows_of(4))

READERS: dict[str, tuple[Callable[[bytes], Any], bytes]] = {
    "slot": (read_slot, slot_body(SLOT)),
    "record": (lambda raw: read_record(raw, USER, 9), _sealed(RECORD)),
    "record within": (lambda raw: read_record(_sealed(raw), USER, 9), RECORD),
    "segment": (read_segment, SEGMENT),
    "segment within": (lambda raw: read_segment(_footed(raw)), SEGMENT[:-80]),
    "footer": (read_footer, SEGMENT),
    "control": (read_control, CONTROL.SerializeToString()),
    "manifest": (lambda raw: read_manifest(raw, "v1"), manifest_body(VERSION)),
    "audit": (lambda raw: read_audit(raw, "key"), CONTROL.change.SerializeToString()),
}


@pytest.mark.parametrize("kind", READERS)
@settings(deadline=None)
@given(raw=st.binary(max_size=200), seed=seeds)
def test_what_is_stored_is_read_or_damaged(kind: str, raw: bytes, seed: int) -> None:
    read, right = READERS[kind]
    for body in (raw, Mutator(Random(seed)).spoiled(right)):
        try:
            read(body)
        except Damaged:
            continue


@pytest.mark.parametrize(
    ("kind", "message"), [(UserRecord, RECORD), (SlotRecord, SLOT.SerializeToString())], ids=["record", "slot"]
)
@settings(deadline=None)
@given(seed=seeds)
def test_a_stored_message_with_a_wrong_field_is_read_or_damaged(kind: type[Any], message: bytes, seed: int) -> None:
    raw = Mutator(Random(seed)).mutated(kind.FromString(message))
    try:
        read_slot(raw) if kind is SlotRecord else read_record(_sealed(raw), USER, 9)
    except Damaged:
        return


@settings(deadline=None)
@given(raw=st.binary(max_size=100), seed=seeds)
def test_requests_of_any_bytes_are_parsed_or_refused(raw: bytes, seed: int) -> None:
    for body in (raw, Mutator(Random(seed)).spoiled(raw)):
        try:
            parse(session_pb2.SessionRequest, body)
        except Refused:
            continue


def messages_of(name: str, seed: int) -> list[bytes]:
    """The messages of some hostile scripts of one stream, without those that open it."""
    scripts = (Scripts(seed, "worker-0/1").script(number) for number in itertools.count())
    chosen = itertools.islice((one for one in scripts if one.method.endswith(name)), 3)
    return [message for script in chosen for message in script.messages[1:]]


@settings(deadline=None)
@given(seed=seeds)
def test_a_stream_takes_or_refuses_any_request_and_leaves_nothing(seed: int) -> None:
    asyncio.run(_stream(seed))


async def _stream(seed: int) -> None:
    core = core_of()
    model = describe(Counting())
    outbox = core.link_opened(WORKER, worker_pb2.LinkOpened(worker="worker-0", model=model), lambda: None)
    session = SessionStream(core, SessionOpen(user_id="ann"), 1 << 16)
    exchange = ExchangeStream(core, ExchangeOpen(), RouterSettings())
    for taking, messages in ((session, messages_of("/Session", seed)), (exchange, messages_of("/Exchange", seed))):
        for message in messages:
            with suppress(Refused):
                taking._take(message)
            frame = outbox.take().frame
            answers = [worker_pb2.LinkTagOpened(tag=one.tag) for one in frame.opens]
            core.receive(WORKER, worker_pb2.LinkResults(opens=answers))
            await asyncio.sleep(0)
    core.remove_feed(session._feed, session._sids)
    core.remove_feed(exchange._feed, list(exchange._sids))
    core.link_lost(WORKER)
    assert core.is_idle
    assert not core._num_of_user
    assert not core._requests


def _comes_and_goes(engine: Played, link: int, number: int) -> None:
    """A user who was never seen comes in the middle of things, is served as if alone, and leaves."""
    twin, name = Twin(), f"comer-{number}"
    opened = engine.open(link, worker_pb2.LinkTagOpen(tag=number, user_id=name, session_id=str(ULID.from_int(7))), name)
    assert opened is not None
    assert (opened.applied_seq, opened.version) == (0, 0)
    observation = Event(1, 1, 0, (3,), 0, number, 0, (), (0.5,), EVENT_KIND_OBSERVATION)
    close = Event(0, 1, 0, (0,), 0, number, 0, (), (0.0,), EVENT_KIND_CLOSE)
    engine.receive(link, engine.layout.events(engine.layout.pack(*observation) + engine.layout.pack(*close)), ())
    found = []
    while engine.num_waiting:
        found += [record for results in engine.step() if results.link == link for record in results.records]
    applied, closed = found
    twin.learn(3, 0.5)
    assert (applied["status"], applied["version"], closed["status"]) == (pb.STATUS_APPLIED, 1, pb.STATUS_CLOSED)
    row = engine.slab.find(name)
    assert row is not None
    assert engine.slab.state[row].astype("<f4").tobytes() == twin.state


@settings(deadline=None)
@given(seed=seeds)
def test_an_engine_takes_or_refuses_any_frame_and_keeps_nothing_of_a_link(seed: int) -> None:
    engine = Played(Counting(), 100, 64, itertools.count().__next__)
    other = engine.open_link()
    for number, raw in enumerate(messages_of("/Link", seed)):
        link = engine.open_link()
        with suppress(Refused, DecodeError):
            frame = worker_pb2.LinkRequest.FromString(raw).frame
            for tag_open in frame.opens:
                _opened(engine, link, tag_open)
            engine.receive(link, engine.layout.events(frame.events), frame.refusals)
        for _ in range(seed % 4):
            if engine.num_waiting:
                engine.step()
        _comes_and_goes(engine, other, number)
        engine.close_link(link)
    while engine.num_waiting:
        engine.step()
    assert (engine.num_tags, engine.num_arrivals, engine._refusals) == (0, 0, {})
    assert set(engine._feeds) == {other}
    assert not engine.slab.num_tags[: engine.slab.num_rows].any()
    assert np.isfinite(engine.slab.state[: engine.slab.num_rows]).all()
