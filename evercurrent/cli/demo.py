"""`evercurrent demo`: learners stream through a router and two workers, and what came of it in one table.

Simulated learners answer to the model that we ship; a real log first trains a model on some of its users and then
streams the others, whom that model has never seen.
"""

from __future__ import annotations

import asyncio
import json
import math
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from evercurrent.cli.cluster import ClusterError, run_cluster
from evercurrent.cli.errors import CommandError
from evercurrent.cli.imports import check_not_shadowed
from evercurrent.cli.learners import NUM_LANES, Tally, stream_learners
from evercurrent.metrics import auc
from evercurrent.models.adaptive import EventLog, LogError, log_name, read_test_users, replay, split_users
from evercurrent.models.adaptive.replay import NIGHT_EVENTS
from evercurrent.models.knowledge_tracing import default_world, read_log, simulate, train
from evercurrent.models.loading import load_model

MODEL = "knowledge-tracing"
TEST_USERS_FILE = "published_test_users.json"
REFRESH_S = 0.25
# Learners that the shipped weights were not trained on.
SIMULATED_SEED = 7_600
SIMULATED_USERS = 400
SIMULATED_EVENTS = 100

ABOUT_SIMULATED = (
    "Learners: simulated. The shipped weights were trained on other simulated learners of the same made-up world: "
    "the figures show that the system works and say nothing about people."
)

ABOUT_TABLE = (
    "Latency is measured at the client, which shares this machine; {at_once} observations are under way at once.\n"
    "Continuous: predicted as served, by a state that holds every answer before. Batch: by the same model's state of "
    f"last night, where a night falls after every {NIGHT_EVENTS} events of a user."
)


@dataclass(frozen=True)
class Learners:
    """The events to stream, in order, and the weights that are to serve them; None for the shipped ones."""

    log: EventLog
    weights: Path | None


@dataclass(frozen=True)
class Result:
    """The numbers of the table, as --json writes them. An AUC is null where all answers are alike."""

    updates: int
    users: int
    lost: int
    rejected: int
    updates_per_s: float
    update_p50_ms: float
    update_p99_ms: float
    auc_continuous: float | None
    auc_batch: float | None


def run_demo(data: Path | None, limit: int | None, json_file: Path | None, num_workers: int) -> None:
    """Runs it all. Raises CommandError when an observation was lost or a stream broke."""
    check_not_shadowed()
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        try:
            learners = _simulated(console) if data is None else _of_log(data, Path(folder), console)
        except LogError as error:
            raise CommandError(str(error)) from error
        log = learners.log.at(np.arange(len(learners.log))[:limit])
        store = f"sqlite:{folder}/store.db"
        tally, elapsed_s = _stream(log, learners.weights, store, num_workers, console)
        result = _result(log, learners.weights, tally, elapsed_s)
    console.print(_table(result))
    console.print(ABOUT_TABLE.format(at_once=min(NUM_LANES, result.users)))
    if json_file is not None:
        json_file.write_text(json.dumps(asdict(result)) + "\n")
    if tally.broken:
        raise CommandError(f"{len(tally.broken)} streams broke; the first: {tally.broken[0]}")
    if result.lost:
        raise CommandError(f"{result.lost} observations were never answered")


def _simulated(console: Console) -> Learners:
    console.print(ABOUT_SIMULATED)
    return Learners(simulate(default_world(), SIMULATED_USERS, SIMULATED_EVENTS, SIMULATED_SEED), None)


def _of_log(data: Path, folder: Path, console: Console) -> Learners:
    """Trains on the users that are not for testing, for those that are: the published ones where a file beside the log
    names them, else one in five."""
    log = read_log(data)
    published = data.with_name(TEST_USERS_FILE)
    test_users = read_test_users(published, log_name(data)) if published.exists() else None
    training, testing = split_users(log, test_users)
    console.print(
        f"Learners: {testing.active_users.size} of {data.name}, "
        f"{'as published' if test_users is not None else 'drawn at random'}. "
        f"A model is trained on the other {training.active_users.size} first."
    )
    labels = {log.users[user] for user in testing.active_users.tolist()}
    trained = train(log, folder, test_users=labels, console=console)
    return Learners(testing.stream(), trained.weights)


def _stream(log: EventLog, weights: Path | None, store: str, num_workers: int, console: Console) -> tuple[Tally, float]:
    """What came back, and in how many seconds."""
    tally = Tally.of(len(log))
    with run_cluster(num_workers=num_workers, model=MODEL, weights=weights, store=store) as cluster:
        console.print(f"Router at {cluster.address}, {num_workers} workers.")
        begun = time.perf_counter()
        uvloop.run(_stream_with_progress(cluster.address, log, tally, console))
        elapsed_s = time.perf_counter() - begun
        if cluster.ended():
            raise ClusterError("; ".join(cluster.children[name].ending() for name in cluster.ended()))
    return tally, elapsed_s


def _result(log: EventLog, weights: Path | None, tally: Tally, elapsed_s: float) -> Result:
    p50, p99 = tally.percentiles_ms()
    predicted_N = np.isfinite(tally.prediction_N)
    batch_N = replay(load_model(MODEL, weights), log).batch_N
    continuous, batch = (
        auc(log.outcome_N[predicted_N], prediction_N[predicted_N]) for prediction_N in (tally.prediction_N, batch_N)
    )
    return Result(
        updates=tally.num_applied,
        users=log.active_users.size,
        lost=tally.num_lost,
        rejected=tally.num_rejected,
        updates_per_s=tally.num_applied / elapsed_s,
        update_p50_ms=p50,
        update_p99_ms=p99,
        auc_continuous=None if math.isnan(continuous) else continuous,
        auc_batch=None if math.isnan(batch) else batch,
    )


def _table(result: Result) -> Table:
    table = Table(show_header=False, title="evercurrent demo", title_justify="left")
    rows = [
        ("updates", f"{result.updates:,}"),
        ("users, a Session stream each", f"{result.users:,}"),
        ("updates/s", f"{result.updates_per_s:,.0f}"),
        ("update latency P50", f"{result.update_p50_ms:.2f} ms"),
        ("update latency P99", f"{result.update_p99_ms:.2f} ms"),
        ("rejected", f"{result.rejected:,}"),
        ("lost", f"{result.lost:,}"),
        ("next-answer AUC, continuous", _auc_text(result.auc_continuous)),
        ("next-answer AUC, batch", _auc_text(result.auc_batch)),
    ]
    for name, value in rows:
        table.add_row(name, value)
    table.columns[1].justify = "right"
    return table


def _auc_text(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


async def _stream_with_progress(address: str, log: EventLog, tally: Tally, console: Console) -> None:
    # The bar is drawn by the loop that streams: a thread of its own would take the interpreter from it at any moment.
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("P50 {task.fields[p50]:.2f} ms  P99 {task.fields[p99]:.2f} ms"),
        console=console,
        auto_refresh=False,
    ) as progress:
        bar = progress.add_task("updates", total=len(log), p50=math.nan, p99=math.nan)

        def draw() -> None:
            p50, p99 = tally.percentiles_ms(recent=True)
            progress.update(bar, completed=tally.num_answered, p50=p50, p99=p99, refresh=True)

        async def keep_drawing() -> None:
            while True:
                draw()
                await asyncio.sleep(REFRESH_S)

        async with asyncio.TaskGroup() as tasks:
            drawing = tasks.create_task(keep_drawing())
            try:
                await stream_learners(address, log, tally)
            finally:
                drawing.cancel()
        draw()
