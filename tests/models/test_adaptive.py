"""The family's own promises: the written-out gradient is autograd's, unrolled steps are the served ones, what is folded
reads as the embeddings do, and time without events fades what was learned."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from evercurrent.model import Batch, Model
from evercurrent.models.adaptive import UNKNOWN, Adaptive, Ranking
from evercurrent.models.adaptive.clock import clock_of, gap_s
from evercurrent.models.adaptive.heads import head_of
from evercurrent.models.adaptive.model import Reading
from evercurrent.models.adaptive.unrolling import Window, unroll
from evercurrent.models.knowledge_tracing import KnowledgeTracing
from evercurrent.models.knowledge_tracing.make_default import DEFAULT_WEIGHTS
from tests.models.conformance import draw_batch, draw_states, take
from tests.models.families import FAMILY, drawn_at_large, untrained

DAY_US = 86_400_000_000
BEGIN_US = 20_000 * DAY_US


def soon(batch: Batch, generator: torch.Generator, after_us: int = BEGIN_US) -> Batch:
    """The same within the next hour: gaps that leave something."""
    time_us_B = after_us + torch.randint(3_600_000_000, (len(batch),), generator=generator)
    return replace(batch, event_time_us_B=time_us_B)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", FAMILY)
def test_update_is_what_autograd_gives(name: str, seed: int) -> None:
    model, generator = drawn_at_large(name, seed), torch.Generator().manual_seed(seed)
    state_BD = draw_states(model, 64, generator)
    if model.uses_time:
        state_BD[:, -2:] = clock_of(torch.full((64,), BEGIN_US - 60_000_000))
    batch = soon(draw_batch(model.observation, 64, generator), generator)
    written, derived = model.update(state_BD, batch), Model.update(model, state_BD, batch)
    parts = ["state_BD", "prediction_BP", "loss_B"]
    for part in parts if model.head.is_natural else [*parts, "gradient_norm_B"]:
        torch.testing.assert_close(getattr(written, part), getattr(derived, part), atol=1e-4, rtol=1e-4)
    assert float(written.gradient_norm_B.max()) > 0.1


@pytest.mark.parametrize("name", FAMILY)
def test_row_without_outcome_stays_bit_for_bit(name: str) -> None:
    model, generator = drawn_at_large(name, 0), torch.Generator().manual_seed(0)
    state_BD, batch = draw_states(model, 64, generator), draw_batch(model.observation, 64, generator)
    without = ~batch.has_outcome_B
    assert bool(without.any())
    assert torch.equal(model.update(state_BD, batch).state_BD[without], state_BD[without])


def test_right_answer_raises_the_next_prediction_and_wrong_lowers_it() -> None:
    model = untrained("knowledge-tracing", 3)
    batch = take(draw_batch(model.observation, 1, torch.Generator().manual_seed(3)), torch.tensor([0, 0]))
    batch = replace(batch, outcome=torch.tensor([1.0, 0.0]), has_outcome_B=torch.tensor([True, True]))
    state_BD = model.initial_state().repeat(2, 1)
    before = model.predict(state_BD, batch)[:, 0]
    after = model.predict(model.update(state_BD, batch).state_BD, batch)[:, 0]
    assert after[0] > before[0]
    assert after[1] < before[1]


def test_what_was_liked_rises_among_all_items() -> None:
    model = untrained("ranking", 3)
    assert isinstance(model, Ranking)
    batch = replace(
        take(draw_batch(model.observation, 1, torch.Generator().manual_seed(3)), torch.tensor([0])),
        ids_BK=torch.tensor([[4]]),
        outcome=torch.tensor([1.0]),
        has_outcome_B=torch.tensor([True]),
    )
    state_BD = model.initial_state().unsqueeze(0)
    before_I, after_I = (
        model.catalogue(row_BD)[0].softmax(0) for row_BD in (state_BD, model.update(state_BD, batch).state_BD)
    )
    assert after_I[4] > before_I[4]


@pytest.mark.parametrize("name", FAMILY)
def test_unroll_is_the_served_steps(name: str) -> None:
    model, generator = drawn_at_large(name, 1), torch.Generator().manual_seed(1)
    batches = [
        soon(draw_batch(model.observation, 8, generator), generator, BEGIN_US + t * 3_600_000_000) for t in range(6)
    ]
    batches[0] = replace(batches[0], has_outcome_B=torch.ones(8, dtype=torch.bool))
    state_BD = model.initial_state().repeat(8, 1)
    last_us_B = torch.zeros(8, dtype=torch.int64)
    gaps = []
    for batch in batches:
        gaps.append(torch.where(last_us_B > 0, (batch.event_time_us_B - last_us_B) / 1e6, 0.0).float())
        last_us_B = torch.where(batch.has_outcome_B, batch.event_time_us_B, last_us_B)
    unrolled = unroll(
        model,
        state_BD[:, : model.state_size],
        Window(
            ids_TBK=torch.stack([batch.ids_BK for batch in batches]),
            features_TBF=torch.stack([batch.features_BF for batch in batches]),
            gap_TB=torch.stack(gaps),
            outcome_TB=torch.stack([batch.outcome for batch in batches]),
            is_event_TB=torch.stack([batch.has_outcome_B for batch in batches]),
        ),
    )
    for t, batch in enumerate(batches):
        update = model.update(state_BD, batch)
        if not isinstance(model, Ranking):
            served_BP = model.readout(unrolled.output_TBP[t])
            torch.testing.assert_close(served_BP, update.prediction_BP, atol=1e-3, rtol=1e-3)
        state_BD = update.state_BD
    torch.testing.assert_close(unrolled.vector_BS, state_BD[:, : model.state_size], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", FAMILY)
def test_unrolled_loss_reaches_what_only_the_step_uses(name: str) -> None:
    model = drawn_at_large(name, 2).train().requires_grad_(True)
    generator = torch.Generator().manual_seed(2)
    batches = [draw_batch(model.observation, 4, generator) for _ in range(3)]
    window = Window(
        torch.stack([batch.ids_BK for batch in batches]),
        torch.stack([batch.features_BF for batch in batches]),
        torch.full((3, 4), 30.0),
        torch.stack([batch.outcome for batch in batches]),
        torch.ones(3, 4, dtype=torch.bool),
    )
    unrolled = unroll(model, model.initial_S.repeat(4, 1), window)
    unrolled.output_TBP[-1].sum().backward()
    reached = [model.rate_S, model.decay_logit_S, model.initial_S, model.rest_S]
    for parameter in reached + ([model.forget_log_S, model.gap] if model.uses_time else []):
        assert parameter.grad is not None
        assert bool(parameter.grad.any())


@pytest.mark.parametrize("name", FAMILY)
def test_folded_reads_as_the_embeddings_do_and_follows_new_weights(name: str) -> None:
    model, generator = drawn_at_large(name, 3), torch.Generator().manual_seed(3)
    batch = draw_batch(model.observation, 64, generator)
    inputs = batch.ids_BK, batch.features_BF, torch.rand(64, generator=generator) * 100 if model.uses_time else None
    folded = model.read(*inputs)
    for served, trained in _pairs(folded, model.train().read(*inputs)):
        torch.testing.assert_close(served, trained, atol=1e-5, rtol=1e-5)
    model.eval().load_state_dict(drawn_at_large(name, 4).state_dict())
    for served, trained in _pairs(model.read(*inputs), drawn_at_large(name, 4).train().read(*inputs)):
        torch.testing.assert_close(served, trained, atol=1e-5, rtol=1e-5)
    assert not torch.equal(model.read(*inputs).direction_BSP, folded.direction_BSP)


def _pairs(first: Reading, second: Reading) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]


@pytest.mark.parametrize("kind", ["bernoulli", "categorical"])
def test_residual_is_minus_the_derivative_of_the_loss(kind: str) -> None:
    head = head_of(kind, 4)
    generator = torch.Generator().manual_seed(0)
    output_BP = (2 * torch.randn(50, head.width, generator=generator)).requires_grad_()
    drawn = {"bernoulli": torch.rand(50), "categorical": torch.randint(4, (50,))}
    outcome_B = drawn[kind]
    (derived_BP,) = torch.autograd.grad(head.loss(output_BP, outcome_B).sum(), output_BP)
    verdict = head.judge(output_BP.detach(), outcome_B)
    torch.testing.assert_close(verdict.residual_BP, -derived_BP, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(verdict.loss_B, head.loss(output_BP.detach(), outcome_B))
    torch.testing.assert_close(verdict.seen_BP, head.readout(output_BP.detach()))


def test_gaussian_loss_is_minus_the_log_density_but_for_wild_outcomes() -> None:
    head = head_of("gaussian")
    output_BP = torch.tensor([[0.3, 0.5]]).repeat(3, 1)
    outcome_B = torch.tensor([0.3, -2.0, 4.0])
    density = torch.distributions.Normal(0.3, torch.tensor(0.5).exp())
    torch.testing.assert_close(head.loss(output_BP, outcome_B), -density.log_prob(outcome_B))
    far = head.loss(output_BP, torch.tensor([100.0, 200.0, 300.0]))
    torch.testing.assert_close(far[2] - far[1], far[1] - far[0])


def test_gaussian_residual_is_the_natural_gradient() -> None:
    """Minus the derivative of the loss, times the inverse of the Fisher information: variance and 1/2."""
    head = head_of("gaussian")
    output_BP = torch.randn(50, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    outcome_B = output_BP[:, 0].detach() + torch.linspace(-3, 3, 50) * output_BP[:, 1].detach().exp()
    (derived_BP,) = torch.autograd.grad(head.loss(output_BP, outcome_B).sum(), output_BP)
    inverse_BP = torch.stack(((2 * output_BP[:, 1]).exp(), torch.full((50,), 0.5)), dim=1).detach()
    torch.testing.assert_close(
        head.judge(output_BP.detach(), outcome_B).residual_BP, -inverse_BP * derived_BP, atol=1e-4, rtol=1e-4
    )


def test_time_without_events_brings_a_vector_to_its_rest() -> None:
    model, generator = drawn_at_large("ranking with time", 1), torch.Generator().manual_seed(1)
    batch = replace(draw_batch(model.observation, 1, generator), has_outcome_B=torch.tensor([True]))
    at_us = torch.tensor([BEGIN_US])
    row_BD = model.update(model.initial_state().unsqueeze(0), replace(batch, event_time_us_B=at_us)).state_BD

    def prediction(later_us: int) -> float:
        return float(model.predict(row_BD, replace(batch, event_time_us_B=at_us + later_us)))

    assert prediction(0) != prediction(DAY_US)
    assert torch.equal(row_BD[0, -2:], torch.tensor([20_000.0, 0.0]))
    torch.testing.assert_close(
        gap_s(row_BD[:, -2:], clock_of(at_us + 3 * DAY_US + 1_500_000)), torch.tensor([3 * 86_400 + 1.5])
    )
    assert float(gap_s(row_BD[:, -2:], clock_of(at_us - DAY_US))) == 0.0
    assert float(gap_s(row_BD[:, -2:], clock_of(torch.tensor([0])))) == 0.0


def test_scores_by_which_versions_are_compared() -> None:
    """Of a Gaussian the log score, held within bounds; of a ranking how far an item's share was from its being
    liked."""
    batch = Batch(
        torch.zeros(3, 0, dtype=torch.int64),
        torch.zeros(3, 0),
        torch.tensor([0.3, 1.0, 1e9]),
        torch.ones(3, dtype=torch.bool),
        torch.zeros(3, dtype=torch.int64),
    )
    gaussian = untrained("gaussian of ids, features and time")
    seen_BP = torch.tensor([[0.3, 0.5], [0.0, 2.0], [0.0, 1.0]])
    density = torch.distributions.Normal(seen_BP[:, 0], seen_BP[:, 1])
    scores = gaussian.score(seen_BP, batch)
    torch.testing.assert_close(scores[:2], 10.0 - density.log_prob(batch.outcome)[:2])
    assert float(scores[2]) == gaussian.score_max == 20.0
    ranking = untrained("ranking")
    shares = ranking.score(torch.tensor([[0.2], [0.2], [0.9]]), replace(batch, outcome=torch.tensor([1.0, 0.0, 0.0])))
    torch.testing.assert_close(shares, torch.tensor([0.8, 0.2, 0.9]))
    with pytest.raises(NotImplementedError, match="no score of its own"):
        untrained("categorical").score(torch.ones(3, 3) / 3, batch)


def test_initialised_by_seed() -> None:
    first, again, other = (KnowledgeTracing(num_items=5, num_skills=3) for _ in range(3))
    for model, seed in ((first, 1), (again, 1), (other.eval(), 2)):
        model.initialise(torch.Generator().manual_seed(seed))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.state_weight_SG, other.state_weight_SG)
    assert not first.tables[1][UNKNOWN].any()
    inputs = torch.tensor([[1, 2]]), torch.zeros(1, 0), None
    torch.testing.assert_close(other.read(*inputs).direction_BSP, other.train().read(*inputs).direction_BSP)


def test_state_is_32_floats_and_shipped_weights_are_small() -> None:
    assert KnowledgeTracing(num_items=5, num_skills=3).state_width == 32
    assert DEFAULT_WEIGHTS.stat().st_size < 1_000_000


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(ValueError, match='no head is called "poisson": it is one of bernoulli'):
        Adaptive({}, head="poisson")
    with pytest.raises(ValueError, match="at least 2 choices, not 0"):
        Adaptive({}, head="categorical")
    with pytest.raises(ValueError, match="one id field, the item, not 2"):
        Ranking({"item": 3, "genre": 2})
