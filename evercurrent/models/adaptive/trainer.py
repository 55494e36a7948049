"""Trains a model of the family offline by unrolling its online steps.

Users are replayed side by side from the initial state, and the loss of their predictions is differentiated through the
steps that led to them: through each step's own gradient too. The model writes that out, so plain backpropagation is of
second order. After `window_events` steps the state is kept and its history cut off (truncated backpropagation through
time). What is trained is thus how to learn online: embeddings, initial state, step sizes, gates and decay.

What is kept is a running average of the weights, from the epoch that predicts held-out users best. Test users are never
trained on nor chosen by. One seed gives one result on one machine: all is drawn from it, on one torch thread.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor, nn

from evercurrent.models.adaptive.curves import plot_curves
from evercurrent.models.adaptive.data import EventLog, Ints, LogError, split_users
from evercurrent.models.adaptive.model import UNKNOWN, Adaptive
from evercurrent.models.adaptive.replay import predicts_probability, replay
from evercurrent.models.adaptive.unrolling import Window, unroll
from evercurrent.models.loading import save_model

WEIGHTS_FILE, METRICS_FILE, IDS_FILE, CURVES_FILE = "weights.safetensors", "metrics.json", "ids.json", "curves.png"

M = TypeVar("M", bound=Adaptive)

Vary = Callable[[EventLog, np.random.Generator], EventLog]
"""Gives a log that might as well have been: the same events and users in the same places, with other ids, features or
outcomes. What a use is indifferent to (names turned round, a mirror image) need not be learned from examples."""


@dataclass(frozen=True, slots=True)
class Penalty:
    """What keeps the rows of a table near zero that are rarely seen: a weight on the square of an id's embedding, and
    on that of its bias, as much for an id that is seen once as for one that is seen often: a normal prior, of variance
    1 / (2 weight)."""

    embedding: float
    bias: float


@dataclass(frozen=True, slots=True)
class TrainerSettings:
    """How to train. The defaults suit logs of 50,000 to a million events."""

    epochs_max: int = 30
    patience_epochs: int = 4
    batch_users: int = 128
    window_events: int = 50
    learning_rate: float = 2e-3
    gradient_norm_max: float = 5.0
    average_decay: float = 0.98
    validation_fraction: float = 0.1
    hidden_rates: Mapping[str, float] = field(default_factory=dict)
    """By id field: the share of events whose id is hidden, so that the others alone must do, as for ids that training
    has not seen."""
    penalties: Mapping[str, Penalty] = field(default_factory=dict)
    """By id field."""
    weight_decay: float = 0.0
    """Of all weights but tables, at each optimizer step, as a share of the learning rate (AdamW)."""
    warm_up_events: int = 0
    """So many events at each user's beginning are learned from and not scored."""
    meets_once: bool = False
    """Of a ranking: what a user met does not come again, so an item is compared with those alone that were still to be
    met. Else part of what is learned is that popular items are soon behind one."""


@dataclass(frozen=True, slots=True)
class Trained(Generic[M]):
    """A trained model, the files that it was written to, and its scores by name.

    `test` is None when there were no test users, `curves` without the extra `plot`.
    """

    model: M
    weights: Path
    ids: Path
    metrics: Path
    curves: Path | None
    epochs: int
    train_s: float
    validation: Mapping[str, float]
    test: Mapping[str, float] | None


