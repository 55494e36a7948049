"""EndpointSlices as workers: conditions, ports and addresses, copies of one pod, and what is not understood."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.endpoints import (
    Bookmark,
    Changed,
    Ended,
    Malformed,
    Removed,
    Slices,
    parse_event,
    parse_list,
    parse_slice,
)
from router.membership import Listed

PORT = {"name": "link", "port": 7700, "protocol": "TCP"}
READY = {"ready": True, "serving": True, "terminating": False}
LEAVING = {"ready": False, "serving": True, "terminating": True}
OVER = {"ready": False, "serving": False, "terminating": True}
UNREADY = {"ready": False, "serving": False, "terminating": False}


def endpoint(
    address: str = "10.0.0.1", pod: str = "worker-0", uid: str = "u", conditions: dict[str, Any] | None = None
) -> dict[str, Any]:
    return {
        "addresses": [address],
        "conditions": READY if conditions is None else conditions,
        "targetRef": {"kind": "Pod", "name": pod, "uid": uid},
    }


def slice_of(*endpoints: dict[str, Any], name: str = "one", **changes: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "resourceVersion": "7"},
        "addressType": "IPv4",
        "ports": [PORT],
        "endpoints": list(endpoints),
    } | changes


def listing(*slices: dict[str, Any], port_name: str | None = None) -> dict[str, Listed]:
    known = Slices()
    known.replace([parse_slice(found, port_name) for found in slices], "1")
    return dict(known.listing())


HERE = {"worker-0": Listed("10.0.0.1:7700")}
GOING = {"worker-0": Listed("10.0.0.1:7700", is_leaving=True)}


@pytest.mark.parametrize(
    ("conditions", "listed"),
    [
        (READY, HERE),
        ({}, HERE),
        ({"ready": None, "serving": None, "terminating": None}, HERE),
        ({"ready": True}, HERE),
        (LEAVING, GOING),
        (OVER, {}),
        (UNREADY, {}),
        ({"ready": False}, {}),
        ({"ready": False, "serving": True, "terminating": False}, {}),
        ({"ready": False, "terminating": True}, {}),
        ({"ready": True, "serving": True, "terminating": True}, GOING),
    ],
)
def test_conditions(conditions: dict[str, Any], listed: dict[str, Listed]) -> None:
    """The last: with publishNotReadyAddresses a terminating pod is called ready."""
    assert listing(slice_of(endpoint(conditions=conditions))) == listed


def test_conditions_may_be_left_out() -> None:
    found = endpoint()
    del found["conditions"]
    assert listing(slice_of(found)) == HERE


def test_slices_are_merged() -> None:
    merged = listing(
        slice_of(endpoint("10.0.0.2", "worker-1"), endpoint(), name="one"),
        slice_of(endpoint("10.0.0.3", "worker-2", conditions=LEAVING), name="two"),
        slice_of(name="three", endpoints=None, ports=None),
    )
    assert list(merged) == ["worker-0", "worker-1", "worker-2"]
    assert [listed.is_leaving for listed in merged.values()] == [False, False, True]


def test_an_ipv6_address_is_in_brackets() -> None:
    assert listing(slice_of(endpoint("fd00::1"), addressType="IPv6")) == {"worker-0": Listed("[fd00::1]:7700")}


@pytest.mark.parametrize(
    ("ports", "port_name", "address"),
    [
        ([{"port": 1}], None, "10.0.0.1:1"),
        ([{"name": "", "port": 1}], None, "10.0.0.1:1"),
        ([{"name": "metrics", "port": 1}, {"name": "link", "port": 2}], "link", "10.0.0.1:2"),
        ([{"name": "dns", "port": 1, "protocol": "UDP"}, {"name": "link", "port": 2}], None, "10.0.0.1:2"),
    ],
)
def test_ports(ports: list[dict[str, Any]], port_name: str | None, address: str) -> None:
    assert listing(slice_of(endpoint(), ports=ports), port_name=port_name) == {"worker-0": Listed(address)}


@pytest.mark.parametrize(
    ("found", "port_name", "text"),
    [
        (slice_of(endpoint(), ports=None), None, "it has not one TCP port, .* kubernetes_port_name .*there: none"),
        (slice_of(endpoint(), ports=[{"name": "link"}]), "link", "no TCP port named link"),
        (slice_of(endpoint(), ports=[PORT, {"name": "b", "port": 2}]), None, r"kubernetes_port_name .*there: b, link"),
        (slice_of(endpoint(), ports=[PORT | {"protocol": "UDP"}]), "link", "no TCP port named link"),
        (slice_of(endpoint(), addressType="FQDN"), None, "addressType 'FQDN' is no IP address"),
        (slice_of({"addresses": ["10.0.0.1"]}), None, "endpoint 10.0.0.1 is no Pod"),
        (slice_of(endpoint() | {"targetRef": {"kind": "Node", "name": "n"}}), None, "endpoint 10.0.0.1 is no Pod"),
        (slice_of(endpoint() | {"addresses": []}), None, "an endpoint without an address"),
    ],
)
def test_what_is_left_out_is_said(found: dict[str, Any], port_name: str | None, text: str) -> None:
    known = Slices()
    known.replace([parse_slice(found, port_name)], "1")
    assert known.listing() == {}
    (said,) = known.skipped()
    assert said.startswith("EndpointSlice one: ")
    assert re.search(text, said)


def test_one_endpoint_that_is_left_out_takes_no_other_with_it() -> None:
    assert listing(slice_of({"addresses": ["10.0.0.9"]}, endpoint())) == HERE


A, B = "10.0.0.1", "10.0.0.2"


@pytest.mark.parametrize(
    ("copies", "listed"),
    [
        ([endpoint(conditions=READY), endpoint(conditions=UNREADY)], HERE),
        ([endpoint(conditions=READY), endpoint(conditions=LEAVING)], GOING),
        ([endpoint(conditions=LEAVING), endpoint(conditions=OVER)], GOING),
        ([endpoint(conditions=UNREADY), endpoint(conditions=OVER)], {}),
        ([endpoint(A, uid="new"), endpoint(B, uid="old", conditions=LEAVING)], HERE),
        ([endpoint(A, uid="new", conditions=UNREADY), endpoint(A, uid="old", conditions=LEAVING)], GOING),
        ([endpoint(A, uid="new"), endpoint(B, uid="old")], HERE),
        ([endpoint(A, uid="old", conditions=LEAVING), endpoint(B, uid="new")], {"worker-0": Listed("10.0.0.2:7700")}),
    ],
)
def test_copies_of_a_pod(copies: list[dict[str, Any]], listed: dict[str, Listed]) -> None:
    """Of one pod, terminating is final; of a pod and its successor, the better counts. Their order never does."""
    one, two = (slice_of(copy, name=name) for copy, name in zip(copies, ("one", "two"), strict=True))
    assert listing(one, two) == listed
    assert listing(two, one) == listed


def test_ipv4_comes_before_ipv6() -> None:
    six = slice_of(endpoint("1::1"), addressType="IPv6", name="a-six")
    assert listing(six, slice_of(endpoint())) == HERE


def event(kind: str, **found: Any) -> bytes:
    return json.dumps({"type": kind, "object": found}).encode()


def test_events() -> None:
    found = slice_of(endpoint())
    assert parse_event(event("ADDED", **found), None) == Changed(parse_slice(found, None), "7")
    assert parse_event(event("MODIFIED", **found), None) == Changed(parse_slice(found, None), "7")
    assert parse_event(event("DELETED", **found), None) == Removed("one", "7")
    assert parse_event(event("BOOKMARK", metadata={"resourceVersion": "9"}), None) == Bookmark("9")
    ended = parse_event(event("ERROR", code=410, reason="Expired", message="too old"), None)
    assert ended == Ended("410 Expired: too old", is_expired=True)
    assert parse_event(event("ERROR", code=410), None) == Ended("410 None: None", is_expired=True)
    assert parse_event(event("ERROR", code=500), None) == Ended("500 None: None", is_expired=False)


def test_events_are_applied() -> None:
    known = Slices()
    known.replace([], "1")
    known.apply(Changed(parse_slice(slice_of(endpoint()), None), "2"))
    assert (known.listing(), known.version) == (HERE, "2")
    known.apply(Bookmark("5"))
    assert (known.listing(), known.version) == (HERE, "5")
    known.apply(Removed("one", "6"))
    assert (known.listing(), known.version) == ({}, "6")
    known.apply(Removed("one", "7"))
    assert (known.listing(), known.version) == ({}, "7")


def test_a_page_of_a_list() -> None:
    body = {"metadata": {"resourceVersion": "9", "continue": "more"}, "items": [slice_of(endpoint()), {"metadata": {}}]}
    slices, version, more = parse_list(json.dumps(body).encode(), None)
    assert (version, more) == ("9", "more")
    known = Slices()
    known.replace(slices, version)
    assert known.listing() == HERE
    assert known.skipped() == {"an EndpointSlice of the list: name is no text"}
    last = {"metadata": {"resourceVersion": "9", "continue": ""}, "items": None}
    assert parse_list(json.dumps(last).encode(), None) == ([], "9", None)


KEYS = (
    *("type", "object", "metadata", "name", "resourceVersion", "continue", "code", "reason", "items"),
    *("addressType", "ports", "port", "endpoints", "addresses", "conditions", "targetRef", "kind"),
)
keys = st.sampled_from(KEYS)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(0, 9) | st.sampled_from(["", "Pod", "IPv4", "TCP", "x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)

PATHS: list[list[Any]] = [
    ["metadata"],
    ["metadata", "name"],
    ["addressType"],
    ["ports"],
    ["ports", 0],
    ["ports", 0, "port"],
    ["endpoints"],
    ["endpoints", 0],
    ["endpoints", 0, "addresses"],
    ["endpoints", 0, "conditions"],
    ["endpoints", 0, "conditions", "ready"],
    ["endpoints", 0, "targetRef"],
    ["endpoints", 0, "targetRef", "name"],
]


@given(st.sampled_from(PATHS), json_values, json_values)
def test_whatever_the_api_says_is_understood_or_malformed(path: list[Any], part: Any, anything: Any) -> None:
    """A right value with one part replaced, and any value."""
    nearly: Any = slice_of(endpoint(), endpoint())
    place = nearly
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = part
    metadata = {"resourceVersion": "1"}
    for found in (nearly, anything):
        for said in ({"type": "ADDED", "object": found}, found):
            with suppress(Malformed):
                parse_event(json.dumps(said).encode(), None)
        for page in ({"metadata": metadata, "items": [found]}, found):
            with suppress(Malformed):
                known = Slices()
                known.replace(*parse_list(json.dumps(page).encode(), None)[:2])
                assert all(isinstance(pod, str) for pod in known.listing())
