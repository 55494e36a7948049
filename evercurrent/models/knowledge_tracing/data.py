"""Logs of answers: a CSV file with the columns of ANSWERS."""

from __future__ import annotations

from pathlib import Path

from evercurrent.models.adaptive.data import Columns, EventLog, Ids, read_csv

ANSWERS = Columns(order="timestamp_or_order", ids={"item": "item_id", "skill": "skill_id"}, outcome_kind="share")


def read_log(path: Path, ids: Ids | None = None) -> EventLog:
    """Reads a log; with `ids`, for a model that was trained with those. Raises LogError."""
    return read_csv(path, ANSWERS, ids)
