"""What every model must hold, written once: call `check_*` with any model and a seed.

Each check draws random but valid observations from the model's own spec, so a new model needs no data of its own.
Letters as in `evercurrent.model`; N observations, each with a row.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from evercurrent.model import Batch, Model, ObservationSpec, OutcomeKind, OutcomeSpec
from evercurrent.models.loading import class_path, load_model, save_model

TOLERANCE = 1e-5


def draw_batch(spec: ObservationSpec, size: int, generator: torch.Generator) -> Batch:
    """Valid observations, about one in four without an outcome."""
    has_B = torch.rand(size, generator=generator) < 0.75
    ids = [torch.randint(field.size, (size,), generator=generator) for field in spec.ids]
    outcome = _draw_outcome(spec.outcome, size, generator)
    outcome[~has_B] = 0
    return Batch(
        ids_BK=torch.stack(ids, dim=1) if ids else torch.zeros(size, 0, dtype=torch.int64),
        features_BF=torch.randn(size, len(spec.features), generator=generator),
        outcome=outcome,
        has_outcome_B=has_B,
        event_time_us_B=torch.randint(10**15, (size,), generator=generator),
    )


def draw_states(model: Model, size: int, generator: torch.Generator) -> Tensor:
    """Rows of users who have learned a little, each from other observations."""
    state_BD = model.initial_state().repeat(size, 1)
    for _ in range(5):
        state_BD = model.update(state_BD, draw_batch(model.observation, size, generator)).state_BD
    # An update may give tensors of inference mode, which autograd takes only as copies.
    return state_BD.clone()


def take(batch: Batch, index: Tensor) -> Batch:
    """Some observations of a batch."""
    return Batch(*(part[index] for part in _parts(batch)))


def check_shapes(model: Model, seed: int) -> None:
    """Every part of an update has the declared shape, is float32 and finite."""
    generator = torch.Generator().manual_seed(seed)
    batch = draw_batch(model.observation, 7, generator)
    update = model.update(model.initial_state().repeat(7, 1), batch)
    assert model.initial_state().shape == (model.state_width,)
    assert update.state_BD.shape == (7, model.state_width)
    assert update.prediction_BP.shape == (7, model.prediction_width)
    assert update.loss_B.shape == update.gradient_norm_B.shape == (7,)
    for part in (update.state_BD, update.prediction_BP, update.loss_B, update.gradient_norm_B):
        assert part.dtype == torch.float32
        assert bool(part.isfinite().all())
        assert not part.requires_grad


def check_nothing_is_mutated(model: Model, seed: int) -> None:
    """Neither predict nor update changes rows, observations or weights."""
    generator = torch.Generator().manual_seed(seed)
    state_BD, batch = draw_states(model, 9, generator), draw_batch(model.observation, 9, generator)
    kept = [tensor.clone() for tensor in (state_BD, *_parts(batch), *model.state_dict().values())]
    model.predict(state_BD, batch)
    model.update(state_BD, batch)
    now = (state_BD, *_parts(batch), *model.state_dict().values())
    assert all(torch.equal(before, after) for before, after in zip(kept, now, strict=True))
    one, other = model.initial_state(), model.initial_state()
    assert one.data_ptr() != other.data_ptr(), "each user needs a row of its own"


def check_predict_is_blind(model: Model, seed: int) -> None:
    """A prediction is the same whatever the outcome turns out to be, and is what the update reports."""
    generator = torch.Generator().manual_seed(seed)
    state_BD, batch = draw_states(model, 9, generator), draw_batch(model.observation, 9, generator)
    blind = Batch(
        batch.ids_BK,
        batch.features_BF,
        torch.zeros_like(batch.outcome),
        torch.zeros_like(batch.has_outcome_B),
        batch.event_time_us_B,
    )
    prediction_BP = model.predict(state_BD, batch)
    assert torch.equal(prediction_BP, model.predict(state_BD, blind))
    torch.testing.assert_close(
        model.readout(prediction_BP), model.update(state_BD, batch).prediction_BP, atol=TOLERANCE, rtol=TOLERANCE
    )


def check_same_again(model: Model, seed: int) -> None:
    """An update is a function: the same inputs give the same bits."""
    generator = torch.Generator().manual_seed(seed)
    state_BD, batch = draw_states(model, 9, generator), draw_batch(model.observation, 9, generator)
    assert torch.equal(model.update(state_BD, batch).state_BD, model.update(state_BD, batch).state_BD)


def check_rows_are_independent(model: Model, seed: int) -> None:
    """However the observations are cut into batches and ordered, each row learns the same."""
    generator = torch.Generator().manual_seed(seed)
    state_ND, batch = draw_states(model, 33, generator), draw_batch(model.observation, 33, generator)
    whole = model.update(state_ND, batch)
    shuffled_N = torch.randperm(33, generator=generator)
    for cut in (1, 5, 33):
        for index in shuffled_N.split(cut):
            part = model.update(state_ND[index], take(batch, index))
            for name in ("state_BD", "prediction_BP", "loss_B", "gradient_norm_B"):
                torch.testing.assert_close(
                    getattr(part, name), getattr(whole, name)[index], atol=TOLERANCE, rtol=TOLERANCE
                )


def check_learns_only_from_outcomes(model: Model, seed: int) -> None:
    """Without an outcome there is no loss and no gradient; with one, something is learned."""
    generator = torch.Generator().manual_seed(seed)
    state_BD, batch = draw_states(model, 32, generator), draw_batch(model.observation, 32, generator)
    update = model.update(state_BD, batch)
    has_B = batch.has_outcome_B
    assert not update.loss_B[~has_B].any()
    assert not update.gradient_norm_B[~has_B].any()
    assert bool((update.state_BD != state_BD)[has_B].any(1).all())


def check_saved_model_goes_on(model: Model, seed: int, path: Path) -> None:
    """A model saved and loaded, with rows carried over as bytes, continues bit for bit."""
    generator = torch.Generator().manual_seed(seed)
    state_BD = draw_states(model, 9, generator)
    save_model(model, path)
    loaded = load_model(class_path(type(model)), path)
    restored_BD = torch.frombuffer(bytearray(state_BD.numpy().tobytes()), dtype=torch.float32).view_as(state_BD)
    for _ in range(3):
        batch = draw_batch(model.observation, 9, generator)
        state_BD = model.update(state_BD, batch).state_BD
        restored_BD = loaded.update(restored_BD, batch).state_BD
        assert torch.equal(state_BD, restored_BD)
    assert torch.equal(loaded.initial_state(), model.initial_state())


def _draw_outcome(spec: OutcomeSpec, size: int, generator: torch.Generator) -> Tensor:
    low, high = max(spec.low, -5.0), min(spec.high, 5.0)
    match spec.kind:
        case OutcomeKind.CHOICE:
            return torch.randint(spec.num_choices, (size,), generator=generator)
        case OutcomeKind.VALUE:
            return low + (high - low) * torch.rand(size, generator=generator)
        case OutcomeKind.VECTOR:
            return low + (high - low) * torch.rand(size, spec.width, generator=generator)


def _parts(batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return batch.ids_BK, batch.features_BF, batch.outcome, batch.has_outcome_B, batch.event_time_us_B
