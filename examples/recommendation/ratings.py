"""Logs of ratings: a CSV file with the columns of RATINGS, as MovieLens has them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from evercurrent.models.adaptive import Columns, EventLog, read_csv

RATINGS = Columns(ids={"item": "item_id"}, outcome="rating", order_unit_us=1_000_000)
LIKED_FROM = 4.0


def read_log(path: Path, seed: int) -> EventLog:
    """Reads a log; the outcome is 1 from LIKED_FROM stars on, else 0. Raises LogError.

    Events are in an order drawn by `seed`, so that those of one second, half of MovieLens, come in no order of the
    file's, which might tell what it was sorted by."""
    log = read_csv(path, RATINGS)
    log = replace(log, outcome_N=(log.outcome_N >= LIKED_FROM).astype(np.float32))
    return log.at(np.random.default_rng(seed).permutation(len(log)))
