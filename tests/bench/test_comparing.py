"""What is told to have changed between two runs, and a report's page."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from bench.__main__ import app
from bench.comparing import changes, runs_of
from bench.page import PLOTS, page, write_plots
from bench.report import changes_table
from bench.reporting import STEPS


def run_of(bench: str = "latency", step: str = "", **metrics: float) -> dict[str, Any]:
    return {
        "name": bench,
        "commit": "abc",
        "machine": "m",
        "seed": 1,
        "metrics": metrics,
        **({"step": step} if step else {}),
    }


def verdicts(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> dict[str, str]:
    return {change.metric: change.verdict for change in changes(before, after)}


def test_only_what_is_beyond_the_spread_has_changed() -> None:
    before = [run_of(x=10, x_lo=9, x_hi=11, x_aa=1, y=5, y_lo=4, y_hi=6, z=1, once=1)]
    after = [run_of(x=12, x_lo=11.1, x_hi=13, x_aa=1, y=6.5, y_lo=5.9, y_hi=7, z=2, new=1)]
    assert verdicts(before, after) == {"x": "higher", "y": "same", "z": "no spread"}
    assert verdicts(after, before)["x"] == "lower"


def test_runs_of_one_bench_are_its_spread() -> None:
    before = [run_of(z=1.0), run_of(z=1.4)]
    assert verdicts(before, [run_of(z=1.3), run_of(z=2.0)]) == {"z": "same"}
    assert verdicts(before, [run_of(z=1.5), run_of(z=2.0)]) == {"z": "higher"}
    (change,) = changes(before, [run_of(z=1.5), run_of(z=2.0)])
    assert (change.before.median, change.before.low, change.before.high) == (1.2, 1.0, 1.4)


def test_steps_of_one_bench_are_not_mixed() -> None:
    before = [
        run_of("load", "load-sessions", x=1, x_lo=1, x_hi=1),
        run_of("load", "load-exchange", x=9, x_lo=9, x_hi=9),
    ]
    assert [(change.bench, change.verdict) for change in changes(before, before)] == [
        ("load-sessions", "same"),
        ("load-exchange", "same"),
    ]


def test_a_table_tells_changes_and_counts_the_rest() -> None:
    found = list(changes([run_of(x=1, x_lo=1, x_hi=1, y=1)], [run_of(x=2, x_lo=2, x_hi=2, y=1)]))
    console = Console(file=io.StringIO(), width=120)
    console.print(changes_table(found, False))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "higher" in shown
    assert re.search(r"1 higher, 1 no spread", shown)
    assert " y " not in shown
    console.print(changes_table(found, True))
    assert " y " in console.file.getvalue()  # type: ignore[attr-defined]


def test_compare_takes_files_of_benches_and_of_reports(tmp_path: Path) -> None:
    one, other = tmp_path / "a.json", tmp_path / "b.json"
    one.write_text(json.dumps(run_of(x=1, x_lo=1, x_hi=1)))
    other.write_text(json.dumps({"runs": [run_of(x=3, x_lo=2, x_hi=4, step="latency")]}))
    assert len(runs_of(other)) == 1
    done = CliRunner().invoke(app, ["compare", str(one), str(other)])
    assert done.exit_code == 0
    assert "higher" in done.output
    other.write_text("[1]")
    refused = CliRunner().invoke(app, ["compare", str(one), str(other)])
    assert refused.exit_code == 2
    assert "no file that a bench or a report wrote" in re.sub(r"[\s│]+", " ", refused.output)


def full_runs() -> list[dict[str, Any]]:
    parts = {
        f"{name}_{stage}_ms": 1.0
        for name in ("p50", "p99")
        for stage in ("route", "queue", "hydrate", "step", "client")
    }
    tail = {
        f"{name}_ms{part}": at + 1.0
        for at, name in enumerate(("p50", "p90", "p99", "p999"))
        for part in ("", "_lo", "_hi")
    }
    knee = {
        "saturation_per_s": 2000.0,
        **{f"at_{rate}_per_s_{p}_ms": rate / 100 for rate in (1000, 2000, 4000) for p in ("p50", "p99")},
    }
    return [
        *(
            run_of("load", f"load-{streams}", offered_per_s=1000.0, **parts, **tail)
            for streams in ("sessions", "exchange")
        ),
        *(run_of("load", f"knee-{streams}", **knee) for streams in ("sessions", "exchange")),
        run_of(
            "peers",
            "peers",
            throughput_vs_redis=30.0,
            throughput_vs_redis_lo=28.0,
            throughput_vs_redis_hi=33.0,
            p99_vs_redis=0.2,
        ),
        run_of("rolling", "rolling", gap_p99_ms=50.0, gap_max_ms=60.0, router_gap_max_ms=2900.0),
        run_of("failover", "failover", recovery_p99_ms=580.0, zombie_recovery_p99_ms=1160.0),
    ]


def test_a_page_holds_its_plots_and_tables_and_names_what_failed(tmp_path: Path) -> None:
    runs = full_runs()
    assert {each["step"] for each in runs} <= set(STEPS)
    plots = write_plots(tmp_path, runs)
    assert [plot.stem for plot in plots] == list(PLOTS)
    assert all(plot.read_bytes().startswith(b"\x89PNG") for plot in plots)
    written = page(runs, {"peers": "redis is <not> installed"}, plots, "abc", "2 × a processor")
    assert written.count("data:image/png;base64,") == len(PLOTS)
    assert "redis is &lt;not&gt; installed" in written
    assert "<td>throughput_vs_redis<td>30<td>28 to 33" in written
    assert 'src="http' not in written


def test_a_plot_without_figures_is_not_drawn(tmp_path: Path) -> None:
    assert write_plots(tmp_path, [run_of("rolling", "rolling", gap_p99_ms=50.0)]) == [tmp_path / "gaps.png"]


def test_a_report_runs_its_steps_and_goes_on_where_one_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = ["load", "--duration", "0.2", "--warm-up", "0", "--runs", "1", "--users", "4"]
    monkeypatch.setattr("bench.reporting.STEPS", {"broken": ["latency", "--no-such"], "short": short})
    done = CliRunner().invoke(
        app, ["report", "--out", str(tmp_path), "--only", "broken", "--only", "short", "--runs", "2"]
    )
    assert done.exit_code == 0, done.output
    runs = runs_of(tmp_path / "report.json")
    assert [(each["step"], each["seed"]) for each in runs] == [("short", 1), ("short", 2)]
    written = (tmp_path / "report.html").read_text()
    assert "broken" in written
    assert "No such option" in written
    assert "p999_ms" in written


def test_an_unknown_step_is_refused() -> None:
    done = CliRunner().invoke(app, ["report", "--only", "nothing"])
    assert done.exit_code == 2
    assert "the steps are" in done.output
