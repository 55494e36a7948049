"""Bench `scale`: what a worker's residents cost, in memory and in the time of an update, and how fast they come back.

Workers with more and more residents (32-float states, a session each) live at once, each on a SQLite file of its own,
and take turns in short blocks of the same open Poisson load of lone updates; a second one of the smallest size shows
what equal arms differ by. The largest then serves a steady probe, one session in a closed loop, while its journal is
cleaned: the longest gap between two answers is that of the serving loop, of the client and of the machine, so the same
load on an echo server is measured in turns.

Then users come back who had left a memory too small for them, and a worker is killed and another takes its users over.
The worker is fed by the bench itself on Link streams; there is no router.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from ulid import ULID

from bench import load, pacing
from bench.echo import Echo, run_echo
from bench.open_loop import Latencies
from bench.pairs import Arm, interleave
from bench.processes import Server, entered_together, memory_bytes
from bench.report import Metric, interval, metrics_of, percentiles
from bench.residents import Population, User, drawn_users, run_worker
from bench.run import Options, Watch, WrongReplyError, run
from bench.stats import bootstrap_median, paired_ratio, percentile
from bench.traffic import FRAME_EVENTS
from evercurrent.slots import NUM_SLOTS, slot_of, user_key
from evercurrent.v1.storage_pb2 import SegmentFooter
from persistence import list_all, open_store
from persistence.keys import JOURNAL_PREFIX
from persistence.segment import SegmentWriter, read_footer
from worker.journal import SLICE_ROWS
from worker.residents import Residents

STATE_WIDTH = 32
HEADROOM = 1.1
"""Room of a worker's memory over its residents: users leave ahead of need when it is nearly full."""
NUM_ENCODED = 10_000
NUM_ENCODINGS = 15


@dataclass(frozen=True, slots=True)
class Sizes:
    """How long a run is and how many users take part. Counts of users are whole frames."""

    residents: tuple[int, ...]
    num_pairs: int
    block_s: float
    hydrated: int
    hydration_room: int
    recovered: int


FULL = Sizes(
    residents=(1_024, 10_240, 100_096, 1_000_192),
    num_pairs=25,
    block_s=1.0,
    hydrated=20_480,
    hydration_room=2_048,
    recovered=100_096,
)
QUICK = Sizes(
    residents=(1_024, 10_240), num_pairs=15, block_s=0.2, hydrated=1_536, hydration_room=1_024, recovered=2_048
)


@dataclass(frozen=True, slots=True)
class Bench:
    """What every measurement here takes."""

    sizes: Sizes
    seed: int
    rate_per_s: float
    watch: Watch

    @property
    def rng(self) -> np.random.Generator:
        """Random numbers, the same for each measurement."""
        return np.random.default_rng(self.seed)


@dataclass(frozen=True, slots=True)
class Filled:
    """A worker and the users in it. `empty_bytes`: its memory before they came."""

    worker: Server
    store: str
    population: Population
    empty_bytes: int


def measure(options: Options, watch: Watch, rate_per_s: float) -> tuple[Metric, ...]:
    """Starts workers and measures them, one part after the other."""
    bench = Bench(QUICK if options.quick else FULL, options.seed, rate_per_s, watch)
    return metrics_of(_resident(bench), _encoding(bench), _hydration(bench), _recovery(bench))


@dataclass(frozen=True, slots=True)
class Empty:
    """A worker that has just started, and its store's URL."""

    worker: Server
    store: str


@contextmanager
def _workers(watch: Watch, residents_max: Sequence[int]) -> Iterator[list[Empty]]:
    """Empty workers with so much room each."""
    with TemporaryDirectory(prefix="evercurrent-bench-") as folder:
        stores = [f"sqlite:{Path(folder) / f'{number}.db'}" for number in range(len(residents_max))]
        starts = zip(stores, residents_max, strict=True)
        workers = [run_worker(f"worker-{number}", *each) for number, each in enumerate(starts)]
        with entered_together(workers) as running, watch.stage("start workers", 1) as advance:
            advance()
            yield [Empty(*each) for each in zip(running, stores, strict=True)]


# --- resident ---------------------------------------------------------------------------------------------------------


