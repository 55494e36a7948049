"""The floor: bare grpc.aio servers that echo the service's own messages, decoded and encoded at every hop.

What no router and worker on this event loop could go below: the same messages of the same sizes, through one hop (the
`single`) or two (a `front` that, as our router, turns Session and Exchange messages into Link messages for a `backend`
and its answers back), and nothing else: no sessions, no checks, no model. A front opens one upstream stream for each of
its own and never coalesces. The codec of the records is its own, so that the floor stays where it is when ours changes.

`run_echo` starts the three as child processes; `python -m bench.echo ROLE [UPSTREAM]` is one of them. A child ends when
its standard input does, so it never outlives the bench, however that ended.
"""

from __future__ import annotations

import asyncio
import os
import signal
import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import uvloop

from bench.processes import Server, run_server, standard_input_ends
from evercurrent.v1 import columns_pb2, description_pb2, observation_pb2, session_pb2, wire_pb2, worker_pb2

SESSION_SERVICE = "evercurrent.v1.SessionService"
WORKER_SERVICE = "evercurrent.v1.WorkerService"

# The records of LinkFrame.events and LinkResults.results for a model with two ids, no features, a value as its outcome
# and a prediction of one value, as the one that the benches serve.
EVENT = np.dtype(
    [
        ("seq", "<u8"),
        ("event_time_us", "<i8"),
        ("stamp_us", "<u8"),
        ("ids", "<i8", (2,)),
        ("tag", "<u4"),
        ("timeout_us", "<u4"),
        ("outcome", "<f4"),
        ("kind", "u1"),
        ("padding", "V3"),
    ]
)
EVENT_STRUCT = struct.Struct("<QqQ2qIIfB3x")
RESULT = np.dtype(
    [
        ("seq", "<u8"),
        ("version", "<u8"),
        ("applied_seq", "<u8"),
        ("durable_seq", "<u8"),
        ("stamp_us", "<u8"),
        ("lost", "<u8"),
        ("at_risk", "<u8"),
        ("tag", "<u4"),
        ("queue_us", "<u4"),
        ("hydrate_us", "<u4"),
        ("step_us", "<u4"),
        ("loss", "<f4"),
        ("prediction", "<f4"),
        ("status", "u1"),
        ("kind", "u1"),
        ("model", "<u2"),
        ("padding", "V4"),
    ]
)
RESULT_STRUCT = struct.Struct("<7Q4I2f2BH4x")

MODEL = description_pb2.ModelDescription(
    name="echo",
    ids=[description_pb2.IdField(name="item", size=1000), description_pb2.IdField(name="skill", size=100)],
    outcome=description_pb2.OUTCOME_KIND_VALUE,
    outcome_width=1,
    outcome_max=1.0,
    prediction_width=1,
)
"""What the echo servers say that they serve."""


@dataclass(frozen=True, slots=True)
class Echo:
    """The running echo servers: where they listen, and their pids by role."""

    one_hop: str
    two_hops: str
    link: str
    pids: dict[str, int]


@contextmanager
def run_echo(switches: Mapping[str, str] | None = None) -> Iterator[Echo]:
    """The echo servers as child processes on loopback, with these variables of gRPC core in their environment; they end
    with the context."""
    environment = {**os.environ, **(switches or {})}
    with ExitStack() as children:

        def start(*arguments: str) -> Server:
            return children.enter_context(run_server("bench.echo", *arguments, environment=environment))

        single, backend = start("single"), start("backend")
        front = start("front", backend.addresses[0])
        yield Echo(
            one_hop=single.addresses[0],
            two_hops=front.addresses[0],
            link=backend.addresses[0],
            pids={"single": single.pid, "backend": backend.pid, "front": front.pid},
        )


def session_response(request: session_pb2.SessionRequest) -> session_pb2.SessionResponse:
    """The answer of a server without upstream to a Session message."""
    if request.WhichOneof("request") == "open":
        return session_pb2.SessionResponse(opened=session_pb2.SessionOpened(model=MODEL.name))
    seq = request.observation.seq
    return _session_response(seq, seq, seq, 0.5, 0.5)


