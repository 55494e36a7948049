"""Where updates spend their time, as a router sees it. The parts do not overlap; their sum is the total, from the
receipt of an observation to its reply's being written to the client's stream."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from evercurrent.telemetry.stages import Stages
from evercurrent.wire import Records

STAGES = ("total", "route", "queue", "hydrate", "step", "reply")


def update_latency() -> Stages:
    """The update latency by stage. Route: in the router before the link and both ways between router and worker; queue,
    hydrate and step: in the worker; reply: from the link to the client's stream."""
    return Stages(STAGES, _split)


def _split(
    results: Records, came_us: NDArray[np.int64], written_us: NDArray[np.int64]
) -> Mapping[str, NDArray[np.int64]]:
    total = written_us - results["stamp_us"].astype(np.int64)
    reply = written_us - came_us
    queue, hydrate, step = (results[name].astype(np.int64) for name in ("queue_us", "hydrate_us", "step_us"))
    route = total - queue - hydrate - step - reply
    return {"total": total, "route": route, "queue": queue, "hydrate": hydrate, "step": step, "reply": reply}
