"""Scores: bounded whatever is predicted, exact where worked out by hand, refused where they mean nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evercurrent.scores import PROBABILITY_MIN, Scorer
from evercurrent.v1 import models_pb2
from evercurrent.v1.description_pb2 import (
    OUTCOME_KIND_CHOICE,
    OUTCOME_KIND_VALUE,
    OUTCOME_KIND_VECTOR,
    ModelDescription,
)
from evercurrent.wire import Layout, Records

BRIER, LOG = models_pb2.SCORE_BRIER, models_pb2.SCORE_LOG

BERNOULLI = ModelDescription(
    name="coin", outcome=OUTCOME_KIND_VALUE, outcome_width=1, outcome_min=0, outcome_max=1, prediction_width=1
)
GAUGE = ModelDescription(
    name="gauge", outcome=OUTCOME_KIND_VALUE, outcome_width=1, outcome_min=-10, outcome_max=30, prediction_width=1
)
VECTOR = ModelDescription(
    name="pair", outcome=OUTCOME_KIND_VECTOR, outcome_width=2, outcome_min=0, outcome_max=2, prediction_width=2
)
CHOICE = ModelDescription(name="die", outcome=OUTCOME_KIND_CHOICE, outcome_width=1, num_choices=3, prediction_width=3)

SCORABLE = [(BRIER, BERNOULLI), (BRIER, GAUGE), (BRIER, VECTOR), (BRIER, CHOICE), (LOG, BERNOULLI), (LOG, CHOICE)]


def events_of(model: ModelDescription, outcomes: Sequence[object]) -> Records:
    layout = Layout.of(model)
    events = np.zeros(len(outcomes), layout.event_dtype)
    column = events["choice" if layout.is_choice else "outcome"]
    column[:] = np.array(outcomes, column.dtype).reshape(column.shape)
    return events


def scored(score: models_pb2.Score, model: ModelDescription, prediction: Sequence[float], outcome: object) -> float:
    events = events_of(model, [outcome])
    return float(Scorer(score, model)(np.array([prediction], np.float32), events)[0])


@pytest.mark.parametrize(
    ("score", "model", "prediction", "outcome", "expected"),
    [
        (BRIER, BERNOULLI, [0.75], [1.0], 0.0625),
        (BRIER, BERNOULLI, [0.75], [0.0], 0.5625),
        (models_pb2.SCORE_UNSPECIFIED, BERNOULLI, [0.75], [0.0], 0.5625),
        (BRIER, BERNOULLI, [7.0], [1.0], 0.0),
        (BRIER, GAUGE, [10.0], [30.0], 0.25),
        (BRIER, GAUGE, [-99.0], [30.0], 1.0),
        (BRIER, VECTOR, [1.0, 2.0], [0.0, 2.0], 0.125),
        (BRIER, CHOICE, [0.5, 0.25, 0.25], 0, 0.375),
        (BRIER, CHOICE, [1.0, 0.0, 0.0], 1, 2.0),
        (BRIER, CHOICE, [9.0, 9.0, 9.0], 1, 2.0),
        (BRIER, CHOICE, [0.0, 1.0, 0.0], 1, 0.0),
        (LOG, BERNOULLI, [0.75], [1.0], -math.log(0.75)),
        (LOG, BERNOULLI, [0.75], [0.0], math.log(4)),
        (LOG, BERNOULLI, [0.0], [1.0], math.log(100)),
        (LOG, BERNOULLI, [1.0], [0.0], math.log(100)),
        (LOG, BERNOULLI, [0.5], [0.25], math.log(2)),
        (LOG, CHOICE, [0.5, 0.25, 0.25], 2, math.log(4)),
        (LOG, CHOICE, [1.0, 0.0, 0.0], 2, math.log(100)),
        (LOG, CHOICE, [3.0, 0.0, 0.0], 0, 0.0),
        (LOG, CHOICE, [-3.0, 0.0, 0.0], 0, math.log(100)),
        (BRIER, BERNOULLI, [math.nan], [1.0], 1.0),
        (BRIER, CHOICE, [0.0, math.inf, 0.0], 1, 2.0),
        (LOG, CHOICE, [0.0, 1.0, math.nan], 1, math.log(100)),
    ],
)
def test_scores_that_were_worked_out_by_hand(
    score: models_pb2.Score, model: ModelDescription, prediction: Sequence[float], outcome: object, expected: float
) -> None:
    assert scored(score, model, prediction, outcome) == pytest.approx(expected, abs=1e-12)


@given(st.data())
@pytest.mark.parametrize(("score", "model"), SCORABLE)
def test_scores_are_in_their_range_whatever_is_predicted(
    score: models_pb2.Score, model: ModelDescription, data: st.DataObject
) -> None:
    number = st.one_of(st.floats(width=32), st.floats(0, 1, width=32), st.sampled_from([math.nan, math.inf, -math.inf]))
    count = data.draw(st.integers(0, 4))
    rows = [
        data.draw(st.lists(number, min_size=model.prediction_width, max_size=model.prediction_width))
        for _ in range(count)
    ]
    prediction_NP = np.array(rows, np.float32).reshape(count, model.prediction_width)
    outcome: st.SearchStrategy[object]
    if model.outcome == OUTCOME_KIND_CHOICE:
        outcome = st.integers(0, model.num_choices - 1)
    else:
        bounded = st.floats(model.outcome_min, model.outcome_max, width=32)
        outcome = st.lists(bounded, min_size=model.outcome_width, max_size=model.outcome_width)
    events = events_of(model, [data.draw(outcome) for _ in range(count)])
    before_NP = prediction_NP.copy()
    scorer = Scorer(score, model)

    scores = scorer(prediction_NP, events)

    assert scores.shape == (count,)
    assert scores.dtype == np.float64
    assert ((scores >= 0) & (scores <= scorer.range)).all()
    is_finite = np.isfinite(prediction_NP).all(axis=1)
    assert (scores[~is_finite] == scorer.range).all()
    np.testing.assert_array_equal(prediction_NP, before_NP)


@pytest.mark.parametrize(("score", "model"), SCORABLE)
def test_the_range_is_reached(score: models_pb2.Score, model: ModelDescription) -> None:
    is_choice = model.outcome == OUTCOME_KIND_CHOICE
    worst = [1.0, *[0.0] * (model.prediction_width - 1)] if is_choice else [model.outcome_max] * model.prediction_width
    outcome = 1 if is_choice else [model.outcome_min] * model.outcome_width
    assert scored(score, model, worst, outcome) == pytest.approx(Scorer(score, model).range)
    assert Scorer(score, model).range == (-math.log(PROBABILITY_MIN) if score == LOG else 2.0 if is_choice else 1.0)


@pytest.mark.parametrize(("score", "model"), [(BRIER, BERNOULLI), (LOG, BERNOULLI), (BRIER, CHOICE), (LOG, CHOICE)])
@pytest.mark.parametrize("truth", [0.05, 0.3, 0.5])
def test_the_truth_scores_best_on_average(score: models_pb2.Score, model: ModelDescription, truth: float) -> None:
    def mean(told: float) -> float:
        if model.outcome == OUTCOME_KIND_CHOICE:
            rest = (1 - told) / 2
            other = scored(score, model, [told, rest, rest], 1)
            return truth * scored(score, model, [told, rest, rest], 0) + (1 - truth) * other
        return truth * scored(score, model, [told], [1.0]) + (1 - truth) * scored(score, model, [told], [0.0])

    told = np.linspace(0.02, 0.98, 97)
    best = told[np.argmin([mean(float(each)) for each in told])]
    assert best == pytest.approx(truth, abs=0.0051)


def changed(model: ModelDescription, **fields: object) -> ModelDescription:
    other = ModelDescription()
    other.CopyFrom(model)
    for name, value in fields.items():
        setattr(other, name, value)
    return other


@pytest.mark.parametrize(
    ("score", "model", "message"),
    [
        (BRIER, changed(CHOICE, prediction_width=4), "die predicts 4 values for 3 choices: give it a score of its own"),
        (LOG, changed(CHOICE, prediction_width=1), "die predicts 1 values for 3 choices: give it a score of its own"),
        (BRIER, changed(GAUGE, outcome_min=0, outcome_max=0), "the outcomes of gauge have no bounds"),
        (BRIER, changed(GAUGE, prediction_width=2), "gauge predicts 2 values for outcomes of 1"),
        (BRIER, changed(VECTOR, prediction_width=1), "pair predicts 1 values for outcomes of 2"),
        (LOG, GAUGE, "gauge predicts no probabilities: the log score is not for it"),
        (LOG, changed(VECTOR, outcome_max=1), "pair predicts no probabilities: the log score is not for it"),
    ],
)
def test_what_cannot_be_scored_is_refused(score: models_pb2.Score, model: ModelDescription, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Scorer(score, model)
