"""A router and its workers as child processes on this machine's loopback.

For `up`, `demo`, benches and tests. The children say on standard output when they are ready, and they end when their
standard input closes: nothing outlives the process that started them, however that one ends.
"""

from __future__ import annotations

import os
import queue
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO

from evercurrent.cli.errors import CommandError

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 20.0
STDERR_TAIL_BYTES = 4096


class ClusterError(CommandError):
    """A process of the cluster did not start or did not end well. The text says which, how, and its last words."""


@dataclass
class Child:
    """One process. `stderr` is a file of ours, or None when its errors go where ours go."""

    name: str
    process: subprocess.Popen[bytes]
    stderr: IO[bytes] | None = None
    address: str = ""

    def ending(self) -> str:
        """How it ended, with the tail of its errors."""
        text = f"{self.name} ended with exit code {self.process.returncode}"
        return f"{text}:\n{self.stderr_tail()}" if self.stderr_tail() else text

    def stderr_tail(self) -> str:
        """The last of what it wrote to standard error."""
        if self.stderr is None:
            return ""
        # The child writes at the offset that a read or seek of ours would move.
        file = self.stderr.fileno()
        tail = os.pread(file, STDERR_TAIL_BYTES, max(0, os.fstat(file).st_size - STDERR_TAIL_BYTES))
        return tail.decode(errors="replace").strip()


@dataclass
class Cluster:
    """A router and its workers, by name. What a method does to one of them it waits for: off the event loop, then."""

    children: dict[str, Child] = field(default_factory=dict)
    router_name: str = "router-0"
    starters: dict[str, Callable[[str], Child]] = field(default_factory=dict)
    """How each process is started, at an address."""
    reserved: dict[str, socket.socket] = field(default_factory=dict)
    """Who holds the address of each worker that the router is told of and that was never started."""

    @property
    def address(self) -> str:
        """Where the router listens."""
        return self.children[self.router_name].address

    @property
    def workers(self) -> dict[str, str]:
        """Where each worker listens."""
        return {name: child.address for name, child in self.children.items() if name != self.router_name}

    @property
    def pids(self) -> dict[str, int]:
        """Process ids."""
        return {name: child.process.pid for name, child in self.children.items()}

    def ended(self) -> dict[str, int]:
        """Exit codes of the processes that have ended."""
        codes = {name: child.process.poll() for name, child in self.children.items()}
        return {name: code for name, code in codes.items() if code is not None}

    def start(self, name: str) -> None:
        """Starts a worker that is reserved. Returns when it is ready."""
        holder = self.reserved.pop(name)
        address = _address_of(holder)
        holder.close()
        self._start_at(name, address)

    def restart(self, name: str) -> None:
        """Starts a process that has ended, or is about to, once more at its address. Returns when it is ready."""
        old = self.children[name]
        old.process.wait()
        _close_pipes(old)
        self._start_at(name, old.address)

    def terminate(self, name: str, grace_s: float) -> None:
        """Asks a process to end, and waits until it has.

        Raises:
            ClusterError: it failed, or did not end in time and was killed.
        """
        child = self.children[name]
        child.process.terminate()
        try:
            child.process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self.kill(name)
            raise ClusterError(f"{name} did not end within {grace_s:g} s:\n{child.stderr_tail()}") from None
        if child.process.returncode != 0:
            raise ClusterError(child.ending())

    def kill(self, name: str) -> None:
        """Ends a process without a word."""
        self.children[name].process.kill()
        self.children[name].process.wait()

    @contextmanager
    def paused(self, name: str) -> Iterator[None]:
        """A process that is stopped meanwhile, and knows nothing of it."""
        process = self.children[name].process
        process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            process.send_signal(signal.SIGCONT)

    def _start_at(self, name: str, address: str) -> None:
        self.children[name] = self.starters[name](address)
        _wait_ready([self.children[name]])

    def wait(self) -> Child:
        """The first process that ends, when it does."""
        first: queue.SimpleQueue[Child] = queue.SimpleQueue()
        for child in self.children.values():
            threading.Thread(target=_announce_end, args=(child, first.put), daemon=True).start()
        return first.get()


