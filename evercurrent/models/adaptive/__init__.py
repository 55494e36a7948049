"""The family: a user is a vector that each event moves by a learned gradient step. Model, heads, logs, trainer,
prequential evaluation."""

from evercurrent.models.adaptive.data import (
    Columns,
    EventLog,
    Ids,
    LogError,
    OutcomeKind,
    log_name,
    read_csv,
    read_header,
    read_number,
    read_parquet,
    read_rows,
    read_test_users,
    split_users,
)
from evercurrent.models.adaptive.heads import HEADS
from evercurrent.models.adaptive.model import UNKNOWN, Adaptive
from evercurrent.models.adaptive.ranking import Ranking
from evercurrent.models.adaptive.replay import Replay, Scores, batch_of, by_events_seen, replay
from evercurrent.models.adaptive.trainer import Penalty, Trained, TrainerSettings, train

__all__ = [
    "HEADS",
    "UNKNOWN",
    "Adaptive",
    "Columns",
    "EventLog",
    "Ids",
    "LogError",
    "OutcomeKind",
    "Penalty",
    "Ranking",
    "Replay",
    "Scores",
    "Trained",
    "TrainerSettings",
    "batch_of",
    "by_events_seen",
    "log_name",
    "read_csv",
    "read_header",
    "read_number",
    "read_parquet",
    "read_rows",
    "read_test_users",
    "replay",
    "split_users",
    "train",
]
