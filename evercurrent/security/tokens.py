"""Bearer tokens: JSON Web Tokens (RFC 7519), checked by PyJWT against a set of keys (JWKS, RFC 7517).

A key is used with its own algorithm and no other, whatever a token says (RFC 8725, 3.1). Keys come from a file or an
https URL, are read again now and then, and when a token names one that is not known: keys can be rotated at any time.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import jwt

from evercurrent.errors import Refused, refused
from evercurrent.security.identity import ADMIN, SERVICE, Identity
from evercurrent.settings import RouterSettings, SettingsError
from evercurrent.telemetry.logs import get_logger
from evercurrent.v1 import observation_pb2 as pb

LEEWAY_S = 5
REFRESH_S = 300.0
REFRESH_S_MIN = 5.0
"""However many tokens name unknown keys, keys are fetched no more often."""
FETCH_TIMEOUT_S = 5.0
JWKS_BYTES_MAX = 1 << 20
TOKEN_BYTES_MAX = 8192
CACHED_MAX = 4096
"""Tokens that were checked are not checked again while their keys stay."""

logger = get_logger(__name__)

Fetch = Callable[[], Awaitable[bytes]]
Keys = Mapping[str, jwt.PyJWK]


def parse_jwks(text: bytes) -> Keys:
    """Keys by id; a key that has none has the id "". What cannot be used to check signatures is left out.

    Raises:
        ValueError: it is no JWKS, or holds no key that can be used.
    """
    try:
        found = jwt.PyJWKSet.from_dict(json.loads(text))
    except (jwt.PyJWTError, ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"no usable JWKS: {error}") from error
    return {key.key_id or "": key for key in found.keys if key.public_key_use in (None, "sig")}


class Tokens:
    """Checks tokens. `run` keeps the keys new; before it, or while there are none, every token waits for nothing and is
    refused with UNAVAILABLE."""

    def __init__(
        self,
        fetch: Fetch,
        audience: str,
        issuer: str | None,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._fetch = fetch
        self._audience = audience
        self._issuer = issuer
        self._now_s = now_s
        self._keys: Keys = {}
        self._text = b""
        self._cached: OrderedDict[str, Identity] = OrderedDict()
        self._is_wanted = asyncio.Event()
        self._was_read = asyncio.Event()
        self._read_s = -REFRESH_S

    async def run(self) -> None:
        """Read the keys now and then, and when one is missing, for ever."""
        while True:
            await self.read()
            try:
                async with asyncio.timeout(REFRESH_S):
                    await self._is_wanted.wait()
            except TimeoutError:
                continue
            await asyncio.sleep(max(0.0, REFRESH_S_MIN - (time.monotonic() - self._read_s)))

    async def read(self) -> None:
        """Read the keys; if that fails, those before stay."""
        self._read_s = time.monotonic()
        try:
            async with asyncio.timeout(FETCH_TIMEOUT_S):
                text = await self._fetch()
            if text != self._text:
                self._keys = parse_jwks(text)
                self._text = text
                self._cached.clear()
                logger.info("keys of tokens were read", num=len(self._keys))
        except (OSError, TimeoutError, ValueError, aiohttp.ClientError) as error:
            logger.warning("keys of tokens cannot be read, those before stay", why=repr(error))
        self._is_wanted.clear()
        self._was_read.set()

    async def identity(self, token: str) -> Identity:
        """Whose token it is.

        Raises:
            Refused: REASON_UNAUTHENTICATED or REASON_TOKEN_EXPIRED, it does not count; REASON_UNAVAILABLE, there are no
                keys to check it with.
        """
        cached = self._cached.get(token)
        if cached is not None and cached.expires_s is not None and cached.expires_s > self._now_s():
            return cached
        if len(token) > TOKEN_BYTES_MAX:
            raise _no(f"has {len(token)} bytes; {TOKEN_BYTES_MAX} are taken")
        identity = self._checked(token, await self._key_of(token))
        self._cached[token] = identity
        if len(self._cached) > CACHED_MAX:
            self._cached.popitem(last=False)
        return identity

    async def _key_of(self, token: str) -> jwt.PyJWK:
        try:
            key_id = jwt.get_unverified_header(token).get("kid") or ""
        except jwt.PyJWTError as error:
            raise _no(f"is no JWT: {error}") from error
        key = self._keys.get(key_id)
        if key is None:
            # It may be new. Whoever asks waits for one reading, which comes soon or is not to come yet.
            self._was_read.clear()
            self._is_wanted.set()
            if time.monotonic() - self._read_s >= REFRESH_S_MIN or not self._keys:
                try:
                    async with asyncio.timeout(FETCH_TIMEOUT_S):
                        await self._was_read.wait()
                except TimeoutError as error:
                    text = "the keys of tokens cannot be read"
                    raise refused(pb.REASON_UNAVAILABLE, "authorization", text, 1000) from error
            key = self._keys.get(key_id)
        if key is None and not self._keys:
            raise refused(pb.REASON_UNAVAILABLE, "authorization", "the keys of tokens cannot be read", 1000)
        if key is None:
            raise _no("is signed by a key that is not known")
        return key

    def _checked(self, token: str, key: jwt.PyJWK) -> Identity:
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[key.algorithm_name],
                audience=self._audience,
                issuer=self._issuer,
                leeway=LEEWAY_S,
                options={"require": ["exp", "sub", "aud"]},
            )
        except jwt.ExpiredSignatureError as error:
            raise refused(pb.REASON_TOKEN_EXPIRED, "authorization", "the token has expired") from error
        except jwt.PyJWTError as error:
            raise _no(f"does not count: {error}") from error
        scopes = _scopes(claims)
        return Identity(
            subject=str(claims["sub"]),
            may_be_anybody=SERVICE in scopes,
            is_admin=ADMIN in scopes,
            expires_s=float(claims["exp"]) + LEEWAY_S,
        )


def _scopes(claims: Mapping[str, Any]) -> frozenset[str]:
    """As OAuth has them (RFC 8693, 4.2: `scope`, by spaces) or as a list (`scp`)."""
    scope, listed = claims.get("scope", ""), claims.get("scp", [])
    named = scope.split() if isinstance(scope, str) else []
    named += listed.split() if isinstance(listed, str) else [one for one in listed if isinstance(one, str)]
    return frozenset(named)


def _no(what: str) -> Refused:
    return refused(pb.REASON_UNAUTHENTICATED, "authorization", f"the token {what}")


def tokens_of(settings: RouterSettings) -> Tokens | None:
    """As the settings say; None: no tokens are asked for.

    Raises:
        SettingsError: the file of keys cannot be used.
    """
    where, audience = settings.token_jwks, settings.token_audience
    if where is None or audience is None:
        return None
    if where.startswith("https://"):
        return Tokens(lambda: _fetch(where), audience, settings.token_issuer)
    path = Path(where)
    try:
        parse_jwks(path.read_bytes())
    except (OSError, ValueError) as error:
        raise SettingsError(f"token_jwks: {path}: {error}") from error
    return Tokens(lambda: asyncio.to_thread(path.read_bytes), audience, settings.token_issuer)


async def _fetch(url: str) -> bytes:
    async with aiohttp.ClientSession() as session, session.get(url, raise_for_status=True) as response:
        return await response.content.read(JWKS_BYTES_MAX)
