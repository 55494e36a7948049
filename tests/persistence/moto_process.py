"""A fast S3 stand-in as a process of its own: moto's server, which prints its port and serves until it is ended. Its
argument is the host on which it listens.

moto checks a condition and writes without a lock in between. One lock around its WSGI application makes it exact.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


class _Handler(WSGIRequestHandler):
    """Connections that stay open, as those of S3 do, and no log."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log(self, type: str, message: str, *args: object) -> None: ...


def one_at_a_time(application: WSGIApplication) -> WSGIApplication:
    """The application, of which one request runs at a time."""
    lock = threading.Lock()

    def locked(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        with lock:
            return list(application(environ, start_response))

    return locked


def main() -> None:
    """Serve."""
    application = one_at_a_time(DomainDispatcherApplication(create_backend_app))
    server = make_server(sys.argv[1], 0, application, threaded=True, request_handler=_Handler)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
