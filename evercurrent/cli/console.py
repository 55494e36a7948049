"""`evercurrent console`: a page that shows the service, served from this machine to its own browsers."""

from __future__ import annotations

import socket
from contextlib import closing
from importlib.util import find_spec

from rich.console import Console

from evercurrent.channels import is_loopback
from evercurrent.cli.errors import CommandError
from evercurrent.cli.routers import Router
from evercurrent.console.overview import Observer


def serve_console(listen: str, num_users: int, router: Router) -> None:
    """Serves it until Ctrl-C.

    Raises:
        CommandError: the extra is missing, the address is taken or beyond this machine, the router does not answer.
    """
    if find_spec("nicegui") is None:
        raise CommandError("the console needs NiceGUI: pip install 'evercurrent[console]'")
    host, _, port_text = listen.rpartition(":")
    if not port_text.isdecimal():
        raise CommandError(f'--listen: "{listen}" is not host:port')
    if not is_loopback(listen):
        text = "the page has no log-in, so it is served to this machine alone, say on 127.0.0.1"
        raise CommandError(f"--listen: {text}")
    port = _checked_port(host.strip("[]"), int(port_text))
    with router.admin() as stub:
        observer = Observer(stub, num_users)
        observer.look()
        from evercurrent.console.page import serve

        Console().print(
            f"console at http://{host}:{port}, of the router at {router.address}; Ctrl-C ends", markup=False
        )
        serve(observer, router.address, host.strip("[]"), port)


def _checked_port(host: str, port: int) -> int:
    """The port, a free one for 0. Raises CommandError: it is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with closing(socket.socket(family)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise CommandError(f"--listen: cannot listen on {host}:{port}: {error.strerror}") from error
        bound: int = probe.getsockname()[1]
        return bound
