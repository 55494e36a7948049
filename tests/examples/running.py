"""Runs an example as people do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
RUN_TIMEOUT_S = 300
"""A test of a whole run trains and starts a service."""


def ran(name: str, *options: object) -> subprocess.CompletedProcess[str]:
    """`python -m examples.NAME` with these options, to its end."""
    command = [sys.executable, "-m", f"examples.{name}", *map(str, options)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "COLUMNS": "200"}
    return subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=False)


def run_quick(name: str, out: Path, *more: object) -> str:
    """What a quick run prints; its plot lies in `out`."""
    done = ran(name, "--quick", "--out", out, *more)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (out / "seen.png").read_bytes().startswith(b"\x89PNG")
    return done.stdout


def rows_of(printed: str) -> dict[str, list[str]]:
    """The cells of all rows of tables, by the first."""
    lines = (line for line in printed.splitlines() if line.startswith("│"))
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]
    return {cells[0]: cells for cells in rows}


def row_of(printed: str, name: str) -> list[str]:
    """The cells of a row."""
    return rows_of(printed)[name]
