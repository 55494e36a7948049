"""The chart, rendered by the real helm: every case is valid Kubernetes, safe, and what the program expects."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import kubernetes_validate
import pytest
import yaml
from kubernetes_validate import utils as validation

from evercurrent.settings import NAME_PATTERN, RouterSettings, Settings, SettingsError, WorkerSettings, load_settings
from persistence.open import parse_url
from router.kubernetes import KubernetesSource, Target
from router.membership import Listing
from scripts.chart_schema import ROLES as SETTINGS
from scripts.chart_schema import SET_BY_THE_CHART
from tests.helm.cases import CASES, EMBEDDED, OPEN, ROLES, WRONG, Values, merged, of
from tests.helm.charts import (
    CHART,
    FULLNAME,
    NAMESPACE,
    RELEASE,
    ROOT,
    Manifest,
    all_of,
    config_file,
    container,
    default_values,
    helm,
    leaves,
    pod_templates,
    refusal,
    render,
    variables,
)
from tests.router.api_server import PATH, SERVICE, running_api, write_kubeconfig

VERSIONS = ("1.28", "1.37")
"""The oldest and the newest Kubernetes that the validator knows and the chart is for."""

CUSTOM = "monitoring.coreos.com/v1"
STOP_BESIDE_S = {"router": 1, "worker": 4}
"""What a stop may take beside its settings: the last answers, the store's closing, the server's grace."""

KUBERNETES_OWN = {"resources", "behavior"}
"""Values with defaults that go into manifests as they are: Kubernetes checks them."""

each_case = pytest.mark.parametrize("values", CASES.values(), ids=CASES.keys())
each_role = pytest.mark.parametrize("role", ROLES)


@pytest.fixture(scope="module", autouse=True)
def _schemas_are_read_once() -> Iterator[None]:
    """A megabyte for each manifest otherwise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validation, "schema_contents", cache(validation.schema_contents))
        yield


