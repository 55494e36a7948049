"""Spans read back from an OTLP receiver: client, router and worker are processes of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

import evercurrent
from evercurrent.cli.cluster import Cluster, run_cluster
from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1 import session_pb2, session_pb2_grpc
from tests.telemetry.receiver import Receiver, otlp_receiver, tree_of

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
EVENT: dict[str, Any] = {"ids": [1, 1], "outcome": 1.0}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with otlp_receiver() as receiver:
        yield receiver


def config_of(tmp_path: Path, receiver: Receiver, ratio: float) -> Path:
    path = tmp_path / "config.toml"
    both = f'otlp_endpoint = "http://{receiver.address}"\ntrace_ratio = {ratio}\n'
    path.write_text(f"[worker]\n{both}\n[router]\n{both}")
    return path


def provider_of(receiver: Receiver) -> TracerProvider:
    provider = TracerProvider(resource=Resource({"service.name": "app"}))
    exporter = OTLPSpanExporter(endpoint=f"http://{receiver.address}", insecure=True)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider


async def test_one_trace_from_the_caller_to_the_segment(tmp_path: Path, receiver: Receiver) -> None:
    provider = provider_of(receiver)
    store = f"sqlite:{tmp_path / 'store.db'}"
    with run_cluster(store=store, config=config_of(tmp_path, receiver, 0)) as cluster:
        async with (
            evercurrent.connect(cluster.address, tracer_provider=provider) as client,
            client.session("ann") as ann,
        ):
            await ann.observe(**EVENT)
            await ann.durable()
            with provider.get_tracer("app").start_as_current_span("answer") as span:
                await ann.observe(**EVENT)
            await ann.durable()
        trace_id = span.get_span_context().trace_id.to_bytes(16, "big")
        receiver.until(lambda one: len(tree_of(one.spans, trace_id)) == 5)
    assert tree_of(receiver.spans, trace_id) == [
        "app answer",
        "  app evercurrent.client.observe",
        "    evercurrent-router evercurrent.update",
        "      evercurrent-worker evercurrent.step",
        "      evercurrent-worker evercurrent.journal.put",
    ]
    own = {found.name: found for found in receiver.spans if found.span.trace_id == trace_id}
    router, step, put = own["evercurrent.update"], own["evercurrent.step"], own["evercurrent.journal.put"]
    assert (router["user.id"], router["evercurrent.seq"], router["evercurrent.status"]) == ("ann", 2, "applied")
    assert (router["evercurrent.worker"], router["evercurrent.version"]) == (step.instance, 2)
    length_us = (router.span.end_time_unix_nano - router.span.start_time_unix_nano) / 1000
    parts_us = [int(str(router[f"evercurrent.{stage}_us"])) for stage in ("queue", "hydrate", "step")]
    assert 0 < sum(parts_us) <= length_us
    assert step["evercurrent.events"] == 1
    for one in (step, put):
        assert [link.span_id for link in one.span.links] == [router.span.span_id]
    assert str(put["evercurrent.key"]).startswith(f"journal/{step.instance}/")
    order = [one.span.start_time_unix_nano for one in (own["evercurrent.client.observe"], router, step, put)]
    assert order == sorted(order)
    for one in own.values():
        assert one.span.start_time_unix_nano <= one.span.end_time_unix_nano


def ask(cluster: Cluster, user: str, traceparent: str = "", metadata: str = "") -> None:
    """One observation by a stub."""
    with grpc.insecure_channel(cluster.address) as channel:
        session_pb2_grpc.SessionServiceStub(channel).Observe(
            session_pb2.ObserveRequest(
                user_id=user, observation=pb.Observation(ids=[1, 1], value=1.0, traceparent=traceparent)
            ),
            metadata=[("traceparent", metadata)] if metadata else [],
        )


async def test_who_is_traced(tmp_path: Path, receiver: Receiver) -> None:
    """By the caller's flag where there is one, in the observation or the call's metadata; a batch links its events."""
    with run_cluster(num_workers=1, store="memory:", config=config_of(tmp_path, receiver, 0)) as cluster:
        ask(cluster, "sampled", f"00-{TRACE}-{SPAN}-01")
        ask(cluster, "metadata", metadata=f"00-{TRACE}-{SPAN}-01")
        ask(cluster, "not", f"00-{TRACE}-{SPAN}-00")
        ask(cluster, "broken", f"00-{TRACE}-0000000000000000-01")
        ask(cluster, "nobody")
        off = TracerProvider(sampler=ALWAYS_OFF)
        async with evercurrent.connect(cluster.address, tracer_provider=off) as client:
            await client.observe("off", **EVENT)
        async with (
            evercurrent.connect(cluster.address, tracer_provider=provider_of(receiver)) as client,
            client.exchange() as exchange,
        ):
            await exchange.observe_many([{"user_id": user, **EVENT} for user in ("bob", "cem", "bob")])
    updates = receiver.named("evercurrent.update")
    assert sorted(str(found["user.id"]) for found in updates) == ["bob", "bob", "cem", "metadata", "sampled"]
    by_user = {found["user.id"]: found for found in updates}
    for user in ("sampled", "metadata"):
        assert by_user[user].span.trace_id.hex() == TRACE
        assert by_user[user].span.parent_span_id.hex() == SPAN
    (call,) = receiver.named("evercurrent.client.observe_many")
    assert {by_user[user].span.parent_span_id for user in ("bob", "cem")} == {call.span.span_id}
    linked = [link.span_id for found in receiver.named("evercurrent.step") for link in found.span.links]
    assert sorted(linked) == sorted(found.span.span_id for found in updates)


async def test_traces_that_begin_at_the_router_go_on_when_a_worker_dies(tmp_path: Path, receiver: Receiver) -> None:
    store = f"sqlite:{tmp_path / 'store.db'}"
    with run_cluster(store=store, config=config_of(tmp_path, receiver, 1)) as cluster:
        async with evercurrent.connect(cluster.address) as client, client.session("ann") as ann:
            for _ in range(3):
                await ann.observe(**EVENT)
            receiver.until(lambda one: len(one.named("evercurrent.update")) == 3)
            owner = str(receiver.named("evercurrent.update")[0]["evercurrent.worker"])
            cluster.kill(owner)
            await ann.observe(**EVENT)
            await ann.durable()
    updates = receiver.named("evercurrent.update")
    assert sorted(int(str(found["evercurrent.seq"])) for found in updates) == [1, 2, 3, 4]
    assert not any(found.span.parent_span_id for found in updates)
    last = max(updates, key=lambda found: int(str(found["evercurrent.seq"])))
    assert last["evercurrent.worker"] != owner
    (step,) = [one for one in receiver.named("evercurrent.step") if one.span.parent_span_id == last.span.span_id]
    assert step.instance == last["evercurrent.worker"]


async def test_direct_mode_goes_on_with_the_clients_trace(tmp_path: Path, receiver: Receiver) -> None:
    with run_cluster(num_workers=1, store="memory:", config=config_of(tmp_path, receiver, 0)) as cluster:
        direct = evercurrent.connect(cluster.address, mode="direct", tracer_provider=provider_of(receiver))
        async with direct as client, client.session("ann") as ann:
            await ann.observe(**EVENT)
    assert not receiver.named("evercurrent.update")
    (call,), (step,) = receiver.named("evercurrent.client.observe"), receiver.named("evercurrent.step")
    assert step.span.parent_span_id == call.span.span_id
