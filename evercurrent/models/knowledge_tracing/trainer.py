"""Trains knowledge tracing offline by unrolling its online steps.

Learners are replayed side by side from the initial state, and the loss of their predictions is differentiated through
the steps that led to them: through each step's own gradient too. The model writes that out, so plain backpropagation
is of second order. After `window_events` steps the state is kept and its history cut off (truncated backpropagation
through time). What is trained is thus how to learn online: embeddings, initial state, step sizes, gates and decay.

What is kept is a running average of the weights, from the epoch that predicts held-out learners best. Test users are
never trained on nor chosen by. One seed gives one result on one machine: all is drawn from it, on one torch thread.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor, nn
from torch.nn import functional

from evercurrent.models.knowledge_tracing.data import EventLog, Ints, split_users
from evercurrent.models.knowledge_tracing.evaluate import Scores, ids_of, replay
from evercurrent.models.knowledge_tracing.model import UNKNOWN, KnowledgeTracing, Reading, embedding_penalty
from evercurrent.models.loading import save_model

WEIGHTS_FILE, METRICS_FILE, IDS_FILE = "weights.safetensors", "metrics.json", "ids.json"


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
    unknown_item_rate: float = 0.1
    """Share of events whose item is hidden, so that the skill alone must do, as for items not seen in training."""
    item_penalty: float = 5.0
    item_bias_penalty: float = 0.05


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained model, the files that it was written to, and its scores.

    `test` is None when there were no test users.
    """

    model: KnowledgeTracing
    weights: Path
    ids: Path
    metrics: Path
    epochs: int
    train_s: float
    validation: Scores
    test: Scores | None


def train(
    log: EventLog,
    out: Path,
    *,
    seed: int = 0,
    test_users: Collection[str] = (),
    settings: TrainerSettings | None = None,
    console: Console | None = None,
) -> Trained:
    """Trains on all users but `test_users` and writes weights, ids and metrics into `out`, which is made if need be.

    The model has a row for every id of the whole log, those that only test users met included. Progress is shown on
    `console`. Raises LogError when too few users are left, OSError when `out` cannot be written.
    """
    settings = settings or TrainerSettings()
    out.mkdir(parents=True, exist_ok=True)
    to_train, to_test = split_users(log, test_users, seed=seed) if test_users else (log, None)
    to_fit, to_validate = split_users(to_train, test_fraction=settings.validation_fraction, seed=seed)
    with _one_thread():
        begun = time.perf_counter()
        training = _Training(to_fit, to_validate, settings, seed)
        epochs, validation = training.run(console)
        train_s = time.perf_counter() - begun
        test = replay(training.model, to_test).scores() if to_test is not None else None
    trained = Trained(
        model=training.model,
        weights=out / WEIGHTS_FILE,
        ids=out / IDS_FILE,
        metrics=out / METRICS_FILE,
        epochs=epochs,
        train_s=train_s,
        validation=validation,
        test=test,
    )
    _write(trained, log, seed)
    return trained


def _write(trained: Trained, log: EventLog, seed: int) -> None:
    save_model(trained.model, trained.weights)
    log.ids.save(trained.ids)
    metrics: dict[str, object] = {"seed": seed, "epochs": trained.epochs, "train_s": round(trained.train_s, 3)}
    for part, scores in (("validation", trained.validation), ("test", trained.test)):
        if scores is not None:
            metrics |= {f"{part}_{name}": value for name, value in dataclasses.asdict(scores).items()}
    trained.metrics.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")


