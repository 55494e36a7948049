"""`python -m bench NAME`: runs a bench, prints its table and writes its numbers."""

from __future__ import annotations

import signal
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bench.report import Metric, Report, changes_table, commit, machine
from bench.run import Arrivals, Options, Streams, Watch, WrongReplyError, watching

SIGINT_EXIT_CODE = 128 + signal.SIGINT

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    help=(
        "Measures the service beside a floor: bare gRPC servers that echo the same messages through as many hops.\n\n"
        "Each bench starts what it needs on loopback (router, workers and echo servers are processes of their own), "
        "prints a table and, with --json, writes "
        '{"name", "commit", "machine", "seed", "metrics": {flat numbers}}.\n\n'
        "What is compared is measured in turns, in at least 15 pairs. A ratio x is the median over the pairs; x_lo and "
        "x_hi are its 95% bootstrap interval, and x_aa is the same ratio for two equal arms: a difference smaller than "
        "that is noise.\n\n"
        "Times depend on what else the machine does: quote ratios to the floor of the same run."
    ),
)

Quick = Annotated[bool, typer.Option("--quick", help="Short blocks: seconds instead of a minute, and more noise.")]
Json = Annotated[Path | None, typer.Option("--json", help="Write the numbers to this file.", dir_okay=False)]
Seed = Annotated[int, typer.Option("--seed", help="Seeds the observations, arrival times and resamples.", min=0)]
Workers = Annotated[int, typer.Option("--workers", help="Workers behind the router.", min=1)]
Users = Annotated[int, typer.Option("--users", help="Users, a session each.", min=2)]


@app.command()
def latency(
    quick: Quick = False,
    json: Json = None,
    seed: Seed = 1,
    workers: Workers = 2,
    rate: Annotated[float, typer.Option("--rate", help="Offered updates a second of the open loop.", min=1)] = 1000.0,
) -> None:
    """What one update costs a client that waits for it, and under an open Poisson load."""
    from bench.latency import measure

    run_and_report("latency", json, seed, lambda watch: measure(Options(quick, seed), watch, workers, rate))


@app.command()
def throughput(quick: Quick = False, json: Json = None, seed: Seed = 1, workers: Workers = 2) -> None:
    """Updates a second by Exchange frames and by Session streams, and updates a CPU second of worker and router."""
    from bench.throughput import measure

    run_and_report("throughput", json, seed, lambda watch: measure(Options(quick, seed), watch, workers))


@app.command()
def durability(
    quick: Quick = False,
    json: Json = None,
    seed: Seed = 1,
    rate: Annotated[float, typer.Option("--rate", help="Offered updates a second.", min=1)] = 500.0,
) -> None:
    """What a store that is slow or down does to updates, what durability costs in requests, and how far it lags.

    Four services of one worker, each on a stand-in for S3 of its own: one that answers at once, one more like it, one
    with published S3 latencies (GET 63/78/118 ms, PUT 100/195/274 ms at P50/P99/P99.9), one that refuses or hangs. A
    ratio of 1 says that the store is not on the way of an update. durable_lag is from the send to the watermark.
    """
    from bench.durability import measure

    run_and_report("durability", json, seed, lambda watch: measure(Options(quick, seed), watch, rate))


@app.command()
def tracing(
    quick: Quick = False,
    json: Json = None,
    seed: Seed = 1,
    rate: Annotated[float, typer.Option("--rate", help="Offered updates a second.", min=1)] = 500.0,
) -> None:
    """What it costs an update that the service is watched: metrics scraped, one update in 100 traced, every one traced.

    Five services of one worker take turns; two of them are watched by nobody. A ratio of 1 says that watching is free.
    Spans go to a stand-in for a collector on the same machine.
    """
    from bench.tracing import measure

    run_and_report("tracing", json, seed, lambda watch: measure(Options(quick, seed), watch, rate))


@app.command()
def scale(
    quick: Quick = False,
    json: Json = None,
    seed: Seed = 1,
    rate: Annotated[float, typer.Option("--rate", help="Offered updates a second.", min=2)] = 500.0,
) -> None:
    """What 1 k to 1 M residents cost in memory and in the time of an update, and how fast they come back.

    Workers without a router, fed on Link streams, with 32-float states and a session a user. --quick stops at 10 k.
    bytes_per_resident is the whole process over its residents. gap is the longest pause between two answers to one
    session while the journal is cleaned; gap_echo is the same without a worker. recover is from asking the heir of a
    killed worker until users of all slots have an answer.
    """
    from bench.scale import measure

    run_and_report("scale", json, seed, lambda watch: measure(Options(quick, seed), watch, rate))


