"""Users under an open load whose replies are kept (`bench.accounts`): half or all of them through the SDK, the others
as stub clients that know nothing of resending.

Latencies count from the intended send: what waits behind a pause waits in the client, and that is the pause. What was
sent and has no answer yet is bounded by the time that an answer may take.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

import grpc
import numpy as np

import evercurrent
from bench import load
from bench.accounts import NUM_DEEDS, Account, Update, View
from bench.pacing import NS_PER_S, Clock
from bench.report import Metric
from bench.run import WrongReplyError
from evercurrent.client import Client, EvercurrentError, Session, Status
from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1 import session_pb2_grpc
from evercurrent.v1.session_pb2 import SessionOpen, SessionRequest, SessionResponse
from persistence.open import open_store
from persistence.snapshot import read_states

OUTCOME = 0.5
ANSWER_TIMEOUT_S = 30.0
"""A stub client that waits longer ends the bench."""
REOPEN_S = 0.05


@dataclass(slots=True)
class Errors:
    """What went wrong in the clients: how often, and the text of the first."""

    num: int = 0
    first: str = ""

    def add(self, text: str) -> None:
        """One more."""
        self.num += 1
        self.first = self.first or text

    def metric(self, name: str, meaning: str) -> Metric:
        """Their number, with the first if there is one."""
        return Metric(name, self.num, f"{meaning}; the first: {self.first}" if self.first else meaning)


class User(ABC):
    """One user and its only producer."""

    def __init__(self, name: str, clock: Clock, errors: Errors) -> None:
        self.account = Account(name)
        self._clock = clock
        self._errors = errors

    @abstractmethod
    async def open(self) -> None:
        """Before the first update."""

    @abstractmethod
    async def update(self, deed: int, intended_ns: int) -> None:
        """One update, after those of earlier calls. Returns when it is answered."""

    @abstractmethod
    async def close(self) -> None:
        """After the last update was answered."""

    def _answered(self, update: Update, status: int, prediction: Sequence[float], otherwise: object) -> None:
        """Note a reply. One of another status is an error, told by `otherwise`."""
        update.replied_ns = self._clock.now_ns()
        if status == Status.APPLIED:
            update.view = View(int(prediction[0]), int(prediction[1]))
        elif status == Status.DUPLICATE:
            update.is_duplicate = True
        else:
            self._errors.add(f"{self.account.user}: {otherwise}")

    def _failed(self, update: Update, text: str) -> None:
        update.replied_ns = self._clock.now_ns()
        self._errors.add(f"{self.account.user}: {text}")


class SdkUser(User):
    """By the SDK, which keeps what is not durable and sends it again. Updates overlap."""

    def __init__(self, name: str, clock: Clock, errors: Errors, client: Client) -> None:
        super().__init__(name, clock, errors)
        self._session: Session = client.session(name)

    async def open(self) -> None:
        await self._session.open()

    async def update(self, deed: int, intended_ns: int) -> None:
        update = self.account.send(deed, intended_ns)
        try:
            result = await self._session.observe(ids=[deed], outcome=OUTCOME)
        except EvercurrentError as error:
            self._failed(update, f"{type(error).__name__}: {error}")
            return
        self._answered(update, result.status, result.prediction, result)

    async def close(self) -> None:
        try:
            await self._session.close()
        except EvercurrentError as error:
            self._errors.add(f"{self.account.user}: at its close: {type(error).__name__}: {error}")


class StubUser(User):
    """On a Session stream as the generated stubs give it: waits for each reply, never sends anything again. A stream
    that ends is an error, and another one is opened with the same session id."""

    def __init__(self, name: str, clock: Clock, errors: Errors, channel: grpc.aio.Channel) -> None:
        super().__init__(name, clock, errors)
        self._service = session_pb2_grpc.SessionServiceStub(channel)
        self._turn = asyncio.Lock()
        self._session_id = ""
        self._seq = 0
        self._call: grpc.aio.StreamStreamCall | None = None

    async def open(self) -> None:
        self._call = self._service.Session(wait_for_ready=True)
        opening = SessionOpen(user_id=self.account.user, session_id=self._session_id)
        opened = (await self._exchange(SessionRequest(open=opening))).opened
        self._session_id, self._seq = opened.session_id, opened.applied_seq

    async def update(self, deed: int, intended_ns: int) -> None:
        update = self.account.send(deed, intended_ns)
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S), self._turn:
                await self._send(update)
        except TimeoutError as error:
            text = f"{self.account.user}, a stub client, waited {ANSWER_TIMEOUT_S:g} s for an answer"
            raise WrongReplyError(text) from error

    async def close(self) -> None:
        call = self._call
        assert call is not None
        # A call whose status has come refuses to be half-closed, and then tells it.
        with suppress(asyncio.InvalidStateError):
            await call.done_writing()
        code = await call.code()
        if code is not grpc.StatusCode.OK:
            self._errors.add(f"{self.account.user}: at its close: {code.name}: {await call.details()}")

    async def _send(self, update: Update) -> None:
        observation = pb.Observation(seq=self._seq + 1, ids=[update.deed], value=OUTCOME)
        try:
            result = (await self._exchange(SessionRequest(observation=observation))).result
        except grpc.aio.AioRpcError as error:
            self._failed(update, f"{error.code().name}: {error.details()}")
            await self._reopen()
            return
        self._seq += 1
        self._answered(update, result.status if result.seq == self._seq else 0, result.prediction, result)

    async def _reopen(self) -> None:
        while True:
            try:
                await self.open()
            except grpc.aio.AioRpcError as error:
                self._errors.add(f"{self.account.user}: at its open: {error.code().name}: {error.details()}")
                await asyncio.sleep(REOPEN_S)
            else:
                return

    async def _exchange(self, request: SessionRequest) -> SessionResponse:
        """Write, and read one response. Raises AioRpcError for the end of the stream."""
        call, response = self._call, grpc.aio.EOF
        assert call is not None
        # A call whose status has come refuses to be written to, and then tells it.
        with suppress(asyncio.InvalidStateError):
            await call.write(request)
            response = await call.read()
        if response is grpc.aio.EOF:
            raise grpc.aio.AioRpcError(
                await call.code(), await call.initial_metadata(), await call.trailing_metadata(), await call.details()
            )
        assert isinstance(response, SessionResponse)
        return response


class Crowd:
    """The users of a bench. Made by `crowd`."""

    def __init__(self, users: Sequence[User], rate_per_s: float, rng: np.random.Generator, clock: Clock) -> None:
        self.users = users
        self._rate_per_s = rate_per_s
        self._rng = rng
        self._clock = clock
        self._stop = asyncio.Event()
        self._answered = asyncio.Event()

    @property
    def accounts(self) -> list[Account]:
        """One a user."""
        return [user.account for user in self.users]

    @asynccontextmanager
    async def sending(self) -> AsyncIterator[None]:
        """Send meanwhile; after it all is answered and every session closed."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._send())
            yield
            self._stop.set()
        async with asyncio.TaskGroup() as tasks:
            for user in self.users:
                tasks.create_task(user.close())

    async def until_answered(self, names: Collection[str], since_ns: int) -> None:
        """Wait until each of these users has a reply to an update that was to be sent after a moment."""
        waiting = {user.account.user: user.account for user in self.users if user.account.user in names}
        while waiting:
            self._answered.clear()
            waiting = {name: account for name, account in waiting.items() if not _is_answered(account, since_ns)}
            if waiting:
                await self._answered.wait()

    async def _send(self) -> None:
        """Poisson arrivals over all users together, until told to stop."""
        async with asyncio.TaskGroup() as tasks:
            at_ns = self._clock.now_ns()
            while not self._stop.is_set():
                at_ns += int(self._rng.exponential(NS_PER_S / self._rate_per_s))
                await self._clock.sleep_until(at_ns)
                user = self.users[int(self._rng.integers(len(self.users)))]
                deed = int(self._rng.integers(NUM_DEEDS))
                tasks.create_task(user.update(deed, at_ns)).add_done_callback(lambda _: self._answered.set())


