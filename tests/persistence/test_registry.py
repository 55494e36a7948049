"""Versions in a store: what is pushed stays as it is, one change wins, and whoever dies in between leaves no gap.

On a store in memory, a file and S3. Where it matters when two meet or one dies, on a store in memory that waits there.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator

import pytest

from evercurrent.errors import Refused
from evercurrent.models.versions import version_of
from evercurrent.v1 import models_pb2 as pb
from evercurrent.v1.models_pb2 import Policy, Promote, Rollback, StartShadow, StopShadow
from evercurrent.v1.observation_pb2 import REASON_MODEL_CHANGE
from persistence import ObjectStore, StoreDenied, StoreError, StoreUnavailable, list_all, open_store
from persistence.control import Change, control_body, first_control, manifest_body
from persistence.errors import Damaged, Moved, VersionExists
from persistence.keys import CONTROL_KEY, audit_key, manifest_key, weights_key
from persistence.memory import MemoryStore
from persistence.registry import Registry
from persistence.store import BODY_BYTES_MAX, Etag, Stored
from tests.models.toys import Level, Preference
from tests.persistence.flaky import Answer, Fault, Flaky, flaky
from tests.persistence.servers import Server

LATER_US, NOW_US = 2_000, 1_000
MANIFEST, WEIGHTS = version_of(Preference(), "v2", "ann", "because", NOW_US)


@pytest.fixture(params=["memory", "sqlite", "moto"])
async def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ObjectStore]:
    """An empty store of each kind."""
    match request.param:
        case "memory":
            url = "memory:"
        case "sqlite":
            url = f"sqlite:{tmp_path_factory.mktemp('store') / 'store.db'}"
        case _:
            server: Server = request.getfixturevalue("moto")
            url = server.url(request.getfixturevalue("prefix"))
    async with open_store(url) as store:
        yield store


@pytest.fixture
def registry(store: ObjectStore) -> Registry:
    return Registry(store)


def renamed(version: str) -> pb.ModelVersion:
    """The same model under another name."""
    made = pb.ModelVersion()
    made.CopyFrom(MANIFEST)
    made.version = version
    return made


def stored_manifest(of: pb.ModelVersion) -> pb.ModelVersion:
    return pb.ModelVersion.FromString(manifest_body(of))


async def keys(store: ObjectStore) -> list[str]:
    return [entry.key async for entry in list_all(store)]


async def make(registry: Registry, change: Change, revision: int = 0, who: str = "ann") -> pb.ModelControl:
    return await registry.change(change, who, "because", revision, (), LATER_US)


async def whats(registry: Registry, num: int = 100) -> list[str]:
    return [change.what for change in await registry.changes(num)]


async def begun(store: ObjectStore) -> Registry:
    """A registry with v1 live, and v2 registered."""
    registry = Registry(store)
    await registry.push(MANIFEST, WEIGHTS)
    await registry.begin("v1", NOW_US)
    return registry


# --- versions -------------------------------------------------------------------------------------------------------


async def test_what_is_pushed_is_read_as_it_was(store: ObjectStore, registry: Registry) -> None:
    assert await registry.push(MANIFEST, WEIGHTS) == stored_manifest(MANIFEST)
    found = await registry.version("v2")
    assert found == stored_manifest(MANIFEST)
    assert await registry.weights(MANIFEST) == WEIGHTS
    assert sorted(await keys(store)) == [manifest_key("v2"), weights_key(MANIFEST.weights_sha256)]


async def test_what_is_not_registered_is_none(registry: Registry) -> None:
    assert await registry.version("v2") is None
    assert await registry.version("../v2") is None
    assert await registry.versions() == []
    assert await registry.control() is None
    assert await registry.changes(5) == []


async def test_versions_come_by_name_and_may_have_the_same_weights(store: ObjectStore, registry: Registry) -> None:
    for name in ("v9", "v10", "a", "a.b", "a-b"):
        await registry.push(renamed(name), WEIGHTS)
    await store.put("models/versions/README", b"not of ours")
    assert [found.version for found in await registry.versions()] == ["a", "a-b", "a.b", "v10", "v9"]
    assert len([key for key in await keys(store) if key.startswith("models/weights/")]) == 1


async def test_pushing_again_changes_nothing_and_returns_the_first(registry: Registry) -> None:
    first = await registry.push(MANIFEST, WEIGHTS)
    again, weights = version_of(Preference(), "v2", "bob", "again", LATER_US)
    assert await registry.push(again, weights) == first
    assert await registry.version("v2") == first
    assert first.who == "ann"


async def test_two_who_push_the_same_at_once_get_the_same(registry: Registry) -> None:
    other, weights = version_of(Preference(), "v2", "bob", "", LATER_US)
    one, two = await asyncio.gather(registry.push(MANIFEST, WEIGHTS), registry.push(other, weights))
    assert one == two == await registry.version("v2")


async def test_another_model_under_the_same_name_is_told_what_differs(registry: Registry) -> None:
    first = await registry.push(MANIFEST, WEIGHTS)
    model = Preference()
    model.place.data += 1
    with pytest.raises(VersionExists, match="version 'v2' is registered with another weights sha256: versions never"):
        await registry.push(*version_of(model, "v2", "ann", "", NOW_US))
    with pytest.raises(VersionExists, match="with another config, weights sha256, description: versions never change"):
        await registry.push(*version_of(Preference(num_places=6), "v2", "ann", "", NOW_US))
    with pytest.raises(VersionExists, match="another class path, config, weights sha256, description, state:"):
        await registry.push(*version_of(Level(), "v2", "ann", "", NOW_US))
    assert await registry.versions() == [first]


async def test_of_two_models_pushed_under_one_name_at_once_one_is_registered(registry: Registry) -> None:
    pushes = [registry.push(MANIFEST, WEIGHTS), registry.push(*version_of(Level(), "v2", "bob", "", NOW_US))]
    one, two = await asyncio.gather(*pushes, return_exceptions=True)
    (lost,) = [answer for answer in (one, two) if isinstance(answer, BaseException)]
    (won,) = [answer for answer in (one, two) if isinstance(answer, pb.ModelVersion)]
    assert isinstance(lost, VersionExists)
    assert await registry.version("v2") == won
    assert hashlib.sha256(await registry.weights(won)).hexdigest() == won.weights_sha256


async def test_what_is_no_name_is_refused(store: ObjectStore, registry: Registry) -> None:
    for name in ("", "V2", ".v2", "-v2", "v/2", "v 2", "v2\n", "ä", "../control", "v" * 65):
        with pytest.raises(ValueError, match="is no name of a version: 1 to 64 of a-z"):
            await registry.push(renamed(name), WEIGHTS)
        assert await registry.version(name) is None
    assert await keys(store) == []


async def test_what_is_a_name_is_taken(registry: Registry) -> None:
    names = ["0", "a..", "v2.1_a-b", "v" * 64]
    for name in names:
        await registry.push(renamed(name), WEIGHTS)
    assert [found.version for found in await registry.versions()] == names


async def test_weights_that_are_not_the_versions_or_too_large_are_refused(
    store: ObjectStore, registry: Registry
) -> None:
    with pytest.raises(ValueError, match="not the ones that the version names"):
        await registry.push(MANIFEST, WEIGHTS + b" ")
    with pytest.raises(ValueError, match=f"weights of {BODY_BYTES_MAX + 1} bytes are over {BODY_BYTES_MAX}"):
        await registry.push(MANIFEST, bytes(BODY_BYTES_MAX + 1))
    assert await keys(store) == []


async def test_weights_that_are_damaged_or_gone_are_named(store: ObjectStore, registry: Registry) -> None:
    await registry.push(MANIFEST, WEIGHTS)
    await store.put(weights_key(MANIFEST.weights_sha256), WEIGHTS[:-1])
    with pytest.raises(Damaged, match="the weights of version 'v2' are damaged"):
        await registry.weights(MANIFEST)
    await store.delete(weights_key(MANIFEST.weights_sha256))
    with pytest.raises(Damaged, match="the weights of version 'v2' are gone"):
        await registry.weights(MANIFEST)


async def test_a_version_whose_weights_are_damaged_is_not_registered(store: ObjectStore, registry: Registry) -> None:
    await store.put(weights_key(MANIFEST.weights_sha256), b"damaged")
    for _ in range(2):
        with pytest.raises(Damaged, match="the weights of version 'v2' are damaged"):
            await registry.push(MANIFEST, WEIGHTS)
    assert await registry.version("v2") is None


async def test_a_damaged_manifest_is_named(store: ObjectStore, registry: Registry) -> None:
    await store.put(manifest_key("v2"), b"damaged")
    for call in (registry.version("v2"), registry.versions(), registry.push(MANIFEST, WEIGHTS)):
        with pytest.raises(Damaged, match="the manifest of v2"):
            await call


# --- which run ------------------------------------------------------------------------------------------------------


async def test_beginning_says_what_runs_once(registry: Registry) -> None:
    first = await registry.begin("v1", NOW_US)
    assert first == first_control("v1", NOW_US)
    assert await registry.begin("v2", LATER_US) == first
    assert await registry.control() == first


async def test_those_who_begin_at_once_get_the_same(registry: Registry) -> None:
    one, two = await asyncio.gather(registry.begin("v1", NOW_US), registry.begin("v2", NOW_US))
    assert one == two == await registry.control()
    assert one.live in ("v1", "v2")


async def test_a_change_is_made_and_told(store: ObjectStore) -> None:
    registry = await begun(store)
    seen = [pb.Comparison(live="v1", level=0.01)]
    made = await registry.change(StartShadow(version="v2"), "ann", "because", 1, seen, LATER_US)
    assert made == await registry.control()
    assert (made.revision, [plan.version for plan in made.shadows]) == (2, ["v2"])
    assert (made.change.who, made.change.why, made.change.time_us) == ("ann", "because", LATER_US)
    assert list(made.change.comparisons) == seen
    stored = await store.get(audit_key(2))
    assert stored is not None
    assert pb.ModelChange.FromString(stored.body) == made.change


async def test_changes_come_newest_first(store: ObjectStore) -> None:
    registry = await begun(store)
    assert await whats(registry) == ["begin with v1"]
    for change in (StartShadow(version="v2"), Promote(version="v2"), Rollback(), StopShadow(version="v2")):
        await make(registry, change)
    told = ["standby stop v2", "roll back from v2 to v1", "promote v2", "shadow start v2 on 1", "begin with v1"]
    assert await whats(registry) == told
    assert await whats(registry, 2) == told[:2]
    assert await whats(registry, 0) == []
    assert [change.revision for change in await registry.changes(100)] == [5, 4, 3, 2, 1]


async def test_a_version_that_is_not_registered_cannot_run(store: ObjectStore) -> None:
    registry = await begun(store)
    changes: list[Change] = [StartShadow(version="v3"), StartShadow(), Promote(version="v3"), Promote(version="/")]
    for change in changes:
        with pytest.raises(Refused, match="is not registered") as raised:
            await make(registry, change)
        assert (raised.value.rejection.reason, raised.value.rejection.field) == (REASON_MODEL_CHANGE, "version")
    assert await registry.control() == first_control("v1", NOW_US)


async def test_what_does_not_fit_what_runs_is_refused_and_changes_nothing(store: ObjectStore) -> None:
    registry = await begun(store)
    with pytest.raises(Refused, match="there is no standby"):
        await make(registry, Rollback())
    assert await registry.control() == first_control("v1", NOW_US)
    assert await whats(registry) == ["begin with v1"]


async def test_nothing_changes_before_it_has_begun(registry: Registry) -> None:
    with pytest.raises(Refused, match="no worker has begun") as raised:
        await make(registry, Policy())
    assert raised.value.rejection.reason == REASON_MODEL_CHANGE


async def test_a_damaged_control_object_is_never_written_over(store: ObjectStore) -> None:
    registry = await begun(store)
    await store.put(CONTROL_KEY, b"damaged")
    for call in (registry.control(), registry.begin("v1", NOW_US), make(registry, Policy()), registry.changes(1)):
        with pytest.raises(Damaged, match="the control object"):
            await call
    stored = await store.get(CONTROL_KEY)
    assert stored is not None
    assert stored.body == b"damaged"


async def test_a_change_of_another_revision_has_moved(store: ObjectStore) -> None:
    registry = await begun(store)
    await make(registry, Policy(), revision=1)
    for revision in (1, 3):
        with pytest.raises(Moved, match=f"the models are at revision 2, not {revision}"):
            await make(registry, StartShadow(version="v2"), revision)
    control = await registry.control()
    assert control is not None
    assert (control.revision, len(control.shadows)) == (2, 0)


async def test_of_several_at_once_at_a_revision_one_wins(store: ObjectStore) -> None:
    registry = await begun(store)
    names = ["ann", "bob", "cal"]
    answers = await asyncio.gather(*(make(registry, Policy(), 1, who) for who in names), return_exceptions=True)
    (won,) = [answer for answer in answers if isinstance(answer, pb.ModelControl)]
    assert [type(answer) for answer in answers].count(Moved) == 2
    assert await registry.control() == won
    assert [change.revision for change in await registry.changes(9)] == [2, 1]
    assert (await registry.changes(1))[0].who == won.change.who


async def test_several_at_once_at_no_revision_come_one_after_the_other(store: ObjectStore) -> None:
    registry = await begun(store)
    names = ["ann", "bob", "cal"]
    made = await asyncio.gather(*(make(registry, Policy(), 0, who) for who in names))
    assert sorted(control.revision for control in made) == [2, 3, 4]
    told = await registry.changes(9)
    assert [change.revision for change in told] == [4, 3, 2, 1]
    assert {change.revision: change.who for change in told[:3]} == {one.revision: one.change.who for one in made}


class Meeting(MemoryStore):
    """A store in which two, once, have both read the control object before either goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.meeting: asyncio.Barrier | None = None

    async def get(self, key: str, *, timeout_s: float | None = None) -> Stored | None:
        stored = await super().get(key)
        if key == CONTROL_KEY and self.meeting is not None:
            meeting = self.meeting
            await meeting.wait()
            self.meeting = None
        return stored


