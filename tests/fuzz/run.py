"""The fuzzer: a real router and a real worker, hostile callers on both ports, honest users among them.

What must hold whatever is sent: no process ends and none writes of an error that nobody handled; honest users are
answered, and stored, bit for bit as their undisturbed twins; nobody's state changes who was sent nothing that can be
learned from; every call ends with a status of the contract; and when all have left, nothing is held of them.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

import evercurrent
from evercurrent.cli.cluster import Cluster, run_cluster
from evercurrent.client import EvercurrentError
from evercurrent.v1 import admin_pb2, admin_pb2_grpc
from persistence.open import open_store
from persistence.snapshot import read_states
from router.replay import COMPACT_MIN
from tests.fuzz.honest import ExchangeUser, NotServedError, SessionUser, StubUser, User
from tests.fuzz.raw import RawScript, converse, hang_up
from tests.fuzz.scripts import CANCEL, DEADLINE, NUM_BYSTANDERS, ROUTER, WORKER, Script, Scripts, bystander
from tests.fuzz.watching import Logs, Usage, described, usages

MODEL = "bench.counting:Counting"
ROOT = Path(__file__).parents[2]
CONFIG = "[worker]\nevent_log = true\nresidents_max = 2000\n[router]\nlink_silence_ms = 5000\n"

LANES = 12
"""Scripts under way at once."""
COMING_LANES = 3
"""Of users who come and go beside them."""
RAW_PART = 0.15
"""How many of the cases are bytes on a port, not calls."""
UNSEEN = "Internal error from Core"
"""How gRPC's own client ends a call of which it cannot tell how it ended."""
FAULTS_MAX = 30
"""So many are enough: the run ends."""
LINGERING_MAX = 32
HANG_S = 60.0
"""A call that has not ended by then hangs."""
DEADLINE_S = 0.1
LOOK_S = 0.1
IDLE_S = 60.0
"""Until then nothing is held any more of callers who have left."""
RSS_GROWTH_MAX_BYTES = 96 << 20
"""What either process may grow by in the second half of a run, when its caches are warm and its arrays have grown."""
OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
)

Code = grpc.StatusCode
CONTRACT = frozenset(
    {
        Code.OK,
        Code.INVALID_ARGUMENT,
        Code.UNAVAILABLE,
        Code.ABORTED,
        Code.RESOURCE_EXHAUSTED,
        Code.FAILED_PRECONDITION,
        Code.NOT_FOUND,
        Code.DEADLINE_EXCEEDED,
        Code.UNIMPLEMENTED,
    }
)


