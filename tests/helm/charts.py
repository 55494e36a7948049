"""Renders the chart with the real helm, and finds things in what comes out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, cast

import yaml

from tests.helm.cases import Values

ROOT = Path(__file__).resolve().parent.parent.parent
CHART = ROOT / "helm" / "evercurrent"
HELM = Path(sys.executable).parent / "helm"
RELEASE, NAMESPACE = "here", "learning"
FULLNAME = "here-evercurrent"

Manifest = dict[str, Any]


def helm(*arguments: str, values: Values | None = None) -> subprocess.CompletedProcess[str]:
    """Runs helm, which keeps nothing."""
    with tempfile.TemporaryDirectory() as folder:
        homes = {f"HELM_{name}_HOME": folder for name in ("CACHE", "CONFIG", "DATA")}
        given = [] if values is None else ["--values", "-"]
        return subprocess.run(
            [HELM, *arguments, *given],
            input=json.dumps(values),
            capture_output=True,
            text=True,
            timeout=60,
            env=os.environ | homes,
            check=False,
        )


def template(values: Values) -> subprocess.CompletedProcess[str]:
    return helm("template", RELEASE, str(CHART), "--namespace", NAMESPACE, values=values)


def render(values: Values) -> list[Manifest]:
    """What the chart makes of values. Not to be changed: it is made once."""
    return _render(json.dumps(values, sort_keys=True))


@cache
def _render(values: str) -> list[Manifest]:
    done = template(json.loads(values))
    assert done.returncode == 0, done.stderr
    return [found for found in yaml.safe_load_all(done.stdout) if found]


def refusal(values: Values) -> str:
    """Why the chart does not render."""
    done = template(values)
    assert done.returncode != 0, "it renders"
    return done.stderr


def all_of(manifests: list[Manifest], kind: str) -> dict[str, Manifest]:
    """Manifests of one kind, by their names without the release's."""
    return {
        found["metadata"]["name"].removeprefix(FULLNAME).removeprefix("-"): found
        for found in manifests
        if found["kind"] == kind
    }


def pod_templates(manifests: list[Manifest]) -> dict[str, Manifest]:
    """The pods of each role, and that of `helm test`."""
    pods = {
        "router": all_of(manifests, "Deployment")["router"]["spec"]["template"],
        "worker": all_of(manifests, "StatefulSet")["worker"]["spec"]["template"],
    }
    return pods | all_of(manifests, "Pod")


def container(pod: Manifest) -> Manifest:
    (found,) = pod["spec"]["containers"]
    return cast(Manifest, found)


def variables(pod: Manifest) -> dict[str, str]:
    """A container's environment, in a pod with this name and address."""
    fields = {"metadata.name": f"{FULLNAME}-pod-0", "status.podIP": "10.1.2.3"}
    found: dict[str, str] = {}
    for variable in container(pod).get("env", []):
        source = variable.get("valueFrom", {})
        if "secretKeyRef" in source:
            found[variable["name"]] = "secret"
            continue
        text = str(fields[source["fieldRef"]["fieldPath"]] if source else variable["value"])
        for name, value in found.items():
            text = text.replace(f"$({name})", value)
        found[variable["name"]] = text
    return found


def config_file(manifests: list[Manifest], role: str) -> str:
    return str(all_of(manifests, "ConfigMap")[role]["data"]["evercurrent.toml"])


def leaves(values: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Each value and its path. Lists, and mappings with nothing in them, are values."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def default_values() -> dict[str, Any]:
    return cast(dict[str, Any], yaml.safe_load((CHART / "values.yaml").read_text()))
