"""Bench `peers`: the service beside other ways to serve the same model, on one machine, in one run, under one load.

Each peer gets a part of its own, beside a service that is started for it, so that nobody idles on another's time. In a
part, arms take turns in short blocks: the service twice (what equal arms differ by) and every way in which the peer can
be asked, first as fast as they go, by Session streams and by Exchange frames, then at one offered rate with Poisson
sends. A peer is judged by its best: whichever number of processes and, unless told apart, whichever of streams and
frames serves it best.

- `echo`: bare grpc.aio servers that answer at once, through one hop and through two: what nobody can go below.
- `redis`: the stateless way (`redis_service`), also told apart as people write it who batch nothing: `..._plain`.
- `ray_serve`: replicas with states, routed by user (`ray_application`).
- `envoy`: Envoy's ring hash instead of our router. Envoy passes streams on as they are, so behind it are our own
  workers, which speak Link alone: a client's stream is a Link of one user, hashed by the user's slot, since slots are
  what workers own. Workers, store and step are those of the service; what is compared is our router with a proxy that
  reads nothing, coalesces nothing, replays nothing and moves nobody. It has no frames of many users.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, AsyncExitStack
from dataclasses import dataclass

import numpy as np

from bench import load, pacing
from bench.open_loop import OPEN_LOOP_SESSIONS, Latencies, OpenLoopArm
from bench.pairs import interleave
from bench.peers.peer import NUM_FRAME_STREAMS, Connected, Target, connected
from bench.peers.running import run_echoes, run_envoy, run_ray_serve, run_redis
from bench.report import Metric, interval, metrics_of, percentiles
from bench.run import Options, Watch, run
from bench.service import run_service
from bench.stats import Interval, paired_ratio, percentile
from bench.throughput import NUM_STREAMS, Block, FramesArm, SessionsArm, per_s
from bench.traffic import FRAME_EVENTS

RUNNERS: Mapping[str, Callable[[Watch, int], AbstractContextManager[list[Target]]]] = {
    "echo": run_echoes,
    "redis": run_redis,
    "ray_serve": run_ray_serve,
    "envoy": run_envoy,
}

OURS, AGAIN = "evercurrent", "again"
SESSIONS, FRAMES = "sessions", "frames"
PATIENT = "[worker]\ndead_after_ms = 60_000\n"
"""Ten processes of a peer that start on two cores can keep a worker from its core for as long as makes it look dead."""
WHAT = {
    SESSIONS: f"{NUM_STREAMS} Session streams, closed loop",
    FRAMES: f"{NUM_FRAME_STREAMS} Exchange streams, frames of {FRAME_EVENTS}",
}


@dataclass(frozen=True, slots=True)
class Sizes:
    """How long a run is. A block of a load as fast as it goes takes about `block_s`, or a round where that is more."""

    num_pairs: int
    block_s: float
    open_loop_block_s: float


FULL = Sizes(num_pairs=15, block_s=0.4, open_loop_block_s=0.8)
QUICK = Sizes(num_pairs=15, block_s=0.01, open_loop_block_s=0.1)

Blocks = Mapping[str, list[Block]]
"""Blocks by arm: the name of a target, SESSIONS or FRAMES."""


def measure(
    options: Options, watch: Watch, num_workers: int, rate_per_s: float, peers: Sequence[str]
) -> tuple[Metric, ...]:
    """Measures these peers one after the other. Those that are not installed must not be among them."""
    return metrics_of(
        [
            Metric("num_workers", num_workers, "workers behind the router, and behind Envoy"),
            Metric("open_loop_offered_per_s", rate_per_s, "offered rate of the open loop, to each alike"),
        ],
        *(_peer(options, watch, num_workers, rate_per_s, peer) for peer in peers),
    )


def _peer(options: Options, watch: Watch, num_workers: int, rate_per_s: float, peer: str) -> list[Metric]:
    sizes = QUICK if options.quick else FULL
    with run_service(watch, num_workers, settings=PATIENT) as cluster, RUNNERS[peer](watch, num_workers) as targets:
        ours = Target("evercurrent", [cluster.address])
        blocks = run(_as_fast_as_it_goes(options.seed, watch, sizes, peer, ours, targets))
        latencies = run(_open_loop(options.seed, watch, sizes, peer, ours, targets, rate_per_s))
    return [
        *_throughput_metrics(options.seed, peer, targets, blocks),
        *_latency_metrics(options.seed, peer, [target.name for target in targets], latencies),
    ]


async def _as_fast_as_it_goes(
    seed: int, watch: Watch, sizes: Sizes, peer: str, ours: Target, targets: Sequence[Target]
) -> Blocks:
    async with AsyncExitStack() as stack:
        arms: dict[str, SessionsArm | FramesArm] = {}
        for name, connection in await _all_connected(stack, seed, ours, targets):
            sessions = await connection.sessions(name)
            sessions.num_rounds = max(1, round(sizes.block_s * (await sessions()).updates_per_s / NUM_STREAMS))
            arms[_arm(name, SESSIONS)] = sessions
            if connection.target.takes_frames:
                frames = await connection.frames(name)
                turns = sizes.block_s * (await frames()).updates_per_s / (FRAME_EVENTS * NUM_FRAME_STREAMS)
                frames.num_frames = max(1, round(turns)) * NUM_FRAME_STREAMS
                arms[_arm(name, FRAMES)] = frames
        with watch.stage(f"{peer}: as fast as it goes", sizes.num_pairs) as advance:
            blocks = await interleave(list(arms.values()), sizes.num_pairs, advance)
        for arm in arms.values():
            await arm.close()
    return dict(zip(arms, blocks, strict=True))


async def _open_loop(
    seed: int, watch: Watch, sizes: Sizes, peer: str, ours: Target, targets: Sequence[Target], rate_per_s: float
) -> Mapping[str, list[Latencies]]:
    async with AsyncExitStack() as stack:
        with pacing.precise_clock() as clock:
            arms: dict[str, OpenLoopArm] = {}
            for name, connection in await _all_connected(stack, seed, ours, targets):
                arms[name] = await connection.open_loop(name, rate_per_s, sizes.open_loop_block_s, clock)
            with watch.stage(f"{peer}: open loop, Poisson", sizes.num_pairs) as advance:
                blocks = await interleave(list(arms.values()), sizes.num_pairs, advance)
            for arm in arms.values():
                await arm.close()
    return dict(zip(arms, blocks, strict=True))


async def _all_connected(
    stack: AsyncExitStack, seed: int, ours: Target, targets: Sequence[Target]
) -> list[tuple[str, Connected]]:
    """The service, the service again for other users, and the ways in which the peer can be asked."""
    async with load.connect(ours.addresses[0]) as channel:
        model = await load.describe_model(channel)
    named = [(OURS, ours), (AGAIN, ours), *((target.name, target) for target in targets)]
    rng = np.random.default_rng(seed)
    return [(name, await stack.enter_async_context(connected(target, model, rng))) for name, target in named]


def _arm(name: str, mode: str) -> str:
    return f"{name}_{mode}"


def _throughput_metrics(seed: int, peer: str, targets: Sequence[Target], blocks: Blocks) -> list[Metric]:
    names = [target.name for target in targets]
    speeds = {arm: [block.updates_per_s for block in of_arm] for arm, of_arm in blocks.items()}
    by_sessions = [_arm(name, SESSIONS) for name in names]
    by_frames = [_arm(name, FRAMES) for name in names if _arm(name, FRAMES) in blocks]
    metrics = [
        Metric(f"{_beside(peer, name)}_{mode}_updates_per_s", per_s(blocks[_arm(name, mode)]), what)
        for name in (OURS, *names)
        for mode, what in WHAT.items()
        if _arm(name, mode) in blocks
    ]
    best = _best(speeds, [*by_sessions, *by_frames], max)
    best_of_sessions = _best(speeds, by_sessions, max)
    plain = [_arm(target.name, SESSIONS) for target in targets if target.is_plain]
    for mode, what, ours in ((FRAMES, "throughput", "our Exchange"), (SESSIONS, "session_throughput", "our Sessions")):
        aa = _ratio(seed, speeds[_arm(OURS, mode)], speeds[_arm(AGAIN, mode)])

        def over(theirs: str, mode: str = mode) -> Interval:
            return _ratio(seed, speeds[_arm(OURS, mode)], speeds[theirs])

        metrics += interval(f"{what}_vs_{peer}", over(best), aa, f"updates/s: {ours} over {best}, their best")
        if by_frames:
            text = f"updates/s: {ours} over {best_of_sessions}, their best of streams"
            metrics += interval(f"{what}_vs_{peer}_sessions", over(best_of_sessions), aa, text)
        if plain:
            best_plain = _best(speeds, plain, max)
            text = f"updates/s: {ours} over {best_plain}, as it is usually written"
            metrics += interval(f"{what}_vs_{peer}_plain", over(best_plain), aa, text)
    return metrics


def _latency_metrics(
    seed: int, peer: str, names: Sequence[str], latencies: Mapping[str, list[Latencies]]
) -> list[Metric]:
    metrics = []
    for name in (OURS, *names):
        text = f"{OPEN_LOOP_SESSIONS} Session streams, Poisson, from the intended send"
        metrics += percentiles(f"{_beside(peer, name)}_open_loop", np.concatenate(latencies[name]), text)
    p99s = {name: [percentile(block, 99) for block in blocks] for name, blocks in latencies.items()}
    best = _best(p99s, names, min)
    aa = _ratio(seed, p99s[OURS], p99s[AGAIN])
    return [
        *metrics,
        *interval(f"p99_vs_{peer}", _ratio(seed, p99s[OURS], p99s[best]), aa, f"P99: ours over {best}, their best"),
    ]


def _beside(peer: str, name: str) -> str:
    """Ours is measured once for each peer; what is the peer's has its name already."""
    return f"{name}_beside_{peer}" if name == OURS else name


def _best(values: Mapping[str, Sequence[float]], names: Sequence[str], choose: Callable[..., str]) -> str:
    return choose(names, key=lambda name: float(np.median(values[name])))


def _ratio(seed: int, numerators: Sequence[float], denominators: Sequence[float]) -> Interval:
    return paired_ratio(numerators, denominators, np.random.default_rng(seed))
