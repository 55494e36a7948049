"""The model's own promises: the written-out gradient is autograd's, unknown items are neutral, weights stay small."""

from __future__ import annotations

import pytest
import torch

from evercurrent.model import Batch, Model
from evercurrent.models.knowledge_tracing.make_default import DEFAULT_WEIGHTS
from evercurrent.models.knowledge_tracing.model import UNKNOWN, KnowledgeTracing
from evercurrent.models.knowledge_tracing.trainer import unroll
from tests.models.conformance import draw_batch, draw_states, take


def random_model(seed: int) -> KnowledgeTracing:
    """Every weight drawn at large, so that no term of the gradient is near zero."""
    generator = torch.Generator().manual_seed(seed)
    model = KnowledgeTracing(num_items=30, num_skills=6, state_size=16, embedding_size=8, hidden_size=10)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.6, generator=generator)
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize("seed", range(5))
def test_update_is_what_autograd_gives(seed: int) -> None:
    model, generator = random_model(seed), torch.Generator().manual_seed(seed)
    state_BD = draw_states(model, 64, generator)
    batch = draw_batch(model.observation, 64, generator)
    written, derived = model.update(state_BD, batch), Model.update(model, state_BD, batch)
    for name in ("state_BD", "prediction_BP", "loss_B", "gradient_norm_B"):
        torch.testing.assert_close(getattr(written, name), getattr(derived, name), atol=1e-5, rtol=1e-5)
    assert float(written.gradient_norm_B.max()) > 0.1


def test_row_without_outcome_stays_bit_for_bit() -> None:
    model, generator = random_model(0), torch.Generator().manual_seed(0)
    state_BD, batch = draw_states(model, 64, generator), draw_batch(model.observation, 64, generator)
    without = ~batch.has_outcome_B
    assert bool(without.any())
    assert torch.equal(model.update(state_BD, batch).state_BD[without], state_BD[without])


def test_right_answer_raises_the_next_prediction_and_wrong_lowers_it() -> None:
    model = KnowledgeTracing(num_items=30, num_skills=6)
    model.initialise(torch.Generator().manual_seed(3))
    model.eval().requires_grad_(False)
    batch = take(draw_batch(model.observation, 1, torch.Generator().manual_seed(3)), torch.tensor([0, 0]))
    batch = Batch(
        batch.ids_BK, batch.features_BF, torch.tensor([1.0, 0.0]), torch.tensor([True, True]), batch.event_time_us_B
    )
    state_BD = model.initial_state().repeat(2, 1)
    before = model.predict(state_BD, batch)[:, 0]
    after = model.predict(model.update(state_BD, batch).state_BD, batch)[:, 0]
    assert after[0] > before[0]
    assert after[1] < before[1]


def test_unroll_is_the_served_steps() -> None:
    model, generator = random_model(1), torch.Generator().manual_seed(1)
    batches = [draw_batch(model.observation, 8, generator) for _ in range(6)]
    state_BD = model.initial_state().repeat(8, 1)
    unrolled_BD, logit_TB = unroll(
        model,
        state_BD,
        torch.stack([batch.ids_BK for batch in batches]),
        torch.stack([batch.outcome for batch in batches]),
        torch.stack([batch.has_outcome_B.float() for batch in batches]),
    )
    for t, batch in enumerate(batches):
        update = model.update(state_BD, batch)
        torch.testing.assert_close(logit_TB[t].sigmoid(), update.prediction_BP[:, 0])
        state_BD = update.state_BD
    torch.testing.assert_close(unrolled_BD, state_BD)


def test_unrolled_loss_reaches_what_only_the_step_uses() -> None:
    model = random_model(2).train().requires_grad_(True)
    generator = torch.Generator().manual_seed(2)
    ids_TB2 = torch.stack([draw_batch(model.observation, 4, generator).ids_BK for _ in range(3)])
    _, logit_TB = unroll(model, model.initial_S.repeat(4, 1), ids_TB2, torch.ones(3, 4), torch.ones(3, 4))
    logit_TB[-1].sum().backward()
    for parameter in (model.rate_S, model.decay_logit_S, model.initial_S, model.rest_S):
        assert parameter.grad is not None
        assert bool(parameter.grad.any())


def test_folded_reads_as_the_embeddings_do_and_follows_new_weights() -> None:
    model, generator = random_model(3), torch.Generator().manual_seed(3)
    ids_BK = draw_batch(model.observation, 64, generator).ids_BK
    folded = model.read(ids_BK)
    for served, trained in zip(folded, model.train().read(ids_BK), strict=True):
        torch.testing.assert_close(served, trained, atol=1e-5, rtol=1e-5)
    model.eval().load_state_dict(random_model(4).state_dict())
    for served, trained in zip(model.read(ids_BK), random_model(4).train().read(ids_BK), strict=True):
        torch.testing.assert_close(served, trained, atol=1e-5, rtol=1e-5)
    assert not torch.equal(model.read(ids_BK).direction_BS, folded.direction_BS)


def test_initialised_by_seed() -> None:
    first, again, other = (KnowledgeTracing(num_items=5, num_skills=3) for _ in range(3))
    for model, seed in ((first, 1), (again, 1), (other.eval(), 2)):
        model.initialise(torch.Generator().manual_seed(seed))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.state_weight_SG, other.state_weight_SG)
    assert not first.skill_table[UNKNOWN].any()
    ids_BK = torch.tensor([[1, 2]])
    torch.testing.assert_close(other.read(ids_BK).direction_BS, other.train().read(ids_BK).direction_BS)


def test_state_is_32_floats_and_shipped_weights_are_small() -> None:
    assert KnowledgeTracing(num_items=5, num_skills=3).state_width == 32
    assert DEFAULT_WEIGHTS.stat().st_size < 1_000_000
