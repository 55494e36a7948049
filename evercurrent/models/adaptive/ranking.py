"""The family's ranking head: which of many items comes next? For candidates that are ranked by `Rank`.

An event names an item and whether it was liked. What is predicted is the item's probability among the catalogue, and a
sum over the catalogue in each step would cost what the catalogue has items. So the step's softmax runs over the item
and a few *anchors* instead: learned directions that stand for the catalogue, as samples do in a sampled softmax (Jean
et al. 2015, https://arxiv.org/abs/1412.2007), but the same for everybody and found by training. Training itself
compares with the whole catalogue.

Letters as in `model`; N anchors, I items.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from evercurrent.model import Batch, OutcomeSpec
from evercurrent.models.adaptive.heads import Head, Verdict
from evercurrent.models.adaptive.model import Adaptive, Answer, Reading, Weights


def _no_part(*_: Tensor) -> Any:
    raise NotImplementedError("the ranking head needs the vector, not outputs alone: Ranking.judge and Ranking.loss")


class Ranking(Adaptive):
    """Predicts the probability of the item that the event names, the first of `ids`, among all. The outcome is how much
    it was liked, 0 to 1; what was not liked moves the vector by a learned share of what a liked item does.

    `unliked_loss`: how much training minds what came and was not liked, as a share of what was. That, too, tells which
    items are met together, unless they came because they were recommended."""

    name: ClassVar[str] = "ranking"
    score_max = 1.0

    def __init__(
        self,
        ids: Mapping[str, int] | Sequence[tuple[str, int]],
        num_anchors: int = 64,
        state_size: int = 64,
        embedding_size: int = 64,
        uses_time: bool = False,
        writes: bool = False,
        unliked_loss: float = 0.0,
    ) -> None:
        if len(ids) != 1:
            raise ValueError(f"a ranking model has one id field, the item, not {len(ids)}")
        super().__init__(
            ids,
            state_size=state_size,
            embedding_size=embedding_size,
            hidden_size=0,
            uses_time=uses_time,
            writes=writes,
        )
        self._config = {
            "ids": list(dict(ids).items()),
            "num_anchors": num_anchors,
            "state_size": state_size,
            "embedding_size": embedding_size,
            "uses_time": uses_time,
            "writes": writes,
            "unliked_loss": unliked_loss,
        }
        self.unliked_loss = unliked_loss
        self.anchor_NS = nn.Parameter(torch.zeros(num_anchors, state_size))
        self.anchor_bias_N = nn.Parameter(torch.zeros(num_anchors))
        self.unliked_weight = nn.Parameter(torch.tensor(0.3))

    def _head(self, kind: str, num_choices: int) -> Head:
        return Head(1, OutcomeSpec.bernoulli(), _no_part, torch.exp, _no_part)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        super().initialise(generator)
        self.anchor_NS.normal_(0.0, 0.1, generator=generator)
        items = self.observation.ids[0].size
        self.anchor_bias_N.fill_(math.log(max(1.0, items / len(self.anchor_bias_N))))

    def loss(self, prediction_BP: Tensor, batch: Batch) -> Tensor:
        return -self._weight(batch.outcome) * prediction_BP.squeeze(1)

    def score(self, prediction_BP: Tensor, batch: Batch) -> Tensor:
        return (batch.outcome - prediction_BP.squeeze(1)).abs()

    def judge(self, vector_BS: Tensor, answer: Answer, outcome: Tensor) -> tuple[Verdict, Tensor | None]:
        output_BN = torch.cat((answer.output_BP, self._anchored(vector_BS)), dim=1)
        log_share_BN = functional.log_softmax(output_BN, dim=1)
        weight_B1 = self._weight(outcome).unsqueeze(1)
        share_BN = log_share_BN.exp()
        seen_B1 = share_BN[:, :1]
        loss_B = -(weight_B1 * log_share_BN[:, :1]).squeeze(1)
        aside_BS = -weight_B1 * (share_BN[:, 1:] @ self.anchor_NS)
        return Verdict(seen_B1, loss_B, weight_B1 * (1.0 - seen_B1)), aside_BS

    def catalogue(self, vector_BS: Tensor) -> Tensor:
        """Log-odds [B, I] of every item, UNKNOWN among them; softmax over them is what training fits."""
        item_I1 = torch.arange(self.observation.ids[0].size).unsqueeze(1)
        reading = self.read(item_I1, vector_BS.new_zeros(len(item_I1), 0), None)
        return torch.addmm(reading.bias_BP.t(), vector_BS, reading.direction_BSP.t())

    def fit_loss(
        self, vector_BS: Tensor, output_BP: Tensor, ids_BK: Tensor, outcome: Tensor, met_BI: Tensor | None
    ) -> Tensor:
        log_odds_BI = self.catalogue(vector_BS)
        if met_BI is not None:
            log_odds_BI = log_odds_BI.masked_fill(met_BI.scatter(1, ids_BK[:, :1], False), -math.inf)
        weight_B = self.unliked_loss + (1 - self.unliked_loss) * outcome
        return weight_B * functional.cross_entropy(log_odds_BI, ids_BK[:, 0], reduction="none")

    def _answer(self, vector_BS: Tensor, reading: Reading, weights: Weights) -> Tensor:
        output_B1 = self.answer(vector_BS, reading, weights).output_BP
        return output_B1 - torch.cat((output_B1, self._anchored(vector_BS)), dim=1).logsumexp(1, keepdim=True)

    def _anchored(self, vector_BS: Tensor) -> Tensor:
        return torch.addmm(self.anchor_bias_N, vector_BS, self.anchor_NS.t())

    def _weight(self, outcome_B: Tensor) -> Tensor:
        return torch.lerp(self.unliked_weight, torch.ones_like(outcome_B), outcome_B)
