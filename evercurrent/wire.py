"""Events and results as arrays: the layouts that a model's description fixes.

On a link an event is a record of fixed size (worker.proto, LinkFrame.events), so that one event is packed by one
`struct` call and a frame of thousands is one numpy array; on Exchange it is spread over columns (columns.proto). Both
turn into the same structured arrays here. This module reads and writes bytes; it judges nothing but lengths.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evercurrent.errors import refused
from evercurrent.v1 import description_pb2, wire_pb2
from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1.columns_pb2 import EVENT_KIND_OBSERVATION

Records = NDArray[np.void]
"""A structured array of events or results, by the dtypes of a Layout."""

SEQ_MAX = (1 << 63) - 1
"""No skip goes further: what follows must have a seq as well."""

WATERMARK = np.dtype([("durable_seq", "<u8"), ("tag", "<u4"), ("padding", "V4")])
"""One watermark record: see LinkResults.watermarks."""


class Event(NamedTuple):
    """One event record as plain values."""

    seq: int
    event_time_us: int
    stamp_us: int
    ids: Sequence[int]
    choice: int
    tag: int
    timeout_us: int
    features: Sequence[float]
    outcome: Sequence[float]
    kind: int


class ResultRecord(NamedTuple):
    """One result record as plain values."""

    seq: int
    version: int
    applied_seq: int
    durable_seq: int
    stamp_us: int
    lost: int
    at_risk: int
    tag: int
    queue_us: int
    hydrate_us: int
    step_us: int
    loss: float
    prediction: Sequence[float]
    status: pb.Status
    kind: int
    model: int

    def stages(self, now_us: int) -> tuple[int, int, int, int, int]:
        """The parts of one update's time, in microseconds: route, which is what is not the worker's; queue, hydrate and
        step; and all of it, up to now."""
        total_us = now_us - self.stamp_us
        worker_us = self.queue_us + self.hydrate_us + self.step_us
        return max(0, total_us - worker_us), self.queue_us, self.hydrate_us, self.step_us, total_us


def result_records(results: Records) -> list[ResultRecord]:
    """Results as plain values."""
    return [ResultRecord._make(record[:_NUM_RESULT_FIELDS]) for record in results.tolist()]


_NUM_RESULT_FIELDS = len(ResultRecord._fields)


@dataclass(frozen=True)
class Layout:
    """How wide the events and results of one model are."""

    num_ids: int
    num_features: int
    outcome: description_pb2.OutcomeKind
    outcome_width: int
    prediction_width: int

    @classmethod
    def of(cls, model: description_pb2.ModelDescription) -> Layout:
        return cls(len(model.ids), len(model.features), model.outcome, model.outcome_width, model.prediction_width)

    @cached_property
    def is_choice(self) -> bool:
        return self.outcome == description_pb2.OUTCOME_KIND_CHOICE

    @property
    def is_value(self) -> bool:
        return self.outcome == description_pb2.OUTCOME_KIND_VALUE

    @cached_property
    def event_dtype(self) -> np.dtype[np.void]:
        """One event record: see LinkFrame.events."""
        choice: list[Any] = [("choice", "<i8")] if self.is_choice else []
        outcome: list[Any] = [] if self.is_choice else [("outcome", "<f4", (self.outcome_width,))]
        return _padded(
            [
                ("seq", "<u8"),
                ("event_time_us", "<i8"),
                ("stamp_us", "<u8"),
                ("ids", "<i8", (self.num_ids,)),
                *choice,
                ("tag", "<u4"),
                ("timeout_us", "<u4"),
                ("features", "<f4", (self.num_features,)),
                *outcome,
                ("kind", "u1"),
            ]
        )

    @cached_property
    def event_struct(self) -> struct.Struct:
        """The same record for `struct`: one event is packed by one call."""
        floats = self.num_features + (0 if self.is_choice else self.outcome_width)
        body = f"<QqQ{self.num_ids + self.is_choice}qII{floats}fB"
        return struct.Struct(f"{body}{self.event_dtype.itemsize - struct.calcsize(body)}x")

    @cached_property
    def result_struct(self) -> struct.Struct:
        """The same record as `result_dtype` for `struct`."""
        body = f"<QQQQQQQIIIIf{self.prediction_width}fBBH"
        return struct.Struct(f"{body}{self.result_dtype.itemsize - struct.calcsize(body)}x")

    @cached_property
    def result_marks_struct(self) -> struct.Struct:
        """Of the same record only durable_seq, tag, status and kind, at a cost that is the same for any prediction."""
        body = f"<24xQ24xI16x{4 * self.prediction_width}xBB2x"
        return struct.Struct(f"{body}{self.result_dtype.itemsize - struct.calcsize(body)}x")

    @cached_property
    def result_dtype(self) -> np.dtype[np.void]:
        """One result record: see LinkResults.results."""
        return _padded(
            [
                ("seq", "<u8"),
                ("version", "<u8"),
                ("applied_seq", "<u8"),
                ("durable_seq", "<u8"),
                ("stamp_us", "<u8"),
                ("lost", "<u8"),
                ("at_risk", "<u8"),
                ("tag", "<u4"),
                ("queue_us", "<u4"),
                ("hydrate_us", "<u4"),
                ("step_us", "<u4"),
                ("loss", "<f4"),
                ("prediction", "<f4", (self.prediction_width,)),
                ("status", "u1"),
                ("kind", "u1"),
                ("model", "<u2"),
            ]
        )

    def event(self, raw: bytes) -> Event:
        """One event, of its record."""
        seq, event_time_us, stamp_us, *values = self.event_struct.unpack(raw)
        num_longs = self.num_ids + self.is_choice
        longs, (tag, timeout_us), floats = (
            values[:num_longs],
            values[num_longs : num_longs + 2],
            values[num_longs + 2 :],
        )
        return Event(
            seq,
            event_time_us,
            stamp_us,
            longs[: self.num_ids],
            longs[-1] if self.is_choice else 0,
            tag,
            timeout_us,
            floats[: self.num_features],
            floats[self.num_features : -1],
            floats[-1],
        )

    def pack(
        self,
        seq: int,
        event_time_us: int,
        stamp_us: int,
        ids: Iterable[int],
        choice: int,
        tag: int,
        timeout_us: int,
        features: Iterable[float],
        outcome: Iterable[float],
        kind: int,
    ) -> bytes:
        """The record of one event, of the fields of an Event in their order; the inverse of `event`."""
        if self.is_choice:
            return self.event_struct.pack(seq, event_time_us, stamp_us, *ids, choice, tag, timeout_us, *features, kind)
        return self.event_struct.pack(seq, event_time_us, stamp_us, *ids, tag, timeout_us, *features, *outcome, kind)

    def events(self, raw: bytes) -> Records:
        """The events of a link frame, in memory of their own, which torch may share.

        Raises:
            Refused: the bytes are no whole number of records.
        """
        return _records(bytearray(raw), self.event_dtype)

    def results(self, raw: bytes) -> Records:
        """The results of a link frame, read-only, without copying.

        Raises:
            Refused: the bytes are no whole number of records.
        """
        return _records(raw, self.result_dtype)

    def events_of_columns(self, columns: wire_pb2.WireEventColumns) -> Records:
        """The events of an Exchange frame. `tag` is the client's own and `stamp_us` is 0.

        Raises:
            Refused: REASON_COLUMNS, naming the column whose length disagrees, or an unknown kind.
        """
        num_events = len(columns.tags) // 4
        events = np.zeros(num_events, self.event_dtype)
        events["tag"] = _column("tags", columns.tags, "<u4", num_events)
        events["seq"] = _column("seqs", columns.seqs, "<u8", num_events)
        events["ids"] = _column("ids", columns.ids, "<i8", num_events, self.num_ids)
        if self.num_features or columns.features:
            events["features"] = _column("features", columns.features, "<f4", num_events, self.num_features)
        self._fill_outcome(events, columns)
        if columns.kinds:
            events["kind"] = _column("kinds", columns.kinds, "u1", num_events)
        else:
            events["kind"] = EVENT_KIND_OBSERVATION
        if columns.event_times_us:
            events["event_time_us"] = _column("event_times_us", columns.event_times_us, "<i8", num_events)
        if columns.timeouts_us:
            events["timeout_us"] = _column("timeouts_us", columns.timeouts_us, "<u4", num_events)
        if columns.traceparents and len(columns.traceparents) != num_events:
            text = f"has {len(columns.traceparents)} entries for {num_events} events"
            raise refused(pb.REASON_COLUMNS, "events.traceparents", text)
        return events

    def _fill_outcome(self, events: Records, columns: wire_pb2.WireEventColumns) -> None:
        given = {"values": columns.values, "choices": columns.choices, "vectors": columns.vectors}
        expected = {
            description_pb2.OUTCOME_KIND_VALUE: "values",
            description_pb2.OUTCOME_KIND_CHOICE: "choices",
            description_pb2.OUTCOME_KIND_VECTOR: "vectors",
        }[self.outcome]
        for name, raw in given.items():
            if raw and name != expected:
                raise refused(pb.REASON_COLUMNS, f"events.{name}", f"this model's outcomes come in `{expected}`")
        raw = given[expected]
        if not raw:
            return
        if self.is_choice:
            events["choice"] = _column(expected, raw, "<i8", len(events))
        else:
            events["outcome"] = _column(expected, raw, "<f4", len(events), self.outcome_width)

    def columns_of_results(
        self,
        results: Records,
        tags: NDArray[np.uint32],
        totals_us: NDArray[np.uint32] | None,
        versions: Sequence[str],
    ) -> wire_pb2.WireResultColumns:
        """The Exchange form of results under the client's own tags; with stage timings if `totals_us` is given.
        `versions` are the names of model versions by their numbers."""
        columns = wire_pb2.WireResultColumns(
            tags=tags.tobytes(),
            seqs=results["seq"].tobytes(),
            statuses=results["status"].tobytes(),
            kinds=results["kind"].tobytes(),
            versions=results["version"].tobytes(),
            applied_seqs=results["applied_seq"].tobytes(),
            predictions=results["prediction"].tobytes(),
            losses=results["loss"].tobytes(),
        )
        if results["durable_seq"].any():
            columns.durable_seqs = results["durable_seq"].tobytes()
        if results["lost"].any():
            columns.lost = results["lost"].tobytes()
        if results["at_risk"].any():
            columns.at_risk = results["at_risk"].tobytes()
        numbers = results["model"]
        if (numbers == numbers[:1]).all():
            columns.model_versions.extend(versions[number] for number in numbers[:1].tolist())
        else:
            used, indices = np.unique(numbers, return_inverse=True)
            columns.model_versions.extend(versions[number] for number in used.tolist())
            columns.model_indices = indices.astype(np.uint8).tobytes()
        if totals_us is not None:
            columns.total_us = totals_us.tobytes()
            columns.queue_us = results["queue_us"].tobytes()
            columns.step_us = results["step_us"].tobytes()
            if results["hydrate_us"].any():
                columns.hydrate_us = results["hydrate_us"].tobytes()
        return columns


def watermarks(raw: bytes) -> Records:
    """The watermarks of a link frame, read-only, without copying.

    Raises:
        Refused: the bytes are no whole number of records.
    """
    return _records(raw, WATERMARK)


def joined(parts: Sequence[Records]) -> Records:
    """One array of several of one dtype. Through bytes: numpy's own concatenate compares structured dtypes field by
    field, once a part, which costs more than the copy."""
    if len(parts) == 1:
        return parts[0]
    return np.frombuffer(bytearray().join([part.tobytes() for part in parts]), parts[0].dtype)


def _padded(fields: list[Any]) -> np.dtype[np.void]:
    """A packed dtype, padded so that every record starts at a multiple of 8 bytes."""
    size = np.dtype(fields).itemsize
    return np.dtype([*fields, ("padding", "V", -size % 8)] if size % 8 else fields)


def _records(raw: bytes | bytearray, dtype: np.dtype[np.void]) -> Records:
    if len(raw) % dtype.itemsize:
        raise refused(
            pb.REASON_COLUMNS, "frame", f"{len(raw)} bytes are no whole number of {dtype.itemsize}-byte records"
        )
    return np.frombuffer(raw, dtype)


def _column(name: str, raw: bytes, dtype: str, num_events: int, width: int | None = None) -> NDArray[Any]:
    """One column as [num_events] or, with a width, [num_events, width]."""
    size = np.dtype(dtype).itemsize * num_events * (1 if width is None else width)
    if len(raw) != size:
        per_event = "" if width is None else f" × {width}"
        raise refused(
            pb.REASON_COLUMNS,
            f"events.{name}",
            f"has {len(raw)} bytes; {num_events} events{per_event} of {np.dtype(dtype).itemsize} bytes need {size}",
        )
    column = np.frombuffer(raw, dtype)
    return column if width is None else column.reshape(num_events, width)