@dataclass
class Report:
    """What a run sent and saw."""

    seed: int
    num_frames: int = 0
    num_calls: int = 0
    num_connections: int = 0
    num_honest: int = 0
    duration_s: float = 0.0
    statuses: Counter[str] = field(default_factory=Counter)
    rss_mib: dict[str, list[int]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def note_rss(self, found: dict[str, Usage]) -> None:
        """One more measurement of each process."""
        for name, usage in found.items():
            self.rss_mib.setdefault(name, []).append(usage.rss_bytes >> 20)


def fuzz(num_frames: int, seed: int, advance: Callable[[int], None] = lambda _: None) -> Report:
    """Send so many hostile frames. `advance` is told of each script's."""
    report, began_s = Report(seed), time.monotonic()
    users: list[User] = []
    with TemporaryDirectory(prefix="evercurrent-fuzz-") as folder:
        store, config = f"sqlite:{folder}/store.db", Path(folder) / "config.toml"
        config.write_text(CONFIG)
        with run_cluster(num_workers=1, model=MODEL, search_path=ROOT, store=store, config=config) as cluster:
            logs = Logs(cluster)
            try:
                asyncio.run(_attack(cluster, logs, users, report, num_frames, advance))
            except* (EvercurrentError, grpc.aio.AioRpcError) as group:
                report.faults += [f"{type(error).__name__}: {error}" for error in group.exceptions]
            report.faults += logs.faults()
            report.faults += [child.ending() for child in cluster.children.values() if child.process.poll() is not None]
        report.faults += asyncio.run(_stored_faults(store, users))
    report.duration_s = time.monotonic() - began_s
    return report


async def _attack(
    cluster: Cluster,
    logs: Logs,
    users: list[User],
    report: Report,
    num_frames: int,
    advance: Callable[[int], None],
) -> None:
    listed = await _listed(cluster)
    incarnation = listed.workers[0].incarnation
    async with _honest(cluster.address, [bystander(number) for number in range(NUM_BYSTANDERS)], report.seed) as crowd:
        for user in crowd * 3:
            await user.update()
        users += crowd
    await _idle(cluster, {}, report)
    before = usages(cluster)
    async with _honest(cluster.address, [f"honest/{number}" for number in range(9)], report.seed) as crowd:
        users += crowd
        attack = _Attack(cluster, logs, Scripts(report.seed, incarnation), report, advance)
        async with asyncio.TaskGroup() as tasks:
            for user in crowd:
                tasks.create_task(_produce(user, attack, report))
            for lane in range(COMING_LANES):
                tasks.create_task(_come_and_go(cluster.address, lane, attack, users, report))
            for part in (num_frames // 2, num_frames):
                await attack.run(part)
                report.note_rss(usages(cluster))
            attack.end()
    await _idle(cluster, before, report)
    report.faults += _usage_faults(report)
    if (found := (await _listed(cluster)).workers[0].incarnation) != incarnation:
        report.faults.append(f"the worker is {found} now and was {incarnation}")


class _Attack:
    """The hostile callers. `moved` is set by each script that is through."""

    def __init__(
        self, cluster: Cluster, logs: Logs, scripts: Scripts, report: Report, advance: Callable[[int], None]
    ) -> None:
        self.moved = asyncio.Event()
        self.is_over = False
        self._addresses = {ROUTER: cluster.address, WORKER: cluster.workers["worker-0"]}
        self._logs = logs
        self._scripts = scripts
        self._report = report
        self._advance = advance
        self._numbers = count()
        self._lingering: list[asyncio.StreamWriter] = []

    async def run(self, num_frames: int) -> None:
        """Go on until so many frames were sent in all, or something broke; then all have left."""
        async with AsyncExitStack() as opened:
            channels = {
                target: [
                    await opened.enter_async_context(grpc.aio.insecure_channel(address, options=OPTIONS))
                    for _ in range(3)
                ]
                for target, address in self._addresses.items()
            }
            async with asyncio.TaskGroup() as tasks:
                for lane in range(LANES):
                    tasks.create_task(self._lane(num_frames, {of: some[lane % 3] for of, some in channels.items()}))
        while self._lingering:
            await hang_up(self._lingering.pop())

    def end(self) -> None:
        """Nothing comes any more."""
        self.is_over = True
        self.moved.set()

    async def _lane(self, num_frames: int, channels: dict[str, grpc.aio.Channel]) -> None:
        report = self._report
        while report.num_frames < num_frames and len(report.faults) < FAULTS_MAX:
            number = next(self._numbers)
            random = Random(f"{report.seed}/{number}/way")
            if random.random() < RAW_PART:
                sent = await self._connect(number, random)
            else:
                sent = await self._call(number, channels)
            report.num_frames += sent
            report.faults += [f"{fault} (about case {number})" for fault in self._logs.faults()]
            self._advance(sent)
            self.moved.set()
            self.moved.clear()

    async def _connect(self, number: int, random: Random) -> int:
        messages = self._scripts.script(number).messages
        raw = RawScript(random, messages[0] if messages else b"")
        with suppress(ConnectionError):
            writer = await converse(self._addresses[random.choice((ROUTER, WORKER))], raw)
            if writer is not None:
                self._lingering.append(writer)
        while len(self._lingering) > LINGERING_MAX:
            await hang_up(self._lingering.pop(0))
        self._report.num_connections += 1
        return raw.num_frames

    async def _call(self, number: int, channels: dict[str, grpc.aio.Channel]) -> int:
        script = self._scripts.script(number)
        name = script.method.rpartition("/")[2]
        try:
            code, details = await perform(channels[script.target], script)
        except TimeoutError:
            self._report.faults.append(f"case {number}: {name} did not end within {HANG_S:g} s")
            return script.num_frames
        except DecodeError as error:
            self._report.faults.append(f"case {number}: {name} was answered by what is no answer: {error}")
            return script.num_frames
        self._report.num_calls += 1
        self._report.statuses[f"{name} {code.name}"] += 1
        if details == UNSEEN:
            return script.num_frames
        if (code not in CONTRACT and not (code is Code.CANCELLED and script.ending == CANCEL)) or "metadata" in details:
            self._report.faults.append(f"case {number}: {name} ended with {code.name}: {details[:500]}")
        return script.num_frames


async def perform(channel: grpc.aio.Channel, script: Script) -> tuple[grpc.StatusCode, str]:
    """Make the call of a script; how it ended.

    Raises:
        TimeoutError: it did not.
        DecodeError: an answer cannot be read.
    """
    call = channel.stream_stream(script.method)(timeout=DEADLINE_S if script.ending == DEADLINE else None)
    try:
        async with asyncio.timeout(HANG_S), asyncio.TaskGroup() as tasks:
            tasks.create_task(_write(call, script))
            tasks.create_task(_read(call, script))
    except* DecodeError as group:
        raise group.exceptions[0] from None
    finally:
        call.cancel()
    return await call.code(), await call.details() or ""


async def _write(call: grpc.aio.StreamStreamCall, script: Script) -> None:
    # A call that has ended takes nothing more, and then tells how it ended.
    with suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError, grpc.aio.InternalError):
        for message in script.messages:
            await call.write(message)
        if script.ending == CANCEL:
            call.cancel()
        elif script.ending != DEADLINE:
            await call.done_writing()


async def _read(call: grpc.aio.StreamStreamCall, script: Script) -> None:
    with suppress(grpc.aio.AioRpcError):
        while (raw := await call.read()) is not grpc.aio.EOF:
            script.response.FromString(raw)


async def _produce(user: User, attack: _Attack, report: Report) -> None:
    """Update whenever a hostile script is through, to the end of the attack."""
    with _served(user, report):
        while not attack.is_over:
            await attack.moved.wait()
            await user.update()
            report.num_honest += 1


async def _come_and_go(address: str, lane: int, attack: _Attack, users: list[User], report: Report) -> None:
    """Users who were never seen come, update twice and leave, to the end of the attack: they get the sids, tags, rows
    and places that others have just given up."""
    for number in count():
        if attack.is_over:
            return
        async with _honest(address, [f"comer/{lane}/{number}/{way}" for way in range(3)], report.seed) as crowd:
            users += crowd
            for user in crowd:
                with _served(user, report):
                    await user.update()
                    await user.update()
                    report.num_honest += 2


@contextmanager
def _served(user: User, report: Report) -> Iterator[None]:
    """Report that a user is not served as it should."""
    try:
        yield
    except (NotServedError, EvercurrentError, grpc.aio.AioRpcError) as error:
        report.faults.append(f"{user.name}: {type(error).__name__}: {error}")


@asynccontextmanager
async def _honest(address: str, names: Sequence[str], seed: int) -> AsyncIterator[list[User]]:
    """Users by session, exchange and stub in turn, open; after it all that they sent is durable, and they have left."""
    async with (
        evercurrent.connect(address) as client,
        client.exchange() as exchange,
        grpc.aio.insecure_channel(address) as channel,
    ):
        makers: tuple[Callable[[str, Random], User], ...] = (
            lambda name, random: SessionUser(name, random, client),
            lambda name, random: ExchangeUser(name, random, exchange),
            lambda name, random: StubUser(name, random, channel),
        )
        users = [makers[at % len(makers)](name, Random(f"{seed}/{name}")) for at, name in enumerate(names)]
        for user in users:
            await user.open()
        yield users
        for user in users:
            await user.close()


async def _listed(cluster: Cluster) -> admin_pb2.ListWorkersResponse:
    async with grpc.aio.insecure_channel(cluster.address) as channel:
        admin = admin_pb2_grpc.AdminServiceStub(channel)
        listed: admin_pb2.ListWorkersResponse = await admin.ListWorkers(
            admin_pb2.ListWorkersRequest(), wait_for_ready=True, timeout=HANG_S
        )
        return listed


async def _idle(cluster: Cluster, before: dict[str, Usage], report: Report) -> None:
    """Wait until nothing is held of anybody, or say what is."""
    # Calls of ours that only the garbage collector finds would hold their connections.
    gc.collect()
    try:
        async with asyncio.timeout(IDLE_S):
            while held := [*_held(await _listed(cluster)), *_more_files(before, usages(cluster))]:  # noqa: ASYNC110
                await asyncio.sleep(LOOK_S)
    except TimeoutError:
        report.faults.append(f"after {IDLE_S:g} s there is still held: {'; '.join(held)}")
    report.note_rss(usages(cluster))


def _held(listed: admin_pb2.ListWorkersResponse) -> Iterator[str]:
    """What router and workers say that they hold."""
    for what in ("sessions", "moving_sessions"):
        if num := getattr(listed.router, what):
            yield f"{num} {what}"
    if listed.router.replay_events > COMPACT_MIN:
        yield f"{listed.router.replay_events} replay_events, which are let go of when there are {COMPACT_MIN}"
    for worker in listed.workers:
        for what in ("open_sessions", "in_flight_events", "updates_at_risk"):
            if num := getattr(worker, what):
                yield f"{num} {what} of {worker.name}"


def _more_files(before: dict[str, Usage], now: dict[str, Usage]) -> Iterator[str]:
    """Processes with more open files than before, but for one: a router calls a worker on a second connection once it
    is asked to."""
    for name, usage in before.items():
        if (more := len(now[name].files) - len(usage.files)) > 1:
            new = (Counter(now[name].files) - Counter(usage.files)).elements()
            yield f"{more} files more of {name}; new are {described(new)}"


def _usage_faults(report: Report) -> Iterator[str]:
    for name, rss_mib in report.rss_mib.items():
        half, full = rss_mib[-3:-1]
        if (full - half) << 20 > RSS_GROWTH_MAX_BYTES:
            yield f"{name} grew from {half} to {full} MiB in the second half of the run: {rss_mib}"


async def _stored_faults(store: str, users: Sequence[User]) -> list[str]:
    """What the store alone says of users, where it is not what their twins have."""
    found: dict[str, tuple[int, bytes]] = {}
    faults: list[str] = []
    async with open_store(store) as opened:
        async for slot in read_states(opened):
            faults += [f"damaged: {name!r}" for name in slot.damaged]
            for part in slot.states:
                for index, key in enumerate(part.rows.users):
                    state = part.rows.states[index].astype("<f4").tobytes()
                    found[key.removeprefix("\0")] = (int(part.rows.versions[index]), state)
    for user in users:
        expected = (user.twin.version, user.twin.state)
        if found.get(user.name) != expected:
            faults.append(f"{user.name}: stored is {found.get(user.name)}, its twin has {expected}")
    return faults
