"""`evercurrent train`: weights from an event log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from evercurrent.cli.errors import CommandError
from evercurrent.models.adaptive import (
    Adaptive,
    Columns,
    EventLog,
    LogError,
    OutcomeKind,
    Ranking,
    Trained,
    TrainerSettings,
    log_name,
    read_csv,
    read_parquet,
    read_test_users,
    train,
)
from evercurrent.models.knowledge_tracing import read_log
from evercurrent.models.knowledge_tracing import train as train_knowledge_tracing
from evercurrent.models.loading import class_path

RANKING = "ranking"
UNITS_US = {"s": 1_000_000, "ms": 1_000, "us": 1}
OUTCOME_KINDS: Mapping[str, OutcomeKind] = {
    "bernoulli": "share",
    "categorical": "choice",
    "gaussian": "number",
    RANKING: "share",
}


@dataclass(frozen=True)
class Shape:
    """What a model of the family is to be."""

    head: str
    state_size: int
    embedding_size: int
    hidden_size: int
    uses_time: bool
    writes: bool
    unliked_loss: float


def train_on_answers(data: Path, out: Path, test_users: Path | None, seed: int) -> None:
    """Trains knowledge tracing, writes the weights and what belongs to them, and says how well held-out users are
    predicted. Raises CommandError."""
    console = Console()
    try:
        log = read_log(data)
        labels = _labels(test_users, data)
        trained = train_knowledge_tracing(log, out, seed=seed, test_users=labels, console=console)
    except LogError as error:
        raise CommandError(str(error)) from error
    _tell(trained, console, "evercurrent up")


def train_family(
    data: Path,
    out: Path,
    test_users: Path | None,
    columns: Columns,
    shape: Shape,
    seed: int,
    settings: TrainerSettings,
) -> None:
    """As `train_on_answers`, a model of the family on a log of any kind. Raises CommandError."""
    if shape.head != RANKING and (settings.meets_once or shape.unliked_loss):
        raise CommandError(f"--meets-once and --unliked-loss are for a ranking head, not for {shape.head}")
    console = Console()
    try:
        log = _read(data, columns)
        labels = _labels(test_users, data)
        trained = train(
            lambda sizes: _untrained(sizes, log, columns, shape),
            log,
            out,
            seed=seed,
            test_users=labels,
            settings=settings,
            console=console,
        )
    except LogError as error:
        raise CommandError(str(error)) from error
    _tell(trained, console, f"evercurrent up --model {class_path(type(trained.model))}")


def is_exported(data: Path) -> bool:
    """Whether a log is Parquet as `export events` writes it."""
    return data.is_dir() or data.suffix == ".parquet"


def _read(data: Path, columns: Columns) -> EventLog:
    if is_exported(data):
        return read_parquet(data, tuple(columns.ids) or None)
    return read_csv(data, columns)


def _untrained(sizes: Mapping[str, int], log: EventLog, columns: Columns, shape: Shape) -> Adaptive:
    """Raises LogError: the log has no such outcomes."""
    is_choice = log.outcome_N.dtype.kind == "i"
    if is_choice != (shape.head == "categorical"):
        kind = "choices" if is_choice else "numbers"
        raise LogError(f"the outcomes of this log are {kind}: a {shape.head} head is not for them")
    if shape.head in ("bernoulli", RANKING) and not (log.outcome_N.min() >= 0 and log.outcome_N.max() <= 1):
        raise LogError(f"a {shape.head} head needs outcomes from 0 to 1")
    more: dict[str, Any] = {
        "state_size": shape.state_size,
        "embedding_size": shape.embedding_size,
        "uses_time": shape.uses_time,
        "writes": shape.writes,
    }
    features = _features(log, columns)
    if shape.head == RANKING:
        if len(sizes) != 1 or features:
            raise LogError("a ranking head takes one id field, the item, and no features")
        return Ranking(sizes, unliked_loss=shape.unliked_loss, **more)
    num_choices = 0
    if is_choice:
        num_choices = len(log.ids.choices) or int(log.outcome_N.max()) + 1
        if num_choices < 2:
            raise LogError("all outcomes of this log are one choice: there is nothing to learn")
    return Adaptive(sizes, features, shape.head, num_choices, hidden_size=shape.hidden_size, **more)


def _features(log: EventLog, columns: Columns) -> Sequence[str]:
    num_features = log.features_NF.shape[1]
    return tuple(columns.features) or tuple(f"feature_{at}" for at in range(num_features))


def _labels(test_users: Path | None, data: Path) -> frozenset[str]:
    return frozenset() if test_users is None else read_test_users(test_users, log_name(data))


def _tell(trained: Trained[Any], console: Console, serve: str) -> None:
    name, scores = ("validation", trained.validation) if trained.test is None else ("test", trained.test)
    if "auc_continuous" in scores:
        told = f"AUC {scores['auc_continuous']:.4f} continuous, {scores['auc_batch']:.4f} batch"
    else:
        told = f"loss {scores['loss']:.4f}"
    written = [trained.ids, trained.metrics, *([] if trained.curves is None else [trained.curves])]
    console.print(
        f"{scores['users']} {name} users, {scores['updates']} events: {told}\n"
        f"Wrote {trained.weights}, {', '.join(path.name for path in written)}. "
        f"Serve it: {serve} --weights {trained.weights}",
        soft_wrap=True,
    )
