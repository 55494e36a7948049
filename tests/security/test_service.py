"""A service that asks who calls: real processes, certificates and tokens."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

import evercurrent
from evercurrent.cli.cluster import Cluster, ClusterError, run_cluster
from evercurrent.client import AccessDenied, InvalidRequest
from evercurrent.security.cluster import Prover
from evercurrent.v1 import admin_pb2, admin_pb2_grpc, session_pb2, session_pb2_grpc, worker_pb2, worker_pb2_grpc
from evercurrent.v1 import observation_pb2 as pb
from tests.security.authority import AUDIENCE, Authority, Issuer, Pair, jwks

EVENT: dict[str, Any] = {"ids": [1, 1], "outcome": 1.0}
SECRET = b"what the cluster alone knows"


@dataclass(frozen=True)
class Secured:
    """A service, and all that it takes to call it."""

    cluster: Cluster
    authority: Authority
    issuer: Issuer
    client: Pair
    folder: Path

    @property
    def address(self) -> str:
        return self.cluster.address

    @property
    def tls(self) -> evercurrent.Tls:
        return evercurrent.Tls(self.authority.ca, self.client.certificate, self.client.key)

    def channel(self, address: str = "", *, ca: Path | None = None, shows: bool = True, name: str = "") -> grpc.Channel:
        """For stubs."""
        tls = evercurrent.Tls(
            ca or self.authority.ca,
            self.client.certificate if shows else None,
            self.client.key if shows else None,
            name,
        )
        return grpc.secure_channel(address or self.address, tls.credentials(), options=tls.options())

    def metadata(self, sub: str, scope: str = "", **claims: Any) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.issuer.token(sub, scope, **claims)}"),)


def settings_of(folder: Path, server: Pair, authority: Authority, more: str = "", tokens: bool = True) -> Path:
    both = (
        f'tls_certificate = "{server.certificate}"\ntls_key = "{server.key}"\ntls_ca = "{authority.ca}"\n'
        f'tls_client_ca = "{authority.ca}"\ntls_server_name = "workers"\ncluster_token_file = "{folder / "token"}"\n'
    )
    asked = f'token_jwks = "{folder / "jwks.json"}"\ntoken_audience = "{AUDIENCE}"\n' if tokens else ""
    config = folder / "config.toml"
    config.write_text(f"[worker]\n{both}\n[router]\n{both}{asked}{more}\n")
    return config


@contextmanager
def secured(folder: Path, more: str = "", num_workers: int = 1, tokens: bool = True) -> Iterator[Secured]:
    authority, issuer = Authority(folder), Issuer()
    server = authority.issue("server", ["127.0.0.1", "localhost", "workers"])
    client = authority.issue("client", ["a client"])
    (folder / "jwks.json").write_bytes(jwks(issuer))
    (folder / "token").write_bytes(SECRET)
    config = settings_of(folder, server, authority, more, tokens)
    store = f"sqlite:{folder / 'store.db'}"
    with run_cluster(num_workers=num_workers, store=store, config=config) as cluster:
        yield Secured(cluster, authority, issuer, client, folder)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    with secured(tmp_path_factory.mktemp("secured")) as service:
        yield service


def code_of(call: Any, request: Any, **options: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=20, **options)
    code: grpc.StatusCode = caught.value.code()
    return code


def open_until(ended: threading.Event, opening: session_pb2.SessionRequest) -> Iterator[session_pb2.SessionRequest]:
    """The requests of a stream that is opened and stays open until then."""
    yield opening
    ended.wait()


def observing(user: str) -> session_pb2.ObserveRequest:
    return session_pb2.ObserveRequest(user_id=user, observation=pb.Observation(ids=[1, 1], value=1.0))


async def test_users_go_on_over_tls_when_a_worker_dies(tmp_path: Path) -> None:
    with secured(tmp_path, num_workers=2) as service:
        tokens = iter(service.issuer.token("ann", number=number) for number in range(100))
        client = evercurrent.connect(service.address, tls=service.tls, token=lambda: next(tokens))
        async with client, client.session("ann") as ann:
            for expected in range(1, 6):
                assert (await ann.observe(**EVENT)).version == expected
            await ann.durable()
            with service.channel() as channel:
                ring = admin_pb2_grpc.AdminServiceStub(channel).GetRing(
                    admin_pb2.GetRingRequest(user_id="ann"), metadata=service.metadata("op", "admin")
                )
            service.cluster.kill(ring.user_worker)
            for expected in range(6, 9):
                assert (await ann.observe(**EVENT)).version == expected
            await ann.durable()
        # A worker that comes back takes its users from the other: workers know each other too.
        service.cluster.restart(ring.user_worker)
        async with evercurrent.connect(service.address, tls=service.tls, token=service.issuer.token("ann")) as client:
            assert (await client.observe("ann", **EVENT)).version == 9


def test_a_token_is_for_its_subject(service: Secured) -> None:
    with service.channel() as channel:
        stub = session_pb2_grpc.SessionServiceStub(channel)
        assert stub.Observe(observing("ann"), metadata=service.metadata("ann"), timeout=20).result.version
        for user, metadata, code in (
            ("ann", (), grpc.StatusCode.UNAUTHENTICATED),
            ("ann", (("authorization", "Basic YTpi"),), grpc.StatusCode.UNAUTHENTICATED),
            ("ann", service.metadata("ann", aud="another"), grpc.StatusCode.UNAUTHENTICATED),
            ("ann", service.metadata("ann", lives_s=-60), grpc.StatusCode.UNAUTHENTICATED),
            ("ann", (("authorization", f"Bearer {Issuer().token('ann')}"),), grpc.StatusCode.UNAUTHENTICATED),
            ("ann", service.metadata("bob"), grpc.StatusCode.PERMISSION_DENIED),
            ("ann", service.metadata("bob", "admin"), grpc.StatusCode.PERMISSION_DENIED),
        ):
            assert code_of(stub.Observe, observing(user), metadata=metadata) is code
        assert stub.Observe(observing("ann"), metadata=service.metadata("backend", "service"), timeout=20)


def test_streams_are_asked_as_calls_are(service: Secured) -> None:
    with service.channel() as channel:
        stub = session_pb2_grpc.SessionServiceStub(channel)

        def session(user: str, metadata: Any) -> Any:
            opening = session_pb2.SessionRequest(open=session_pb2.SessionOpen(user_id=user))
            return next(stub.Session(iter([opening]), metadata=metadata, timeout=20))

        assert session("ann", service.metadata("ann")).opened.session_id
        assert code_of(lambda one, timeout: session(one, ()), "ann") is grpc.StatusCode.UNAUTHENTICATED
        denied = code_of(lambda one, timeout: session(one, service.metadata("bob")), "ann")
        assert denied is grpc.StatusCode.PERMISSION_DENIED
        frame = session_pb2.ExchangeFrame(
            opens=[session_pb2.TagOpen(tag=0, user_id="bob"), session_pb2.TagOpen(tag=1, user_id="ann")]
        )
        requests = [
            session_pb2.ExchangeRequest(open=session_pb2.ExchangeOpen()),
            session_pb2.ExchangeRequest(frame=frame),
        ]
        answers: dict[int, Any] = {}
        for response in stub.Exchange(iter(requests), metadata=service.metadata("bob"), timeout=20):
            answers |= {opened.tag: opened for opened in response.frame.opens}
        assert answers[0].opened.session_id
        assert answers[1].rejection.reason == pb.REASON_PERMISSION


def test_admin_calls_need_their_scope(service: Secured) -> None:
    with service.channel() as channel:
        stub = admin_pb2_grpc.AdminServiceStub(channel)
        for call, request in (
            (stub.ListWorkers, admin_pb2.ListWorkersRequest()),
            (stub.ForgetUser, admin_pb2.ForgetUserRequest(user_id="ann")),
            (stub.GetLatency, admin_pb2.GetLatencyRequest()),
        ):
            denied = code_of(call, request, metadata=service.metadata("ann", "service"))
            assert denied is grpc.StatusCode.PERMISSION_DENIED
            assert call(request, metadata=service.metadata("op", "admin"), timeout=20)
        assert code_of(stub.ListWorkers, admin_pb2.ListWorkersRequest()) is grpc.StatusCode.UNAUTHENTICATED
        assert stub.DescribeModel(admin_pb2.DescribeModelRequest(), metadata=service.metadata("ann"), timeout=20)
        streaming = stub.WatchComparison(admin_pb2.WatchComparisonRequest(), metadata=service.metadata("ann"))
        assert code_of(lambda _, timeout: next(streaming), None) is grpc.StatusCode.PERMISSION_DENIED


def test_certificates_are_asked_for_and_checked(service: Secured, tmp_path: Path) -> None:
    stranger = Authority(tmp_path, "stranger")
    pair = stranger.issue("eve", ["eve"])
    router = service.address
    worker = service.cluster.workers["worker-0"]
    for address, name in ((router, ""), (worker, "workers")):
        with service.channel(address, name=name) as channel:
            health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=20)
            assert health.status == health_pb2.HealthCheckResponse.SERVING
        impostor = replace(service, client=pair)
        for wrong in (
            service.channel(address, shows=False, name=name),
            service.channel(address, ca=stranger.ca, name=name),
            impostor.channel(address, name=name),
            grpc.insecure_channel(address),
            service.channel(address, name="another.host"),
        ):
            with wrong as channel:
                check = health_pb2_grpc.HealthStub(channel).Check
                assert code_of(check, health_pb2.HealthCheckRequest()) is grpc.StatusCode.UNAVAILABLE


def test_workers_take_calls_of_the_cluster_alone(service: Secured) -> None:
    """A certificate of the same authority is not enough, nor is a proof for another method, another worker, or used."""
    release = worker_pb2.ReleaseRequest(incarnation="worker-0/x")
    asked = worker_pb2.TopUsersRequest(num=1)
    method = "/evercurrent.v1.WorkerService/TopUsers"
    with service.channel(service.cluster.workers["worker-0"], name="workers") as channel:
        stub = worker_pb2_grpc.WorkerServiceStub(channel)

        def proof(of: str = method, worker: str = "worker-0", secret: bytes = SECRET) -> tuple[tuple[str, str], ...]:
            return Prover(lambda: (secret,), worker).metadata(of)

        denied = grpc.StatusCode.UNAUTHENTICATED
        assert code_of(stub.TopUsers, asked) is denied
        assert code_of(stub.TopUsers, asked, metadata=service.metadata("op", "admin service")) is denied
        for wrong in (proof(f"{method}x"), proof(worker="worker-1"), proof(secret=b"a guess of somebody's")):
            assert code_of(stub.TopUsers, asked, metadata=wrong) is denied
        once = proof()
        stub.TopUsers(asked, metadata=once, timeout=20)
        assert code_of(stub.TopUsers, asked, metadata=once) is denied
        assert code_of(lambda one, timeout: next(stub.Release(one, timeout=timeout)), release) is denied
        opening = worker_pb2.LinkRequest(open=worker_pb2.LinkOpen(protocol_version=1, router="eve", slots=4096))
        assert code_of(lambda one, timeout: next(stub.Link(iter([one]), timeout=timeout)), opening) is denied


async def test_direct_mode_needs_the_clusters_token(service: Secured) -> None:
    worker = service.cluster.workers["worker-0"]
    tls = replace(service.tls, server_name="workers")
    secret = SECRET.decode()
    async with evercurrent.connect(f"worker-0={worker}", mode="direct", tls=tls, cluster_token=secret) as client:
        assert (await client.observe("direct", **EVENT)).version == 1
    wrong = evercurrent.connect(f"worker-0={worker}", mode="direct", tls=tls, cluster_token="not the cluster's one")
    async with wrong as client:
        with pytest.raises(evercurrent.client.Unavailable):
            await client.observe("direct", timeout_s=1.0, **EVENT)


async def test_a_stream_ends_with_its_token_and_the_client_comes_back(service: Secured) -> None:
    asked = asyncio.Event()
    num_given = 0

    def token() -> str:
        """The first two, of the stream and for the model, count for one second more: the leeway is five."""
        nonlocal num_given
        num_given += 1
        if num_given > 2:
            asked.set()
        return service.issuer.token("eva", lives_s=1.0 - 5 if num_given <= 2 else 600.0)

    client = evercurrent.connect(service.address, tls=service.tls, token=token)
    async with client, client.session("eva") as eva:
        first = await eva.observe(**EVENT)
        await asked.wait()
        assert (await eva.observe(**EVENT)).version == first.version + 1
    with service.channel() as channel:
        opening = session_pb2.SessionRequest(open=session_pb2.SessionOpen(user_id="eva"))
        metadata = service.metadata("eva", lives_s=1.0 - 5)
        stub = session_pb2_grpc.SessionServiceStub(channel)

        ended = threading.Event()
        call = stub.Session(open_until(ended, opening), metadata=metadata, timeout=30)
        assert next(call).opened.session_id
        with pytest.raises(grpc.RpcError) as caught:
            next(call)
        ended.set()
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    trailers = dict(caught.value.trailing_metadata())
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.reason == "TOKEN_EXPIRED"


async def test_the_client_says_who_is_refused(service: Secured) -> None:
    async with evercurrent.connect(service.address, tls=service.tls, token=service.issuer.token("ann")) as client:
        with pytest.raises(AccessDenied, match="another user"):
            await client.observe("bob", **EVENT)
    with pytest.raises(InvalidRequest, match="in the clear"):
        evercurrent.connect("router.example:7600", token="t")
    with pytest.raises(InvalidRequest, match="no use without each other"):
        evercurrent.Tls(key="key.pem")


async def test_certificates_change_under_an_open_stream(tmp_path: Path) -> None:
    with secured(tmp_path, tokens=False) as service:
        async with evercurrent.connect(service.address, tls=service.tls) as client, client.session("ann") as ann:
            await ann.observe(**EVENT)
            # Another authority signs from now on; who connects anew knows it alone, and the stream goes on.
            changed = Authority(tmp_path, "changed")
            old = service.authority.ca.read_bytes()
            service.authority.ca.write_bytes(old + changed.ca.read_bytes())
            changed.issue("server", ["127.0.0.1", "localhost", "workers"])
            with service.channel(ca=changed.ca) as channel:
                health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=20)
                assert health.status == health_pb2.HealthCheckResponse.SERVING
            assert (await ann.observe(**EVENT)).version == 2
            # What is half written changes nothing.
            (tmp_path / "server.key").write_text("-----BEGIN PRIVATE KEY-----\n")
            with service.channel(ca=changed.ca) as channel:
                assert health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=20)
            assert (await ann.observe(**EVENT)).version == 3


async def test_identities_are_limited_one_by_one(tmp_path: Path) -> None:
    limits = "identity_sessions_max = 3\nidentity_events_per_s_max = 20\n"
    with secured(tmp_path, limits) as service:
        tls = service.tls
        async with evercurrent.connect(service.address, tls=tls, token=service.issuer.token("ann")) as client:
            # The SDK comes back when it is told to: slower, and nothing is lost.
            began_s = time.monotonic()
            async with client.session("ann") as ann:
                results = await asyncio.gather(*(ann.observe(**EVENT) for _ in range(60)))
            assert [result.version for result in results] == list(range(1, 61))
            assert time.monotonic() - began_s > 1.0
        with service.channel() as channel:
            stub = session_pb2_grpc.SessionServiceStub(channel)
            opening = session_pb2.SessionRequest(open=session_pb2.SessionOpen(user_id="bob"))
            ended = threading.Event()
            metadata = service.metadata("bob")
            calls = [stub.Session(open_until(ended, opening), metadata=metadata, timeout=60) for _ in range(3)]
            assert all(next(call).opened.session_id for call in calls)
            with pytest.raises(grpc.RpcError) as caught:
                next(stub.Session(iter([opening]), metadata=service.metadata("bob"), timeout=20))
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert stub.Observe(observing("cem"), metadata=service.metadata("cem"), timeout=20).result.version == 1
            ended.set()


async def test_floods_are_bounded(tmp_path: Path) -> None:
    """Streams that say nothing end; more than may be are refused; what is too large is not read."""
    with secured(tmp_path, "streams_max = 20\nopen_timeout_s = 1\n", tokens=False) as service:
        tls = service.tls
        channel = grpc.aio.secure_channel(service.address, tls.credentials(), options=tls.options())
        async with channel:
            stub = session_pb2_grpc.SessionServiceStub(channel)
            silent = [stub.Session() for _ in range(30)]
            codes = await asyncio.gather(*(call.code() for call in silent))
            assert codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) >= 10
            assert codes.count(grpc.StatusCode.DEADLINE_EXCEEDED) == 30 - codes.count(
                grpc.StatusCode.RESOURCE_EXHAUSTED
            )
            assert (await stub.Observe(observing("ann"))).result.version == 1
            big = channel.stream_stream("/evercurrent.v1.SessionService/Session")(iter([b"\0" * (17 << 20)]))
            assert await big.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert (await stub.Observe(observing("ann"))).result.version == 2


def test_metrics_over_tls(tmp_path: Path) -> None:
    import socket
    import ssl
    import urllib.request

    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
    more = f'metrics_address = "127.0.0.1:{port}"\nmetrics_tls = true\n'
    with secured(tmp_path, more, tokens=False) as service:
        context = ssl.create_default_context(cafile=str(service.authority.ca))
        with pytest.raises(OSError):  # noqa: PT011  Before or during the answer, as the systems go.
            urllib.request.urlopen(f"https://127.0.0.1:{port}/metrics", context=context).read()
        context.load_cert_chain(service.client.certificate, service.client.key)
        with urllib.request.urlopen(f"https://127.0.0.1:{port}/metrics", context=context) as answer:
            assert b"evercurrent_sessions" in answer.read()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("another key", "not that of the certificate"),
        ("no certificate", "tls_certificate, tls_key or tls_client_ca"),
        ("no keys", "token_jwks"),
        ("no token", "cluster_token_file"),
    ],
)
def test_what_cannot_be_used_is_said_at_once(tmp_path: Path, change: str, said: str) -> None:
    authority = Authority(tmp_path)
    server = authority.issue("server", ["127.0.0.1"])
    (tmp_path / "jwks.json").write_bytes(jwks(Issuer()))
    (tmp_path / "token").write_bytes(SECRET)
    config = settings_of(tmp_path, server, authority)
    if change == "another key":
        server.key.write_bytes(authority.issue("other", ["other"]).key.read_bytes())
    else:
        file = {"no certificate": "server.crt", "no keys": "jwks.json", "no token": "token"}[change]
        (tmp_path / file).write_text("")
    with pytest.raises(ClusterError, match=said), run_cluster(num_workers=1, store="memory:", config=config):
        pass
