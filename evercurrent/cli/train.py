"""`evercurrent train`: weights from an event log."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from evercurrent.cli.errors import CommandError
from evercurrent.models.knowledge_tracing import LogError, read_log, read_test_users, train
from evercurrent.models.knowledge_tracing.data import log_name


def train_on_log(data: Path, out: Path, test_users: Path | None) -> None:
    """Trains, writes the weights and what belongs to them, and says how well held-out users are predicted."""
    console = Console()
    try:
        log = read_log(data)
        labels = read_test_users(test_users, log_name(data)) if test_users is not None else ()
        trained = train(log, out, test_users=labels, console=console)
    except LogError as error:
        raise CommandError(str(error)) from error
    name, scores = ("validation", trained.validation) if trained.test is None else ("test", trained.test)
    console.print(
        f"{scores.users} {name} users, {scores.updates} answers: "
        f"AUC {scores.auc_continuous:.4f} continuous, {scores.auc_batch:.4f} batch\n"
        f"Wrote {trained.weights}, {trained.ids.name}, {trained.metrics.name}. "
        f"Serve it: evercurrent up --weights {trained.weights}",
        soft_wrap=True,
    )
