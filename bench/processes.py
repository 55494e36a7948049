"""Other processes: servers that live as long as a bench does, and what they cost in CPU and memory, from /proc."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, TypeVar

T = TypeVar("T")

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
STOP_TIMEOUT_S = 5.0
NUM_PORTS = 8192


@dataclass(frozen=True, slots=True)
class Server:
    """A server process that is ready. `addresses` are those that it said, host:port."""

    process: subprocess.Popen[str]
    addresses: tuple[str, ...]

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid


@contextmanager
def run_server(
    module: str,
    *arguments: str,
    python: str | Path = sys.executable,
    environment: Mapping[str, str] | None = None,
    errors: IO[bytes] | None = None,
    stop_timeout_s: float = STOP_TIMEOUT_S,
) -> Iterator[Server]:
    """`python -m MODULE` as a child that prints one line with its addresses when it is ready.

    It ends with the context, since its standard input does: it never outlives the bench, however that ended. What it
    writes to standard error goes to `errors`, or where ours goes.

    Raises:
        RuntimeError: it ended before it was ready.
    """
    with subprocess.Popen(
        [python, "-P", "-m", module, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        env=environment,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            addresses = tuple(word for word in process.stdout.readline().split() if ":" in word)
            if not addresses:
                raise RuntimeError(f"the server `{' '.join((module, *arguments))}` ended before it was ready")
            yield Server(process, addresses)
        finally:
            process.stdin.close()
            try:
                process.wait(stop_timeout_s)
            except subprocess.TimeoutExpired:
                process.kill()


@contextmanager
def entered_together(contexts: Sequence[AbstractContextManager[T]]) -> Iterator[list[T]]:
    """Enters all at once, a thread each: servers spend most of their start importing."""
    with ExitStack() as stack:
        with ThreadPoolExecutor(len(contexts)) as threads:
            entered = list(threads.map(stack.enter_context, contexts))
        yield entered


def free_ports(count: int) -> list[int]:
    """So many ports of the loopback that nobody listens on just now, all different.

    They lie below those that the kernel gives to connections and to whoever asks for any (ip(7), ip_local_port_range):
    a server that takes its time to start would find one of these taken.
    """
    end = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports = random.SystemRandom().sample(range(end - NUM_PORTS, end), NUM_PORTS)
    return list(islice(filter(_is_free, ports), count))


def free_port() -> int:
    """One of them."""
    [port] = free_ports(1)
    return port


def _is_free(port: int) -> bool:
    with closing(socket.socket()) as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


async def standard_input_ends() -> None:
    """Wait until whoever started this process is done with it."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), ended.set)
    await ended.wait()


def cpu_seconds(pid: int) -> float:
    """User and system CPU seconds of all threads of a process so far, in steps of a clock tick (proc_pid_stat(5))."""
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / TICKS_PER_S


def cpu_by_name(pids: Mapping[str, int]) -> dict[str, float]:
    """The CPU seconds of several processes so far."""
    return {name: cpu_seconds(pid) for name, pid in pids.items()}


def memory_bytes(pid: int) -> int:
    """The resident set of a process (proc_pid_statm(5))."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES
