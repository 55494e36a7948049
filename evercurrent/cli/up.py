"""`evercurrent up`: a router and workers on this machine until Ctrl-C."""

from __future__ import annotations

import signal
from pathlib import Path

from evercurrent.cli.cluster import Cluster, ClusterError, run_cluster
from evercurrent.cli.imports import check_not_shadowed

HINT = """\
Connect to {address} with the generated stubs:

    import grpc
    from evercurrent.v1 import observation_pb2, session_pb2, session_pb2_grpc

    service = session_pb2_grpc.SessionServiceStub(grpc.insecure_channel("{address}"))
    observation = observation_pb2.Observation(ids=[7, 3], value=1.0)
    print(service.Observe(session_pb2.ObserveRequest(user_id="ada", observation=observation)))

Ctrl-C ends it all."""


def run_up(
    num_workers: int,
    model: str | None,
    weights: Path | None,
    store: str | None,
    address: str | None,
    config: Path | None,
) -> None:
    """Returns after Ctrl-C, SIGTERM or SIGHUP. Raises ClusterError when a process ends by itself."""
    check_not_shadowed()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        with run_cluster(
            num_workers=num_workers,
            model=model,
            weights=weights,
            store=store,
            router_address=address,
            config=config,
            show_logs=True,
        ) as cluster:
            print(_greeting(cluster), flush=True)
            raise ClusterError(f"{cluster.wait().ending()}; the others were ended")
    except KeyboardInterrupt:
        return


def _greeting(cluster: Cluster) -> str:
    lines = [f"  {name:10} {child.address:22} pid {child.process.pid}" for name, child in cluster.children.items()]
    return "\n".join(["evercurrent is up", *lines, "", HINT.format(address=cluster.address)])
