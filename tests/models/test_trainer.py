"""Training on small simulated logs, and on a real one where its path is given."""

from __future__ import annotations

import dataclasses
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from rich.console import Console

from evercurrent.models.adaptive import (
    Adaptive,
    EventLog,
    Ids,
    LogError,
    Ranking,
    TrainerSettings,
    batch_of,
    log_name,
    read_test_users,
    replay,
    split_users,
)
from evercurrent.models.adaptive import train as train_family
from evercurrent.models.knowledge_tracing import KnowledgeTracing, World, read_log, simulate, train
from evercurrent.models.loading import load_model

# Read before any test begins: tests run without the variables that are settings of ours by their prefix.
DATA = os.environ.get("EVENT_LOGS_DIR")
QUICK = TrainerSettings(epochs_max=6, batch_users=32, window_events=20)
TEST_USERS = frozenset(f"learner-1-{user}" for user in range(0, 160, 8))


@pytest.fixture(scope="module")
def log() -> EventLog:
    return simulate(World.draw(num_items=24, num_skills=6, seed=1), num_users=160, num_events=45, seed=1)


def test_training_improves_on_untrained_weights(log: EventLog, tmp_path: Path) -> None:
    trained = train(log, tmp_path / "new" / "folder", seed=3, test_users=TEST_USERS, settings=QUICK)
    untrained = KnowledgeTracing(log.ids.sizes["item"], log.ids.sizes["skill"])
    untrained.initialise(torch.Generator().manual_seed(3))
    test_log = split_users(log, TEST_USERS)[1]
    before = replay(untrained.eval().requires_grad_(False), test_log).scores()
    assert trained.test is not None
    assert trained.test["users"] == 20
    assert trained.test["log_loss_continuous"] < before.log_loss_continuous - 0.02
    assert trained.test["auc_continuous"] > before.auc_continuous + 0.02
    loaded = load_model("knowledge-tracing", trained.weights)
    scores = dataclasses.asdict(replay(loaded, test_log).scores())
    assert {name: trained.test[name] for name in scores} == scores
    assert trained.test["loss"] == pytest.approx(scores["log_loss_continuous"], abs=1e-5)
    assert Ids.load(trained.ids) == log.ids
    metrics = json.loads(trained.metrics.read_text())
    assert metrics["test_auc_continuous"] == trained.test["auc_continuous"]
    assert metrics["seed"] == 3
    assert trained.curves is not None
    assert trained.curves.read_bytes().startswith(b"\x89PNG")


def test_held_out_scores_are_those_of_the_saved_model(log: EventLog, tmp_path: Path) -> None:
    """What the epoch was chosen by is what is served: the same learners, replayed by the loaded weights."""
    trained = train(log, tmp_path, seed=3, settings=QUICK)
    held_out = split_users(log, test_fraction=QUICK.validation_fraction, seed=3)[1]
    scores = replay(load_model("knowledge-tracing", trained.weights), held_out).scores()
    assert trained.validation["loss"] == pytest.approx(scores.log_loss_continuous, abs=1e-5)
    assert trained.validation["auc_batch"] == pytest.approx(scores.auc_batch, abs=1e-4)


def test_named_users_choose_the_epoch_and_are_not_fitted(log: EventLog, tmp_path: Path) -> None:
    def trained(log: EventLog, epochs: int) -> tuple[KnowledgeTracing, float]:
        settings = TrainerSettings(epochs_max=epochs, batch_users=64)
        found = train_family(
            lambda sizes: KnowledgeTracing(num_items=sizes["item"], num_skills=sizes["skill"]),
            log,
            tmp_path,
            validation_users=TEST_USERS,
            settings=settings,
        )
        assert found.validation["users"] == len(TEST_USERS)
        return found.model, found.validation["loss"]

    named = split_users(log, TEST_USERS)[1]
    model, loss = trained(log, epochs=1)
    assert loss == pytest.approx(replay(model, named).scores().log_loss_continuous, abs=1e-5)
    is_named_N = np.isin(log.user_N, named.active_users)
    turned = dataclasses.replace(log, outcome_N=np.where(is_named_N, 1 - log.outcome_N, log.outcome_N))
    other, other_loss = trained(turned, epochs=1)
    assert other_loss != loss
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_same_seed_same_weights(log: EventLog, tmp_path: Path) -> None:
    settings = TrainerSettings(epochs_max=1, batch_users=64)
    first, again, other = (train(log, tmp_path, seed=seed, settings=settings).model for seed in (4, 4, 5))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.tables[0], other.tables[0])


