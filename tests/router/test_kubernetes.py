"""Workers from Kubernetes, over HTTP, against a server of the tests' own that speaks list and watch as the API does.

Nothing here waits for time to pass: pauses are recorded instead of slept, and the server's script drives the rest.
"""

from __future__ import annotations

import asyncio
import gc
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from random import Random
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from router.kubernetes import KubernetesSource, Target, Timing
from router.membership import Listed, Listing
from tests.router.api_server import NAMESPACE, SERVICE, TOKEN, ApiServer, Fault, running_api, status, write_kubeconfig


@pytest.fixture(autouse=True)
def _outside_of_any_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in ("KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT", "HTTP_PROXY", "http_proxy", "KUBECONFIG"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
async def api() -> AsyncIterator[ApiServer]:
    async with running_api() as api:
        yield api


@pytest.fixture
def kubeconfig(api: ApiServer, tmp_path: Path) -> Path:
    return write_kubeconfig(tmp_path / "kubeconfig", api.url)


KEY_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)

LOST: list[Fault | int | bytes] = [Fault.RESET, Fault.RESET]
"""What one attempt meets if it gets no answer: aiohttp sends a GET twice."""


class Pauses(list[float]):
    """The pauses that were asked for. `then` happens in the next one."""

    then: Callable[[], object] | None = None

    async def __call__(self, pause_s: float) -> None:
        self.append(pause_s)
        if self.then is not None:
            self.then()
        await asyncio.sleep(0)


@pytest.fixture
def pauses() -> Pauses:
    return Pauses()


@pytest.fixture
def source(kubeconfig: Path, pauses: Pauses) -> KubernetesSource:
    return KubernetesSource(Target(SERVICE, kubeconfig=kubeconfig), Random(1), sleep=pauses)


@pytest.fixture
async def listings(source: KubernetesSource) -> AsyncIterator[AsyncGenerator[Listing, None]]:
    async with aclosing(source.listings()) as listings:
        yield listings


def slice_of(*pods: str, port: int = 7700, **conditions: bool) -> dict[str, Any]:
    """A slice in which pod `a` has the address 10.0.0.97, and so on."""
    return {
        "addressType": "IPv4",
        "ports": [{"name": "link", "port": port, "protocol": "TCP"}],
        "endpoints": [
            {
                "addresses": [f"10.0.0.{ord(pod)}"],
                "conditions": {"ready": True, "serving": True, "terminating": False} | conditions,
                "targetRef": {"kind": "Pod", "name": pod, "uid": f"uid-{pod}"},
            }
            for pod in pods
        ],
    }


def workers(pods: str, leaving: str = "") -> dict[str, Listed]:
    return {pod: Listed(f"10.0.0.{ord(pod)}:7700", is_leaving=pod in leaving) for pod in pods}


Listings = AsyncGenerator[Listing, None]


async def test_listed_then_watched(api: ApiServer, listings: Listings) -> None:
    api.put("one", slice_of("a"))
    api.put("two", slice_of("b"))
    assert await anext(listings) == workers("ab")
    following = asyncio.ensure_future(anext(listings))
    await api.watched()
    api.put("three", slice_of("c"))
    assert await following == workers("abc")
    api.put("one", slice_of("a", ready=False, terminating=True))
    assert await anext(listings) == workers("abc", leaving="a")
    api.delete("one")
    assert await anext(listings) == workers("bc")
    assert [(seen.is_watch, seen.version) for seen in api.seen] == [(False, None), (True, "102")]


async def test_a_service_without_slices_lists_nobody(
    api: ApiServer, listings: Listings, caplog: pytest.LogCaptureFixture
) -> None:
    assert await anext(listings) == {}
    assert f"no EndpointSlices service={SERVICE} namespace={NAMESPACE}" in caplog.text
    following = asyncio.ensure_future(anext(listings))
    await api.watched()
    api.put("one", slice_of("a"))
    assert await following == workers("a")


async def test_only_what_changes_the_listing_is_yielded(api: ApiServer, listings: Listings) -> None:
    api.put("one", slice_of("a"))
    assert await anext(listings) == workers("a")
    following = asyncio.ensure_future(anext(listings))
    await api.watched()
    api.put("one", slice_of("a"))
    api.put("two", slice_of("a"))
    api.bookmark()
    api.put("two", slice_of("b"))
    assert await following == workers("ab")


async def test_a_list_in_pages(api: ApiServer, listings: Listings) -> None:
    api.page_size = 2
    for pod in "abcde":
        api.put(f"of-{pod}", slice_of(pod))
    assert await anext(listings) == workers("abcde")
    assert [seen.after for seen in api.seen] == [None, "105:2", "105:4"]


