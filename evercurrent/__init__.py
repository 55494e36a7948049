"""evercurrent: models whose state already holds the user's last action."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evercurrent.client import Tls as Tls
    from evercurrent.client import connect as connect
    from evercurrent.client import connect_sync as connect_sync

__version__ = "0.1.0"

_LAZY = {"Tls": "evercurrent.client", "connect": "evercurrent.client", "connect_sync": "evercurrent.client"}
"""Names that are imported when they are first asked for: a worker needs no client."""


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
