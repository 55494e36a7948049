"""An update as machine code is the update by torch, row by row, for every kind of event that it stands for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from evercurrent.describe import describe
from evercurrent.model import ArrayUpdate, Batch, CompiledUpdate, IdField, ObservationSpec, Update
from evercurrent.models.adaptive import Adaptive
from evercurrent.models.adaptive.clock import clock_of
from evercurrent.models.adaptive.compiled import exp
from evercurrent.models.adaptive.model import Answer, Reading, Weights
from evercurrent.models.knowledge_tracing import KnowledgeTracing
from evercurrent.models.loading import load_model
from evercurrent.wire import Layout
from tests.models.conformance import draw_batch, draw_states
from tests.models.families import FAMILY, SMALL, drawn_at_large
from worker.learner import arrays_of, probe

BEGIN_US = 20_000 * 86_400_000_000
COMPILED = [name for name in FAMILY if name.startswith(("knowledge", "bernoulli"))]


def drawn(name: str, seed: int, size: int) -> tuple[Adaptive, Tensor, Batch]:
    """A model, states, and events within the hour after them, about one in four without an outcome."""
    model, generator = drawn_at_large(name, seed), torch.Generator().manual_seed(seed)
    state_BD, batch = draw_states(model, size, generator), draw_batch(model.observation, size, generator)
    if model.uses_time:
        state_BD[:, -2:] = clock_of(torch.full((size,), BEGIN_US))
        state_BD[: size // 4, -2:] = 0.0
    # Some come before the last one, and some have no time.
    time_us_B = BEGIN_US + torch.randint(-600_000_000, 3_600_000_000, (size,), generator=generator)
    time_us_B[:: size // 4] = 0
    return model, state_BD, replace(batch, event_time_us_B=time_us_B)


def run(update: CompiledUpdate | None, state_BD: Tensor, batch: Batch) -> ArrayUpdate:
    assert update is not None
    outcome = batch.outcome.numpy().copy()
    outcome[~batch.has_outcome_B.numpy()] = np.nan
    return update(
        state_BD.numpy(),
        batch.ids_BK.numpy(),
        batch.features_BF.numpy(),
        outcome,
        batch.has_outcome_B.numpy(),
        batch.event_time_us_B.numpy(),
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", COMPILED)
def test_it_is_the_update_by_torch(name: str, seed: int) -> None:
    model, state_BD, batch = drawn(name, seed, 64)
    expected, found = arrays_of(model.update(state_BD, batch)), run(model.compiled_update(), state_BD, batch)
    for part, other in zip(expected, found, strict=True):
        assert part.shape == other.shape
        assert other.dtype == np.float32
        np.testing.assert_allclose(other, part, atol=2e-5, rtol=2e-5)
    without = ~batch.has_outcome_B.numpy()
    assert np.array_equal(found.state_BD[without], state_BD.numpy()[without])
    assert not found.loss_B[without].any()
    assert not found.gradient_norm_B[without].any()


@pytest.mark.parametrize("name", COMPILED)
def test_no_row_depends_on_the_cut_of_a_batch(name: str) -> None:
    model, state_BD, batch = drawn(name, 7, 64)
    update = model.compiled_update()
    whole = run(update, state_BD, batch)
    parts = [batch.ids_BK, batch.features_BF, batch.outcome, batch.has_outcome_B, batch.event_time_us_B]
    for first, last in ((0, 1), (1, 4), (4, 64)):
        cut = run(update, state_BD[first:last], Batch(*(part[first:last] for part in parts)))
        for part, other in zip(whole, cut, strict=True):
            assert np.array_equal(part[first:last], other)


def test_columns_of_records_are_read_where_they_lie() -> None:
    model, state_BD, batch = drawn("knowledge-tracing", 3, 8)
    update = model.compiled_update()
    assert update is not None
    record = np.dtype([("kind", "u1"), ("ids", "<i8", (2,)), ("outcome", "<f4", (1,)), ("time", "<i8")])
    events = np.zeros(8, record)
    events["ids"], events["outcome"][:, 0] = batch.ids_BK.numpy(), batch.outcome.numpy()
    features = np.zeros((8, 0), np.float32)
    told = np.ones(8, np.bool_)
    events.setflags(write=False)
    found = update(state_BD.numpy(), events["ids"], features, events["outcome"][:, 0], told, events["time"])
    expected = run(update, state_BD, replace(batch, has_outcome_B=torch.ones(8, dtype=torch.bool)))
    for part, other in zip(expected, found, strict=True):
        assert np.array_equal(part, other)


def test_it_has_the_weights_of_when_it_was_asked_for() -> None:
    model, state_BD, batch = drawn("knowledge-tracing", 1, 8)
    before = run(model.compiled_update(), state_BD, batch)
    model.load_state_dict(drawn_at_large("knowledge-tracing", 2).state_dict())
    after = run(model.compiled_update(), state_BD, batch)
    assert not np.allclose(before.prediction_BP, after.prediction_BP)
    np.testing.assert_allclose(after.prediction_BP, model.update(state_BD, batch).prediction_BP, atol=2e-5)


def test_exp_is_close_everywhere_and_bounded() -> None:
    values = np.linspace(-87, 88, 20_001, dtype=np.float32)
    found = np.array([exp(value) for value in values])
    np.testing.assert_allclose(found, np.exp(values.astype(np.float64)), rtol=2e-7)
    assert exp(np.float32(-1e30)) == exp(np.float32(-87))
    assert exp(np.float32(1e30)) == exp(np.float32(88))
    assert np.isnan(exp(np.float32(np.nan)))


class Doubtful(KnowledgeTracing):
    """Has a step of its own."""

    def slope(self, answer: Answer, reading: Reading, weights: Weights) -> Tensor:
        return 2 * super().slope(answer, reading, weights)


class Wrong(KnowledgeTracing):
    """What is compiled is not its update."""

    def update(self, state_BD: Tensor, batch: Batch) -> Update:
        update = super().update(state_BD, batch)
        return replace(update, state_BD=update.state_BD + 1)

    def compiled_update(self) -> CompiledUpdate | None:
        return KnowledgeTracing(40, 7, **SMALL).eval().compiled_update()


class Flat(KnowledgeTracing):
    """What is compiled gives the same numbers in another shape."""

    def compiled_update(self) -> CompiledUpdate | None:
        inner = super().compiled_update()
        assert inner is not None

        def flat(*columns: Any) -> ArrayUpdate:
            update = inner(*columns)
            return update._replace(prediction_BP=update.prediction_BP[:, 0])

        return cast(CompiledUpdate, flat)


class Wider(KnowledgeTracing):
    """Keeps more in a row than the family does."""

    def __init__(self) -> None:
        super().__init__(40, 7, **SMALL)
        self.state_shapes = {**self.state_shapes, "count": (2,)}


class MoreIds(KnowledgeTracing):
    """Takes ids that no table has a row for."""

    def __init__(self) -> None:
        super().__init__(40, 7, **SMALL)
        self.observation = ObservationSpec((IdField("item", 41), IdField("skill", 7)), outcome=self.head.outcome)


def test_what_is_not_the_familys_own_update_is_not_compiled() -> None:
    assert Wider().eval().compiled_update() is None
    assert MoreIds().eval().compiled_update() is None
    assert Doubtful(40, 7, **SMALL).eval().compiled_update() is None
    assert KnowledgeTracing(40, 7, **SMALL).train().compiled_update() is None
    for name in FAMILY.keys() - set(COMPILED):
        assert FAMILY[name]().eval().compiled_update() is None
    assert load_model("knowledge-tracing").compiled_update() is not None


@pytest.mark.parametrize(("kind", "part"), [(Wrong, "state_BD"), (Flat, "prediction_BP")])
def test_a_model_whose_compiled_update_is_another_is_refused(kind: type[KnowledgeTracing], part: str) -> None:
    model = kind(40, 7, **SMALL).eval().requires_grad_(False)
    with pytest.raises(ValueError, match=f"compiled_update gives {part}"):
        probe(model, Layout.of(describe(model)))
