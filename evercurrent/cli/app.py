"""The commands and their options. What they do stands in the modules beside this one, imported when called for."""

from __future__ import annotations

import sys
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from evercurrent.cli import learning
from evercurrent.cli.errors import CommandError
from evercurrent.cli.imports import ShadowedError, drop_working_directory
from evercurrent.cli.options import ConfigOption, Flags, JsonOption, with_settings
from evercurrent.cli.routers import Router, with_router
from evercurrent.settings import RouterSettings, SettingsError, WorkerSettings, load_settings

app = typer.Typer(
    name="evercurrent",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Serves models that learn from every event: each user's state is a tensor, updated inside the request. "
    "Begin with `evercurrent demo`, then `evercurrent up`.",
    epilog="Settings come from flags, from the environment (EVERCURRENT_WORKER__RESIDENTS_MAX=1000), from a TOML file "
    "(--config FILE, tables worker and router), or are the defaults shown; the first of these counts.",
)
models = typer.Typer(
    no_args_is_help=True, help="Model versions in a store: weights and the class that they belong to, by name."
)
app.add_typer(models, name="models")
shadow = typer.Typer(
    no_args_is_help=True, help="A candidate learns beside the live model, from the same events, unseen by users."
)
app.add_typer(shadow, name="shadow")
quarantine = typer.Typer(
    no_args_is_help=True, help="Users whose updates were refused so often that their states are kept as they were."
)
app.add_typer(quarantine, name="quarantine")
app.add_typer(learning.train, name="train")
app.command()(learning.evaluate)

EndWithStdinOption = Annotated[
    bool, typer.Option("--end-with-stdin", hidden=True, help="End when standard input closes.")
]
SearchPathOption = Annotated[
    Path,
    typer.Option(
        metavar="DIR", help="Where module:Class models are found; last on the import path.", show_default="here"
    ),
]


class Exported(StrEnum):
    """What `export` can give."""

    EVENTS = "events"
    STATES = "states"


class HotBy(StrEnum):
    """What `hot` can rank users by."""

    EVENTS = "events"
    TIME = "time"


class Start(StrEnum):
    """What a shadow's states begin with."""

    MIGRATED = "migrated"
    INITIAL = "initial"


class Mode(StrEnum):
    """Who decides."""

    MANUAL = "manual"
    AUTO = "auto"


class ScoreBy(StrEnum):
    """How predictions are scored."""

    BRIER = "brier"
    LOG = "log"
    MODEL = "model"


WhoOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="Who asks, for the audit trail.", show_default="you")
]
WhyOption = Annotated[str, typer.Option(metavar="TEXT", help="Why, for the audit trail.", show_default="nothing")]
StoreOption = Annotated[
    str,
    typer.Option("--store", metavar="URL", help="The workers' store: sqlite:PATH or s3://BUCKET/PREFIX?endpoint=…."),
]
STORE = "sqlite:evercurrent.db"
WorkersOption = Annotated[int, typer.Option("--workers", min=1, max=256, help="Worker processes.")]


@app.command()
def up(
    workers: WorkersOption = 2,
    model: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="A name of ours, or module:Class.", show_default="knowledge-tracing"),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Its weights, safetensors.", show_default="the model's own")
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Where states outlive it: sqlite:PATH, s3://BUCKET/PREFIX?endpoint=… or memory:.",
            show_default="sqlite:evercurrent.db",
        ),
    ] = None,
    address: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Where the router listens.", show_default="127.0.0.1:7600")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Start a router and workers on this machine, and say where to connect. Ctrl-C ends them all."""
    from evercurrent.cli.up import run_up

    load_settings(
        {"worker": {"model": model, "weights": weights, "store": store}, "router": {"address": address}}, config
    )
    run_up(workers, model, weights, store, address, config)


@app.command()
def demo(
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Stream a real log, a CSV file (may be .gz) with user_id, timestamp_or_order, item_id, skill_id and "
            "outcome: trains on some users first, then streams the others.",
            show_default="simulated learners",
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Stream only the first N events.", show_default="all")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write the result as flat JSON numbers.")
    ] = None,
    workers: WorkersOption = 2,
) -> None:
    """See it work: learners stream through a router and workers, and their models learn from every answer.

    Each learner is a Session stream of its own. The table at the end compares the predictions made with states that
    learn inside the request with the same model's when its states are only updated every night.
    """
    from evercurrent.cli.demo import run_demo

    run_demo(data, limit, json_file, workers)


