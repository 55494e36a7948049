"""The control object: which model versions run, and what changes of it are allowed. Pure (models.proto).

A change gives a new object, one revision on, that says itself who made it and why.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

from google.protobuf.message import DecodeError

from evercurrent.errors import Refused, refused
from evercurrent.v1 import models_pb2 as pb
from evercurrent.v1.observation_pb2 import REASON_MODEL_CHANGE
from persistence.errors import Damaged

FORMAT = 1
SHADOWS_MAX = 8
DEFAULT_LEVEL = 0.05
LEVEL_MAX = 0.5
DEFAULT_SLOWER_MAX = 5.0

M = TypeVar("M", pb.ModelControl, pb.ModelVersion)
Change = pb.StartShadow | pb.StopShadow | pb.Promote | pb.Rollback | pb.Policy


def first_control(live: str, now_us: int) -> pb.ModelControl:
    """What runs before anybody changed anything."""
    control = pb.ModelControl(format=FORMAT, revision=1, live=live, policy=checked_policy(pb.Policy()))
    control.live_since_us = now_us
    what = f"begin with {live}"
    control.change.CopyFrom(pb.ModelChange(revision=1, time_us=now_us, who="evercurrent", what=what, live_after=live))
    return control


def changed(
    control: pb.ModelControl,
    change: Change,
    who: str,
    why: str,
    now_us: int,
    comparisons: Sequence[pb.Comparison] = (),
) -> pb.ModelControl:
    """What runs after a change.

    Raises:
        Refused: REASON_MODEL_CHANGE, it does not fit what runs.
    """
    new = pb.ModelControl()
    new.CopyFrom(control)
    match change:
        case pb.StartShadow():
            what = _start_shadow(new, change, now_us)
        case pb.StopShadow():
            what = _stop_shadow(new, change)
        case pb.Promote():
            what = _promote(new, change, now_us)
        case pb.Rollback():
            what = _roll_back(new, change, now_us)
        case pb.Policy():
            new.policy.CopyFrom(checked_policy(change))
            what = f"policy {pb.PolicyMode.Name(new.policy.mode).removeprefix('POLICY_MODE_').lower()}"
    new.revision += 1
    new.change.CopyFrom(
        pb.ModelChange(
            revision=new.revision,
            time_us=now_us,
            who=who,
            why=why,
            what=what,
            live_before=control.live,
            live_after=new.live,
            comparisons=comparisons,
        )
    )
    return new


def checked_policy(policy: pb.Policy) -> pb.Policy:
    """A policy with its defaults filled in. Raises Refused."""
    checked = pb.Policy(
        mode=policy.mode or pb.POLICY_MODE_MANUAL,
        level=policy.level or DEFAULT_LEVEL,
        margin=policy.margin,
        score=policy.score or pb.SCORE_BRIER,
        slower_max=policy.slower_max or DEFAULT_SLOWER_MAX,
    )
    if checked.mode not in pb.PolicyMode.values():
        raise _unfit("policy.mode", f"{checked.mode} is no mode")
    if checked.score not in pb.Score.values():
        raise _unfit("policy.score", f"{checked.score} is no score")
    if not 0 < checked.level <= LEVEL_MAX:
        raise _unfit("policy.level", f"{checked.level:g} is not above 0 and at most {LEVEL_MAX:g}")
    if not 0 <= checked.margin < math.inf:
        raise _unfit("policy.margin", f"{checked.margin:g} is not at least 0")
    if not 1 < checked.slower_max < math.inf:
        raise _unfit("policy.slower_max", f"{checked.slower_max:g} is not above 1")
    return checked


def level_of(policy: pb.Policy, number: int) -> float:
    """The level of the k-th shadow beside one live version: over all that may ever come they sum up to the policy's."""
    return policy.level / (number * (number + 1))


def _start_shadow(new: pb.ModelControl, change: pb.StartShadow, now_us: int) -> str:
    fraction = change.fraction or 1.0
    if change.version in _running(new):
        raise _unfit("start_shadow.version", f"{change.version!r} runs already")
    if not 0 < fraction <= 1:
        raise _unfit("start_shadow.fraction", f"{fraction:g} is not above 0 and at most 1")
    if change.start not in pb.ShadowStart.values():
        raise _unfit("start_shadow.start", f"{change.start} is no start")
    if len(new.shadows) >= SHADOWS_MAX:
        raise _unfit("start_shadow", f"{SHADOWS_MAX} shadows run; stop one first")
    new.num_started += 1
    new.shadows.add(
        version=change.version,
        fraction=fraction,
        start=change.start or pb.SHADOW_START_MIGRATED,
        level=level_of(new.policy, new.num_started),
        started_us=now_us,
    )
    return f"shadow start {change.version} on {fraction:.4g}"


