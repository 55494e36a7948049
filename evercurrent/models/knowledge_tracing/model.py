"""Knowledge tracing by a learned gradient step: each learner is a vector, each answer moves it.

An item and its skill are embedded together; from the embedding come the direction in which the learner's vector
counts, the offset of a small hidden layer, a bias, the gates of the step and what mere practice teaches. The log-odds
of a right answer are

    logit = state · direction + hidden_weight · sigmoid(state @ hidden_columns + offset) + bias

and the step is downhill on the answer's cross entropy, coordinate by coordinate, gated by state and item, while the
state fades towards its rest at the coordinate's own pace. All of this is trained offline by unrolling the steps
(`trainer`), so the online step itself is learned. It needs nothing but the learner's row: no history.

The gradient is written out by hand: it is a few small operations, where autograd costs several times that for one
learner. `Model.update` computes the same by autograd, and a test holds the two together.

Letters: B learners, K id fields, D = S floats of a state row, E embedding, H hidden units, G = H + S (hidden units and
gates), R = S + G + 2 (all that is read from an embedding).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from evercurrent.model import Batch, IdField, Model, ObservationSpec, OutcomeSpec, Update

UNKNOWN = 0
"""The row of items and skills that training has never seen: the embedding zero."""

_LOG_DECAY_SLOW, _LOG_DECAY_FAST = -7.0, -1.5
_NUM_ABILITY = 4


class Reading(NamedTuple):
    """What the ids alone say."""

    direction_BS: Tensor
    offset_BG: Tensor
    bias_B: Tensor
    practice_B: Tensor


class Answer(NamedTuple):
    """What a learner's row makes of a reading."""

    hidden_BH: Tensor
    gate_BS: Tensor
    logit_B: Tensor


class Weights(NamedTuple):
    """What a row's answer and step take of the weights: looked up once, for a module looks each up by its name."""

    state_weight_SG: Tensor
    slope_weight_HS: Tensor
    hidden_weight_H: Tensor
    rate_S: Tensor
    rest_S: Tensor
    decay_S: Tensor


class Folded(NamedTuple):
    """What the weights alone say, computed once for serving: the reader is linear, so each item and each skill has its
    own part of a reading, bias included, and a reading is the sum of two rows."""

    item_IR: Tensor
    skill_KR: Tensor
    weights: Weights