@app.command()
def rolling(
    quick: Quick = False,
    json: Json = None,
    seed: Seed = 1,
    users: Users = 64,
    rate: Annotated[float, typer.Option("--rate", help="Offered updates a second of all users.", min=1)] = 500.0,
) -> None:
    """What clients notice of a rolling restart: nothing is lost, doubled or refused, and how long the gaps are.

    Users of the SDK send to a router and two workers on SQLite, while each worker is restarted, a third comes and goes,
    and the router is restarted, all by SIGTERM. A model that counts what it learns shows in every reply, and in the
    store in the end, what became of each update. A step is one change of the ring: from SIGTERM, or from when a worker
    that was started is ready, until all that is to move has. A gap is the longest latency, from the intended send to
    the reply, of one user's updates that waited during a step that moves the user; p99 and max are over all such users
    and steps. A user without an update in that time has none.
    """
    from bench.rolling import measure

    run_and_report("rolling", json, seed, lambda watch: measure(Options(quick, seed), watch, users, rate))


@app.command()
def failover(
    quick: Quick = False,
    json: Json = None,
    seed: Seed = 1,
    users: Users = 64,
    rate: Annotated[float, typer.Option("--rate", help="Offered updates a second of all users.", min=1)] = 500.0,
) -> None:
    """What clients notice when a worker is killed, or lies still and comes back as a zombie.

    The users send to a router and two workers on SQLite, half of them through the SDK, half on plain streams that never
    send anything again. What became of each update is shown as by rolling. recovery is from the SIGKILL of a user's
    worker to the user's first correct reply to an update that was to be sent after it; zombie_recovery is the same from
    the SIGSTOP of a worker that goes on 35 s later (--quick: 3 s). Both hold the time until the user's next update,
    users/rate on average.
    """
    from bench.failover import measure

    run_and_report("failover", json, seed, lambda watch: measure(Options(quick, seed), watch, users, rate))


@app.command()
def shadow(
    quick: Quick = False,
    json: Json = None,
    seed: Seed = 1,
    users: Users = 64,
    rate: Annotated[
        float, typer.Option("--rate", help="Offered updates a second of all users while versions change.", min=1)
    ] = 500.0,
) -> None:
    """What versions beside the live one cost it, what a swap costs users, how soon a bad version is gone.

    shadow_added_p99_steps is the P99 that one shadow of all users adds to the live version at half of saturation, in
    steps of that shadow; live_p99_ratio_3_shadows the P99 with three over none. promote_ms and rollback_ms are from the
    change of the control object until all workers have followed. lost counts updates that replies, or the stored states
    of either version, do not show. rolled_back_s is from the promotion of a bad version until the policy has undone it.
    """
    from bench.shadow import measure

    run_and_report("shadow", json, seed, lambda watch: measure(Options(quick, seed), watch, users, rate))


@app.command()
def peers(
    quick: Quick = False,
    json: Json = None,
    seed: Seed = 1,
    workers: Workers = 2,
    rate: Annotated[
        float, typer.Option("--rate", help="Offered updates a second of the open loop: below what any can take.", min=1)
    ] = 200.0,
    only: Annotated[list[str] | None, typer.Option("--only", help="Measure this one alone; may be repeated.")] = None,
) -> None:
    """The service beside other ways to serve the same model: bare echoes, states in Redis, Ray Serve, Envoy.

    throughput_vs_X is the updates/s of Exchange over the best that X reaches in any way, session_throughput_vs_X the
    same of 256 Session streams; ..._sessions compares with the best that X reaches by streams, without frames of many
    users. p99_vs_X is at one offered rate: below 1 is faster. `make peers` installs them; what is missing is skipped.
    Ray needs a network of its own, so the bench starts itself anew in one (Linux, unshare).
    """
    from bench.peers import network
    from bench.peers.installed import skipped
    from bench.peers.measure import RUNNERS, measure

    if unknown := set(only or ()) - set(RUNNERS):
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}: choose of {', '.join(RUNNERS)}", param_hint="--only")
    missing = skipped()
    chosen = [peer for peer in RUNNERS if (not only or peer in only) and peer not in missing]
    if "ray_serve" in chosen:
        network.enter()
    for peer, why in missing.items():
        if not only or peer in only:
            Console(stderr=True).print(f"{peer} is skipped: {why}", markup=False, soft_wrap=True)
    run_and_report("peers", json, seed, lambda watch: measure(Options(quick, seed), watch, workers, rate, chosen))


