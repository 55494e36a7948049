"""Files that others replace while we run: certificates, keys, secrets.

Kubernetes swaps a mounted Secret by a symbolic link, others write in place: what is watched is the file that a path
leads to. One that is gone, half written or wrong for a moment leaves what was read before, and is told once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from evercurrent.telemetry.logs import get_logger

T = TypeVar("T")

logger = get_logger(__name__)

_Marks = tuple[tuple[int, int, int], ...]


class Watched(Generic[T]):
    """What `make` gives of the contents of some files, made anew when one of them has changed.

    Raises:
        OSError, ValueError: they cannot be read, or `make` cannot use them, the first time.
    """

    def __init__(self, paths: Sequence[Path], make: Callable[[Sequence[bytes]], T]) -> None:
        self._paths = paths
        self._make = make
        self._marks = self._look()
        self._value = self._made()
        self._trouble = ""

    @property
    def paths(self) -> Sequence[Path]:
        return self._paths

    def current(self) -> T:
        """The newest that could be made."""
        self.changed()
        return self._value

    def changed(self) -> bool:
        """Whether there is something new since the last time that anybody asked."""
        try:
            marks = self._look()
            if marks == self._marks:
                return False
            value = self._made()
        except (OSError, ValueError) as error:
            if str(error) != self._trouble:
                self._trouble = str(error)
                logger.error("files cannot be used, those before stay", paths=self._shown(), why=str(error))  # noqa: TRY400
            return False
        self._marks, self._value, self._trouble = marks, value, ""
        logger.info("files were read anew", paths=self._shown())
        return True

    def _look(self) -> _Marks:
        stats = [os.stat(path) for path in self._paths]
        return tuple((stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in stats)

    def _made(self) -> T:
        return self._make([path.read_bytes() for path in self._paths])

    def _shown(self) -> str:
        return ",".join(str(path) for path in self._paths)