@app.command()
@with_settings(WorkerSettings)
def worker(
    flags: Flags,
    search_path: SearchPathOption = Path(),
    config: ConfigOption = None,
    end_with_stdin: EndWithStdinOption = False,
) -> None:
    """Serve one worker: it holds users' states and updates them. Prints one line when ready."""
    from evercurrent.cli.serve import serve_worker

    serve_worker(load_settings({"worker": flags}, config).worker, search_path.resolve(), end_with_stdin)


@app.command()
@with_settings(RouterSettings)
def router(flags: Flags, config: ConfigOption = None, end_with_stdin: EndWithStdinOption = False) -> None:
    """Serve one router: clients connect to it, and it keeps each user on one worker. Prints one line when ready."""
    from evercurrent.cli.serve import serve_router

    serve_router(load_settings({"router": flags}, config).router, end_with_stdin)


@app.command()
def export(
    what: Annotated[
        Exported,
        typer.Option(
            help="events: every applied observation with the prediction made and its loss, if the log is switched on. "
            "states: every user's newest durable state."
        ),
    ],
    store: Annotated[
        str, typer.Option(metavar="URL", help="The workers' store: sqlite:PATH or s3://BUCKET/PREFIX?endpoint=….")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new folder for the Parquet files.")],
    day: Annotated[
        datetime | None,
        typer.Option(
            metavar="YYYY-MM-DD", formats=["%Y-%m-%d"], help="Only events of this day (UTC).", show_default="all days"
        ),
    ] = None,
) -> None:
    """Write what the store holds as Parquet, to retrain and evaluate models with what was really served.

    Events come as DIR/day=YYYY-MM-DD/bucket-NN.parquet, a user always in the same bucket; states as DIR/states.parquet.
    Workers may go on serving meanwhile; the store is only read.

    evercurrent export --what events --store sqlite:evercurrent.db --out events --day 2026-11-24
    """
    from evercurrent.cli.export import export_events, export_states

    if what is Exported.EVENTS:
        export_events(store, out, day.date() if day is not None else None)
    elif day is not None:
        raise SettingsError("--day: states have none; it goes with --what events")
    else:
        export_states(store, out)


@app.command()
@with_router
def forget(
    router: Router,
    user: Annotated[str, typer.Argument(metavar="USER", help="The user's id.")],
    namespace: Annotated[str, typer.Option(metavar="TEXT", help="The user's namespace.", show_default="none")] = "",
) -> None:
    """Remove a user everywhere: state, sessions and event log. Says what was removed.

    Its streams end; if it comes back it starts anew. Safe to repeat, and to be repeated if it fails.
    """
    from evercurrent.cli.forget import forget_user

    forget_user(user, namespace, router)


@app.command()
@with_router
def health(
    router: Router,
    service: Annotated[
        str, typer.Option(metavar="NAME", help="One of its gRPC services.", show_default="all of it")
    ] = "",
    timeout: Annotated[float, typer.Option(metavar="S", min=0.1, help="Seconds that it may take to answer.")] = 3.0,
) -> None:
    """Ask a router, or a worker at that address, whether it serves. Exit code 0: it does.

    For probes where the service speaks TLS (grpc.health.v1); without TLS, orchestrators can ask by themselves.
    """
    from evercurrent.cli.health import show_health

    show_health(router, service, timeout)


@app.command()
@with_router
def hot(
    router: Router,
    by: Annotated[
        HotBy, typer.Option(help="events: who sends the most. time: whose events take the most of the workers' time.")
    ] = HotBy.EVENTS,
    num: Annotated[int, typer.Option(metavar="N", min=1, max=100, help="How many users.")] = 10,
) -> None:
    """Show which users cost most lately, over all workers: what is 10 seconds old counts half.

    A step's time is split evenly over the events that it handles, so few events that come alone may take more of it
    than many that come together.
    """
    from evercurrent.cli.hot import show_hot_users

    show_hot_users(by, num, router)


@app.command()
@with_router
def top(
    router: Router,
    interval: Annotated[float, typer.Option(metavar="S", min=0.2, help="Seconds between two looks.")] = 1.0,
    num_users: Annotated[int, typer.Option("--users", metavar="N", min=0, max=100, help="How many hot users.")] = 5,
    once: Annotated[bool, typer.Option("--once", help="Look twice, print what was seen, and end.")] = False,
) -> None:
    """Watch the service: update latency by stage, workers and ring, hot users, and the versions beside the live one.

    Latencies are of the last minute, from the receipt of an observation in this router to its reply's being written.
    Ctrl-C ends.
    """
    from evercurrent.cli.top import show_top

    show_top(router, interval, num_users, once)


@app.command()
@with_router
def console(
    router: Router,
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where the page is served, on this machine. Port 0: any free one.")
    ] = "127.0.0.1:7680",
    num_users: Annotated[int, typer.Option("--users", metavar="N", min=0, max=100, help="How many hot users.")] = 5,
) -> None:
    """Serve a page with what `top` shows, over time: latency by stage, the ring, durability, versions' sequences.

    Needs the extra: pip install 'evercurrent[console]'. Ctrl-C ends.
    """
    from evercurrent.cli.console import serve_console

    serve_console(listen, num_users, router)