def _stop_shadow(new: pb.ModelControl, change: pb.StopShadow) -> str:
    if change.version == new.live:
        raise _unfit("stop_shadow.version", f"{change.version!r} is live")
    if change.version not in _running(new):
        raise _unfit("stop_shadow.version", f"{change.version!r} does not run")
    if change.version == new.standby:
        new.standby = ""
        return f"standby stop {change.version}"
    _leave_shadows(new, change.version)
    return f"shadow stop {change.version}"


def _promote(new: pb.ModelControl, change: pb.Promote, now_us: int) -> str:
    if change.version == new.live:
        raise _unfit("promote.version", f"{change.version!r} is live")
    _leave_shadows(new, change.version)
    new.standby = new.live
    _go_live(new, change.version, now_us)
    return f"promote {change.version}"


def _roll_back(new: pb.ModelControl, change: pb.Rollback, now_us: int) -> str:
    left, back = new.live, new.standby
    if not back:
        raise _unfit("rollback", "there is no standby to go back to")
    asked = getattr(change, "from")
    if asked not in ("", left):
        raise _unfit("rollback.from", f"{asked!r} is not live; {left!r} is")
    new.standby = "" if change.drop else left
    _go_live(new, back, now_us)
    return f"roll back from {left} to {back}" + (f", end {left}" if change.drop else "")


def _go_live(new: pb.ModelControl, version: str, now_us: int) -> None:
    """The shadows that stay are the first beside another live version."""
    new.live = version
    new.live_since_us = now_us
    new.num_started = len(new.shadows)
    for number, plan in enumerate(new.shadows, 1):
        plan.level = level_of(new.policy, number)


def _leave_shadows(new: pb.ModelControl, version: str) -> None:
    kept = [plan for plan in new.shadows if plan.version != version]
    del new.shadows[:]
    new.shadows.extend(kept)


def _running(control: pb.ModelControl) -> set[str]:
    return {control.live, *([control.standby] if control.standby else []), *(plan.version for plan in control.shadows)}


def _unfit(field: str, message: str) -> Refused:
    return refused(REASON_MODEL_CHANGE, field, message)


# --- as bytes -------------------------------------------------------------------------------------------------------


def control_body(control: pb.ModelControl) -> bytes:
    """The control object as it is stored."""
    return control.SerializeToString(deterministic=True)


def read_control(body: bytes) -> pb.ModelControl:
    """The control object. Raises Damaged."""
    control = _read(pb.ModelControl, body, "the control object of the models")
    if not (control.live and control.revision):
        raise Damaged("the control object of the models names no live version")
    return control


def manifest_body(version: pb.ModelVersion) -> bytes:
    """A version as it is stored; `format` is filled in."""
    written = pb.ModelVersion()
    written.CopyFrom(version)
    written.format = FORMAT
    return written.SerializeToString(deterministic=True)


def read_manifest(body: bytes, version: str) -> pb.ModelVersion:
    """A version. Raises Damaged."""
    manifest = _read(pb.ModelVersion, body, f"the manifest of {version}")
    if manifest.version != version:
        raise Damaged(f"the manifest of {version} is that of {manifest.version!r}")
    return manifest


def audit_body(change: pb.ModelChange) -> bytes:
    """A change as it is stored."""
    return change.SerializeToString(deterministic=True)


def read_audit(body: bytes, key: str) -> pb.ModelChange:
    """A change. Raises Damaged."""
    try:
        change = pb.ModelChange.FromString(body)
    except DecodeError as error:
        raise Damaged(f"{key} cannot be read: {error}") from error
    if not change.revision:
        raise Damaged(f"{key} is no change")
    return change


def _read(message: type[M], body: bytes, what: str) -> M:
    try:
        found = message.FromString(body)
    except DecodeError as error:
        raise Damaged(f"{what} cannot be read: {error}") from error
    if found.format != FORMAT:
        raise Damaged(f"{what} has format {found.format}; this release reads {FORMAT}")
    return found
