"""What a router measures, read from its core."""

from __future__ import annotations

from collections.abc import Iterator

from evercurrent.telemetry.metrics import Kind, Metric, Point, counter, gauge, labelled, times
from evercurrent.v1.models_pb2 import Comparison
from router.core import RoutingCore
from router.models import Models


def read_metrics(core: RoutingCore, models: Models) -> Iterator[Metric]:
    """All of them, now."""
    links = sorted(core.links.values(), key=lambda link: link.name)
    yield times(
        "evercurrent.update.latency",
        "From the receipt of an observation to its reply's being written (total), and the stages of it.",
        "stage",
        core.latency.distributions(),
    )
    pauses = Point(core.pauses.distribution())
    yield Metric(
        "evercurrent.move.pause",
        Kind.HISTOGRAM,
        "How long sessions that moved waited.",
        (pauses,),
        "s",
    )
    yield gauge("evercurrent.sessions", "Sessions that this router keeps.", len(core.sessions))
    yield gauge("evercurrent.streams", "Streams and calls of clients under way.", core.num_feeds)
    yield gauge("evercurrent.moving_sessions", "Sessions on their way to a worker.", len(core.moves))
    yield counter("evercurrent.moves", "Sessions that went on at another worker.", core.num_moved)
    yield counter("evercurrent.replayed", "Events that were sent once more after a move.", core.num_replayed)
    yield gauge("evercurrent.replay_events", "Events kept until they are durable.", len(core.log))
    yield gauge("evercurrent.replay", "Bytes of the events kept until they are durable.", core.log.num_bytes, "By")
    yield counter("evercurrent.replay_dropped", "Events given up before they were durable.", core.log.num_dropped)
    yield gauge("evercurrent.ring_workers", "Workers on the ring.", len(core.ring.names) if core.ring else 0)
    yield counter("evercurrent.ring_changes", "Times that the ring changed.", core.num_rings)
    yield labelled(
        Kind.GAUGE,
        "evercurrent.worker.up",
        "1: the worker is linked; 0: it cannot be reached.",
        "worker",
        {link.name: int(link.outbox is not None) for link in links},
    )
    yield labelled(
        Kind.GAUGE,
        "evercurrent.worker.in_flight",
        "Events sent to a worker and not answered.",
        "worker",
        {link.name: link.num_in_flight for link in links},
    )
    yield labelled(
        Kind.COUNTER,
        "evercurrent.worker.updates",
        "Updates that were applied through this router.",
        "worker",
        {link.name: link.num_updates for link in links},
    )
    yield from _read_comparisons(models.comparisons)


def _read_comparisons(comparisons: list[Comparison]) -> Iterator[Metric]:
    """How the versions beside the live one do, as this router asked the workers last."""
    for name, description, values in (
        (
            "better_by",
            "Mean score of the live version less this one's.",
            {_of(one): one.score.mean for one in comparisons},
        ),
        ("better_by_low", "Lower bound of it, at all times at once.", {_of(one): one.score.low for one in comparisons}),
        (
            "better_by_high",
            "Upper bound of it, at all times at once.",
            {_of(one): one.score.high for one in comparisons},
        ),
        ("updates", "Updates that it made, over all workers.", {_of(one): one.sums.updates for one in comparisons}),
    ):
        yield labelled(Kind.GAUGE, f"evercurrent.shadow.{name}", description, "version", values)


def _of(comparison: Comparison) -> str:
    return comparison.sums.version
