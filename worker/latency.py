"""Where updates spend their time in a worker: waiting for the batch before, waiting for their user, in the step."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from evercurrent.telemetry.stages import Stages
from evercurrent.wire import Records

STAGES = ("queue", "hydrate", "step")


def worker_latency() -> Stages:
    """By stage."""
    return Stages(STAGES, _split)


def _split(results: Records, _: NDArray[np.int64], __: NDArray[np.int64]) -> Mapping[str, NDArray[np.int64]]:
    return {stage: results[f"{stage}_us"].astype(np.int64) for stage in STAGES}
