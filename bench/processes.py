"""What other processes cost: CPU seconds from /proc."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """User and system CPU seconds of all threads of a process so far, in steps of a clock tick (proc_pid_stat(5))."""
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / TICKS_PER_S


def cpu_by_name(pids: Mapping[str, int]) -> dict[str, float]:
    """The CPU seconds of several processes so far."""
    return {name: cpu_seconds(pid) for name, pid in pids.items()}
