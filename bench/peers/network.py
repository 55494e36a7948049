"""A network namespace with nothing in it but a loopback: what a peer binds to all interfaces, nobody else can reach."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import sys

UNSHARE = ("unshare", "--net", "--map-root-user")
LOOPBACK = "lo"
ENTERED = "BENCH_PEERS_NETWORK"
"""Set where `enter` has been: kernels with tunnels give every network an interface or two that lead nowhere."""

# netdevice(7)
_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914
_IFF_UP = 1
_IFREQ = struct.Struct("16sh14x")


def is_private() -> bool:
    """Whether this process is in such a network, or has no interface but the loopback anyway."""
    return ENTERED in os.environ or {name for _, name in socket.if_nameindex()} <= {LOOPBACK}


def enter() -> None:
    """Starts this program anew, with the same arguments, in a network of its own; there it brings the loopback up.

    Raises:
        OSError: it may not.
    """
    if is_private():
        _bring_loopback_up()
        return
    os.execvpe(UNSHARE[0], [*UNSHARE, *sys.orig_argv], {**os.environ, ENTERED: "1"})


def _bring_loopback_up() -> None:
    with socket.socket() as any_socket:
        _, flags = _IFREQ.unpack(fcntl.ioctl(any_socket, _SIOCGIFFLAGS, _IFREQ.pack(LOOPBACK.encode(), 0)))
        if not flags & _IFF_UP:
            fcntl.ioctl(any_socket, _SIOCSIFFLAGS, _IFREQ.pack(LOOPBACK.encode(), flags | _IFF_UP))
