"""What follows from what users were answered: each fault is counted once, and pauses are those that users waited."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from bench.accounts import Account, Counts, View, judged
from bench.counting import Counting
from evercurrent.model import Batch

DEEDS = [3, 1, 4, 1, 5, 9, 2, 6]
Serve = Callable[[list[int]], list[int]]


def account_of(serve: Serve) -> tuple[Account, View]:
    """Updates answered by a service that learns what `serve` makes of all deeds so far, and its state in the end."""
    account = Account("ann")
    for number, deed in enumerate(DEEDS):
        update = account.send(deed, 1000 * number)
        update.view = view_of(serve(DEEDS[:number]))
        update.replied_ns = 1000 * number + 10 * (number + 1)
    return account, view_of(serve(DEEDS))


def view_of(deeds: list[int]) -> View:
    view = View()
    for deed in deeds:
        view = view.after(deed)
    return view


def without_third(deeds: list[int]) -> list[int]:
    return deeds[:2] + deeds[3:]


def third_twice(deeds: list[int]) -> list[int]:
    return deeds[:3] + deeds[2:]


def third_and_fourth_swapped(deeds: list[int]) -> list[int]:
    return [*deeds[:2], deeds[3], deeds[2], *deeds[4:]] if len(deeds) > 3 else deeds


def without_last(deeds: list[int]) -> list[int]:
    return deeds[: len(DEEDS) - 1]


@pytest.mark.parametrize(
    ("serve", "expected"),
    [
        (list, Counts()),
        (without_third, Counts(lost=1)),
        (third_twice, Counts(duplicated=1)),
        (third_and_fourth_swapped, Counts(misordered=1)),
        (without_last, Counts(lost=1)),
    ],
)
def test_a_fault_counts_once(serve: Serve, expected: Counts) -> None:
    account, stored = account_of(serve)
    assert judged([account], {"ann": stored}) == expected
    assert sum(not update.is_correct for update in account.updates) == (serve not in (list, without_last))


def test_a_user_that_the_store_does_not_know_has_lost_all() -> None:
    account, _ = account_of(list)
    assert judged([account], {}) == Counts(lost=len(DEEDS))


def test_replies_without_a_view_hide_nothing() -> None:
    account, stored = account_of(without_third)
    for update in account.updates[2:5]:
        update.view, update.is_duplicate = None, True
    assert account.judge(stored) == Counts(lost=1, duplicate_replies=3)


def test_the_longest_latency_is_of_those_that_waited() -> None:
    account, _ = account_of(list)
    assert account.longest_ns(0, 10**6) == 80
    assert account.longest_ns(1000, 2000) == 20
    assert account.longest_ns(1015, 1018) == 20
    assert account.longest_ns(1020, 2000) is None


def test_recovery_is_the_first_correct_reply_to_what_was_sent_after() -> None:
    account, stored = account_of(third_twice)
    account.judge(stored)
    assert account.recovery_ns(2000) == 30
    assert account.recovery_ns(2001) == 4000 + 50 - 2001
    assert account.recovery_ns(8000) is None


def test_the_model_shows_what_the_accounts_expect() -> None:
    model, state_BD, view = Counting(), Counting().initial_state()[None], View()
    for deed in DEEDS:
        batch = Batch(
            torch.tensor([[deed]]), torch.zeros(1, 0), torch.zeros(1), torch.ones(1, dtype=torch.bool), torch.zeros(1)
        )
        update = model.update(state_BD, batch)
        assert View(*map(int, update.prediction_BP[0, :2])) == view
        state_BD, view = update.state_BD, view.after(deed)
    assert view == View(len(DEEDS), view_of(DEEDS).hashed)
