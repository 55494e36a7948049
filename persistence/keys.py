"""What is where in the store: the keys of slots, segments, records and model versions, and back. Pure.

Numbers have a fixed width, so that keys of one folder are listed in the order of their numbers. A user's key carries a
hash: no listing, log or bill of a store names a user (docs/adr/0008-stored-formats.md).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from hashlib import blake2b

from evercurrent.slots import NUM_SLOTS

SLOTS_PREFIX = "slots/"
JOURNAL_PREFIX = "journal/"
USERS_PREFIX = "users/"
VERSIONS_PREFIX = "models/versions/"
WEIGHTS_PREFIX = "models/weights/"
AUDIT_PREFIX = "models/audit/"
CONTROL_KEY = "models/control"

VERSION_PATTERN = r"[a-z0-9][a-z0-9._-]{0,63}"

NUMBER_MAX = 10**12 - 1
"""The highest number of a segment: at five a second that is six thousand years of one incarnation."""

_SLOT = re.compile(r"slots/([0-9]{4})")
_MANIFEST = re.compile(f"models/versions/({VERSION_PATTERN})/manifest")
_SEGMENT = re.compile(r"journal/(.+/[^/]+)/([0-9]{12})")


def slot_key(slot: int) -> str:
    """Where a slot's record is."""
    return f"{SLOTS_PREFIX}{slot:04d}"


def slots_of_keys(keys: Iterable[str]) -> list[int]:
    """The slots whose records are there. What else somebody put into the folder is none of ours."""
    return [int(found[1]) for key in keys if (found := _SLOT.fullmatch(key)) and int(found[1]) < NUM_SLOTS]


def is_segment_key(key: str) -> bool:
    """Whether a segment is there; what else somebody put into the folder is none of ours."""
    found = _SEGMENT.fullmatch(key)
    return found is not None and int(found[2]) > 0


def journal_prefix(incarnation: str) -> str:
    """Where the segments of an incarnation, `<worker name>/<ulid>`, are."""
    return f"{JOURNAL_PREFIX}{incarnation}/"


def segment_key(incarnation: str, number: int) -> str:
    """Where a segment is; numbers begin at 1."""
    assert 1 <= number <= NUMBER_MAX, number
    return f"{journal_prefix(incarnation)}{number:012d}"


def segment_of_key(key: str) -> tuple[str, int]:
    """Whose segment is there, and its number. Raises ValueError for any other key."""
    found = _SEGMENT.fullmatch(key)
    if found is None or int(found[2]) == 0:
        raise ValueError(f"{key!r} is not the key of a segment")
    return found[1], int(found[2])


def record_key(slot: int, user: str) -> str:
    """Where the record of a user of a slot is, by its `evercurrent.slots.user_key`."""
    return f"{USERS_PREFIX}{slot:04d}/{blake2b(user.encode(), digest_size=16).hexdigest()}"


def is_version_name(version: str) -> bool:
    """Whether a model version may be called so."""
    return re.fullmatch(VERSION_PATTERN, version) is not None


def manifest_key(version: str) -> str:
    """Where what is registered of a version is."""
    return f"{VERSIONS_PREFIX}{version}/manifest"


def weights_key(sha256: str) -> str:
    """Where weights are, by their hash in hex."""
    return f"{WEIGHTS_PREFIX}{sha256}"


def versions_of_keys(keys: Iterable[str]) -> list[str]:
    """The versions whose manifests are there."""
    return [found[1] for key in keys if (found := _MANIFEST.fullmatch(key))]


def audit_key(revision: int) -> str:
    """Where a change of the control object is told."""
    return f"{AUDIT_PREFIX}{revision:012d}"
