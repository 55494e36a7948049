"""The benches as programs: what they write, and how they end when interrupted or lied to."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from bench import load
from bench.__main__ import app, run_and_report
from bench.echo import run_echo
from bench.report import Metric
from bench.run import Watch, WrongReplyError, run

RATIO_PARTS = ("", "_lo", "_hi", "_aa")

LATENCY = {
    "routed_p50_ms",
    "routed_p99_ms",
    "echo_routed_p50_ms",
    "echo_routed_p99_ms",
    "step_p50_ms",
    "step_paced_p50_ms",
    "routed_overhead_us",
    "echo_switched_p50_ms",
    "switched_overhead_us",
    "switched_over_echo_p50",
    "direct_p50_ms",
    "direct_p99_ms",
    "echo_direct_p50_ms",
    "direct_overhead_us",
    *(f"direct_over_echo_p50{part}" for part in RATIO_PARTS),
    "open_loop_offered_per_s",
    "open_loop_p50_ms",
    "open_loop_p99_ms",
    "echo_open_loop_p99_ms",
    *(f"routed_over_echo_p50{part}" for part in RATIO_PARTS),
    *(f"routed_sqlite_over_memory_p50{part}" for part in RATIO_PARTS),
    "open_loop_sqlite_over_memory_p99",
}
THROUGHPUT = {
    "num_workers",
    "exchange_updates_per_s",
    "echo_exchange_updates_per_s",
    "sessions_256_updates_per_s",
    "echo_sessions_256_updates_per_s",
    "worker_updates_per_cpu_s",
    "router_updates_per_cpu_s",
    "exchange_client_cores",
    "sessions_256_client_cores",
    *(f"exchange_over_echo{part}" for part in RATIO_PARTS),
    *(f"sessions_256_over_echo{part}" for part in RATIO_PARTS),
    *(f"exchange_sqlite_over_memory{part}" for part in RATIO_PARTS),
    *(f"sessions_256_sqlite_over_memory{part}" for part in RATIO_PARTS),
}
TRACING = {
    "offered_per_s",
    "untold_p99_ms",
    "metrics_p99_ms",
    "traced_1pct_p99_ms",
    "traced_100pct_p99_ms",
    "spans_1pct",
    "spans_100pct",
    *(f"p99_ratio_metrics{part}" for part in RATIO_PARTS),
    *(f"p99_ratio_traced_1pct{part}" for part in RATIO_PARTS),
    *(f"p99_ratio_traced_100pct{part}" for part in RATIO_PARTS),
}
DURABILITY = {
    "offered_per_s",
    "store_normal_p99_ms",
    "store_slow_p99_ms",
    "store_down_p99_ms",
    "puts_per_s_per_worker",
    "puts_per_session",
    "durable_lag_p99_ms",
    "durable_lag_sqlite_p99_ms",
    "at_risk_max_store_down",
    "catch_up_s",
    *(f"p99_ratio_slow_store{part}" for part in RATIO_PARTS),
    *(f"p99_ratio_store_down{part}" for part in RATIO_PARTS),
}
SCALE = {
    "offered_per_s",
    "update_1k_p99_ms",
    "update_10k_p99_ms",
    "memory_empty_mib",
    "memory_10k_mib",
    "bytes_per_resident",
    "bytes_per_resident_grown",
    "gap_max_ms",
    "gap_echo_max_ms",
    "gap_cleaned_segments",
    "journal_encode_ms_per_10k",
    "journal_finish_ms_per_10k",
    "hydrate_users_per_s",
    "hydrate_refused",
    "recover_2k_s",
    *(f"p99_ratio_10k_over_1k{part}" for part in RATIO_PARTS),
}
FAULTS = {"client_errors", "lost", "duplicated", "misordered"}
ROLLING = {
    *FAULTS,
    "offered_per_s",
    "updates",
    "duplicate_replies",
    "steady_p99_ms",
    "starting_p99_ms",
    "gap_p99_ms",
    "gap_max_ms",
    "router_gap_max_ms",
    "drain_s_max",
    "steps",
    "moved_slots",
    "moved_sessions",
}
FAILOVER = {
    *FAULTS,
    "offered_per_s",
    "updates",
    "stub_errors",
    "duplicate_replies",
    "steady_p99_ms",
    "recovery_p99_ms",
    "recovery_max_ms",
    "zombie_recovery_p99_ms",
    "zombie_recovery_max_ms",
    "zombie_return_s",
}
VERDICT = {
    "level",
    "runs",
    "events",
    "false_verdicts",
    "false_verdict_rate",
    "central_limit_rate",
    *(
        f"{pair}_{what}"
        for pair in ("d002", "d005", "d02")
        for what in ("p50_events", "p90_events", "reached", "wrong")
    ),
}
SHADOW = {
    *FAULTS,
    "saturation_per_s",
    "offered_per_s",
    "live_no_shadow_p99_ms",
    "live_1_shadow_p99_ms",
    "live_3_shadows_p99_ms",
    "shadow_step_ms",
    "shadow_added_p99_steps_lo",
    "live_p99_ratio_1_shadow_lo",
    "live_p99_ratio_3_shadows_lo",
    "live_p99_ratio_3_shadows_aa",
    "shadow_updates",
    "shadow_shed_users",
    "promote_ms",
    "rollback_ms",
    "slow_rollback_ms",
    "prepare_ms",
    "max_gap_ms",
    "slow_max_gap_ms",
    "rollback_missed_events",
    *(
        f"{bad}_{what}"
        for bad in ("wrong_sign", "soon_nan", "slow")
        for what in ("rolled_back_s", "live_brier", "old_brier")
    ),
}
LOAD = {
    "offered_per_s",
    "updates_per_s",
    "generator_bound",
    "generator_lag_p99_ms",
    "steal_s",
    "client_cores",
    "worker_0_cores",
    "router_0_memory_mib",
    *(f"{name}_ms{part}" for name in ("p50", "p90", "p99", "p999", "max") for part in ("", "_lo", "_hi")),
    *(
        f"{name}_{stage}_ms"
        for name in ("p50", "p99")
        for stage in ("route", "queue", "hydrate", "step", "client", "whole")
    ),
}
CAPACITY = {
    "exchange_held_per_s",
    "exchange_worker_cores",
    "exchange_worker_bound",
    "exchange_generator_bound",
    "sessions_held_per_s",
    "sessions_router_cores",
    "size_users",
    "size_workers",
    "size_routers_exchange",
    "size_routers_sessions",
    "size_memory_gib_a_worker",
    "user_bytes",
    "s3_puts_a_month",
    "s3_put_gib_a_month",
}
EXPECTED = {
    "latency": LATENCY,
    "throughput": THROUGHPUT,
    "durability": DURABILITY,
    "scale": SCALE,
    "rolling": ROLLING,
    "failover": FAILOVER,
    "verdict": VERDICT,
    "shadow": SHADOW,
    "tracing": TRACING,
    "load": LOAD,
    "capacity": CAPACITY,
}
ARGUMENTS = {
    "load": ["--runs", "2", "--duration", "0.3", "--warm-up", "0.1", "--users", "16"],
    "capacity": ["--quick", "--p99-ms", "400"],
}


@pytest.mark.parametrize(("name", "expected"), EXPECTED.items())
def test_a_quick_run_writes_the_contract(name: str, expected: set[str], tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    command = [
        sys.executable,
        "-m",
        "bench",
        name,
        *ARGUMENTS.get(name, ["--quick"]),
        "--seed",
        "3",
        "--json",
        str(path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr

    written = json.loads(path.read_text())

    assert set(written) == {"name", "commit", "machine", "seed", "metrics"}
    assert (written["name"], written["seed"]) == (name, 3)
    assert expected <= set(written["metrics"])
    for metric, value in written["metrics"].items():
        assert isinstance(value, int | float), metric
        assert value >= 0 or "_overhead_us" in metric or "_added_" in metric or "_rest_ms" in metric, metric
    for metric in expected & {name for name in written["metrics"] if name.endswith("_lo")}:
        x = metric.removesuffix("_lo")
        assert written["metrics"][metric] <= written["metrics"][x] <= written["metrics"][f"{x}_hi"]
    for metric in (FAULTS | {"stub_errors", "rollback_missed_events"}) & expected:
        assert written["metrics"][metric] == 0, done.stdout
    assert f"bench {name}" in done.stdout
    assert done.stderr == ""


def test_help_teaches_what_the_numbers_mean() -> None:
    shown = CliRunner().invoke(app, ["--help"])
    assert shown.exit_code == 0
    for word in (*EXPECTED, "floor", "x_aa", "metrics"):
        assert word in shown.output


@pytest.mark.parametrize("others", [["--streams", "exchange"], ["--ramp", "20"], ["--log", "events"]])
def test_a_closed_loop_takes_no_option_that_is_of_an_open_one(others: list[str]) -> None:
    done = CliRunner().invoke(app, ["load", "--arrivals", "closed", *others])
    assert done.exit_code == 2
    assert "a closed loop has sessions" in done.output


def test_a_log_that_is_not_there_is_told(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["load", "--log", str(tmp_path / "nothing")])
    assert done.exit_code == 1
    assert "nothing was written" in done.stderr
    assert str(tmp_path / "nothing") in done.stderr.replace("\n", "")


def test_an_interrupt_ends_the_servers_and_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    pids: list[int] = []

    async def interrupted() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.Event().wait()

    def measure(_: Watch) -> tuple[Metric, ...]:
        with run_echo() as echo:
            pids.extend(echo.pids.values())
            run(interrupted())
        return ()

    with pytest.raises(typer.Exit) as ended:
        run_and_report("latency", path, 1, measure)

    assert ended.value.exit_code == 130
    assert not path.exists()
    assert len(pids) == 3
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_wrong_reply_fails_the_bench_and_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bench.json"

    class Liar:
        """A stream whose frames come back rejected."""

        async def write(self, request: bytes) -> None:
            pass

        async def read(self) -> bytes:
            return b""

    def measure(_: Watch) -> tuple[Metric, ...]:
        run(load.pump(Liar(), [b"frame"], 1, load.applied_of_exchange))
        return ()

    with pytest.raises(typer.Exit) as ended:
        run_and_report("throughput", path, 1, measure)

    assert ended.value.exit_code == 1
    assert not path.exists()
    assert "not applied" in capsys.readouterr().err


def test_another_error_is_not_taken_for_a_wrong_reply() -> None:
    async def broken() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(load.closed_loop(None, [b""]))  # type: ignore[arg-type]

    with pytest.raises(ExceptionGroup) as raised:
        run_and_report("latency", None, 1, lambda _: run(broken()))  # type: ignore[arg-type]
    assert not raised.group_contains(WrongReplyError)
