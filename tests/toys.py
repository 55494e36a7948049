"""Small models whose states show every loss, duplicate and disorder, and that misbehave when asked to.

Letters as in `evercurrent.model`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from bench.accounts import rolled
from evercurrent.model import Batch, IdField, Model, ObservationSpec, OutcomeSpec

NUM_DEEDS = 16
NAN_LOSS, HUGE_GRADIENT, HUGE_STATE, RAISE = 12, 13, 14, 15
"""Ids of the first field at which `Counting` misbehaves; the ones below are ordinary."""

HUGE_PREDICTION = 100.0
"""What HUGE_GRADIENT predicts: no outcome is near."""

UNLEARNED_CODE = 1000
"""Added to the code of an event without an outcome."""


def next_hash(before: int, deed: int, place: int, has_outcome: bool) -> int:
    """The hash after one more event; depends on their order."""
    code = 1 + deed * 7 + place * 131 + (0 if has_outcome else UNLEARNED_CODE)
    return rolled(before, code)


class Counting(Model):
    """State: how many events, the sum of their outcomes, an order-dependent hash of them, and weights that learn.

    Predicts the hash as it stood (so that every reply tells the whole past) and weights · features.
    """

    name = "counting"
    observation = ObservationSpec(
        ids=(IdField("deed", NUM_DEEDS), IdField("place", 4)),
        features=("x", "y"),
        outcome=OutcomeSpec.value(-10.0, 10.0),
    )
    state_shapes = {"count": (1,), "sum": (1,), "hash": (1,), "weights": (2,)}  # noqa: RUF012
    prediction_width = 2
    learned = ("weights",)
    step_size = 0.05
    gradient_norm_max = 1e6
    state_abs_max = 1e9
    score_max = 20.0

    def score(self, prediction_BP: Tensor, batch: Batch) -> Tensor:
        return (prediction_BP[:, 1] - batch.outcome).abs()

    def predict(self, state_BD: Tensor, batch: Batch) -> Tensor:
        deed_B = batch.ids_BK[:, 0]
        if (deed_B == RAISE).any():
            raise RuntimeError("asked to")
        parts = self.unpack(state_BD)
        weights_BW = parts["weights"]
        value_B = (weights_BW * batch.features_BF).sum(dim=1)
        steep_B = HUGE_PREDICTION + 1e9 * (weights_BW - weights_BW.detach()).sum(dim=1)
        value_B = torch.where(deed_B == HUGE_GRADIENT, steep_B, value_B)
        value_B = torch.where(deed_B == NAN_LOSS, torch.nan, value_B)
        return torch.stack([parts["hash"][:, 0], value_B], dim=1)

    def loss(self, prediction_BP: Tensor, batch: Batch) -> Tensor:
        return (prediction_BP[:, 1] - batch.outcome) ** 2

    def learn(self, state_BD: Tensor, gradient_BD: Tensor, batch: Batch) -> Tensor:
        parts = self.unpack(state_BD)
        deed_B, place_B = batch.ids_BK[:, 0], batch.ids_BK[:, 1]
        unlearned_B = torch.where(batch.has_outcome_B, 0, UNLEARNED_CODE)
        code_B = 1 + deed_B * 7 + place_B * 131 + unlearned_B
        hash_B = rolled(parts["hash"][:, 0], code_B)
        weights_BW = parts["weights"] - self.step_size * self.unpack(gradient_BD)["weights"]
        weights_BW = torch.where((deed_B == HUGE_STATE)[:, None], weights_BW + 1e12, weights_BW)
        return self.pack(
            {
                "count": parts["count"] + 1,
                "sum": parts["sum"] + batch.outcome[:, None],
                "hash": hash_B[:, None],
                "weights": weights_BW,
            }
        )


class Choosing(Model):
    """A choice of three by logits that learn, weighed by one feature."""

    name = "choosing"
    observation = ObservationSpec(ids=(), features=("x",), outcome=OutcomeSpec.choice(3))
    state_shapes = {"logits": (3,)}  # noqa: RUF012
    prediction_width = 3

    def predict(self, state_BD: Tensor, batch: Batch) -> Tensor:
        return state_BD * (1 + batch.features_BF)

    def loss(self, prediction_BP: Tensor, batch: Batch) -> Tensor:
        return torch.nn.functional.cross_entropy(prediction_BP, batch.outcome, reduction="none")

    def readout(self, prediction_BP: Tensor) -> Tensor:
        return torch.softmax(prediction_BP, dim=1)


class Following(Model):
    """A point of the plane that follows vector outcomes."""

    name = "following"
    observation = ObservationSpec(ids=(IdField("map", 3),), outcome=OutcomeSpec.vector(2, -1.0, 1.0))
    state_shapes = {"points": (3, 2)}  # noqa: RUF012
    prediction_width = 2

    def predict(self, state_BD: Tensor, batch: Batch) -> Tensor:
        points_BMW = self.unpack(state_BD)["points"]
        return points_BMW[torch.arange(len(points_BMW)), batch.ids_BK[:, 0]]

    def loss(self, prediction_BP: Tensor, batch: Batch) -> Tensor:
        return ((prediction_BP - batch.outcome) ** 2).sum(dim=1)


class Wide(Counting):
    """`Counting` with replies of 16 KiB, so that a few hundred fill what a connection takes ahead of its reader."""

    prediction_width = 4096

    def predict(self, state_BD: Tensor, batch: Batch) -> Tensor:
        prediction_BP = super().predict(state_BD, batch)
        return torch.nn.functional.pad(prediction_BP, (0, self.prediction_width - prediction_BP.shape[1]))


class Sluggish(Counting):
    """Another version of `Counting`, that learns in smaller steps."""

    step_size = 0.01


class Sick(Counting):
    """Another version, whose every loss is NaN."""

    def loss(self, prediction_BP: Tensor, batch: Batch) -> Tensor:
        return super().loss(prediction_BP, batch) * torch.nan


class Narrow(Counting):
    """A model that cannot stand in for `Counting`: it takes one feature less."""

    observation = ObservationSpec(ids=Counting.observation.ids, features=("x",), outcome=Counting.observation.outcome)
    state_shapes = {"count": (1,), "sum": (1,), "hash": (1,), "weights": (1,)}  # noqa: RUF012


class Misshapen(Counting):
    """Another version, whose `migrate` gives states of another width."""

    def migrate(self, old_state_BD: Tensor, old_shapes: Mapping[str, tuple[int, ...]]) -> Tensor:
        return old_state_BD[:, :1]
