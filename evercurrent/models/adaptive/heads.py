"""Heads: what a model's P outputs say of an outcome, and how wrong they were.

A head is pure: outputs and outcomes in, losses and residuals out. A residual is minus the derivative of the loss by the
outputs, written out, so that a step needs no autograd. A Gaussian's is the natural one (Amari 1998,
https://doi.org/10.1162/089976698300017746): by outputs, its loss is the steeper the surer it is, and no step size would
be right for all.

Letters: B events, P outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from evercurrent.model import OutcomeSpec

_HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)
SIGMAS_MAX = 4.0
"""An outcome so many standard deviations away moves a state no further than one at this distance."""
LOSS_SIGMAS_MAX = 8.0
"""Beyond so many a Gaussian's loss goes on as a line (Huber): training is not about the wildest outcome alone."""
LOG_STD_MAX = 7.0
"""Outcomes are to be of about unit size: a standard deviation below 1/1,000 of that, or above 1,000, is none."""


class Verdict(NamedTuple):
    """Outputs beside an outcome: what clients see [B, P], the loss [B], the residual [B, P]."""

    seen_BP: Tensor
    loss_B: Tensor
    residual_BP: Tensor


@dataclass(frozen=True, slots=True)
class Head:
    """`width`: P. `loss` [B] of outputs [B, P] and outcomes; `readout` [B, P] is what clients see; `judge` gives both
    and the residual. `is_natural`: the residual is not by the outputs themselves. `step_size`: where training
    begins."""

    width: int
    outcome: OutcomeSpec
    loss: Callable[[Tensor, Tensor], Tensor]
    readout: Callable[[Tensor], Tensor]
    judge: Callable[[Tensor, Tensor], Verdict]
    is_natural: bool = False
    step_size: float = 1.0


def bernoulli() -> Head:
    """Did it happen? One output, log-odds; clients see the probability."""
    return Head(1, OutcomeSpec.bernoulli(), _bernoulli_loss, torch.sigmoid, _bernoulli_judge)


def _bernoulli_loss(output_BP: Tensor, outcome_B: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(output_BP.squeeze(1), outcome_B, reduction="none")


def _bernoulli_judge(output_BP: Tensor, outcome_B: Tensor) -> Verdict:
    seen_BP = output_BP.sigmoid()
    return Verdict(seen_BP, _bernoulli_loss(output_BP, outcome_B), outcome_B.unsqueeze(1) - seen_BP)


def categorical(num_choices: int) -> Head:
    """Which of so many? An output each, log-odds; clients see probabilities."""
    if num_choices < 2:
        raise ValueError(f"a categorical head needs at least 2 choices, not {num_choices}")
    return Head(num_choices, OutcomeSpec.choice(num_choices), _categorical_loss, _categorical_seen, _categorical_judge)


def _categorical_loss(output_BP: Tensor, outcome_B: Tensor) -> Tensor:
    return functional.cross_entropy(output_BP, outcome_B, reduction="none")


def _categorical_seen(output_BP: Tensor) -> Tensor:
    return output_BP.softmax(1)


def _categorical_judge(output_BP: Tensor, outcome_B: Tensor) -> Verdict:
    log_seen_BP = output_BP.log_softmax(1)
    seen_BP, outcome_B1 = log_seen_BP.exp(), outcome_B.unsqueeze(1)
    residual_BP = (-seen_BP).scatter_add(1, outcome_B1, torch.ones_like(outcome_B1, dtype=seen_BP.dtype))
    return Verdict(seen_BP, -log_seen_BP.gather(1, outcome_B1).squeeze(1), residual_BP)


def gaussian() -> Head:
    """How much? Two outputs, the mean and the log of the standard deviation; clients see mean and standard deviation.

    The loss is minus the log of the density, nats, with tails like a Laplace's from LOSS_SIGMAS_MAX on."""
    return Head(
        width=2,
        outcome=OutcomeSpec.value(),
        loss=_gaussian_loss,
        readout=_gaussian_seen,
        judge=_gaussian_judge,
        is_natural=True,
        step_size=0.1,
    )


def _gaussian_loss(output_BP: Tensor, outcome_B: Tensor) -> Tensor:
    mean_B, log_std_B = output_BP.unbind(1)
    log_std_B = log_std_B.clamp(-LOG_STD_MAX, LOG_STD_MAX)
    return _minus_log_density((outcome_B - mean_B) / log_std_B.exp(), log_std_B)


def _minus_log_density(sigmas_B: Tensor, log_std_B: Tensor) -> Tensor:
    within_B = sigmas_B.clamp(-LOSS_SIGMAS_MAX, LOSS_SIGMAS_MAX)
    return within_B * (sigmas_B - 0.5 * within_B) + (log_std_B + _HALF_LOG_TAU)


def _gaussian_judge(output_BP: Tensor, outcome_B: Tensor) -> Verdict:
    """The Fisher information of mean and log of the standard deviation is 1 / variance and 2. Wild outcomes say as much
    as those at SIGMAS_MAX, of either."""
    mean_B, log_std_B = output_BP.unbind(1)
    log_std_B = log_std_B.clamp(-LOG_STD_MAX, LOG_STD_MAX)
    std_B = log_std_B.exp()
    sigmas_B = (outcome_B - mean_B) / std_B
    within_B = sigmas_B.clamp(-SIGMAS_MAX, SIGMAS_MAX)
    residual_BP = torch.stack((within_B * std_B, 0.5 * within_B.square() - 0.5), dim=1)
    return Verdict(torch.stack((mean_B, std_B), dim=1), _minus_log_density(sigmas_B, log_std_B), residual_BP)


def _gaussian_seen(output_BP: Tensor) -> Tensor:
    mean_B, log_std_B = output_BP.unbind(1)
    return torch.stack((mean_B, log_std_B.clamp(-LOG_STD_MAX, LOG_STD_MAX).exp()), dim=1)


def head_of(kind: str, num_choices: int = 0) -> Head:
    """The head of a kind: HEADS. Raises ValueError."""
    if kind == "categorical":
        return categorical(num_choices)
    made = {"bernoulli": bernoulli, "gaussian": gaussian}.get(kind)
    if made is None:
        raise ValueError(f'no head is called "{kind}": it is one of {", ".join(HEADS)}')
    return made()


HEADS = ("bernoulli", "categorical", "gaussian")
