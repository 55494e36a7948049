"""Result records as the messages that clients of a single session get."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1.columns_pb2 import EVENT_KIND_CLOSE, EVENT_KIND_QUERY, IndexedRejection
from evercurrent.wire import Records


class Replies:
    """Makes replies of one session, in order. A query's answer is made when all of its candidates' results are in."""

    def __init__(self, timings: bool, versions: Sequence[str]) -> None:
        self._timings = timings
        self._versions = versions
        self._queries: deque[int] = deque()
        self._answer: pb.QueryResult | None = None
        self._num_collected = 0

    def expect_query(self, num_candidates: int) -> None:
        """A query was sent."""
        self._queries.append(num_candidates)

    def make(
        self, records: Records, rejections: Sequence[IndexedRejection], now_us: int
    ) -> Iterator[pb.ObservationResult | pb.QueryResult]:
        """The replies that these results complete."""
        reasons = {indexed.index: indexed.rejection for indexed in rejections}
        for index, record in enumerate(records.tolist()):
            kind = record[14]
            if kind == EVENT_KIND_QUERY:
                answer = self._collect(record, reasons.get(index), now_us)
                if answer is not None:
                    yield answer
            elif kind != EVENT_KIND_CLOSE:
                yield self._observed(record, reasons.get(index), now_us)

    def _observed(self, record: tuple, why: pb.Rejection | None, now_us: int) -> pb.ObservationResult:  # type: ignore[type-arg]
        (
            seq,
            version,
            applied,
            durable,
            stamp,
            lost,
            at_risk,
            _,
            queue,
            hydrate,
            step,
            loss,
            prediction,
            status,
            _,
            model,
            *_,
        ) = record
        applied_now = status == pb.STATUS_APPLIED
        return pb.ObservationResult(
            seq=seq,
            status=status,
            version=version,
            applied_seq=applied,
            durable_seq=durable,
            lost=lost,
            at_risk=at_risk,
            prediction=prediction if applied_now else None,
            loss=loss if loss == loss else None,
            rejection=why,
            timings=stage_timings(now_us - stamp, queue, hydrate, step) if self._timings else None,
            model_version=self._versions[model],
        )

    def _collect(self, record: tuple, why: pb.Rejection | None, now_us: int) -> pb.QueryResult | None:  # type: ignore[type-arg]
        (seq, version, _, _, stamp, _, _, _, queue, hydrate, step, _, prediction, _, _, model, *_) = record
        if self._answer is None:
            self._answer = pb.QueryResult(
                query_id=seq, status=pb.STATUS_ANSWERED, version=version, model_version=self._versions[model]
            )
        answer = self._answer
        if why is None:
            answer.predictions.extend(prediction)
        elif answer.status == pb.STATUS_ANSWERED:
            answer.status = pb.STATUS_REJECTED
            answer.rejection.CopyFrom(why)
            answer.rejection.field = f"candidates[{self._num_collected}].{why.field}" if why.field else ""
        self._num_collected += 1
        if self._num_collected < self._queries[0]:
            return None
        self._queries.popleft()
        self._answer = None
        self._num_collected = 0
        if answer.status == pb.STATUS_REJECTED:
            answer.ClearField("predictions")
        if self._timings:
            answer.timings.CopyFrom(stage_timings(now_us - stamp, queue, hydrate, step))
        return answer


def stage_timings(total_us: int, queue_us: int, hydrate_us: int, step_us: int) -> pb.StageTimings:
    """The parts of one update's time; what is not the worker's is the route's."""
    return pb.StageTimings(
        route_us=max(0, total_us - queue_us - hydrate_us - step_us),
        queue_us=queue_us,
        hydrate_us=hydrate_us,
        step_us=step_us,
        total_us=total_us,
    )
