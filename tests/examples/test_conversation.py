"""Conversation: simulated users as they are meant to be, logs told by name, and a model that is served and taught by
thumbs."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import evercurrent
from evercurrent.model import Batch
from evercurrent.models.adaptive import Adaptive, LogError, TrainerSettings, train
from examples.common import serving
from examples.conversation import simulator
from examples.conversation.live import AT_NIGHT, AT_ONCE, NEVER, Replies, converse, first_choice
from examples.conversation.log import PARTS, log_at_random, read_log
from examples.conversation.report import after_jump_TU, find_exchange
from examples.conversation.simulator import EMBEDDING_SIZE, JUMP_RATE, KEPT, WRONG_WAY, Conversations, World, simulate
from tests.examples.running import RUN_TIMEOUT_S, ran, run_quick

WORLD = World.draw(2)
SEEDS = range(3)
NUM_USERS, NUM_TURNS = 40, 50


def drawn(num_users: int, num_turns: int, seed: int) -> Conversations:
    return simulate(WORLD, np.random.default_rng(seed), num_users, num_turns)


def test_same_seed_same_conversations_and_another_seed_others() -> None:
    first, again, other = (drawn(20, 10, seed) for seed in (4, 4, 5))
    for name in Conversations.__slots__:
        assert np.array_equal(getattr(first, name), getattr(again, name))
    assert not np.array_equal(first.message_TUM, other.message_TUM)


def test_taste_drifts_slowly_and_is_drawn_anew_at_jumps() -> None:
    taste_TUKS, jumps_TU = simulator.tastes(np.random.default_rng(0), 400, 120)
    assert not jumps_TU[0].any()
    assert jumps_TU[1:].mean() == pytest.approx(JUMP_RATE, rel=0.1)
    before, after = taste_TUKS[:-1], taste_TUKS[1:]
    drifts, jumps = ~jumps_TU[1:], jumps_TU[1:]
    assert np.corrcoef(before[drifts].ravel(), after[drifts].ravel())[0, 1] == pytest.approx(KEPT, abs=5e-4)
    assert abs(np.corrcoef(before[jumps].ravel(), after[jumps].ravel())[0, 1]) < 0.1
    spreads_T = taste_TUKS.std(axis=(1, 2, 3))
    assert spreads_T[-1] == pytest.approx(spreads_T[0], rel=0.1)


def test_taste_depends_on_the_kind_of_message_and_on_the_person() -> None:
    taste_UKS = simulator.tastes(np.random.default_rng(0), 4_000, 1)[0][0]
    shared = np.corrcoef(taste_UKS[:, 0].ravel(), taste_UKS[:, 1].ravel())[0, 1]
    assert 0.5 < shared < 0.9


def test_some_thumbs_go_the_wrong_way() -> None:
    conversations = drawn(200, 100, 0)
    best_TU = conversations.chance_TUC.argmax(axis=2)
    assert conversations.chance_TUC.min() >= WRONG_WAY
    assert conversations.chance_TUC.max() <= 1 - WRONG_WAY
    assert conversations.thumbs(best_TU).mean() == pytest.approx(conversations.chance_TUC.max(axis=2).mean(), abs=0.01)
    sure = np.take_along_axis(conversations.chance_TUC, best_TU[..., None], axis=2)[..., 0] > 1 - 1.1 * WRONG_WAY
    assert 0 < 1 - conversations.thumbs(best_TU)[sure].mean() < 2 * WRONG_WAY


def test_thumb_of_one_turn_is_that_of_all() -> None:
    conversations = drawn(5, 6, 1)
    chosen_TU = conversations.style_TUC.argmax(axis=2)
    thumb_TU = conversations.thumbs(chosen_TU)
    for turn, user in np.ndindex(chosen_TU.shape):
        assert conversations.thumb(turn, user, int(chosen_TU[turn, user])) == thumb_TU[turn, user]


def test_log_holds_what_was_said_replied_and_thought_of_it() -> None:
    conversations = drawn(30, 8, 2)
    log = log_at_random(conversations, np.random.default_rng(2))
    assert len(log) == 240
    assert log.features_NF.shape == (240, 2 * EMBEDDING_SIZE)
    for place in (0, 31, 239):
        turn, user = divmod(place, 30)
        features_CF = np.array(conversations.features(turn, user), np.float32)
        (chosen,) = np.flatnonzero((features_CF == log.features_NF[place]).all(axis=1)).tolist()
        assert log.outcome_N[place] == conversations.thumb(turn, user, chosen)


HEADER = "user_id,timestamp,message_0,message_1,reply_0,outcome"


@pytest.mark.parametrize("ending", [".csv", ".csv.gz"])
def test_log_of_ones_own(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"log{ending}"
    text = f"{HEADER}\nann,7,0.5,-1,2,1\nbob,8,1,1,1,0\n"
    path.write_bytes(gzip.compress(text.encode()) if ending.endswith("gz") else text.encode())
    log = read_log(path)
    assert log.users == ("ann", "bob")
    assert log.features_NF.tolist() == [[0.5, -1.0, 2.0], [1.0, 1.0, 1.0]]
    assert log.outcome_N.tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("user_id,timestamp,message_0,outcome\n", "lacks the column reply_0"),
        ("user_id,timestamp,reply_0,outcome\n", "lacks the column message_0"),
        ("user_id,timestamp,message_1,reply_0,outcome\n", "lacks the column message_0"),
        ("user_id,timestamp,message_0,reply_0\n", "lacks the column outcome"),
        (f"{HEADER}\nann,7,0.5,wide,2,1\n", 'line 2: message_1 is "wide", not a number'),
        (f"{HEADER}\nann,7,0.5,1,2,3\n", r'line 2: outcome is "3", not a number in \[0, 1\]'),
        (f"{HEADER}\nann,7,0.5,1,2\n", "line 2: 5 cells, the header has 6"),
        (f"{HEADER}\n", "has no events"),
        ("", "lacks the column message_0"),
    ],
)
def test_what_a_log_lacks_is_named(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "log.csv"
    path.write_text(text)
    with pytest.raises(LogError, match=expected):
        read_log(path)


def test_log_that_is_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / "log.csv.gz"
    path.write_text("not gzip")
    for each in (path, tmp_path / "missing.csv"):
        with pytest.raises(LogError, match=f"{each.name} cannot be read as CSV"):
            read_log(each)


def test_turns_after_a_jump() -> None:
    jumps_TU = np.zeros((30, 2), np.bool_)
    jumps_TU[[3, 8, 25], 0] = True
    conversations = drawn(2, 30, 0)
    conversations.jumps_TU[:] = jumps_TU
    after = after_jump_TU(conversations)
    assert np.flatnonzero(after[:, 0]).tolist() == [*range(3, 18), *range(25, 30)]
    assert not after[:, 1].any()


def test_exchange_is_found_where_another_style_pleases_next_time() -> None:
    conversations = drawn(2, 6, 0)
    conversations.kind_TU[:] = 0
    conversations.kind_TU[3, 1] = 1
    conversations.style_TUC[:] = np.arange(8) % 6
    conversations.luck_TU[:] = 1.0
    conversations.jumps_TU[:] = False
    replies = Replies.empty((6, 2))
    replies.chosen_TU[:] = 0
    assert find_exchange(conversations, replies) is None
    replies.chosen_TU[2, 1], replies.again_TU[2, 1], replies.chosen_TU[4, 1] = 1, 3, 3
    assert find_exchange(conversations, replies) is None
    conversations.luck_TU[4, 1] = 0.0
    assert find_exchange(conversations, replies) == (1, 2, 4)
    replies.chosen_TU[0, 0], replies.again_TU[0, 0], replies.chosen_TU[1, 0] = 1, 3, 3
    replies.expected_TU[0, 0], conversations.luck_TU[1, 0] = 0.9, 0.0
    assert find_exchange(conversations, replies) == (0, 0, 1)
    conversations.jumps_TU[1, 1] = True
    assert find_exchange(conversations, replies) == (1, 2, 4)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Adaptive:
    rng = np.random.default_rng(100)
    log = log_at_random(simulate(WORLD, rng, 200, NUM_TURNS), rng)
    names = [f"feature_{at}" for at in range(log.features_NF.shape[1])]
    settings = TrainerSettings(epochs_max=6, batch_users=32, learning_rate=8e-3)
    return train(
        partial(Adaptive, features=names), log, tmp_path_factory.mktemp("trained"), seed=1, settings=settings
    ).model


@pytest.fixture(scope="module")
def address(model: Adaptive) -> Iterator[str]:
    with serving(model) as address:
        yield address


def test_a_user_is_at_most_64_numbers(model: Adaptive) -> None:
    assert model.state_width <= 64


@pytest.mark.parametrize("seed", SEEDS)
async def test_learning_at_once_pleases_more_than_by_night_never_or_chance(address: str, seed: int) -> None:
    conversations = drawn(NUM_USERS, NUM_TURNS, seed)
    rates = {}
    for learn_after in (AT_ONCE, AT_NIGHT, NEVER):
        replies = await converse(address, conversations, f"compared-{seed}-{learn_after}", learn_after)
        rates[learn_after] = conversations.thumbs(replies.chosen_TU).mean()
    assert rates[AT_ONCE] > rates[AT_NIGHT] + 0.02
    assert rates[AT_ONCE] > rates[NEVER] + 0.03
    assert rates[AT_ONCE] > conversations.chance_TUC.mean() + 0.07
    assert rates[AT_ONCE] < conversations.chance_TUC.max(axis=2).mean()


async def test_same_users_choose_the_same_again(address: str) -> None:
    conversations = drawn(3, 12, 9)
    first, again = [await converse(address, conversations, f"{name}-same", AT_ONCE) for name in ("first", "again")]
    assert np.array_equal(first.chosen_TU, again.chosen_TU)
    down_TU = conversations.thumbs(first.chosen_TU) == 0
    assert np.array_equal(first.again_TU >= 0, down_TU)


def batch(features_BF: list[list[float]], outcome: float | None) -> Batch:
    size = len(features_BF)
    return Batch(
        ids_BK=torch.zeros(size, 0, dtype=torch.int64),
        features_BF=torch.tensor(features_BF),
        outcome=torch.full((size,), outcome or 0.0),
        has_outcome_B=torch.full((size,), outcome is not None),
        event_time_us_B=torch.zeros(size, dtype=torch.int64),
    )


@pytest.mark.parametrize("learn_after", [AT_ONCE, 5])
async def test_service_chooses_as_the_model_here_does_thumb_by_thumb(
    model: Adaptive, address: str, learn_after: int
) -> None:
    conversations = drawn(4, 20, 8)
    replies = await converse(address, conversations, f"twin-{learn_after}", learn_after)
    for user in range(4):
        state_BD, kept_back = model.initial_state().unsqueeze(0), []
        for turn in range(20):
            features_CF = conversations.features(turn, user)
            chance_C = model.readout(model.predict(state_BD.repeat(8, 1), batch(features_CF, None)))[:, 0]
            chosen = int(replies.chosen_TU[turn, user])
            assert replies.expected_TU[turn, user] == pytest.approx(float(chance_C.max()), abs=1e-4)
            assert float(chance_C[chosen]) == pytest.approx(float(chance_C.max()), abs=1e-4)
            kept_back.append(batch([features_CF[chosen]], conversations.thumb(turn, user, chosen)))
            if (turn + 1) % learn_after == 0:
                for each in kept_back:
                    state_BD = model.update(state_BD, each).state_BD
                kept_back.clear()


async def test_choice_for_the_same_message_follows_the_thumb(address: str) -> None:
    features_CF = drawn(1, 1, 3).features(0, 0)
    async with evercurrent.connect(address) as client, client.session("constructed") as session:
        first, _ = await first_choice(session, features_CF)
        for _ in range(4):
            (await session.observe(features=features_CF[first], outcome=0.0)).raise_for_rejection()
        other, _ = await first_choice(session, features_CF)
        assert other != first
        for _ in range(8):
            (await session.observe(features=features_CF[other], outcome=0.0)).raise_for_rejection()
            (await session.observe(features=features_CF[first], outcome=1.0)).raise_for_rejection()
        assert (await first_choice(session, features_CF))[0] == first


@pytest.mark.timeout(RUN_TIMEOUT_S)
def test_quick_run_prints_the_table(tmp_path: Path) -> None:
    printed = run_quick("conversation", tmp_path)
    for text in ("Will the thumb go up?", "Thumbs up", "as served", "taste known", "An exchange"):
        assert text in printed


@pytest.mark.timeout(RUN_TIMEOUT_S)
def test_log_of_ones_own_is_predicted(tmp_path: Path) -> None:
    log = log_at_random(drawn(30, 12, 0), np.random.default_rng(0))
    numbers = [f"{part}_{at}" for part in PARTS for at in range(EMBEDDING_SIZE)]
    with gzip.open(tmp_path / "log.csv.gz", "wt", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["user_id", "timestamp", *numbers, "outcome"])
        for user, order, features_F, outcome in zip(
            log.user_N, log.order_N, log.features_NF, log.outcome_N, strict=True
        ):
            rows.writerow([user, order, *features_F, outcome])
    printed = run_quick("conversation", tmp_path, "--data", tmp_path / "log.csv.gz")
    assert "72 logged thumbs of 6 users never trained on" in printed
    assert "An exchange" not in printed


def test_log_that_cannot_be_used_ends_it_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("user_id,timestamp,outcome\n")
    done = ran("conversation", "--data", path, "--out", tmp_path)
    assert done.returncode == 1
    assert "log.csv lacks the column message_0" in done.stderr
