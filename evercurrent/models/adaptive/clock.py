"""The time of a user's last event, kept in two floats of the state: day and second of the day, which float32 holds to
some milliseconds. A model's only clock is `event_time_us`; an event at 0 has no time."""

from __future__ import annotations

import torch
from torch import Tensor

US_PER_S, S_PER_DAY = 1_000_000, 86_400
NAME = "last_event"
WIDTH = 2
FORGET_AFTER_S = 60.0
"""A time without events counts by how many times this it is: much less is nothing."""
GAP_SCALE = 0.1
"""Of the log of a gap, so that it is of about unit size."""


def clock_of(event_time_us_B: Tensor) -> Tensor:
    """Day and second of the day [B, 2]; zeros: no time."""
    time_s_B = event_time_us_B.to(torch.float64) / US_PER_S
    day_B = (time_s_B / S_PER_DAY).floor()
    return torch.stack((day_B, time_s_B - day_B * S_PER_DAY), dim=1).to(torch.float32)


def gap_s(clock_B2: Tensor, now_B2: Tensor) -> Tensor:
    """Seconds [B] from one to the other; 0 where either has no time, or the other is earlier."""
    passed_B, passed_s_B = (now_B2 - clock_B2).unbind(1)
    gap_B = torch.add(passed_s_B, passed_B, alpha=S_PER_DAY).clamp_min(0.0)
    return gap_B * (torch.minimum(clock_B2, now_B2)[:, 0] > 0)
