"""What all of a client's sessions share: the transport, the options, and what the service's model takes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from evercurrent.client.errors import Ending, Unavailable, error_of, is_transient
from evercurrent.client.options import Options, Parts
from evercurrent.client.requests import Encoder
from evercurrent.client.transport import CallFailed, Transport

T = TypeVar("T")


class Connection:
    """A transport in use."""

    def __init__(self, transport: Transport, options: Options, parts: Parts) -> None:
        self.transport = transport
        self.options = options
        self.parts = parts
        self._encoder: Encoder | None = None

    async def encoder(self) -> Encoder:
        """What makes messages for the service's model, which is asked for once.

        Raises:
            CallFailed: the service does not say.
        """
        if self._encoder is None:
            self._encoder = Encoder(await self.transport.describe(self.options.open_timeout_s))
        return self._encoder

    async def encoder_of(self, model: str) -> Encoder:
        """As `encoder`, asked for again if the service has another model now than it had."""
        if self._encoder is not None and self._encoder.model.name != model:
            self._encoder = None
        return await self.encoder()

    def forget_model(self) -> None:
        """What is known of the model is wrong: it is asked for again."""
        self._encoder = None

    async def backoff(self, attempt: int, ending: Ending) -> None:
        """Wait before the attempt after this ending."""
        retry, parts = self.options.retry, self.parts
        await parts.sleep(retry.delay_s(attempt, ending.retry_after_s, parts.chance()))

    async def retried(self, call: Callable[[], Awaitable[T]], timeout_s: float) -> T:
        """The answer of a call that may be made again, after any ending that is transient.

        Raises:
            Unavailable: none came in time; it may have been applied.
            EvercurrentError: the call failed for good.
        """
        last: Ending | None = None
        try:
            async with asyncio.timeout(timeout_s):
                for attempt in range(1, 1 << 30):
                    router = self.transport.current
                    try:
                        return await call()
                    except CallFailed as error:
                        last = error.ending
                        if not is_transient(last):
                            raise error_of(last) from error
                    self.transport.turn(router)
                    await self.backoff(attempt, last)
        except TimeoutError as error:
            text = f"no answer within {timeout_s:g} s{after(last)}; try again later"
            raise Unavailable(text, may_be_applied=True) from error
        raise AssertionError("attempts are not counted so far")


def after(ending: Ending | None) -> str:
    """The end of a sentence: what was last heard of the service."""
    return f" (last heard: {ending})" if ending is not None else ""
