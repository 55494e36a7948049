"""EndpointSlices (discovery.k8s.io/v1) as workers: what the API lists, and the events of a watch, made a listing.

Works on plain JSON values, because a generated model refuses a whole slice for one endpoint without addresses. What
cannot be understood is said, and left out alone. Never talks to anybody: `router.kubernetes` does.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from http import HTTPStatus

from router.membership import Listed, Listing

Json = Mapping[str, object]

FAMILIES = ("IPv4", "IPv6")


class Malformed(Exception):
    """The API said something that this does not understand. The text says what."""


class Condition(IntEnum):
    """How a pod is listed, worse first."""

    LEAVING = 0
    READY = 1


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A pod in one slice. `uid` tells pods of the same name apart."""

    pod: str
    uid: str
    family: str
    address: str
    is_ready: bool
    is_serving: bool
    is_terminating: bool


@dataclass(frozen=True, slots=True)
class Slice:
    """One EndpointSlice. `skipped` says what of it is left out, and why."""

    name: str
    endpoints: tuple[Endpoint, ...] = ()
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Changed:
    """A slice is new or another."""

    slice: Slice
    version: str


@dataclass(frozen=True, slots=True)
class Removed:
    """A slice is no more."""

    name: str
    version: str


@dataclass(frozen=True, slots=True)
class Bookmark:
    """Nothing happened up to this version."""

    version: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The API ends the watch with an error: all is to be listed anew. `is_expired`: it no longer knows the version."""

    text: str
    is_expired: bool


Event = Changed | Removed | Bookmark | Ended


@dataclass(slots=True)
class Slices:
    """The slices of one Service as far as they are known, and the version of the collection up to which they are; None:
    they are to be listed anew, and until then the last ones stand."""

    slices: dict[str, Slice] = field(default_factory=dict)
    version: str | None = None

    def replace(self, slices: Iterable[Slice], version: str) -> None:
        """They were listed: these, and no others."""
        self.slices = {found.name: found for found in slices}
        self.version = version

    def apply(self, event: Changed | Removed | Bookmark) -> None:
        match event:
            case Changed(found):
                self.slices[found.name] = found
            case Removed(name):
                self.slices.pop(name, None)
            case Bookmark():
                pass
        self.version = event.version

    def skipped(self) -> set[str]:
        """What is left out of the listing, and why."""
        return {text for found in self.slices.values() for text in found.skipped}

    def listing(self) -> Listing:
        """The workers in all slices, by the names of their pods."""
        by_pod: dict[str, list[Endpoint]] = {}
        for found in self.slices.values():
            for endpoint in found.endpoints:
                by_pod.setdefault(endpoint.pod, []).append(endpoint)
        merged = {pod: _merged(copies) for pod, copies in sorted(by_pod.items())}
        return {pod: listed for pod, listed in merged.items() if listed is not None}


def _merged(copies: list[Endpoint]) -> Listed | None:
    """One worker from the copies of its pod, which may be in several slices while they are rewritten, and in one of
    each address family.

    Pods do not come back from terminating, so if one copy of a pod (by uid) terminates, one that does not is stale.
    Copies of different uids are of a pod and its successor of the same name, and the better condition counts: the
    successor exists only because the other is gone. IPv4 before IPv6, then the lower address, so that each router that
    sees the same takes the same.
    """
    terminating = {copy.uid for copy in copies if copy.is_terminating}
    found = [
        (Condition.LEAVING if copy.uid in terminating else Condition.READY, copy)
        for copy in copies
        if (copy.is_ready or (copy.uid in terminating and copy.is_serving))
    ]
    if not found:
        return None
    best = max(condition for condition, _ in found)
    chosen = min(
        (copy for condition, copy in found if condition == best),
        key=lambda copy: (FAMILIES.index(copy.family), copy.address),
    )
    return Listed(chosen.address, is_leaving=best == Condition.LEAVING)


def parse_event(line: bytes, port_name: str | None) -> Event:
    """An event of a watch, one line of it.

    Raises:
        Malformed: it is none. The watch may go on.
    """
    event = _parsed(line)
    kind, found = event.get("type"), _object(event, "object")
    match kind:
        case "ADDED" | "MODIFIED":
            return Changed(parse_slice(found, port_name), version_of(found))
        case "DELETED":
            return Removed(_text(_object(found, "metadata"), "name"), version_of(found))
        case "BOOKMARK":
            return Bookmark(version_of(found))
        case "ERROR":
            code = found.get("code")
            is_expired = code == HTTPStatus.GONE or found.get("reason") in ("Expired", "Gone")
            return Ended(f"{code} {found.get('reason')}: {found.get('message')}", is_expired)
    raise Malformed(f"an event of type {kind!r}")


def parse_list(body: bytes, port_name: str | None) -> tuple[list[Slice], str, str | None]:
    """A page of a list: its slices, the version of the whole list, and where it goes on.

    A slice that cannot be understood is listed without endpoints.

    Raises:
        Malformed: it is none.
    """
    page = _parsed(body)
    metadata = _object(page, "metadata")
    more = metadata.get("continue")
    slices = []
    for number, item in enumerate(_objects(page, "items")):
        try:
            slices.append(parse_slice(item, port_name))
        except Malformed as error:
            slices.append(Slice(f"item {number}", skipped=(f"an EndpointSlice of the list: {error}",)))
    return slices, version_of(page), more if isinstance(more, str) and more else None


def version_of(found: Json) -> str:
    """The resourceVersion of an object or a list. Opaque: compared with nothing, only handed back."""
    return _text(_object(found, "metadata"), "resourceVersion")


def parse_slice(found: Json, port_name: str | None) -> Slice:
    """An EndpointSlice as JSON.

    Raises:
        Malformed: nothing of it can be used.
    """
    name = _text(_object(found, "metadata"), "name")
    family = found.get("addressType")
    if family not in FAMILIES:
        return Slice(name, skipped=(f"EndpointSlice {name}: addressType {family!r} is no IP address",))
    endpoints, skipped = [], []
    items = list(_objects(found, "endpoints"))
    if items:
        try:
            port = _port_of(list(_objects(found, "ports")), port_name)
        except Malformed as error:
            return Slice(name, skipped=(f"EndpointSlice {name}: {error}",))
    for item in items:
        try:
            endpoints.append(_endpoint_of(item, str(family), port))
        except Malformed as error:
            skipped.append(f"EndpointSlice {name}: {error}")
    return Slice(name, tuple(endpoints), tuple(skipped))


def _endpoint_of(item: Json, family: str, port: int) -> Endpoint:
    addresses = item.get("addresses")
    if not (isinstance(addresses, list) and addresses and isinstance(addresses[0], str)):
        raise Malformed("an endpoint without an address")
    host = addresses[0]
    target = item.get("targetRef")
    if not (isinstance(target, dict) and target.get("kind") == "Pod"):
        raise Malformed(f"endpoint {host} is no Pod")
    conditions = item.get("conditions")
    said = conditions if isinstance(conditions, dict) else {}
    is_ready = said.get("ready") is not False
    serving = said.get("serving")
    return Endpoint(
        pod=_text(target, "name"),
        uid=str(target.get("uid", "")),
        family=family,
        address=f"[{host}]:{port}" if family == "IPv6" else f"{host}:{port}",
        is_ready=is_ready,
        is_serving=serving if isinstance(serving, bool) else is_ready,
        is_terminating=said.get("terminating") is True,
    )


def _port_of(ports: list[Json], port_name: str | None) -> int:
    usable = {
        str(port.get("name") or ""): port["port"]
        for port in ports
        if type(port.get("port")) is int and port.get("protocol") in (None, "TCP")
    }
    known = ", ".join(sorted(usable)) or "none"
    if port_name is None and len(usable) != 1:
        raise Malformed(f"it has not one TCP port, so kubernetes_port_name must name one (there: {known})")
    port = usable.get(port_name) if port_name is not None else next(iter(usable.values()))
    if not isinstance(port, int):
        raise Malformed(f"it has no TCP port named {port_name} (there: {known})")
    return port


def _parsed(text: bytes) -> Json:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise Malformed(f"no JSON: {error}") from error
    if not isinstance(value, dict):
        raise Malformed("no JSON object")
    return value


def _object(value: Json, key: str) -> Json:
    found = value.get(key)
    if not isinstance(found, dict):
        raise Malformed(f"{key} is no object")
    return found


def _objects(value: Json, key: str) -> Iterator[Json]:
    """The objects of a list, which the API also leaves out or calls null when there are none."""
    found = value.get(key) or []
    if not (isinstance(found, list) and all(isinstance(item, dict) for item in found)):
        raise Malformed(f"{key} is no list of objects")
    return iter(found)


def _text(value: Json, key: str) -> str:
    found = value.get(key)
    if not (isinstance(found, str) and found):
        raise Malformed(f"{key} is no text")
    return found
