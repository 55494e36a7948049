"""What a client needs of whatever carries its messages: a small Protocol, and the registry of its implementations.

`evercurrent.client.channel` is the one over gRPC to routers. Another registers itself by `register_transport` under a
mode, and `connect(..., mode=...)` uses it. Of ours that need more than the client installs, MODULES knows where they
are: they are imported, and register themselves, when they are first asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Protocol, TypeVar

from evercurrent.client.errors import Ending, InvalidRequest
from evercurrent.client.options import Options
from evercurrent.client.requests import Message
from evercurrent.client.results import Result
from evercurrent.v1 import description_pb2
from evercurrent.v1.session_pb2 import (
    ExchangeRequest,
    ExchangeResponse,
    ObserveRequest,
    ObserveResponse,
    PredictRequest,
    PredictResponse,
    SessionRequest,
    SessionResponse,
)

Q_contra = TypeVar("Q_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)


class StreamEnded(Exception):
    """A stream was written to after its end. `read` gives what was still to come, then None."""


class CallFailed(Exception):
    """A unary call ended otherwise than with its response. `ending` says how."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(str(ending))
        self.ending = ending


class Near(Protocol):
    """A Session stream whose other end is in this process: nothing need be packed, nor wait for a task to wake."""

    @property
    def has_room(self) -> bool:
        """Whether `give` may be used."""

    def give(self, message: Message) -> None:
        """Send a message without waiting. Only while the stream `has_room` and nobody is in `write`."""

    def listen(self, take: Callable[[Result], bool]) -> None:
        """Results of observations that were applied may be given to `take` from now on, instead of to `read`: as soon
        as they come, in order, and only while nothing waits to be read. What it says no to waits for `read`."""


class Stream(Protocol[Q_contra, R_co]):
    """A bidirectional stream. One task writes, one reads."""

    async def write(self, request: Q_contra) -> None:
        """Send a message; returns when there is room for the next.

        Raises:
            StreamEnded: the stream has ended.
        """

    @property
    def near(self) -> Near | None:
        """The same stream, if its other end is in this process: for a Session's."""

    async def done_writing(self) -> None:
        """Half-close: nothing more will be written. Harmless on a stream that has ended."""

    async def read(self) -> R_co | None:
        """The next message; None once the stream has ended. Never raises for an ending."""

    async def ending(self) -> Ending:
        """How the stream ended; to be asked after `read` gave None."""

    def cancel(self) -> None:
        """Leave the stream at once, whatever is on the way. Harmless on one that has ended."""


class Transport(Protocol):
    """A way to the service. Streams and calls go to one of its routers at a time, the current one."""

    async def open(self) -> None:
        """Begin. Called once, before anything else; waits for nobody."""

    def session(self) -> Stream[SessionRequest, SessionResponse]:
        """A new Session stream."""

    def exchange(self) -> Stream[ExchangeRequest, ExchangeResponse]:
        """A new Exchange stream."""

    async def observe(self, request: ObserveRequest, timeout_s: float) -> ObserveResponse:
        """The unary call. Raises CallFailed."""

    async def predict(self, request: PredictRequest, timeout_s: float) -> PredictResponse:
        """The unary call. Raises CallFailed."""

    async def describe(self, timeout_s: float) -> description_pb2.ModelDescription:
        """What the service's model takes and gives. Raises CallFailed."""

    @property
    def current(self) -> int:
        """Which router is used now: to be remembered by who opens a stream."""

    def turn(self, failed: int) -> None:
        """Use another router from now on, if `failed` is still the current one."""

    async def close(self, timeout_s: float) -> None:
        """Let go of all connections; what only the transport still has to bring to an end may take so long. Nothing is
        used afterwards.

        Raises:
            Exception: what the transport broke by.
        """


Factory = Callable[[tuple[str, ...], Options], Transport]
"""Makes a transport to these addresses; called within the running loop that will use it. Raises InvalidRequest: an
address that it cannot use."""

MODULES = {"direct": "evercurrent.direct"}
"""What registers a mode, and is installed by the extra of its name."""

OURS = ("evercurrent", "router")
"""Packages that are installed with this one; the second has a name that others use as well."""

_FACTORIES: dict[str, Factory] = {}


def register_transport(mode: str, factory: Factory) -> None:
    """Make a mode of `connect` known."""
    _FACTORIES[mode] = factory


def transport_of(mode: str) -> Factory:
    """The factory of a mode.

    Raises:
        InvalidRequest: there is none of this name here, or what it needs is not installed.
    """
    if mode in MODULES and mode not in _FACTORIES:
        try:
            import_module(MODULES[mode])
        except ImportError as error:
            if (error.name or "").partition(".")[0] in OURS:
                text = f"another package shadows evercurrent's `{error.name}`: take it off the import path"
            elif isinstance(error, ModuleNotFoundError):
                text = (
                    f"mode \"{mode}\" needs `{error.name}`, which is not installed: pip install 'evercurrent[{mode}]'"
                )
            else:
                raise
            raise InvalidRequest(text, field="mode") from error
    if mode in _FACTORIES:
        return _FACTORIES[mode]
    known = ", ".join(sorted(_FACTORIES.keys() | MODULES.keys()))
    raise InvalidRequest(f'mode "{mode}" is not available in this installation; there is: {known}', field="mode")
