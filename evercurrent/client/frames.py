"""Frames of an Exchange stream: messages of many users as columns, and columns of results as values. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from evercurrent.client.requests import Message
from evercurrent.client.results import Rejection, Result, Status, Timings
from evercurrent.v1 import description_pb2
from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1.columns_pb2 import (
    EVENT_KIND_NO_OUTCOME,
    EVENT_KIND_OBSERVATION,
    EVENT_KIND_QUERY,
    EVENT_KIND_SKIP,
    EventColumns,
    ResultColumns,
)

FRAME_BYTES_MAX = 1 << 20
"""Of the events of a frame: a quarter of what the service takes, which leaves room for as many opens."""

_EVENT_BYTES = 4 + 8 + 1 + 8


class FrameEvents:
    """The events of one frame, collected by column."""

    def __init__(self, model: description_pb2.ModelDescription) -> None:
        self._is_choice = model.outcome == description_pb2.OUTCOME_KIND_CHOICE
        self._is_vector = model.outcome == description_pb2.OUTCOME_KIND_VECTOR
        self._no_ids = [0] * len(model.ids)
        self._no_features = [0.0] * len(model.features)
        self._no_outcome: list[float] = [0.0] * model.outcome_width
        self._tags: list[int] = []
        self._seqs: list[int] = []
        self._ids: list[int] = []
        self._features: list[float] = []
        self._outcomes: list[float] = []
        self._choices: list[int] = []
        self._times_us: list[int] = []
        self._kinds = bytearray()
        self._traceparents: list[str] = []

    def __len__(self) -> int:
        return len(self._tags)

    def add(self, tag: int, message: Message) -> None:
        """Append a message of the session with this tag; a query is one event a candidate."""
        if isinstance(message, pb.Observation):
            if message.traceparent:
                self._traceparents += [""] * (len(self._tags) - len(self._traceparents))
                self._traceparents.append(message.traceparent)
            which = message.WhichOneof("outcome")
            kind = EVENT_KIND_OBSERVATION if which else EVENT_KIND_NO_OUTCOME
            outcome = list(message.vector.values) if which == "vector" else [message.value] if which else []
            self._append(
                tag, message.seq, message.ids, message.features, outcome, message.choice, message.event_time_us, kind
            )
        elif isinstance(message, pb.Query):
            for one in message.candidates:
                self._append(
                    tag, message.query_id, one.ids, one.features, (), 0, message.event_time_us, EVENT_KIND_QUERY
                )
        else:
            self._append(tag, message.to, self._no_ids, self._no_features, (), 0, 0, EVENT_KIND_SKIP)

    def columns(self) -> EventColumns:
        """All of them as a message."""
        missing = len(self._tags) - len(self._traceparents) if self._traceparents else 0
        return EventColumns(
            tags=self._tags,
            seqs=self._seqs,
            ids=self._ids,
            features=self._features,
            values=[] if self._is_choice or self._is_vector else self._outcomes,
            choices=self._choices if self._is_choice else [],
            vectors=self._outcomes if self._is_vector else [],
            kinds=bytes(self._kinds),
            event_times_us=self._times_us,
            traceparents=[*self._traceparents, *[""] * missing],
        )

    def _append(
        self,
        tag: int,
        seq: int,
        ids: Iterable[int],
        features: Iterable[float],
        outcome: Iterable[float],
        choice: int,
        time_us: int,
        kind: int,
    ) -> None:
        self._tags.append(tag)
        self._seqs.append(seq)
        self._ids.extend(ids)
        self._features.extend(features)
        self._outcomes.extend(outcome or self._no_outcome)
        self._choices.append(choice)
        self._times_us.append(time_us)
        self._kinds.append(kind)


def frame_events_max(model: description_pb2.ModelDescription, events_max: int) -> int:
    """How many events a frame may hold, which the service bounds in events and in bytes."""
    outcome_bytes = max(8, 4 * model.outcome_width)
    event_bytes = _EVENT_BYTES + 8 * len(model.ids) + 4 * len(model.features) + outcome_bytes
    return max(1, min(events_max, FRAME_BYTES_MAX // event_bytes))


@dataclass(frozen=True, slots=True)
class Row:
    """The result of one event: a Result under its tag, of a kind of event."""

    tag: int
    kind: int
    result: Result


def rows_of(columns: ResultColumns) -> Iterator[Row]:
    """The results of a frame, one by one in their order."""
    num = len(columns.tags)
    if not num:
        return
    seqs, versions, applied_seqs = list(columns.seqs), list(columns.versions), list(columns.applied_seqs)
    predictions, losses = list(columns.predictions), list(columns.losses)
    zeros = [0] * num
    durable_seqs = list(columns.durable_seqs) or zeros
    lost, at_risk = list(columns.lost) or zeros, list(columns.at_risk) or zeros
    totals_us, queues_us = list(columns.total_us), list(columns.queue_us)
    hydrates_us, steps_us = list(columns.hydrate_us) or zeros, list(columns.step_us)
    rejections = {indexed.index: Rejection.of(indexed.rejection) for indexed in columns.rejections}
    model_indices = columns.model_indices or bytes(num)
    model_versions = list(columns.model_versions) or [""]
    width = len(predictions) // num
    for at, tag in enumerate(columns.tags):
        status = columns.statuses[at]
        is_predicted = status in (pb.STATUS_APPLIED, pb.STATUS_ANSWERED)
        timings = None
        if totals_us:
            total, queue, hydrate, step = totals_us[at], queues_us[at], hydrates_us[at], steps_us[at]
            timings = Timings(max(0, total - queue - hydrate - step), queue, hydrate, step, total)
        result = Result(
            seqs[at],
            Status(status),
            versions[at],
            applied_seqs[at],
            durable_seqs[at],
            tuple(predictions[at * width : (at + 1) * width]) if is_predicted else (),
            None if math.isnan(losses[at]) else losses[at],
            rejections.get(at),
            lost[at],
            at_risk[at],
            timings,
            model_versions[model_indices[at]],
        )
        yield Row(tag, columns.kinds[at], result)