@app.command()
def verdict(
    quick: Quick = False,
    json: Json = None,
    seed: Seed = 1,
    runs: Annotated[int, typer.Option("--runs", help="Runs of equally good forecasters.", min=1)] = 1000,
    events: Annotated[int, typer.Option("--events", help="Events of each of those runs.", min=1)] = 20_000,
) -> None:
    """How often verdicts on model versions are false, and how many events they take. Simulated: no service, no floor.

    Few users, whose chances depend on their last outcomes; predictions are those chances with an error, scored by
    Brier, and the interval is looked at after every event. A false verdict is one on forecasters who are equally good
    and not the same. dXXX_ are forecasters whose mean scores differ by 0.XXX, at errors of 0.1: the less two versions'
    predictions have in common, the more events a verdict takes. --quick takes a tenth of the runs.
    """
    from bench.verdict import measure

    run_and_report("verdict", json, seed, lambda watch: measure(Options(quick, seed), watch, runs, events))


@app.command()
def load(
    json: Json = None,
    seed: Seed = 1,
    target: Annotated[
        str | None,
        typer.Option("--target", metavar="HOST:PORT", help="A router that runs; else a service is started."),
    ] = None,
    workers: Workers = 1,
    model: Annotated[
        str, typer.Option("--model", help="What a service that is started serves: a name, or module:Class.")
    ] = "knowledge-tracing",
    rate: Annotated[float, typer.Option("--rate", help="Offered updates a second.", min=1)] = 1000.0,
    duration: Annotated[float, typer.Option("--duration", help="Seconds a run.", min=0.1)] = 5.0,
    runs: Annotated[int, typer.Option("--runs", help="Runs, one after the other.", min=1)] = 3,
    warm_up: Annotated[float, typer.Option("--warm-up", help="Seconds of load before the first run.", min=0)] = 2.0,
    users: Annotated[int, typer.Option("--users", help="Users.", min=1)] = 64,
    zipf: Annotated[
        float, typer.Option("--zipf", help="The k-th user has a share of k^-ZIPF; 0: all the same.", min=0)
    ] = 0.0,
    arrivals: Annotated[
        Arrivals, typer.Option("--arrivals", help="Poisson; bursts of 32; closed: each waits for its answer.")
    ] = Arrivals.POISSON,
    streams: Annotated[
        Streams, typer.Option("--streams", help="A Session stream a user, or one Exchange stream for all.")
    ] = Streams.SESSIONS,
    log: Annotated[
        Path | None,
        typer.Option("--log", help="Send what an event log holds (Parquet of `evercurrent export`), at its times."),
    ] = None,
    speed: Annotated[
        float, typer.Option("--speed", help="How many times as fast the log's clock goes.", min=1e-6)
    ] = 1.0,
    ramp: Annotated[
        float | None,
        typer.Option("--ramp", metavar="P99_MS", help="Find the highest rate with a P99 up to this, from --rate on."),
    ] = None,
) -> None:
    """What a load that is offered, whatever becomes of it, gets from a service: any model's, at any address.

    Latencies count from the intended sends. Each figure is the median of the runs, _lo and _hi the least and the
    greatest. The times by stage are means of the updates about the P50 and the P99, from the replies themselves;
    client is what is left: the network, and whoever sends. generator_bound says that the sender was what was slow.
    """
    from bench.offered import Offer, measure

    if arrivals is Arrivals.CLOSED and (streams is Streams.EXCHANGE or ramp is not None or log is not None):
        raise typer.BadParameter("a closed loop has sessions, no --ramp and no --log", param_hint="--arrivals")
    recording = None if log is None else (log, speed)
    offer = Offer(rate, duration, users, zipf, arrivals, streams, recording)
    run_and_report(
        "load", json, seed, lambda watch: measure(watch, seed, offer, runs, warm_up, target, workers, model, ramp)
    )


@app.command()
def capacity(
    quick: Quick = False,
    json: Json = None,
    seed: Seed = 1,
    p99_ms: Annotated[float, typer.Option("--p99-ms", help="The P99 that is to be held.", min=0.1)] = 20.0,
    users: Annotated[int, typer.Option("--users", help="Users to size for, there all the time.", min=1)] = 100_000,
    events: Annotated[float, typer.Option("--events-per-minute", help="Events of each user.", min=0.001)] = 1.0,
    model: Annotated[str, typer.Option("--model", help="A name, or module:Class.")] = "knowledge-tracing",
) -> None:
    """The highest steady load that a worker on one core holds under a P99, and what that means for so many users.

    Found by bisection, twice: with one Exchange stream of 4,096 users, and with a Session stream for each of 256. The
    sizes are for a load that is there all the time, not for a mean of peaks: workers, routers, memory, and the requests
    and bytes that S3 is sent in a month, counted by a stand-in.
    """
    from bench.capacity import Asked, measure

    asked = Asked(users, events, p99_ms)
    run_and_report("capacity", json, seed, lambda watch: measure(Options(quick, seed), watch, asked, model))


