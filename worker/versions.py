"""Which model versions run in this worker: it follows the control object of the store (DESIGN.md, section 7).

The object is looked at now and then, and at once when a router says that it changed. What it says is applied to the
incarnation between two batches: followers come and go, and at most one of them swaps places with the live version.
A version that is to go live is prepared before: loaded, and taught by every user's events (worker.followers).
"""

from __future__ import annotations

import asyncio
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

from evercurrent.describe import describe
from evercurrent.errors import Refused, refused
from evercurrent.matching import mismatch
from evercurrent.model import Model
from evercurrent.models.loading import ModelLoadError, parse_model
from evercurrent.models.versions import version_of
from evercurrent.scores import Scorer as Scores
from evercurrent.telemetry.logs import get_logger
from evercurrent.v1 import models_pb2
from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1.models_pb2 import MODEL_ROLE_SHADOW, MODEL_ROLE_STANDBY, ModelControl
from evercurrent.wire import Layout, Records
from persistence.errors import StoreError
from persistence.keys import is_version_name
from persistence.registry import Registry
from persistence.store import BODY_BYTES_MAX
from worker.followers import Scorer
from worker.incarnation import Incarnation
from worker.learner import batch_of, migration_of, probe
from worker.parts import Floats, Shapes

LOOK_INTERVAL_S = 2.0
TURN_S, SHORT_TURN_S = 0.005, 0.0005
"""The interpreter's own switch interval, and the one while a model is imported."""
PREPARED_S = 30.0
"""A version that was prepared to go live and did not is back in its old role after so long."""

logger = get_logger(__name__)


class Versions:
    """The versions of one process. Without a registry only its own model runs.

    `begin` makes an incarnation whose live version is the one given.
    """

    def __init__(
        self,
        model: Model,
        version: str,
        registry: Registry | None,
        begin: Callable[[str, Model], Incarnation],
    ) -> None:
        self.model = model
        """The worker's own: what it was started with."""
        self.registry = registry
        self.control: ModelControl | None = None
        self._version = version
        self._begin = begin
        self._models: dict[str, Model] = {version: model}
        self._shapes: dict[str, Shapes] = {version: dict(model.state_shapes)}
        self._incarnation: Incarnation | None = None
        self._turn = asyncio.Lock()
        self._prepared: asyncio.TimerHandle | None = None

    async def open(self) -> None:
        """Register the worker's own model, and load what the control object names.

        Raises:
            StoreError: the registry fails, or has another model under this one's version.
            ModelLoadError: the live version cannot run here, or this worker's own has no name for a version.
        """
        if self.registry is None:
            return
        own, weights = version_of(self.model, self._version, "evercurrent", "a worker's own model", _now_us())
        if not is_version_name(self._version):
            raise ModelLoadError(f"{self._version!r} is no name of a version: give one with model_version")
        if len(weights) > BODY_BYTES_MAX:
            logger.warning("weights too large to be registered: every worker has to be started with them")
        else:
            await self.registry.push(own, weights)
        control = await self.registry.begin(self._version, _now_us())
        await self._learn_shapes()
        await self._load_all(control)
        if control.live != self._version:
            logger.info("the live version is not this worker's own", live=control.live, own=self._version)
        self.control = control

    def begin(self) -> Incarnation:
        """A new incarnation, on the right versions."""
        live = self._version if self.control is None else self.control.live
        self._incarnation = self._begin(live, self._models[live])
        if self.control is not None:
            self._apply(self.control)
        return self._incarnation

    async def watch(self) -> None:
        """Look at the control object, for ever."""
        while True:
            await asyncio.sleep(LOOK_INTERVAL_S)
            try:
                await self.follow(0)
            except (ModelLoadError, StoreError, Refused) as error:
                logger.warning("the control object cannot be followed", why=str(error))

    async def follow(self, revision: int) -> int:
        """Follow the control object, at this revision or a later one; the revision that is followed.

        Raises:
            StoreError: it cannot be read.
            ModelLoadError: a version cannot be had here; nothing has changed.
            Refused: it is not at that revision yet.
        """
        if self.registry is None:
            return 0
        async with self._turn:
            if revision and self.control is not None and self.control.revision >= revision:
                return self.control.revision
            control = await self.registry.control()
            if control is None or control.revision < revision:
                raise refused(pb.REASON_UNAVAILABLE, "revision", f"the store does not say {revision} yet", 100)
            if self.control is None or control.revision > self.control.revision:
                await self._load_all(control)
                self._apply(control)
            return control.revision

    async def prepare(self, version: str, to_go_live: bool) -> None:
        """Have a version ready; if it is to go live, have it learn from everybody from now on, for a while.

        Raises:
            ModelLoadError: it cannot run here.
            StoreError: it cannot be read.
        """
        async with self._turn:
            model = await self._load(version)
            engine = self._running.engine
            if not to_go_live or version == engine.live.version:
                return
            if engine.followers.get(version) is None:
                engine.residents.shapes.update(self._shapes)
                engine.follow(version, model, MODEL_ROLE_SHADOW, 1.0, starts_anew=False)
            for _ in engine.followers.fill(version):
                await asyncio.sleep(0)
            if self._prepared is not None:
                self._prepared.cancel()
            self._prepared = asyncio.get_running_loop().call_later(PREPARED_S, self._unprepare)

    def score_range(self) -> float:
        """The greatest difference of two scores; 0: there are none."""
        return 0.0 if self.control is None else self._scorer(self.control)[1]

    def check_scores(self, policy: models_pb2.Policy) -> None:
        """See that a policy's scores can be had. Raises Refused."""
        try:
            scorer_of(policy, self.model)
        except ValueError as error:
            raise refused(pb.REASON_MODEL_CHANGE, "policy.score", str(error)) from error

    def _scorer(self, control: ModelControl) -> tuple[Scorer | None, float]:
        try:
            return scorer_of(control.policy, self._models[control.live])
        except ValueError as error:
            if _beside(control):
                logger.warning("versions are not compared", why=str(error))
            return None, 0.0

    @property
    def _running(self) -> Incarnation:
        assert self._incarnation is not None, "the first incarnation has not begun"
        return self._incarnation

    def _unprepare(self) -> None:
        self._prepared = None
        if self.control is not None:
            self._apply(self.control)

    async def _learn_shapes(self) -> None:
        """Know the tensors of all registered versions: records may be of any."""
        assert self.registry is not None, "there is no registry"
        for found in await self.registry.versions():
            self._shapes[found.version] = shapes_of(found)

    async def _load(self, version: str) -> Model:
        """A version's model. Raises ModelLoadError or StoreError."""
        if (model := self._models.get(version)) is not None:
            return model
        assert self.registry is not None, "only the worker's own model runs without a registry"
        found = await self.registry.version(version)
        if found is None:
            raise ModelLoadError(f"version {version!r} is not registered")
        weights = await self.registry.weights(found)
        with _short_turns():
            model = await asyncio.to_thread(self._tried, version, weights, found.class_path)
        self._models[version] = model
        self._shapes[version] = shapes_of(found)
        logger.info("loaded", version=version, class_path=found.class_path)
        return model

    def _tried(self, version: str, weights: bytes, class_path: str) -> Model:
        """A version that has run once, and made its first state of another's. Whatever it raises is a refusal: this is
        foreign code. Raises ModelLoadError."""
        try:
            model = parse_model(weights, class_path)
            why = mismatch(describe(self.model), describe(model))
            probe(model, Layout.of(describe(model)))
            initial_BD = self.model.initial_state().detach().numpy()[None]
            migration_of(model)(initial_BD, self._shapes[self._version])
        except ModelLoadError:
            raise
        except Exception as error:
            raise ModelLoadError(f"version {version!r} cannot run: {type(error).__name__}: {error}") from error
        if why:
            raise ModelLoadError(f"version {version!r} does not fit what is served here: {why}")
        return model

    async def _load_all(self, control: ModelControl) -> None:
        """Have all that a control object names; one beside the live version that cannot run here is left out, and told.
        Raises ModelLoadError or StoreError: the live version cannot."""
        await self._load(control.live)
        for version in _beside(control):
            try:
                await self._load(version)
            except (ModelLoadError, StoreError):
                logger.exception("a version that does not serve cannot run here", version=version)

    def _apply(self, control: ModelControl) -> None:
        """Have the incarnation run what the control object says, from now on."""
        engine = self._running.engine
        before = self.control
        engine.residents.shapes.update(self._shapes)
        if control.live != engine.live.version:
            if engine.followers.get(control.live) is None:
                engine.follow(control.live, self._models[control.live], MODEL_ROLE_SHADOW, 1.0, starts_anew=False)
            engine.go_live(control.live)
            logger.info("live", version=control.live, revision=control.revision)
        wanted = {plan.version: plan for plan in control.shadows}
        for version in [follower.version for follower in engine.followers]:
            if version != control.standby and version not in wanted:
                engine.unfollow(version)
        for version in _beside(control):
            plan = wanted.get(version)
            role = MODEL_ROLE_SHADOW if plan else MODEL_ROLE_STANDBY
            fraction = plan.fraction if plan else 1.0
            if engine.followers.get(version) is not None:
                engine.followers.assign(version, role, fraction)
            elif version in self._models:
                starts_anew = plan is not None and plan.start == models_pb2.SHADOW_START_INITIAL
                engine.follow(version, self._models[version], role, fraction, starts_anew)
        engine.followers.slower_max = control.policy.slower_max
        engine.followers.scorer = self._scorer(control)[0]
        if before is None or before.policy.score != control.policy.score:
            engine.followers.begin_anew()
        self.control = control
        self._running.control_revision = control.revision
        self._running.put_status()


