"""Settings come from flags, environment, file and defaults, in that order, and nothing that is wrong goes unnamed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from pydantic import ValidationError

from evercurrent.settings import CONFIG_VARIABLE, Member, RouterSettings, SettingsError, WorkerSettings
from evercurrent.settings import load_settings as load


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A config file that sets two workers' settings and two of the router's."""
    path = tmp_path / "evercurrent.toml"
    path.write_text(
        '[worker]\nbatch_max = 3\nresidents_max = 3\n[router]\nworkers = ["a=h:1", "b=h:2"]\nframe_bytes_max = "1MiB"\n'
    )
    return path


def test_defaults_are_the_classes_own() -> None:
    settings = load()
    assert settings.worker == WorkerSettings()
    assert settings.router == RouterSettings()


def test_flags_over_environment_over_file_over_defaults(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERCURRENT_WORKER__BATCH_MAX", "2")
    monkeypatch.setenv("EVERCURRENT_WORKER__NAME", "of-environment")
    worker = load({"worker": {"name": "of-flags", "batch_max": None}}, file).worker
    assert worker == WorkerSettings(name="of-flags", batch_max=2, residents_max=3)


def test_file_named_by_the_environment(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CONFIG_VARIABLE, str(file))
    assert load().router.workers == (Member(name="a", address="h:1"), Member(name="b", address="h:2"))
    assert load().router.frame_bytes_max == 2**20


def test_file_of_a_flag_over_that_of_the_environment(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CONFIG_VARIABLE, str(file.with_name("absent.toml")))
    assert load(config=file).worker.batch_max == 3


@pytest.mark.parametrize("text", ["a=h:1,b=[::1]:2", " a=h:1 , b=[::1]:2 "])
def test_members_as_text(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERCURRENT_ROUTER__WORKERS", text)
    assert [str(member) for member in load().router.workers] == ["a=h:1", "b=[::1]:2"]


@pytest.mark.parametrize("service", ["workers", "prod/workers", "0-prod/evercurrent-worker"])
def test_a_service_names_the_workers(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERCURRENT_ROUTER__KUBERNETES_SERVICE", service)
    assert load().router == RouterSettings(kubernetes_service=service)


def test_settings_are_values() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        WorkerSettings().batch_max = 2


Flags = Mapping[str, Mapping[str, object]]


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ({"worker": {"batch_max": 0}}, "--batch-max: .*greater than 0"),
        ({"worker": {"name": "a/b"}}, "--name: "),
        ({"worker": {"model": ""}}, "--model: "),
        ({"worker": {"batch_max": 9, "link_in_flight_max": 8}}, r"batch_max \(9\) is above link_in_flight_max \(8\)"),
        (
            {"router": {"in_flight_session_max": 9, "in_flight_exchange_max": 8}},
            "session_max .* in_flight_exchange_max",
        ),
        ({"router": {"in_flight_session_max": 9, "in_flight_link_max": 8}}, "session_max .* above in_flight_link_max"),
        ({"router": {"frame_events_max": 70_000}}, "frame_events_max .* above in_flight_exchange_max"),
        ({"router": {"frame_bytes_max": "1KiB"}}, "observation_bytes_max .* above frame_bytes_max"),
        ({"router": {"workers": "a=h:1,a=h:2"}}, "router: two workers have the name a"),
        ({"router": {"workers": "a=h:1,b=h:1"}}, "router: two workers have the address h:1"),
        ({"router": {"workers": "h:1"}}, '--workers: "h:1" is not name=host:port'),
        ({"router": {"workers": "a=h:0"}}, "--workers: a=h:0 has no port"),
        (
            {"router": {"workers": "a=h:1", "kubernetes_service": "workers"}},
            "router: workers and kubernetes_service are both set",
        ),
        ({"router": {"kubernetes_service": "a/b/c"}}, '--kubernetes-service: "a/b/c" is not a name or namespace/name'),
        ({"router": {"kubernetes_service": "Workers"}}, "--kubernetes-service: "),
        ({"router": {"kubernetes_service": "w", "kubernetes_port_name": ""}}, "--kubernetes-port-name: "),
        ({"router": {"kubernetes_port_name": "link"}}, "kubernetes_port_name is set without kubernetes_service"),
        ({"router": {"kubernetes_kubeconfig": "k"}}, "kubernetes_kubeconfig is set without kubernetes_service"),
        ({"router": {"kubernetes_context": "c"}}, "kubernetes_context is set without kubernetes_service"),
        ({"router": {"address": "127.0.0.1:65536"}}, '--address: "127.0.0.1:65536" is not host:port'),
        ({"router": {"address": ":80"}}, '--address: ":80" is not host:port'),
    ],
)
def test_a_wrong_flag_is_named(flags: Flags, text: str) -> None:
    with pytest.raises(SettingsError, match=text):
        load(flags)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("EVERCURRENT_WORKER__BATCHMAX", "1"),
        ("EVERCURRENT_WORKER", "{}"),
        ("EVERCURRENT_WORKERS__BATCH_MAX", "1"),
        ("EVERCURRENT_LOG", "1"),
        ("EVERCURRENT_CONFIG__WORKER", "1"),
        ("EVERCURRENT_WORKER__BATCH_MAX", "many"),
        ("EVERCURRENT_ROUTER__ADDRESS", "nowhere"),
    ],
)
def test_a_wrong_variable_is_named(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=f"^{variable}: "):
        load()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[worker]\nresidents_maks = 1", "worker.residents_maks: not a setting"),
        ("[rooter]\naddress = 1", "rooter: not a setting"),
        ("config = 'x.toml'", "config: not a setting"),
        ("[worker]\nbatch_max = 'many'", "worker.batch_max: "),
        ("worker = 1", "worker: "),
        ("[worker", "cannot be read"),
    ],
)
def test_a_wrong_key_is_named_with_its_file(text: str, named: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(SettingsError) as raised:
        load(config=path)
    assert str(path) in str(raised.value)
    assert named in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"absent\.toml cannot be read"):
        load(config=tmp_path / "absent.toml")
