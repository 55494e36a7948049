"""The slab: a row a user, and what is refused when there are no more."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evercurrent.errors import Refused
from evercurrent.v1 import observation_pb2 as pb
from worker.slab import INITIAL_ROW, Slab

INITIAL = np.array([1.5, -2.0], np.float32)
RESIDENTS_MAX = 5


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.booleans()), max_size=40))
def test_rows_are_each_ones_own_and_start_blank(script: list[tuple[str, bool]]) -> None:
    slab = Slab(INITIAL, RESIDENTS_MAX)
    rows: dict[str, int] = {}
    for key, stays in script:
        if not stays:
            if key in rows:
                slab.drop(rows.pop(key))
            assert slab.find(key) is None
        elif key not in rows and len(rows) == RESIDENTS_MAX:
            with pytest.raises(Refused) as caught:
                slab.admit(key, 1)
            assert caught.value.rejection.reason == pb.REASON_OVERLOADED
        else:
            is_new = key not in rows
            row = slab.admit(key, ord(key))
            assert row == rows.setdefault(key, row)
            if is_new:
                assert slab.state[row].tolist() == INITIAL.tolist()
                assert (slab.version[row], slab.num_tags[row], slab.slot[row]) == (0, 0, ord(key))
                slab.state[row] = ord(key)
                slab.version[row] = 7
                slab.num_tags[row] = 2
        assert set(slab) == rows.keys()
        assert len(set(rows.values())) == len(rows)
        assert INITIAL_ROW not in rows.values()
        for other, row in rows.items():
            assert slab.find(other) == row
            assert slab.key(row) == other
            assert slab.state[row].tolist() == [ord(other)] * 2
    assert slab.state[INITIAL_ROW].tolist() == INITIAL.tolist()
