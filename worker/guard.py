"""The update guard: what must hold of an update before it may change a state.

A refused row stays bit for bit as it was; the others of its batch go on.
"""

from __future__ import annotations

from math import isfinite

import numpy as np

from evercurrent.errors import rejection
from evercurrent.model import ArrayUpdate, Model
from evercurrent.v1 import observation_pb2 as pb


class Guard:
    """Bounds loss, gradient norm and new state by the model's own limits."""

    def __init__(self, model: Model) -> None:
        self._gradient_norm_max = model.gradient_norm_max
        self._state_abs_max = model.state_abs_max

    def allows(self, loss: float, gradient_norm: float, state_abs: float) -> bool:
        """Whether one row's update may stand. NaN compares false, so "not below" also catches it."""
        return isfinite(loss) and gradient_norm <= self._gradient_norm_max and state_abs <= self._state_abs_max

    def check(self, update: ArrayUpdate) -> dict[int, pb.Rejection]:
        """Refusals by row of the batch. Empty, at the cost of three reductions, when all is well."""
        loss_B, norm_B = update.loss_B, update.gradient_norm_B
        state_abs_B = np.abs(update.state_BD).max(axis=1)
        if self.allows(float(np.abs(loss_B).max()), float(norm_B.max()), float(state_abs_B.max())):
            return {}
        return {
            row: self._refusal(*values)
            for row, values in enumerate(zip(loss_B.tolist(), norm_B.tolist(), state_abs_B.tolist(), strict=True))
            if not self.allows(*values)
        }

    def _refusal(self, loss: float, gradient_norm: float, state_abs: float) -> pb.Rejection:
        if not isfinite(loss):
            return rejection(pb.REASON_LOSS_NOT_FINITE, "", f"the loss is {loss}")
        if not gradient_norm <= self._gradient_norm_max:
            message = f"the gradient's norm is {gradient_norm:g}, above {self._gradient_norm_max:g}"
            return rejection(pb.REASON_GRADIENT, "", message)
        message = f"the new state reaches {state_abs:g}, above {self._state_abs_max:g}"
        return rejection(pb.REASON_STATE, "", message)