def _resident(bench: Bench) -> list[Metric]:
    """Memory, the P99 of updates by size, and the gaps of the largest worker."""
    counts = [*bench.sizes.residents, bench.sizes.residents[0]]
    with run_echo() as echo, _workers(bench.watch, [int(HEADROOM * count) for count in counts]) as workers:
        return run(_measure_resident(bench, workers, counts, echo))


async def _measure_resident(bench: Bench, workers: Sequence[Empty], counts: Sequence[int], echo: Echo) -> list[Metric]:
    with pacing.precise_clock() as clock:
        async with AsyncExitStack() as links:
            filled = [
                await links.enter_async_context(_filled(bench, worker, count))
                for worker, count in zip(workers, counts, strict=True)
            ]
            latencies = await _latencies(bench, filled, clock)
            memory = _memory(filled[: len(bench.sizes.residents)])
            gaps = await _gaps(bench, filled[len(bench.sizes.residents) - 1], echo, clock)
    return [*latencies, *memory, *gaps]


@asynccontextmanager
async def _filled(bench: Bench, empty: Empty, num_users: int) -> AsyncIterator[Filled]:
    """A worker in which so many users are resident, all of it durable, each with one update."""
    empty_bytes = memory_bytes(empty.worker.pid)
    async with load.connect(empty.worker.addresses[0]) as channel:
        population = await Population.begin(channel, bench.rng, num_users, num_watched=1)
        num_steps = population.num_opens(num_users) + population.num_touches(num_users)
        with bench.watch.stage(f"{num_users:,} users come", num_steps) as advance:
            await population.open(drawn_users("resident", num_users), advance=advance)
            await population.touch(0, num_users, advance)
            await population.until_durable()
        yield Filled(empty.worker, empty.store, population, empty_bytes)


async def _latencies(bench: Bench, filled: Sequence[Filled], clock: pacing.Clock) -> list[Metric]:
    sizes = bench.sizes
    arms: list[Arm[Latencies]] = [
        partial(each.population.lone_events, bench.rate_per_s, sizes.block_s, clock) for each in filled
    ]
    for arm in arms:
        await arm()
    with bench.watch.stage("updates, by number of residents", sizes.num_pairs) as advance:
        *by_size, again = await interleave(arms, sizes.num_pairs, advance)
    smallest, largest = sizes.residents[0], sizes.residents[-1]
    compared = by_size[0], by_size[-1], again
    p99s, largest_p99s, again_p99s = ([percentile(block, 99) for block in arm] for arm in compared)
    return [
        Metric("offered_per_s", bench.rate_per_s, "lone updates a second of users drawn at random, Poisson, no router"),
        *(
            metric
            for count, blocks in zip(sizes.residents, by_size, strict=True)
            for metric in percentiles(f"update_{_label(count)}", np.concatenate(blocks), f"{count:,} residents")
        ),
        *interval(
            f"p99_ratio_{_label(largest)}_over_{_label(smallest)}",
            paired_ratio(largest_p99s, p99s, bench.rng),
            paired_ratio(again_p99s, p99s, bench.rng),
            f"P99: {largest:,} residents over {smallest:,}; median over pairs",
        ),
    ]


def _memory(filled: Sequence[Filled]) -> list[Metric]:
    total_bytes = [memory_bytes(each.worker.pid) for each in filled]
    counts = [each.population.num_users for each in filled]
    empty_bytes = filled[-1].empty_bytes
    each_bytes, each_grown_bytes = total_bytes[-1] / counts[-1], (total_bytes[-1] - empty_bytes) / counts[-1]
    return [
        *(
            Metric(f"memory_{_label(count)}_mib", num_bytes / 2**20, f"of a worker, {count:,} residents")
            for count, num_bytes in zip(counts, total_bytes, strict=True)
        ),
        Metric("memory_empty_mib", empty_bytes / 2**20, "of a worker without residents"),
        Metric("bytes_per_resident", each_bytes, f"memory of a worker over its {counts[-1]:,} residents, all of it"),
        Metric("bytes_per_resident_grown", each_grown_bytes, "the same without what an empty worker has"),
    ]


def _label(count: int) -> str:
    """1,024 → 1k."""
    return f"{count // 1_000_000}m" if count >= 1_000_000 else f"{count // 1_000}k"


