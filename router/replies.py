"""Result records as the messages that clients of a single session get."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1.columns_pb2 import EVENT_KIND_CLOSE, EVENT_KIND_QUERY, IndexedRejection
from evercurrent.wire import Records, ResultRecord, result_records


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
        for index, record in enumerate(result_records(records)):
            if record.kind == EVENT_KIND_QUERY:
                answer = self._collect(record, reasons.get(index), now_us)
                if answer is not None:
                    yield answer
            elif record.kind != EVENT_KIND_CLOSE:
                yield self._observed(record, reasons.get(index), now_us)

    def _observed(self, record: ResultRecord, why: pb.Rejection | None, now_us: int) -> pb.ObservationResult:
        return pb.ObservationResult(
            seq=record.seq,
            status=record.status,
            version=record.version,
            applied_seq=record.applied_seq,
            durable_seq=record.durable_seq,
            lost=record.lost,
            at_risk=record.at_risk,
            prediction=record.prediction if record.status == pb.STATUS_APPLIED else None,
            loss=record.loss if record.loss == record.loss else None,
            rejection=why,
            timings=stage_timings(record, now_us) if self._timings else None,
            model_version=self._versions[record.model],
        )

    def _collect(self, record: ResultRecord, why: pb.Rejection | None, now_us: int) -> pb.QueryResult | None:
        if self._answer is None:
            self._answer = pb.QueryResult(
                query_id=record.seq,
                status=pb.STATUS_ANSWERED,
                version=record.version,
                model_version=self._versions[record.model],
            )
        answer = self._answer
        if why is None:
            answer.predictions.extend(record.prediction)
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
            answer.timings.CopyFrom(stage_timings(record, now_us))
        return answer


def stage_timings(record: ResultRecord, now_us: int) -> pb.StageTimings:
    """The parts of one update's time."""
    route_us, queue_us, hydrate_us, step_us, total_us = record.stages(now_us)
    return pb.StageTimings(
        route_us=route_us, queue_us=queue_us, hydrate_us=hydrate_us, step_us=step_us, total_us=total_us
    )
