"""What may change of which versions run, by value: what a change makes, what is refused, and what always holds."""

from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evercurrent.errors import Refused
from evercurrent.v1 import models_pb2 as pb
from evercurrent.v1.models_pb2 import Policy, Promote, Rollback, StartShadow, StopShadow
from evercurrent.v1.observation_pb2 import REASON_MODEL_CHANGE
from persistence.control import (
    DEFAULT_LEVEL,
    DEFAULT_SLOWER_MAX,
    LEVEL_MAX,
    SHADOWS_MAX,
    Change,
    audit_body,
    changed,
    checked_policy,
    control_body,
    first_control,
    level_of,
    manifest_body,
    read_audit,
    read_control,
    read_manifest,
)
from persistence.errors import Damaged

FIRST_US, NOW_US = 1_000, 2_000
ROUNDING = 1e-12


def control(*changes: Change) -> pb.ModelControl:
    """What runs after v1 alone and these changes."""
    made = first_control("v1", FIRST_US)
    for change in changes:
        made = changed(made, change, "", "", FIRST_US)
    return made


def after(before: pb.ModelControl, change: Change) -> pb.ModelControl:
    return changed(before, change, "ann", "because", NOW_US)


def shadows(count: int) -> list[Change]:
    return [StartShadow(version=f"s{number}") for number in range(1, count + 1)]


def plans(of: pb.ModelControl) -> dict[str, float]:
    """The level of each shadow."""
    return {plan.version: plan.level for plan in of.shadows}


def rollback(version: str, drop: bool = False) -> Rollback:
    """`from` is a word of Python's own."""
    change = Rollback(drop=drop)
    setattr(change, "from", version)
    return change


BUSY = control(Promote(version="v2"), *shadows(2))
"""v2 is live, v1 the standby, s1 and s2 are shadows."""


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "change", "field", "says"),
    [
        (BUSY, StartShadow(version="v2"), "start_shadow.version", "'v2' runs already"),
        (BUSY, StartShadow(version="v1"), "start_shadow.version", "'v1' runs already"),
        (BUSY, StartShadow(version="s1"), "start_shadow.version", "'s1' runs already"),
        (BUSY, StartShadow(version="s3", fraction=-0.1), "start_shadow.fraction", "-0.1 is not above 0 and at most 1"),
        (BUSY, StartShadow(version="s3", fraction=1.01), "start_shadow.fraction", "1.01 is not above 0 and at most 1"),
        (BUSY, StartShadow(version="s3", fraction=math.nan), "start_shadow.fraction", "nan is not above 0"),
        (BUSY, StartShadow(version="s3", start=7), "start_shadow.start", "7 is no start"),  # type: ignore[arg-type]
        (control(*shadows(SHADOWS_MAX)), StartShadow(version="v2"), "start_shadow", "8 shadows run; stop one first"),
        (BUSY, StopShadow(version="v2"), "stop_shadow.version", "'v2' is live"),
        (BUSY, StopShadow(version="s3"), "stop_shadow.version", "'s3' does not run"),
        (control(), StopShadow(), "stop_shadow.version", "'' does not run"),
        (BUSY, Promote(version="v2"), "promote.version", "'v2' is live"),
        (control(), Rollback(), "rollback", "there is no standby to go back to"),
        (BUSY, rollback("v1"), "rollback.from", "'v1' is not live; 'v2' is"),
        (BUSY, Policy(level=0.6), "policy.level", "0.6 is not above 0 and at most 0.5"),
    ],
)
def test_what_does_not_fit_what_runs_is_refused(before: pb.ModelControl, change: Change, field: str, says: str) -> None:
    given_body = control_body(before)
    with pytest.raises(Refused) as raised:
        after(before, change)
    rejection = raised.value.rejection
    assert (rejection.reason, rejection.field) == (REASON_MODEL_CHANGE, field)
    assert says in rejection.message
    assert control_body(before) == given_body


