"""One direction of a stream within a process: messages as bytes, in order, from one task to another.

Bounded: who writes waits while MESSAGES_MAX messages or BYTES_MAX bytes wait to be read. One more message may be on top
of the bytes, whatever its size.
"""

from __future__ import annotations

import asyncio
from collections import deque

MESSAGES_MAX = 64
BYTES_MAX = 1 << 20


class Pipe:
    """One task writes, one reads."""

    def __init__(self) -> None:
        self._messages: deque[bytes] = deque()
        self._num_bytes = 0
        self._has_ended = False
        self._filled = asyncio.Event()
        self._emptied = asyncio.Event()

    async def write(self, message: bytes) -> bool:
        """Append a message when there is room; False: the pipe has ended, and the message is not in it."""
        while self._is_full and not self._has_ended:
            self._emptied.clear()
            await self._emptied.wait()
        if self._has_ended:
            return False
        self._messages.append(message)
        self._num_bytes += len(message)
        self._filled.set()
        return True

    async def read(self) -> bytes | None:
        """The next message; None when the pipe has ended and is empty."""
        while not self._messages:
            if self._has_ended:
                return None
            self._filled.clear()
            await self._filled.wait()
        message = self._messages.popleft()
        self._num_bytes -= len(message)
        self._emptied.set()
        return message

    def end(self) -> None:
        """Take nothing more; what is in it can still be read. Idempotent."""
        self._has_ended = True
        self._filled.set()
        self._emptied.set()

    @property
    def _is_full(self) -> bool:
        return len(self._messages) >= MESSAGES_MAX or self._num_bytes >= BYTES_MAX
