"""Bench `report`: runs a set of benches, each a program of its own, and writes what they found as one page.

A folder with report.html, which needs nothing beside it, its plots as PNG, and report.json, which `compare` takes. A
bench that fails is named on the page with what it said, and the others go on.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.report import commit, machine
from bench.run import Watch

STEPS: Mapping[str, Sequence[str]] = {
    "latency": ["latency"],
    "throughput": ["throughput"],
    "load-sessions": ["load", "--rate", "1000"],
    "load-exchange": ["load", "--rate", "8000", "--users", "4096", "--streams", "exchange"],
    "knee-sessions": ["load", "--rate", "500", "--duration", "3", "--ramp", "20"],
    "knee-exchange": [
        *("load", "--rate", "4000", "--duration", "3", "--users", "4096"),
        *("--streams", "exchange", "--ramp", "20"),
    ],
    "capacity": ["capacity"],
    "durability": ["durability"],
    "tracing": ["tracing"],
    "rolling": ["rolling"],
    "failover": ["failover"],
    "shadow": ["shadow"],
    "peers": ["peers"],
}
"""What a report is made of, and the bench that each step runs."""

SHORT = {"load": ["--duration", "0.3", "--warm-up", "0.1"]}
"""How a bench is short that has no --quick."""


def write_report(out: Path, steps: Sequence[str], num_runs: int, quick: bool, seed: int, watch: Watch) -> Path:
    """Run these steps, each so many times, and write the report; the path of its page."""
    from bench.page import page, write_plots

    out.mkdir(parents=True, exist_ok=True)
    runs: list[dict[str, Any]] = []
    failures: dict[str, str] = {}
    for step in steps:
        with watch.stage(step, num_runs) as advance:
            for number in range(num_runs):
                path = out / f"{step}-{number + 1}.json"
                why = _run(STEPS[step], path, quick, seed + number)
                if why is not None:
                    failures[step] = why
                    break
                runs.append({**json.loads(path.read_text()), "step": step})
                advance()
    plots = write_plots(out, runs)
    (out / "report.json").write_text(json.dumps({"runs": runs}, indent=2) + "\n")
    written = out / "report.html"
    written.write_text(page(runs, failures, plots, commit(), machine()))
    for step, why in failures.items():
        Console(stderr=True).print(f"{step} did not run: {why}", style="red", markup=False, soft_wrap=True)
    return written


def _run(arguments: Sequence[str], path: Path, quick: bool, seed: int) -> str | None:
    """Run one bench; why it failed, if it did."""
    bench, *_ = arguments
    short = SHORT.get(bench, ["--quick"]) if quick else []
    command = [sys.executable, "-m", "bench", *arguments, *short, "--seed", str(seed), "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else done.stderr.strip()[-2000:] or f"exit code {done.returncode}"