async def test_two_who_have_read_the_same_do_not_write_over_each_other() -> None:
    store = Meeting()
    registry = await begun(store)
    store.meeting = asyncio.Barrier(2)
    answers = await asyncio.gather(*(make(registry, Policy(), 1, who) for who in "ab"), return_exceptions=True)
    (won,) = [answer for answer in answers if isinstance(answer, pb.ModelControl)]
    (lost,) = [answer for answer in answers if isinstance(answer, Moved)]
    assert "were changed at the same time" in str(lost)
    assert await registry.control() == won
    store.meeting = asyncio.Barrier(2)
    made = await asyncio.gather(*(make(registry, Policy(), 0, who) for who in "ab"))
    assert sorted(control.revision for control in made) == [3, 4]
    assert sorted(change.who for change in (await registry.changes(2))) == ["a", "b"]


async def test_of_two_who_began_at_once_the_first_begins() -> None:
    store = Meeting()
    store.meeting = asyncio.Barrier(2)
    registry = Registry(store)
    one, two = await asyncio.gather(registry.begin("v1", NOW_US), registry.begin("v2", NOW_US))
    assert one == two == await registry.control()


# --- whoever dies in between ----------------------------------------------------------------------------------------


class Stuck(MemoryStore):
    """A store that never answers a write of one key; it does not happen."""

    key = ""

    def __init__(self) -> None:
        super().__init__()
        self.waits = asyncio.Event()

    async def put_if_absent(self, key: str, body: bytes, *, timeout_s: float | None = None) -> Etag | None:
        if key == self.key:
            self.waits.set()
            await asyncio.Event().wait()
        return await super().put_if_absent(key, body)


