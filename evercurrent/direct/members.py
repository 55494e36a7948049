"""Who the workers are: told by the caller, or asked of the routers.

What routers say is taken as it is: who is on their ring is on ours. A client that knew better would have slots claimed
that the routers send elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

from pydantic import ValidationError

from evercurrent.client.channel import Channels
from evercurrent.client.errors import InvalidRequest
from evercurrent.client.options import Options
from evercurrent.client.transport import CallFailed
from evercurrent.settings import Member, RouterSettings
from evercurrent.telemetry.logs import get_logger
from evercurrent.v1 import admin_pb2
from router.membership import Listed, Listing

ASK_TIMEOUT_S = 2.0
FIRST_PAUSE_S = 0.1
PAUSE_S_MAX = 1.0
"""Below the time for which a worker keeps a slot that it has just claimed: a ring that turned is known before."""

logger = get_logger(__name__)


def members_of(addresses: Sequence[str]) -> tuple[Member, ...]:
    """The workers, if that is what these addresses name; none if they name routers.

    Raises:
        InvalidRequest: one is no name=host:port, two have one name or address, or they name some of both.
    """
    if not any("=" in address for address in addresses):
        return ()
    try:
        return RouterSettings.model_validate({"workers": list(addresses)}).workers
    except ValidationError as error:
        text = "; ".join(found["msg"].removeprefix("Value error, ") for found in error.errors())
        raise InvalidRequest(f"workers are name=host:port each: {text}", field="addresses") from error


def listing_of(response: admin_pb2.ListWorkersResponse) -> Listing | None:
    """A router's workers; None while it has no ring. Who is not on it is to be reached and not to be given users."""
    if not any(worker.on_ring for worker in response.workers):
        return None
    return {worker.name: Listed(worker.address, is_leaving=not worker.on_ring) for worker in response.workers}


class RouterSource:
    """What one of several routers says. Each is asked in turn until one answers; until then the last answer stands."""

    def __init__(self, addresses: tuple[str, ...], options: Options) -> None:
        self.trouble = "no router has been asked yet"
        """Why the last question had no answer; empty if it had."""
        self._num_routers = len(addresses)
        self._routers = Channels(addresses, options)
        self._soon = asyncio.Event()

    def ask_soon(self) -> None:
        """Something has changed: do not wait to ask again."""
        self._soon.set()

    async def listings(self) -> AsyncGenerator[Listing, None]:
        """Asked again at least every PAUSE_S_MAX seconds, more often at first and after `ask_soon`."""
        listing: Listing | None = None
        pause_s = FIRST_PAUSE_S
        while True:
            found = await self._ask()
            if found is not None and found != listing:
                listing = found
                yield listing
            try:
                async with asyncio.timeout(pause_s):
                    await self._soon.wait()
                pause_s = FIRST_PAUSE_S
            except TimeoutError:
                pause_s = min(2 * pause_s, PAUSE_S_MAX)
            self._soon.clear()

    async def close(self) -> None:
        """Let go of the routers."""
        await self._routers.close(0.0)

    async def _ask(self) -> Listing | None:
        for _ in range(self._num_routers):
            current = self._routers.current
            try:
                listing = listing_of(await self._routers.list_workers(ASK_TIMEOUT_S))
            except CallFailed as error:
                self._note(f"no router answers: {error.ending}")
            else:
                self._note("" if listing is not None else "no router has reached a worker yet")
                if listing is not None:
                    return listing
            self._routers.turn(current)
        return None

    def _note(self, trouble: str) -> None:
        if trouble and trouble != self.trouble:
            logger.warning("workers not listed", why=trouble)
        self.trouble = trouble
