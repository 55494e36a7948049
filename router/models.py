"""Model versions as a router serves them: every worker gets ready, one changes the control object, all follow; what
workers add up is merged into comparisons, and the policy acts on them (DESIGN.md, section 7).

Routers keep no state of this that matters: the control object is in the store, and changes only by compare-and-swap.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import grpc.aio

from evercurrent.errors import Refused, refused
from evercurrent.sequences import compared
from evercurrent.telemetry.logs import get_logger
from evercurrent.v1 import admin_pb2, models_pb2, worker_pb2
from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1.models_pb2 import MODEL_ROLE_STANDBY, Comparison, ModelControl, VersionSums
from evercurrent.v1.worker_pb2_grpc import WorkerServiceStub
from router.core import RETRY_AFTER_MS, RoutingCore
from router.outbox import Link
from router.users import first_error, stub_of

ASK_TIMEOUT_S = 5.0
PREPARE_TIMEOUT_S = 60.0
"""A version may have to be loaded, and every resident given a state of it."""
FOLLOW_TIMEOUT_S = 10.0
POLICY_INTERVAL_S = 1.0
WATCH_INTERVAL_MS, WATCH_INTERVAL_MIN_MS = 1000, 100
CHANGES, CHANGES_MAX = 100, 1000
WHO_BYTES_MAX, WHY_BYTES_MAX = 256, 1024

T = TypeVar("T")

logger = get_logger(__name__)


@dataclass(slots=True)
class Seen:
    """What the workers say at one moment: the newest control object among them, and how the versions compare."""

    control: ModelControl
    comparisons: list[Comparison]


@dataclass(slots=True)
class _Kept:
    """What incarnations have added up beside one live version by one score: those that are gone count as they were last
    seen."""

    beside: tuple[str, int, int] = ("", 0, 0)
    sums: dict[tuple[str, str], VersionSums] = field(default_factory=dict)


class Models:
    """The answers, and the policy."""

    def __init__(self, core: RoutingCore) -> None:
        self._core = core
        self._kept = _Kept()
        self.comparisons: list[Comparison] = []
        """As the workers were asked last."""

    async def list_models(self, _: admin_pb2.ListModelsRequest) -> admin_pb2.ListModelsResponse:
        """What is registered, and what runs."""
        read = await self._ask_one(lambda worker: worker.ReadModels(_READ, timeout=ASK_TIMEOUT_S))
        response = admin_pb2.ListModelsResponse(versions=read.versions)
        if read.HasField("control"):
            response.control.CopyFrom(read.control)
        return response

    async def list_changes(self, request: admin_pb2.ListModelChangesRequest) -> admin_pb2.ListModelChangesResponse:
        """The audit trail, newest first."""
        if request.num > CHANGES_MAX:
            raise refused(pb.REASON_PROTOCOL, "num", f"{request.num} is more than {CHANGES_MAX}")
        asked = worker_pb2.ReadModelsRequest(num_changes=request.num or CHANGES)
        read = await self._ask_one(lambda worker: worker.ReadModels(asked, timeout=ASK_TIMEOUT_S))
        return admin_pb2.ListModelChangesResponse(changes=read.changes)

    async def change(self, request: admin_pb2.ChangeModelsRequest) -> admin_pb2.ChangeModelsResponse:
        """Have every worker ready, change the control object, and have every worker follow.

        Raises:
            Refused: the request is wrong, or no worker is reachable.
            grpc.aio.AioRpcError: a worker's own refusal; nothing has changed.
        """
        _check(request)
        which = request.WhichOneof("change")
        assert which is not None, "it was checked"
        began_s = time.monotonic()
        if which in ("start_shadow", "promote"):
            version = getattr(request, which).version
            asked = worker_pb2.PrepareModelRequest(version=version, to_go_live=which == "promote")
            await self._ask_all(lambda worker: worker.PrepareModel(asked, timeout=PREPARE_TIMEOUT_S))
        seen = await self.look()
        change = worker_pb2.ChangeControlRequest(
            who=request.who,
            why=request.why,
            revision=request.revision,
            comparisons=[] if seen is None else seen.comparisons,
        )
        getattr(change, which).CopyFrom(getattr(request, which))
        prepared_s = time.monotonic()
        changed = await self._ask_one(lambda worker: worker.ChangeControl(change, timeout=ASK_TIMEOUT_S))
        response = admin_pb2.ChangeModelsResponse(control=changed.control, prepare_ms=1000 * (prepared_s - began_s))
        await self._follow(changed.control.revision, prepared_s, response)
        logger.info("models changed", revision=changed.control.revision, what=changed.control.change.what)
        return response

    async def watch(
        self, request: admin_pb2.WatchComparisonRequest
    ) -> AsyncGenerator[admin_pb2.WatchComparisonResponse]:
        """How the versions compare, again and again, for ever."""
        interval_ms = request.interval_ms or WATCH_INTERVAL_MS
        if interval_ms < WATCH_INTERVAL_MIN_MS:
            raise refused(pb.REASON_PROTOCOL, "interval_ms", f"{interval_ms} is less than {WATCH_INTERVAL_MIN_MS}")
        while True:
            seen = await self.look()
            if seen is None:
                raise refused(pb.REASON_NO_STORE, "", "model versions are kept in a store, and the workers have none")
            chosen = [one for one in seen.comparisons if request.version in ("", one.sums.version)]
            yield admin_pb2.WatchComparisonResponse(
                comparisons=chosen, live=seen.control.live, revision=seen.control.revision
            )
            await asyncio.sleep(interval_ms / 1000)

    async def list_quarantined(self, _: admin_pb2.ListQuarantinedRequest) -> admin_pb2.ListQuarantinedResponse:
        """Whose states are kept as they are."""
        response = admin_pb2.ListQuarantinedResponse()
        asked = worker_pb2.QuarantinedRequest()
        answers = await self._ask_who_answers(lambda worker: worker.Quarantined(asked, timeout=ASK_TIMEOUT_S))
        for name, answer in answers.items():
            if answer is None:
                response.missing_workers.append(name)
                continue
            for user in answer.users:
                user.worker = name
                response.users.append(user)
        return response

    async def release_quarantined(
        self, request: admin_pb2.ReleaseQuarantinedRequest
    ) -> admin_pb2.ReleaseQuarantinedResponse:
        """Have one of them learn again."""
        _, index = self._core.worker_of(request.namespace, request.user_id)
        link = self._core.links.get(index)
        if link is None or link.outbox is None:
            raise refused(pb.REASON_UNAVAILABLE, "", "the user's worker is not reachable", RETRY_AFTER_MS)
        asked = worker_pb2.UnquarantineRequest(user_id=request.user_id, namespace=request.namespace)
        async with stub_of(self._core, link) as worker:
            await worker.Unquarantine(asked, timeout=ASK_TIMEOUT_S)
        return admin_pb2.ReleaseQuarantinedResponse()

    async def look(self) -> Seen | None:
        """Ask the workers what they have added up; None: they have no store.

        Raises:
            Refused: no worker answers.
        """
        answers = await self._ask_who_answers(
            lambda worker: worker.Compare(worker_pb2.CompareRequest(), timeout=ASK_TIMEOUT_S)
        )
        found = [answer for answer in answers.values() if answer is not None]
        if not found:
            raise refused(pb.REASON_UNAVAILABLE, "", "no worker answers", RETRY_AFTER_MS)
        control = max((answer.control for answer in found), key=lambda one: one.revision)
        if not control.revision:
            return None
        kept = self._kept
        if kept.beside != _beside(control):
            self._kept = kept = _Kept(_beside(control))
        score_range = 0.0
        for answer in found:
            if _beside(answer.control) != kept.beside:
                continue
            score_range = answer.score_range
            kept.sums.update({(answer.incarnation, sums.version): sums for sums in answer.versions})
        missing = [name for name, answer in answers.items() if answer is None]
        self.comparisons = _comparisons(control, kept.sums, score_range, missing)
        return Seen(control, self.comparisons)

    async def keep_policy(self) -> None:
        """Act as the policy says, for ever."""
        while True:
            await asyncio.sleep(POLICY_INTERVAL_S)
            if not any(link.status.control_revision for link in self._core.links.values()):
                continue
            try:
                seen = await self.look()
                if seen is not None and (request := decision(seen)) is not None:
                    logger.warning("the policy acts", why=request.why)
                    await self.change(request)
            except (Refused, grpc.aio.AioRpcError) as error:
                # Another router may have acted first, or a worker be away: there is a next time.
                logger.warning("the policy could not act", why=str(error))

    async def _follow(self, revision: int, began_s: float, response: admin_pb2.ChangeModelsResponse) -> None:
        """Have all workers follow, and say who does, and when."""
        asked = worker_pb2.FollowControlRequest(revision=revision)
        took_ms: dict[str, float] = {}

        async def follow(link: Link) -> None:
            async with stub_of(self._core, link) as worker:
                await worker.FollowControl(asked, timeout=FOLLOW_TIMEOUT_S)
            took_ms[link.name] = 1000 * (time.monotonic() - began_s)

        links = self._reachable()
        answers = await asyncio.gather(*(follow(link) for link in links), return_exceptions=True)
        for link, answer in zip(links, answers, strict=True):
            if isinstance(answer, grpc.aio.AioRpcError):
                logger.warning("a worker does not follow yet", worker=link.name, why=answer.details())
                response.missing_workers.append(link.name)
            elif isinstance(answer, BaseException):
                raise answer
            else:
                response.workers.add(worker=link.name, took_ms=took_ms[link.name])
        response.change_ms = max(took_ms.values(), default=0.0)

    def _reachable(self) -> list[Link]:
        links = [link for link in self._core.links.values() if link.outbox is not None]
        if not links:
            raise refused(pb.REASON_UNAVAILABLE, "", "no worker is reachable", RETRY_AFTER_MS)
        return links

    async def _ask_one(self, ask: Callable[[WorkerServiceStub], Awaitable[T]]) -> T:
        """What any worker answers: it speaks for the store."""
        async with stub_of(self._core, self._reachable()[0]) as worker:
            return await ask(worker)

    async def _ask_all(self, ask: Callable[[WorkerServiceStub], Awaitable[T]]) -> None:
        """Every worker that is reachable. Raises its error if one refuses."""

        async def one(link: Link) -> None:
            async with stub_of(self._core, link) as worker:
                await ask(worker)

        with first_error():
            async with asyncio.TaskGroup() as tasks:
                for link in self._reachable():
                    tasks.create_task(one(link))

    async def _ask_who_answers(self, ask: Callable[[WorkerServiceStub], Awaitable[T]]) -> dict[str, T | None]:
        """What each worker answers, by name; None of those that do not."""

        async def one(link: Link) -> T | None:
            if link.outbox is None:
                return None
            try:
                async with stub_of(self._core, link) as worker:
                    return await ask(worker)
            except grpc.aio.AioRpcError as error:
                logger.info("a worker does not answer", worker=link.name, why=error.details())
                return None

        links = list(self._core.links.values())
        answers = await asyncio.gather(*(one(link) for link in links))
        return {link.name: answer for link, answer in zip(links, answers, strict=True)}


def decision(seen: Seen) -> admin_pb2.ChangeModelsRequest | None:
    """What the policy does, if anything."""
    control = seen.control
    if control.policy.mode != models_pb2.POLICY_MODE_AUTO:
        return None
    for one in seen.comparisons:
        if one.sums.role == MODEL_ROLE_STANDBY:
            why = regression(one, control.policy.margin)
            if why:
                rollback = models_pb2.Rollback(drop=True, **{"from": control.live})
                return admin_pb2.ChangeModelsRequest(rollback=rollback, who="auto", why=why, revision=control.revision)
        elif one.verdict == models_pb2.VERDICT_BETTER and one.score.low > control.policy.margin:
            why = f"{one.sums.version} is better by {_said(one.score)} over {one.sums.score.count} events"
            promote = models_pb2.Promote(version=one.sums.version)
            return admin_pb2.ChangeModelsRequest(promote=promote, who="auto", why=why, revision=control.revision)
    return None


def regression(one: Comparison, margin: float) -> str:
    """Why the live version is provably worse than its standby; empty: it is not."""
    ways = {
        "its scores are worse": (one.score, margin),
        "more of its updates are refused": (one.rejections, 0.0),
        "it raises more errors": (one.failures, 0.0),
        "its steps take too long": (one.slowness, 0.0),
    }
    for what, (interval, bound) in ways.items():
        if interval.low > bound:
            return f"{one.live} regresses beside {one.sums.version}: {what}, by {_said(interval)}"
    return ""


def _beside(control: ModelControl) -> tuple[str, int, int]:
    """Beside what, since when and by which score versions are compared."""
    return control.live, control.live_since_us, control.policy.score


def _said(interval: models_pb2.Interval) -> str:
    return f"{interval.mean:.4f} [{interval.low:.4f}, {interval.high:.4f}]"


def _comparisons(
    control: ModelControl,
    kept: Mapping[tuple[str, str], VersionSums],
    score_range: float,
    missing: Sequence[str],
) -> list[Comparison]:
    levels = {plan.version: plan.level for plan in control.shadows}
    if control.standby:
        levels[control.standby] = control.policy.level
    comparisons = []
    for version, level in levels.items():
        parts = [sums for (_, of), sums in kept.items() if of == version]
        if not parts:
            continue
        one = compared(control.live, parts, level, score_range)
        one.missing_workers.extend(missing)
        one.time_us = time.time_ns() // 1000
        one.revision = control.revision
        comparisons.append(one)
    return comparisons


def _check(request: admin_pb2.ChangeModelsRequest) -> None:
    if request.WhichOneof("change") is None:
        raise refused(pb.REASON_PROTOCOL, "change", "is required")
    size = len(request.who.encode())
    if not 1 <= size <= WHO_BYTES_MAX:
        raise refused(pb.REASON_PROTOCOL, "who", f"has {size} bytes; 1 to {WHO_BYTES_MAX} are taken")
    if (size := len(request.why.encode())) > WHY_BYTES_MAX:
        raise refused(pb.REASON_PROTOCOL, "why", f"has {size} bytes; at most {WHY_BYTES_MAX} are taken")


_READ = worker_pb2.ReadModelsRequest(versions=True)