async def die(store: Stuck, key: str, call: asyncio.Task[object]) -> None:
    """Whoever calls dies at the write of this key."""
    store.key = key
    await store.waits.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    store.key = ""


async def test_dying_between_weights_and_manifest_registers_nothing_and_blocks_nothing() -> None:
    store = Stuck()
    registry = Registry(store)
    await die(store, manifest_key("v2"), asyncio.create_task(registry.push(MANIFEST, WEIGHTS)))
    assert await keys(store) == [weights_key(MANIFEST.weights_sha256)]
    assert await registry.versions() == []
    assert await registry.push(MANIFEST, WEIGHTS) == stored_manifest(MANIFEST)
    assert await registry.weights(MANIFEST) == WEIGHTS


async def test_dying_between_weights_and_manifest_leaves_the_name_to_another_model() -> None:
    store = Stuck()
    registry = Registry(store)
    await die(store, manifest_key("v2"), asyncio.create_task(registry.push(MANIFEST, WEIGHTS)))
    other, weights = version_of(Level(), "v2", "bob", "", NOW_US)
    assert await registry.push(other, weights) == stored_manifest(other)


async def test_dying_between_a_change_and_its_telling_leaves_no_gap() -> None:
    store = Stuck()
    registry = await begun(store)
    await make(registry, StartShadow(version="v2"))
    await die(store, audit_key(3), asyncio.create_task(make(registry, Promote(version="v2"))))
    told = ["promote v2", "shadow start v2 on 1", "begin with v1"]
    assert await store.get(audit_key(3)) is None
    assert await whats(registry) == told
    assert await whats(registry, 1) == told[:1]
    await make(registry, Rollback())
    assert await whats(registry) == ["roll back from v2 to v1", *told]
    assert await store.get(audit_key(3)) is not None