def train(
    make: Callable[[Mapping[str, int]], M],
    log: EventLog,
    out: Path,
    *,
    seed: int = 0,
    test_users: Collection[str] = (),
    validation_users: Collection[str] | None = None,
    settings: TrainerSettings | None = None,
    vary: Vary | None = None,
    console: Console | None = None,
) -> Trained[M]:
    """Trains on all users but `test_users` and writes weights, ids, metrics and curves into `out`, which is made if
    need be. `make` builds the untrained model for id fields of these sizes. The epoch that is kept is chosen by
    `validation_users`; by default they are drawn. With `vary`, each epoch is of a variation of the users fitted; those
    held out stay as they are.

    The model has a row for every id of the whole log, those that only test users met included. Progress is shown on
    `console`. Raises LogError when too few users are left or training diverges, OSError when `out` cannot be written.
    """
    settings = settings or TrainerSettings()
    out.mkdir(parents=True, exist_ok=True)
    to_train, to_test = split_users(log, test_users, seed=seed) if test_users else (log, None)
    to_fit, to_validate = split_users(to_train, validation_users, test_fraction=settings.validation_fraction, seed=seed)
    with _one_thread():
        begun = time.perf_counter()
        training = _Training(make(log.ids.sizes), to_fit, to_validate, settings, seed, vary)
        epochs = training.run(console)
        train_s = time.perf_counter() - begun
        model = training.model
        validation = {"loss": min(training.held_out), **scores_of(model, to_validate)}
        test = None
        if to_test is not None:
            test = {"loss": held_out_loss(model, to_test, settings), **scores_of(model, to_test)}
    trained = Trained(
        model=model,
        weights=out / WEIGHTS_FILE,
        ids=out / IDS_FILE,
        metrics=out / METRICS_FILE,
        curves=out / CURVES_FILE if plot_curves(training.fitted, training.held_out, out / CURVES_FILE) else None,
        epochs=epochs,
        train_s=train_s,
        validation=validation,
        test=test,
    )
    save_model(model, trained.weights)
    log.ids.save(trained.ids)
    metrics: dict[str, object] = {"seed": seed, "epochs": epochs, "train_s": round(train_s, 3)}
    for part, scores in (("validation", validation), ("test", test)):
        metrics |= {f"{part}_{name}": value for name, value in (scores or {}).items()}
    trained.metrics.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    return trained


def scores_of(model: Adaptive, log: EventLog) -> dict[str, float]:
    """How well a log is predicted event by event, as served: AUC and log loss of a probability, by a state as it is and
    by one that stands still between nights; of others their mean loss in both."""
    replayed = replay(model, log)
    if predicts_probability(model):
        return dataclasses.asdict(replayed.scores())
    return {"updates": len(log), "users": log.active_users.size, "step_loss": float(replayed.loss_N.mean())}


