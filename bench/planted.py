"""Versions that a service must get rid of by itself, and one that is as good as the live one but slow.

Letters as in `evercurrent.model`.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from bench.counting import Counting
from evercurrent.model import Batch, Update
from evercurrent.models.knowledge_tracing.model import KnowledgeTracing

NUM_SOUND = 500
SLOW_STEPS = 30
"""The first of them finds cold caches, as the only one of another version does, and the others take half of its time:
ten of them were less than five cold ones."""


class WrongSign(KnowledgeTracing):
    """Steps uphill: each state moves away from what it has just seen."""

    def update(self, state_BD: Tensor, batch: Batch) -> Update:
        update = super().update(state_BD, batch)
        return replace(update, state_BD=2 * state_BD - update.state_BD)


class SoonNaN(KnowledgeTracing):
    """Gives NaN after `NUM_SOUND` updates in a process."""

    num_updates = 0

    def update(self, state_BD: Tensor, batch: Batch) -> Update:
        update = super().update(state_BD, batch)
        self.num_updates += len(batch)
        return update if self.num_updates <= NUM_SOUND else replace(update, loss_B=update.loss_B * float("nan"))


class Slow(KnowledgeTracing):
    """Takes `SLOW_STEPS` times as long for the same."""

    def update(self, state_BD: Tensor, batch: Batch) -> Update:
        for _ in range(SLOW_STEPS - 1):
            super().update(state_BD, batch)
        return super().update(state_BD, batch)


class SlowCounting(Counting):
    """Takes `SLOW_STEPS` times as long for the same."""

    def update(self, state_BD: Tensor, batch: Batch) -> Update:
        for _ in range(SLOW_STEPS - 1):
            super().update(state_BD, batch)
        return super().update(state_BD, batch)
