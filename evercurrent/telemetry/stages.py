"""Where updates spend their time: kept per frame, counted by stage when enough has come or somebody asks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from evercurrent.telemetry.latency import Distribution, LatencyWindow, Summary
from evercurrent.v1 import observation_pb2 as pb
from evercurrent.wire import Records, joined

_FOLD_AT = 4096

Split = Callable[[Records, NDArray[np.int64], NDArray[np.int64]], Mapping[str, NDArray[np.int64]]]
"""Times by stage, in microseconds, of N applied results, of which each came at [N] and was written at [N]."""


class Stages:
    """Live percentiles of each stage, and all that ever was."""

    def __init__(self, stages: Sequence[str], split: Split) -> None:
        self._windows = {stage: LatencyWindow() for stage in stages}
        self._split = split
        self._frames: list[tuple[Records, int, int]] = []
        self._num_waiting = 0

    def add(self, results: Records, came_us: int, written_us: int) -> None:
        """Results that came at one time and went on at another, of the clock that stamped them. Applied ones count."""
        self._frames.append((results, came_us, written_us))
        self._num_waiting += len(results)
        if self._num_waiting >= _FOLD_AT or len(self._frames) >= _FOLD_AT // 16:
            self._fold()

    def summary(self, now_us: int) -> dict[str, Summary]:
        """By stage, of the last minute."""
        self._fold()
        return {stage: window.summary(now_us / 1e6) for stage, window in self._windows.items()}

    def distributions(self) -> dict[str, Distribution]:
        """By stage, of all that ever was."""
        self._fold()
        return {stage: window.distribution() for stage, window in self._windows.items()}

    def _fold(self) -> None:
        if not self._frames:
            return
        frames, self._frames, self._num_waiting = self._frames, [], 0
        results = joined([records for records, _, _ in frames])
        counts = [len(records) for records, _, _ in frames]
        came_us = np.repeat(np.array([came for _, came, _ in frames], np.int64), counts)
        written_us = np.repeat(np.array([written for _, _, written in frames], np.int64), counts)
        applied = results["status"] == pb.STATUS_APPLIED
        times_us = self._split(results.compress(applied), came_us[applied], written_us[applied])
        for stage, window in self._windows.items():
            window.record(times_us[stage], frames[-1][2] / 1e6)