async def test_a_page_whose_list_is_gone_starts_the_list_anew(
    api: ApiServer, listings: Listings, pauses: Pauses
) -> None:
    api.page_size = 1
    api.put("one", slice_of("a"))
    api.put("two", slice_of("b"))
    api.plan.extend([None, 410])
    assert await anext(listings) == workers("ab")
    assert [seen.after for seen in api.seen] == [None, "102:1", None, "102:1"]
    assert pauses == [0.0]


async def test_a_list_that_breaks_between_pages_changes_nothing(
    api: ApiServer, listings: Listings, pauses: Pauses
) -> None:
    api.page_size = 1
    api.put("one", slice_of("a"))
    api.put("two", slice_of("b"))
    api.plan.extend([None, 503])
    assert await anext(listings) == workers("ab")
    assert len(pauses) == 1


@pytest.mark.parametrize("fault", [None, Fault.CUT], ids=["timeout", "reset"])
async def test_a_watch_that_ends_goes_on_from_the_last_version(
    api: ApiServer, listings: Listings, pauses: Pauses, fault: Fault | None
) -> None:
    api.put("one", slice_of("a"))
    await anext(listings)
    following = asyncio.ensure_future(anext(listings))
    await api.watched()
    api.put("one", slice_of("b"))
    assert await following == workers("b")
    api.end(fault)
    api.put("two", slice_of("c"))
    assert await anext(listings) == workers("bc")
    assert [(seen.is_watch, seen.version) for seen in api.seen] == [(False, None), (True, "101"), (True, "102")]
    assert [0.1 <= pause <= 0.2 for pause in pauses] == [True] * (fault is not None)


async def test_bookmarks_advance_the_version(api: ApiServer, listings: Listings) -> None:
    api.put("one", slice_of("a"))
    await anext(listings)
    following = asyncio.ensure_future(anext(listings))
    await api.watched()
    api.bookmark()
    api.oldest = api.version
    api.end()
    await api.watched(2)
    api.put("one", slice_of("b"))
    assert await following == workers("b")
    assert [seen.version for seen in api.seen] == [None, "101", "111"]


async def test_a_version_that_is_gone_by_status_is_listed_anew(
    api: ApiServer, listings: Listings, pauses: Pauses
) -> None:
    api.put("one", slice_of("a"))
    api.put("two", slice_of("b"))
    await anext(listings)
    following = asyncio.ensure_future(anext(listings))
    await api.watched()
    api.bookmark()
    api.end()
    del api.slices["two"]
    api.compact()
    assert await following == workers("a"), "what was deleted meanwhile is seen by the list alone"
    assert [seen.is_watch for seen in api.seen[:4]] == [False, True, True, False]
    assert pauses == [0.0]


@pytest.mark.parametrize("error", [status(410, "Expired"), status(410, "Gone"), status(504, "Expired")])
async def test_a_version_that_is_gone_by_event_is_listed_anew(
    api: ApiServer, listings: Listings, pauses: Pauses, error: dict[str, Any]
) -> None:
    api.put("one", slice_of("a"))
    await anext(listings)
    following = asyncio.ensure_future(anext(listings))
    await api.watched()
    api.slices["one"] |= slice_of("b")
    api.say({"type": "ERROR", "object": error})
    assert await following == workers("b")
    assert [seen.is_watch for seen in api.seen] == [False, True, False]
    assert pauses == [0.0]


async def test_another_error_event_is_listed_anew_after_a_pause(
    api: ApiServer, listings: Listings, pauses: Pauses
) -> None:
    api.put("one", slice_of("a"))
    await anext(listings)
    following = asyncio.ensure_future(anext(listings))
    await api.watched()
    api.slices["one"] |= slice_of("b")
    api.say({"type": "ERROR", "object": status(500, "InternalError")})
    assert await following == workers("b")
    assert [seen.is_watch for seen in api.seen] == [False, True, False]
    assert len(pauses) == 1
    assert pauses[0] > 0


async def test_versions_that_are_always_gone_are_not_asked_for_in_a_loop(
    api: ApiServer, listings: Listings, pauses: Pauses
) -> None:
    api.put("one", slice_of("a"))
    await anext(listings)
    api.plan.extend([410, None, 410, None, 410, None])
    following = asyncio.ensure_future(anext(listings))
    await api.watched(4)
    api.put("one", slice_of("b"))
    assert await following == workers("b")
    assert pauses[0] == 0.0
    assert 0.2 <= pauses[1] <= 0.4 <= pauses[2] <= 0.8


