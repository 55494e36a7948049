"""What router and worker measure, as Prometheus and an OTLP receiver get it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

import evercurrent
from bench.processes import free_port, free_ports
from evercurrent.cli.cluster import Cluster, run_cluster
from evercurrent.telemetry.latency import BOUNDS_US, LatencyWindow
from evercurrent.telemetry.metrics import Kind, counter, gauge, labelled, times
from evercurrent.telemetry.prometheus import render, serve_metrics
from tests.telemetry.receiver import Receiver, otlp_receiver

ROOT = Path(__file__).parents[2]
NUM_UPDATES = 40
PROMETHEUS_PATIENCE_S = 60.0

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples_of(text: str) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scraped(port: int) -> Samples:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        return samples_of(answer.read().decode())


class Watched:
    """A service of one worker that was used, and where its metrics are."""

    def __init__(self, cluster: Cluster, ports: dict[str, int]) -> None:
        self.cluster = cluster
        self.ports = ports


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with otlp_receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, receiver: Receiver) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    ports = dict(zip(("router", "worker"), free_ports(2), strict=True))
    config = folder / "config.toml"
    config.write_text(
        "".join(
            f'[{role}]\nmetrics_address = "127.0.0.1:{port}"\notlp_endpoint = "http://{receiver.address}"\n'
            for role, port in ports.items()
        )
    )
    store = f"sqlite:{folder / 'store.db'}"
    with run_cluster(num_workers=1, store=store, config=config) as cluster:
        with evercurrent.connect_sync(cluster.address) as client, client.session("ann") as ann:
            for _ in range(NUM_UPDATES):
                assert ann.observe(ids=[1, 1], outcome=1.0).status.name == "APPLIED"
            assert ann.observe(ids=[1, 1 << 40], outcome=1.0).status.name == "REJECTED"
            ann.durable()
        yield Watched(cluster, ports)


def test_what_was_done_is_counted(watched: Watched) -> None:
    router, worker = (scraped(watched.ports[role]) for role in ("router", "worker"))
    for stage in ("total", "route", "queue", "hydrate", "step", "reply"):
        assert router["evercurrent_update_latency_seconds_count", (("stage", stage),)] == NUM_UPDATES
    sums = {
        stage: router["evercurrent_update_latency_seconds_sum", (("stage", stage),)]
        for stage in ("total", "route", "queue", "hydrate", "step", "reply")
    }
    total = sums.pop("total")
    assert total == pytest.approx(sum(sums.values()))
    assert total > 0
    assert router["evercurrent_worker_updates_total", (("worker", "worker-0"),)] == NUM_UPDATES
    assert router["evercurrent_worker_up", (("worker", "worker-0"),)] == 1
    assert router["evercurrent_ring_workers", ()] == 1
    assert worker["evercurrent_updates_total", ()] == NUM_UPDATES
    assert worker["evercurrent_rejected_total", ()] == 1
    assert worker["evercurrent_residents", ()] == 1
    assert worker["evercurrent_claims_total", ()] >= 1
    assert worker["evercurrent_updates_at_risk", ()] == 0
    assert worker["evercurrent_journal_segments_total", ()] >= 1
    assert worker["evercurrent_journal_written_bytes_total", ()] > 0
    assert worker["evercurrent_worker_latency_seconds_count", (("stage", "step"),)] == NUM_UPDATES


def test_no_label_names_a_user(watched: Watched) -> None:
    for port in watched.ports.values():
        for _, labels in scraped(port):
            assert {name for name, _ in labels} <= {"stage", "worker", "version", "le"}


def names_there_are(watched: Watched) -> dict[str, set[str]]:
    """By role, families as Prometheus names them."""
    names = {}
    for role, port in watched.ports.items():
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            names[role] = set(re.findall(r"^# TYPE (\S+) ", answer.read().decode(), re.MULTILINE))
    return names


def test_dashboard_and_docs_name_what_there_is(watched: Watched) -> None:
    names = names_there_are(watched)
    both = names["router"] | names["worker"]
    assert not names["router"] & names["worker"]
    dashboard = json.loads((ROOT / "dashboards" / "evercurrent.json").read_text())
    asked = set()
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            asked |= set(re.findall(r"evercurrent_\w+", target["expr"]))
    assert len(asked) > 20
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked} <= both
    documented = set(re.findall(r"^\| `(evercurrent_\w+)`", (ROOT / "docs" / "telemetry.md").read_text(), re.MULTILINE))
    assert documented == both


def test_the_same_by_otlp(tmp_path: Path) -> None:
    with otlp_receiver() as receiver:
        config = tmp_path / "config.toml"
        config.write_text(f'[router]\notlp_endpoint = "http://{receiver.address}"\n')
        with (
            run_cluster(num_workers=1, store="memory:", config=config) as cluster,
            evercurrent.connect_sync(cluster.address) as client,
            client.session("ann") as ann,
        ):
            for _ in range(3):
                ann.observe(ids=[1, 1], outcome=1.0)
        metrics = receiver.metrics["evercurrent-router"]
    latency = metrics["evercurrent.update.latency"].histogram.data_points
    counts = {point.attributes[0].value.string_value: point.count for point in latency}
    assert counts == dict.fromkeys(("total", "route", "queue", "hydrate", "step", "reply"), 3)
    for point in latency:
        assert list(point.explicit_bounds) == [bound / 1e6 for bound in BOUNDS_US]
        assert sum(point.bucket_counts) == 3
        assert not point.HasField("max")
    (updates,) = metrics["evercurrent.worker.updates"].sum.data_points
    assert metrics["evercurrent.worker.updates"].sum.is_monotonic
    assert updates.as_int == 3
    assert updates.start_time_unix_nano < updates.time_unix_nano


def test_names_and_values_as_prometheus_has_them() -> None:
    window = LatencyWindow()
    window.record([63, 64, 1 << 24], now_s=1.0)
    window.record([100], now_s=1e6)
    rendered = samples_of(
        render(
            [
                times("evercurrent.some.latency", "Times.", "stage", {"total": window.distribution()}),
                counter("evercurrent.written", "Bytes.", 7, "By"),
                gauge("evercurrent.lag", "Behind.", 0.25, "s"),
                labelled(Kind.GAUGE, "evercurrent.up", "Up.", "worker", {"a": 1, "b": 0}),
                labelled(Kind.GAUGE, "evercurrent.none", "Nobody.", "worker", {}),
            ]
        ).decode()
    )
    assert rendered["evercurrent_some_latency_seconds_bucket", (("le", "6.4e-05"), ("stage", "total"))] == 1
    assert rendered["evercurrent_some_latency_seconds_bucket", (("le", "9.6e-05"), ("stage", "total"))] == 2
    assert rendered["evercurrent_some_latency_seconds_bucket", (("le", "16.7772"), ("stage", "total"))] == 3
    assert rendered["evercurrent_some_latency_seconds_bucket", (("le", "+Inf"), ("stage", "total"))] == 4
    assert rendered["evercurrent_some_latency_seconds_sum", (("stage", "total"),)] == pytest.approx(16.777443)
    assert rendered["evercurrent_written_bytes_total", ()] == 7
    assert rendered["evercurrent_lag_seconds", ()] == 0.25
    assert rendered["evercurrent_up", (("worker", "b"),)] == 0
    assert not any(name == "evercurrent_none" for name, _ in rendered)


async def test_a_taken_address_is_said() -> None:
    async with serve_metrics("127.0.0.1:0", list) as address:
        with pytest.raises(OSError, match=f"cannot serve metrics on {address}: "):
            async with serve_metrics(address, list):
                pass


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed")
def test_a_real_prometheus_scrapes_it(watched: Watched, tmp_path: Path) -> None:
    config = tmp_path / "prometheus.yml"
    targets = ", ".join(f'"127.0.0.1:{port}"' for port in watched.ports.values())
    config.write_text(
        "scrape_configs:\n"
        "  - job_name: evercurrent\n    scrape_interval: 200ms\n    scrape_timeout: 200ms\n"
        f"    static_configs:\n      - targets: [{targets}]\n"
    )
    port = free_port()
    command = [
        *("prometheus", f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'data'}"),
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (tmp_path / "prometheus.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            query = "histogram_quantile(0.99, evercurrent_update_latency_seconds_bucket{stage='total'})"
            p99_s = asked(port, query)
            assert 0 < p99_s < 16
            assert asked(port, "evercurrent_updates_total") == NUM_UPDATES
        finally:
            process.terminate()


def asked(port: int, query: str) -> float:
    """What Prometheus answers, once it has scraped what is asked for. It has no event to wait for."""
    url = f"http://127.0.0.1:{port}/api/v1/query?query={urllib.request.quote(query)}"  # type: ignore[attr-defined]
    deadline_s = time.monotonic() + PROMETHEUS_PATIENCE_S
    while time.monotonic() < deadline_s:
        try:
            with urllib.request.urlopen(url) as answer:
                found = json.load(answer)["data"]["result"]
        except OSError:
            found = []
        if found:
            return float(found[0]["value"][1])
        time.sleep(0.1)
    raise AssertionError(f"no answer to {query}")
