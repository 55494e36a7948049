"""Workers from Kubernetes: a list, then a watch, of the EndpointSlices of one headless Service.

The watch goes on from the last version that the API named, in an event or a bookmark, whenever a stream ends, and lists
anew when the API no longer knows that version (410, as a status or as an event: "Efficient detection of changes" in the
Kubernetes API concepts). The library's own Watch is not used: it ends at the first malformed event, and without
a timeout asks again with the version that is gone. Trouble is logged and tried again, for ever; meanwhile the last
listing stands.

Needs the verbs list and watch on endpointslices of discovery.k8s.io, in the Service's namespace. Never writes.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from random import Random
from typing import Any, Protocol

import aiohttp
from aiohttp.http_exceptions import LineTooLong
from kubernetes_asyncio.client import ApiClient, Configuration, DiscoveryV1Api
from kubernetes_asyncio.config import ConfigException, load_incluster_config, load_kube_config

from evercurrent.settings import RouterSettings
from evercurrent.telemetry.logs import get_logger
from router.endpoints import Ended, Malformed, Slice, Slices, parse_event, parse_list
from router.membership import Listing

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
SERVICE_NAME_LABEL = "kubernetes.io/service-name"
PAGE_SLICES_MAX = 500
REASON_BYTES_MAX = 500
QUICK_S = 1.0
"""A watch that ends sooner, and said nothing, counts as failed: else an API that hangs up would be called in a loop."""

# What a request raises for want of an answer. ConfigException: a token read again and not there. ValueError: one that
# no header can carry.
NO_ANSWER = (aiohttp.ClientError, TimeoutError, OSError, ConfigException, ValueError)

logger = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Target:
    """Which Service, and how its cluster is reached. `namespace` None: that of the credentials."""

    service: str
    namespace: str | None = None
    port_name: str | None = None
    kubeconfig: Path | None = None
    context: str | None = None


@dataclass(frozen=True, slots=True)
class Timing:
    """Times in seconds. The API ends a watch after `watch_s`; one that is silent for `grace_s` longer has hung. A list
    may take `list_s`. Pauses grow from `pause_s` to `pause_s_max`, each shortened at random by up to half."""

    watch_s: int = 60
    grace_s: float = 10.0
    list_s: float = 30.0
    connect_s: float = 10.0
    pause_s: float = 0.2
    pause_s_max: float = 30.0


def target_of(settings: RouterSettings) -> Target:
    """What the settings say of Kubernetes. They name a Service."""
    assert settings.kubernetes_service is not None
    namespace, _, service = settings.kubernetes_service.rpartition("/")
    return Target(
        service,
        namespace or None,
        settings.kubernetes_port_name,
        settings.kubernetes_kubeconfig,
        settings.kubernetes_context,
    )


class Api(Protocol):
    """What we use of the library's DiscoveryV1Api. With `_preload_content=False` the answer is aiohttp's own."""

    def list_namespaced_endpoint_slice(
        self, namespace: str, **parameters: object
    ) -> Awaitable[aiohttp.ClientResponse]: ...


class _Failed(Exception):
    """This attempt is over; another one, with credentials loaded anew, may do better. `must_list`: the version is of no
    use any more. `is_expired`: merely because it is too old."""

    def __init__(self, why: str, *, must_list: bool = False, is_expired: bool = False) -> None:
        super().__init__(why)
        self.must_list = must_list or is_expired
        self.is_expired = is_expired


class KubernetesSource:
    """The pods behind one headless Service, as workers.

    `service_account` is where a pod finds its credentials. `sleep` waits between attempts.
    """

    def __init__(
        self,
        target: Target,
        rng: Random,
        timing: Timing = Timing(),
        service_account: Path = SERVICE_ACCOUNT,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._target = target
        self._rng = rng
        self._timing = timing
        self._service_account = service_account
        self._sleep = sleep
        self._slices = Slices()
        self._skipped: set[str] = set()

    async def listings(self) -> AsyncGenerator[Listing, None]:
        """The listing now, then each other one. Holds a connection until it is closed. One call at a time."""
        self._slices = Slices()
        listed: Listing | None = None
        num_failures = 0
        while True:
            try:
                async with self._open() as (api, namespace), aclosing(self._follow(api, namespace)) as steps:
                    async for is_well in steps:
                        num_failures = 0 if is_well else num_failures
                        listing = self._listing()
                        if listing != listed:
                            listed = listing
                            yield listing
            except _Failed as failure:
                num_failures += 1
                if failure.must_list:
                    self._slices.version = None
                pause_s = 0.0 if failure.is_expired and num_failures == 1 else self._pause_s(num_failures)
                log = logger.info if pause_s == 0 else logger.warning
                log("watch interrupted", service=self._target.service, pause_s=round(pause_s, 1), why=str(failure))
                await self._sleep(pause_s)

    def _pause_s(self, num_failures: int) -> float:
        pause_s = min(self._timing.pause_s * (1 << min(num_failures - 1, 16)), self._timing.pause_s_max)
        return pause_s * self._rng.uniform(0.5, 1.0)

    def _listing(self) -> Listing:
        skipped = self._slices.skipped()
        for text in sorted(skipped - self._skipped):
            logger.warning("not a worker", why=text)
        self._skipped = skipped
        return self._slices.listing()

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[tuple[Api, str]]:
        """A client with credentials as they are now, and the namespace to watch."""
        try:
            configuration, namespace = await self._credentials()
            client = ApiClient(configuration)
        except Exception as error:  # The library lets through whatever its parsers and plugins raise.
            raise _Failed(f"no credentials: {error!r}") from error
        async with client:
            yield DiscoveryV1Api(client), namespace

    async def _credentials(self) -> tuple[Any, str]:
        """Credentials, and the namespace. Of the kubeconfig that is named, else of the pod that this is, else of the
        kubeconfig at the usual place."""
        target, configuration = self._target, Configuration()
        is_pod = bool(os.environ.get("KUBERNETES_SERVICE_HOST"))
        if is_pod and target.kubeconfig is None and target.context is None:
            account = self._service_account
            load_incluster_config(
                configuration, token_filename=str(account / "token"), cert_filename=str(account / "ca.crt")
            )
            return configuration, target.namespace or (account / "namespace").read_text().strip()
        path = target.kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config"
        loader = await load_kube_config(str(path), target.context, configuration, persist_config=False)
        return configuration, target.namespace or loader.current_context["context"].get("namespace") or "default"

    async def _follow(self, api: Api, namespace: str) -> AsyncGenerator[bool, None]:
        """Yields each time that the slices may have changed, and whether the watch proved to be well with that."""
        if self._slices.version is None:
            await self._list(api, namespace)
            yield False
        while True:
            async with aclosing(self._watch(api, namespace)) as steps:
                async for _ in steps:
                    yield True

    async def _list(self, api: Api, namespace: str) -> None:
        """List all slices, page by page. Nothing changes unless all pages come."""
        found: list[Slice] = []
        more: str | None = ""
        while more is not None:
            page = {"limit": PAGE_SLICES_MAX, "_continue": more or None}
            async with self._request(api, namespace, self._timing.list_s, **page) as answer:
                try:
                    slices, version, more = parse_list(await answer.read(), self._target.port_name)
                except Malformed as error:
                    raise _Failed(f"no list of EndpointSlices: {error}") from error
            found += slices
        if not found:
            logger.warning("no EndpointSlices", service=self._target.service, namespace=namespace)
        self._slices.replace(found, version)

    async def _watch(self, api: Api, namespace: str) -> AsyncGenerator[None, None]:
        """One stream of events, to its end. Yields after each, and at an end that is as it should be."""
        timing = self._timing
        clock = asyncio.get_running_loop().time
        started_s, is_silent = clock(), True
        async with self._request(
            api,
            namespace,
            timing.watch_s + timing.grace_s,
            watch=True,
            allow_watch_bookmarks=True,
            resource_version=self._slices.version,
            timeout_seconds=timing.watch_s,
        ) as answer:
            while line := await _line_of(answer):
                try:
                    event = parse_event(line, self._target.port_name)
                except Malformed as error:
                    logger.warning("event skipped", service=self._target.service, why=str(error))
                    continue
                if isinstance(event, Ended):
                    raise _Failed(event.text, must_list=True, is_expired=event.is_expired)
                self._slices.apply(event)
                is_silent = False
                yield
        if is_silent and clock() - started_s < QUICK_S:
            raise _Failed("the watch ended at once")
        yield

    @asynccontextmanager
    async def _request(
        self, api: Api, namespace: str, timeout_s: float, **parameters: object
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer with status 200, whose body is to be read here. What goes wrong meanwhile raises _Failed."""
        try:
            answer = await api.list_namespaced_endpoint_slice(
                namespace,
                label_selector=f"{SERVICE_NAME_LABEL}={self._target.service}",
                _preload_content=False,
                _request_timeout=aiohttp.ClientTimeout(total=timeout_s, sock_connect=self._timing.connect_s),
                **parameters,
            )
            try:
                if answer.status != HTTPStatus.OK:
                    raise _refused(answer.status, await _reason_of(answer), namespace)
                yield answer
            finally:
                answer.close()
        except NO_ANSWER as error:
            raise _Failed(f"no answer: {error!r}") from error