async def test_pauses_grow_to_their_bound_with_jitter_and_start_again(
    api: ApiServer, listings: Listings, pauses: Pauses
) -> None:
    api.put("one", slice_of("a"))
    api.plan.extend([*[503] * 6, *LOST * 6])
    assert await anext(listings) == workers("a")
    bounds = [min(0.2 * 2**number, 30) for number in range(12)]
    assert all(bound / 2 <= pause <= bound for bound, pause in zip(bounds, pauses, strict=True))
    assert len({pause / bound for bound, pause in zip(bounds, pauses, strict=True)}) == 12
    following = asyncio.ensure_future(anext(listings))
    await api.watched()
    api.put("one", slice_of("b"))
    await following
    api.end(Fault.CUT)
    api.put("one", slice_of("c"))
    assert await anext(listings) == workers("c")
    assert pauses[-1] <= 0.2


async def test_a_watch_that_ends_at_once_is_not_asked_for_in_a_loop(
    api: ApiServer, listings: Listings, pauses: Pauses
) -> None:
    await anext(listings)
    following = asyncio.ensure_future(anext(listings))
    for number in range(1, 5):
        await api.watched(number)
        api.end()
    await api.watched(5)
    api.put("one", slice_of("a"))
    assert await following == workers("a")
    assert [pause > 0 for pause in pauses] == [True] * 4
    assert pauses[3] > pauses[0]


async def test_a_watch_that_hangs_is_noticed(
    api: ApiServer, kubeconfig: Path, pauses: Pauses, caplog: pytest.LogCaptureFixture
) -> None:
    timing = Timing(watch_s=1, grace_s=-0.8)
    source = KubernetesSource(Target(SERVICE, kubeconfig=kubeconfig), Random(1), timing, sleep=pauses)
    api.put("one", slice_of("a"))
    async with aclosing(source.listings()) as listings:
        await anext(listings)
        api.plan.append(Fault.HANG)
        api.put("one", slice_of("b"))
        assert await anext(listings) == workers("b")
    assert [(seen.is_watch, seen.version) for seen in api.seen] == [(False, None), (True, "101"), (True, "101")]
    assert "TimeoutError" in caplog.text


def test_the_api_is_given_less_time_than_the_client_waits() -> None:
    assert Timing().grace_s > 0