# --- what the store does not answer ---------------------------------------------------------------------------------


@pytest.fixture
async def proxy(moto: Server) -> AsyncIterator[Flaky]:
    async with flaky(moto) as proxy:
        yield proxy


@pytest.fixture
async def unsure(proxy: Flaky, prefix: str) -> AsyncIterator[Registry]:
    """A registry that has begun, on a store that tries once."""
    async with open_store(proxy.url(prefix, attempts_max=1)) as store:
        registry = await begun(store)
        proxy.methods.clear()
        yield registry


CHANGE_REQUESTS = ["GET", "PUT", "PUT"]
"""What a change of the policy asks of the store up to the swap, which is the last of them."""


@pytest.mark.parametrize("revision", [0, 1])
@pytest.mark.parametrize("fault", [Fault.LOSE_ANSWER, Fault.RESET_ANSWER])
async def test_a_change_in_doubt_that_was_made_is_recognised(
    proxy: Flaky, unsure: Registry, fault: Fault, revision: int
) -> None:
    proxy.plan.extend([None, None, fault])
    made = await make(unsure, Policy(mode=pb.POLICY_MODE_AUTO), revision)
    assert proxy.methods == [*CHANGE_REQUESTS, "GET", "PUT"]
    assert (made.revision, made.policy.mode) == (2, pb.POLICY_MODE_AUTO)
    assert await unsure.control() == made
    assert await whats(unsure) == ["policy auto", "begin with v1"]