@pytest.mark.parametrize("path", sorted((CHART / "ci").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_examples_are_free_of_lint_and_render(path: Path) -> None:
    linted = helm("lint", "--strict", str(CHART), "--values", str(path))
    assert linted.returncode == 0, linted.stdout
    assert "[WARNING]" not in linted.stdout
    assert render(yaml.safe_load(path.read_text()))


@each_case
@pytest.mark.parametrize("version", VERSIONS)
def test_every_manifest_is_what_kubernetes_knows(values: Values, version: str) -> None:
    for manifest in render(values):
        if manifest["apiVersion"] == CUSTOM:
            continue
        kubernetes_validate.validate(manifest, version, strict=True)


@each_case
def test_names_are_there_once_and_in_their_namespace(values: Values) -> None:
    manifests = render(values)
    names = [(manifest["kind"], manifest["metadata"]["name"]) for manifest in manifests]
    assert len(set(names)) == len(names)
    assert {manifest["metadata"]["namespace"] for manifest in manifests} == {NAMESPACE}


@each_case
def test_no_pod_is_more_than_restricted(values: Values) -> None:
    """Pod Security Standards, "restricted", and beyond it a root that cannot be written."""
    for pod in pod_templates(render(values)).values():
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"].get("runAsUser") != 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not spec.keys() & {"hostNetwork", "hostPID", "hostIPC", "hostUsers"}
        assert spec["enableServiceLinks"] is False
        kinds = {next(iter(volume.keys() - {"name"})) for volume in spec.get("volumes", [])}
        assert kinds <= {"configMap", "emptyDir", "secret", "projected", "persistentVolumeClaim"}
        own = container(pod)
        assert own["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert not any("hostPort" in port for port in own.get("ports", []))


@each_case
def test_every_mount_has_its_volume_and_what_is_written_has_one(values: Values) -> None:
    manifests = render(values)
    claimed = all_of(manifests, "StatefulSet")["worker"]["spec"].get("volumeClaimTemplates", [])
    for role, pod in pod_templates(manifests).items():
        volumes = {volume["name"] for volume in pod["spec"].get("volumes", [])}
        volumes |= {claim["metadata"]["name"] for claim in claimed} if role == "worker" else set()
        mounts = {mount["mountPath"]: mount for mount in container(pod).get("volumeMounts", [])}
        assert {mount["name"] for mount in mounts.values()} == volumes
        if role in ROLES:
            assert not mounts["/tmp"].get("readOnly", False)


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """As Kubernetes matches labels."""
    assert set(selector) <= {"matchLabels", "matchExpressions"}
    expressions = selector.get("matchExpressions", [])
    assert all(expression["operator"] == "In" for expression in expressions)
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items()) and all(
        labels.get(expression["key"]) in expression["values"] for expression in expressions
    )


@each_case
def test_selectors_select_their_own_pods_and_no_others(values: Values) -> None:
    manifests = render(values)
    pods = {role: pod["metadata"]["labels"] for role, pod in pod_templates(manifests).items()}
    found: list[tuple[str, dict[str, Any]]] = []
    for kind in ("Deployment", "StatefulSet", "PodDisruptionBudget"):
        found += [(role, manifest["spec"]["selector"]) for role, manifest in all_of(manifests, kind).items()]
    for name, manifest in all_of(manifests, "Service").items():
        found.append((name.removesuffix("-metrics"), {"matchLabels": manifest["spec"]["selector"]}))
    for name, manifest in all_of(manifests, "NetworkPolicy").items():
        found.append((name, manifest["spec"]["podSelector"]))
    for role in ROLES:
        constraints = pod_templates(manifests)[role]["spec"].get("topologySpreadConstraints", [])
        found += [(role, one["labelSelector"]) for one in constraints if one["topologyKey"] != "rack"]
    assert {role for role, _ in found} == set(ROLES)
    for role, selector in found:
        assert [pod for pod, labels in pods.items() if selects(selector, labels)] == [role]
    for monitor in all_of(manifests, "PodMonitor").values():
        assert {pod for pod, labels in pods.items() if selects(monitor["spec"]["selector"], labels)} == set(ROLES)
    for monitor in all_of(manifests, "ServiceMonitor").values():
        services = all_of(manifests, "Service").items()
        chosen = {
            name: manifest["spec"]["ports"]
            for name, manifest in services
            if selects(monitor["spec"]["selector"], manifest["metadata"]["labels"])
        }
        assert set(chosen) == {"router-metrics", "worker"}
        assert all("metrics" in {port["name"] for port in ports} for ports in chosen.values())


@each_case
def test_ports_that_are_named_are_there(values: Values) -> None:
    manifests = render(values)
    named = {
        role: {port["name"] for port in container(pod).get("ports", [])}
        for role, pod in pod_templates(manifests).items()
    }
    for name, manifest in all_of(manifests, "Service").items():
        wanted = {port["targetPort"] for port in manifest["spec"]["ports"]}
        assert wanted <= named[name.removesuffix("-metrics")]
    for role, manifest in all_of(manifests, "NetworkPolicy").items():
        wanted = {port["port"] for rule in manifest["spec"]["ingress"] for port in rule["ports"]}
        assert wanted <= named[role]
    for monitor in all_of(manifests, "PodMonitor").values():
        assert {point["port"] for point in monitor["spec"]["podMetricsEndpoints"]} <= named["router"]


def settings_of(manifests: list[Manifest], role: str, folder: Path, patch: pytest.MonkeyPatch) -> Settings:
    """What the program itself makes of a pod's file and environment."""
    file = folder / "evercurrent.toml"
    file.write_text(config_file(manifests, role))
    given = variables(pod_templates(manifests)[role])
    mounted = {mount["mountPath"] for mount in container(pod_templates(manifests)[role])["volumeMounts"]}
    assert str(Path(given["EVERCURRENT_CONFIG"]).parent) in mounted
    for name, value in (given | {"EVERCURRENT_CONFIG": str(file)}).items():
        patch.setenv(name, value)
    return load_settings()


NEEDED: dict[str, dict[str, str]] = {
    "token_jwks": {"token_audience": "us"},
    "token_audience": {"token_jwks": "keys.json"},
    "cluster_identities": {"tls_client_ca": "ca.crt", "tls_certificate": "tls.crt", "tls_key": "tls.key"},
}
"""Settings that another one does not go without."""


@each_case
@each_role
def test_the_program_takes_what_it_is_given(
    values: Values, role: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifests = render(values)
    found = settings_of(manifests, role, tmp_path, monkeypatch)
    settings: RouterSettings | WorkerSettings = found.router if role == "router" else found.worker
    for key, value in values.get("config", {}).get(role, {}).items():
        if value is not None:
            expected = SETTINGS[role](**{key: value, **NEEDED.get(key, {})})
            assert getattr(settings, key) == getattr(expected, key)
    pod = pod_templates(manifests)[role]
    mounted = [mount["mountPath"] for mount in container(pod)["volumeMounts"]]
    files = (settings.tls_certificate, settings.tls_key, settings.tls_ca, settings.tls_client_ca)
    for path in (*files, settings.cluster_token_file):
        assert path is None or str(path.parent) in mounted
    assert settings.insecure == values["security"].get("insecure", False)
    assert (settings.tls_certificate is None) == ("/etc/evercurrent/tls" not in mounted)
    assert (settings.metrics_address is not None) == values.get("metrics", {}).get("enabled", True)
    ports = {port["name"]: port["containerPort"] for port in container(pod)["ports"]}
    assert settings.address.endswith(f":{ports['grpc']}")
    if settings.metrics_address is not None:
        assert settings.metrics_address.endswith(f":{ports['metrics']}")
    if isinstance(settings, RouterSettings):
        assert settings.kubernetes_service == f"{NAMESPACE}/{FULLNAME}-worker"
        names = {port["name"] for port in all_of(manifests, "Service")["worker"]["spec"]["ports"]}
        assert settings.kubernetes_port_name in names
    else:
        parse_url(settings.store)
        host = "[10.1.2.3]" if values.get("network", {}).get("ipv6") else "10.1.2.3"
        assert settings.advertised_address == f"{host}:7601"


@each_role
@pytest.mark.parametrize("case", ["open", "settings", "everything"])
def test_a_pod_may_take_as_long_to_end_as_the_program(
    role: str, case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifests = render(CASES[case])
    found = settings_of(manifests, role, tmp_path, monkeypatch)
    asked_s = found.router.drain_timeout_s
    if role == "worker":
        asked_s = found.worker.drain_timeout_s + found.worker.stop_timeout_s
    pod = pod_templates(manifests)[role]
    sleep_s = int(container(pod).get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", [0, 0])[1])
    beside_s = sleep_s + STOP_BESIDE_S[role]
    assert pod["spec"]["terminationGracePeriodSeconds"] >= asked_s + beside_s + 5
    assert pod["spec"]["terminationGracePeriodSeconds"] <= asked_s + beside_s + 30, "nor is it just large"


@pytest.mark.parametrize(("values", "text"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_fails_with_its_path(values: Values, text: str) -> None:
    said = refusal(values)
    assert re.search(rf"(^|[\s>(]){re.escape(text)}", said), said


def test_what_the_chart_sets_is_not_the_users() -> None:
    assert {key for settings in SETTINGS.values() for key in settings.model_fields} >= SET_BY_THE_CHART
    for path in ("router.name", "router.workers", "worker.address", "worker.insecure", "router.kubernetes_context"):
        assert f"config.{path}: the chart sets it" in refusal(merged(OPEN, of(f"config.{path}", "x")))
    listed = re.search(r"range \$key := list ([^}]*)}}", (CHART / "templates" / "_checks.tpl").read_text())
    assert listed is not None
    assert set(re.findall(r'"(\w+)"', listed[1])) == SET_BY_THE_CHART


@pytest.mark.parametrize("case", ["tls", "identities", "open"])
def test_probes_are_of_the_kubelet_or_a_command_where_there_is_tls(case: str) -> None:
    for role in ROLES:
        own = container(pod_templates(render(CASES[case]))[role])
        for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
            probe = own[kind]
            if case == "open":
                assert probe["grpc"] == {"port": own["ports"][0]["containerPort"]}
                assert "exec" not in probe
                continue
            command = probe["exec"]["command"]
            assert "grpc" not in probe
            assert command[:2] == ["evercurrent", "health"]
            assert f"--address=127.0.0.1:{own['ports'][0]['containerPort']}" in command
            assert ("--tls-key=/etc/evercurrent/tls/tls.key" in command) == (case == "identities")
            name = "one.example" if case == "identities" else f"{FULLNAME}-router.{NAMESPACE}.svc"
            assert f"--tls-name={name}" in command
            (timeout,) = (int(word.removeprefix("--timeout=")) for word in command if word.startswith("--timeout="))
            assert timeout < probe["timeoutSeconds"]


def test_the_probes_command_is_one_that_there_is() -> None:
    """It is taken apart by the program itself, which then finds no file to read."""
    own = container(pod_templates(render(CASES["identities"]))["worker"])
    command = own["readinessProbe"]["exec"]["command"]
    ended = subprocess.run(
        [sys.executable, "-P", "-m", "evercurrent.cli", *command[1:]], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, "ca.crt" in ended.stderr) == (2, True), ended.stderr


def test_the_arguments_are_ones_that_there_are() -> None:
    for role in ROLES:
        own = container(pod_templates(render(OPEN))[role])
        assert "command" not in own, "the image's entry point stands"
        command = [sys.executable, "-P", "-m", "evercurrent.cli", *own["args"], "--help"]
        assert subprocess.run(command, capture_output=True, check=False).returncode == 0


async def _follow(listings: AsyncGenerator[Listing, None]) -> None:
    async for _ in listings:
        pass


async def test_the_role_allows_what_a_router_asks_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    async with running_api() as api:
        kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", api.url)
        source = KubernetesSource(Target(SERVICE, kubeconfig=kubeconfig), Random(1))
        async with aclosing(source.listings()) as listings, asyncio.TaskGroup() as tasks:
            api.put("one", {"addressType": "IPv4", "ports": [], "endpoints": []})
            await anext(listings)
            following = tasks.create_task(_follow(listings))
            await api.watched()
            following.cancel()
        asked = {"watch" if request.is_watch else "list" for request in api.seen}
    group, _, resource = PATH.removeprefix("/apis/").replace("/v1/", " ").replace("/", " ").rpartition(" ")
    assert group.partition(" ")[0] == "discovery.k8s.io"
    manifests = render(OPEN)
    role = all_of(manifests, "Role")["router"]
    (rule,) = role["rules"]
    assert asked <= set(rule.pop("verbs"))
    assert rule == {"apiGroups": ["discovery.k8s.io"], "resources": [resource]}
    binding = all_of(manifests, "RoleBinding")["router"]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    (subject,) = binding["subjects"]
    pods = pod_templates(manifests)
    assert subject["name"] == pods["router"]["spec"]["serviceAccountName"]
    assert subject["name"] != pods["worker"]["spec"]["serviceAccountName"]
    assert pods["router"]["spec"]["automountServiceAccountToken"] is True
    assert pods["worker"]["spec"]["automountServiceAccountToken"] is False


def test_accounts_carry_cloud_identities() -> None:
    manifests = render(CASES["everything"])
    for role, account in all_of(manifests, "ServiceAccount").items():
        assert "eks.amazonaws.com/role-arn" in account["metadata"]["annotations"]
        assert pod_templates(manifests)[role]["metadata"]["labels"]["azure.workload.identity/use"] == "true"
    theirs = render(CASES["little"])
    assert all_of(theirs, "ServiceAccount") == {}
    assert pod_templates(theirs)["router"]["spec"]["serviceAccountName"] == "theirs"


def test_workers_are_reached_by_routers_and_workers_alone() -> None:
    policies = all_of(render(CASES["everything"]), "NetworkPolicy")
    calls, scrapes = policies["worker"]["spec"]["ingress"]
    components = {peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] for peer in calls["from"]}
    assert components == set(ROLES)
    assert all(set(peer) == {"podSelector"} for peer in calls["from"])
    assert [port["port"] for port in calls["ports"]] == ["grpc"]
    assert scrapes["from"] == [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}]
    assert [port["port"] for port in scrapes["ports"]] == ["metrics"]
    clients, _ = policies["router"]["spec"]["ingress"]
    assert {"namespaceSelector": {"matchLabels": {"name": "shop"}}} in clients["from"]
    tester = pod_templates(render(CASES["everything"]))["test"]["metadata"]["labels"]
    assert any(selects(peer["podSelector"], tester) for peer in clients["from"] if "podSelector" in peer)


def test_who_may_call_is_narrowed_only_where_it_is_said() -> None:
    policies = all_of(render(OPEN), "NetworkPolicy")
    (clients,) = policies["router"]["spec"]["ingress"]
    assert "from" not in clients
    (calls,) = policies["worker"]["spec"]["ingress"]
    assert calls["from"]
    assert all_of(render(CASES["little"]), "NetworkPolicy") == {}


def test_the_autoscaler_alone_says_how_many_routers_there_are() -> None:
    scaled, fixed = render(OPEN), render(CASES["little"])
    (autoscaler,) = all_of(scaled, "HorizontalPodAutoscaler").values()
    deployment = all_of(scaled, "Deployment")["router"]
    assert autoscaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert autoscaler["spec"]["maxReplicas"] >= autoscaler["spec"]["minReplicas"] >= 2
    assert "replicas" not in deployment["spec"]
    assert all_of(fixed, "HorizontalPodAutoscaler") == {}
    assert all_of(fixed, "Deployment")["router"]["spec"]["replicas"] == 2


def test_workers_leave_one_at_a_time() -> None:
    manifests = render(OPEN)
    budgets = all_of(manifests, "PodDisruptionBudget")
    assert budgets["worker"]["spec"]["maxUnavailable"] == 1
    stateful = all_of(manifests, "StatefulSet")["worker"]["spec"]
    assert stateful["updateStrategy"] == {"type": "RollingUpdate"}
    assert stateful["minReadySeconds"] > 0
    assert all_of(render(CASES["little"]), "PodDisruptionBudget") == {}


def test_the_workers_service_is_headless_and_says_who_is_ready() -> None:
    manifests = render(OPEN)
    service = all_of(manifests, "Service")["worker"]["spec"]
    assert (service["clusterIP"], service["publishNotReadyAddresses"]) == ("None", False)
    assert all_of(manifests, "StatefulSet")["worker"]["spec"]["serviceName"] == f"{FULLNAME}-worker"


def test_credentials_are_the_workers_alone() -> None:
    pods = pod_templates(render(CASES["services are monitored plainly"]))
    assert container(pods["worker"])["envFrom"] == [{"secretRef": {"name": "credentials"}}]
    assert "envFrom" not in container(pods["router"])
    both = container(pod_templates(render(CASES["everything"]))["worker"])["envFrom"]
    assert both == [{"secretRef": {"name": "credentials"}}, {"configMapRef": {"name": "more"}}]


def test_another_setting_restarts_only_the_pods_that_have_it() -> None:
    def sums(values: Values) -> dict[str, str]:
        pods = pod_templates(render(values))
        return {role: pods[role]["metadata"]["annotations"]["checksum/config"] for role in ROLES}

    before, after = sums(OPEN), sums(merged(OPEN, of("config.worker.residents_max", 7)))
    assert before["router"] == after["router"]
    assert before["worker"] != after["worker"]


@pytest.mark.parametrize(
    ("case", "volumes", "claims"),
    [("embedded", 0, 1), ("embedded in passing", 1, 0), ("open", 0, 0)],
)
def test_only_an_embedded_store_has_a_volume(case: str, volumes: int, claims: int) -> None:
    manifests = render(CASES[case])
    stateful = all_of(manifests, "StatefulSet")["worker"]["spec"]
    found = [volume for volume in stateful["template"]["spec"]["volumes"] if volume["name"] == "data"]
    assert (len(found), len(stateful.get("volumeClaimTemplates", []))) == (volumes, claims)
    mounts = {mount["mountPath"] for mount in container(pod_templates(manifests)["worker"])["volumeMounts"]}
    assert ("/data" in mounts) == bool(volumes + claims)


def test_a_release_with_a_long_name_has_names_that_the_program_takes() -> None:
    name = "a-release-with-a-name-that-is-as-long-as-helm-lets-it"
    done = helm("template", name, str(CHART), values=OPEN)
    assert done.returncode == 0, done.stderr
    manifests = [found for found in yaml.safe_load_all(done.stdout) if found]
    for manifest in manifests:
        assert len(manifest["metadata"]["name"]) <= 63
        if manifest["kind"] == "Deployment":
            assert re.match(NAME_PATTERN, f"{manifest['metadata']['name']}-0123456789-abcde")
        if manifest["kind"] == "StatefulSet":
            assert len(f"{manifest['metadata']['name']}-0123456789") <= 63, "the label controller-revision-hash"


@pytest.mark.parametrize(("release", "name"), [("evercurrent", "evercurrent"), ("here", "here-evercurrent")])
def test_a_release_that_is_named_like_the_chart_is_named_once(release: str, name: str) -> None:
    done = helm("template", release, str(CHART), "--show-only", "templates/router-deployment.yaml", values=OPEN)
    assert yaml.safe_load(done.stdout)["metadata"]["name"] == f"{name}-router"


def test_the_image_is_named_by_digest_tag_or_the_charts_version() -> None:
    images = [
        {container(pod)["image"] for pod in pod_templates(render(CASES[case])).values()}
        for case in ("everything", "little", "open")
    ]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert images == [
        {f"registry.example/evercurrent@sha256:{'0a' * 32}"},
        {"evercurrent:0.1.0-rc1"},
        {f"evercurrent:{chart['appVersion']}"},
    ]


def test_the_charts_version_is_the_programs() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert re.search(rf'^version = "{re.escape(chart["appVersion"])}"$', (ROOT / "pyproject.toml").read_text(), re.M)


def test_the_defaults_that_the_chart_repeats_are_the_programs() -> None:
    helpers = (CHART / "templates" / "_helpers.tpl").read_text()
    found = re.findall(r"\(default (\d+) \$config\.(\w+)\)", helpers)
    router, worker = RouterSettings(), WorkerSettings()
    assert found == [
        (str(router.drain_timeout_s), "drain_timeout_s"),
        (str(worker.drain_timeout_s), "drain_timeout_s"),
        (str(worker.stop_timeout_s), "stop_timeout_s"),
    ]
    assert router.address.endswith(":7600")


def test_the_values_are_explained_each_with_its_default() -> None:
    """README's tables and values.yaml agree: no value more, none less, no other default."""
    rows = re.findall(r"^\| `([\w.]+)` \| (.*?) \| ", (CHART / "README.md").read_text(), re.MULTILINE)
    assert len(rows) == len(dict(rows))
    defaults = {path: shown(value) for path, value in leaves(default_values())}
    assert dict(rows) == defaults


def shown(value: object) -> str:
    """A default as README writes it."""
    if isinstance(value, list) and value:
        return "see values.yaml"
    return f"`{json.dumps(value) if not isinstance(value, str) or not value else value}`"


def test_the_schema_knows_every_value_and_what_the_settings_say() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())

    def check(part: dict[str, Any], values: dict[str, Any], path: str) -> None:
        if "$ref" in part:
            part = schema["definitions"][part["$ref"].rpartition("/")[2]]
        if "properties" not in part:
            assert path.removesuffix(".").rpartition(".")[2] in KUBERNETES_OWN
            return
        assert part["additionalProperties"] is False, path
        for key, value in values.items():
            assert key in part["properties"], f"{path}{key}"
            if isinstance(value, dict) and value:
                check(part["properties"][key], value, f"{path}{key}.")

    check(schema, default_values(), "")
    ended = subprocess.run([sys.executable, ROOT / "scripts" / "chart_schema.py", "--check"], check=False)
    assert ended.returncode == 0


@pytest.mark.parametrize("role", SETTINGS)
def test_the_schema_takes_every_setting_as_the_program_does(role: str, tmp_path: Path) -> None:
    """Each default that there is, and bytes as text."""
    config: dict[str, Any] = {}
    for key, value in SETTINGS[role]().model_dump(mode="json").items():
        if key in SET_BY_THE_CHART:
            continue
        config[key] = "1MiB" if "_bytes_" in key else value
    config["identity_events_per_s_max" if role == "router" else "journal_interval_ms"] = 100
    config |= {"store": OPEN["config"]["worker"]["store"]} if role == "worker" else {}
    manifests = render(merged(OPEN, of(f"config.{role}", config)))
    file = tmp_path / "evercurrent.toml"
    file.write_text(config_file(manifests, role))
    settings: RouterSettings | WorkerSettings = getattr(load_settings_of(role, file), role)
    for key in (key for key in config if "_bytes_" in key):
        assert getattr(settings, key) == 1 << 20


def load_settings_of(role: str, file: Path) -> Settings:
    flags: dict[str, dict[str, object]] = {"worker": {"advertised_address": "10.0.0.1:7601"}}
    return load_settings(flags if role == "worker" else None, file)


def test_a_setting_that_the_program_would_refuse_is_seen_by_this_test(tmp_path: Path) -> None:
    file = tmp_path / "evercurrent.toml"
    file.write_text(config_file(render(OPEN), "router") + "nothing = 1\n")
    with pytest.raises(SettingsError, match="nothing"):
        load_settings(None, file)


def test_alerts_are_of_the_metrics_that_there_are_and_explained() -> None:
    (rule,) = all_of(render(CASES["everything"]), "PrometheusRule").values()
    (group,) = rule["spec"]["groups"]
    names = {
        "evercurrent_update_latency_seconds",
        "evercurrent_journal_lag_seconds",
        "evercurrent_updates_at_risk",
        "evercurrent_residents",
        "evercurrent_residents_max",
        "evercurrent_replay_bytes",
        "evercurrent_rejected_total",
        "evercurrent_moves_total",
        "evercurrent_claims_total",
        "evercurrent_seals_total",
    }
    used = {
        name.removesuffix("_bucket")
        for alert in group["rules"]
        for name in re.findall(r"evercurrent_\w+", alert["expr"])
    }
    assert used == names
    operations = (ROOT / "docs" / "operations.md").read_text()
    for alert in group["rules"]:
        assert f"### {alert['alert']}\n" in operations
        assert f'namespace="{NAMESPACE}"' in alert["expr"]
        assert alert["expr"].count("(") == alert["expr"].count(")")
        assert alert["labels"]["severity"] in {"warning", "critical"}
    for document in (operations, (ROOT / "docs" / "kubernetes.md").read_text(), (CHART / "README.md").read_text()):
        assert set(re.findall(r"evercurrent_[a-z_]+", document)) <= names


def test_the_notes_say_where_to_connect_and_what_is_open(tmp_path: Path) -> None:
    chart = tmp_path / "chart"
    shutil.copytree(CHART, chart)
    text = (chart / "templates" / "NOTES.txt").read_text()
    # `helm template` leaves notes out, and `helm install` wants a cluster: they are made a manifest here.
    manifest = '{{ define "notes" }}' + text + '{{ end }}kind: Notes\nnotes: {{ include "notes" . | quote }}\n'
    (chart / "templates" / "notes.yaml").write_text(manifest)

    def notes(values: Values) -> str:
        shown = ("--show-only", "templates/notes.yaml")
        done = helm("template", RELEASE, str(chart), "--namespace", NAMESPACE, *shown, values=values)
        assert done.returncode == 0, done.stderr
        return str(yaml.safe_load(done.stdout)["notes"])

    open_, closed, embedded = notes(OPEN), notes(CASES["everything"]), notes(EMBEDDED)
    for said in (open_, closed, embedded):
        assert f"{FULLNAME}-router.{NAMESPACE}.svc" in said
    assert "security.insecure is set" in open_
    assert "security.insecure is set" not in closed
    assert "by TLS" in closed
    assert "embedded.enabled is set" in embedded
    assert "with its pod" in notes(CASES["embedded in passing"])
