"""What is checked of a request before it becomes an event: names, widths, kinds. Values are the worker's to check.

Pure functions; what is wrong is raised as `Refused`, naming the field.
"""

from __future__ import annotations

from collections.abc import Sequence

from ulid import ULID

from evercurrent.errors import refused
from evercurrent.naming import check_model_version as check_model_version
from evercurrent.naming import check_namespace as check_namespace
from evercurrent.naming import check_user_id as check_user_id
from evercurrent.v1 import description_pb2
from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1.columns_pb2 import (
    EVENT_KIND_NO_OUTCOME,
    EVENT_KIND_OBSERVATION,
    EVENT_KIND_QUERY,
    EVENT_KIND_REFUSED,
    EVENT_KIND_SKIP,
)
from evercurrent.wire import Layout

OBSERVATION_ID_BYTES_MAX = 64
CANDIDATES_MAX = 1024

_TIMEOUT_US_MAX = (1 << 32) - 1


def check_model(asked: str, served: description_pb2.ModelDescription, field: str) -> None:
    """Empty, or the model that is served."""
    if asked not in ("", served.name):
        raise refused(pb.REASON_MODEL, field, f'"{asked}" is not served here; "{served.name}" is')


def checked_session_id(session_id: str, field: str) -> str:
    """The id as given, or a new one for an empty one."""
    if not session_id:
        return str(ULID())
    try:
        return str(ULID.from_str(session_id))
    except ValueError as error:
        raise refused(pb.REASON_SESSION_ID, field, f'"{session_id[:64]}" is not a ULID') from error


def check_durability(wanted: bool, has_store: bool, field: str) -> None:
    """Nothing becomes durable without a store."""
    if wanted and not has_store:
        raise refused(pb.REASON_NO_STORE, field, "the workers have no store, so nothing becomes durable")


class Packer:
    """Turns requests into event records of one layout."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._outcome_field = {
            description_pb2.OUTCOME_KIND_VALUE: "value",
            description_pb2.OUTCOME_KIND_CHOICE: "choice",
            description_pb2.OUTCOME_KIND_VECTOR: "vector",
        }[layout.outcome]
        self._no_ids = (0,) * layout.num_ids
        self._no_features = (0.0,) * layout.num_features
        self._no_outcome = (0.0,) * layout.outcome_width

    def observation(self, sid: int, observation: pb.Observation, stamp_us: int, now_us: int) -> bytes:
        """One observation; `now_us` (Unix) is its time if it has none.

        Raises:
            Refused: a wrong number of ids or features, another kind or width of outcome; a too long observation_id.
        """
        if observation.observation_id:
            size = len(observation.observation_id.encode())
            if size > OBSERVATION_ID_BYTES_MAX:
                text = f"has {size} bytes; {OBSERVATION_ID_BYTES_MAX} are taken"
                raise refused(pb.REASON_TOO_LARGE, "observation_id", text)
        ids, features = observation.ids, observation.features
        self._check_widths(ids, features, "")
        which = observation.WhichOneof("outcome")
        outcome: Sequence[float] = self._no_outcome
        choice = 0
        if which is None:
            kind = EVENT_KIND_NO_OUTCOME
        elif which != self._outcome_field:
            raise refused(pb.REASON_OUTCOME, which, f"this model's outcome is a {self._outcome_field}")
        else:
            kind = EVENT_KIND_OBSERVATION
            if which == "value":
                outcome = (observation.value,)
            elif which == "choice":
                choice = observation.choice
            else:
                outcome = observation.vector.values
                self._check_width(outcome, self._layout.outcome_width, pb.REASON_OUTCOME, "vector")
        return self._record(
            observation.seq,
            observation.event_time_us or now_us,
            stamp_us,
            ids,
            choice,
            sid,
            observation.timeout_ms,
            features,
            outcome,
            kind,
        )

    def refusal(self, sid: int, seq: int, stamp_us: int) -> bytes:
        """An invalid observation: it consumes its seq."""
        return self._blank(sid, seq, stamp_us, EVENT_KIND_REFUSED)

    def skip(self, sid: int, to: int, stamp_us: int) -> bytes:
        """Seqs given up, up to and with this one."""
        return self._blank(sid, to, stamp_us, EVENT_KIND_SKIP)

    def query(self, sid: int, query: pb.Query, stamp_us: int, now_us: int) -> bytes:
        """One event for each candidate.

        Raises:
            Refused: no candidate or too many; one with a wrong number of ids or features.
        """
        if not 1 <= len(query.candidates) <= CANDIDATES_MAX:
            text = f"has {len(query.candidates)} candidates; 1 to {CANDIDATES_MAX} are taken"
            raise refused(pb.REASON_CANDIDATES, "candidates", text)
        records = []
        for index, candidate in enumerate(query.candidates):
            self._check_widths(candidate.ids, candidate.features, f"candidates[{index}].")
            records.append(
                self._record(
                    query.query_id,
                    query.event_time_us or now_us,
                    stamp_us,
                    candidate.ids,
                    0,
                    sid,
                    query.timeout_ms,
                    candidate.features,
                    self._no_outcome,
                    EVENT_KIND_QUERY,
                )
            )
        return b"".join(records)

    def _check_widths(self, ids: Sequence[int], features: Sequence[float], prefix: str) -> None:
        self._check_width(ids, self._layout.num_ids, pb.REASON_IDS_COUNT, f"{prefix}ids")
        self._check_width(features, self._layout.num_features, pb.REASON_FEATURES_COUNT, f"{prefix}features")

    def _check_width(self, values: Sequence[float], expected: int, reason: pb.Reason, field: str) -> None:
        if len(values) != expected:
            raise refused(reason, field, f"has {len(values)} values; this model takes {expected}")

    def _blank(self, sid: int, seq: int, stamp_us: int, kind: int) -> bytes:
        return self._record(seq, 0, stamp_us, self._no_ids, 0, sid, 0, self._no_features, self._no_outcome, kind)

    def _record(
        self,
        seq: int,
        event_time_us: int,
        stamp_us: int,
        ids: Sequence[int],
        choice: int,
        sid: int,
        timeout_ms: int,
        features: Sequence[float],
        outcome: Sequence[float],
        kind: int,
    ) -> bytes:
        timeout_us = min(timeout_ms * 1000, _TIMEOUT_US_MAX)
        return self._layout.pack(seq, event_time_us, stamp_us, ids, choice, sid, timeout_us, features, outcome, kind)
