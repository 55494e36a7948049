"""What `connect` is given, by value."""

from __future__ import annotations

from typing import Any

import pytest

import evercurrent
from evercurrent.client import InvalidRequest, Options, Retry
from evercurrent.client.options import addresses_of

BAD_OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "no address": ({"addresses": " , "}, "addresses"),
    "no port": ({"addresses": "router-0"}, "addresses"),
    "port 0": ({"addresses": ["router-0:0"]}, "addresses"),
    "a mode that nothing is registered for": ({"mode": "elsewhere"}, "mode"),
    "no time": ({"timeout_s": 0}, "timeout_s"),
    "replay below what is in flight": ({"in_flight_max": 8, "replay_events_max": 4}, "replay_events_max"),
    "an unknown answer to a full buffer": ({"on_full": "drop"}, "on_full"),
}


@pytest.mark.parametrize(("options", "field"), BAD_OPTIONS.values(), ids=BAD_OPTIONS.keys())
def test_an_option_that_cannot_be_is_named(options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        evercurrent.connect(**{"addresses": "127.0.0.1:7600", **options})
    assert caught.value.field == field


def test_addresses_come_in_one_text_or_several() -> None:
    assert addresses_of("a:1, b:2") == addresses_of(["a:1", "b:2"]) == ("a:1", "b:2")


def test_waits_double_up_to_a_bound_and_are_never_sooner_than_asked() -> None:
    retry = Retry(first_s=0.1, max_s=1.0)
    assert [retry.delay_s(attempt, 0.0, 0.0) for attempt in (1, 2, 3, 9)] == pytest.approx([0.05, 0.1, 0.2, 0.5])
    assert retry.delay_s(1, 0.0, 0.5) == pytest.approx(0.075)
    assert retry.delay_s(1, 3.0, 0.5) == 3.0


def test_connect_has_every_option_with_its_default() -> None:
    assert evercurrent.connect("a:1")._options == Options()
