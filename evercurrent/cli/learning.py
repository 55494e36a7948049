"""The commands that train models and say how well they predict: `train`, `evaluate`. What they do stands in the modules
of these names, imported when called for."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from evercurrent.cli.options import JsonOption

train = typer.Typer(no_args_is_help=True, help="Train the shared weights of a model of ours from an event log.")


class Head(StrEnum):
    """What `train adaptive` can have outcomes be."""

    BERNOULLI = "bernoulli"
    CATEGORICAL = "categorical"
    GAUSSIAN = "gaussian"
    RANKING = "ranking"


class Unit(StrEnum):
    """What the order of a log may count."""

    S = "s"
    MS = "ms"
    US = "us"


SeedOption = Annotated[int, typer.Option(min=0, help="Draws the untrained weights, batches and held-out users.")]
TestUsersOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="JSON with ids of users to test on and never train on.", show_default="none"),
]


@train.command("knowledge-tracing")
def train_knowledge_tracing(
    data: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="A CSV file (may be .gz) with user_id, timestamp_or_order, item_id, skill_id and outcome.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Gets the weights (safetensors), ids and scores.")],
    test_users: TestUsersOption = None,
    seed: SeedOption = 0,
) -> None:
    """Learn item and skill embeddings, the initial state and the online step itself, by unrolling the updates."""
    from evercurrent.cli.train import train_on_answers

    train_on_answers(data, out, test_users, seed)


@train.command("adaptive")
def train_adaptive(
    data: Annotated[
        Path,
        typer.Option(
            metavar="PATH",
            help="A CSV file (may be .gz), or the folder that `export events` wrote.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Gets weights (safetensors), ids, scores and curves.")],
    head: Annotated[
        Head, typer.Option(help="What an outcome is: yes or no; one of some; a number; the next of many items.")
    ] = Head.BERNOULLI,
    ids: Annotated[
        str, typer.Option(metavar="COLUMN,…", help="Columns of ids, or of a folder the fields' names.")
    ] = "",
    features: Annotated[str, typer.Option(metavar="COLUMN,…", help="Columns of numbers, of about unit size.")] = "",
    user: Annotated[str, typer.Option(metavar="COLUMN", help="Whose event it is.")] = "user_id",
    order: Annotated[str, typer.Option(metavar="COLUMN", help="What orders a user's events.")] = "timestamp",
    order_unit: Annotated[
        Unit | None, typer.Option(help="What it counts, if it is a clock.", show_default="it is none")
    ] = None,
    outcome: Annotated[str, typer.Option(metavar="COLUMN", help="What happened.")] = "outcome",
    state_size: Annotated[int, typer.Option(min=1, max=4096, help="Floats of a user's state.")] = 32,
    embedding_size: Annotated[int, typer.Option(min=1, max=4096, help="Floats of an event's embedding.")] = 32,
    hidden_size: Annotated[int, typer.Option(min=0, max=4096, help="Hidden units; the ranking head has none.")] = 16,
    uses_time: Annotated[
        bool, typer.Option("--uses-time", help="Let states fade with the time between events.")
    ] = False,
    writes: Annotated[bool, typer.Option("--writes", help="Let events add to states, whatever their outcome.")] = False,
    meets_once: Annotated[
        bool, typer.Option("--meets-once", help="Of a ranking: items that a user met do not come again.")
    ] = False,
    unliked_loss: Annotated[
        float, typer.Option(min=0, max=1, help="Of a ranking: how much items count that came and were not liked.")
    ] = 0.0,
    test_users: TestUsersOption = None,
    epochs: Annotated[int, typer.Option(min=1, help="At most; fewer once held-out users gain nothing.")] = 30,
    seed: SeedOption = 0,
) -> None:
    """Train a model of the family on a log of any kind: embeddings, initial state and the online step itself.

    evercurrent train adaptive --data clicks.csv --head ranking --ids item_id --outcome liked --order-unit s --uses-time
    --out run
    """
    from evercurrent.cli.train import OUTCOME_KINDS, UNITS_US, Shape, train_family
    from evercurrent.models.adaptive import Columns, TrainerSettings

    columns = Columns(
        user=user,
        order=order,
        ids={name: name for name in _names(ids)},
        features={name: name for name in _names(features)},
        outcome=outcome,
        order_unit_us=0 if order_unit is None else UNITS_US[order_unit],
        outcome_kind=OUTCOME_KINDS[head],
    )
    shape = Shape(head.value, state_size, embedding_size, hidden_size, uses_time, writes, unliked_loss)
    settings = TrainerSettings(epochs_max=epochs, meets_once=meets_once)
    train_family(data, out, test_users, columns, shape, seed, settings)


def _names(text: str) -> list[str]:
    return [name for name in (part.strip() for part in text.split(",")) if name]


def evaluate(
    data: Annotated[
        Path,
        typer.Option(
            metavar="PATH",
            help="A CSV file (may be .gz) with the columns of the model's training, or a folder of `export events`.",
        ),
    ],
    model: Annotated[str, typer.Option(metavar="TEXT", help="A name of ours, or module:Class.")] = "knowledge-tracing",
    weights: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Its weights, safetensors.", show_default="the model's own")
    ] = None,
    ids: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The ids that training wrote beside them.", show_default="those of the log"),
    ] = None,
    test_users: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON with the only users to take.", show_default="all")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="A router to send the log to as well.", show_default="none"),
    ] = None,
    tls_ca: Annotated[
        Path | None, typer.Option(metavar="FILE", help="CA certificates to know it by, PEM.", show_default="no TLS")
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A bearer token for it.", show_default="none", exists=True, dir_okay=False),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """How well a model predicts a log: each event is predicted, then learned from, as if it came now.

    With --target a service gets the same log, for users of its own (they stay: evaluate-…), and must predict the same
    to within 1e-4.

    evercurrent evaluate --data answers.csv --weights run/weights.safetensors --ids run/ids.json --target 127.0.0.1:7600
    """
    from evercurrent.cli import evaluate as evaluating
    from evercurrent.client import Tls

    service = None
    if target is not None:
        token = None if token_file is None else token_file.read_text().strip()
        service = evaluating.Service(target, None if tls_ca is None else Tls(tls_ca), token)
    evaluating.evaluate(data, model, weights, ids, test_users, service, as_json)