@models.command("push")
def models_push(
    version: Annotated[str, typer.Argument(metavar="VERSION", help="Its name from now on: a-z, 0-9, '.', '_', '-'.")],
    model: Annotated[str, typer.Option(metavar="TEXT", help="A name of ours, or module:Class.")],
    weights: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Its weights, safetensors.", show_default="the model's own")
    ] = None,
    who: WhoOption = None,
    why: WhyOption = "",
    store: StoreOption = STORE,
) -> None:
    """Register a version: it is kept in the store, and workers load it from there when it is to run.

    The class must be importable where the workers run; weights are safetensors, never code. A version never changes.

    evercurrent models push v2 --model my_models.tutor:Tutor --weights tutor.safetensors --why "wider state"
    """
    from evercurrent.cli.models import push

    push(store, version, model, weights, who, why)


@models.command("list")
def models_list(as_json: JsonOption = False, store: StoreOption = STORE) -> None:
    """Show all that are registered, and what each is: live, standby, shadow."""
    from evercurrent.cli.models import list_versions

    list_versions(store, as_json)


@models.command("show")
def models_show(
    version: Annotated[
        str | None, typer.Argument(metavar="[VERSION]", help="One of them.", show_default="which run")
    ] = None,
    as_json: JsonOption = False,
    store: StoreOption = STORE,
) -> None:
    """Show all that is known of a version; without one, which run, and who decided that."""
    from evercurrent.cli.models import show

    show(store, version, as_json)


@models.command("log")
def models_log(
    num: Annotated[int, typer.Option(metavar="N", min=1, max=1000, help="How many.")] = 50, store: StoreOption = STORE
) -> None:
    """Show who changed what when, newest first, and how the versions compared at that time."""
    from evercurrent.cli.models import log

    log(store, num)


@shadow.command("start")
@with_router
def shadow_start(
    router: Router,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="A registered version (`models push`).")],
    fraction: Annotated[float, typer.Option(min=0, max=1, help="The part of the users that it learns from.")] = 1.0,
    start: Annotated[
        Start, typer.Option(help="migrated: what it makes of the live states. initial: its own initial state.")
    ] = Start.MIGRATED,
    who: WhoOption = None,
    why: WhyOption = "",
) -> None:
    """Have a version learn beside the live one. Users see nothing of it; live replies never wait for it."""
    from evercurrent.cli.shadow import STARTS, change_models
    from evercurrent.v1.models_pb2 import StartShadow

    if not fraction:
        raise SettingsError("--fraction: 0 is nobody")
    change_models(router, who, why, start_shadow=StartShadow(version=version, fraction=fraction, start=STARTS[start]))


@shadow.command("stop")
@with_router
def shadow_stop(
    router: Router,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="A shadow, or the standby.")],
    who: WhoOption = None,
    why: WhyOption = "",
) -> None:
    """End a shadow, or the standby: its states go."""
    from evercurrent.cli.shadow import change_models
    from evercurrent.v1.models_pb2 import StopShadow

    change_models(router, who, why, stop_shadow=StopShadow(version=version))


