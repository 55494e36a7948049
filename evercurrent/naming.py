"""What a user, a namespace and a model version may be called, wherever a request names one."""

from __future__ import annotations

from evercurrent.errors import refused
from evercurrent.v1 import observation_pb2 as pb

USER_ID_BYTES_MAX = 256
NAMESPACE_BYTES_MAX = 64
VERSION_BYTES_MAX = 64


def check_user_id(user_id: str, field: str) -> None:
    """1 to 256 bytes."""
    size = len(user_id.encode())
    if not 1 <= size <= USER_ID_BYTES_MAX:
        raise refused(pb.REASON_USER_ID, field, f"has {size} bytes; 1 to {USER_ID_BYTES_MAX} are taken")


def check_namespace(namespace: str, field: str) -> None:
    """At most 64 bytes, none of them NUL."""
    size = len(namespace.encode())
    if size > NAMESPACE_BYTES_MAX or "\0" in namespace:
        text = f"has {size} bytes; at most {NAMESPACE_BYTES_MAX} are taken, and no NUL"
        raise refused(pb.REASON_MODEL, field, text)


def check_model_version(version: str, field: str) -> None:
    """At most 64 bytes: whether it runs is the worker's to say."""
    size = len(version.encode())
    if size > VERSION_BYTES_MAX:
        raise refused(pb.REASON_MODEL, field, f"has {size} bytes; no version's name has more than {VERSION_BYTES_MAX}")