def exchange_response(request: wire_pb2.WireExchangeRequest) -> wire_pb2.WireExchangeResponse:
    """The answer of a server without upstream to an Exchange message."""
    if request.WhichOneof("request") == "open":
        return wire_pb2.WireExchangeResponse(opened=session_pb2.ExchangeOpened(model=MODEL.name))
    frame = request.frame
    opened = session_pb2.SessionOpened(model=MODEL.name)
    results = wire_pb2.WireExchangeResults(
        opens=[session_pb2.TagOpened(tag=tag_open.tag, opened=opened) for tag_open in frame.opens]
    )
    if frame.events.tags:
        results.results.CopyFrom(_columns(_results(_events(frame.events))))
    return wire_pb2.WireExchangeResponse(frame=results)


def link_request_of_session(request: session_pb2.SessionRequest) -> worker_pb2.LinkRequest:
    """The frame of one event that a router would send."""
    observation = request.observation
    event = EVENT_STRUCT.pack(
        observation.seq, 0, 0, *observation.ids, 1, 0, observation.value, columns_pb2.EVENT_KIND_OBSERVATION
    )
    return worker_pb2.LinkRequest(frame=worker_pb2.LinkFrame(events=event))


def link_request_of_exchange(request: wire_pb2.WireExchangeRequest) -> worker_pb2.LinkRequest:
    """The frame that a router with one worker would send."""
    return worker_pb2.LinkRequest(frame=worker_pb2.LinkFrame(events=_events(request.frame.events).tobytes()))


def link_response(request: worker_pb2.LinkRequest) -> worker_pb2.LinkResponse:
    """The answer of a worker that applies everything and computes nothing."""
    if request.WhichOneof("request") == "open":
        return worker_pb2.LinkResponse(opened=worker_pb2.LinkOpened(worker="echo", incarnation="echo/1", model=MODEL))
    frame = request.frame
    results = worker_pb2.LinkResults(opens=[worker_pb2.LinkTagOpened(tag=tag_open.tag) for tag_open in frame.opens])
    if len(frame.events) == EVENT.itemsize:
        seq, _, stamp_us, _, _, tag, _, _, kind = EVENT_STRUCT.unpack(frame.events)
        results.results = RESULT_STRUCT.pack(
            seq, seq, seq, 0, stamp_us, 0, 0, tag, 0, 0, 0, 0.5, 0.5, observation_pb2.STATUS_APPLIED, kind, 1
        )
    elif frame.events:
        results.results = _results(np.frombuffer(frame.events, EVENT)).tobytes()
    return worker_pb2.LinkResponse(frame=results)


def session_response_of_link(response: worker_pb2.LinkResponse) -> session_pb2.SessionResponse:
    """The answer to one observation, from a worker's frame of one result."""
    seq, version, applied_seq, _, _, _, _, _, _, _, _, loss, prediction, _, _, _ = RESULT_STRUCT.unpack(
        response.frame.results
    )
    return _session_response(seq, version, applied_seq, loss, prediction)


def exchange_response_of_link(response: worker_pb2.LinkResponse) -> wire_pb2.WireExchangeResponse:
    """The answer to an Exchange frame, from a worker's frame."""
    columns = _columns(np.frombuffer(response.frame.results, RESULT))
    return wire_pb2.WireExchangeResponse(frame=wire_pb2.WireExchangeResults(results=columns))


def _session_response(
    seq: int, version: int, applied_seq: int, loss: float, prediction: float
) -> session_pb2.SessionResponse:
    result = observation_pb2.ObservationResult(
        seq=seq,
        status=observation_pb2.STATUS_APPLIED,
        version=version,
        applied_seq=applied_seq,
        prediction=[prediction],
        loss=loss,
    )
    return session_pb2.SessionResponse(result=result)


