"""One router or one worker, in this process."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import uvloop

from evercurrent.cli.errors import CommandError
from evercurrent.cli.imports import check_not_shadowed
from evercurrent.cli.transport import choose_transport
from evercurrent.settings import RouterSettings, ServiceSettings, SettingsError, WorkerSettings
from evercurrent.telemetry.logs import configure


def serve_worker(settings: WorkerSettings, search_path: Path, end_with_stdin: bool) -> None:
    """Serves until SIGTERM or SIGINT."""
    check_not_shadowed()
    choose_transport()
    ready = _prepare("worker", settings, end_with_stdin)
    from persistence import StoreError, StoreMisconfigured, parse_url

    try:
        parse_url(settings.store)
    except StoreMisconfigured as error:
        raise SettingsError(f"worker: {error}") from error
    from evercurrent.models.loading import ModelLoadError, load_model
    from worker.server import serve

    try:
        model = load_model(settings.model, settings.weights, search_path)
        uvloop.run(serve(settings, model, ready))
    except (ModelLoadError, StoreError) as error:
        raise CommandError(str(error)) from error


def serve_router(settings: RouterSettings, end_with_stdin: bool) -> None:
    """Serves until SIGTERM or SIGINT."""
    if not settings.workers and settings.kubernetes_service is None:
        raise SettingsError(
            "router.workers: name at least one worker, --workers worker-0=HOST:PORT, or --kubernetes-service"
        )
    check_not_shadowed()
    choose_transport()
    ready = _prepare("router", settings, end_with_stdin)
    from router.server import serve

    uvloop.run(serve(settings, ready))


def _prepare(kind: str, settings: ServiceSettings, end_with_stdin: bool) -> Callable[[str], None]:
    """Sets up logs and standard output; returns what announces the address.

    Standard output carries the ready line and nothing else: what a model prints goes to standard error, for whoever
    waits for the line may read no further, and a full pipe would stop us.
    """
    announced = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    configure(settings.log_level, settings.log_format, settings.name)
    if end_with_stdin:
        threading.Thread(target=_end_with_stdin, daemon=True).start()

    def ready(address: str) -> None:
        with announced:
            print("ready", kind, settings.name, address, file=announced)

    return ready


def _end_with_stdin() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
