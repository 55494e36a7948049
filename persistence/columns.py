"""Arrays as Arrow columns that people and other tools read."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from persistence.rows import U64

_CROCKFORD = np.frombuffer(b"0123456789ABCDEFGHJKMNPQRSTVWXYZ", np.uint8)


def ulid_texts(numbers: U64, absent: NDArray[np.bool_]) -> pa.Array:
    """ULIDs [N, 2], upper and lower 64 bits, as texts; null where absent."""
    high, low = numbers[:, 0], numbers[:, 1]
    digits = np.empty((len(numbers), 26), np.uint8)
    for place in range(26):
        shift = 5 * (25 - place)
        if shift >= 64:
            five = high >> np.uint64(shift - 64)
        elif shift > 59:
            five = (low >> np.uint64(shift)) | (high << np.uint64(64 - shift))
        else:
            five = low >> np.uint64(shift)
        digits[:, place] = _CROCKFORD[(five & np.uint64(31)).astype(np.intp)]
    texts = pa.FixedSizeBinaryArray.from_buffers(pa.binary(26), len(numbers), [None, pa.py_buffer(digits.tobytes())])
    return pc.if_else(pa.array(absent), None, texts.cast(pa.binary())).cast(pa.string())


def lists(values: NDArray[np.generic], absent: NDArray[np.bool_] | None = None) -> pa.Array:
    """A list of each row, null where absent."""
    num, width = values.shape
    offsets = pa.array(np.arange(num + 1, dtype=np.int32) * width)
    mask = None if absent is None else pa.array(absent)
    return pa.ListArray.from_arrays(offsets, pa.array(np.ascontiguousarray(values).reshape(-1)), mask=mask)