def _beside(control: ModelControl) -> list[str]:
    """The versions that run beside the live one."""
    standby = [control.standby] if control.standby else []
    return [*standby, *(plan.version for plan in control.shadows)]


def shapes_of(version: models_pb2.ModelVersion) -> Shapes:
    """The tensors of a version's states."""
    return {tensor.name: tuple(tensor.shape) for tensor in version.state}


@contextmanager
def _short_turns() -> Iterator[None]:
    """Threads take turns more often meanwhile: importing a model holds the interpreter, and users wait."""
    sys.setswitchinterval(SHORT_TURN_S)
    try:
        yield
    finally:
        sys.setswitchinterval(TURN_S)


def scorer_of(policy: models_pb2.Policy, live: Model) -> tuple[Scorer | None, float]:
    """What scores predictions, and the greatest score.

    Raises:
        ValueError: this model's predictions cannot be scored so.
    """
    if policy.score != models_pb2.SCORE_MODEL:
        scores = Scores(policy.score, describe(live))
        return scores, scores.range
    score_max = live.score_max
    if not 0 < score_max < math.inf:
        raise ValueError(f"{live.name} has no score of its own, or does not say score_max")
    layout = Layout.of(describe(live))

    def score(prediction_NP: Floats, events: Records) -> NDArray[np.float64]:
        with torch.no_grad():
            scores = live.score(torch.from_numpy(prediction_NP), batch_of(events, layout)).double().numpy()
        bounded: NDArray[np.float64] = np.clip(np.nan_to_num(scores, nan=score_max), 0, score_max)
        return bounded

    return score, score_max


def _now_us() -> int:
    return time.time_ns() // 1000
