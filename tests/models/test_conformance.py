"""Every model of ours, and toys of each kind of outcome, hold what all models must hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from evercurrent.model import Batch, Model, Update
from evercurrent.models.loading import MODEL_NAMES, load_model
from tests.models import conformance
from tests.models.families import FAMILY, untrained
from tests.models.toys import Level, Position, Preference

SEEDS = (0, 1, 2)
CHECKS = (
    conformance.check_shapes,
    conformance.check_nothing_is_mutated,
    conformance.check_predict_is_blind,
    conformance.check_same_again,
    conformance.check_rows_are_independent,
    conformance.check_learns_only_from_outcomes,
)


MODELS: dict[str, Callable[[], Model]] = {
    **{name: lambda name=name: load_model(name) for name in MODEL_NAMES},  # type: ignore[misc]
    **{f"{name} untrained": lambda name=name: untrained(name) for name in FAMILY},  # type: ignore[misc]
    "level": Level,
    "preference": lambda: Preference(num_places=11),
    "position": Position,
}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> Model:
    return MODELS[request.param]().eval().requires_grad_(False)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_model_conforms(model: Model, check: Callable[[Model, int], None], seed: int) -> None:
    check(model, seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_saved_model_goes_on(model: Model, seed: int, tmp_path: Path) -> None:
    conformance.check_saved_model_goes_on(model, seed, tmp_path / "weights.safetensors")


class Mutating(Position):
    def predict(self, state_BD: Tensor, batch: Batch) -> Tensor:
        state_BD.mul_(1.5)
        return state_BD.clone()

    def update(self, state_BD: Tensor, batch: Batch) -> Update:
        return super().update(state_BD.clone(), batch)


class Peeking(Position):
    def predict(self, state_BD: Tensor, batch: Batch) -> Tensor:
        return state_BD + 0.1 * batch.outcome


class Mingling(Position):
    def learn(self, state_BD: Tensor, gradient_BD: Tensor, batch: Batch) -> Tensor:
        return state_BD - 0.1 * gradient_BD / len(batch)


class Restless(Position):
    def learn(self, state_BD: Tensor, gradient_BD: Tensor, batch: Batch) -> Tensor:
        return state_BD - 0.1 * gradient_BD + torch.rand_like(state_BD)


class Idle(Position):
    def learn(self, state_BD: Tensor, gradient_BD: Tensor, batch: Batch) -> Tensor:
        return state_BD


class Narrow(Position):
    prediction_width = 1


@pytest.mark.parametrize(
    ("faulty", "check"),
    [
        (Mutating, conformance.check_nothing_is_mutated),
        (Peeking, conformance.check_predict_is_blind),
        (Mingling, conformance.check_rows_are_independent),
        (Restless, conformance.check_same_again),
        (Idle, conformance.check_learns_only_from_outcomes),
        (Narrow, conformance.check_shapes),
    ],
)
def test_faulty_model_is_caught(faulty: type[Model], check: Callable[[Model, int], None]) -> None:
    with pytest.raises((AssertionError, RuntimeError)):
        check(faulty().eval(), 0)
