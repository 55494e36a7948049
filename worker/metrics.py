"""What a worker measures, read from its incarnation of the moment: what that counts begins anew with the next one."""

from __future__ import annotations

from collections.abc import Iterator

from evercurrent.telemetry.metrics import Kind, Metric, counter, gauge, labelled, times
from worker.incarnation import Incarnation


def read_metrics(incarnation: Incarnation) -> Iterator[Metric]:
    """All of them, now."""
    engine, ownership, residents = incarnation.engine, incarnation.ownership, incarnation.residents
    counts = ownership.counts
    yield times(
        "evercurrent.worker.latency",
        "Where updates spent their time in the worker, by stage.",
        "stage",
        incarnation.latency.distributions(),
    )
    yield counter("evercurrent.updates", "Updates that were applied.", engine.num_updates)
    yield counter("evercurrent.rejected", "Events that were rejected.", engine.num_rejected)
    yield counter("evercurrent.steps", "Steps of the live version, each over many users.", engine.num_steps)
    yield counter("evercurrent.step_time", "Time that they took.", engine.steps_us / 1e6, "s")
    yield gauge("evercurrent.waiting", "Events received and not yet taken by a step.", engine.num_waiting)
    yield gauge("evercurrent.arriving", "Who waits for users that are not in memory yet.", engine.num_arrivals)
    yield gauge("evercurrent.links", "Routers that are linked.", len(incarnation.outboxes.links))
    yield gauge("evercurrent.tags", "Sessions that routers have open here.", engine.num_tags)
    yield gauge("evercurrent.residents", "Users in memory.", len(residents.slab))
    yield gauge("evercurrent.residents_max", "Users that memory is for.", residents.slab.residents_max)
    yield gauge("evercurrent.quarantined", "Users whose states are kept as they are.", engine.num_quarantined)
    yield counter("evercurrent.hydrated", "Users that came from their records.", counts.hydrated)
    yield counter("evercurrent.evicted", "Users that left memory.", counts.evicted)
    yield gauge("evercurrent.owned_slots", "Slots that are served.", ownership.num_served)
    yield counter("evercurrent.claims", "Claims of slots that came to stand.", counts.claims)
    yield counter("evercurrent.claims_lost", "Claims that others won.", counts.claims_lost)
    yield counter("evercurrent.slots_released", "Slots that were given to other workers.", counts.slots_released)
    yield counter("evercurrent.seals", "Journals of other incarnations that were sealed.", counts.seals)
    yield gauge("evercurrent.updates_at_risk", "Updates that are applied and not durable.", residents.num_at_risk)
    yield gauge(
        "evercurrent.journal.lag", "Age of the oldest change that is not journaled.", ownership.lag_us / 1e6, "s"
    )
    yield counter("evercurrent.journal.segments", "Segments that landed.", ownership.landed)
    yield counter("evercurrent.journal.written", "Bytes of the segments that landed.", counts.segment_bytes, "By")
    dropped = 0 if incarnation.log is None else incarnation.log.num_dropped
    yield counter("evercurrent.event_log.dropped", "Events that will not be in the event log.", dropped)
    yield from _read_followers(incarnation)


def _read_followers(incarnation: Incarnation) -> Iterator[Metric]:
    """The versions beside the live one."""
    followers = list(incarnation.engine.followers)
    for kind, name, description, values in (
        (Kind.GAUGE, "fraction", "Part of the users that it learns for.", {f.version: f.fraction for f in followers}),
        (Kind.GAUGE, "backlog", "Events that wait for it.", {f.version: f.backlog for f in followers}),
        (Kind.COUNTER, "updates", "Updates that it made.", {f.version: f.sums.num_updates for f in followers}),
        (
            Kind.COUNTER,
            "rejected",
            "Updates that it refused.",
            {f.version: f.sums.num_rejected + f.sums.num_errors for f in followers},
        ),
        (Kind.COUNTER, "shed_users", "Users that it gave up.", {f.version: f.sums.num_shed for f in followers}),
        (
            Kind.COUNTER,
            "missed",
            "Events that it missed as standby.",
            {f.version: f.sums.num_missed for f in followers},
        ),
    ):
        yield labelled(kind, f"evercurrent.follower.{name}", description, "version", values)
