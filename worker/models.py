"""What routers ask of a worker's model versions: the RPCs of worker.proto from ReadModels to Unquarantine."""

from __future__ import annotations

import time
from collections.abc import Callable

import grpc

from evercurrent.errors import refused
from evercurrent.models.loading import ModelLoadError
from evercurrent.v1 import admin_pb2, models_pb2, worker_pb2
from evercurrent.v1 import observation_pb2 as pb
from persistence.errors import Moved
from persistence.registry import Registry
from worker.incarnation import Incarnation
from worker.users import checked_user, unary_method
from worker.versions import Versions

LISTED_MAX = 10_000


class Models:
    """The answers, of one process's versions and of its incarnation of the moment."""

    def __init__(self, versions: Versions, current: Callable[[], Incarnation]) -> None:
        self._versions = versions
        self._current = current

    def methods(self) -> dict[str, grpc.RpcMethodHandler]:
        """The handlers."""
        return {
            "ReadModels": unary_method(self.read, worker_pb2.ReadModelsRequest),
            "PrepareModel": unary_method(self.prepare, worker_pb2.PrepareModelRequest),
            "ChangeControl": unary_method(self.change, worker_pb2.ChangeControlRequest),
            "FollowControl": unary_method(self.follow, worker_pb2.FollowControlRequest),
            "Compare": unary_method(self.compare, worker_pb2.CompareRequest),
            "Quarantined": unary_method(self.quarantined, worker_pb2.QuarantinedRequest),
            "Unquarantine": unary_method(self.unquarantine, worker_pb2.UnquarantineRequest),
        }

    async def read(self, request: worker_pb2.ReadModelsRequest) -> worker_pb2.ReadModelsResponse:
        """What the store says."""
        registry = self._versions.registry
        if registry is None:
            return worker_pb2.ReadModelsResponse()
        return worker_pb2.ReadModelsResponse(
            control=await registry.control(),
            versions=await registry.versions() if request.versions else (),
            changes=await registry.changes(request.num_changes) if request.num_changes else (),
        )

    async def prepare(self, request: worker_pb2.PrepareModelRequest) -> worker_pb2.PrepareModelResponse:
        """Have a version ready."""
        self._registry()
        try:
            await self._versions.prepare(request.version, request.to_go_live)
        except (ModelLoadError, ValueError) as error:
            raise refused(pb.REASON_MODEL_CHANGE, "version", str(error)) from error
        return worker_pb2.PrepareModelResponse()

    async def change(self, request: worker_pb2.ChangeControlRequest) -> worker_pb2.ChangeControlResponse:
        """Change the control object."""
        which = request.WhichOneof("change")
        if which is None:
            raise refused(pb.REASON_PROTOCOL, "change", "is required")
        change = getattr(request, which)
        if isinstance(change, models_pb2.Policy):
            self._versions.check_scores(change)
        elif self._versions.control is not None and which == "start_shadow":
            self._versions.check_scores(self._versions.control.policy)
        try:
            control = await self._registry().change(
                change, request.who, request.why, request.revision, request.comparisons, time.time_ns() // 1000
            )
        except Moved as error:
            raise refused(pb.REASON_REVISION, "revision", str(error)) from error
        return worker_pb2.ChangeControlResponse(control=control)

    async def follow(self, request: worker_pb2.FollowControlRequest) -> worker_pb2.FollowControlResponse:
        """Follow the control object, at once."""
        self._registry()
        try:
            revision = await self._versions.follow(request.revision)
        except (ModelLoadError, ValueError) as error:
            raise refused(pb.REASON_MODEL_CHANGE, "revision", str(error)) from error
        return worker_pb2.FollowControlResponse(revision=revision)

    async def compare(self, _: worker_pb2.CompareRequest) -> worker_pb2.CompareResponse:
        """What the versions have added up."""
        incarnation = self._current()
        engine = incarnation.engine
        live = models_pb2.VersionSums(
            version=engine.live.version,
            role=models_pb2.MODEL_ROLE_LIVE,
            fraction=1.0,
            users=len(engine.slab),
            updates=engine.num_updates,
            rejected=engine.num_rejected,
            steps=engine.num_steps,
            step_us=engine.steps_us,
        )
        return worker_pb2.CompareResponse(
            incarnation=incarnation.name,
            control=self._versions.control,
            score_range=self._versions.score_range(),
            versions=[live, *(engine.followers.sums_of(follower) for follower in engine.followers)],
        )

    async def quarantined(self, __: worker_pb2.QuarantinedRequest) -> worker_pb2.QuarantinedResponse:
        """Whose states are kept as they are."""
        engine = self._current().engine
        response = worker_pb2.QuarantinedResponse()
        for row in engine.quarantined()[:LISTED_MAX].tolist():
            namespace, _, user_id = engine.slab.key(row).partition("\0")
            version = engine.slab.version.item(row)
            response.users.append(admin_pb2.QuarantinedUser(user_id=user_id, namespace=namespace, version=version))
        return response

    async def unquarantine(self, request: worker_pb2.UnquarantineRequest) -> worker_pb2.UnquarantineResponse:
        """Have a user learn again."""
        engine = self._current().engine
        row = engine.slab.find(checked_user(request.namespace, request.user_id))
        if row is None or row not in engine.quarantined():
            raise refused(pb.REASON_NOT_QUARANTINED, "user_id", f"{request.user_id!r} is not quarantined")
        engine.unquarantine(row)
        return worker_pb2.UnquarantineResponse()

    def _registry(self) -> Registry:
        if self._versions.registry is None:
            text = "model versions are kept in a store, and this worker has none"
            raise refused(pb.REASON_NO_STORE, "", text)
        return self._versions.registry
