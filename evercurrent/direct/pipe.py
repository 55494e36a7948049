"""One direction of a stream within a process: messages as bytes, in order, from one task to another.

Bounded: who writes waits while MESSAGES_MAX messages or BYTES_MAX bytes wait to be read. One more message may be on top
of the bytes, whatever its size. Who reads may also listen: then a message need not be packed, nor wait for a task to
wake, while nothing waits before it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

MESSAGES_MAX = 64
BYTES_MAX = 1 << 20


class Pipe:
    """One task writes, one reads."""

    def __init__(self) -> None:
        self._messages: deque[bytes] = deque()
        self._num_bytes = 0
        self.has_ended = False
        self._filled = asyncio.Event()
        self._emptied = asyncio.Event()
        self._take: Callable[[Any], bool] | None = None

    def listen(self, take: Callable[[Any], bool]) -> None:
        """Have messages given to `take` from now on. What it says no to waits to be read."""
        self._take = take

    def give(self, message: object) -> bool:
        """Give a message to who listens; False: to nobody, for others wait before it, or it is not taken."""
        if self._take is None or self._messages or self.has_ended:
            return False
        return self._take(message)

    @property
    def is_full(self) -> bool:
        """Whether who writes has to wait."""
        return len(self._messages) >= MESSAGES_MAX or self._num_bytes >= BYTES_MAX

    async def write(self, message: bytes) -> bool:
        """Append a message when there is room; False: the pipe has ended, and the message is not in it."""
        while self.is_full and not self.has_ended:
            self._emptied.clear()
            await self._emptied.wait()
        if self.has_ended:
            return False
        self.write_now(message)
        return True

    def write_now(self, message: bytes) -> None:
        """Append a message, without asking for room."""
        self._messages.append(message)
        self._num_bytes += len(message)
        self._filled.set()

    async def read(self) -> bytes | None:
        """The next message; None when the pipe has ended and is empty."""
        while not self._messages:
            if self.has_ended:
                return None
            self._filled.clear()
            await self._filled.wait()
        message = self._messages.popleft()
        self._num_bytes -= len(message)
        self._emptied.set()
        return message

    def end(self) -> None:
        """Take nothing more; what is in it can still be read. Idempotent."""
        self.has_ended = True
        self._filled.set()
        self._emptied.set()
