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
from evercurrent.client import EvercurrentError, Tls, connect
from evercurrent.metrics import auc, log_loss
from evercurrent.models.knowledge_tracing.data import EventLog, Floats, Ids, LogError, read_log, read_test_users
from evercurrent.models.knowledge_tracing.data import log_name as name_of
from evercurrent.models.knowledge_tracing.evaluate import replay
from evercurrent.models.knowledge_tracing.model import KnowledgeTracing
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
    """How well N events were predicted; log losses in nats. `batch`: by states that stand still between nights. Of a
    service: how well it predicted, and by how much at most otherwise than the model here."""

    events: int
    users: int
    auc: float
    log_loss: float
    auc_batch: float
    log_loss_batch: float
    served_auc: float | None = None
    served_log_loss: float | None = None
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
        log = read_log(data, None if ids is None else Ids.load(ids))
        if test_users is not None:
            labels = read_test_users(test_users, name_of(data))
            log = log.of_users([user for user, label in enumerate(log.users) if label in labels])
    except (LogError, ModelLoadError) as error:
        raise CommandError(str(error)) from error
    if not isinstance(model, KnowledgeTracing):
        raise CommandError(f"{model_name} is no model of a log of answers: knowledge-tracing and its like are")
    sizes = [field.size for field in model.observation.ids]
    if len(log) == 0 or log.item_N.max() >= sizes[0] or log.skill_N.max() >= sizes[1]:
        raise CommandError(f"{data} has no events, or items and skills that {model_name} does not know: give its --ids")
    log = log.stream()
    replayed = replay(model, log)
    scores = replayed.scores()
    found = Evaluation(
        len(log),
        scores.users,
        scores.auc_continuous,
        scores.log_loss_continuous,
        scores.auc_batch,
        scores.log_loss_batch,
    )
    if service is not None:
        try:
            served_N = asyncio.run(serve(service, log, Console(stderr=True)))
        except* EvercurrentError as group:
            raise CommandError(f"{service.address}: {group.exceptions[0]}") from group
        found = replace(
            found,
            served_auc=auc(log.outcome_N, served_N),
            served_log_loss=log_loss(log.outcome_N, served_N),
            served_difference=float(np.abs(served_N - replayed.continuous_N).max()),
        )
    console.print(found.json() if as_json else _table(found), soft_wrap=True)
    if found.served_difference is not None and not found.served_difference <= AGREEMENT:
        raise CommandError(
            f"the service predicts otherwise than {model_name} here, by up to {found.served_difference:.2g}: "
            "does it serve these weights?"
        )


async def serve(service: Service, log: EventLog, console: Console) -> Floats:
    """What a service predicts [N] for a log's events, sent in their order for users that nobody else has.

    Raises:
        EvercurrentError: it cannot be reached, or refuses an event.
    """
    run = str(ULID()).lower()
    served_N = np.empty(len(log), np.float32)
    columns = (log.user_N.tolist(), log.item_N.tolist(), log.skill_N.tolist(), log.outcome_N.tolist())
    events = [
        {"user_id": f"evaluate-{run}/{log.users[user]}", "ids": (item, skill), "outcome": outcome}
        for user, item, skill, outcome in zip(*columns, strict=True)
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
                    (served_N[at],) = result.raise_for_rejection().prediction
                progress.update(bar, completed=start + len(results))
    return served_N


def _table(found: Evaluation) -> Table:
    table = Table(title=f"{found.events:,} events of {found.users:,} users, each predicted before it is learned from")
    for column in ("", "AUC", "log loss"):
        table.add_column(column, justify="left" if not column else "right")
    table.add_row("state as it is", _number(found.auc), _number(found.log_loss))
    table.add_row("state of last night", _number(found.auc_batch), _number(found.log_loss_batch))
    if found.served_difference is not None:
        table.add_row("as served", _number(found.served_auc), _number(found.served_log_loss))
        table.caption = f"served and offline predictions differ by at most {found.served_difference:.2g}"
    return table


def _number(value: float | None) -> str:
    return "-" if _is_none(value) else f"{value:.4f}"


def _is_none(value: float | None) -> bool:
    return value is None or math.isnan(value)
