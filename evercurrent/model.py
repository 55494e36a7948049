"""The model API: what a model takes, what it keeps for each user, and how an observation changes it.

A model's weights are shared and never change while it serves; what learns is each user's *state*, a few named tensors
packed in one float32 row. An update is predict, score, then learn, for many users at once. Nothing here knows of
serving, storage or time other than the observation's own.

Letters in tensor names: B users in a batch (one observation each), D floats of a state row, K id fields, F features,
W outcome width, P prediction width.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class IdField:
    """One id of an observation: an int64 in [0, size)."""

    name: str
    size: int


class OutcomeKind(Enum):
    """What an outcome is: one number, one of a number of choices, or a vector of numbers."""

    VALUE = "value"
    CHOICE = "choice"
    VECTOR = "vector"


@dataclass(frozen=True, slots=True)
class OutcomeSpec:
    """The outcome a model learns from.

    `low` and `high` bound a value or each part of a vector, both inclusive; `num_choices` belongs to a choice and
    `width` to a vector.
    """

    kind: OutcomeKind
    width: int = 1
    num_choices: int = 0
    low: float = -math.inf
    high: float = math.inf

    @classmethod
    def bernoulli(cls) -> OutcomeSpec:
        """A value in [0, 1]: did it happen?"""
        return cls(OutcomeKind.VALUE, low=0.0, high=1.0)

    @classmethod
    def value(cls, low: float = -math.inf, high: float = math.inf) -> OutcomeSpec:
        """One number in [low, high]."""
        return cls(OutcomeKind.VALUE, low=low, high=high)

    @classmethod
    def choice(cls, num_choices: int) -> OutcomeSpec:
        """One of `num_choices`, by its index."""
        return cls(OutcomeKind.CHOICE, num_choices=num_choices)

    @classmethod
    def vector(cls, width: int, low: float = -math.inf, high: float = math.inf) -> OutcomeSpec:
        """`width` numbers, each in [low, high]."""
        return cls(OutcomeKind.VECTOR, width=width, low=low, high=high)


@dataclass(frozen=True, slots=True)
class ObservationSpec:
    """The shape of one observation. Everything that does not fit is rejected before the model sees it."""

    ids: tuple[IdField, ...] = ()
    features: tuple[str, ...] = ()
    outcome: OutcomeSpec = OutcomeSpec(OutcomeKind.VALUE)


@dataclass(frozen=True, slots=True)
class Batch:
    """B observations of B different users.

    `outcome` is float32 [B] for a value, int64 [B] for a choice, float32 [B, W] for a vector; where `has_outcome_B`
    is False its cells are zero. `event_time_us_B` is microseconds since the Unix epoch and the only clock a model may
    read.
    """

    ids_BK: Tensor
    features_BF: Tensor
    outcome: Tensor
    has_outcome_B: Tensor
    event_time_us_B: Tensor

    def __len__(self) -> int:
        return int(self.has_outcome_B.shape[0])


@dataclass(frozen=True, slots=True)
class Update:
    """What one step gives: the new rows, and what was predicted and lost before learning.

    `loss_B` is 0 where there was no outcome. `gradient_norm_B` is what the update guard bounds.
    """

    state_BD: Tensor
    prediction_BP: Tensor
    loss_B: Tensor
    gradient_norm_B: Tensor


class ArrayUpdate(NamedTuple):
    """An Update in arrays, float32."""

    state_BD: Floats
    prediction_BP: Floats
    loss_B: Floats
    gradient_norm_B: Floats


class CompiledUpdate(Protocol):
    """`Model.update` without torch: rows [B, D] and the parts of a Batch, as arrays, which may be views of records and
    are neither kept nor changed. Ids are within their fields; where there is no outcome its cells may be anything."""

    def __call__(
        self,
        state_BD: Floats,
        ids_BK: NDArray[np.int64],
        features_BF: Floats,
        outcome: NDArray[Any],
        has_outcome_B: NDArray[np.bool_],
        event_time_us_B: NDArray[np.int64],
    ) -> ArrayUpdate: ...


class Model(nn.Module, ABC):
    """Base class of every served model.

    A subclass sets `name`, `observation`, `state_shapes` and `prediction_width` (as class attributes, or in `__init__`
    before use) and writes `predict` and `loss`. The state's tensors named in `learned` follow the gradient; the others
    (counts, moments, times) change only where `learn` says so. `predict`, `loss` and `learn` treat each row by itself:
    a user's result never depends on who else is in the batch.
    """

    name: ClassVar[str]
    observation: ObservationSpec
    state_shapes: Mapping[str, tuple[int, ...]]
    prediction_width: int = 1
    learned: tuple[str, ...] | None = None
    step_size: float = 0.1
    gradient_norm_max: float = 1e4
    state_abs_max: float = 1e6
    quarantine_after: int = 20
    score_max: float = math.nan

    @abstractmethod
    def predict(self, state_BD: Tensor, batch: Batch) -> Tensor:
        """Predictions [B, P] from state rows and what is known before the outcome. Must not change its inputs, nor read
        `batch.outcome` or `batch.has_outcome_B`."""

    @abstractmethod
    def loss(self, prediction_BP: Tensor, batch: Batch) -> Tensor:
        """Losses [B] of those predictions, differentiable in them, finite for every valid outcome."""

    def score(self, prediction_BP: Tensor, batch: Batch) -> Tensor:
        """How far predictions, as clients see them, were from what happened: [B], 0 to `score_max`, less is better.
        Versions are compared by it where the policy says so (SCORE_MODEL). By default there is none."""
        raise NotImplementedError(f"{self.name} has no score of its own")

    def readout(self, prediction_BP: Tensor) -> Tensor:
        """What clients see of a prediction, [B, P]: say, probabilities of logits. By default the prediction itself."""
        return prediction_BP

    def initial_state(self) -> Tensor:
        """The row [D] of a user never seen before. By default zeros."""
        return torch.zeros(self.state_width)

    def learn(self, state_BD: Tensor, gradient_BD: Tensor, batch: Batch) -> Tensor:
        """New rows [B, D] from the rows and the gradients of their losses. By default a step of `step_size` downhill.

        Called without gradient tracking while serving, with it while training by unrolling. Rows whose
        `has_outcome_B` is False have a zero gradient.
        """
        return state_BD - self.step_size * gradient_BD

    def update(self, state_BD: Tensor, batch: Batch) -> Update:
        """Predict, score, learn. One backward for all: each loss touches only its own row, so the gradient of their sum
        holds every user's own gradient."""
        with torch.enable_grad():
            leaf_BD = state_BD.detach().requires_grad_()
            prediction_BP = self.predict(leaf_BD, batch)
            loss_B = self.loss(prediction_BP, batch) * batch.has_outcome_B
            (gradient_BD,) = torch.autograd.grad(loss_B.sum(), leaf_BD)
        with torch.no_grad():
            if self.learned is not None:
                gradient_BD = gradient_BD * self._learned_mask_D()
            return Update(
                state_BD=self.learn(state_BD, gradient_BD, batch),
                prediction_BP=self.readout(prediction_BP.detach()),
                loss_B=loss_B.detach(),
                gradient_norm_B=torch.linalg.vector_norm(gradient_BD, dim=1),
            )

    def compiled_update(self) -> CompiledUpdate | None:
        """`update` with the weights of now as machine code, if there is such: it serves in its place, and must treat
        each row by itself. None, as by default: `update` serves. It may take a second when it is first asked for."""
        return None

    def migrate(self, old_state_BD: Tensor, old_shapes: Mapping[str, tuple[int, ...]]) -> Tensor:
        """Rows of this model from rows of an older version. By default tensors of the same name and shape are kept and
        the others start anew."""
        new_BD = self.initial_state().repeat(old_state_BD.shape[0], 1)
        old = unpack(old_state_BD, old_shapes)
        for name, part in unpack(new_BD, self.state_shapes).items():
            if name in old and old[name].shape == part.shape:
                part.copy_(old[name])
        return new_BD

    @property
    def state_width(self) -> int:
        """D: how many floats a user's row has."""
        return sum(math.prod(shape) for shape in self.state_shapes.values())

    def unpack(self, state_BD: Tensor) -> dict[str, Tensor]:
        """The named tensors of packed rows, as views [B, *shape]."""
        return unpack(state_BD, self.state_shapes)

    def pack(self, parts: Mapping[str, Tensor]) -> Tensor:
        """Packed rows [B, D] of the named tensors [B, *shape]; all must be given."""
        if parts.keys() != self.state_shapes.keys():
            raise ValueError(f"state tensors are {sorted(self.state_shapes)}, got {sorted(parts)}")
        return torch.cat([parts[name].flatten(1) for name in self.state_shapes], dim=1)

    def config(self) -> dict[str, object]:
        """Keyword arguments that build this model again; saved beside its weights. By default none."""
        return {}

    def _learned_mask_D(self) -> Tensor:
        mask: Tensor | None = self.__dict__.get("_mask_D")
        if mask is None:
            mask = self.pack(
                {
                    name: torch.full((1, *shape), float(name in (self.learned or ())))
                    for name, shape in self.state_shapes.items()
                }
            )[0]
            self.__dict__["_mask_D"] = mask
        return mask


def unpack(state_BD: Tensor, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Views [B, *shape] of packed rows, by name."""
    parts = state_BD.split([math.prod(shape) for shape in shapes.values()], dim=1)
    return {name: part.view(-1, *shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