# --- gaps -------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class GapArm:
    """A steady probe beside a load; a call is a block and gives its longest gap between two answers in ns."""

    load: Population
    probe: Population
    rate_per_s: float
    block_s: float
    clock: pacing.Clock

    async def __call__(self) -> int:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.load.lone_events(self.rate_per_s, self.block_s, self.clock))
            probing = group.create_task(self.probe.closed_loop(0, self.block_s, self.clock))
        return int(np.diff(probing.result()).max())


async def _gaps(bench: Bench, filled: Filled, echo: Echo, clock: pacing.Clock) -> list[Metric]:
    async with (
        load.connect(filled.worker.addresses[0]) as channel,
        load.connect(echo.link) as echo_channel,
        load.connect(echo.link) as echo_load_channel,
        open_store(filled.store) as store,
    ):
        probe = await Population.begin(channel, bench.rng, 1)
        echo_probe = await Population.begin(echo_channel, bench.rng, 1)
        echo_load = await Population.begin(echo_load_channel, bench.rng, FRAME_EVENTS)
        for population in (probe, echo_probe, echo_load):
            await population.open(drawn_users("probe", population.num_users))
        block = bench.rate_per_s / 2, bench.sizes.block_s, clock
        arms = [GapArm(filled.population, probe, *block), GapArm(echo_load, echo_probe, *block)]

        async def first_needed() -> int:
            newest = max([entry.key async for entry in list_all(store, JOURNAL_PREFIX)])
            stored = await store.get(newest)
            assert stored is not None, "a journal's newest segment is never deleted"
            return read_footer(stored.body).first

        before = await first_needed()
        with bench.watch.stage("gaps while the journal is cleaned", bench.sizes.num_pairs) as advance:
            gaps, echo_gaps = await interleave(arms, bench.sizes.num_pairs, advance)
        num_cleaned = await first_needed() - before
    if not num_cleaned:
        raise WrongReplyError("the journal was not cleaned while gaps were measured")
    text = f"of a closed loop beside {block[0]:g} other updates/s, {filled.population.num_users:,} residents"
    return [
        Metric("gap_max_ms", max(gaps) / 1e6, f"longest gap {text}"),
        Metric("gap_block_max_p50_ms", percentile(gaps, 50) / 1e6, f"median of the longest of {block[1]:g} s"),
        Metric("gap_echo_max_ms", max(echo_gaps) / 1e6, "the same on an echo server: client and machine alone"),
        Metric("gap_echo_block_max_p50_ms", percentile(echo_gaps, 50) / 1e6, "likewise"),
        Metric("gap_cleaned_segments", num_cleaned, "segments that cleaning emptied meanwhile"),
    ]


# --- the journal ------------------------------------------------------------------------------------------------------


def _encoding(bench: Bench) -> list[Metric]:
    """What the serving loop does for a segment of NUM_ENCODED users, without serving, on one thread."""
    residents = Residents(np.zeros(STATE_WIDTH, np.float32), NUM_ENCODED)
    for user, session_id in drawn_users("encoded", NUM_ENCODED):
        key = user_key("", user)
        row = residents.admit(key, slot_of(key))
        residents.sessions.open(row, int(ULID.from_str(session_id)))
        residents.slab.version[row] = 1
    rows = np.arange(1, NUM_ENCODED + 1)
    claims = np.ones((NUM_SLOTS, 2), np.uint64)
    looped_ms, finished_ms = [], []
    with bench.watch.stage(f"a segment of {NUM_ENCODED:,} users", NUM_ENCODINGS) as advance:
        for _ in range(NUM_ENCODINGS):
            began_s = time.perf_counter()
            writer = SegmentWriter(STATE_WIDTH)
            for start in range(0, NUM_ENCODED, SLICE_ROWS):
                writer.add(residents.gather(rows[start : start + SLICE_ROWS], claims)[0])
            added_s = time.perf_counter()
            writer.finish(SegmentFooter())
            looped_ms.append((added_s - began_s) * 1e3)
            finished_ms.append((time.perf_counter() - added_s) * 1e3)
            advance()
    looped = bootstrap_median(looped_ms, bench.rng)
    return [
        *interval("journal_encode_ms_per_10k", looped, None, f"gather and encode, in slices of {SLICE_ROWS} users"),
        Metric("journal_finish_ms_per_10k", percentile(finished_ms, 50), "the rest, off the serving loop"),
    ]


