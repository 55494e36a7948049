"""Which bearer tokens count, for whom and until when."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from typing import Any

import jwt
import pytest

from evercurrent.errors import Refused
from evercurrent.security import tokens as module
from evercurrent.security.identity import Identity
from evercurrent.security.tokens import LEEWAY_S, TOKEN_BYTES_MAX, Tokens, parse_jwks
from evercurrent.v1 import observation_pb2 as pb
from tests.security.authority import AUDIENCE, Issuer, jwks

ISSUER = Issuer()


class Keys:
    """Where keys come from."""

    def __init__(self, text: bytes) -> None:
        self.text = text
        self.num_reads = 0

    async def fetch(self) -> bytes:
        self.num_reads += 1
        if not self.text:
            raise OSError("away")
        return self.text


async def checker(keys: Keys | None = None, issuer: str | None = None) -> Tokens:
    tokens = Tokens((keys or Keys(jwks(ISSUER))).fetch, AUDIENCE, issuer)
    await tokens.read()
    return tokens


async def reason(token: str, tokens: Tokens | None = None) -> int:
    with pytest.raises(Refused) as caught:
        await (tokens or await checker()).identity(token)
    return caught.value.rejection.reason


async def test_who_a_token_is_for() -> None:
    tokens = await checker()
    before_s = time.time()
    ann = await tokens.identity(ISSUER.token("ann", lives_s=60))
    assert (ann.subject, ann.may_be_anybody, ann.is_admin) == ("ann", False, False)
    assert ann.expires_s is not None
    assert before_s + 59 <= ann.expires_s <= time.time() + 61 + LEEWAY_S
    backend = await tokens.identity(ISSUER.token("backend", "openid service"))
    assert (backend.may_be_anybody, backend.is_admin) == (True, False)
    admins: list[dict[str, Any]] = [
        {"scope": "admin"},
        {"scope": None, "scp": ["admin", 7]},
        {"scope": None, "scp": "admin"},
    ]
    for claims in admins:
        operator = await tokens.identity(ISSUER.token("op", **claims))
        assert (operator.may_be_anybody, operator.is_admin) == (False, True)
    others: list[dict[str, Any]] = [{"scope": 7}, {"scope": ["admin"]}, {"scope": "administrator"}]
    for claims in others:
        assert not (await tokens.identity(ISSUER.token("op", **claims))).is_admin


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "another"},
        {"aud": None},
        {"exp": None},
        {"sub": None},
        {"sub": 7},
        {"nbf": time.time() + 3600},
        {"iat": "yesterday"},
    ],
)
async def test_claims_that_do_not_count(claims: dict[str, Any]) -> None:
    given = {"sub": "ann", **claims}
    assert await reason(ISSUER.token(given.pop("sub"), **given)) == pb.REASON_UNAUTHENTICATED


async def test_an_expired_one_says_so() -> None:
    assert await reason(ISSUER.token("ann", lives_s=-LEEWAY_S - 1)) == pb.REASON_TOKEN_EXPIRED
    await (await checker()).identity(ISSUER.token("ann", lives_s=-LEEWAY_S + 2))


async def test_the_issuer_counts_if_it_is_named() -> None:
    tokens = await checker(issuer="https://issuer")
    await tokens.identity(ISSUER.token("ann", iss="https://issuer"))
    assert await reason(ISSUER.token("ann", iss="https://other"), tokens) == pb.REASON_UNAUTHENTICATED
    assert await reason(ISSUER.token("ann"), tokens) == pb.REASON_UNAUTHENTICATED


def signed(header: dict[str, Any], key: bytes = b"", algorithm: str = "none") -> str:
    claims = {"sub": "ann", "aud": AUDIENCE, "exp": time.time() + 600}
    if algorithm == "none":
        parts = (json.dumps({"alg": "none", "typ": "JWT", **header}), json.dumps(claims))
        return ".".join(base64.urlsafe_b64encode(part.encode()).rstrip(b"=").decode() for part in parts) + "."
    # PyJWT refuses to sign with what looks like a public key: an attacker does not.
    body = signed(header)[:-1].split(".")[1]
    head = base64.urlsafe_b64encode(json.dumps({"alg": algorithm, "typ": "JWT", **header}).encode()).rstrip(b"=")
    text = head + b"." + body.encode()
    mac = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
    return (text + b"." + base64.urlsafe_b64encode(mac.sign(text, key)).rstrip(b"=")).decode()


async def test_a_key_is_used_with_its_own_algorithm() -> None:
    assert await reason(signed({"kid": "first"})) == pb.REASON_UNAUTHENTICATED
    assert await reason(signed({"kid": "first"}, ISSUER.public_pem(), "HS256")) == pb.REASON_UNAUTHENTICATED
    raw = jwt.encode(
        {"sub": "ann", "aud": AUDIENCE, "exp": time.time() + 600}, ISSUER.key, "RS384", headers={"kid": "first"}
    )
    assert await reason(raw) == pb.REASON_UNAUTHENTICATED


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "e30.e30.", "é.é.é", "A" * (TOKEN_BYTES_MAX + 1)])
async def test_what_is_no_token(token: str) -> None:
    assert await reason(token) == pb.REASON_UNAUTHENTICATED


async def test_a_token_of_another_key_with_a_known_name() -> None:
    assert await reason(Issuer(kid="first").token("ann")) == pb.REASON_UNAUTHENTICATED


async def test_keys_are_rotated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REFRESH_S_MIN", 0.0)
    second = Issuer("second")
    keys = Keys(jwks(ISSUER))
    tokens = await checker(keys)
    running = asyncio.create_task(tokens.run())
    old = ISSUER.token("ann")
    await tokens.identity(old)
    keys.text = jwks(second)
    assert (await tokens.identity(second.token("ann"))).subject == "ann"
    # The first is gone, and with it what was signed by it, also if it had counted before.
    assert await reason(old, tokens) == pb.REASON_UNAUTHENTICATED
    running.cancel()


async def test_unknown_keys_have_them_read_no_more_than_now_and_then() -> None:
    keys = Keys(jwks(ISSUER))
    tokens = await checker(keys)
    running = asyncio.create_task(tokens.run())
    stranger = Issuer("stranger")
    for _ in range(20):
        assert await reason(stranger.token("eve"), tokens) == pb.REASON_UNAUTHENTICATED
    assert keys.num_reads <= 2
    running.cancel()


async def test_without_keys_nobody_is_told_that_a_token_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FETCH_TIMEOUT_S", 0.01)
    tokens = await checker(Keys(b""))
    assert await reason(ISSUER.token("ann"), tokens) == pb.REASON_UNAVAILABLE


async def test_keys_that_cannot_be_read_leave_those_before() -> None:
    keys = Keys(jwks(ISSUER))
    tokens = await checker(keys)
    for text in (b"", b"{", b"[]", b'{"keys": []}'):
        keys.text = text
        await tokens.read()
        assert (await tokens.identity(ISSUER.token(f"ann {text!r}"))).subject.startswith("ann")


async def test_what_was_checked_is_not_checked_again_until_it_expires() -> None:
    now_s = time.time()
    clock = [now_s]
    tokens = Tokens(Keys(jwks(ISSUER)).fetch, AUDIENCE, None, lambda: clock[0])
    await tokens.read()
    token = ISSUER.token("ann", lives_s=60)
    first = await tokens.identity(token)
    assert await tokens.identity(token) is first
    assert first.expires_s is not None
    clock[0] = first.expires_s + 1
    assert await tokens.identity(token) is not first
    assert isinstance(first, Identity)


def test_keys_that_are_for_encryption_sign_nothing() -> None:
    own = {**ISSUER.jwk(), "use": "enc", "kid": "enc"}
    keys = parse_jwks(json.dumps({"keys": [own, ISSUER.jwk()]}).encode())
    assert set(keys) == {"first"}
