"""How gRPC core moves bytes in our servers: to be chosen before gRPC is imported.

gRPC core's *event engine* reads sockets on threads of its own and hands each message to the thread that waits for it.
For a server whose one loop does all the work that is a thread switch a message for nothing: the poller that it
replaces reads on the waiting thread, which saves a fifth to a third of the CPU of an update (docs/adr/0007).
"""

from __future__ import annotations

import os
import sys

CHOICES = {
    "GRPC_EXPERIMENTS": "-event_engine_client,-event_engine_listener",
    "GRPC_VERBOSITY": "ERROR",
}


def choose_transport() -> None:
    """Set gRPC core's switches for this process; those that the environment already holds stand.

    Raises:
        RuntimeError: gRPC has been imported and read them already, and would run without.
    """
    if "grpc" in sys.modules:
        raise RuntimeError("gRPC was imported before its switches were set: import it where it is used")
    for name, value in CHOICES.items():
        os.environ.setdefault(name, value)
