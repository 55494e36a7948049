"""The settings of a worker and a router: plain values, checked as one, from one place.

A setting comes from, in this order: a flag, the environment (`EVERCURRENT_WORKER__RESIDENTS_MAX=1000`), a TOML file
(`--config FILE` or `EVERCURRENT_CONFIG=FILE`, tables `[worker]` and `[router]`), its default. A key that is no setting
is an error wherever it stands, and so are two settings that contradict each other: a program that starts with less than
was asked of it fails later, elsewhere. `WorkerSettings(...)` and `RouterSettings(...)` themselves read nothing.

Every name that begins with `EVERCURRENT_` counts as meant for us. Kubernetes invents such names for a Service called
`evercurrent-…`, unless the pod says `enableServiceLinks: false`.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from evercurrent.channels import is_loopback

PREFIX = "EVERCURRENT_"
CONFIG_VARIABLE = f"{PREFIX}CONFIG"
NAME_PATTERN = r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?$"
VERSION_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,63}$"
_LABEL = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
SERVICE_PATTERN = f"({_LABEL}/)?{_LABEL}"
"""A Kubernetes Service, with its namespace or without: RFC 1123 labels."""

WILDCARDS = ("0.0.0.0", "[::]")
"""Hosts that are listened on and not connected to."""

_BYTES = TypeAdapter(ByteSize)


class SettingsError(Exception):
    """The settings cannot be used. The text names the setting, where it stands and what is wrong: show it and stop."""


def _checked_address(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not (colon and host and port.isascii() and port.isdecimal() and int(port) < 65536):
        raise ValueError(f'"{text}" is not host:port')
    return text


def _bytes_of(value: object) -> object:
    return int(_BYTES.validate_python(value)) if isinstance(value, str) else value


def _members_of(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _checked_service(text: str) -> str:
    if not re.fullmatch(SERVICE_PATTERN, text):
        raise ValueError(f'"{text}" is not a name or namespace/name of a Kubernetes Service')
    return text


def _not_above(values: BaseModel, low: str, high: str) -> None:
    if getattr(values, low) > getattr(values, high):
        raise ValueError(f"{low} ({getattr(values, low)}) is above {high} ({getattr(values, high)})")


def _needs(values: BaseModel, key: str, other: str) -> None:
    if getattr(values, key) and not getattr(values, other):
        raise ValueError(f"{key} is set without {other}")


def _together(values: BaseModel, key: str, other: str) -> None:
    _needs(values, key, other)
    _needs(values, other, key)


def _all_different(kind: str, found: Iterable[str]) -> None:
    twice = [name for name, count in Counter(found).items() if count > 1]
    if twice:
        raise ValueError(f"two workers have the {kind} {twice[0]}")


Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Version = Annotated[str, Field(pattern=VERSION_PATTERN)]
Address = Annotated[str, AfterValidator(_checked_address)]
KubernetesService = Annotated[str, AfterValidator(_checked_service)]
Count = Annotated[int, Field(gt=0)]
Ratio = Annotated[float, Field(ge=0, le=1)]
Bytes = Annotated[int, BeforeValidator(_bytes_of), Field(gt=0)]


class _Values(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class Member(_Values):
    """A worker as a router is told of it. Its text form is `name=host:port`."""

    name: Name
    address: Address

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        name, equals, address = value.partition("=")
        if not equals:
            raise ValueError(f'"{value}" is not name=host:port')
        return {"name": name, "address": address}

    @model_validator(mode="after")
    def _can_be_reached(self) -> Self:
        if self.address.endswith(":0"):
            raise ValueError(f"{self} has no port to connect to")
        return self

    def __str__(self) -> str:
        return f"{self.name}={self.address}"


class ServiceSettings(_Values):
    """What workers and routers are told alike: what they show of themselves, and whom they trust."""

    name: Name
    metrics_address: Address | None = Field(
        default=None, description="Where Prometheus finds its metrics (HTTP, /metrics), host:port. Default: nowhere."
    )
    otlp_endpoint: str | None = Field(
        default=None,
        pattern=r"^https?://[^/]+$",
        description="Where traces and metrics go by OTLP over gRPC: http://host:port or https://. Default: nowhere.",
    )
    trace_ratio: Ratio = Field(
        default=0.01, description="The share of the traces that begin here and are recorded; a caller's choice stands."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least that is logged: debug, info, warning or error."
    )
    log_format: Literal["text", "json"] = Field(default="text", description="How: text, or json, an object a line.")
    tls_certificate: Path | None = Field(
        default=None, description="Its certificate with the chain, PEM. Read again when it changes."
    )
    tls_key: Path | None = Field(default=None, description="The certificate's private key, PEM.")
    tls_client_ca: Path | None = Field(
        default=None, description="CA certificates, PEM: who connects shows a certificate that one of them signed."
    )
    tls_ca: Path | None = Field(
        default=None, description="CA certificates, PEM, by which it knows the workers that it calls."
    )
    cluster_token_file: Path | None = Field(
        default=None, description="A file with the secret that routers and workers show to workers."
    )
    tls_server_name: str | None = Field(
        default=None,
        min_length=1,
        description="The name (SAN) that the certificates of workers hold, which are called by address. Default: the "
        "worker's own name.",
    )
    metrics_tls: bool = Field(default=False, description="true: serve metrics over TLS, as everything else.")
    insecure: bool = Field(
        default=False, description="true: listen beyond this machine although anybody there can read and write."
    )

    def _check_tls(self) -> None:
        _together(self, "tls_certificate", "tls_key")
        _needs(self, "tls_client_ca", "tls_certificate")
        _needs(self, "metrics_tls", "tls_certificate")
        _needs(self, "tls_server_name", "tls_ca")

    def _check_reach(self, address: str, is_secured: bool, how: str) -> None:
        """Refuse to be reachable for everybody without being told so."""
        if not (is_loopback(address) or self.insecure or is_secured):
            raise ValueError(
                f"address {address} can be reached from other machines, and anybody there could read and write: set "
                f"{how}, or insecure"
            )


class WorkerSettings(ServiceSettings):
    """What a worker is told at start."""

    cluster_identities: Annotated[tuple[str, ...], BeforeValidator(_members_of)] = Field(
        default=(),
        description="Names (SAN) in the certificates of routers and workers, with commas between: who shows one may "
        "call this worker.",
    )

    name: Name = Field(default="worker-0", description="Its name: its place on the ring. Keep it over restarts.")
    address: Address = Field(default="127.0.0.1:0", description="Where it listens, host:port. Port 0: any free one.")
    model: str = Field(
        default="knowledge-tracing",
        min_length=1,
        description="What it serves: a name of ours, or module:Class.",
    )
    weights: Path | None = Field(default=None, description="Its weights, a safetensors file. Default: the model's own.")
    model_version: Version | None = Field(
        default=None,
        description="The name of this version, under which the store has its states. Default: the model's name.",
    )
    residents_max: Count = Field(
        default=1_000_000, description="Users in memory at once; beyond it the least recently used leave."
    )
    resident_bytes_max: Bytes = Field(
        default=2 * 1024**3,
        description="Bytes of users in memory at once, as residents-max: their states and about 400 bytes each beside.",
    )
    store: str = Field(
        default="sqlite:evercurrent.db",
        min_length=1,
        description="Where states outlive it: sqlite:PATH, s3://BUCKET/PREFIX?endpoint=… or memory:. The same for all.",
    )
    advertised_address: Address | None = Field(
        default=None, description="Where other workers reach it, host:port. Default: where it listens."
    )
    journal_interval_ms: Count | None = Field(
        default=None, description="Milliseconds between segments of the journal. Default: 20, on S3 200."
    )
    dead_after_ms: Count | None = Field(
        default=None,
        description="Milliseconds without a segment after which an owner counts as dead. Default: 500, on S3 2000.",
    )
    event_log: bool = Field(
        default=False, description="true: log observations, predictions and losses in the store, as Parquet."
    )
    weight: Count = Field(default=1, description="Its share of the users, beside the weights of the other workers.")
    drain_timeout_s: Count = Field(
        default=20, description="Seconds that other workers may take to take its users over when it stops."
    )
    stop_timeout_s: Count = Field(default=10, description="Seconds that the last writes of a clean stop may take.")
    batch_max: Count = Field(default=1024, description="Users in one step.")
    link_in_flight_max: Count = Field(
        default=16_384, description="Events of one link that may wait at once; beyond it the worker stops reading."
    )

    @model_validator(mode="after")
    def _agree(self) -> Self:
        _not_above(self, "batch_max", "link_in_flight_max")
        if self.advertised_address is None and self.address.rpartition(":")[0] in WILDCARDS:
            raise ValueError(
                f"address {self.address} is none by which other workers reach this one: set advertised_address"
            )
        if self.advertised_address is not None and self.advertised_address.endswith(":0"):
            raise ValueError(f"advertised_address {self.advertised_address} has no port to connect to")
        self._check_tls()
        _needs(self, "cluster_identities", "tls_client_ca")
        knows_callers = bool(self.cluster_token_file or self.cluster_identities)
        how = "tls_certificate with cluster_token_file or cluster_identities"
        self._check_reach(self.address, self.tls_certificate is not None and knows_callers, how)
        return self


class RouterSettings(ServiceSettings):
    """What a router is told at start."""

    name: Name = Field(default="router-0", description="Its name, for logs.")
    address: Address = Field(default="127.0.0.1:7600", description="Where it listens, host:port. Port 0: any free one.")
    workers: Annotated[tuple[Member, ...], BeforeValidator(_members_of)] = Field(
        default=(), description="The workers, name=host:port each, with commas between. Or kubernetes-service."
    )
    kubernetes_service: KubernetesService | None = Field(
        default=None,
        description="The workers' headless Service, NAME or NAMESPACE/NAME, watched for its pods. Or workers.",
    )
    kubernetes_port_name: str | None = Field(
        default=None, min_length=1, description="Which of the Service's ports is the workers'. Default: its only one."
    )
    kubernetes_kubeconfig: Path | None = Field(
        default=None,
        description="How to reach its cluster. Default: as a pod of it, and outside KUBECONFIG or ~/.kube/config.",
    )
    kubernetes_context: str | None = Field(
        default=None, min_length=1, description="Which context of the kubeconfig. Default: its current one."
    )
    in_flight_exchange_max: Count = Field(
        default=65_536,
        description="Events of one Exchange stream unanswered at once; beyond it reading stops.",
    )
    in_flight_link_max: Count = Field(
        default=16_384, description="Events sent to one worker and unanswered at once; beyond it they are rejected."
    )
    in_flight_session_max: Count = Field(
        default=256,
        description="Events of one session unanswered at once; more wait, or on Exchange are rejected.",
    )
    in_flight_user_max: Count = Field(
        default=1024,
        description="Events of one user unanswered at once, over all sessions, and sessions of one user.",
    )
    replay_events_max: Count = Field(
        default=1_000_000, description="Events kept until they are durable, to replay them if their worker is lost."
    )
    replay_bytes_max: Bytes = Field(default=256 * 1024**2, description="Bytes of them.")
    replay_on_full: Literal["at-risk", "block"] = Field(
        default="at-risk",
        description="When no more can be kept: at-risk gives up the oldest and counts them, block rejects new events.",
    )
    move_timeout_s: Count = Field(
        default=10, description="Seconds that a session may wait for a worker that serves it; then its stream ends."
    )
    link_silence_ms: Count = Field(
        default=600, description="Milliseconds without a message after which a worker counts as lost."
    )
    drain_timeout_s: Count = Field(default=5, description="Seconds that clients get to leave when the router stops.")
    token_jwks: str | None = Field(
        default=None,
        min_length=1,
        description="The keys that sign bearer tokens (JWT), a JWKS: a file or an https:// URL. Default: no tokens.",
    )
    token_audience: str | None = Field(default=None, min_length=1, description="The audience (aud) tokens must name.")
    token_issuer: str | None = Field(
        default=None, min_length=1, description="The issuer (iss) tokens must name. Default: any."
    )
    identity_sessions_max: Count | None = Field(
        default=None, description="Sessions open at once of one identity, a token's sub. Default: no limit."
    )
    identity_events_per_s_max: Count | None = Field(
        default=None, description="Events a second of one identity. Default: no limit."
    )
    identity_bytes_per_s_max: Bytes | None = Field(
        default=None, description="Bytes of requests a second of one identity. Default: no limit."
    )
    streams_max: Count = Field(
        default=100_000, description="Streams of clients at once; more are refused, with the time to come back."
    )
    open_timeout_s: Count = Field(
        default=10, description="Seconds that a stream may take to send its open, before it is ended."
    )
    frame_events_max: Count = Field(default=8192, description="Events in one Exchange frame; larger ones are rejected.")
    frame_bytes_max: Bytes = Field(
        default=4 * 1024**2, description="Bytes of one Exchange frame; larger ones are rejected."
    )
    observation_bytes_max: Bytes = Field(
        default=64 * 1024, description="Bytes of one observation; larger ones are rejected."
    )

    @model_validator(mode="after")
    def _agree(self) -> Self:
        _not_above(self, "in_flight_session_max", "in_flight_exchange_max")
        _not_above(self, "in_flight_session_max", "in_flight_link_max")
        _not_above(self, "in_flight_session_max", "in_flight_user_max")
        _not_above(self, "in_flight_link_max", "replay_events_max")
        _not_above(self, "frame_events_max", "in_flight_exchange_max")
        _not_above(self, "observation_bytes_max", "frame_bytes_max")
        if self.workers and self.kubernetes_service is not None:
            raise ValueError("workers and kubernetes_service are both set: the workers come from one of them")
        for key in ("kubernetes_port_name", "kubernetes_kubeconfig", "kubernetes_context"):
            if getattr(self, key) is not None and self.kubernetes_service is None:
                raise ValueError(f"{key} is set without kubernetes_service")
        self._check_tls()
        _together(self, "token_jwks", "token_audience")
        _needs(self, "token_issuer", "token_jwks")
        if self.token_jwks is not None and self.token_jwks.startswith("http://"):
            raise ValueError(
                "token_jwks is fetched in the clear: whoever is on the way could sign tokens; use https://"
            )
        knows_callers = self.token_jwks is not None or self.tls_client_ca is not None
        how = "tls_certificate with token_jwks or tls_client_ca"
        self._check_reach(self.address, self.tls_certificate is not None and knows_callers, how)
        _all_different("name", (member.name for member in self.workers))
        _all_different("address", (member.address for member in self.workers))
        return self


class Settings(BaseSettings):
    """All settings, from all sources. Made by `load_settings`, which says clearly what is wrong."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix=PREFIX, env_nested_delimiter="__", enable_decoding=False
    )

    config: Path | None = Field(default=None, description="A TOML file with the tables [worker] and [router].")
    worker: WorkerSettings = WorkerSettings()
    router: RouterSettings = RouterSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, then the environment, then the file that either of them names."""
        config = init_settings().get("config") or env_settings().get("config")
        if not config:
            return init_settings, env_settings
        return init_settings, env_settings, InitSettingsSource(settings_cls, _read_file(Path(config)))


def load_settings(flags: Mapping[str, Mapping[str, object]] | None = None, config: Path | None = None) -> Settings:
    """The settings from all sources.

    `flags` are values by section and key, {"worker": {"residents_max": 10}}, where None means not given. Raises
    SettingsError."""
    given: dict[str, Any] = {} if config is None else {"config": config}
    for section, values in (flags or {}).items():
        given[section] = {key: value for key, value in values.items() if value is not None}
    _check_variables(os.environ)
    try:
        return Settings(**given)
    except ValidationError as error:
        raise SettingsError("; ".join(_described(found, given) for found in error.errors())) from error


def _read_file(path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from error
    if "config" in values:
        raise SettingsError(f"{path}: config: not a setting of a file")
    return values


def _check_variables(environment: Mapping[str, str]) -> None:
    """The settings library reads the variables it knows and never looks at the others: this does."""
    for variable in environment:
        if variable.upper().startswith(PREFIX):
            section, _, key = variable.upper().removeprefix(PREFIX).lower().partition("__")
            if section not in Settings.model_fields or (key == "") != (section == "config"):
                raise SettingsError(f"{variable}: not a setting")


def _described(error: ErrorDetails, given: Mapping[str, Any]) -> str:
    """One error as a line: where the setting stands, and what is wrong with it."""
    place = [str(part) for part in error["loc"]]
    message = "not a setting" if error["type"] == "extra_forbidden" else error["msg"].removeprefix("Value error, ")
    section, key = place[0], place[1] if len(place) > 1 else ""
    variables = {variable.upper(): value for variable, value in os.environ.items()}
    variable = f"{PREFIX}{section}__{key}".upper()
    if key in given.get(section, {}):
        return f"--{key.replace('_', '-')}: {message}"
    if variable in variables:
        return f"{variable}: {message}"
    if error["type"] == "value_error" and not key:
        return f"{section}: {message}"
    return f"{given.get('config') or variables.get(CONFIG_VARIABLE)}: {'.'.join(place[:2])}: {message}"
