"""One run of a bench: its options, its progress on the terminal, its end."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

import uvloop
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

Result = TypeVar("Result")

RUN_TIMEOUT_S = 600.0


class WrongReplyError(Exception):
    """The service answered something else than an applied update; what was measured is worth nothing."""


@dataclass(frozen=True, slots=True)
class Options:
    """What every bench takes. `quick` shortens the blocks and changes nothing else."""

    quick: bool
    seed: int


class Arrivals(StrEnum):
    """When events are sent."""

    POISSON = "poisson"
    BURSTS = "bursts"
    CLOSED = "closed"


class Streams(StrEnum):
    """How they are sent."""

    SESSIONS = "sessions"
    EXCHANGE = "exchange"


class Watch:
    """The progress display. It draws only between blocks: a display that refreshes itself would take CPU from them."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    @contextmanager
    def stage(self, what: str, num_steps: int) -> Iterator[Callable[[], None]]:
        """A line of the display; the function that it gives counts one step."""
        task = self._progress.add_task(what, total=num_steps)
        self._progress.refresh()

        def advance() -> None:
            self._progress.advance(task)
            self._progress.refresh()

        yield advance


@contextmanager
def watching(console: Console) -> Iterator[Watch]:
    """A progress display on a terminal, and nothing elsewhere."""
    columns = TextColumn("{task.description:<40}"), BarColumn(), TextColumn("{task.completed}/{task.total}")
    progress = Progress(
        *columns, TimeElapsedColumn(), console=console, auto_refresh=False, disable=not console.is_terminal
    )
    with progress:
        yield Watch(progress)


def run(measure: Coroutine[Any, Any, Result], timeout_s: float = RUN_TIMEOUT_S) -> Result:
    """Runs one measurement on an event loop of its own, with what exists so far out of the collector's way.

    Raises:
        WrongReplyError: it did not end within `timeout_s`: something that it waits for never came.
    """
    gc.collect()
    gc.freeze()
    try:
        return uvloop.run(_bounded(measure, timeout_s))
    finally:
        gc.unfreeze()


async def _bounded(measure: Coroutine[Any, Any, Result], timeout_s: float) -> Result:
    try:
        async with asyncio.timeout(timeout_s):
            return await measure
    except TimeoutError as error:
        raise WrongReplyError(f"no end after {timeout_s:.0f} s: a reply never came") from error
