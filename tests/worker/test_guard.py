"""The update guard against plain conditions."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from evercurrent.model import ArrayUpdate
from evercurrent.v1 import observation_pb2 as pb
from tests.toys import Counting
from worker.guard import Guard

NORM_MAX, STATE_MAX = Counting.gradient_norm_max, Counting.state_abs_max

anything = st.sampled_from(
    [0.0, 1.0, -1.0, 3e38, -3e38, math.nan, math.inf, -math.inf, NORM_MAX, 2 * NORM_MAX, STATE_MAX, 2 * STATE_MAX]
)


@given(npst.arrays(np.float32, st.tuples(st.integers(1, 6), st.just(4)), elements=anything))
def test_a_row_is_refused_for_the_first_bound_it_breaks(
    values: np.ndarray[tuple[int, int], np.dtype[np.float32]],
) -> None:
    expected = {}
    for row, (loss, norm, *state) in enumerate(values.tolist()):
        if not math.isfinite(loss):
            expected[row] = pb.REASON_LOSS_NOT_FINITE
        elif not norm <= NORM_MAX:
            expected[row] = pb.REASON_GRADIENT
        elif not all(abs(value) <= STATE_MAX for value in state):
            expected[row] = pb.REASON_STATE
    update = ArrayUpdate(values[:, 2:], np.zeros((len(values), 1), np.float32), values[:, 0], values[:, 1])
    found = Guard(Counting()).check(update)
    assert {row: why.reason for row, why in found.items()} == expected
    assert all(why.message for why in found.values())
