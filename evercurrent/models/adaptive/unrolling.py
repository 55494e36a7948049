"""Online steps, one after the other, differentiable in all weights.

Letters as in `model`; T steps, I ids of the first field.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from evercurrent.models.adaptive.model import Adaptive, faded, kept


class Window(NamedTuple):
    """T events of each of B users; those that are none have `is_event_TB` False. `gap_TB`: seconds since the user's
    last event. `met_TBI`: which ids the user met before; None where these may come again."""

    ids_TBK: Tensor
    features_TBF: Tensor
    gap_TB: Tensor
    outcome_TB: Tensor
    is_event_TB: Tensor
    met_TBI: Tensor | None = None


class Unrolled(NamedTuple):
    """The vectors [B, S] after all steps, and as they were before each [T, B, S], with the outputs that they gave."""

    vector_BS: Tensor
    vector_TBS: Tensor
    output_TBP: Tensor


def unroll(model: Adaptive, vector_BS: Tensor, window: Window) -> Unrolled:
    """Predict, judge, step, T times."""
    shape = window.is_event_TB.shape
    gap = window.gap_TB.flatten() if model.uses_time else None
    read = model.read(window.ids_TBK.flatten(0, 1), window.features_TBF.flatten(0, 1), gap)
    readings = read.unflatten(shape)
    weights = model.weights()
    vectors, outputs = [], []
    for t in range(shape[0]):
        reading = readings.at(t)
        now_BS = vector_BS
        if model.uses_time:
            now_BS = faded(vector_BS, kept(window.gap_TB[t], weights), weights)
        answer = model.answer(now_BS, reading, weights)
        slope_BSP = model.slope(answer, reading, weights)
        judged = model.judge(now_BS, answer, window.outcome_TB[t])
        stepped_BS = model.step(now_BS, reading, answer, slope_BSP, judged, weights)
        vector_BS = torch.where(window.is_event_TB[t].unsqueeze(1), stepped_BS, vector_BS)
        vectors.append(now_BS)
        outputs.append(answer.output_BP)
    return Unrolled(vector_BS, torch.stack(vectors), torch.stack(outputs))
