"""Knowledge tracing: will this learner answer this item right? Model, simulator, log reader, trainer, evaluation."""

from evercurrent.models.knowledge_tracing.data import (
    EventLog,
    Ids,
    LogError,
    read_log,
    read_test_users,
    split_users,
)
from evercurrent.models.knowledge_tracing.evaluate import Replay, Scores, replay
from evercurrent.models.knowledge_tracing.model import KnowledgeTracing
from evercurrent.models.knowledge_tracing.simulator import World, default_world, simulate
from evercurrent.models.knowledge_tracing.trainer import Trained, TrainerSettings, train

__all__ = [
    "EventLog",
    "Ids",
    "KnowledgeTracing",
    "LogError",
    "Replay",
    "Scores",
    "Trained",
    "TrainerSettings",
    "World",
    "default_world",
    "read_log",
    "read_test_users",
    "replay",
    "simulate",
    "split_users",
    "train",
]
