"""The family's update as machine code, for models with one output: `Adaptive.update` in plain loops.

numba compiles it by LLVM when this module is imported (some 1.3 s; no compiler is needed). For one user the update by
torch is some 28 operations whose arithmetic is nothing, each with the cost of a call; here it is one call
(docs/adr/0024). Each row is computed by itself, so the result cannot depend on the cut of a batch. Sums run in another
order than torch's: the two agree to some 1e-6, and a test holds them together.

Letters as in `model`, and N: rows of all that is summed up to a reading; C: what is kept of each coordinate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numba import njit, types
from torch import Tensor

from evercurrent.model import ArrayUpdate, CompiledUpdate, Floats
from evercurrent.models.adaptive.clock import FORGET_AFTER_S, GAP_SCALE, S_PER_DAY, US_PER_S

if TYPE_CHECKING:
    from evercurrent.models.adaptive.model import Encoder, Weights

BASE, GAP, FIRST_FEATURE = 0, 1, 2
"""Rows of what is summed up: the base, that of time, one a feature, one a part of the embedding of all features; then
those of ids."""
RATE, REST, DECAY, FORGET = range(4)
"""What is kept of each coordinate of a vector."""


def _given(kind: types.Type, num_dimensions: int) -> types.Array:
    """What is read only, and lies as it lies: columns of records."""
    return types.Array(kind, num_dimensions, "A", readonly=True, aligned=False)


def _weights(num_dimensions: int) -> types.Array:
    return types.Array(types.float32, num_dimensions, "C", readonly=True)


_SIGNATURE = types.void(
    _given(types.float32, 2),
    _given(types.int64, 2),
    _given(types.float32, 2),
    _given(types.float32, 1),
    _given(types.boolean, 1),
    _given(types.int64, 1),
    _weights(2),
    types.Array(types.int64, 1, "C", readonly=True),
    _weights(2),
    _weights(2),
    _weights(2),
    _weights(1),
    _weights(2),
    types.Array(types.float32, 2, "C"),
)
_ONE, _ZERO = np.float32(1.0), np.float32(0.0)
_EXP_MIN, _EXP_MAX = np.float32(-87.0), np.float32(88.0)
_PER_LN2, _LN2_HIGH, _LN2_LOW = np.float32(1.44269504), np.float32(0.693359375), np.float32(-2.12194440e-4)
_EXP_5, _EXP_4, _EXP_3 = np.float32(1.9875691500e-4), np.float32(1.3981999507e-3), np.float32(8.3334519073e-3)
_EXP_2, _EXP_1, _EXP_0 = np.float32(4.1665795894e-2), np.float32(1.6666665459e-1), np.float32(5.0000001201e-1)
_BIAS, _MANTISSA_BITS = np.int32(127), np.int32(23)


@njit(types.float32(types.float32), error_model="numpy")  # type: ignore[untyped-decorator]
def exp(value: Any) -> Any:
    """e to the power of a float32 within [-87, 88], to 1.4e-7 of it; outside, of the nearest within. Cephes' expf
    (Moshier, https://www.netlib.org/cephes/), in operations that LLVM makes vectors of: six times as fast as libm's."""
    value = min(max(value, _EXP_MIN), _EXP_MAX)
    power = np.floor(value * _PER_LN2 + np.float32(0.5))
    rest = (value - power * _LN2_HIGH) - power * _LN2_LOW
    series = _EXP_5
    series = series * rest + _EXP_4
    series = series * rest + _EXP_3
    series = series * rest + _EXP_2
    series = series * rest + _EXP_1
    series = series * rest + _EXP_0
    scale = np.int32((np.int32(power) + _BIAS) << _MANTISSA_BITS).view(np.float32)
    return (series * rest * rest + rest + _ONE) * scale


@njit(types.float32(types.float32), error_model="numpy")  # type: ignore[untyped-decorator]
def sigmoid(value: Any) -> Any:
    """Of a float32."""
    return _ONE / (_ONE + exp(-value))


def _update(
    state_BD: Any,
    ids_BK: Any,
    features_BF: Any,
    outcome_B: Any,
    has_outcome_B: Any,
    event_time_us_B: Any,
    read_NR: Any,
    first_K: Any,
    inner_FE: Any,
    state_weight_SG: Any,
    slope_weight_HS: Any,
    hidden_weight_H: Any,
    coordinates_CS: Any,
    result_BO: Any,
) -> None:
    """Fill `result_BO` [B, D + 3]: new rows, predictions, losses, norms of gradients. `inner_FE` has the biases before
    the features; `first_K`: the rows of `read_NR` where each field's begin."""
    num_users, num_ids = ids_BK.shape
    width, num_features, num_embedded = state_BD.shape[1], inner_FE.shape[0] - 1, inner_FE.shape[1]
    num_coordinates, num_active = state_weight_SG.shape
    num_hidden, num_read = hidden_weight_H.shape[0], read_NR.shape[1]
    uses_time = width > num_coordinates
    day = second = _ZERO
    bias_at = num_coordinates + num_active
    writes = num_read > bias_at + 2
    reading_R, active_G = np.empty(num_read, np.float32), np.empty(num_active, np.float32)
    vector_S, slope_S = np.empty(num_coordinates, np.float32), np.empty(num_coordinates, np.float32)
    kept_S = np.empty(num_coordinates, np.float32)
    for at in range(num_coordinates):
        kept_S[at] = _ONE
    for user in range(num_users):
        for at in range(num_read):
            reading_R[at] = read_NR[BASE, at]
        for at in range(num_coordinates):
            vector_S[at] = state_BD[user, at]
        if uses_time:
            time_s = event_time_us_B[user] / US_PER_S
            day_exact = np.floor(time_s / S_PER_DAY)
            day, second = np.float32(day_exact), np.float32(time_s - day_exact * S_PER_DAY)
            last_day, last_second = state_BD[user, num_coordinates], state_BD[user, num_coordinates + 1]
            gap = _ZERO
            if min(day, last_day) > _ZERO:
                gap = max(_ZERO, (second - last_second) + (day - last_day) * np.float32(S_PER_DAY))
            weight = np.float32(GAP_SCALE) * np.log1p(gap)
            for at in range(num_read):
                reading_R[at] += weight * read_NR[GAP, at]
            passed = np.log1p(gap / np.float32(FORGET_AFTER_S))
            for at in range(num_coordinates):
                kept_S[at] = exp(-passed * coordinates_CS[FORGET, at])
                rest = coordinates_CS[REST, at]
                vector_S[at] = rest + kept_S[at] * (vector_S[at] - rest)
        for feature in range(num_features):
            value = features_BF[user, feature]
            for at in range(num_read):
                reading_R[at] += value * read_NR[FIRST_FEATURE + feature, at]
        if num_features:
            for embedded in range(num_embedded):
                inner = inner_FE[0, embedded]
                for feature in range(num_features):
                    inner += features_BF[user, feature] * inner_FE[1 + feature, embedded]
                inner *= sigmoid(inner)
                row = FIRST_FEATURE + num_features + embedded
                for at in range(num_read):
                    reading_R[at] += inner * read_NR[row, at]
        for field in range(num_ids):
            row = first_K[field] + ids_BK[user, field]
            for at in range(num_read):
                reading_R[at] += read_NR[row, at]

        for at in range(num_active):
            active_G[at] = reading_R[num_coordinates + at]
        output = reading_R[bias_at]
        for coordinate in range(num_coordinates):
            value = vector_S[coordinate]
            for at in range(num_active):
                active_G[at] += value * state_weight_SG[coordinate, at]
            slope_S[coordinate] = reading_R[coordinate]
            output += value * reading_R[coordinate]
        for at in range(num_active):
            active_G[at] = sigmoid(active_G[at])
        for hidden in range(num_hidden):
            active = active_G[hidden]
            output += active * hidden_weight_H[hidden]
            bend = (active - active * active) * hidden_weight_H[hidden]
            for at in range(num_coordinates):
                slope_S[at] += bend * slope_weight_HS[hidden, at]

        seen = sigmoid(output)
        result_BO[user, width] = seen
        if not has_outcome_B[user]:
            for at in range(width):
                result_BO[user, at] = state_BD[user, at]
            result_BO[user, width + 1] = result_BO[user, width + 2] = _ZERO
            continue
        outcome = outcome_B[user]
        result_BO[user, width + 1] = max(output, _ZERO) - output * outcome + np.log1p(exp(-abs(output)))
        residual = outcome - seen
        force = residual + reading_R[bias_at + 1]
        square = _ZERO
        for at in range(num_coordinates):
            gradient = slope_S[at] * residual * kept_S[at]
            square += gradient * gradient
            ascent = slope_S[at] * force
            if writes:
                ascent += reading_R[bias_at + 2 + at]
            rested = vector_S[at] + coordinates_CS[DECAY, at] * (coordinates_CS[REST, at] - vector_S[at])
            result_BO[user, at] = rested + active_G[num_hidden + at] * coordinates_CS[RATE, at] * ascent
        result_BO[user, width + 2] = np.sqrt(square)
        if uses_time:
            result_BO[user, num_coordinates], result_BO[user, num_coordinates + 1] = day, second


_compiled = njit(_SIGNATURE, error_model="numpy")(_update)


def compiled(encoder: Encoder, weights: Weights) -> CompiledUpdate:
    """The update of a model with these weights, folded for serving."""
    assert encoder.rows_NR is not None, "it was folded"
    read_NR = encoder.rows_NR.numpy()
    firsts = np.cumsum([len(read_NR) - sum(map(len, encoder.tables)), *map(len, encoder.tables)])
    parts = (
        read_NR,
        firsts[:-1].astype(np.int64),
        _array(torch.cat((encoder.inner_bias[None], encoder.inner_F))),
        _array(weights.state_weight_SG),
        _array(weights.slope_weight_HS),
        _array(weights.hidden_weight_H),
        _array(torch.stack((weights.rate_S, weights.rest_S, weights.decay_S, weights.forget_S))),
    )

    def update(
        state_BD: Floats, ids_BK: Any, features_BF: Floats, outcome: Any, has_outcome_B: Any, event_time_us_B: Any
    ) -> ArrayUpdate:
        num_users, width = state_BD.shape
        result_BO = np.empty((num_users, width + 3), np.float32)
        _compiled(state_BD, ids_BK, features_BF, outcome, has_outcome_B, event_time_us_B, *parts, result_BO)
        return ArrayUpdate(
            result_BO[:, :width], result_BO[:, width : width + 1], result_BO[:, width + 1], result_BO[:, width + 2]
        )

    return update


def _array(tensor: Tensor) -> Floats:
    return np.ascontiguousarray(tensor.detach().numpy())