@contextmanager
def run_cluster(
    *,
    num_workers: int = 2,
    num_reserved: int = 0,
    model: str | None = None,
    weights: Path | None = None,
    store: str | None = None,
    router_address: str | None = "127.0.0.1:0",
    search_path: Path | None = None,
    config: Path | None = None,
    show_logs: bool = False,
) -> Iterator[Cluster]:
    """Starts a router and workers, gives them when all are ready, and stops them.

    The router is told of `num_reserved` workers more, which are started later (`Cluster.start`) or never. What is None
    is left to the settings' other sources. With `show_logs` the children write to our standard error,
    else it is kept for the text of a ClusterError, which is raised when a process does not start, or has to be killed
    or fails when it is to stop.
    """
    cluster = Cluster()
    shared = _options(model=model, weights=weights, store=store, search_path=search_path or Path.cwd())
    with ExitStack() as held:

        def start(kind: str, name: str, options: Sequence[str]) -> Child:
            stderr = None if show_logs else held.enter_context(tempfile.TemporaryFile())
            return _start(kind, name, [*_options(config=config, name=name), *options], stderr)

        def start_worker(name: str, address: str) -> Child:
            return start("worker", name, [*_options(address=address), *shared])

        try:
            for name in (f"worker-{index}" for index in range(num_workers)):
                cluster.starters[name] = partial(start_worker, name)
                cluster.children[name] = start_worker(name, "127.0.0.1:0")
            _wait_ready(cluster.children.values())
            addresses = cluster.workers
            for name in (f"worker-{num_workers + index}" for index in range(num_reserved)):
                cluster.starters[name] = partial(start_worker, name)
                cluster.reserved[name] = held.enter_context(closing(_bound_to_any_port()))
                addresses[name] = _address_of(cluster.reserved[name])
            members = _options(workers=",".join(f"{name}={address}" for name, address in addresses.items()))

            def start_router(address: str | None) -> Child:
                return start("router", cluster.router_name, [*_options(address=address), *members])

            cluster.starters[cluster.router_name] = start_router
            cluster.children[cluster.router_name] = start_router(router_address)
            _wait_ready([cluster.children[cluster.router_name]])
            yield cluster
        except BaseException:
            _stop(cluster)
            raise
        failed = _stop(cluster)
        if failed:
            raise ClusterError("; ".join(failed))


def _bound_to_any_port() -> socket.socket:
    """A socket that holds a port which nobody else is given; who connects there is refused."""
    holder = socket.socket()
    holder.bind(("127.0.0.1", 0))
    return holder


def _address_of(holder: socket.socket) -> str:
    host, port = holder.getsockname()
    return f"{host}:{port}"


def _options(**values: object) -> list[str]:
    return [f"--{key.replace('_', '-')}={value}" for key, value in values.items() if value is not None]


def _start(kind: str, name: str, options: Sequence[str], stderr: IO[bytes] | None) -> Child:
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "evercurrent.cli", kind, "--end-with-stdin", *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        # Ctrl-C in a terminal is for us alone: we stop the children in order.
        start_new_session=True,
    )
    return Child(name, process, stderr)


def _wait_ready(children: Iterable[Child]) -> None:
    """Reads the ready line of each, `ready worker worker-0 127.0.0.1:41234`."""
    deadline = time.monotonic() + START_TIMEOUT_S
    for child in children:
        assert child.process.stdout is not None
        readable, _, _ = select.select([child.process.stdout], [], [], max(0.0, deadline - time.monotonic()))
        if not readable:
            raise ClusterError(f"{child.name} was not ready after {START_TIMEOUT_S:.0f} s:\n{child.stderr_tail()}")
        words = child.process.stdout.readline().decode().split()
        if words[:1] != ["ready"] or len(words) != 4:
            with suppress(subprocess.TimeoutExpired):
                child.process.wait(STOP_TIMEOUT_S)
            raise ClusterError(child.ending())
        child.address = words[3]


def _announce_end(child: Child, announce: Callable[[Child], None]) -> None:
    child.process.wait()
    announce(child)


def _stop(cluster: Cluster) -> list[str]:
    """Ends the router, then the workers; kills what does not end. Says which of those that still ran ended badly."""
    running = [child for child in cluster.children.values() if child.process.poll() is None]
    routers = [child for child in running if child.name == cluster.router_name]
    try:
        _terminate(routers)
        _terminate([child for child in running if child not in routers])
    finally:
        for child in cluster.children.values():
            child.process.kill()
            child.process.wait()
            _close_pipes(child)
    return [child.ending() for child in running if child.process.returncode != 0]


def _close_pipes(child: Child) -> None:
    for pipe in (child.process.stdin, child.process.stdout):
        assert pipe is not None
        pipe.close()


def _terminate(children: Sequence[Child]) -> None:
    deadline = time.monotonic() + STOP_TIMEOUT_S
    for child in children:
        child.process.terminate()
    for child in children:
        try:
            child.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.process.kill()
