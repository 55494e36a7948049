"""Pure parts of the hot path by themselves: what a number of a whole bench is made of.

Not part of the tests: nothing here can fail by being slow. `make bench-micro` prints them; with
`ARGUMENTS=--benchmark-compare` beside those of a run that was kept (`--benchmark-save=NAME`).
"""

from __future__ import annotations

import time
from typing import Protocol

import numpy as np
import pytest
import torch

from bench.traffic import Traffic
from evercurrent.describe import describe
from evercurrent.models.loading import load_model
from evercurrent.slots import slot_of, user_key
from evercurrent.v1.columns_pb2 import EVENT_KIND_OBSERVATION
from evercurrent.v1.storage_pb2 import SegmentFooter
from evercurrent.v1.wire_pb2 import WireExchangeRequest
from evercurrent.wire import Layout, Records
from persistence.segment import SegmentWriter
from router.ring import build_ring
from worker.inbox import MARKS, Inbox, Waiting
from worker.learner import Learner
from worker.residents import Residents

MODEL = load_model("knowledge-tracing").requires_grad_(False)
LAYOUT = Layout.of(describe(MODEL))
TRAFFIC = Traffic(describe(MODEL), np.random.default_rng(1))
FRAME = 256
BATCHES = (1, 16, 64, 256, 1024)


class Benchmark(Protocol):
    """The fixture of pytest-benchmark."""

    def __call__(self, act: object, *arguments: object) -> object: ...


def monotonic_us() -> int:
    return time.monotonic_ns() // 1000


def residents_of(num: int) -> Residents:
    """So many users in memory, rows 1 to num."""
    residents = Residents(MODEL.initial_state().detach().numpy(), num + 1, "v1")
    for number in range(num):
        user = user_key("", f"user-{number}")
        residents.admit(user, slot_of(user))
    return residents


def events_of(num: int) -> Records:
    return TRAFFIC.link_events(np.arange(num), np.ones(num, np.int64))


@pytest.mark.parametrize("num_workers", [10, 1000])
def test_ring_lookup(benchmark: Benchmark, num_workers: int) -> None:
    ring = build_ring({f"worker-{number}": 1 for number in range(num_workers)})
    owners = ring.owners
    benchmark(lambda: ring.names[owners.item(slot_of(user_key("", "ada")))])


@pytest.mark.parametrize("num_workers", [10, 1000])
def test_ring_build(benchmark: Benchmark, num_workers: int) -> None:
    weights = {f"worker-{number}": 1 for number in range(num_workers)}
    benchmark(lambda: build_ring(weights))


def test_frame_decode(benchmark: Benchmark) -> None:
    raw = TRAFFIC.exchange_frame(0, 1)
    benchmark(lambda: LAYOUT.events_of_columns(WireExchangeRequest.FromString(raw).frame.events))


def test_frame_encode(benchmark: Benchmark) -> None:
    results = np.zeros(FRAME, LAYOUT.result_dtype)
    tags = np.arange(FRAME, dtype=np.uint32)
    benchmark(lambda: LAYOUT.columns_of_results(results, tags, None, ["", "v1"]).SerializeToString())


def test_lone_event_pack_and_unpack(benchmark: Benchmark) -> None:
    event = LAYOUT.event(events_of(1).tobytes())
    benchmark(lambda: LAYOUT.event(LAYOUT.pack(*event)))


@pytest.mark.parametrize("batch", BATCHES)
def test_batch_assembly(benchmark: Benchmark, batch: int) -> None:
    """Frames of 64 that wait, and the cut that a step takes."""
    inbox = Inbox(batch + 1, 1024)
    parts = []
    for start in range(0, batch, 64):
        size = min(64, batch - start)
        marks = np.zeros(size, MARKS)
        marks["row"] = np.arange(start, start + size) + 1
        events = events_of(size).copy()
        events["kind"] = EVENT_KIND_OBSERVATION
        parts.append(Waiting(events, marks))

    def assemble() -> Waiting:
        for part in parts:
            inbox.put(part)
        return inbox.cut()

    benchmark(assemble)


@pytest.mark.parametrize("batch", BATCHES)
def test_gather_step_scatter(benchmark: Benchmark, batch: int) -> None:
    torch.set_num_threads(1)
    residents = residents_of(batch)
    learner = Learner(1, MODEL, residents.live, LAYOUT, monotonic_us)
    rows, events = np.arange(1, batch + 1), events_of(batch)
    benchmark(learner.learn, rows, events)


def test_journal_encode_10k(benchmark: Benchmark) -> None:
    num = 10_000
    residents = residents_of(num)
    claims = np.zeros((4096, 2), np.uint64)
    rows = np.arange(1, num + 1)

    def encode() -> bytes:
        writer = SegmentWriter(residents.live.part.width)
        for start in range(0, num, 512):
            writer.add(residents.gather(rows[start : start + 512], claims)[0])
        return writer.finish(SegmentFooter(incarnation="worker-0/x", number=1, model="v1"))

    benchmark(encode)
