"""`evercurrent evaluate`: how well a model predicts a log, each answer predicted before it is learned from; by itself,
and as a service that serves it does."""

from __future__ import annotations

import asyncio
import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from ulid import ULID

from evercurrent.cli.errors import CommandError
from evercurrent.cli.train import is_exported
from evercurrent.client import EvercurrentError, Tls, connect
from evercurrent.metrics import auc
from evercurrent.model import Model, OutcomeKind
from evercurrent.models.adaptive import (
    EventLog,
    Ids,
    LogError,
    log_name,
    read_csv,
    read_parquet,
    read_test_users,
    replay,
)
from evercurrent.models.adaptive.data import Floats
from evercurrent.models.adaptive.replay import predicts_probability
from evercurrent.models.knowledge_tracing import KnowledgeTracing
from evercurrent.models.knowledge_tracing.data import ANSWERS
from evercurrent.models.loading import ModelLoadError, load_model

AGREEMENT = 1e-4
"""Served predictions and those made here differ by no more, or it is not the same model."""
FRAME_EVENTS = 512
"""Observations that are sent together."""


@dataclass(frozen=True, slots=True)
class Service:
    """A router to send the log to."""

    address: str
    tls: Tls | None = None
    token: str | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How well N events were predicted; losses in nats. `batch`: by states that stand still between nights, known of
    probabilities, as AUC is. Of a service: how well it predicted, and by how much at most otherwise than the model
    here."""

    events: int
    users: int
    loss: float
    auc: float | None = None
    auc_batch: float | None = None
    log_loss_batch: float | None = None
    served_auc: float | None = None
    served_loss: float | None = None
    served_difference: float | None = None

    def json(self) -> str:
        """All of it; an AUC that is none, for only one kind of outcome is there, is null."""
        return json.dumps({name: None if _is_none(value) else value for name, value in asdict(self).items()})


def evaluate(
    data: Path,
    model_name: str,
    weights: Path | None,
    ids: Path | None,
    test_users: Path | None,
    service: Service | None,
    as_json: bool,
) -> None:
    """Prints how well a log is predicted.

    Raises:
        CommandError: log, model or service cannot be used, or the service predicts otherwise than the model here.
    """
    console = Console()
    try:
        model = load_model(model_name, weights)
        log = _read(data, model, None if ids is None else Ids.load(ids))
        if test_users is not None:
            labels = read_test_users(test_users, log_name(data))
            log = log.of_users([user for user, label in enumerate(log.users) if label in labels])
    except (LogError, ModelLoadError) as error:
        raise CommandError(str(error)) from error
    _check(data, model, model_name, log)
    log = log.stream()
    replayed = replay(model, log)
    is_probability = predicts_probability(model)
    found = Evaluation(len(log), log.active_users.size, float(replayed.loss_N.mean()))
    if is_probability:
        scores = replayed.scores()
        found = replace(
            found, auc=scores.auc_continuous, auc_batch=scores.auc_batch, log_loss_batch=scores.log_loss_batch
        )
    if service is not None:
        try:
            served_NP, loss_N = asyncio.run(serve(service, log, model.prediction_width, Console(stderr=True)))
        except* EvercurrentError as group:
            raise CommandError(f"{service.address}: {group.exceptions[0]}") from group
        found = replace(
            found,
            served_auc=auc(log.outcome_N, served_NP[:, 0]) if is_probability else None,
            served_loss=float(loss_N.mean()),
            served_difference=float(np.abs(served_NP - replayed.continuous_NP).max()),
        )
    console.print(found.json() if as_json else _table(found), soft_wrap=True)
    if found.served_difference is not None and not found.served_difference <= AGREEMENT:
        raise CommandError(
            f"the service predicts otherwise than {model_name} here, by up to {found.served_difference:.2g}: "
            "does it serve these weights?"
        )


def _read(data: Path, model: Model, ids: Ids | None) -> EventLog:
    """Raises LogError."""
    sizes = {field.name: field.size for field in model.observation.ids}
    if is_exported(data):
        return read_parquet(data, tuple(sizes), sizes)
    if ids is not None and ids.columns is not None:
        return read_csv(data, ids.columns, ids)
    if isinstance(model, KnowledgeTracing):
        return read_csv(data, ANSWERS, ids)
    raise LogError(f"{data}: which of its columns are what stands in the file of ids that training wrote: give --ids")


def _check(data: Path, model: Model, model_name: str, log: EventLog) -> None:
    """Raises CommandError: the model is not for such a log."""
    spec = model.observation
    sizes = np.array([field.size for field in spec.ids])
    if len(log) == 0:
        raise CommandError(f"{data} has no events of these users")
    widths = log.ids_NK.shape[1], log.features_NF.shape[1]
    if widths != (len(spec.ids), len(spec.features)):
        raise CommandError(
            f"{data} has {widths[0]} ids and {widths[1]} features an event; "
            f"{model_name} takes {len(spec.ids)} and {len(spec.features)}"
        )
    if (spec.outcome.kind is OutcomeKind.CHOICE) != (log.outcome_N.dtype.kind == "i"):
        raise CommandError(f"the outcomes of {data} are not of the kind that {model_name} takes")
    if len(sizes) and (log.ids_NK.max(axis=0) >= sizes).any():
        raise CommandError(f"{data} has ids that {model_name} does not know: give its --ids")


async def serve(service: Service, log: EventLog, width: int, console: Console) -> tuple[Floats, Floats]:
    """What a service predicts [N, P] for a log's events, sent in their order for users that nobody else has, and the
    losses [N].

    Raises:
        EvercurrentError: it cannot be reached, or refuses an event.
    """
    run = str(ULID()).lower()
    served_NP, loss_N = np.empty((len(log), width), np.float32), np.empty(len(log), np.float32)
    columns = (log.user_N, log.ids_NK, log.features_NF, log.outcome_N, log.time_us_N)
    events = [
        {
            "user_id": f"evaluate-{run}/{log.users[user]}",
            "ids": ids,
            "features": features,
            "outcome": outcome,
            "event_time_us": time_us or None,
        }
        for user, ids, features, outcome, time_us in zip(*(column.tolist() for column in columns), strict=True)
    ]
    shown = TextColumn("served"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*shown, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("served", total=len(log))
        async with (
            connect(service.address, tls=service.tls, token=service.token) as client,
            client.exchange() as exchange,
        ):
            for start in range(0, len(log), FRAME_EVENTS):
                results = await exchange.observe_many(events[start : start + FRAME_EVENTS])
                for at, result in enumerate(results, start):
                    served_NP[at] = result.raise_for_rejection().prediction
                    loss_N[at] = np.nan if result.loss is None else result.loss
                progress.update(bar, completed=start + len(results))
    return served_NP, loss_N


def _table(found: Evaluation) -> Table:
    table = Table(title=f"{found.events:,} events of {found.users:,} users, each predicted before it is learned from")
    for column in ("", "AUC", "loss, nats"):
        table.add_column(column, justify="left" if not column else "right")
    table.add_row("state as it is", _number(found.auc), _number(found.loss))
    if found.log_loss_batch is not None:
        table.add_row("state of last night", _number(found.auc_batch), _number(found.log_loss_batch))
    if found.served_difference is not None:
        table.add_row("as served", _number(found.served_auc), _number(found.served_loss))
        table.caption = f"served and offline predictions differ by at most {found.served_difference:.2g}"
    return table


def _number(value: float | None) -> str:
    return "-" if _is_none(value) else f"{value:.4f}"


def _is_none(value: float | None) -> bool:
    return value is None or math.isnan(value)
