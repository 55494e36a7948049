"""What routers and users are told of a model. Apart from `wire`, so that a router needs no torch."""

from __future__ import annotations

import math

from evercurrent.model import Model, OutcomeKind
from evercurrent.v1 import description_pb2

OUTCOME_KINDS = {
    OutcomeKind.VALUE: description_pb2.OUTCOME_KIND_VALUE,
    OutcomeKind.CHOICE: description_pb2.OUTCOME_KIND_CHOICE,
    OutcomeKind.VECTOR: description_pb2.OUTCOME_KIND_VECTOR,
}


def describe(model: Model) -> description_pb2.ModelDescription:
    """What routers and users are told of a model."""
    outcome = model.observation.outcome
    bounded = outcome.low != -math.inf or outcome.high != math.inf
    return description_pb2.ModelDescription(
        name=model.name,
        ids=[description_pb2.IdField(name=field.name, size=field.size) for field in model.observation.ids],
        features=model.observation.features,
        outcome=OUTCOME_KINDS[outcome.kind],
        outcome_width=outcome.width,
        num_choices=outcome.num_choices,
        outcome_min=outcome.low if bounded else 0.0,
        outcome_max=outcome.high if bounded else 0.0,
        prediction_width=model.prediction_width,
        state_width=model.state_width,
    )
