"""Which router a command asks, how it is known, and what it is shown; options of every command that asks one.

gRPC and the client are imported when a router is asked: whoever defines commands imports this module, and a server's
process has to choose gRPC's switches first (`transport`)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evercurrent.channels import WithMetadata
from evercurrent.cli.errors import CommandError
from evercurrent.cli.options import with_options
from evercurrent.settings import SettingsError

if TYPE_CHECKING:
    from evercurrent.client.credentials import Credentials
    from evercurrent.v1.admin_pb2_grpc import AdminServiceStub

DEFAULT_ADDRESS = "127.0.0.1:7600"
_PANEL = "Router"


@dataclass(frozen=True, slots=True)
class Router:
    """One router."""

    address: str
    credentials: Credentials

    @contextmanager
    def channel(self) -> Iterator[WithMetadata]:
        """A channel to it. Raises SettingsError: what was given cannot be used."""
        import grpc

        from evercurrent.client.errors import InvalidRequest

        try:
            self.credentials.check((self.address,))
            tls = self.credentials.tls
            if tls is None:
                raw = grpc.insecure_channel(self.address)
            else:
                raw = grpc.secure_channel(self.address, tls.credentials(), options=tls.options())
        except InvalidRequest as error:
            raise SettingsError(f"--tls-ca, --tls-certificate, --tls-key or --token-file: {error}") from error
        with raw:
            yield WithMetadata(raw, None if self.credentials.token is None else self.credentials.metadata)

    @contextmanager
    def admin(self) -> Iterator[AdminServiceStub]:
        """Its AdminService. What it refuses is a CommandError."""
        import grpc

        from evercurrent.v1.admin_pb2_grpc import AdminServiceStub

        with self.channel() as channel:
            try:
                yield AdminServiceStub(channel)
            except grpc.RpcError as error:
                raise CommandError(f"{error.code().name}: {error.details()}") from error


def _made(
    address: str,
    tls_ca: Path | None,
    tls_certificate: Path | None,
    tls_key: Path | None,
    tls_name: str,
    token_file: Path | None,
) -> Router:
    from evercurrent.client.credentials import Credentials, Tls
    from evercurrent.client.errors import InvalidRequest

    tls = None
    try:
        if tls_ca is not None:
            tls = Tls(tls_ca, tls_certificate, tls_key, tls_name)
        elif tls_certificate is not None or tls_key is not None or tls_name:
            raise SettingsError("--tls-ca: needed with the other TLS options, to know whom one calls")
        token = None if token_file is None else token_file.read_text().strip()
    except InvalidRequest as error:
        raise SettingsError("--tls-certificate and --tls-key: one is of no use without the other") from error
    except OSError as error:
        raise SettingsError(f"--token-file: {error}") from error
    return Router(address, Credentials(tls, token))


_OPTIONS: dict[str, tuple[Any, Any]] = {
    "address": (
        Annotated[str, typer.Option("--address", metavar="HOST:PORT", help="A router.", rich_help_panel=_PANEL)],
        DEFAULT_ADDRESS,
    ),
    "tls_ca": (
        Annotated[
            Path | None,
            typer.Option(
                metavar="FILE",
                help="CA certificates, PEM, by which to know it.",
                show_default="no TLS",
                rich_help_panel=_PANEL,
            ),
        ],
        None,
    ),
    "tls_certificate": (
        Annotated[
            Path | None,
            typer.Option(
                metavar="FILE", help="A certificate to show, PEM.", show_default="none", rich_help_panel=_PANEL
            ),
        ],
        None,
    ),
    "tls_key": (
        Annotated[
            Path | None,
            typer.Option(metavar="FILE", help="Its key, PEM.", show_default="none", rich_help_panel=_PANEL),
        ],
        None,
    ),
    "tls_name": (
        Annotated[
            str,
            typer.Option(
                metavar="NAME",
                help="What its certificate must be valid for.",
                show_default="the host called",
                rich_help_panel=_PANEL,
            ),
        ],
        "",
    ),
    "token_file": (
        Annotated[
            Path | None,
            typer.Option(
                metavar="FILE",
                help="A bearer token with the scope `admin`.",
                show_default="none",
                rich_help_panel=_PANEL,
            ),
        ],
        None,
    ),
}


def with_router(command: Callable[..., None]) -> Any:
    """Gives a command the options of a router, which it takes as one argument `router`."""
    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in _OPTIONS.items()
    ]
    return with_options(command, "router", options, _made)
