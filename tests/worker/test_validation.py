"""The validator, over arrays and over one event, against plain conditions."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evercurrent.describe import describe
from evercurrent.model import Model, ObservationSpec, OutcomeKind
from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1.columns_pb2 import EVENT_KIND_CLOSE, EVENT_KIND_OBSERVATION, EVENT_KIND_QUERY
from evercurrent.wire import Event, Layout
from tests.toys import Choosing, Counting, Following
from worker.validation import Validator

values = st.one_of(
    st.sampled_from([math.nan, math.inf, -math.inf, 1.0, -1.0, 10.0, -10.0]), st.floats(-20, 20, width=32)
)
numbers = st.one_of(st.integers(-2, 18), st.sampled_from([-(1 << 63), (1 << 63) - 1]))


def drawn_event(layout: Layout) -> st.SearchStrategy[Event]:
    return st.builds(
        Event,
        seq=st.just(1),
        event_time_us=st.sampled_from([0, 1, -1]),
        stamp_us=st.just(0),
        ids=st.tuples(*[numbers] * layout.num_ids),
        choice=numbers if layout.is_choice else st.just(0),
        tag=st.just(0),
        timeout_us=st.just(0),
        features=st.tuples(*[values] * layout.num_features),
        outcome=st.just(()) if layout.is_choice else st.tuples(*[values] * layout.outcome_width),
        kind=st.integers(0, 8),
    )


def reason_of(spec: ObservationSpec, event: Event) -> int:
    """The twin: the last that holds is the one told."""
    if not 1 <= event.kind <= EVENT_KIND_CLOSE:
        return pb.REASON_COLUMNS
    if event.kind > EVENT_KIND_QUERY:
        return 0
    if event.event_time_us < 0:
        return pb.REASON_EVENT_TIME
    if not all(0 <= value < field.size for value, field in zip(event.ids, spec.ids, strict=True)):
        return pb.REASON_ID_RANGE
    if not all(math.isfinite(value) for value in event.features):
        return pb.REASON_FEATURE_NOT_FINITE
    if event.kind == EVENT_KIND_OBSERVATION:
        if spec.outcome.kind is OutcomeKind.CHOICE:
            fits = 0 <= event.choice < spec.outcome.num_choices
        else:
            low, high = max(spec.outcome.low, -3.5e38), min(spec.outcome.high, 3.5e38)
            fits = all(low <= value <= high for value in event.outcome)
        return 0 if fits else pb.REASON_OUTCOME
    return 0


@pytest.mark.parametrize("model", [Counting(), Choosing(), Following()], ids=lambda model: model.name)
@given(data=st.data())
def test_reasons_are_those_of_plain_conditions(model: Model, data: st.DataObject) -> None:
    layout, validator = Layout.of(describe(model)), Validator(model.observation)
    events = data.draw(st.lists(drawn_event(layout), min_size=1, max_size=8))
    records = layout.events(b"".join(layout.pack(*event) for event in events))
    reasons = validator.reasons(records).tolist()
    assert reasons == [reason_of(model.observation, event) for event in events]
    for event, record, reason in zip(events, records, reasons, strict=True):
        if reason:
            why = validator.explain(reason, record)
            assert (why.reason, bool(why.field), bool(why.message)) == (reason, True, True)
        packed = layout.event(record.tobytes())
        assert validator.is_sound(packed) == (reason == 0 and event.kind == EVENT_KIND_OBSERVATION)