@pytest.mark.parametrize(
    ("policy", "field", "says"),
    [
        (Policy(mode=3), "policy.mode", "3 is no mode"),  # type: ignore[arg-type]
        (Policy(score=4), "policy.score", "4 is no score"),  # type: ignore[arg-type]
        (Policy(level=-0.01), "policy.level", "-0.01 is not above 0"),
        (Policy(level=0.51), "policy.level", "0.51 is not above 0 and at most 0.5"),
        (Policy(level=math.nan), "policy.level", "nan is not above 0"),
        (Policy(margin=-1), "policy.margin", "-1 is not at least 0"),
        (Policy(margin=math.inf), "policy.margin", "inf is not at least 0"),
        (Policy(margin=math.nan), "policy.margin", "nan is not at least 0"),
        (Policy(slower_max=1), "policy.slower_max", "1 is not above 1"),
        (Policy(slower_max=math.inf), "policy.slower_max", "inf is not above 1"),
        (Policy(slower_max=math.nan), "policy.slower_max", "nan is not above 1"),
    ],
)
def test_a_policy_out_of_range_is_refused(policy: Policy, field: str, says: str) -> None:
    with pytest.raises(Refused, match=says) as raised:
        checked_policy(policy)
    assert (raised.value.rejection.reason, raised.value.rejection.field) == (REASON_MODEL_CHANGE, field)


def test_a_policy_has_its_defaults_filled_in() -> None:
    assert checked_policy(Policy()) == Policy(
        mode=pb.POLICY_MODE_MANUAL,
        level=DEFAULT_LEVEL,
        margin=0,
        score=pb.SCORE_BRIER,
        slower_max=DEFAULT_SLOWER_MAX,
    )


def test_a_policy_at_its_bounds_stays_as_it_is() -> None:
    policy = Policy(mode=pb.POLICY_MODE_AUTO, level=LEVEL_MAX, margin=1e9, score=pb.SCORE_LOG, slower_max=1.001)
    assert checked_policy(policy) == policy


# --- what a change makes --------------------------------------------------------------------------------------------


def test_it_begins_with_one_version_and_the_default_policy() -> None:
    expected = pb.ModelControl(format=1, revision=1, live="v1", policy=checked_policy(Policy()), live_since_us=FIRST_US)
    expected.change.CopyFrom(
        pb.ModelChange(revision=1, time_us=FIRST_US, who="evercurrent", what="begin with v1", live_after="v1")
    )
    assert first_control("v1", FIRST_US) == expected


def test_a_shadow_starts_as_asked() -> None:
    made = after(control(), StartShadow(version="v2", fraction=0.25, start=pb.SHADOW_START_INITIAL))
    level = DEFAULT_LEVEL / 2
    assert list(made.shadows) == [
        pb.ShadowPlan(version="v2", fraction=0.25, start=pb.SHADOW_START_INITIAL, level=level, started_us=NOW_US)
    ]
    assert (made.live, made.standby, made.num_started, made.live_since_us) == ("v1", "", 1, FIRST_US)
    assert made.change.what == "shadow start v2 on 0.25"


def test_a_shadow_learns_from_all_users_by_migrated_states_unless_told() -> None:
    (plan,) = after(control(), StartShadow(version="v2")).shadows
    assert (plan.fraction, plan.start) == (1.0, pb.SHADOW_START_MIGRATED)


def test_each_shadow_beside_one_live_version_has_a_smaller_level_whether_others_stopped_or_not() -> None:
    made = control(*shadows(2), StopShadow(version="s1"), StartShadow(version="s3"), StartShadow(version="s1"))
    assert plans(made) == {"s2": 0.05 / 6, "s3": 0.05 / 12, "s1": 0.05 / 20}
    assert made.num_started == 4


def test_beside_another_live_version_the_shadows_that_stay_are_numbered_anew() -> None:
    start = control(*shadows(3), StopShadow(version="s1"), StartShadow(version="v2"))
    assert start.num_started == 4
    promoted = after(start, Promote(version="v2"))
    assert plans(promoted) == {"s2": 0.05 / 2, "s3": 0.05 / 6}
    assert promoted.num_started == 2
    assert plans(after(promoted, StartShadow(version="s4")))["s4"] == 0.05 / 12
    stopped = after(after(promoted, StopShadow(version="s2")), Rollback())
    assert plans(stopped) == {"s3": 0.05 / 2}
    assert stopped.num_started == 1


def test_another_policy_is_that_of_the_shadows_to_come() -> None:
    made = control(StartShadow(version="s1"), Policy(level=0.5, mode=pb.POLICY_MODE_AUTO), StartShadow(version="s2"))
    assert plans(made) == {"s1": 0.05 / 2, "s2": 0.5 / 6}
    assert plans(after(made, Promote(version="v2"))) == {"s1": 0.5 / 2, "s2": 0.5 / 6}
    assert made.policy.mode == pb.POLICY_MODE_AUTO
    assert after(made, Policy(mode=pb.POLICY_MODE_AUTO)).change.what == "policy auto"


