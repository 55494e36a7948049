"""Where updates spend their time, for GetLatency: kept per frame, counted when enough has come or somebody asks."""

from __future__ import annotations

import numpy as np

from evercurrent.telemetry import LatencyWindow, Summary
from evercurrent.v1 import observation_pb2 as pb
from evercurrent.wire import Records, joined

STAGES = ("total", "route", "queue", "step")
_FOLD_AT = 4096


class Latency:
    """The update latency by stage, over the last minute."""

    def __init__(self) -> None:
        self._windows = {stage: LatencyWindow() for stage in STAGES}
        self._frames: list[tuple[Records, int]] = []
        self._num_waiting = 0

    def add(self, results: Records, now_us: int) -> None:
        """Results handed to their feeds at `now_us` of the clock that stamped them. Applied ones count."""
        self._frames.append((results, now_us))
        self._num_waiting += len(results)
        if self._num_waiting >= _FOLD_AT or len(self._frames) >= _FOLD_AT // 16:
            self._fold()

    def summary(self, now_us: int) -> dict[str, Summary]:
        """By stage."""
        self._fold()
        return {stage: window.summary(now_us / 1e6) for stage, window in self._windows.items()}

    def _fold(self) -> None:
        if not self._frames:
            return
        results = joined([frame for frame, _ in self._frames])
        nows_us = np.repeat([now_us for _, now_us in self._frames], [len(frame) for frame, _ in self._frames])
        now_s = self._frames[-1][1] / 1e6
        applied = results["status"] == pb.STATUS_APPLIED
        results, nows_us = results.compress(applied), nows_us[applied]
        self._frames = []
        self._num_waiting = 0
        total = nows_us - results["stamp_us"].astype(np.int64)
        queue, step = results["queue_us"].astype(np.int64), results["step_us"].astype(np.int64)
        values = {"total": total, "route": total - queue - step - results["hydrate_us"], "queue": queue, "step": step}
        for stage, window in self._windows.items():
            window.record(values[stage], now_s)