class _Training(Generic[M]):
    """One run: the model, its optimizer, its running average, the users to fit, the losses of its epochs."""

    def __init__(
        self,
        model: M,
        to_fit: EventLog,
        to_validate: EventLog,
        settings: TrainerSettings,
        seed: int,
        vary: Vary | None = None,
    ) -> None:
        self._to_fit, self._vary = to_fit, vary
        self._windows = Windows(to_fit)
        self._to_validate = to_validate
        self._settings = settings
        self._counts = [
            torch.from_numpy(np.bincount(id_N, minlength=field.size)).clamp_min(1)
            for field, id_N in zip(model.observation.ids, to_fit.ids_NK.T, strict=True)
        ]
        self._rng = np.random.default_rng(seed)
        self.model = model
        self.model.initialise(torch.Generator().manual_seed(seed))
        self._average = _copied(self.model)
        tables = set(model.tables)
        rest = [weight for weight in model.parameters() if weight.requires_grad and weight not in tables]
        groups: list[dict[str, Any]] = [{"params": list(model.tables), "weight_decay": 0.0}, {"params": rest}]
        self._optimizer = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        self.fitted: list[float] = []
        self.held_out: list[float] = []

    def run(self, console: Console | None) -> int:
        """Trains until held-out users are predicted no better; leaves the best weights in the model and gives the
        number of epochs."""
        best_weights: dict[str, Tensor] = {}
        best_epoch = epoch = 0
        num_users = len(self._windows.users)
        with _progress(console) as progress:
            bar = progress.add_task("training", total=self._settings.epochs_max * num_users, scores="")
            for epoch in range(1, self._settings.epochs_max + 1):
                losses = []
                if self._vary is not None:
                    self._windows = Windows(self._vary(self._to_fit, self._rng))
                for users in self._batches():
                    losses += self._fit(users)
                    progress.advance(bar, len(users))
                self.fitted.append(float(np.sum([loss for loss, _ in losses]) / np.sum([num for _, num in losses])))
                self.held_out.append(held_out_loss(self._average, self._to_validate, self._settings))
                if not math.isfinite(self.held_out[-1]):
                    raise LogError(f"training diverged in epoch {epoch}: are numbers and outcomes of about unit size?")
                if self.held_out[-1] <= min(self.held_out):
                    best_weights, best_epoch = _copied_weights(self._average), epoch
                progress.update(bar, scores=f"held-out loss {self.held_out[-1]:.4f} after {epoch} epochs")
                if epoch - best_epoch >= self._settings.patience_epochs:
                    progress.update(bar, total=epoch * num_users)
                    break
        self.model.load_state_dict(best_weights)
        self.model.eval().requires_grad_(False)
        return epoch

    def _batches(self) -> Iterator[list[int]]:
        """Users of about the same length together, in random order."""
        lengths = np.array([places.size for places in self._windows.users])
        order = np.argsort(lengths * self._rng.uniform(0.8, 1.25, lengths.size))
        size = self._settings.batch_users
        starts = range(0, len(order), size)
        for number in self._rng.permutation(len(starts)):
            yield order[starts[number] : starts[number] + size].tolist()

    def _fit(self, users: list[int]) -> list[tuple[float, float]]:
        """One optimizer step for each window of these users' events; who has no more events leaves. The sums of losses
        and how many they are of."""
        vector_BS = self.model.initial_S.repeat(len(users), 1)
        sums = []
        for window, weight_TB, stays_B in self._windows.of(users, self._settings):
            vector_BS, fitted, counted = self._fit_window(vector_BS[stays_B], self._hidden(window), weight_TB)
            vector_BS = vector_BS.detach()
            sums.append((fitted, counted))
        return sums

    def _fit_window(self, vector_BS: Tensor, window: Window, weight_TB: Tensor) -> tuple[Tensor, float, float]:
        vector_BS, loss_TB = _losses(self.model, vector_BS, window)
        fitted = (loss_TB * weight_TB).sum()
        loss = fitted
        for at, spec in enumerate(self.model.observation.ids):
            penalty = self._settings.penalties.get(spec.name)
            if penalty is not None:
                row = nn.functional.embedding(window.ids_TBK[..., at], self.model.tables[at])
                size = self.model.embedding_size
                squares_TB = penalty.embedding * row[..., :size].square().sum(-1)
                squares_TB = squares_TB + penalty.bias * row[..., size:].square().sum(-1)
                loss = loss + (squares_TB * weight_TB / self._counts[at][window.ids_TBK[..., at]]).sum()
        # A fixed divisor, about the mean number of events, so that a window of few users weighs little.
        loss = 4 * loss / (self._settings.batch_users * self._settings.window_events)
        self._optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self._settings.gradient_norm_max)
        self._optimizer.step()
        self._settle()
        return vector_BS, float(fitted.detach()), float(weight_TB.sum())

    @torch.no_grad()
    def _settle(self) -> None:
        """Holds what was never seen at zero and moves the running average."""
        for table in self.model.tables:
            table[UNKNOWN] = 0.0
        for average, current in zip(self._average.parameters(), self.model.parameters(), strict=True):
            average.lerp_(current, 1 - self._settings.average_decay)

    def _hidden(self, window: Window) -> Window:
        """With some ids hidden."""
        shape = window.is_event_TB.shape
        for at, spec in enumerate(self.model.observation.ids):
            rate = self._settings.hidden_rates.get(spec.name, 0.0)
            if rate:
                hidden_TB = torch.from_numpy(self._rng.random(shape) < rate)
                window.ids_TBK[..., at].masked_fill_(hidden_TB, UNKNOWN)
        return window


