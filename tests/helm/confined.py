"""Runs a command that can write only below the directories named: `confined.py DIR… -- COMMAND…`.

As a container's read-only root does to it, but without a container: Landlock (Linux 5.13), which needs no privileges
and holds for everything that the process calls, C libraries included. Devices may be written, as in a container. Exit
code 77: this kernel has no Landlock.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
PATH_BENEATH = 1
NO_NEW_PRIVILEGES = 38
WRITE_FILE = 1 << 1
WRITES = WRITE_FILE | sum(1 << bit for bit in range(4, 13))
"""Writing to files; making and removing what there is in a file system. Known to all versions of Landlock."""

TRUNCATE = 1 << 14
"""From version 3 on."""

ABSENT = 77


def confine(directories: list[str]) -> None:
    """From now on, for this process and its children. Exits with ABSENT where that cannot be."""
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(CREATE_RULESET, None, 0, 1)
    if version < 1:
        sys.exit(ABSENT)
    handled = WRITES | (TRUNCATE if version >= 3 else 0)
    ruleset = libc.syscall(CREATE_RULESET, struct.pack("Q", handled), 8, 0)
    rules = [(directory, handled) for directory in directories] + [("/dev", handled & (WRITE_FILE | TRUNCATE))]
    for directory, allowed in rules:
        opened = os.open(directory, os.O_PATH | os.O_CLOEXEC)
        _must(libc.syscall(ADD_RULE, ruleset, PATH_BENEATH, struct.pack("=Qi", allowed, opened), 0))
        os.close(opened)
    _must(libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0))
    _must(libc.syscall(RESTRICT_SELF, ruleset, 0))
    os.close(ruleset)


def _must(answer: int) -> None:
    if answer != 0:
        raise OSError(ctypes.get_errno(), "Landlock")


if __name__ == "__main__":
    split = sys.argv.index("--")
    confine(sys.argv[1:split])
    os.execvp(sys.argv[split + 1], sys.argv[split + 1 :])
