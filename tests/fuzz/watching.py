"""How the processes under attack are: what they write to their logs, and what they hold."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.processes import memory_bytes
from evercurrent.cli.cluster import Child, Cluster

BAD = re.compile(
    r"Traceback|Task exception was never retrieved|never awaited|Warning:|Unexpected \[| ERROR | CRITICAL "
    r"|link lost|fenced|incarnation ended|^F\d{4} ",
    re.MULTILINE,
)
"""What no process says while all is well, whatever it is sent."""

HARMLESS = re.compile(
    r"^.*grpc\._cython\.cygrpc: Invalid encoding on .*\n(Traceback[\s\S]*?^UnicodeDecodeError.*\n)?", re.MULTILINE
)
"""What gRPC says of metadata that is not UTF-8, and then gives to handlers all the same."""

CONTEXT_CHARS = 300, 6_000
"""What is shown of a log before what is bad, and after it."""


class Logs:
    """What processes wrote to standard error, looked at once."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._seen = dict.fromkeys(cluster.children, 0)

    def faults(self) -> Iterator[str]:
        """What is bad of what was written since the last call; one of many that follow each other."""
        for name, child in self._cluster.children.items():
            text = self._news(name, child)
            if (found := BAD.search(text)) is not None:
                before, after = CONTEXT_CHARS
                yield f"{name} wrote: {text[max(0, found.start() - before) : found.start() + after]}"

    def _news(self, name: str, child: Child) -> str:
        assert child.stderr is not None, "its errors are kept"
        file = child.stderr.fileno()
        size = os.fstat(file).st_size
        raw = os.pread(file, size - self._seen[name], self._seen[name])
        self._seen[name] = size
        return HARMLESS.sub("", raw.decode(errors="replace"))


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process holds: open files by what they are, and resident bytes."""

    files: tuple[str, ...]
    rss_bytes: int


def usages(cluster: Cluster) -> dict[str, Usage]:
    """Those of all processes, by name. Connections whose other end this process still holds are no files of theirs:
    gRPC's client keeps one of a closed channel now and then, and whose it is has not left."""
    ends = _connections()
    ours = {ends[file] for file in _files(os.getpid()) if file in ends}
    return {
        name: Usage(
            tuple(file for file in _files(pid) if ends.get(file, ("", ""))[::-1] not in ours), memory_bytes(pid)
        )
        for name, pid in cluster.pids.items()
    }


def described(files: Iterable[str]) -> str:
    """Open files, and of those that are connections the two ends."""
    ends = _connections()
    return ", ".join(" to ".join((file, *ends.get(file, ()))) for file in files)


def _files(pid: int) -> list[str]:
    files = []
    for number in os.listdir(f"/proc/{pid}/fd"):
        try:
            files.append(os.readlink(f"/proc/{pid}/fd/{number}"))
        except FileNotFoundError:
            continue
    return sorted(files)


def _connections() -> dict[str, tuple[str, str]]:
    """Of every TCP connection of this machine, by the file that it is: its own port and the other's, as hex."""
    rows = [row.split() for name in ("tcp", "tcp6") for row in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return {f"socket:[{row[9]}]": (row[1].rpartition(":")[2], row[2].rpartition(":")[2]) for row in rows}
