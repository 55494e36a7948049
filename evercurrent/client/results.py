"""What the service answers, as plain immutable values: no protobuf message reaches a caller."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, Self

from evercurrent.client.errors import ObservationRejected, reason_name
from evercurrent.v1 import observation_pb2 as pb


class Status(IntEnum):
    """What became of an observation."""

    APPLIED = pb.STATUS_APPLIED
    """It was learned from; `prediction` is what the model said before."""
    DUPLICATE = pb.STATUS_DUPLICATE
    """It was applied, once; the reply to it was lost with a stream, so there is no prediction here."""
    REJECTED = pb.STATUS_REJECTED
    """Nothing was learned; `rejection` says why."""
    SKIPPED = pb.STATUS_SKIPPED
    """Given up; never the status of an answer to a caller."""
    ANSWERED = pb.STATUS_ANSWERED
    """Of a query; never the status of an answer to a caller."""
    CLOSED = pb.STATUS_CLOSED
    """Of a tag; never the status of an answer to a caller."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why something was refused. `reason` is a Reason of the contract without its prefix, as "OUTCOME"."""

    reason: str
    field: str = ""
    message: str = ""
    retry_after_ms: int = 0

    @classmethod
    def of(cls, message: pb.Rejection) -> Rejection:
        return cls(reason_name(message.reason), message.field, message.message, message.retry_after_ms)

    def __str__(self) -> str:
        where = f"{self.field}: " if self.field else ""
        return f"{where}{self.message} ({self.reason})"


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time of one update went, in microseconds: see StageTimings of the contract."""

    route_us: int
    queue_us: int
    hydrate_us: int
    step_us: int
    total_us: int

    @classmethod
    def of(cls, message: pb.StageTimings) -> Timings:
        return cls(message.route_us, message.queue_us, message.hydrate_us, message.step_us, message.total_us)


@dataclass(frozen=True, slots=True)
class Result:
    """The answer to one observation: fields as ObservationResult of the contract."""

    seq: int
    status: Status
    version: int = 0
    applied_seq: int = 0
    durable_seq: int = 0
    prediction: tuple[float, ...] = ()
    loss: float | None = None
    rejection: Rejection | None = None
    lost: int = 0
    at_risk: int = 0
    timings: Timings | None = None
    model_version: str = ""

    @classmethod
    def of(cls, message: pb.ObservationResult) -> Result:
        return cls(
            message.seq,
            Status(message.status),
            message.version,
            message.applied_seq,
            message.durable_seq,
            tuple(message.prediction),
            message.loss if message.HasField("loss") else None,
            Rejection.of(message.rejection) if message.HasField("rejection") else None,
            message.lost,
            message.at_risk,
            Timings.of(message.timings) if message.HasField("timings") else None,
            message.model_version,
        )

    @property
    def applied(self) -> bool:
        """Whether it was learned from now."""
        return self.status is Status.APPLIED

    @property
    def duplicate(self) -> bool:
        """Whether it was applied once and its own reply was lost."""
        return self.status is Status.DUPLICATE

    @property
    def rejected(self) -> bool:
        """Whether nothing was learned from it."""
        return self.status is Status.REJECTED

    @property
    def is_consumed(self) -> bool:
        """Whether its seq is used up: the next observation is expected with the next one."""
        return self.status is not Status.REJECTED or self.applied_seq >= self.seq

    def raise_for_rejection(self) -> Self:
        """This result, if it is none of a rejection.

        Raises:
            ObservationRejected: nothing was learned from the observation.
        """
        if self.rejection is None:
            return self
        text = f"observation {self.seq} was rejected: {self.rejection}"
        raise ObservationRejected(text, seq=self.seq, reason=self.rejection.reason, field=self.rejection.field)

    def as_duplicate(self) -> Result:
        """The same, of an observation that was applied and is answered without its reply."""
        return replace(self, status=Status.DUPLICATE, rejection=None)


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a query: one prediction a candidate, of the state with this version."""

    version: int
    predictions: tuple[tuple[float, ...], ...]
    timings: Timings | None = None
    model_version: str = ""

    @classmethod
    def of(cls, message: pb.QueryResult, num_candidates: int) -> Answer:
        width = len(message.predictions) // num_candidates
        flat = tuple(message.predictions)
        return cls(
            message.version,
            tuple(flat[at * width : (at + 1) * width] for at in range(num_candidates)),
            Timings.of(message.timings) if message.HasField("timings") else None,
            message.model_version,
        )

    @property
    def prediction(self) -> tuple[float, ...]:
        """That of the first candidate."""
        return self.predictions[0]


@dataclass(frozen=True, slots=True)
class Ranked:
    """One candidate of a ranking: `candidate` as given, at `index`; `score` is what it was ranked by."""

    index: int
    candidate: Any
    score: float
    prediction: tuple[float, ...]


Score = Callable[[tuple[float, ...]], float]
"""What a prediction is worth: candidates are ranked by it."""


def first_value(prediction: tuple[float, ...]) -> float:
    """The first of a prediction's values, which is all of a chance or an expectation."""
    return prediction[0]


def ranking(candidates: Sequence[Any], answer: Answer, score: Score) -> list[Ranked]:
    """Candidates by score, best first; those that are equal in the order given."""
    ranked = [
        Ranked(index, candidate, score(prediction), prediction)
        for index, (candidate, prediction) in enumerate(zip(candidates, answer.predictions, strict=True))
    ]
    return sorted(ranked, key=lambda one: -one.score)