def test_promoting_makes_the_live_version_the_standby() -> None:
    made = after(control(*shadows(2)), Promote(version="s1"))
    assert (made.live, made.standby, list(plans(made))) == ("s1", "v1", ["s2"])
    assert made.live_since_us == NOW_US
    assert made.change.what == "promote s1"


def test_a_version_that_does_not_run_yet_can_be_promoted_and_ends_the_standby() -> None:
    made = after(BUSY, Promote(version="v3"))
    assert (made.live, made.standby, list(plans(made))) == ("v3", "v2", ["s1", "s2"])


def test_promoting_the_standby_is_rolling_back() -> None:
    made = after(BUSY, Promote(version="v1"))
    assert (made.live, made.standby, list(plans(made))) == ("v1", "v2", ["s1", "s2"])


def test_rolling_back_changes_places() -> None:
    made = after(BUSY, rollback("v2"))
    assert (made.live, made.standby, list(plans(made))) == ("v1", "v2", ["s1", "s2"])
    assert made.live_since_us == NOW_US
    assert made.change.what == "roll back from v2 to v1"
    again = after(made, Rollback())
    assert (again.live, again.standby) == (BUSY.live, BUSY.standby)


def test_rolling_back_can_end_what_was_live() -> None:
    made = after(BUSY, Rollback(drop=True))
    assert (made.live, made.standby, list(plans(made))) == ("v1", "", ["s1", "s2"])
    assert made.change.what == "roll back from v2 to v1, end v2"


def test_a_standby_can_be_stopped() -> None:
    made = after(BUSY, StopShadow(version="v1"))
    assert (made.live, made.standby, plans(made)) == ("v2", "", plans(BUSY))
    assert (made.num_started, made.live_since_us) == (2, FIRST_US)
    assert made.change.what == "standby stop v1"


def test_a_shadow_can_be_stopped() -> None:
    made = after(BUSY, StopShadow(version="s1"))
    assert (made.live, made.standby, plans(made)) == ("v2", "v1", {"s2": plans(BUSY)["s2"]})
    assert made.num_started == 2
    assert made.change.what == "shadow stop s1"


@pytest.mark.parametrize(
    ("change", "live_after"),
    [
        (StartShadow(version="s3"), "v2"),
        (StopShadow(version="s1"), "v2"),
        (Promote(version="s1"), "s1"),
        (Rollback(), "v1"),
        (Policy(), "v2"),
    ],
)
def test_a_change_says_who_made_it_and_what_they_saw(change: Change, live_after: str) -> None:
    given_body = control_body(BUSY)
    seen = [pb.Comparison(live="v2", level=0.01), pb.Comparison(live="v2", level=0.02)]
    made = changed(BUSY, change, "ann", "because", NOW_US, seen)
    assert made.revision == BUSY.revision + 1
    expected = pb.ModelChange(
        revision=made.revision,
        time_us=NOW_US,
        who="ann",
        why="because",
        what=made.change.what,
        live_before="v2",
        live_after=live_after,
        comparisons=seen,
    )
    assert made.change == expected
    assert made.change.what
    assert control_body(BUSY) == given_body


# --- what always holds ----------------------------------------------------------------------------------------------

versions = st.sampled_from(["v1", "v2", "v3", "v4"])
changes = st.one_of(
    st.builds(StartShadow, version=versions, fraction=st.sampled_from([0.0, 0.5, 2.0])),
    st.builds(StopShadow, version=versions),
    st.builds(Promote, version=versions),
    st.builds(rollback, st.just("") | versions, st.booleans()),
)
policies = st.builds(Policy, level=st.sampled_from([0.0, 0.01, 0.5, 0.7]))


def roles(of: pb.ModelControl) -> list[str]:
    return [of.live, *([of.standby] if of.standby else []), *(plan.version for plan in of.shadows)]


class Spent:
    """All levels that were ever given beside one live version, and the highest level of a policy meanwhile."""

    def __init__(self, of: pb.ModelControl) -> None:
        self.level_max = of.policy.level
        self.levels: dict[tuple[str, int], float] = {}
        self._live_since_us = of.live_since_us

    def add(self, of: pb.ModelControl) -> None:
        if of.live_since_us != self._live_since_us:
            self._live_since_us = of.live_since_us
            self.level_max = 0.0
            self.levels.clear()
        self.level_max = max(self.level_max, of.policy.level)
        self.levels |= {(plan.version, plan.started_us): plan.level for plan in of.shadows}


