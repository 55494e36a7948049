"""How knowledge tracing is trained: as any of the family, with items that are seldom seen kept near their skill."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from evercurrent.models.adaptive import trainer
from evercurrent.models.adaptive.data import EventLog
from evercurrent.models.adaptive.trainer import Penalty, Trained, TrainerSettings
from evercurrent.models.knowledge_tracing.model import KnowledgeTracing

HIDDEN_RATES = {"item": 0.1}
PENALTIES = {"item": Penalty(embedding=100.0, bias=1.0)}
SETTINGS = TrainerSettings(batch_users=64, average_decay=0.99)


def train(
    log: EventLog,
    out: Path,
    *,
    seed: int = 0,
    test_users: Collection[str] = (),
    settings: TrainerSettings | None = None,
    console: Console | None = None,
) -> Trained[KnowledgeTracing]:
    """As `trainer.train`, on a log of answers."""
    settings = replace(settings or SETTINGS, hidden_rates=HIDDEN_RATES, penalties=PENALTIES)
    return trainer.train(_untrained, log, out, seed=seed, test_users=test_users, settings=settings, console=console)


def _untrained(sizes: Mapping[str, int]) -> KnowledgeTracing:
    return KnowledgeTracing(num_items=sizes["item"], num_skills=sizes["skill"])