class _Training:
    """One run: the model, its optimizer, its running average, the learners to fit."""

    def __init__(self, to_fit: EventLog, to_validate: EventLog, settings: TrainerSettings, seed: int) -> None:
        self._log = to_fit
        self._learners = to_fit.by_user()
        self._to_validate = to_validate
        self._settings = settings
        self._rng = np.random.default_rng(seed)
        self.model = KnowledgeTracing(num_items=to_fit.ids.num_items, num_skills=to_fit.ids.num_skills)
        self.model.initialise(torch.Generator().manual_seed(seed))
        self._average = _copied(self.model)
        self._optimizer = torch.optim.Adam(self.model.parameters(), lr=settings.learning_rate, fused=True)

    def run(self, console: Console | None) -> tuple[int, Scores]:
        """Trains until held-out learners are predicted no better; leaves the best weights in the model and gives the
        number of epochs and the best scores."""
        best: Scores | None = None
        best_weights, best_epoch, epoch = _copied_weights(self._average), 0, 0
        with _progress(console) as progress:
            bar = progress.add_task("training", total=self._settings.epochs_max * len(self._learners), scores="")
            for epoch in range(1, self._settings.epochs_max + 1):
                for batch in self._batches():
                    self._fit(batch)
                    progress.advance(bar, len(batch))
                scores = self._validate()
                if best is None or scores.log_loss_continuous < best.log_loss_continuous:
                    best, best_weights, best_epoch = scores, _copied_weights(self._average), epoch
                progress.update(bar, scores=f"held-out AUC {scores.auc_continuous:.4f} after {epoch} epochs")
                if epoch - best_epoch >= self._settings.patience_epochs:
                    progress.update(bar, total=epoch * len(self._learners))
                    break
        assert best is not None, "epochs_max is at least 1"
        self.model.load_state_dict(best_weights)
        self.model.eval().requires_grad_(False)
        return epoch, best

    def _batches(self) -> Iterator[list[Ints]]:
        """Learners of about the same length together, in random order."""
        jitter = self._rng.uniform(0.8, 1.25, len(self._learners))
        order = np.argsort([len(places) * factor for places, factor in zip(self._learners, jitter, strict=True)])
        size = self._settings.batch_users
        starts = range(0, len(order), size)
        for number in self._rng.permutation(len(starts)):
            yield [self._learners[learner] for learner in order[starts[number] : starts[number] + size]]

    def _fit(self, batch: list[Ints]) -> None:
        """One optimizer step for each window of these learners' events; who has no more events leaves."""
        lengths_B = np.array([places.size for places in batch])
        state_BS = self.model.initial_S.repeat(len(batch), 1)
        for start in range(0, int(lengths_B.max()), self._settings.window_events):
            stays_B = lengths_B > start
            batch = [places for places, stays in zip(batch, stays_B, strict=True) if stays]
            lengths_B = lengths_B[stays_B]
            state_BS = state_BS[torch.from_numpy(stays_B)]
            window = [places[start : start + self._settings.window_events] for places in batch]
            state_BS = self._fit_window(state_BS, window).detach()

    def _fit_window(self, state_BS: Tensor, window: list[Ints]) -> Tensor:
        ids_TB2, outcome_TB, has_TB = self._padded(window)
        state_BS, logit_TB = unroll(self.model, state_BS, ids_TB2, outcome_TB, has_TB)
        penalties = (self._settings.item_penalty, self._settings.item_bias_penalty)
        loss_TB = functional.binary_cross_entropy_with_logits(logit_TB, outcome_TB, reduction="none")
        loss_TB = (loss_TB + embedding_penalty(self.model, ids_TB2, penalties)) * has_TB
        # A fixed divisor, about the mean number of events, so that a window of few learners weighs little.
        loss = 4 * loss_TB.sum() / (self._settings.batch_users * self._settings.window_events)
        self._optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self._settings.gradient_norm_max)
        self._optimizer.step()
        self._settle()
        return state_BS

    @torch.no_grad()
    def _settle(self) -> None:
        """Holds what was never seen at zero and moves the running average."""
        self.model.item_table[UNKNOWN] = 0.0
        self.model.skill_table[UNKNOWN] = 0.0
        for average, current in zip(self._average.parameters(), self.model.parameters(), strict=True):
            average.lerp_(current, 1 - self._settings.average_decay)

    def _padded(self, window: list[Ints]) -> tuple[Tensor, Tensor, Tensor]:
        """Ids, outcomes and which are real [T, B], some items hidden."""
        shape = (max(places.size for places in window), len(window))
        place_TB, has_TB = np.zeros(shape, np.int64), np.zeros(shape, np.float32)
        for learner, places in enumerate(window):
            place_TB[: places.size, learner] = places
            has_TB[: places.size, learner] = 1.0
        ids_TB2 = ids_of(self._log, place_TB)
        hidden_TB = self._rng.random(shape) < self._settings.unknown_item_rate
        ids_TB2[..., 0].masked_fill_(torch.from_numpy(hidden_TB), UNKNOWN)
        return ids_TB2, torch.from_numpy(self._log.outcome_N[place_TB]), torch.from_numpy(has_TB)

    def _validate(self) -> Scores:
        return replay(self._average, self._to_validate).scores()


def unroll(
    model: KnowledgeTracing, state_BS: Tensor, ids_TB2: Tensor, outcome_TB: Tensor, has_TB: Tensor
) -> tuple[Tensor, Tensor]:
    """The rows after T online steps and the log-odds [T, B] predicted on the way, differentiable in all weights."""
    parts = [part.unflatten(0, outcome_TB.shape) for part in model.read(ids_TB2.flatten(0, 1))]
    weights, logits = model.weights(), []
    for t in range(len(outcome_TB)):
        reading = Reading(*(part[t] for part in parts))
        answer = model.answer(state_BS, reading, weights)
        residual_B = (outcome_TB[t] - answer.logit_B.sigmoid()) * has_TB[t]
        slope_BS = model.slope(answer, reading, weights)
        state_BS = model.step(state_BS, reading, answer, slope_BS, residual_B, has_TB[t], weights)
        logits.append(answer.logit_B)
    return state_BS, torch.stack(logits)


def _copied(model: KnowledgeTracing) -> KnowledgeTracing:
    """A copy to average into. It stays in training mode: its weights move, so nothing of them may be folded."""
    copied = KnowledgeTracing(**model.config())  # type: ignore[arg-type]
    copied.load_state_dict(model.state_dict())
    return copied.requires_grad_(False)


def _copied_weights(model: KnowledgeTracing) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def _progress(console: Console | None) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("learners"),
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
