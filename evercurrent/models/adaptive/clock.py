"""The time of a user's last event, kept in two floats of the state: day and second of the day, which float32 holds to
some milliseconds. A model's only clock is `event_time_us`; an event at 0 has no time."""

from __future__ import annotations

import torch
from torch import Tensor

_US_PER_S, _S_PER_DAY = 1_000_000, 86_400
NAME = "last_event"
WIDTH = 2


def clock_of(event_time_us_B: Tensor) -> Tensor:
    """Day and second of the day [B, 2]; zeros: no time."""
    time_s_B = event_time_us_B.to(torch.float64) / _US_PER_S
    day_B = (time_s_B / _S_PER_DAY).floor()
    return torch.stack((day_B, time_s_B - day_B * _S_PER_DAY), dim=1).to(torch.float32)


def gap_s(clock_B2: Tensor, now_B2: Tensor) -> Tensor:
    """Seconds [B] from one to the other; 0 where either has no time, or the other is earlier."""
    passed_B, passed_s_B = (now_B2 - clock_B2).unbind(1)
    gap_B = torch.add(passed_s_B, passed_B, alpha=_S_PER_DAY).clamp_min(0.0)
    return gap_B * (torch.minimum(clock_B2, now_B2)[:, 0] > 0)