class KnowledgeTracing(Model):
    """Predicts whether a learner answers an item right, and learns from each answer.

    Ids are rows of the two embedding tables; row 0 (UNKNOWN) of each stands for everything that was not in training.
    """

    name: ClassVar[str] = "knowledge-tracing"

    def __init__(
        self, num_items: int, num_skills: int, state_size: int = 32, embedding_size: int = 32, hidden_size: int = 16
    ) -> None:
        super().__init__()
        self.observation = ObservationSpec(
            ids=(IdField("item", num_items), IdField("skill", num_skills)), outcome=OutcomeSpec.bernoulli()
        )
        self.state_shapes = {"knowledge": (state_size,)}
        self.embedding_size = embedding_size
        self.hidden_size = hidden_size
        # The last column of a table is a bias of its own, so that one lookup brings both.
        self.item_table = nn.Parameter(torch.zeros(num_items, embedding_size + 1))
        self.skill_table = nn.Parameter(torch.zeros(num_skills, embedding_size + 1))
        self._widths = (state_size, hidden_size + state_size, 1, 1)
        self.reader_weight_ER = nn.Parameter(torch.zeros(embedding_size, sum(self._widths)))
        self.reader_bias_R = nn.Parameter(torch.zeros(sum(self._widths)))
        self.state_weight_SG = nn.Parameter(torch.zeros(state_size, hidden_size + state_size))
        self.hidden_weight_H = nn.Parameter(torch.zeros(hidden_size))
        self.rate_S = nn.Parameter(torch.ones(state_size))
        self.decay_logit_S = nn.Parameter(torch.linspace(_LOG_DECAY_SLOW, _LOG_DECAY_FAST, state_size))
        self.initial_S = nn.Parameter(torch.zeros(state_size))
        self.rest_S = nn.Parameter(torch.zeros(state_size))
        self._folded: Folded | None = None

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As torch has it; what was folded of the old weights is folded anew."""
        keys = super().load_state_dict(*args, **kwargs)
        self.train(self.training)
        return keys

    def train(self, mode: bool = True) -> Self:
        """Weights may change in training mode only; leaving it folds them for serving."""
        super().train(mode)
        self._folded = None
        self._folded = None if mode else self._fold()
        return self

    def initialise(self, generator: torch.Generator) -> None:
        """Draws untrained weights: random skills, and some coordinates that count for every item as ability does."""
        state_size = self.state_width
        with torch.no_grad():
            self.skill_table[1:, :-1].normal_(0.0, 0.1, generator=generator)
            self.reader_weight_ER.normal_(0.0, 1 / math.sqrt(self.embedding_size), generator=generator)
            self.reader_weight_ER[:, -1] = 0.0
            self.reader_bias_R[: state_size : max(1, state_size // _NUM_ABILITY)] = 1.0
            self.state_weight_SG.normal_(0.0, 0.1, generator=generator)
            self.hidden_weight_H.normal_(0.0, 0.1, generator=generator)
        self.train(self.training)

    def config(self) -> dict[str, object]:
        num_items, num_skills = (field.size for field in self.observation.ids)
        return {
            "num_items": num_items,
            "num_skills": num_skills,
            "state_size": self.state_width,
            "embedding_size": self.embedding_size,
            "hidden_size": self.hidden_size,
        }

    def initial_state(self) -> Tensor:
        return self.initial_S.detach().clone()

    def predict(self, state_BD: Tensor, batch: Batch) -> Tensor:
        return self.answer(state_BD, self.read(batch.ids_BK), self.weights()).logit_B.unsqueeze(1)

    def loss(self, prediction_BP: Tensor, batch: Batch) -> Tensor:
        return functional.binary_cross_entropy_with_logits(prediction_BP.squeeze(1), batch.outcome, reduction="none")

    def readout(self, prediction_BP: Tensor) -> Tensor:
        return prediction_BP.sigmoid()

    def learn(self, state_BD: Tensor, gradient_BD: Tensor, batch: Batch) -> Tensor:
        reading, weights = self.read(batch.ids_BK), self.weights()
        answer = self.answer(state_BD, reading, weights)
        slope_BS = self.slope(answer, reading, weights)
        has_B1 = batch.has_outcome_B.to(state_BD.dtype).unsqueeze(1)
        ascent_BS = reading.practice_B.unsqueeze(1) * slope_BS * has_B1 - gradient_BD
        return _moved(state_BD, answer.gate_BS, ascent_BS, weights.decay_S * has_B1, weights)

    @torch.inference_mode()
    def update(self, state_BD: Tensor, batch: Batch) -> Update:
        """As `Model.update`, with the gradient written out. In inference mode: for one learner a third of the time of
        these small operations is what autograd keeps of them even where it records nothing (docs/adr/0022)."""
        reading, weights = self.read(batch.ids_BK), self.weights()
        answer = self.answer(state_BD, reading, weights)
        probability_B = answer.logit_B.sigmoid()
        residual_B = batch.outcome - probability_B
        loss_B = functional.binary_cross_entropy_with_logits(answer.logit_B, batch.outcome, reduction="none")
        slope_BS = self.slope(answer, reading, weights)
        if batch.has_outcome_B.all():
            has_B = None
        else:
            has_B = batch.has_outcome_B.to(state_BD.dtype)
            residual_B, loss_B = residual_B * has_B, loss_B * has_B
        return Update(
            state_BD=self.step(state_BD, reading, answer, slope_BS, residual_B, has_B, weights),
            prediction_BP=probability_B.unsqueeze(1),
            loss_B=loss_B,
            gradient_norm_B=torch.linalg.vector_norm(slope_BS, dim=1) * residual_B.abs(),
        )

    def read(self, ids_BK: Tensor) -> Reading:
        """Everything that depends on the ids alone."""
        item_B, skill_B = ids_BK.unbind(1)
        if self._folded is not None:
            parts_BR = self._folded.item_IR.index_select(0, item_B) + self._folded.skill_KR.index_select(0, skill_B)
            direction_BS, offset_BG, bias_B1, practice_B1 = parts_BR.split_with_sizes(self._widths, 1)
            return Reading(direction_BS, offset_BG, bias_B1.squeeze(1), practice_B1.squeeze(1))
        embedding_BE = self.item_table.index_select(0, item_B) + self.skill_table.index_select(0, skill_B)
        parts_BR = torch.addmm(self.reader_bias_R, embedding_BE[:, :-1], self.reader_weight_ER)
        direction_BS, offset_BG, bias_B1, practice_B1 = parts_BR.split_with_sizes(self._widths, 1)
        return Reading(direction_BS, offset_BG, bias_B1[:, 0] + embedding_BE[:, -1], practice_B1[:, 0])

    def weights(self) -> Weights:
        """As they are now."""
        if self._folded is not None:
            return self._folded.weights
        slope_weight_HS = self.state_weight_SG[:, : self.hidden_size].t()
        decay_S = self.decay_logit_S.sigmoid()
        return Weights(self.state_weight_SG, slope_weight_HS, self.hidden_weight_H, self.rate_S, self.rest_S, decay_S)

    def answer(self, state_BS: Tensor, reading: Reading, weights: Weights) -> Answer:
        """The log-odds of a right answer, and what the step needs again."""
        active_BG = torch.addmm(reading.offset_BG, state_BS, weights.state_weight_SG).sigmoid()
        hidden_BH, gate_BS = active_BG.split_with_sizes((self.hidden_size, state_BS.shape[1]), 1)
        known_B = (state_BS * reading.direction_BS).sum(1)
        return Answer(hidden_BH, gate_BS, torch.addmv(reading.bias_B, hidden_BH, weights.hidden_weight_H) + known_B)

    def slope(self, answer: Answer, reading: Reading, weights: Weights) -> Tensor:
        """The derivative [B, S] of each log-odds by its own row."""
        hidden_BH = answer.hidden_BH
        bend_BH = torch.addcmul(hidden_BH, hidden_BH, hidden_BH, value=-1.0) * weights.hidden_weight_H
        return torch.addmm(reading.direction_BS, bend_BH, weights.slope_weight_HS)

    def step(
        self,
        state_BS: Tensor,
        reading: Reading,
        answer: Answer,
        slope_BS: Tensor,
        residual_B: Tensor,
        has_B: Tensor | None,
        weights: Weights,
    ) -> Tensor:
        """The rows after an answer whose outcome was `residual_B` above its prediction. Rows without one (`has_B` 0;
        None says that all have one) stay."""
        if has_B is None:
            ascent_B = residual_B + reading.practice_B
            return _moved(state_BS, answer.gate_BS, slope_BS * ascent_B.unsqueeze(1), weights.decay_S, weights)
        ascent_B = torch.addcmul(residual_B, reading.practice_B, has_B)
        decay_BS = weights.decay_S * has_B.unsqueeze(1)
        return _moved(state_BS, answer.gate_BS, slope_BS * ascent_B.unsqueeze(1), decay_BS, weights)

    @torch.no_grad()
    def _fold(self) -> Folded:
        """In double precision: rounded once, so that workers with other numbers of threads serve the same bits."""
        weight_ER = self.reader_weight_ER.double()
        item_IR, skill_KR = (table.double()[:, :-1] @ weight_ER for table in (self.item_table, self.skill_table))
        item_IR[:, -2] += self.item_table[:, -1]
        skill_KR[:, -2] += self.skill_table[:, -1]
        skill_KR += self.reader_bias_R
        weights = Weights(*(weight.detach() for weight in self.weights()))
        return Folded(item_IR.float(), skill_KR.float(), weights)


def _moved(state_BS: Tensor, gate_BS: Tensor, ascent_BS: Tensor, decay_BS: Tensor, weights: Weights) -> Tensor:
    return torch.addcmul(torch.lerp(state_BS, weights.rest_S, decay_BS), gate_BS * weights.rate_S, ascent_BS)


def embedding_penalty(model: KnowledgeTracing, ids: Tensor, weights: Sequence[float]) -> Tensor:
    """Squared item embeddings and squared item biases [...], weighted: what keeps rarely seen items near zero."""
    row = functional.embedding(ids[..., 0], model.item_table)
    return weights[0] * row[..., :-1].square().sum(-1) + weights[1] * row[..., -1].square()
