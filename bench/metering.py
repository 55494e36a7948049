"""What a load costs while it lasts: CPU seconds and memory of processes, what the machine lost to others, and whether
whoever sends it kept up."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.pacing import NS_PER_S, Clock
from bench.processes import TICKS_PER_S, cpu_by_name, memory_bytes
from bench.stats import percentile

PROBE_NS = 5_000_000
"""How often the loop that sends is asked how late it is."""


@dataclass(slots=True)
class Costs:
    """Whole once the load is over. `cpu_s` are CPU seconds by process, `steal_s` those that a hypervisor gave to
    others; `lags_ns` is how late the event loop of this process woke up."""

    elapsed_s: float = 0.0
    cpu_s: dict[str, float] = field(default_factory=dict)
    memory_bytes: dict[str, int] = field(default_factory=dict)
    steal_s: float = 0.0
    lags_ns: list[int] = field(default_factory=list)

    def cores(self, name: str) -> float:
        """How much of a core a process kept busy."""
        return self.cpu_s[name] / self.elapsed_s

    @property
    def lag_p99_ns(self) -> float:
        """What the sending itself may have added to a P99."""
        return percentile(self.lags_ns, 99) if self.lags_ns else 0.0


@asynccontextmanager
async def metered(pids: Mapping[str, int], clock: Clock) -> AsyncIterator[Costs]:
    """What these processes, and this one as `client`, cost while the context lasts."""
    all_pids = {**pids, "client": os.getpid()}
    costs = Costs()
    before, steal_s, began_ns = cpu_by_name(all_pids), _steal_s(), clock.now_ns()
    async with asyncio.TaskGroup() as tasks:
        probe = tasks.create_task(_probe(clock, costs.lags_ns))
        yield costs
        probe.cancel()
        costs.elapsed_s = (clock.now_ns() - began_ns) / NS_PER_S
        costs.cpu_s = {name: cpu_s - before[name] for name, cpu_s in cpu_by_name(all_pids).items()}
        costs.memory_bytes = {name: memory_bytes(pid) for name, pid in all_pids.items()}
        costs.steal_s = _steal_s() - steal_s


async def _probe(clock: Clock, lags_ns: list[int]) -> None:
    at_ns = clock.now_ns()
    while True:
        at_ns = max(at_ns + PROBE_NS, clock.now_ns())
        await clock.sleep_until(at_ns)
        lags_ns.append(clock.now_ns() - at_ns)


def _steal_s() -> float:
    """CPU seconds of this machine that others had (proc_stat(5))."""
    return int(Path("/proc/stat").read_text().split("\n", 1)[0].split()[8]) / TICKS_PER_S
