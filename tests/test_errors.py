"""How calls end."""

from __future__ import annotations

import asyncio
from typing import NoReturn

import grpc
import grpc.aio
import pytest

from evercurrent.errors import abort, end, rejection
from evercurrent.v1 import observation_pb2 as pb


class Gone:
    """A call whose peer is gone: gRPC says so to whoever ends it."""

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: tuple[tuple[str, bytes], ...] = ()
    ) -> NoReturn:
        raise grpc.aio.InternalError("Failed execute_batch")


async def test_a_peer_that_is_gone_is_a_cancellation_and_no_error() -> None:
    with pytest.raises(asyncio.CancelledError):
        await abort(Gone(), rejection(pb.REASON_PROTOCOL, "open", "is no open"))
    with pytest.raises(asyncio.CancelledError):
        await end(Gone(), grpc.StatusCode.UNAVAILABLE, "away")
