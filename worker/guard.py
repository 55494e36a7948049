"""The update guard: what must hold of an update before it may change a state.

A refused row stays bit for bit as it was; the others of its batch go on.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evercurrent.errors import rejection
from evercurrent.model import Model, Update
from evercurrent.v1 import observation_pb2 as pb


class Guard:
    """Bounds loss, gradient norm and new state by the model's own limits."""

    def __init__(self, model: Model) -> None:
        self._gradient_norm_max = model.gradient_norm_max
        self._state_abs_max = model.state_abs_max

    def check(self, update: Update) -> dict[int, pb.Rejection]:
        """Refusals by row of the batch. Empty, at the cost of three reductions, when all is well."""
        loss_B = update.loss_B.detach().numpy()
        norm_B = update.gradient_norm_B.detach().numpy()
        state_abs_B = np.abs(update.state_BD.detach().numpy()).max(axis=1)
        # NaN compares false, so "not below" also catches it.
        if np.isfinite(loss_B).all() and norm_B.max() <= self._gradient_norm_max:
            if state_abs_B.max() <= self._state_abs_max:
                return {}
        return self._refusals(loss_B, norm_B, state_abs_B)

    def _refusals(
        self, loss_B: NDArray[np.float32], norm_B: NDArray[np.float32], state_abs_B: NDArray[np.float32]
    ) -> dict[int, pb.Rejection]:
        refusals = {}
        for row, (loss, norm, state_abs) in enumerate(zip(loss_B, norm_B, state_abs_B, strict=True)):
            if not np.isfinite(loss):
                refusals[row] = rejection(pb.REASON_LOSS_NOT_FINITE, "", f"the loss is {loss}")
            elif not norm <= self._gradient_norm_max:
                message = f"the gradient's norm is {norm:g}, above {self._gradient_norm_max:g}"
                refusals[row] = rejection(pb.REASON_GRADIENT, "", message)
            elif not state_abs <= self._state_abs_max:
                message = f"the new state reaches {state_abs:g}, above {self._state_abs_max:g}"
                refusals[row] = rejection(pb.REASON_STATE, "", message)
        return refusals
