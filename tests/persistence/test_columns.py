"""Columns hold what the arrays hold."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from ulid import ULID

from persistence.columns import lists, ulid_texts
from persistence.rows import halves


@given(st.lists(st.integers(0, (1 << 128) - 1), min_size=1))
def test_ulids_as_texts(numbers: list[int]) -> None:
    pairs = np.array([halves(number) for number in numbers], np.uint64)
    absent = np.array([number == 0 for number in numbers])
    expected = [None if number == 0 else str(ULID.from_int(number)) for number in numbers]
    assert ulid_texts(pairs, absent).to_pylist() == expected


def test_lists_of_any_width() -> None:
    for width in (0, 1, 3):
        values = np.arange(4 * width, dtype=np.float32).reshape(4, width)
        assert lists(values).to_pylist() == values.tolist()
        absent = np.array([False, True, False, True])
        expected = [None if gone else row for gone, row in zip(absent, values.tolist(), strict=True)]
        assert lists(values, absent).to_pylist() == expected
