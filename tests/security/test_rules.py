"""What settings must say of security, and how it is said that they do not."""

from __future__ import annotations

from typing import Any

import pytest

from evercurrent.settings import SettingsError, load_settings

PAIR = {"tls_certificate": "c.pem", "tls_key": "k.pem"}
BEYOND = {"address": "0.0.0.0:7600"}
WORKER = {"address": "10.0.0.1:7600"}


@pytest.mark.parametrize("address", ["127.0.0.1:0", "127.8.8.8:1", "localhost:7600", "[::1]:7600"])
@pytest.mark.parametrize("role", ["router", "worker"])
def test_loopback_asks_for_nothing(role: str, address: str) -> None:
    load_settings({role: {"address": address}})


@pytest.mark.parametrize(
    ("role", "given"),
    [
        ("router", BEYOND),
        ("router", {"address": "[::]:7600"}),
        ("router", {"address": "router.internal:7600"}),
        ("router", {**BEYOND, **PAIR}),
        ("router", {**BEYOND, "token_jwks": "keys.json", "token_audience": "a"}),
        ("worker", WORKER),
        ("worker", {**WORKER, **PAIR}),
        ("worker", {**WORKER, **PAIR, "tls_client_ca": "ca.pem"}),
        ("worker", {**WORKER, "cluster_token_file": "token"}),
    ],
)
def test_beyond_it_nothing_is_open_by_mistake(role: str, given: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=r"can be reached from other machines.*or insecure"):
        load_settings({role: given})
    load_settings({role: {**given, "insecure": True}})


@pytest.mark.parametrize(
    ("role", "given"),
    [
        ("router", {**BEYOND, **PAIR, "tls_client_ca": "ca.pem"}),
        ("router", {**BEYOND, **PAIR, "token_jwks": "https://issuer/keys", "token_audience": "a"}),
        ("worker", {**WORKER, **PAIR, "cluster_token_file": "token"}),
        ("worker", {**WORKER, **PAIR, "tls_client_ca": "ca.pem", "cluster_identities": "router,worker"}),
    ],
)
def test_what_is_enough(role: str, given: dict[str, Any]) -> None:
    load_settings({role: given})


@pytest.mark.parametrize(
    ("role", "given", "said"),
    [
        ("router", {"tls_key": "k.pem"}, "tls_key is set without tls_certificate"),
        ("worker", {"tls_certificate": "c.pem"}, "tls_certificate is set without tls_key"),
        ("worker", {"tls_client_ca": "ca.pem"}, "tls_client_ca is set without tls_certificate"),
        ("worker", {**PAIR, "cluster_identities": "router"}, "cluster_identities is set without tls_client_ca"),
        ("router", {"token_jwks": "keys.json"}, "token_jwks is set without token_audience"),
        ("router", {"token_audience": "a"}, "token_audience is set without token_jwks"),
        ("router", {"token_issuer": "i"}, "token_issuer is set without token_jwks"),
        ("router", {"tls_server_name": "workers"}, "tls_server_name is set without tls_ca"),
        ("router", {"metrics_tls": True}, "metrics_tls is set without tls_certificate"),
        ("router", {"token_jwks": "http://issuer/keys", "token_audience": "a"}, "fetched in the clear"),
    ],
)
def test_what_makes_no_sense_alone(role: str, given: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        load_settings({role: given})
