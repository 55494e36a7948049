"""Python values as messages of the contract. What a message cannot hold is refused here, by the name of the field; what
the model does not take is the service's to refuse, except where one bad event would spoil a frame of many (`fits`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from evercurrent.client.errors import InvalidRequest
from evercurrent.v1 import description_pb2
from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1.session_pb2 import SessionRequest

OBSERVATION_BYTES_MAX = 64 * 1024
CANDIDATES_MAX = 1024

Message = pb.Observation | pb.Query | pb.Skip
"""What a session sends once it is open."""

Outcome = float | int | bool | Sequence[float] | None
"""A number, a choice by its index, or a vector: what the model's outcome is."""

Candidate = Mapping[str, Any]
"""What to predict for: `{"ids": [4, 7], "features": [0.5]}`, either of which may be left out."""

_OUTCOME_FIELDS = {
    description_pb2.OUTCOME_KIND_VALUE: "value",
    description_pb2.OUTCOME_KIND_CHOICE: "choice",
    description_pb2.OUTCOME_KIND_VECTOR: "vector",
}


class Encoder:
    """Makes messages for one model."""

    def __init__(self, model: description_pb2.ModelDescription) -> None:
        self.model = model

    def observation(
        self,
        ids: Iterable[int],
        features: Iterable[float],
        outcome: Outcome,
        event_time_us: int,
        observation_id: str = "",
    ) -> pb.Observation:
        """An observation without its seq.

        Raises:
            InvalidRequest: a value is of another type than its field, or too large.
        """
        message = pb.Observation(observation_id=observation_id)
        _fill(message, ids, features, "")
        try:
            message.event_time_us = event_time_us
        except (TypeError, ValueError) as error:
            raise InvalidRequest(f"event_time_us: {error}", field="event_time_us") from error
        if outcome is not None:
            self._fill_outcome(message, outcome)
        size = message.ByteSize()
        if size > OBSERVATION_BYTES_MAX:
            text = f"the observation has {size} bytes; {OBSERVATION_BYTES_MAX} are taken"
            raise InvalidRequest(text, reason="TOO_LARGE")
        return message

    def query(self, candidates: Sequence[Candidate], event_time_us: int) -> pb.Query:
        """A query without its id.

        Raises:
            InvalidRequest: no candidate or too many; a key that a candidate does not have; a value of another type.
        """
        if not 1 <= len(candidates) <= CANDIDATES_MAX:
            text = f"{len(candidates)} candidates were given; 1 to {CANDIDATES_MAX} are taken"
            raise InvalidRequest(text, field="candidates", reason="CANDIDATES")
        message = pb.Query(event_time_us=event_time_us)
        for index, candidate in enumerate(candidates):
            unknown = candidate.keys() - {"ids", "features"}
            if unknown:
                text = f"candidates[{index}] has {sorted(unknown)}; a candidate has ids and features"
                raise InvalidRequest(text, field=f"candidates[{index}]")
            ids, features = candidate.get("ids", ()), candidate.get("features", ())
            _fill(message.candidates.add(), ids, features, f"candidates[{index}].")
        if message.ByteSize() > OBSERVATION_BYTES_MAX:
            text = f"the candidates have {message.ByteSize()} bytes; {OBSERVATION_BYTES_MAX} are taken"
            raise InvalidRequest(text, field="candidates", reason="TOO_LARGE")
        return message

    def check_widths(self, message: pb.Observation | pb.Candidate) -> None:
        """That a message fits into the columns of a frame.

        Raises:
            InvalidRequest: it has another number of ids, features or outcomes than the model.
        """
        for field, values, expected, reason in (
            ("ids", message.ids, len(self.model.ids), "IDS_COUNT"),
            ("features", message.features, len(self.model.features), "FEATURES_COUNT"),
        ):
            if len(values) != expected:
                text = f"{field} has {len(values)} values; this model takes {expected}"
                raise InvalidRequest(text, field=field, reason=reason)
        if not isinstance(message, pb.Observation):
            return
        which = message.WhichOneof("outcome")
        if which not in (None, _OUTCOME_FIELDS[self.model.outcome]):
            text = f"the outcome is a {which}; this model's is a {_OUTCOME_FIELDS[self.model.outcome]}"
            raise InvalidRequest(text, field="outcome", reason="OUTCOME")
        if which == "vector" and len(message.vector.values) != self.model.outcome_width:
            text = f"the outcome has {len(message.vector.values)} values; this model's has {self.model.outcome_width}"
            raise InvalidRequest(text, field="outcome", reason="OUTCOME")

    def _fill_outcome(self, message: pb.Observation, outcome: Any) -> None:
        kind = _OUTCOME_FIELDS[self.model.outcome]
        try:
            if kind == "value":
                message.value = outcome
            elif kind == "choice":
                message.choice = outcome
            else:
                message.vector.values.extend(outcome)
        except (TypeError, ValueError) as error:
            text = f"outcome: this model's is a {kind}: {error}"
            raise InvalidRequest(text, field="outcome", reason="OUTCOME") from error


def request_of(message: Message) -> SessionRequest:
    """The request that carries a message."""
    if isinstance(message, pb.Observation):
        return SessionRequest(observation=message)
    if isinstance(message, pb.Query):
        return SessionRequest(query=message)
    return SessionRequest(skip=message)


def _fill(message: pb.Observation | pb.Candidate, ids: Iterable[int], features: Iterable[float], prefix: str) -> None:
    for name, values in (("ids", ids), ("features", features)):
        try:
            getattr(message, name).extend(values)
        except (TypeError, ValueError) as error:
            raise InvalidRequest(f"{prefix}{name}: {error}", field=f"{prefix}{name}") from error
