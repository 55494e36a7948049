"""Model versions in the store: what is registered, which run, and who changed that (DESIGN.md, section 7).

A version is its weights and a manifest, each written once; the control object changes by compare-and-swap alone. It
says itself which change made it, and whoever makes the next one first sees to it that the audit trail has that: nothing
that was done is missing there, whoever died in between.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from contextlib import suppress

from evercurrent.errors import refused
from evercurrent.v1 import models_pb2 as pb
from evercurrent.v1.observation_pb2 import REASON_MODEL_CHANGE
from persistence.control import (
    Change,
    audit_body,
    changed,
    control_body,
    first_control,
    manifest_body,
    read_audit,
    read_control,
    read_manifest,
)
from persistence.errors import Damaged, Moved, StoreError, VersionExists
from persistence.keys import (
    AUDIT_PREFIX,
    CONTROL_KEY,
    VERSIONS_PREFIX,
    audit_key,
    is_version_name,
    manifest_key,
    versions_of_keys,
    weights_key,
)
from persistence.store import BODY_BYTES_MAX, ObjectStore, Stored, list_all

FIXED = ("class_path", "config", "weights_sha256", "description", "state")
"""What makes a version: the rest of its manifest says who pushed it when."""


class Registry:
    """The versions of one store."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    async def push(self, version: pb.ModelVersion, weights: bytes) -> pb.ModelVersion:
        """Register a version; what is registered already as the same stays as it is. Returns what is registered.

        Raises:
            ValueError: the name is none, the weights are too large or not the ones that the version names.
            VersionExists: another model is registered under that name.
            Damaged: the store has these weights already, and not as they were; nothing is registered.
            StoreError: the store fails.
        """
        if not is_version_name(version.version):
            text = "1 to 64 of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit"
            raise ValueError(f"{version.version!r} is no name of a version: {text}")
        if len(weights) > BODY_BYTES_MAX:
            raise ValueError(f"weights of {len(weights)} bytes are over {BODY_BYTES_MAX}")
        if hashlib.sha256(weights).hexdigest() != version.weights_sha256:
            raise ValueError("these weights are not the ones that the version names")
        if (found := await self.version(version.version)) is None:
            await self._store.put_if_absent(weights_key(version.weights_sha256), weights)
            await self.weights(version)
            await self._store.put_if_absent(manifest_key(version.version), manifest_body(version))
            found = await self.version(version.version)
            assert found is not None, "a manifest is never deleted"
        if unlike := [name for name in FIXED if getattr(found, name) != getattr(version, name)]:
            what = ", ".join(name.replace("_", " ") for name in unlike)
            raise VersionExists(
                f"version {version.version!r} is registered with another {what}: versions never change, "
                "so give this one another name"
            )
        return found

    async def versions(self) -> list[pb.ModelVersion]:
        """All that are registered, by name. Raises StoreError."""
        keys = [entry.key async for entry in list_all(self._store, VERSIONS_PREFIX)]
        found = await asyncio.gather(*(self.version(name) for name in sorted(versions_of_keys(keys))))
        return [version for version in found if version is not None]

    async def version(self, version: str) -> pb.ModelVersion | None:
        """One of them. Raises StoreError."""
        if not is_version_name(version):
            return None
        stored = await self._store.get(manifest_key(version))
        return None if stored is None else read_manifest(stored.body, version)

    async def weights(self, version: pb.ModelVersion) -> bytes:
        """A version's weights. Raises Damaged: they are not what was pushed; StoreError."""
        stored = await self._store.get(weights_key(version.weights_sha256))
        if stored is None or hashlib.sha256(stored.body).hexdigest() != version.weights_sha256:
            raise Damaged(f"the weights of version {version.version!r} are {'damaged' if stored else 'gone'}")
        return stored.body

    async def control(self) -> pb.ModelControl | None:
        """Which run. Raises StoreError."""
        stored = await self._store.get(CONTROL_KEY)
        return None if stored is None else read_control(stored.body)

    async def begin(self, live: str, now_us: int) -> pb.ModelControl:
        """What runs, and if nobody has said so yet: this version. Raises StoreError."""
        control = await self.control()
        if control is not None:
            return control
        await self._store.put_if_absent(CONTROL_KEY, control_body(first_control(live, now_us)))
        control = await self.control()
        assert control is not None, "the control object is never deleted"
        return control

    async def change(
        self,
        change: Change,
        who: str,
        why: str,
        revision: int,
        comparisons: Sequence[pb.Comparison],
        now_us: int,
    ) -> pb.ModelControl:
        """Change what runs; `revision` 0: whatever it is at.

        Raises:
            Refused: REASON_MODEL_CHANGE, the change does not fit what runs.
            Moved: it is not at that revision.
            StoreError: the store fails; with `maybe_done`, look whether the change was made.
        """
        if isinstance(change, pb.StartShadow | pb.Promote) and await self.version(change.version) is None:
            raise refused(REASON_MODEL_CHANGE, "version", f"version {change.version!r} is not registered")
        while True:
            stored = await self._store.get(CONTROL_KEY)
            if stored is None:
                raise refused(REASON_MODEL_CHANGE, "", "no worker has begun on this store yet")
            control = read_control(stored.body)
            if revision not in (0, control.revision):
                raise Moved(f"the models are at revision {control.revision}, not {revision}")
            await self._tell(control.change)
            new = changed(control, change, who, why, now_us, comparisons)
            if await self._swap(stored, control_body(new)):
                with suppress(StoreError):  # It is made: whoever makes the next change tells this one first.
                    await self._tell(new.change)
                return new
            if revision:
                raise Moved(f"the models were at revision {revision}, and were changed at the same time")

    async def changes(self, num: int) -> list[pb.ModelChange]:
        """The last changes, newest first. Raises StoreError."""
        control = await self.control()
        last = [] if control is None else [control.change]
        keys = [entry.key async for entry in list_all(self._store, AUDIT_PREFIX)]
        newest = sorted(keys, reverse=True)[:num]
        stored = await asyncio.gather(*(self._store.get(key) for key in newest))
        told = [read_audit(one.body, key) for key, one in zip(newest, stored, strict=True) if one is not None]
        return [*(change for change in last if not told or change.revision > told[0].revision), *told][:num]

    async def _swap(self, stored: Stored, body: bytes) -> bool:
        """Whether this body took the place of what was read. A write in doubt is settled by reading back."""
        try:
            return await self._store.put_if_match(CONTROL_KEY, body, stored.etag) is not None
        except StoreError as error:
            if error.maybe_done and await self._is_seen(body):
                return True
            raise

    async def _is_seen(self, body: bytes) -> bool:
        """Whether the control object is this one. A read that fails proves nothing: what was in doubt stays so."""
        with suppress(StoreError):
            stored = await self._store.get(CONTROL_KEY)
            return stored is not None and stored.body == body
        return False

    async def _tell(self, change: pb.ModelChange) -> None:
        await self._store.put_if_absent(audit_key(change.revision), audit_body(change))