@app.command()
def freshness(
    data: Annotated[
        Path,
        typer.Option(
            "--data", help="Answers: CSV, may be .gz, with user_id, timestamp_or_order, item_id, skill_id, outcome."
        ),
    ],
    test_users: Annotated[
        Path | None, typer.Option("--test-users", help="JSON with the users to test on; else each seed draws a fifth.")
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", help="How often to train.", min=1)] = 5,
    session_events: Annotated[int, typer.Option("--session-events", help="Events of a user's session.", min=1)] = 10,
    night_events: Annotated[int, typer.Option("--night-events", help="A user's events between nights.", min=1)] = 25,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw AUC by age to this PNG.", dir_okay=False)] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Train for two epochs only.")] = False,
    json: Json = None,
) -> None:
    """What it is worth that the state knows the last event: a log's answers predicted by states of different age.

    Users whom training never saw. The state learns from every answer, what predicts is that state (lag 0), or what it
    was 1, 10 or 100 events ago, when the session began, or last night. Runs no service: one predicts the same
    (`evercurrent evaluate --target`).
    """
    from bench.freshness import measure

    run_and_report(
        "freshness",
        json,
        0,
        lambda watch: measure(watch, data, test_users, seeds, session_events, night_events, plot, quick),
    )


@app.command()
def report(
    out: Annotated[Path, typer.Option("--out", help="The folder to write to.", file_okay=False)] = Path("bench-report"),
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="STEP", help="Some of its steps; may be given again.")
    ] = None,
    runs: Annotated[int, typer.Option("--runs", help="Runs of each step: what they differ by is told.", min=1)] = 1,
    quick: Quick = False,
    seed: Seed = 1,
) -> None:
    """Run a set of benches and write one page with its plots: report.html, PNG files, and report.json to compare.

    All of it takes about half an hour. A bench that fails, or whose peers are not installed, is named on the page.
    """
    from bench.reporting import STEPS, write_report

    steps = only or list(STEPS)
    if unknown := [step for step in steps if step not in STEPS]:
        raise typer.BadParameter(f"{', '.join(unknown)}: the steps are {', '.join(STEPS)}", param_hint="--only")
    if find_spec("matplotlib") is None:
        raise typer.BadParameter("a report needs matplotlib: pip install 'evercurrent[plot]'")
    errors = Console(stderr=True)
    try:
        with watching(errors) as watch:
            written = write_report(out, steps, runs, quick, seed, watch)
    except KeyboardInterrupt:
        errors.print("interrupted; no page was written")
        raise typer.Exit(SIGINT_EXIT_CODE) from None
    Console().print(f"wrote {written}", soft_wrap=True)


@app.command()
def compare(
    before: Annotated[Path, typer.Argument(metavar="A.json", exists=True, dir_okay=False)],
    after: Annotated[Path, typer.Argument(metavar="B.json", exists=True, dir_okay=False)],
    all_: Annotated[bool, typer.Option("--all", help="Also what has not changed, or has no spread.")] = False,
) -> None:
    """What differs between two runs: a change is told only where it is more than the runs' own spread.

    A file is what a bench wrote with --json, or a report.json. The spread of a figure is its interval (x_lo to x_hi)
    and, in a report of several runs, what they differ by. Of a figure with neither nothing can be said.
    """
    from bench.comparing import changes, runs_of

    try:
        found = list(changes(runs_of(before), runs_of(after)))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    Console().print(changes_table(found, all_))


def run_and_report(name: str, path: Path | None, seed: int, measure: Callable[[Watch], tuple[Metric, ...]]) -> None:
    """Runs one bench and reports it. Ctrl-C, or a reply that is no applied update, ends what was started and writes
    nothing."""
    errors = Console(stderr=True)
    try:
        with watching(errors) as watch:
            metrics = measure(watch)
    except KeyboardInterrupt:
        errors.print("interrupted; nothing was written")
        raise typer.Exit(SIGINT_EXIT_CODE) from None
    except (WrongReplyError, ExceptionGroup) as error:
        wrong = first_wrong_reply(error)
        if wrong is None:
            raise
        text = f"bench {name} failed; nothing was written: {wrong}"
        errors.print(text, style="red", markup=False, soft_wrap=True)
        raise typer.Exit(1) from error
    report = Report(name, commit(), machine(), seed, metrics)
    if path is not None:
        path.write_text(report.json() + "\n")
    Console().print(report.table())


def first_wrong_reply(error: Exception) -> WrongReplyError | None:
    """The first wrong reply among the errors of a group of tasks."""
    if isinstance(error, ExceptionGroup):
        return next(filter(None, map(first_wrong_reply, error.exceptions)), None)
    return error if isinstance(error, WrongReplyError) else None


if __name__ == "__main__":
    app()