# --- users who come back ----------------------------------------------------------------------------------------------


def _hydration(bench: Bench) -> list[Metric]:
    """Users come back who had to leave a memory too small for all."""
    with _workers(bench.watch, [bench.sizes.hydration_room]) as workers:
        return run(_measure_hydration(bench, workers[0]))


async def _measure_hydration(bench: Bench, empty: Empty) -> list[Metric]:
    sizes = bench.sizes
    users = drawn_users("hydrated", sizes.hydrated)
    # Those who come back are long gone.
    num_back = (sizes.hydrated - sizes.hydration_room) // FRAME_EVENTS * FRAME_EVENTS
    async with load.connect(empty.worker.addresses[0]) as channel:
        group = await Population.begin(channel, bench.rng, FRAME_EVENTS, num_watched=FRAME_EVENTS)
        with bench.watch.stage("users come and leave", sizes.hydrated // FRAME_EVENTS) as advance:
            for start in range(0, sizes.hydrated, FRAME_EVENTS):
                await group.open(users[start : start + FRAME_EVENTS])
                await group.touch(0, FRAME_EVENTS)
                await group.until_durable()
                await group.leave(0, FRAME_EVENTS)
                advance()
        began_s, refused_before = time.monotonic(), group.num_refused
        with bench.watch.stage("users come back", num_back // FRAME_EVENTS) as advance:
            for start in range(0, num_back, FRAME_EVENTS):
                await group.open(users[start : start + FRAME_EVENTS])
                _require_versions(group.versions, 1)
                await group.leave(0, FRAME_EVENTS)
                advance()
        elapsed_s = time.monotonic() - began_s
        num_refused = group.num_refused - refused_before
    text = f"users a second who come back, {FRAME_EVENTS} at once, as others leave; room for {sizes.hydration_room:,}"
    return [
        Metric("hydrate_users_per_s", num_back / elapsed_s, text),
        Metric("hydrate_refused", num_refused, "of them told to come again a second later: nobody could leave"),
    ]


# --- a worker dies ----------------------------------------------------------------------------------------------------


def _recovery(bench: Bench) -> list[Metric]:
    """A worker is killed, another takes its users over from the store."""
    users = drawn_users("recovered", bench.sizes.recovered)
    room = int(HEADROOM * len(users))
    with TemporaryDirectory(prefix="evercurrent-bench-") as folder:
        store = f"sqlite:{Path(folder) / 'store.db'}"
        with run_worker("worker-0", store, room) as killed:
            run(_fill_and_kill(bench, killed, users))
        with run_worker("worker-1", store, room) as heir:
            return run(_measure_recovery(bench, heir, users))


async def _fill_and_kill(bench: Bench, worker: Server, users: Sequence[User]) -> None:
    async with load.connect(worker.addresses[0]) as channel:
        population = await Population.begin(channel, bench.rng, len(users), num_watched=len(users))
        num_steps = population.num_opens(len(users)) + population.num_touches(len(users))
        with bench.watch.stage(f"{len(users):,} users come", num_steps) as advance:
            await population.open(users, advance=advance)
            await population.touch(0, len(users), advance)
            await population.until_durable()
        worker.process.kill()
        worker.process.wait()


async def _measure_recovery(bench: Bench, worker: Server, users: Sequence[User]) -> list[Metric]:
    by_slot = {slot_of(user_key("", user)): (user, session_id) for user, session_id in users}
    async with load.connect(worker.addresses[0]) as channel:
        with bench.watch.stage("another takes them over", 1) as advance:
            began_s = time.monotonic()
            asked = await Population.begin(channel, bench.rng, len(by_slot), owned_slots=range(NUM_SLOTS))
            await asked.open(list(by_slot.values()))
            await asked.update(np.arange(len(by_slot)))
            all_s = time.monotonic() - began_s
            advance()
        _require_versions(asked.versions, 2)
    name = f"recover_{_label(len(users))}"
    return [
        Metric(f"{name}_s", all_s, f"from asking the heir to replies to a user of each of {len(by_slot):,} slots"),
    ]


def _require_versions(versions: NDArray[np.uint64], expected: int) -> None:
    """Raises WrongReplyError unless these users are as they were left."""
    if (versions != expected).any():
        raise WrongReplyError(f"users came back at versions {np.unique(versions)} instead of {expected}")
