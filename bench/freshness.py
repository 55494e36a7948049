"""Bench `freshness`: what it is worth that the state knows the last event.

The answers of users whom training never saw are predicted one by one, each by the user's state as it is, by what it was
some events ago, at the session's start, and at the last night; the state itself learns from every answer all the same.
So the only difference is how old what predicts is. Each seed trains anew, on other users where none are named for
testing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray

from bench.report import Metric
from bench.run import Watch, WrongReplyError
from evercurrent.metrics import auc, log_loss
from evercurrent.model import Model
from evercurrent.models.adaptive import (
    EventLog,
    LogError,
    TrainerSettings,
    batch_of,
    log_name,
    read_test_users,
    split_users,
)
from evercurrent.models.adaptive.data import Floats
from evercurrent.models.knowledge_tracing import read_log, train

LAGS = (0, 1, 10, 100)
QUICK = TrainerSettings(epochs_max=2)


def measure(
    watch: Watch,
    data: Path,
    test_users: Path | None,
    num_seeds: int,
    session_events: int,
    night_events: int,
    plot: Path | None,
    quick: bool,
) -> tuple[Metric, ...]:
    """Train once a seed, and score.

    Raises:
        WrongReplyError: the log cannot be used.
    """
    try:
        log = read_log(data)
        named = None if test_users is None else read_test_users(test_users, log_name(data))
        by_seed = []
        with watch.stage("train and replay, by seed", num_seeds) as advance:
            for seed in range(num_seeds):
                by_seed.append(_scored(log, named, seed, session_events, night_events, quick))
                advance()
    except LogError as error:
        raise WrongReplyError(str(error)) from error
    if plot is not None:
        _plot(by_seed, plot, data)
    return (
        Metric("seeds", num_seeds, "each trains anew; below, medians of them, with the least and the greatest"),
        Metric("session_events", session_events, "events of a user that make a session"),
        Metric("night_events", night_events, "after so many of a user a night falls"),
        *_metrics(by_seed),
    )


def lagged(
    model: Model, log: EventLog, lags: Sequence[int], session_events: int, night_events: int
) -> dict[str, Floats]:
    """The predictions [N] of a log's events by states of different age: `lag_L` is L events old, or the initial one;
    `session` as it was when the user's session began, `nightly` at the last night."""
    by_user = sorted(log.by_user(), key=len, reverse=True)
    lengths = np.array([places.size for places in by_user])
    names = [*(f"lag_{lag}" for lag in lags), "session", "nightly"]
    found = {name: np.empty(len(log), np.float32) for name in names}
    state_BD = model.initial_state().repeat(len(by_user), 1)
    history = deque([state_BD], maxlen=max(lags) + 1)
    cuts = {"session": (session_events, state_BD), "nightly": (night_events, state_BD)}
    with torch.no_grad():
        for t in range(int(lengths.max(initial=0))):
            num_active = int(np.searchsorted(-lengths, -t, side="left"))
            place_B = np.array([places[t] for places in by_user[:num_active]])
            batch = batch_of(log, place_B)
            aged = {f"lag_{lag}": history[max(0, len(history) - 1 - lag)] for lag in lags}
            for name, (every, frozen_BD) in cuts.items():
                aged[name] = frozen_BD = history[-1] if t % every == 0 else frozen_BD
                cuts[name] = (every, frozen_BD)
            for name, old_BD in aged.items():
                found[name][place_B] = model.readout(model.predict(old_BD[:num_active], batch))[:, 0].numpy()
            history.append(model.update(history[-1][:num_active], batch).state_BD)
    return found


def _scored(
    log: EventLog,
    test_users: Collection[str] | None,
    seed: int,
    session_events: int,
    night_events: int,
    quick: bool,
) -> Mapping[str, tuple[float, float]]:
    """AUC and log loss by age, of the users whom this seed does not train on."""
    _, testing = split_users(log, test_users, seed=seed)
    labels = {log.users[user] for user in testing.active_users.tolist()}
    with TemporaryDirectory(prefix="evercurrent-bench-") as folder:
        settings = QUICK if quick else None
        model = train(log, Path(folder), seed=seed, test_users=labels, settings=settings).model.eval()
    predictions = lagged(model, testing.stream(), LAGS, session_events, night_events)
    outcome_N = testing.stream().outcome_N
    return {name: (auc(outcome_N, each), log_loss(outcome_N, each)) for name, each in predictions.items()}


def _metrics(by_seed: Sequence[Mapping[str, tuple[float, float]]]) -> list[Metric]:
    meanings = {
        **{f"lag_{lag}": f"by the state of {lag} events before" for lag in LAGS},
        "lag_0": "by the state as it is",
        "session": "by the state as it was when the session began",
        "nightly": "by the state of the last night",
    }
    metrics = []
    for at, score in enumerate(("auc", "log_loss")):
        for name, meaning in meanings.items():
            metrics += _spread(f"{score}_{name}", [scores[name][at] for scores in by_seed], meaning)
    gains = [scores["lag_0"][0] - scores["nightly"][0] for scores in by_seed]
    return [*metrics, *_spread("freshness_auc", gains, "what fresh state is worth: AUC as it is less that of a night")]


def _spread(name: str, values: Sequence[float], meaning: str) -> list[Metric]:
    return [
        Metric(name, float(np.median(values)), meaning),
        Metric(f"{name}_lo", min(values), "the least of the seeds"),
        Metric(f"{name}_hi", max(values), "the greatest"),
    ]


def _plot(by_seed: Sequence[Mapping[str, tuple[float, float]]], path: Path, data: Path) -> None:
    """AUC by age, with every seed."""
    from matplotlib.figure import Figure

    names = list(by_seed[0])
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    auc_SA: NDArray[np.float64] = np.array([[scores[name][0] for name in names] for scores in by_seed])
    places, num_lags = np.arange(len(names)), len(LAGS)
    for auc_A in auc_SA:
        axes.plot(places[:num_lags], auc_A[:num_lags], color="#9aa3b2", linewidth=0.8)
        axes.plot(places, auc_A, ".", color="#9aa3b2", markersize=4)
    median_A = np.median(auc_SA, axis=0)
    axes.plot(places[:num_lags], median_A[:num_lags], color="#2f6fde", linewidth=2)
    axes.plot(places, median_A, "o", color="#2f6fde", label="median of seeds")
    for place, value in zip(places, median_A, strict=True):
        axes.annotate(f"{value:.3f}", (place, value), xytext=(8, 6), textcoords="offset points")
    axes.set(ylabel="AUC of the next answer", title=f"How old what predicts may be: {log_name(data)}, users unseen")
    axes.set_xticks(places, [name.replace("_", " ") for name in names])
    axes.margins(x=0.1)
    axes.legend()
    figure.savefig(path, dpi=130)