async def _reason_of(answer: aiohttp.ClientResponse) -> str:
    return (await answer.content.read(REASON_BYTES_MAX)).decode(errors="replace")


async def _line_of(answer: aiohttp.ClientResponse) -> bytes:
    """The next line; empty at the end."""
    try:
        return await answer.content.readline()
    except (ValueError, LineTooLong) as error:
        raise _Failed("an event is larger than can be read", must_list=True) from error


def _refused(status: int, text: str, namespace: str) -> _Failed:
    needed = (
        f"a Role in namespace {namespace} with apiGroups [discovery.k8s.io], resources [endpointslices], verbs "
        "[list, watch], and a RoleBinding of the service account to it"
    )
    match status:
        case HTTPStatus.GONE:
            return _Failed(f"410: {text}", is_expired=True)
        case HTTPStatus.UNAUTHORIZED:
            return _Failed(f"401: the credentials are not valid, and are loaded anew: {text}")
        case HTTPStatus.FORBIDDEN:
            return _Failed(f"403: the credentials do not allow this; it needs {needed}: {text}")
        case HTTPStatus.NOT_FOUND:
            return _Failed(f"404: this API server has no discovery.k8s.io/v1, or hides it for want of {needed}: {text}")
    return _Failed(f"{status}: {text}")
