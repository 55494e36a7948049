"""The engine's slow and obvious twin: one event at a time, plain values, no batches."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isfinite

from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1.columns_pb2 import (
    EVENT_KIND_CLOSE,
    EVENT_KIND_NO_OUTCOME,
    EVENT_KIND_OBSERVATION,
    EVENT_KIND_QUERY,
    EVENT_KIND_REFUSED,
    EVENT_KIND_SKIP,
)
from tests.toys import HUGE_GRADIENT, HUGE_PREDICTION, HUGE_STATE, NAN_LOSS, NUM_DEEDS, RAISE, Counting, next_hash


@dataclass
class TwinEvent:
    """What one event carries. `refusal` belongs to EVENT_KIND_REFUSED; `expired`: its deadline has passed."""

    kind: int
    seq: int
    deed: int = 0
    place: int = 0
    features: tuple[float, float] = (0.0, 0.0)
    outcome: float = 0.0
    expired: bool = False
    event_time_us: int = 1


@dataclass
class TwinResult:
    """What is to be answered."""

    seq: int
    kind: int
    status: int
    version: int
    applied_seq: int
    lost: int
    reason: int = 0
    prediction: tuple[float, float] | None = None
    loss: float | None = None


@dataclass
class TwinUser:
    """A user's state and sessions."""

    version: int = 0
    count: int = 0
    sum: float = 0.0
    hash: int = 0
    weights: tuple[float, float] = (0.0, 0.0)
    last_seq: dict[str, int] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)


class Twin:
    """All users, by name. The session "" is unsequenced."""

    def __init__(self) -> None:
        self.users: dict[str, TwinUser] = {}

    def user(self, name: str) -> TwinUser:
        return self.users.setdefault(name, TwinUser())

    def handle(self, name: str, session: str, event: TwinEvent) -> TwinResult:
        """One event of one session."""
        user = self.user(name)
        if event.kind == EVENT_KIND_QUERY:
            return self._ask(user, session, event)
        status, reason, learned = self._consume(user, session, event)
        result = self._result(user, session, event, status)
        result.reason = reason
        if learned is not None:
            result.prediction, result.loss = learned
        return result

    def _result(self, user: TwinUser, session: str, event: TwinEvent, status: int) -> TwinResult:
        return TwinResult(
            event.seq,
            event.kind,
            status,
            user.version,
            user.last_seq.get(session, 0),
            user.lost.get(session, 0),
        )

    def _ask(self, user: TwinUser, session: str, event: TwinEvent) -> TwinResult:
        why = self._fault(event)
        if why == 0 and event.deed == RAISE:
            why = pb.REASON_MODEL_ERROR
        result = self._result(user, session, event, pb.STATUS_REJECTED if why else pb.STATUS_ANSWERED)
        result.reason = why
        if not why:
            result.prediction = self._predict(user, event)
        return result

    def _consume(
        self, user: TwinUser, session: str, event: TwinEvent
    ) -> tuple[int, int, tuple[tuple[float, float], float | None] | None]:
        if event.kind == EVENT_KIND_CLOSE:
            return pb.STATUS_CLOSED, 0, None
        last = user.last_seq.get(session, 0)
        if event.kind == EVENT_KIND_SKIP:
            if session and event.seq > last:
                user.lost[session] = user.lost.get(session, 0) + event.seq - last
                user.last_seq[session] = event.seq
            return pb.STATUS_SKIPPED, 0, None
        if session and event.seq <= last:
            return pb.STATUS_DUPLICATE, 0, None
        if session and event.seq > last + 1:
            return pb.STATUS_REJECTED, pb.REASON_SEQ_GAP, None
        if session:
            user.last_seq[session] = event.seq
        why = self._fault(event) or self._misbehaviour(event)
        if why:
            return pb.STATUS_REJECTED, why, None
        return pb.STATUS_APPLIED, 0, self._learn(user, event)

    def _fault(self, event: TwinEvent) -> int:
        if event.kind == EVENT_KIND_REFUSED:
            return pb.REASON_IDS_COUNT
        if event.event_time_us < 0:
            return pb.REASON_EVENT_TIME
        if not (0 <= event.deed < NUM_DEEDS and 0 <= event.place < 4):
            return pb.REASON_ID_RANGE
        if not all(isfinite(value) for value in event.features):
            return pb.REASON_FEATURE_NOT_FINITE
        if event.kind == EVENT_KIND_OBSERVATION and not -10 <= event.outcome <= 10:
            return pb.REASON_OUTCOME
        return pb.REASON_DEADLINE if event.expired else 0

    def _misbehaviour(self, event: TwinEvent) -> int:
        reasons: dict[int, int] = {
            RAISE: pb.REASON_MODEL_ERROR,
            NAN_LOSS: pb.REASON_LOSS_NOT_FINITE,
            HUGE_STATE: pb.REASON_STATE,
        }
        if event.kind == EVENT_KIND_OBSERVATION:
            reasons[HUGE_GRADIENT] = pb.REASON_GRADIENT
        return reasons.get(event.deed, 0)

    def _predict(self, user: TwinUser, event: TwinEvent) -> tuple[float, float]:
        value = user.weights[0] * event.features[0] + user.weights[1] * event.features[1]
        if event.deed == HUGE_GRADIENT:
            value = HUGE_PREDICTION
        return float(user.hash), float("nan") if event.deed == NAN_LOSS else value

    def _learn(self, user: TwinUser, event: TwinEvent) -> tuple[tuple[float, float], float | None]:
        learns = event.kind != EVENT_KIND_NO_OUTCOME
        prediction = self._predict(user, event)
        loss = None
        if learns:
            error = prediction[1] - event.outcome
            loss = error**2
            step = Counting.step_size * 2 * error
            user.weights = (
                user.weights[0] - step * event.features[0],
                user.weights[1] - step * event.features[1],
            )
            user.sum += event.outcome
        user.version += 1
        user.count += 1
        user.hash = next_hash(user.hash, event.deed, event.place, learns)
        return prediction, loss
