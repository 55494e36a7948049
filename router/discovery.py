"""Where the list of workers comes from: a source, which yields it now and each time that it changes.

Being listed says only where a worker would be; whether it serves is for its link to find out.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from random import Random
from typing import Protocol

from evercurrent.settings import Member, RouterSettings
from router.membership import Listed, Listing


class Source(Protocol):
    """Lists the workers."""

    def listings(self) -> AsyncIterator[Listing]:
        """The listing now, then each other one. Never ends, never fails: trouble is logged and the last one stands."""
        ...


class StaticSource:
    """The workers that the settings name, for ever."""

    def __init__(self, members: Sequence[Member]) -> None:
        self._listing = {member.name: Listed(member.address) for member in members}

    async def listings(self) -> AsyncGenerator[Listing, None]:
        yield self._listing
        await asyncio.Event().wait()


def make_source(settings: RouterSettings, rng: Random | None = None) -> Source:
    """The source that the settings name; without `kubernetes_service` the static one. Does no I/O."""
    if settings.kubernetes_service is None:
        return StaticSource(settings.workers)
    # Its client takes half a second to import: only those pay who use it.
    from router.kubernetes import KubernetesSource, target_of

    return KubernetesSource(target_of(settings), rng or Random())