def test_test_users_leave_no_trace(log: EventLog, tmp_path: Path) -> None:
    """With their outcomes turned round the weights are the same."""
    places = [place for place, user in enumerate(log.user_N) if log.users[user] in TEST_USERS]
    turned = log.outcome_N.copy()
    turned[places] = 1 - turned[places]
    other = dataclasses.replace(log, outcome_N=turned)
    settings = TrainerSettings(epochs_max=1, batch_users=64)
    first, second = (train(each, tmp_path, test_users=TEST_USERS, settings=settings) for each in (log, other))
    assert all(torch.equal(a, b) for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True))
    assert first.test != second.test


def test_items_that_training_never_met_stay_neutral(log: EventLog, tmp_path: Path) -> None:
    ids = Ids({name: (*labels, "new") for name, labels in log.ids.fields.items() if not isinstance(labels, int)})
    wider = dataclasses.replace(log, ids=ids)
    model = train(wider, tmp_path, settings=TrainerSettings(epochs_max=1)).model
    assert [field.size for field in model.observation.ids] == [26, 8]
    assert bool(model.tables[0][1:-1].any(1).all())
    assert not model.tables[0][[0, -1]].any()
    assert not model.tables[1][0].any()


def test_progress_is_shown_on_the_console(log: EventLog, tmp_path: Path) -> None:
    screen = io.StringIO()
    console = Console(file=screen, width=120)
    trained = train(log, tmp_path, settings=TrainerSettings(epochs_max=1), console=console)
    assert "144/144 users" in screen.getvalue()
    assert f"held-out loss {trained.validation['loss']:.4f} after 1 epochs" in screen.getvalue()


