"""Some thousand hostile frames; `python -m tests.fuzz` sends as many as you like."""

from __future__ import annotations

import pytest

from tests.fuzz.run import fuzz


@pytest.mark.timeout(300)
def test_hostile_frames_harm_nobody() -> None:
    report = fuzz(num_frames=3000, seed=11)
    assert report.faults == []
    assert report.num_honest
    assert report.num_connections
