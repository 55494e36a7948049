"""Training on small simulated logs, and on a real one where its path is given."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest
import torch
from rich.console import Console

from evercurrent.models.knowledge_tracing import (
    EventLog,
    Ids,
    KnowledgeTracing,
    LogError,
    TrainerSettings,
    World,
    read_log,
    read_test_users,
    replay,
    simulate,
    split_users,
    train,
)
from evercurrent.models.knowledge_tracing.data import log_name
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
    untrained = KnowledgeTracing(log.ids.num_items, log.ids.num_skills)
    untrained.initialise(torch.Generator().manual_seed(3))
    test_log = split_users(log, TEST_USERS)[1]
    before = replay(untrained.eval().requires_grad_(False), test_log).scores()
    assert trained.test is not None
    assert trained.test.users == 20
    assert trained.test.log_loss_continuous < before.log_loss_continuous - 0.02
    assert trained.test.auc_continuous > before.auc_continuous + 0.02
    loaded = load_model("knowledge-tracing", trained.weights)
    assert replay(loaded, test_log).scores() == trained.test
    assert Ids.load(trained.ids) == log.ids
    metrics = json.loads(trained.metrics.read_text())
    assert metrics["test_auc_continuous"] == trained.test.auc_continuous
    assert metrics["seed"] == 3


def test_held_out_scores_are_those_of_the_saved_model(log: EventLog, tmp_path: Path) -> None:
    """What the epoch was chosen by is what is served: the same learners, replayed by the loaded weights."""
    trained = train(log, tmp_path, seed=3, settings=QUICK)
    held_out = split_users(log, test_fraction=QUICK.validation_fraction, seed=3)[1]
    scores = replay(load_model("knowledge-tracing", trained.weights), held_out).scores()
    assert trained.validation.log_loss_continuous == pytest.approx(scores.log_loss_continuous, abs=1e-5)
    assert trained.validation.auc_batch == pytest.approx(scores.auc_batch, abs=1e-4)


def test_same_seed_same_weights(log: EventLog, tmp_path: Path) -> None:
    settings = TrainerSettings(epochs_max=1, batch_users=64)
    first, again, other = (train(log, tmp_path, seed=seed, settings=settings).model for seed in (4, 4, 5))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.item_table, other.item_table)


def test_test_users_leave_no_trace(log: EventLog, tmp_path: Path) -> None:
    """With their outcomes turned round the weights are the same."""
    places = [place for place, user in enumerate(log.user_N) if log.users[user] in TEST_USERS]
    turned = log.outcome_N.copy()
    turned[places] = 1 - turned[places]
    other = EventLog(log.user_N, log.order_N, log.item_N, log.skill_N, turned, log.users, log.ids)
    settings = TrainerSettings(epochs_max=1, batch_users=64)
    first, second = (train(each, tmp_path, test_users=TEST_USERS, settings=settings) for each in (log, other))
    assert all(torch.equal(a, b) for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True))
    assert first.test != second.test


def test_items_that_training_never_met_stay_neutral(log: EventLog, tmp_path: Path) -> None:
    ids = Ids(items=(*log.ids.items, "new"), skills=(*log.ids.skills, "new"))
    wider = EventLog(log.user_N, log.order_N, log.item_N, log.skill_N, log.outcome_N, log.users, ids)
    model = train(wider, tmp_path, settings=TrainerSettings(epochs_max=1)).model
    assert [field.size for field in model.observation.ids] == [26, 8]
    assert bool(model.item_table[1:-1].any(1).all())
    assert not model.item_table[[0, -1]].any()
    assert not model.skill_table[0].any()


def test_progress_is_shown_on_the_console(log: EventLog, tmp_path: Path) -> None:
    screen = io.StringIO()
    console = Console(file=screen, width=120)
    trained = train(log, tmp_path, settings=TrainerSettings(epochs_max=1), console=console)
    assert "144/144 learners" in screen.getvalue()
    assert f"held-out AUC {trained.validation.auc_continuous:.4f} after 1 epochs" in screen.getvalue()


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


@pytest.mark.skipif(not DATA, reason="EVENT_LOGS_DIR is unset: give the folder that holds assist2009_clean.csv.gz")
def test_real_log(tmp_path: Path) -> None:
    """One epoch of a real log already beats the item means (AUC .689), and continuous beats batch."""
    path = Path(DATA or "") / "assist2009_clean.csv.gz"
    test_users = read_test_users(path.with_name("published_test_users.json"), log_name(path))
    trained = train(read_log(path), tmp_path, test_users=test_users, settings=TrainerSettings(epochs_max=2))
    assert trained.test is not None
    assert trained.test.updates == 58_266
    assert trained.test.auc_continuous > 0.70
    assert trained.test.auc_continuous > trained.test.auc_batch + 0.02
