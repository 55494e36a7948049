"""Open loads on a real service: every event is answered once, in its user's order, whatever the model takes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bench.driving import STAGES, Sent
from bench.metering import Costs
from bench.offered import Offer, Run, held, knee, offering, stage_metrics
from bench.run import Arrivals, Streams, WrongReplyError
from bench.schedules import Schedule
from evercurrent.cli.cluster import Cluster, run_cluster
from tests.bench.test_schedules import write_log

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", params=["knowledge-tracing", "tests.toys:Choosing", "tests.toys:Following"])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with run_cluster(num_workers=1, model=request.param, search_path=ROOT, store="memory:") as running:
        yield running


OFFERS = [*itertools.product((Arrivals.POISSON, Arrivals.BURSTS), Streams), (Arrivals.CLOSED, Streams.SESSIONS)]


@pytest.mark.parametrize(("arrivals", "streams"), OFFERS)
async def test_every_event_of_an_offer_is_answered(cluster: Cluster, arrivals: Arrivals, streams: Streams) -> None:
    offer = Offer(600.0, 0.3, 12, 1.0, arrivals, streams)
    async with offering(cluster.address, dict(cluster.pids), offer, 1) as opened:
        runs = [await opened.run(600.0, 0.3) for _ in range(2)]
    for each in runs:
        assert (each.sent.latencies_ns > 0).all()
        assert each.sent.stages_us.shape == (len(each.sent.latencies_ns), len(STAGES))
        assert (1000 * each.sent.stages_us.sum(axis=1) <= each.sent.latencies_ns + 1000 * len(STAGES)).all()
        assert each.sent.stages_us[:, STAGES.index("step")].min() > 0
        assert set(each.costs.cpu_s) == {*cluster.pids, "client"}
    stages = {metric.name: metric.value for metric in stage_metrics(runs[-1].sent)}
    for name in ("mean", "p50", "p99"):
        measured = [stage for stage in (*STAGES, "held", "client") if f"{name}_{stage}_ms" in stages]
        assert ("client" in measured) == (arrivals is not Arrivals.CLOSED)
        parts = sum(stages[f"{name}_{stage}_ms"] for stage in measured)
        assert parts == pytest.approx(stages[f"{name}_explained"] * stages[f"{name}_whole_ms"])
        assert parts + stages[f"{name}_rest_ms"] == pytest.approx(stages[f"{name}_whole_ms"])


def test_what_is_left_of_the_whole_is_told() -> None:
    latencies_us = np.array([100, 100, 100, 900])
    stages_us = np.array([[10, 20, 0, 30]] * 3 + [[10, 20, 0, 300]])
    held_us, probes_us = np.array([0.0, 5.0, 10.0, 10.0]), np.array([30.0, 35.0, 40.0, 95.0])
    sent = Sent(1000 * latencies_us, stages_us, held_us, probes_us)
    found = {metric.name: metric.value for metric in stage_metrics(sent)}
    parts = (*STAGES, "held", "client", "rest", "whole")
    for name, expected in (
        ("mean", [10, 20, 0, 97.5, 6.25, 50, 116.25, 300]),
        ("p50", [10, 20, 0, 30, 5, 35, 0, 100]),
        ("p99", [10, 20, 0, 300, 10, 95, 465, 900]),
    ):
        assert [1000 * found[f"{name}_{part}_ms"] for part in parts] == pytest.approx(expected, abs=1e-6)
    assert [found[f"{name}_explained"] for name in ("p50", "p99")] == pytest.approx([1.0, 1 - 465 / 900])


@pytest.mark.parametrize("streams", Streams)
async def test_a_user_who_sends_more_than_a_session_may_have_in_flight_is_not_refused(
    cluster: Cluster, streams: Streams
) -> None:
    offer = Offer(1.0, 1.0, 3, 0.0, Arrivals.POISSON, streams)
    at_once = Schedule(np.zeros(900, np.int64), np.array([0] * 600 + [1, 2] * 150))
    async with offering(cluster.address, dict(cluster.pids), offer, 1) as opened:
        sent = await opened.driver.send(at_once, opened.traffic.draw(900))
        again = await opened.driver.send(at_once, opened.traffic.draw(900))
    assert len(sent.latencies_ns) == len(again.latencies_ns) == 900


async def test_a_knee_is_where_the_p99_is_held_no_more(cluster: Cluster) -> None:
    offer = Offer(100.0, 0.3, 4, 0.0, Arrivals.POISSON, Streams.EXCHANGE)
    async with offering(cluster.address, dict(cluster.pids), offer, 1) as opened:
        runs = await knee(opened, 0.0)
    assert held(runs, 0.0) is None
    assert [each.offered_per_s for each in runs] == sorted(each.offered_per_s for each in runs)


async def test_a_log_that_ends_before_the_runs_do_is_told(tmp_path: Path) -> None:
    path = write_log(
        tmp_path,
        *(
            {"user_id": user, "event_time": 1000 * at, "ids": [0, 0], "features": [], "value": 1.0}
            for at, user in enumerate("abab", 1)
        ),
    )
    offer = Offer(1.0, 1.0, 1, 0.0, Arrivals.POISSON, Streams.SESSIONS, recording=(path, 0.1))
    with run_cluster(num_workers=1, model="knowledge-tracing", store="memory:") as running:
        async with offering(running.address, {}, offer, 1) as opened:
            done = await opened.run(1.0, 0.025)
            assert len(done.sent.latencies_ns) == 3
            assert len((await opened.run(1.0, 0.025)).sent.latencies_ns) == 1
            with pytest.raises(WrongReplyError, match="the log ends before the runs do"):
                await opened.run(1.0, 0.025)


def run_of(p99_ms: float) -> Run:
    return Run(
        1.0,
        Sent(np.full(10, int(p99_ms * 1e6)), np.zeros((10, 4), np.int64), np.zeros(10), np.full(10, np.nan)),
        Costs(1.0, {"client": 0.1}),
    )


def test_the_highest_rate_that_held_is_what_is_held() -> None:
    runs = [run_of(1.0), run_of(30.0), run_of(2.0), run_of(40.0)]
    assert held(runs, 20.0) is runs[2]


def test_who_sends_late_measures_itself() -> None:
    late = run_of(10.0)
    assert not late.is_generators_own
    late.costs.lags_ns += [4_000_000]
    assert late.is_generators_own
