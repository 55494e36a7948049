"""The Python client: sessions that keep what they sent until it is durable. `docs/client.md` says what that promises.

Imports nothing but gRPC, protobuf, ULIDs and the standard library.
"""

from evercurrent.client.client import Client, connect
from evercurrent.client.credentials import Tls
from evercurrent.client.errors import (
    AccessDenied,
    DataLoss,
    DeadlineExceeded,
    InvalidRequest,
    NoStore,
    ObservationRejected,
    ServiceFailed,
    SessionClosed,
    SessionForgotten,
    SessionTaken,
    Unavailable,
)
from evercurrent.client.exchange import Exchange
from evercurrent.client.options import Options, Parts, Retry
from evercurrent.client.results import Answer, Ranked, Rejection, Result, Status, Timings
from evercurrent.client.session import Session
from evercurrent.client.sync import SyncClient, SyncExchange, SyncSession, connect_sync
from evercurrent.client.transport import Stream, Transport, register_transport
from evercurrent.errors import EvercurrentError

__all__ = [
    "AccessDenied",
    "Answer",
    "Client",
    "DataLoss",
    "DeadlineExceeded",
    "EvercurrentError",
    "Exchange",
    "InvalidRequest",
    "NoStore",
    "ObservationRejected",
    "Options",
    "Parts",
    "Ranked",
    "Rejection",
    "Result",
    "Retry",
    "ServiceFailed",
    "Session",
    "SessionClosed",
    "SessionForgotten",
    "SessionTaken",
    "Status",
    "Stream",
    "SyncClient",
    "SyncExchange",
    "SyncSession",
    "Timings",
    "Tls",
    "Transport",
    "Unavailable",
    "connect",
    "connect_sync",
    "register_transport",
]
