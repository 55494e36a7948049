"""`connect` and the client that it gives: where sessions, exchanges and single calls begin."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

from evercurrent.client import channel as channel
from evercurrent.client.connection import Connection
from evercurrent.client.credentials import Credentials, Tls, Token
from evercurrent.client.errors import InvalidRequest, SessionClosed
from evercurrent.client.exchange import Exchange
from evercurrent.client.options import DEFAULT_PARTS, DEFAULT_RETRY, OnFull, Options, Parts, Retry, addresses_of
from evercurrent.client.requests import Candidate, Outcome
from evercurrent.client.results import Answer, Ranked, Result, Score, first_value, ranking
from evercurrent.client.session import Session
from evercurrent.client.spans import OBSERVE, ProviderSpans
from evercurrent.client.transport import transport_of
from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1.session_pb2 import ObserveRequest, PredictRequest

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

WaitFor = Literal["applied", "durable"]

WAITS: dict[str, pb.WaitFor] = {"applied": pb.WAIT_FOR_APPLIED, "durable": pb.WAIT_FOR_DURABLE}


class Client:
    """A connection to the routers of one service. Made by `connect`; used with `async with`."""

    def __init__(self, addresses: tuple[str, ...], mode: str, options: Options, parts: Parts) -> None:
        self._addresses = addresses
        self._factory = transport_of(mode)
        self._options = options
        self._parts = parts
        self._connection: Connection | None = None

    async def __aenter__(self) -> Self:
        transport = self._factory(self._addresses, self._options)
        await transport.open()
        self._connection = Connection(transport, self._options, self._parts)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        is_in_a_hurry = error is not None and not isinstance(error, Exception)
        await self.close(0.0 if is_in_a_hurry else None)

    async def close(self, timeout_s: float | None = None) -> None:
        """Let go of all connections. Sessions are closed before, by who opened them. Idempotent.

        In direct mode it waits, so long at most, until what single calls sent is durable.
        """
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.transport.close(self._options.close_timeout_s if timeout_s is None else timeout_s)

    def session(self, user_id: str, *, session_id: str | None = None) -> Session:
        """A session of a user; with the `session_id` of an earlier one it goes on where that one ended.

        Raises:
            InvalidRequest: the session id is no ULID.
        """
        return Session(self._open(), user_id, session_id)

    def exchange(self) -> Exchange:
        """Sessions of many users on one stream, for backends."""
        return Exchange(self._open())

    async def observe(
        self,
        user_id: str,
        *,
        ids: Iterable[int] = (),
        features: Iterable[float] = (),
        outcome: Outcome = None,
        event_time_us: int | None = None,
        observation_id: str = "",
        wait_for: WaitFor = "applied",
        timeout_s: float | None = None,
    ) -> Result:
        """One observation, for scripts: repeated until it is answered or time is up, and applied at most once.

        Raises:
            InvalidRequest: the observation does not fit the model.
            Unavailable: no answer in time; the observation may have been applied.
            NoStore: `wait_for="durable"` on a service without a store.
        """
        if wait_for not in WAITS:
            raise InvalidRequest(f'wait_for is "{wait_for}"; it is "applied" or "durable"', field="wait_for")
        connection = self._open()
        timeout_s = self._options.timeout_s if timeout_s is None else timeout_s
        time_us = self._parts.now_us() if event_time_us is None else event_time_us
        request = ObserveRequest(
            user_id=user_id,
            session_id=self._parts.new_session_id(),
            namespace=self._options.namespace,
            model=self._options.model,
            wait_for=WAITS[wait_for],
            timings=self._options.timings,
        )

        async def call() -> Result:
            if not request.HasField("observation"):
                encoder = await connection.encoder()
                request.observation.CopyFrom(encoder.observation(ids, features, outcome, time_us, observation_id))
                request.observation.seq = 1
                request.observation.traceparent = traceparent
            return Result.of((await connection.transport.observe(request, timeout_s)).result)

        with self._parts.spans.span(OBSERVE, user_id) as traceparent:
            return await connection.retried(call, timeout_s)

    async def predict(
        self,
        user_id: str,
        *,
        ids: Iterable[int] = (),
        features: Iterable[float] = (),
        event_time_us: int | None = None,
        timeout_s: float | None = None,
    ) -> Answer:
        """One prediction, for scripts. Changes nothing. Raises as `observe`."""
        return await self._ask(user_id, [{"ids": ids, "features": features}], event_time_us, timeout_s)

    async def rank(
        self,
        user_id: str,
        candidates: Sequence[Candidate],
        *,
        score: Score = first_value,
        event_time_us: int | None = None,
        timeout_s: float | None = None,
    ) -> list[Ranked]:
        """Candidates by what is predicted for them, best first, for scripts. Raises as `observe`."""
        return ranking(candidates, await self._ask(user_id, candidates, event_time_us, timeout_s), score)

    async def _ask(
        self, user_id: str, candidates: Sequence[Candidate], event_time_us: int | None, timeout_s: float | None
    ) -> Answer:
        connection = self._open()
        timeout_s = self._options.timeout_s if timeout_s is None else timeout_s
        time_us = self._parts.now_us() if event_time_us is None else event_time_us

        request = PredictRequest(
            user_id=user_id,
            namespace=self._options.namespace,
            model=self._options.model,
            timings=self._options.timings,
        )

        async def call() -> Answer:
            if not request.HasField("query"):
                request.query.CopyFrom((await connection.encoder()).query(candidates, time_us))
            response = await connection.transport.predict(request, timeout_s)
            return Answer.of(response.result, len(candidates))

        return await connection.retried(call, timeout_s)

    def _open(self) -> Connection:
        if self._connection is None:
            raise SessionClosed("the client is not connected: use it within `async with`")
        return self._connection


def connect(
    addresses: str | Sequence[str],
    *,
    namespace: str = "",
    model: str = "",
    model_version: str = "",
    mode: str = "router",
    timeout_s: float = Options.timeout_s,
    open_timeout_s: float = Options.open_timeout_s,
    close_timeout_s: float = Options.close_timeout_s,
    in_flight_max: int = Options.in_flight_max,
    exchange_in_flight_max: int = Options.exchange_in_flight_max,
    exchange_users_max: int = Options.exchange_users_max,
    replay_events_max: int = Options.replay_events_max,
    replay_bytes_max: int = Options.replay_bytes_max,
    on_full: OnFull = Options.on_full,
    timings: bool = False,
    retry: Retry = DEFAULT_RETRY,
    tls: Tls | None = None,
    token: Token | None = None,
    cluster_token: str | None = None,
    tracer_provider: TracerProvider | None = None,
    parts: Parts = DEFAULT_PARTS,
) -> Client:
    """A client of the service whose routers listen at these addresses; nothing is connected before `async with`.

    `addresses` is "host:port", several of them with commas or in a list; the next is tried when one fails. `timeout_s`
    is how long a call waits for its answer if it does not say otherwise. The other options: see `Options`.

    With `mode="direct"` the client talks to the workers itself and no router is on the way: `addresses` are routers, to
    be asked who the workers are, or the workers, "name=host:port". It needs the extra `evercurrent[direct]`.

    `tls` says how the service is known, `token` is a bearer token or what gives a fresh one; in direct mode workers ask
    for the `cluster_token`, or for a certificate of theirs.

    With a `tracer_provider` (OpenTelemetry's: `trace.get_tracer_provider()`) each observation is a span, and the spans
    of the service belong to its trace.

    Raises:
        InvalidRequest: an address or option that cannot be.
    """
    if tracer_provider is not None:
        parts = replace(parts, spans=ProviderSpans(tracer_provider))
    options = Options(
        namespace=namespace,
        model=model,
        model_version=model_version,
        timeout_s=timeout_s,
        open_timeout_s=open_timeout_s,
        close_timeout_s=close_timeout_s,
        in_flight_max=in_flight_max,
        exchange_in_flight_max=exchange_in_flight_max,
        exchange_users_max=exchange_users_max,
        replay_events_max=replay_events_max,
        replay_bytes_max=replay_bytes_max,
        on_full=on_full,
        timings=timings,
        retry=retry,
        credentials=Credentials(tls, token, cluster_token),
    )
    options.credentials.check(addresses_of(addresses))
    return Client(addresses_of(addresses), mode, options, parts)
