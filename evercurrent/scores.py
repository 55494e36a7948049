"""How far predictions were from what happened: proper scores, less is better, each with its bound."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from evercurrent.v1 import models_pb2
from evercurrent.v1.description_pb2 import OUTCOME_KIND_CHOICE, OUTCOME_KIND_VALUE, ModelDescription
from evercurrent.wire import Records

Floats = NDArray[np.float32]
Scores = NDArray[np.float64]

PROBABILITY_MIN = 0.01
"""The log score takes no probability for less: it is bounded by -log of it, 4.605."""


class Scorer:
    """Scores predictions as clients see them. `range` is the greatest score, and so the greatest difference of two. A
    prediction that is not finite scores it."""

    def __init__(self, score: models_pb2.Score, model: ModelDescription) -> None:
        """Raises ValueError: this model's predictions cannot be scored so."""
        self._is_choice = model.outcome == OUTCOME_KIND_CHOICE
        self._low, self._high = model.outcome_min, model.outcome_max
        self._is_log = score == models_pb2.SCORE_LOG
        is_bounded = self._high > self._low
        if self._is_choice:
            if model.prediction_width != model.num_choices:
                text = f"predicts {model.prediction_width} values for {model.num_choices} choices"
                raise ValueError(f"{model.name} {text}: give it a score of its own")
        elif not is_bounded:
            raise ValueError(f"the outcomes of {model.name} have no bounds: give it a score of its own")
        elif model.prediction_width != model.outcome_width:
            text = f"predicts {model.prediction_width} values for outcomes of {model.outcome_width}"
            raise ValueError(f"{model.name} {text}: give it a score of its own")
        if self._is_log and not self._is_choice:
            is_bernoulli = model.outcome == OUTCOME_KIND_VALUE and (self._low, self._high) == (0.0, 1.0)
            if not is_bernoulli:
                raise ValueError(f"{model.name} predicts no probabilities: the log score is not for it")
        self.range = -math.log(PROBABILITY_MIN) if self._is_log else 2.0 if self._is_choice else 1.0

    def __call__(self, prediction_NP: Floats, events: Records) -> Scores:
        """The scores [N] of predictions [N, P] of events with an outcome."""
        predicted = prediction_NP.astype(np.float64)
        is_finite = np.isfinite(predicted).all(axis=1)
        predicted[~is_finite] = 0.0
        scores = self._log(predicted, events) if self._is_log else self._squared(predicted, events)
        scores[~is_finite] = self.range
        return scores

    def _squared(self, predicted: Scores, events: Records) -> Scores:
        if self._is_choice:
            predicted = np.clip(predicted, 0.0, 1.0)
            chosen = np.zeros_like(predicted)
            chosen[np.arange(len(chosen)), events["choice"]] = 1.0
            scores: Scores = np.minimum(((predicted - chosen) ** 2).sum(axis=1), self.range)
            return scores
        error = (np.clip(predicted, self._low, self._high) - events["outcome"]) / (self._high - self._low)
        squared: Scores = (error**2).mean(axis=1)
        return squared

    def _log(self, predicted: Scores, events: Records) -> Scores:
        if self._is_choice:
            given = predicted[np.arange(len(predicted)), events["choice"]]
            scores: Scores = -np.log(np.clip(given, PROBABILITY_MIN, 1.0))
            return scores
        given, outcome = predicted[:, 0], events["outcome"][:, 0].astype(np.float64)
        yes = np.log(np.clip(given, PROBABILITY_MIN, 1.0))
        no = np.log(np.clip(1.0 - given, PROBABILITY_MIN, 1.0))
        crossed: Scores = -(outcome * yes + (1.0 - outcome) * no)
        return crossed
