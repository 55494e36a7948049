"""A service in the test's own loop."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.servers import Service, running_service


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    """A router and two workers that serve `Counting`."""
    async with running_service(num_workers=2) as running:
        yield running