def _is_answered(account: Account, since_ns: int) -> bool:
    for update in reversed(account.updates):
        if update.intended_ns < since_ns:
            return False
        if update.view is not None:
            return True
    return False


@asynccontextmanager
async def crowd(
    address: str,
    sdk_users: Sequence[str],
    stub_users: Sequence[str],
    rate_per_s: float,
    seed: int,
    clock: Clock,
) -> AsyncIterator[tuple[Crowd, Errors, Errors]]:
    """Users whose sessions are open, and where the errors of SDK and stub clients go."""
    client_errors, stub_errors = Errors(), Errors()
    async with AsyncExitStack() as connections:
        client = await connections.enter_async_context(evercurrent.connect(address))
        channel = await connections.enter_async_context(load.connect(address))
        users: list[User] = [
            *(SdkUser(name, clock, client_errors, client) for name in sdk_users),
            *(StubUser(name, clock, stub_errors, channel) for name in stub_users),
        ]
        for user in users:
            await user.open()
        yield Crowd(users, rate_per_s, np.random.default_rng(seed), clock), client_errors, stub_errors


async def stored_views(store: str) -> dict[str, View]:
    """What the store alone says of each user; where it has states of several versions, the one that has learned least.

    Raises:
        WrongReplyError: something in it is damaged.
    """
    found: dict[str, View] = {}
    async with open_store(store) as opened:
        async for slot in read_states(opened):
            if slot.damaged:
                raise WrongReplyError(f"the store is damaged: {slot.damaged}")
            for part in slot.states:
                counts, hashes = part.rows.states[:, 0].tolist(), part.rows.states[:, 1].tolist()
                for user, count, hashed in zip(part.rows.users, counts, hashes, strict=True):
                    name, view = user.removeprefix("\0"), View(int(count), int(hashed))
                    found[name] = min(found.get(name, view), view)
    return found