@pytest.mark.parametrize(
    "line",
    [
        b"nonsense",
        b"",
        b"[]",
        b'{"type":"ADDED"}',
        b'{"type":"ADDED","object":{"metadata":{"name":"one"}}}',
        b'{"type":"ADDED","object":{"metadata":{"name":"one","resourceVersion":"7"},"addressType":"IPv4","endpoints":7}}',
        b'{"type":"BOOKMARK","object":{"metadata":{}}}',
        b'{"type":"DELETED","object":{"metadata":{"resourceVersion":"7"}}}',
        b'{"type":"NEWS","object":{}}',
        b"\xff\xfe",
    ],
)
async def test_a_malformed_event_is_said_and_skipped(
    api: ApiServer, listings: Listings, pauses: Pauses, line: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    api.put("one", slice_of("a"))
    await anext(listings)
    following = asyncio.ensure_future(anext(listings))
    await api.watched()
    api.say(line)
    api.put("two", slice_of("b"))
    assert await following == workers("ab")
    assert len(api.seen) == 2
    assert not pauses
    assert f"event skipped service={SERVICE}" in caplog.text


async def test_an_event_too_large_to_read_is_listed_anew(api: ApiServer, listings: Listings, pauses: Pauses) -> None:
    api.put("one", slice_of("a"))
    await anext(listings)
    following = asyncio.ensure_future(anext(listings))
    await api.watched()
    api.say(b"x" * 5_000_000)
    api.slices["one"] |= slice_of("b")
    assert await following == workers("b")
    assert [seen.is_watch for seen in api.seen] == [False, True, False]
    assert len(pauses) == 1


@pytest.mark.parametrize("failure", [LOST, [401], [403], [404], [429], [500], [b"\xff"]], ids=str)
async def test_the_last_listing_stands_while_nothing_can_be_listed(
    api: ApiServer, listings: Listings, pauses: Pauses, failure: list[Fault | int | bytes]
) -> None:
    api.put("one", slice_of("a"))
    await anext(listings)
    following = asyncio.ensure_future(anext(listings))
    await api.watched()
    api.plan.extend(failure * 3)
    api.say({"type": "ERROR", "object": status(410, "Expired")})
    await api.watched(2)
    assert not following.done()
    api.put("two", slice_of("b"))
    assert await following == workers("ab")
    assert [seen.is_watch for seen in api.seen] == [False, True, *[False] * (3 * len(failure) + 1), True]
    assert len(pauses) == 4


async def test_an_answer_that_is_no_list_changes_nothing(api: ApiServer, listings: Listings, pauses: Pauses) -> None:
    api.put("one", slice_of("a"))
    api.plan.append(200)
    assert await anext(listings) == workers("a")
    assert len(pauses) == 1


@pytest.mark.parametrize("code", [403, 404])
async def test_missing_rights_are_said(
    api: ApiServer, listings: Listings, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    api.plan.append(code)
    await anext(listings)
    assert f"{code}: " in caplog.text
    for word in ("discovery.k8s.io", "endpointslices", "list, watch", f"namespace {NAMESPACE}"):
        assert word in caplog.text


async def test_a_refused_token_is_loaded_anew(api: ApiServer, listings: Listings, kubeconfig: Path) -> None:
    api.put("one", slice_of("a"))
    await anext(listings)
    following = asyncio.ensure_future(anext(listings))
    await api.watched()
    api.tokens = {"token-2"}
    write_kubeconfig(kubeconfig, api.url, "token-2")
    api.bookmark()
    api.end()
    await api.watched(3)
    api.put("one", slice_of("b"))
    assert await following == workers("b")
    assert [(seen.is_watch, seen.token) for seen in api.seen] == [
        (False, TOKEN),
        (True, TOKEN),
        (True, TOKEN),
        (True, "token-2"),
    ]


@pytest.mark.parametrize("text", ["", "[]", "{}", "}{", '{"current-context": "right", "contexts": []}'])
async def test_credentials_that_cannot_be_loaded_are_tried_again(
    api: ApiServer,
    listings: Listings,
    kubeconfig: Path,
    pauses: Pauses,
    text: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    api.put("one", slice_of("a"))
    await asyncio.to_thread(kubeconfig.write_text, text)
    pauses.then = lambda: write_kubeconfig(kubeconfig, api.url)
    assert await anext(listings) == workers("a")
    assert "no credentials" in caplog.text
    assert len(pauses) == 1


async def test_a_token_that_no_header_can_carry_is_tried_again(
    api: ApiServer, listings: Listings, kubeconfig: Path, pauses: Pauses
) -> None:
    api.put("one", slice_of("a"))
    write_kubeconfig(kubeconfig, api.url, f"{TOKEN}\n")
    pauses.then = lambda: write_kubeconfig(kubeconfig, api.url)
    assert await anext(listings) == workers("a")
    assert len(pauses) == 1


async def test_the_context_that_is_named_is_used(api: ApiServer, kubeconfig: Path, pauses: Pauses) -> None:
    target = Target(SERVICE, kubeconfig=kubeconfig, context="wrong")
    api.tokens = {"wrong"}
    async with aclosing(KubernetesSource(target, Random(1), sleep=pauses).listings()) as listings:
        assert await anext(listings) == {}
    assert not pauses


async def test_the_namespace_that_is_named_counts(
    api: ApiServer, tmp_path: Path, pauses: Pauses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(write_kubeconfig(tmp_path / "other", api.url, namespace=None)))
    source = KubernetesSource(Target(SERVICE, NAMESPACE), Random(1), sleep=pauses)
    async with aclosing(source.listings()) as listings:
        assert await anext(listings) == {}
    assert not pauses


async def test_the_usual_kubeconfig_is_found(api: ApiServer, tmp_path: Path, pauses: Pauses) -> None:
    (tmp_path / ".kube").mkdir()
    write_kubeconfig(tmp_path / ".kube" / "config", api.url)
    async with aclosing(KubernetesSource(Target(SERVICE), Random(1), sleep=pauses).listings()) as listings:
        assert await anext(listings) == {}
    assert not pauses


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, bytes]:
    """A server's side of TLS for 127.0.0.1, and the certificate of the authority that signed it."""
    authority, authority_key = certificate("authority")
    server, server_key = certificate("server", (authority, authority_key))
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    key = server_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(key + server.public_bytes(Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context, authority.public_bytes(Encoding.PEM)


Signed = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]


def certificate(name: str, issuer: Signed | None = None) -> Signed:
    """A certificate for 127.0.0.1 by `issuer`, or of an authority. Strict enough for VERIFY_X509_STRICT."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer_name, issuer_key = (issuer[0].subject, issuer[1]) if issuer else (subject, key)
    usage = dict.fromkeys(KEY_USAGES, False) | {"key_cert_sign": not issuer, "digital_signature": bool(issuer)}
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer_name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2100, 1, 1, tzinfo=UTC))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**usage), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    return builder.sign(issuer_key, hashes.SHA256()), key


def write_account(path: Path, token: str, authority: bytes) -> Path:
    """What a pod is given of its service account."""
    path.mkdir(exist_ok=True)
    (path / "token").write_text(token)
    (path / "ca.crt").write_bytes(authority)
    (path / "namespace").write_text(NAMESPACE)
    return path


async def test_a_pod_uses_its_service_account_and_takes_up_a_new_token(
    tls: tuple[ssl.SSLContext, bytes], tmp_path: Path, pauses: Pauses, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, authority = tls
    account = write_account(tmp_path / "account", TOKEN, authority)
    async with running_api(context) as api:
        api.put("one", slice_of("a"))
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", api.url.rpartition(":")[2])
        source = KubernetesSource(Target(SERVICE), Random(1), service_account=account, sleep=pauses)
        async with aclosing(source.listings()) as listings:
            assert await anext(listings) == workers("a")
            following = asyncio.ensure_future(anext(listings))
            await api.watched()
            api.tokens = {"token-2"}
            pauses.then = lambda: write_account(account, "token-2", authority)
            api.say({"type": "ERROR", "object": status(410, "Expired")})
            await api.watched(2)
            api.put("one", slice_of("b"))
            assert await following == workers("b")
        assert {seen.token for seen in api.seen} == {TOKEN, "token-2"}


async def test_a_pod_believes_no_other_authority(
    tls: tuple[ssl.SSLContext, bytes],
    tmp_path: Path,
    pauses: Pauses,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    context, authority = tls
    stranger, _ = certificate("stranger")
    account = write_account(tmp_path / "account", TOKEN, stranger.public_bytes(Encoding.PEM))
    async with running_api(context) as api:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", api.url.rpartition(":")[2])
        source = KubernetesSource(Target(SERVICE), Random(1), service_account=account, sleep=pauses)
        pauses.then = lambda: write_account(account, TOKEN, authority)
        async with aclosing(source.listings()) as listings:
            assert await anext(listings) == {}
    assert "CERTIFICATE_VERIFY_FAILED" in caplog.text


async def test_a_kubeconfig_that_is_named_counts_also_in_a_pod(
    api: ApiServer, listings: Listings, pauses: Pauses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "1")
    assert await anext(listings) == {}
    assert not pauses


async def test_a_request_with_another_selector_would_be_refused(
    api: ApiServer, kubeconfig: Path, pauses: Pauses, caplog: pytest.LogCaptureFixture
) -> None:
    """That the server checks it: else no test here would see a wrong selector."""
    source = KubernetesSource(Target("others", kubeconfig=kubeconfig), Random(1), sleep=pauses)
    async with aclosing(source.listings()) as listings:
        waiting = asyncio.ensure_future(anext(listings))
        await api.has_seen(lambda seen: len(seen) == 2)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert "wrong selector" in caplog.text


async def test_left_out_endpoints_are_said_once(
    api: ApiServer, listings: Listings, caplog: pytest.LogCaptureFixture
) -> None:
    found = slice_of("a", "b")
    del found["endpoints"][0]["targetRef"]
    api.put("one", found)
    assert await anext(listings) == workers("b")
    following = asyncio.ensure_future(anext(listings))
    await api.watched()
    api.put("one", found)
    api.put("two", slice_of("c"))
    assert await following == workers("bc")
    assert caplog.text.count("endpoint 10.0.0.97 is no Pod") == 1


@pytest.mark.parametrize("moment", ["list", "watch", "between"])
async def test_cancelling_leaves_nothing_behind(api: ApiServer, source: KubernetesSource, moment: str) -> None:
    """Warnings are errors: a session or a connection left open would fail this."""
    reached = asyncio.Event()

    async def follow() -> None:
        async for _ in source.listings():
            if moment == "between":
                reached.set()
                await asyncio.Event().wait()

    if moment == "list":
        api.plan.append(Fault.HANG)
    before = asyncio.all_tasks()
    following = asyncio.create_task(follow())
    if moment == "between":
        await reached.wait()
    else:
        await api.has_seen(lambda seen: seen != [] and seen[-1].is_watch == (moment == "watch"))
    following.cancel()
    with pytest.raises(asyncio.CancelledError):
        await following
    del following
    gc.collect()
    api.end()
    while left := {task for task in asyncio.all_tasks() - before if "aclose" in repr(task)}:
        await asyncio.wait(left)


async def test_the_source_can_be_followed_again(api: ApiServer, source: KubernetesSource) -> None:
    api.put("one", slice_of("a"))
    for _ in range(2):
        async with aclosing(source.listings()) as listings:
            assert await anext(listings) == workers("a")