async def test_a_change_whose_second_attempt_meets_the_first_is_recognised(
    proxy: Flaky, moto: Server, prefix: str
) -> None:
    async with open_store(proxy.url(prefix, attempts_max=3)) as store:
        registry = await begun(store)
        proxy.plan.extend([None, None, Fault.LOSE_ANSWER])
        made = await make(registry, Policy(), revision=1)
        assert made.revision == 2
        assert await registry.control() == made


@pytest.mark.parametrize("revision", [0, 1])
@pytest.mark.parametrize("fault", [Fault.LOSE_REQUEST, Answer(500, "InternalError")])
async def test_a_change_in_doubt_that_was_not_made_says_that_it_may_have_been(
    proxy: Flaky, unsure: Registry, fault: Fault | Answer, revision: int
) -> None:
    proxy.plan.extend([None, None, fault])
    with pytest.raises(StoreUnavailable) as raised:
        await make(unsure, Policy(), revision)
    assert raised.value.maybe_done
    assert proxy.methods == [*CHANGE_REQUESTS, "GET"]
    assert await unsure.control() == first_control("v1", NOW_US)


async def test_a_change_in_doubt_that_cannot_be_read_back_stays_in_doubt(proxy: Flaky, unsure: Registry) -> None:
    proxy.plan.extend([None, None, Fault.LOSE_ANSWER, Answer(503, "SlowDown")])
    with pytest.raises(StoreUnavailable) as raised:
        await make(unsure, Policy())
    assert raised.value.maybe_done
    control = await unsure.control()
    assert control is not None
    assert control.revision == 2


