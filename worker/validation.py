"""Which events of a frame a model can take. The router checks what it must to pack an event; this checks the values.

Vectorised over the frame: a frame in which all is well costs a few array operations. Reasons are numbers of
`observation.proto`, 0 for none; the words are made only for events at fault.
"""

from __future__ import annotations

from math import isfinite

import numpy as np
from numpy.typing import NDArray

from evercurrent.errors import rejection
from evercurrent.model import ObservationSpec, OutcomeKind
from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1.columns_pb2 import (
    EVENT_KIND_CLOSE,
    EVENT_KIND_NO_OUTCOME,
    EVENT_KIND_OBSERVATION,
    EVENT_KIND_QUERY,
    EVENT_KIND_UNSPECIFIED,
)
from evercurrent.wire import Event, Records

Reasons = NDArray[np.uint8]


class Validator:
    """Judges events by a model's observation spec."""

    def __init__(self, spec: ObservationSpec) -> None:
        self._spec = spec
        self._sizes = [field.size for field in spec.ids]
        self._sizes_K = np.array(self._sizes, np.int64)

    def is_sound(self, event: Event) -> bool:
        """Whether one event is an observation with an outcome in which all is well: `reasons` without arrays, which pay
        only for many."""
        outcome = self._spec.outcome
        if event.kind != EVENT_KIND_OBSERVATION or event.event_time_us < 0:
            return False
        for value, size in zip(event.ids, self._sizes, strict=True):
            if not 0 <= value < size:
                return False
        if not all(map(isfinite, event.features)):
            return False
        if outcome.kind is OutcomeKind.CHOICE:
            return 0 <= event.choice < outcome.num_choices
        return all(outcome.low <= value <= outcome.high and isfinite(value) for value in event.outcome)

    def reasons(self, events: Records) -> Reasons:
        """For each event why it cannot be taken, 0 where it can."""
        reasons = np.zeros(len(events), np.uint8)
        kinds = events["kind"]
        predicted = kinds <= EVENT_KIND_QUERY
        outcome_bad = self._outcome_bad(events) & (kinds == EVENT_KIND_OBSERVATION)
        if outcome_bad.any():
            reasons[outcome_bad] = pb.REASON_OUTCOME
        if self._spec.features:
            bad = ~np.isfinite(events["features"]).all(axis=1) & predicted
            reasons[bad] = pb.REASON_FEATURE_NOT_FINITE
        if len(self._sizes_K):
            # One unsigned comparison says both "negative" and "too large".
            bad = (events["ids"].view(np.uint64) >= self._sizes_K.view(np.uint64)).any(axis=1) & predicted
            if bad.any():
                reasons[bad] = pb.REASON_ID_RANGE
        time_bad = (events["event_time_us"] < 0) & predicted
        if time_bad.any():
            reasons[time_bad] = pb.REASON_EVENT_TIME
        kind_bad = (kinds == EVENT_KIND_UNSPECIFIED) | (kinds > EVENT_KIND_CLOSE)
        if kind_bad.any():
            reasons[kind_bad] = pb.REASON_COLUMNS
        return reasons

    def explain(self, reason: int, event: np.void) -> pb.Rejection:
        """The words for one event at fault."""
        if reason == pb.REASON_ID_RANGE:
            at = int(np.argmax((event["ids"] < 0) | (event["ids"] >= self._sizes_K)))
            field = self._spec.ids[at]
            message = f"{field.name} {event['ids'][at]} is not in [0, {field.size})"
            return rejection(pb.REASON_ID_RANGE, f"ids[{at}]", message)
        if reason == pb.REASON_FEATURE_NOT_FINITE:
            at = int(np.argmin(np.isfinite(event["features"])))
            message = f"{self._spec.features[at]} is {event['features'][at]}"
            return rejection(pb.REASON_FEATURE_NOT_FINITE, f"features[{at}]", message)
        if reason == pb.REASON_OUTCOME:
            outcome = self._spec.outcome
            if outcome.kind is OutcomeKind.CHOICE:
                message = f"{event['choice']} is not in [0, {outcome.num_choices})"
            else:
                message = f"{event['outcome'].tolist()} is not finite and within [{outcome.low}, {outcome.high}]"
            return rejection(pb.REASON_OUTCOME, "outcome", message)
        if reason == pb.REASON_EVENT_TIME:
            return rejection(pb.REASON_EVENT_TIME, "event_time_us", f"{event['event_time_us']} is negative")
        return rejection(pb.REASON_COLUMNS, "kinds", f"{event['kind']} is no event kind that is taken here")

    def _outcome_bad(self, events: Records) -> NDArray[np.bool_]:
        outcome = self._spec.outcome
        if outcome.kind is OutcomeKind.CHOICE:
            return np.asarray((events["choice"] < 0) | (events["choice"] >= outcome.num_choices))
        values = events["outcome"]
        within = (values >= outcome.low) & (values <= outcome.high) & np.isfinite(values)
        return np.asarray(~within[:, 0] if outcome.width == 1 else ~within.all(axis=1))


def has_outcome(events: Records) -> NDArray[np.bool_]:
    """Which events carry an outcome to learn from."""
    return np.asarray(events["kind"] == EVENT_KIND_OBSERVATION)


def is_observation(kinds: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which kinds are observations to predict and count."""
    return np.asarray((kinds == EVENT_KIND_OBSERVATION) | (kinds == EVENT_KIND_NO_OUTCOME))
