"""What one identity may do, against an obvious twin."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evercurrent.errors import Refused
from evercurrent.v1 import observation_pb2 as pb
from router.quotas import IDENTITIES_SWEPT, Limits, Quotas


class Time:
    def __init__(self) -> None:
        self.now_us = 0

    def __call__(self) -> int:
        return self.now_us


@given(
    rate=st.integers(1, 50),
    steps=st.lists(st.tuples(st.integers(0, 400), st.integers(1, 60)), max_size=60),
)
def test_no_more_than_the_rate_and_a_second_of_it_passes(rate: int, steps: list[tuple[int, int]]) -> None:
    time = Time()
    quota = Quotas(Limits(events_per_s_max=rate), time).of("ann")
    passed, largest = 0, 0
    for pause_ms, num in steps:
        time.now_us += pause_ms * 1000
        try:
            quota.take(num, 0)
        except Refused as error:
            why = error.rejection
            assert why.reason == pb.REASON_OVERLOADED
            time.now_us += why.retry_after_ms * 1000
            quota.take(num, 0)
        passed += num
        largest = max(largest, num)
        assert passed <= rate + rate * time.now_us / 1e6 + largest + 1e-6


def test_bytes_and_events_are_told_apart() -> None:
    quota = Quotas(Limits(events_per_s_max=100, bytes_per_s_max=1000), Time()).of("ann")
    quota.take(1, 1500)
    with pytest.raises(Refused, match="more bytes a second"):
        quota.take(1, 1)


def test_sessions_are_counted() -> None:
    quotas = Quotas(Limits(sessions_max=2), Time())
    ann = quotas.of("ann")
    ann.enter_session()
    ann.enter_session()
    with pytest.raises(Refused, match="2 sessions open") as caught:
        quotas.of("ann").enter_session()
    assert caught.value.rejection.retry_after_ms > 0
    quotas.of("bob").enter_session()
    ann.leave_sessions(2)
    ann.enter_session()


def test_whoever_owes_nothing_is_forgotten() -> None:
    time = Time()
    quotas = Quotas(Limits(sessions_max=5, events_per_s_max=10), time)
    busy, in_debt = quotas.of("busy"), quotas.of("in debt")
    busy.enter_session()
    in_debt.take(1000, 0)
    for number in range(3 * IDENTITIES_SWEPT):
        quotas.of(f"one of many {number}")
    assert quotas.of("busy") is busy
    assert quotas.of("in debt") is in_debt
    assert len(quotas._quotas) <= 2 * IDENTITIES_SWEPT
