"""How many users a worker takes in."""

from __future__ import annotations

import pytest

from evercurrent.settings import SettingsError, WorkerSettings
from worker.server import residents_within


@pytest.mark.parametrize(
    ("residents_max", "resident_bytes_max", "expected"),
    [(10, 1_000_000, 10), (1000, 4400, 10), (1000, 4839, 10), (1000, 4840, 11), (1, 440, 1)],
)
def test_the_tighter_bound_holds(residents_max: int, resident_bytes_max: int, expected: int) -> None:
    settings = WorkerSettings(residents_max=residents_max, resident_bytes_max=resident_bytes_max)
    assert residents_within(settings, state_width=10) == expected


def test_a_bound_below_one_users_state_is_named() -> None:
    with pytest.raises(SettingsError, match="440 bytes, above resident_bytes_max 439"):
        residents_within(WorkerSettings(resident_bytes_max=439), state_width=10)