@shadow.command("watch")
@with_router
def shadow_watch(
    router: Router,
    version: Annotated[
        str, typer.Argument(metavar="[VERSION]", help="Only this one.", show_default="all that run beside the live one")
    ] = "",
    interval: Annotated[float, typer.Option(metavar="S", min=0.1, help="Seconds between two looks.")] = 1.0,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="At the end, draw the intervals as they narrowed.")
    ] = None,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="At the end, write [events, mean, low, high] of each look."),
    ] = None,
    until_verdict: Annotated[bool, typer.Option("--until-verdict", help="End when each has a verdict.")] = False,
) -> None:
    """See how the versions beside the live one compare with it, live.

    Each interval is of an anytime-valid confidence sequence: to look at it every second, and to stop when it says
    something, is allowed. `better`: the version's predictions were provably better so far; `worse`: provably worse.
    """
    from evercurrent.cli.shadow import watch

    watch(router, version, interval, plot, json_file, until_verdict)


@shadow.command("policy")
@with_router
def shadow_policy(
    router: Router,
    mode: Annotated[
        Mode,
        typer.Option(
            help="auto: a shadow that is provably better is promoted, a promoted version that provably regresses "
            "(scores, refused updates, errors, step time) is rolled back. manual: people decide."
        ),
    ],
    level: Annotated[
        float, typer.Option(min=0, max=0.5, help="The chance of a false verdict that is accepted.")
    ] = 0.05,
    margin: Annotated[float, typer.Option(min=0, help="By how much more scores must differ before auto acts.")] = 0.0,
    score: Annotated[ScoreBy, typer.Option(help="How predictions are scored; model: the live model's own.")] = (
        ScoreBy.BRIER
    ),
    slower_max: Annotated[
        float,
        typer.Option(
            min=1, help="A promoted version whose steps take so many times the old one's, or 100 µs, regresses."
        ),
    ] = 5.0,
    who: WhoOption = None,
    why: WhyOption = "",
) -> None:
    """Say who decides, and by what."""
    from evercurrent.cli.shadow import MODES, SCORES, change_models
    from evercurrent.v1.models_pb2 import Policy

    policy = Policy(mode=MODES[mode], level=level, margin=margin, score=SCORES[score], slower_max=slower_max)
    change_models(router, who, why, policy=policy)


@app.command()
@with_router
def promote(
    router: Router,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="A registered version, say a shadow.")],
    who: WhoOption = None,
    why: WhyOption = "",
) -> None:
    """Make a version live, for all users, between two batches. The live one goes on learning, ready for `rollback`."""
    from evercurrent.cli.shadow import change_models
    from evercurrent.v1.models_pb2 import Promote

    change_models(router, who, why, promote=Promote(version=version))


@app.command()
@with_router
def rollback(
    router: Router,
    drop: Annotated[bool, typer.Option("--drop", help="End the version that was live, rather than keep it.")] = False,
    who: WhoOption = None,
    why: WhyOption = "",
) -> None:
    """Make the version before live again: its states have seen every event meanwhile."""
    from evercurrent.cli.shadow import change_models
    from evercurrent.v1.models_pb2 import Rollback

    change_models(router, who, why, rollback=Rollback(drop=drop))


@quarantine.command("list")
@with_router
def quarantine_list(router: Router) -> None:
    """Show who they are."""
    from evercurrent.cli.shadow import show_quarantined

    show_quarantined(router)


@quarantine.command("release")
@with_router
def quarantine_release(
    router: Router,
    user: Annotated[str, typer.Argument(metavar="USER", help="The user's id.")],
    namespace: Annotated[str, typer.Option(metavar="TEXT", help="The user's namespace.", show_default="none")] = "",
) -> None:
    """Have one of them learn again."""
    from evercurrent.cli.shadow import release_quarantined

    release_quarantined(router, user, namespace)


def main() -> None:
    """Runs the command line. Exit code 2: wrong usage or settings; 1: it failed. Either way one clear text."""
    drop_working_directory()
    try:
        app(prog_name="evercurrent")
    except (SettingsError, ShadowedError) as error:
        _fail(error, 2)
    except (CommandError, OSError) as error:
        _fail(error, 1)


def _fail(error: Exception, code: int) -> None:
    print(f"evercurrent: {error}", file=sys.stderr)
    sys.exit(code)
