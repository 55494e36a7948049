"""Scores of probabilistic predictions of a yes-or-no outcome. Pure functions of arrays."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def auc(outcome_N: npt.ArrayLike, score_N: npt.ArrayLike) -> float:
    """The chance that a random positive scores above a random negative; ties count half.

    Outcomes above one half are positive. NaN where only one kind is present: nothing can be told apart then.
    """
    positive_N = np.asarray(outcome_N) > 0.5
    _, place_N, counts = np.unique(np.asarray(score_N), return_inverse=True, return_counts=True)
    rank_N = (np.cumsum(counts) - (counts - 1) / 2)[place_N]
    positives = int(positive_N.sum())
    negatives = positive_N.size - positives
    if positives == 0 or negatives == 0:
        return float("nan")
    return float((rank_N[positive_N].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def log_loss(outcome_N: npt.ArrayLike, probability_N: npt.ArrayLike) -> float:
    """Mean cross entropy in nats of predicted probabilities, which are held to [1e-7, 1 - 1e-7]. NaN of no events."""
    outcome_N = np.asarray(outcome_N, dtype=np.float64)
    probability_N = np.clip(np.asarray(probability_N, dtype=np.float64), 1e-7, 1 - 1e-7)
    if outcome_N.size == 0:
        return float("nan")
    losses_N = outcome_N * np.log(probability_N) + (1 - outcome_N) * np.log1p(-probability_N)
    return float(-losses_N.mean())
