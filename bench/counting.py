"""A model whose predictions tell how much a state has learned from and in which order (`bench.accounts`).

Letters as in `evercurrent.model`.
"""

from __future__ import annotations

from torch import Tensor

from bench.accounts import NUM_DEEDS, code_of, rolled
from evercurrent.model import Batch, IdField, Model, ObservationSpec, OutcomeSpec


class Counting(Model):
    """State: how many events, an order-dependent hash of them, and a weight that learns. Predicts all three, as they
    were before the event."""

    name = "counting"
    observation = ObservationSpec(ids=(IdField("deed", NUM_DEEDS),), outcome=OutcomeSpec.value(-1.0, 1.0))
    state_shapes = {"count": (1,), "hash": (1,), "weight": (1,)}  # noqa: RUF012
    prediction_width = 3
    learned = ("weight",)
    score_max = 4.0

    def score(self, prediction_BP: Tensor, batch: Batch) -> Tensor:
        return (prediction_BP[:, 2] - batch.outcome) ** 2

    def predict(self, state_BD: Tensor, batch: Batch) -> Tensor:
        return state_BD

    def loss(self, prediction_BP: Tensor, batch: Batch) -> Tensor:
        return (prediction_BP[:, 2] - batch.outcome) ** 2

    def learn(self, state_BD: Tensor, gradient_BD: Tensor, batch: Batch) -> Tensor:
        parts = self.unpack(state_BD)
        hash_B = rolled(parts["hash"][:, 0], code_of(batch.ids_BK[:, 0]))
        weight_BW = parts["weight"] - self.step_size * self.unpack(gradient_BD)["weight"]
        return self.pack({"count": parts["count"] + 1, "hash": hash_B[:, None], "weight": weight_BW})