def _events(columns: wire_pb2.WireEventColumns) -> np.ndarray[Any, np.dtype[np.void]]:
    events = np.zeros(len(columns.tags) // 4, EVENT)
    events["tag"] = np.frombuffer(columns.tags, "<u4")
    events["seq"] = np.frombuffer(columns.seqs, "<u8")
    events["ids"] = np.frombuffer(columns.ids, "<i8").reshape(-1, 2)
    events["outcome"] = np.frombuffer(columns.values, "<f4")
    events["kind"] = columns_pb2.EVENT_KIND_OBSERVATION
    return events


def _results(events: np.ndarray[Any, np.dtype[np.void]]) -> np.ndarray[Any, np.dtype[np.void]]:
    results = np.zeros(len(events), RESULT)
    for field in ("tag", "seq", "stamp_us", "kind"):
        results[field] = events[field]
    results["version"] = results["applied_seq"] = events["seq"]
    results["status"] = observation_pb2.STATUS_APPLIED
    return results


def _columns(results: np.ndarray[Any, np.dtype[np.void]]) -> wire_pb2.WireResultColumns:
    return wire_pb2.WireResultColumns(
        tags=results["tag"].tobytes(),
        seqs=results["seq"].tobytes(),
        statuses=results["status"].tobytes(),
        kinds=results["kind"].tobytes(),
        versions=results["version"].tobytes(),
        applied_seqs=results["applied_seq"].tobytes(),
        predictions=results["prediction"].tobytes(),
        losses=results["loss"].tobytes(),
    )


Handler = Callable[[Any, Any], Any]


def _answering(respond: Callable[[Any], Any]) -> Handler:
    """A handler that answers every message of a stream by itself."""

    async def handle(_: object, context: Any) -> None:
        while (request := await context.read()) is not grpc.aio.EOF:
            await context.write(respond(request))

    return handle


def _passing(
    link: Callable[[], Any], respond: Callable[[Any], Any], down: Callable[[Any], Any], up: Callable[[Any], Any]
) -> Handler:
    """A handler that answers opens by itself (`respond`) and passes all else down a link and the answers up again."""

    async def handle(_: object, context: Any) -> None:
        upstream = link()
        await upstream.write(worker_pb2.LinkRequest(open=worker_pb2.LinkOpen(protocol_version=1, router="echo")))
        await upstream.read()

        async def pass_down() -> None:
            while (request := await context.read()) is not grpc.aio.EOF:
                if _opens(request):
                    await context.write(respond(request))
                else:
                    await upstream.write(down(request))
            await upstream.done_writing()

        async def pass_up() -> None:
            while (response := await upstream.read()) is not grpc.aio.EOF:
                await context.write(up(response))

        async with asyncio.TaskGroup() as pumps:
            pumps.create_task(pass_down())
            pumps.create_task(pass_up())

    return handle


def _opens(request: Any) -> bool:
    kind = request.WhichOneof("request")
    return kind == "open" or (kind == "frame" and len(request.frame.opens) > 0)


async def serve(role: str, upstream: str | None) -> None:
    """One server until standard input ends; prints its address when it listens."""
    server = grpc.aio.server()
    if role == "backend":
        server.add_generic_rpc_handlers((_link_service(_answering(link_response)),))
    elif role == "single":
        handlers = _answering(session_response), _answering(exchange_response)
        server.add_generic_rpc_handlers((session_service(*handlers),))
    elif role == "front" and upstream is not None:
        link = link_method(grpc.aio.insecure_channel(upstream))
        handlers = (
            _passing(link, session_response, link_request_of_session, session_response_of_link),
            _passing(link, exchange_response, link_request_of_exchange, exchange_response_of_link),
        )
        server.add_generic_rpc_handlers((session_service(*handlers),))
    else:
        raise ValueError(f"single, backend or front UPSTREAM, not {role!r}")
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await standard_input_ends()
    await server.stop(0)


def link_method(channel: grpc.aio.Channel) -> Callable[[], Any]:
    """WorkerService.Link on a channel."""
    method: Callable[[], Any] = channel.stream_stream(
        f"/{WORKER_SERVICE}/Link",
        request_serializer=worker_pb2.LinkRequest.SerializeToString,
        response_deserializer=worker_pb2.LinkResponse.FromString,
    )
    return method


def session_service(session: Handler, exchange: Handler) -> grpc.GenericRpcHandler:
    """SessionService of these two."""
    return grpc.method_handlers_generic_handler(
        SESSION_SERVICE,
        {
            "Session": grpc.stream_stream_rpc_method_handler(
                session, session_pb2.SessionRequest.FromString, session_pb2.SessionResponse.SerializeToString
            ),
            "Exchange": grpc.stream_stream_rpc_method_handler(
                exchange, wire_pb2.WireExchangeRequest.FromString, wire_pb2.WireExchangeResponse.SerializeToString
            ),
        },
    )


def _link_service(link: Handler) -> grpc.GenericRpcHandler:
    return grpc.method_handlers_generic_handler(
        WORKER_SERVICE,
        {
            "Link": grpc.stream_stream_rpc_method_handler(
                link, worker_pb2.LinkRequest.FromString, worker_pb2.LinkResponse.SerializeToString
            )
        },
    )


if __name__ == "__main__":
    # Ctrl-C goes to the whole process group; this server's life hangs on its standard input alone.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    uvloop.run(serve(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None))