def test_thread_count_is_left_as_it_was(log: EventLog, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        train(log, tmp_path, settings=TrainerSettings(epochs_max=1))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_log_of_one_user_cannot_be_split(log: EventLog, tmp_path: Path) -> None:
    with pytest.raises(LogError, match="of 1 users are for testing"):
        train(log.of_users([0]), tmp_path)


def events(outcome_N: NDArray[Any], ids_NK: NDArray[np.int64], num_users: int, sizes: dict[str, int]) -> EventLog:
    """N events, of users in turn, a minute apart."""
    at_N = np.arange(len(outcome_N))
    return EventLog(
        user_N=at_N % num_users,
        order_N=at_N.astype(np.float64),
        time_us_N=1_700_000_000_000_000 + at_N * 60_000_000,
        ids_NK=ids_NK,
        features_NF=np.ones((len(outcome_N), 1), np.float32),
        outcome_N=outcome_N,
        users=tuple(f"user-{user}" for user in range(num_users)),
        ids=Ids(sizes),
    )


FAMILY_QUICK = TrainerSettings(epochs_max=12, batch_users=32, window_events=20, learning_rate=1e-2)


def test_choices_that_each_user_keeps_to_are_learned(tmp_path: Path) -> None:
    """Every user has one choice, seen in the first event: what the state holds then is worth more than log 3 nats."""
    users = np.arange(2_000) % 100
    outcome_N = np.random.default_rng(1).integers(0, 3, 100)[users]
    log = events(outcome_N, np.ones((2_000, 1), np.int64), 100, {"place": 2})
    trained = train_family(
        lambda sizes: Adaptive(sizes, ("one",), "categorical", 3, state_size=8), log, tmp_path, settings=FAMILY_QUICK
    )
    assert trained.validation["loss"] < 0.35
    assert trained.validation["step_loss"] == pytest.approx(trained.validation["loss"], abs=1e-4)


def test_each_epoch_is_of_a_variation_of_the_users_fitted(tmp_path: Path) -> None:
    """Users held out are never turned over: what was fitted on others who were tells the wrong thing of them. A
    variation that changes nothing changes nothing."""
    outcome_N = (np.random.default_rng(1).random(1_000) < 0.9).astype(np.float32)
    log = events(outcome_N, np.zeros((1_000, 0), np.int64), 50, {})
    settings = dataclasses.replace(FAMILY_QUICK, batch_users=8, epochs_max=4)
    given: list[list[int]] = []

    def turn_over(to_fit: EventLog, rng: np.random.Generator) -> EventLog:
        given.append(to_fit.active_users.tolist())
        return dataclasses.replace(to_fit, outcome_N=1 - to_fit.outcome_N)

    as_it_is, unchanged, turned_over = (
        train_family(lambda _: Adaptive({}, ("one",), state_size=2), log, tmp_path, settings=settings, vary=vary)
        for vary in (None, lambda to_fit, _: to_fit, turn_over)
    )
    fitted, _ = split_users(log, test_fraction=settings.validation_fraction, seed=0)
    assert given == [fitted.active_users.tolist()] * turned_over.epochs
    assert unchanged.validation == as_it_is.validation
    assert turned_over.validation["loss"] > as_it_is.validation["loss"] + 0.02


def test_levels_and_how_sure_they_are_are_learned(tmp_path: Path) -> None:
    """A user's values lie around a level of their own, .1 wide: the density says so after some events."""
    rng = np.random.default_rng(1)
    users = np.arange(2_000) % 100
    outcome_N = (rng.normal(0, 1, 100)[users] + rng.normal(0, 0.1, 2_000)).astype(np.float32)
    log = events(outcome_N, np.zeros((2_000, 0), np.int64), 100, {})
    trained = train_family(
        lambda _: Adaptive({}, ("one",), "gaussian", state_size=8, uses_time=True), log, tmp_path, settings=FAMILY_QUICK
    )
    as_one = float(np.log(outcome_N.std()) + 0.5 * np.log(2 * np.pi * np.e))
    assert trained.validation["loss"] < as_one - 0.5


def test_training_that_diverges_is_told(tmp_path: Path) -> None:
    log = events(np.full(200, 1e38, np.float32), np.zeros((200, 0), np.int64), 20, {})
    with pytest.raises(LogError, match="diverged in epoch 1: are numbers and outcomes of about unit size"):
        train_family(lambda _: Adaptive({}, ("one",), "gaussian", state_size=4), log, tmp_path, settings=FAMILY_QUICK)


def test_items_of_one_taste_are_ranked_together(tmp_path: Path) -> None:
    """Two halves of 20 items, each user likes one: the catalogue's loss falls from log 20 towards log 10."""
    rng = np.random.default_rng(1)
    users = np.arange(3_000) % 150
    item_N = 1 + rng.integers(0, 10, 3_000) + 10 * (users % 2)
    log = events(np.ones(3_000, np.float32), item_N[:, None], 150, {"item": 21})
    log = dataclasses.replace(log, features_NF=np.zeros((3_000, 0), np.float32))
    trained = train_family(
        lambda sizes: Ranking(sizes, num_anchors=8, state_size=8), log, tmp_path, settings=FAMILY_QUICK
    )
    assert np.log(10) < trained.validation["loss"] < 0.5 * (np.log(10) + np.log(20))


def test_what_was_met_and_what_was_not_liked_count_as_told(tmp_path: Path) -> None:
    """The loss, event by event and user by user, beside sums over what was still to be met. Users have more events than
    a window, and some items come again."""
    rng = np.random.default_rng(1)
    outcome_N = rng.integers(0, 2, 120).astype(np.float32)
    log = events(outcome_N, rng.integers(1, 15, (120, 1)), 6, {"item": 16})
    log = dataclasses.replace(log, features_NF=np.zeros((120, 0), np.float32))
    settings = TrainerSettings(epochs_max=1, window_events=7, validation_fraction=0.5, meets_once=True)
    trained = train_family(
        lambda sizes: Ranking(sizes, num_anchors=3, state_size=6, unliked_loss=0.4), log, tmp_path, settings=settings
    )
    losses = []
    held_out = split_users(log, test_fraction=0.5, seed=0)[1]
    for places in held_out.by_user():
        state_BD, met = trained.model.initial_state().unsqueeze(0), set[int]()
        for at in places.tolist():
            item, liked = int(held_out.ids_NK[at, 0]), float(held_out.outcome_N[at])
            share_I = trained.model.catalogue(state_BD)[0].exp()
            left = [each for each in range(16) if each == item or each not in met]
            losses.append((1.0 if liked else 0.4) * float(share_I[left].sum().log() - share_I[item].log()))
            state_BD = trained.model.update(state_BD, batch_of(held_out, np.array([at]))).state_BD
            met.add(item)
    assert trained.validation["loss"] == pytest.approx(np.mean(losses), abs=1e-5)


def test_first_events_need_not_count(log: EventLog, tmp_path: Path) -> None:
    settings = dataclasses.replace(QUICK, epochs_max=1, warm_up_events=44)
    trained = train(log, tmp_path, settings=settings)
    held_out = split_users(log, test_fraction=QUICK.validation_fraction, seed=0)[1]
    replayed = replay(load_model("knowledge-tracing", trained.weights), held_out)
    last = np.array([places[-1] for places in held_out.by_user()])
    assert trained.validation["loss"] == pytest.approx(float(replayed.loss_N[last].mean()), abs=1e-5)


@pytest.mark.skipif(not DATA, reason="EVENT_LOGS_DIR is unset: give the folder that holds assist2009_clean.csv.gz")
def test_real_log(tmp_path: Path) -> None:
    """One epoch of a real log already beats the item means (AUC .689), and continuous beats batch."""
    path = Path(DATA or "") / "assist2009_clean.csv.gz"
    test_users = read_test_users(path.with_name("published_test_users.json"), log_name(path))
    trained = train(read_log(path), tmp_path, test_users=test_users, settings=TrainerSettings(epochs_max=2))
    assert trained.test is not None
    assert trained.test["updates"] == 58_266
    assert trained.test["auc_continuous"] > 0.70
    assert trained.test["auc_continuous"] > trained.test["auc_batch"] + 0.02