async def test_a_change_that_was_denied_was_not_made(proxy: Flaky, unsure: Registry) -> None:
    proxy.plan.extend([None, None, Answer(403, "AccessDenied")])
    with pytest.raises(StoreDenied) as raised:
        await make(unsure, Policy())
    assert not raised.value.maybe_done
    assert proxy.methods == CHANGE_REQUESTS
    assert await unsure.control() == first_control("v1", NOW_US)


@pytest.mark.parametrize("fault", [Answer(403, "AccessDenied"), Fault.LOSE_REQUEST, Fault.LOSE_ANSWER])
async def test_a_change_that_could_not_be_told_was_made_and_is_told_by_the_next(
    proxy: Flaky, unsure: Registry, fault: Fault | Answer
) -> None:
    proxy.plan.extend([None, None, None, fault])
    made = await make(unsure, Policy(mode=pb.POLICY_MODE_AUTO))
    assert made == await unsure.control()
    assert await whats(unsure) == ["policy auto", "begin with v1"]
    await make(unsure, Policy())
    assert await whats(unsure) == ["policy manual", "policy auto", "begin with v1"]


async def test_nothing_changes_while_the_change_before_cannot_be_told(proxy: Flaky, unsure: Registry) -> None:
    proxy.plan.extend([None, Answer(403, "AccessDenied")])
    with pytest.raises(StoreError):
        await make(unsure, Policy())
    assert proxy.methods == ["GET", "PUT"]
    assert await unsure.control() == first_control("v1", NOW_US)


async def test_what_was_pushed_in_doubt_can_be_pushed_again(proxy: Flaky, prefix: str) -> None:
    async with open_store(proxy.url(prefix, attempts_max=1)) as store:
        registry = Registry(store)
        await registry.push(renamed("v1"), WEIGHTS)
        requests = proxy.methods.copy()
        for number, method in enumerate(requests):
            proxy.plan.extend([*[None] * number, Fault.LOSE_ANSWER])
            with pytest.raises(StoreUnavailable) as raised:
                await registry.push(renamed(f"n{number}"), WEIGHTS)
            assert raised.value.maybe_done == (method == "PUT")
            proxy.plan.clear()
            assert (await registry.push(renamed(f"n{number}"), WEIGHTS)).version == f"n{number}"
        assert requests.count("PUT") == 2


async def test_control_bytes_are_the_ones_of_the_control_object(store: ObjectStore) -> None:
    registry = await begun(store)
    made = await make(registry, StartShadow(version="v2"))
    stored = await store.get(CONTROL_KEY)
    assert stored is not None
    assert stored.body == control_body(made)