class Windows:
    """The events of a log's users, side by side and piece by piece."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._gap_N = log.gaps_s()
        self.users = log.by_user()

    def of(self, users: Sequence[int], settings: TrainerSettings) -> Iterator[tuple[Window, Tensor, Tensor]]:
        """Windows of these users' events, one after the other; the weight of each event, 0 or 1; and which of the users
        of the window before are still there."""
        events = [self.users[user] for user in users]
        for start in range(0, max(places.size for places in events), settings.window_events):
            stays_B = np.array([places.size > start for places in events])
            events = [places for places, stays in zip(events, stays_B, strict=True) if stays]
            window = [places[start : start + settings.window_events] for places in events]
            place_TB, is_event_TB = _padded(window)
            counts_TB = is_event_TB & (np.arange(start, start + len(place_TB))[:, None] >= settings.warm_up_events)
            met_TBI = self._met(events, np.arange(start, start + len(place_TB))) if settings.meets_once else None
            at_TB = self._at(place_TB, is_event_TB, met_TBI)
            yield at_TB, torch.from_numpy(counts_TB.astype(np.float32)), _kept(stays_B)

    def _met(self, events: Sequence[Ints], time_T: Ints) -> Tensor:
        """Which ids [T, B, I] of the first field users met before their events number `time_T`."""
        ids_NK, size = self._log.ids_NK, next(iter(self._log.ids.sizes.values()))
        first_BI = np.full((len(events), size), np.iinfo(np.int64).max)
        for first_I, places in zip(first_BI, events, strict=True):
            first_I[ids_NK[places[::-1], 0]] = np.arange(places.size)[::-1]
        return torch.from_numpy(first_BI < time_T[:, None, None])

    def _at(self, place_TB: Ints, is_event_TB: np.typing.NDArray[np.bool_], met_TBI: Tensor | None) -> Window:
        log = self._log
        return Window(
            ids_TBK=torch.from_numpy(log.ids_NK[place_TB]),
            features_TBF=torch.from_numpy(log.features_NF[place_TB]),
            gap_TB=torch.from_numpy(self._gap_N[place_TB]),
            outcome_TB=torch.from_numpy(log.outcome_N[place_TB]),
            is_event_TB=torch.from_numpy(is_event_TB),
            met_TBI=met_TBI,
        )


def _padded(window: Sequence[Ints]) -> tuple[Ints, np.typing.NDArray[np.bool_]]:
    """Places [T, B], and which are real; the others repeat the user's first."""
    shape = (max(places.size for places in window), len(window))
    place_TB, is_event_TB = np.empty(shape, np.int64), np.zeros(shape, np.bool_)
    for user, places in enumerate(window):
        place_TB[:, user] = places[0]
        place_TB[: places.size, user] = places
        is_event_TB[: places.size, user] = True
    return place_TB, is_event_TB


def _kept(stays_B: np.typing.NDArray[np.bool_]) -> Tensor:
    return torch.from_numpy(np.flatnonzero(stays_B))


def _losses(model: Adaptive, vector_BS: Tensor, window: Window) -> tuple[Tensor, Tensor]:
    """The vectors after a window, and the losses [T, B] of what was predicted on the way."""
    unrolled = unroll(model, vector_BS, window)
    loss_N = model.fit_loss(
        unrolled.vector_TBS.flatten(0, 1),
        unrolled.output_TBP.flatten(0, 1),
        window.ids_TBK.flatten(0, 1),
        window.outcome_TB.flatten(),
        None if window.met_TBI is None else window.met_TBI.flatten(0, 1),
    )
    return unrolled.vector_BS, loss_N.unflatten(0, window.is_event_TB.shape)


@torch.no_grad()
def held_out_loss(model: Adaptive, log: EventLog, settings: TrainerSettings) -> float:
    """The mean loss of a log's events, each predicted before it is learned from."""
    windows, total, count = Windows(log), 0.0, 0.0
    order = np.argsort([places.size for places in windows.users]).tolist()
    for start in range(0, len(order), settings.batch_users):
        users = order[start : start + settings.batch_users]
        vector_BS = model.initial_S.repeat(len(users), 1)
        for window, weight_TB, stays_B in windows.of(users, settings):
            vector_BS, loss_TB = _losses(model, vector_BS[stays_B], window)
            total += float((loss_TB * weight_TB).sum())
            count += float(weight_TB.sum())
    return total / max(count, 1.0)


def _copied(model: M) -> M:
    """A copy to average into. It stays in training mode: its weights move, so nothing of them may be folded."""
    build: Callable[..., M] = type(model)
    copied = build(**model.config())
    copied.load_state_dict(model.state_dict())
    copied.requires_grad_(False)
    return copied


def _copied_weights(model: Adaptive) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def _progress(console: Console | None) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("users"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[scores]}"),
        console=console,
        disable=console is None,
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    """More threads gain nothing on tensors this small, and would change the order of sums."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