@given(st.lists(changes, max_size=40))
def test_whatever_is_asked_a_version_has_one_role_and_the_levels_sum_up_to_the_policys(script: list[Change]) -> None:
    runs = control()
    spent = Spent(runs)
    for now_us, change in enumerate(script, NOW_US):
        given_body = control_body(runs)
        try:
            made = changed(runs, change, "ann", "", now_us)
        except Refused:
            assert control_body(runs) == given_body
            continue
        assert control_body(runs) == given_body
        assert made.revision == runs.revision + 1
        runs = made
        spent.add(runs)
        assert runs.live
        assert len(set(roles(runs))) == len(roles(runs))
        assert runs.num_started == len(spent.levels)
        assert sum(spent.levels.values()) <= runs.policy.level + ROUNDING
        assert read_control(control_body(runs)) == runs


@given(st.lists(changes | policies, max_size=40))
def test_while_the_policy_changes_the_levels_sum_up_to_the_highest_there_was(script: list[Change]) -> None:
    runs = control()
    spent = Spent(runs)
    for now_us, change in enumerate(script, NOW_US):
        try:
            runs = changed(runs, change, "ann", "", now_us)
        except Refused:
            continue
        spent.add(runs)
        assert sum(spent.levels.values()) <= spent.level_max + ROUNDING


def test_the_levels_of_all_shadows_that_may_ever_come_sum_up_to_the_policys() -> None:
    policy = Policy(level=0.05)
    total = math.fsum(level_of(policy, number) for number in range(1, 10_001))
    assert 0.9999 * 0.05 < total < 0.05


# --- as bytes -------------------------------------------------------------------------------------------------------

MANIFEST = pb.ModelVersion(
    version="v2", class_path="a:B", config="{}", weights_sha256="ab", state=[pb.StateTensor(name="t", shape=[2, 3])]
)


def test_what_is_stored_is_read_as_written() -> None:
    assert read_control(control_body(BUSY)) == BUSY
    assert read_audit(audit_body(BUSY.change), "models/audit/4") == BUSY.change
    manifest = read_manifest(manifest_body(MANIFEST), "v2")
    assert manifest.format == 1
    manifest.ClearField("format")
    assert manifest == MANIFEST
    assert MANIFEST.format == 0


FOREIGN = [b"", b"\xff\xff", b"not of ours", b"\x08"]


@pytest.mark.parametrize("body", FOREIGN)
def test_the_bytes_of_strangers_are_damage(body: bytes) -> None:
    with pytest.raises(Damaged, match="the control object of the models"):
        read_control(body)
    with pytest.raises(Damaged, match="the manifest of v2"):
        read_manifest(body, "v2")
    with pytest.raises(Damaged, match="models/audit/4"):
        read_audit(body, "models/audit/4")


@given(st.binary(max_size=100))
def test_no_bytes_of_strangers_are_an_error_of_another_kind(body: bytes) -> None:
    for read in (lambda: read_control(body), lambda: read_manifest(body, "v2"), lambda: read_audit(body, "key")):
        with contextlib.suppress(Damaged):
            read()


@pytest.mark.parametrize("fmt", [0, 2])
def test_another_format_is_damage(fmt: int) -> None:
    newer, manifest = control(), pb.ModelVersion(version="v2", format=fmt)
    newer.format = fmt
    says = f"has format {fmt}; this release reads 1"
    with pytest.raises(Damaged, match=says):
        read_control(newer.SerializeToString())
    with pytest.raises(Damaged, match=says):
        read_manifest(manifest.SerializeToString(), "v2")


def test_what_names_nothing_is_damage() -> None:
    for nothing in (pb.ModelControl(format=1, revision=1), pb.ModelControl(format=1, live="v1")):
        with pytest.raises(Damaged, match="names no live version"):
            read_control(control_body(nothing))
    with pytest.raises(Damaged, match="is no change"):
        read_audit(audit_body(pb.ModelChange(who="ann")), "models/audit/4")


def test_the_manifest_of_another_version_is_damage() -> None:
    with pytest.raises(Damaged, match="the manifest of v3 is that of 'v2'"):
        read_manifest(manifest_body(MANIFEST), "v3")
