"""Small models for the tests: of each kind of outcome, by the default update, with state that is not learned."""

from __future__ import annotations

from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from evercurrent.model import Batch, IdField, Model, ObservationSpec, OutcomeSpec


class Level(Model):
    """Follows a number by a gradient step that shrinks with the count; the count itself is not learned."""

    name: ClassVar[str] = "level"
    observation = ObservationSpec(features=("offset",), outcome=OutcomeSpec.value())
    state_shapes = MappingProxyType({"count": (1,), "level": (1,)})
    learned = ("level",)

    def predict(self, state_BD: Tensor, batch: Batch) -> Tensor:
        return self.unpack(state_BD)["level"] + batch.features_BF

    def loss(self, prediction_BP: Tensor, batch: Batch) -> Tensor:
        return 0.5 * (prediction_BP[:, 0] - batch.outcome).square()

    def learn(self, state_BD: Tensor, gradient_BD: Tensor, batch: Batch) -> Tensor:
        parts = self.unpack(state_BD)
        count_B1 = parts["count"] + batch.has_outcome_B.unsqueeze(1)
        level_B1 = parts["level"] - self.unpack(gradient_BD)["level"] / count_B1.clamp(min=1.0)
        return self.pack({"count": count_B1, "level": level_B1})


class Preference(Model):
    """One of three choices by a learned table of places: a choice outcome, weights and a config of its own."""

    name: ClassVar[str] = "preference"
    prediction_width = 3

    def __init__(self, num_places: int = 5) -> None:
        super().__init__()
        self.observation = ObservationSpec(ids=(IdField("place", num_places),), outcome=OutcomeSpec.choice(3))
        self.state_shapes = {"taste": (3, 4)}
        self.place = nn.Parameter(torch.linspace(-1.0, 1.0, num_places * 4).reshape(num_places, 4))

    def config(self) -> dict[str, object]:
        return {"num_places": self.observation.ids[0].size}

    def initial_state(self) -> Tensor:
        return torch.linspace(-0.1, 0.1, 12)

    def predict(self, state_BD: Tensor, batch: Batch) -> Tensor:
        return (self.unpack(state_BD)["taste"] * self.place[batch.ids_BK[:, 0]].unsqueeze(1)).sum(-1)

    def loss(self, prediction_BP: Tensor, batch: Batch) -> Tensor:
        return functional.cross_entropy(prediction_BP, batch.outcome, reduction="none")

    def readout(self, prediction_BP: Tensor) -> Tensor:
        return prediction_BP.softmax(1)


class Position(Model):
    """A point in the plane: a vector outcome, and the default step."""

    name: ClassVar[str] = "position"
    observation = ObservationSpec(outcome=OutcomeSpec.vector(2, low=-10.0, high=10.0))
    state_shapes = MappingProxyType({"point": (2,)})
    prediction_width = 2

    def predict(self, state_BD: Tensor, batch: Batch) -> Tensor:
        return state_BD * 1.0

    def loss(self, prediction_BP: Tensor, batch: Batch) -> Tensor:
        return (prediction_BP - batch.outcome).square().sum(1)


class NotAModel:
    """What a mistaken spec may name."""


class Unfinished(Model):
    """A model that still lacks its methods."""

    name: ClassVar[str] = "unfinished"
