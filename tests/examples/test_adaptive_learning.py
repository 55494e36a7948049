"""Adaptive learning: a whole run, and pupils who are asked what is within their reach."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.examples.running import RUN_TIMEOUT_S, row_of, run_quick


@pytest.mark.timeout(RUN_TIMEOUT_S)
def test_a_whole_run(tmp_path: Path) -> None:
    printed = run_quick("adaptive_learning", tmp_path)
    served, nightly = row_of(printed, "as served"), row_of(printed, "state of last night")
    assert float(served[1]) > float(nightly[1]) > 0.5
    right = [float(row_of(printed, name)[1]) for name in ("at random", "within reach")]
    assert abs(right[1] - 0.7) < abs(right[0] - 0.7)
