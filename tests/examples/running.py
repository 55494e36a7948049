"""Runs an example as people do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TIMEOUT_S = 240


def run_quick(name: str, out: Path, *more: object) -> str:
    """What `python -m examples.NAME --quick` prints; its plot lies in `out`."""
    command = [sys.executable, "-m", f"examples.{name}", "--quick", "--out", str(out), *map(str, more)]
    environment = {**os.environ, "COLUMNS": "200"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (out / "seen.png").read_bytes().startswith(b"\x89PNG")
    return done.stdout


def row_of(printed: str, name: str) -> list[str]:
    """The cells of a table's row."""
    (line,) = (line for line in printed.splitlines() if line.startswith("│") and line[1:].strip().startswith(name))
    return [cell.strip() for cell in line.strip("│").split("│")]
